"""From what was seen to what is estimated: gaps and partial readings ruled on, noise smoothed on
request; pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from operator import le
from types import MappingProxyType

from loop.replacing import replace, replacer
from loop.types import Load, ServerView, Snapshot, Views
from twin.magnitudes import RATE_RPM_MAX, TOKENS_MAX

Estimates = Mapping[str, Load]

NONE, LARGEST = (0.0, 0.0, 0.0), (RATE_RPM_MAX, TOKENS_MAX, TOKENS_MAX)
NOTHING: Estimates = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorSettings:
    """smoothing is the weight of the newest reading in an exponential mean, in (0, 1]; 1 estimates
    it as it is.
    """

    smoothing: float = 1.0

    def __post_init__(self) -> None:
        assert 0 < self.smoothing <= 1, f"smoothing must be in (0, 1], got {self.smoothing}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the collector makes of a snapshot: estimates go into the next reading, warnings into the
    record.
    """

    snapshot: Snapshot
    estimates: Estimates = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def collect(
    seen: Snapshot,
    estimates: Estimates,
    *,
    settings: CollectorSettings,
    expected: Mapping[str, Load] = NOTHING,
) -> Reading:
    """Return *seen* with the load of every server as it is to be estimated; None if nothing is
    known: hold it.

    The rules, in order: a figure that is no number, or negative, makes the load unknown. The sum
    over some of the ready pods is scaled up to all of them; over none of them it is unknown, never
    zero. Tokens that nobody counted yet (0) are those estimated before, *estimates* being those of
    the reading before, or else those *expected* of the server; without either a rate above 0 is
    unknown.
    """
    views: dict[str, ServerView] = {}
    estimated: dict[str, Load] = {}
    warnings: list[str] = []
    as_seen = True
    for name, view in seen.servers.items():
        before = estimates.get(name)
        again = view.load is before
        if before is not None and again and _is_whole(view, smoothing=settings.smoothing):
            # The same reading as in the cycle before, which was taken as it is.
            views[name], estimated[name] = view, before
            continue
        load, warning = _estimate(
            view, before=before, expected=expected.get(name), smoothing=settings.smoothing
        )
        source = _source(view, load, settings)
        same = load == view.load and source == view.load_source
        if not same and load == before:
            load = before  # what is not new is the same object from cycle to cycle
        views[name] = view if same else _with_estimate(view, load, source)
        as_seen = as_seen and same
        # A gap in the readings does not make forget what was known before it.
        kept = load or before
        if kept is not None:
            estimated[name] = kept
        if warning:
            warnings.append(f"{name}: {warning}")
    return Reading(
        snapshot=seen if as_seen else replace(seen, servers=Views(views, since=object())),
        estimates=estimated,
        warnings=tuple(warnings),
    )


def collect_again(seen: Snapshot, before: Snapshot, last: Reading) -> Reading:
    """Return what is made of *seen*, whose servers are said to be those of *before* some time
    later, by its *last* reading: what each was estimated to be, it still is. Only without
    smoothing, which moves an estimate on, and where nothing was warned of.
    """
    then, made = before.servers, last.snapshot.servers
    if made is then:
        return replace(last, snapshot=seen)
    assert isinstance(made, Views), "a reading that is not as seen makes them"
    views = {
        name: view if made[name] is then[name] else _estimated_as(view, made[name])
        for name, view in seen.servers.items()
    }
    return replace(last, snapshot=replace(seen, servers=Views(views, since=made.since)))


def _is_whole(view: ServerView, *, smoothing: float) -> bool:
    """Tell whether nothing is to be made of a load that is known, as in most cycles: no smoothing,
    nobody to be scaled up to, no tokens to be carried over.
    """
    load = view.load
    return (
        load is not None
        and smoothing == 1.0
        and _scale(view) == 1.0
        and load.in_tokens > 0
        and load.out_tokens > 0
    )


def _estimate(
    view: ServerView, *, before: Load | None, expected: Load | None, smoothing: float
) -> tuple[Load | None, str]:
    load = view.load
    if load is None:
        return None, ""
    figures = (load.rate_rpm, load.in_tokens, load.out_tokens)
    if not all(map(le, NONE, figures)) or not all(map(le, figures, LARGEST)):
        return None, f"load is not known: expected figures from 0 to {LARGEST[0]:g}, got {figures}"
    scale = _scale(view)
    if scale is None:
        return None, f"load is not known: none of {view.ready} ready pods reports"
    if _is_whole(view, smoothing=smoothing):
        return load, ""
    known = before or Load(rate_rpm=load.rate_rpm * scale, in_tokens=0.0, out_tokens=0.0)
    hoped = expected or known
    estimated = Load(
        rate_rpm=_mixed(load.rate_rpm * scale, known.rate_rpm, weight=smoothing),
        in_tokens=_tokens(load.in_tokens, known.in_tokens, weight=smoothing) or hoped.in_tokens,
        out_tokens=_tokens(load.out_tokens, known.out_tokens, weight=smoothing) or hoped.out_tokens,
    )
    # Labels may tell of answers only; a prompt that somebody measured has tokens.
    uncounted = estimated.in_tokens == 0 and view.load_source not in ("", "labels")
    if estimated.rate_rpm > 0 and (uncounted or estimated.out_tokens == 0):
        return (
            None,
            f"load is not known: {estimated.rate_rpm:g} rpm of requests whose tokens nobody "
            "counted "
            "yet",
        )
    return estimated, ""


_estimated = replacer(ServerView, "load", "load_source", "latest")


def _estimated_as(view: ServerView, last: ServerView) -> ServerView:
    """Return *view* with what was estimated of its *last* one."""
    return _estimated(view, last.load, last.load_source, last.latest)


def _with_estimate(view: ServerView, load: Load | None, source: str) -> ServerView:
    """Return *view* with the estimated *load*; what came lately is of the measured rate."""
    measured = view.load
    as_it_is = load is not None and measured is not None and load.rate_rpm == measured.rate_rpm
    return _estimated(view, load, source, view.latest if as_it_is else None)


def _source(view: ServerView, load: Load | None, settings: CollectorSettings) -> str:
    """Return where the estimated load comes from: the source, and what was made of its figures."""
    if load is None or view.load is None:
        return ""
    if (load.in_tokens, load.out_tokens) != (view.load.in_tokens, view.load.out_tokens):
        made = "smoothed" if settings.smoothing < 1.0 else "tokens carried over"
    elif load.rate_rpm != view.load.rate_rpm:
        made = "smoothed" if settings.smoothing < 1.0 else "scaled to all ready pods"
    else:
        return view.load_source
    return _made_of(view.load_source, made)


@lru_cache(maxsize=64)  # so that it is the same object from cycle to cycle
def _made_of(source: str, made: str) -> str:
    return f"{source}, {made}" if source else made


def _scale(view: ServerView) -> float | None:
    """Return by how much a sum over the reporting pods falls short of all ready ones; None if
    nothing reports.
    """
    if view.reporting is None or view.reporting >= view.ready:
        return 1.0
    return view.ready / view.reporting if view.reporting > 0 else None


def _tokens(new: float, before: float, *, weight: float) -> float:
    if new == 0 or before == 0:
        return new or before
    return _mixed(new, before, weight=weight)


def _mixed(new: float, before: float, *, weight: float) -> float:
    # Written so that the full weight gives exactly the new figure.
    return weight * new + (1 - weight) * before
