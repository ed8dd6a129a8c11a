"""From what was seen to what is believed: gaps and partial readings ruled on, noise smoothed on request; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from loop.types import Load, ServerView, Snapshot

Beliefs = Mapping[str, Load]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorSettings:
    """smoothing is the weight of the newest reading in an exponential mean, in (0, 1]; 1 believes it as it is."""

    smoothing: float = 1.0

    def __post_init__(self) -> None:
        assert 0 < self.smoothing <= 1, f"smoothing must be in (0, 1], got {self.smoothing}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the collector makes of a snapshot: beliefs go into the next reading, warnings into the record."""

    snapshot: Snapshot
    beliefs: Beliefs = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def collect(seen: Snapshot, beliefs: Beliefs, *, settings: CollectorSettings) -> Reading:
    """Return *seen* with the load of every server as it is to be believed; None where nothing is known: hold it.

    The rules, in order: a figure that is no number, or negative, makes the load unknown. The sum over some of the ready
    pods is scaled up to all of them; over none of them it is unknown, never zero. Requests without token counts (none
    has finished yet) have the mean tokens believed before, or are unknown. beliefs are those of the reading before.
    """
    views: dict[str, ServerView] = {}
    believed: dict[str, Load] = {}
    warnings: list[str] = []
    for name, view in seen.servers.items():
        load, warning = _believe(view, before=beliefs.get(name), smoothing=settings.smoothing)
        views[name] = replace(view, load=load)
        if load is not None:
            believed[name] = load
        elif name in beliefs:
            believed[name] = beliefs[name]
        if warning:
            warnings.append(f"{name}: {warning}")
    return Reading(snapshot=replace(seen, servers=views), beliefs=believed, warnings=tuple(warnings))


def _believe(view: ServerView, *, before: Load | None, smoothing: float) -> tuple[Load | None, str]:
    load = view.load
    if load is None:
        return None, ""
    figures = (load.rate_rpm, load.in_tokens, load.out_tokens)
    if not all(math.isfinite(figure) and figure >= 0 for figure in figures):
        return None, f"load is not known: expected figures >= 0, got {figures}"
    scale = _scale(view)
    if scale is None:
        return None, f"load is not known: none of {view.ready} ready pods reports"
    load = replace(load, rate_rpm=load.rate_rpm * scale)
    if load.out_tokens == 0 and before is not None:
        load = replace(load, in_tokens=before.in_tokens, out_tokens=before.out_tokens)
    if load.rate_rpm > 0 and load.out_tokens == 0:
        return None, f"load is not known: {load.rate_rpm:g} rpm of requests without a token count"
    return _smooth(load, before=before, weight=smoothing), ""


def _scale(view: ServerView) -> float | None:
    """Return by how much a sum over the reporting pods falls short of all ready ones; None where nothing reports."""
    if view.reporting is None or view.reporting >= view.ready:
        return 1.0
    return view.ready / view.reporting if view.reporting > 0 else None


def _smooth(load: Load, *, before: Load | None, weight: float) -> Load:
    if before is None or weight == 1:
        return load
    return Load(
        rate_rpm=before.rate_rpm + weight * (load.rate_rpm - before.rate_rpm),
        in_tokens=before.in_tokens + weight * (load.in_tokens - before.in_tokens),
        out_tokens=before.out_tokens + weight * (load.out_tokens - before.out_tokens),
    )
