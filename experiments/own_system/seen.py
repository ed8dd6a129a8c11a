"""What was measured of servers, for the drift: from the records of a loop, or from a past that
Prometheus has. Pure.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.dates import date_of
from experiments.own_system.drift import Seen, merged
from experiments.own_system.points import BLOCK_S, WAITING_MAX, steady_blocks
from loop.signals.history import History, Stretch
from loop.types import Load
from twin.datafile import shown
from twin.spec import SpecError

if TYPE_CHECKING:
    from experiments.own_system.cluster import Facts
    from loop.spec import SystemData

Line = Mapping[str, Any]
FIGURE_MAX = 1e9  # more is no figure of a server
# How long a cycle remembers a queue or a pod that came: its figures are means of the last minute,
# over samples that are some seconds old.
SETTLED_S = 75.0
# By how much the rates of minutes may lie around their mean, beside chance, as a part of it.
UNSTEADY_MAX = 0.3


def seen_in_histories(
    histories: Mapping[str, History], *, start_up_s: Mapping[str, float | None]
) -> dict[str, list[Seen]]:
    """Return the steady loads of *histories*; *start_up_s* is what pods took that are there now."""
    found: dict[str, list[Seen]] = {}
    for name, history in histories.items():
        found[name] = [
            Seen(t_s=history.start_s + history.step_s * where.start, stretch=stretch)
            for where, stretch in steady_blocks(history)
            if is_steady(history.arrived[where].tolist())
        ]
        if found[name]:
            last = found[name][-1]
            found[name][-1] = Seen(
                t_s=last.t_s, stretch=last.stretch, start_up_s=start_up_s.get(name)
            )
    return found


def with_engines(
    seen: Mapping[str, Sequence[Seen]], servers: Sequence[Facts], system: SystemData
) -> dict[str, list[Seen]]:
    """Return what was *seen* with the engine that the cluster says each of its *servers* has: a
    loop may have moved it since the data of *system* were written. What these do not know under
    the names of the cluster stays as they have it.
    """
    engines = {server.name: server for server in servers}
    found: dict[str, list[Seen]] = {}
    for name, every in seen.items():
        engine, known = engines[name], system.servers.get(name)
        model = known.model if known else engine.model
        there = (model, engine.accelerator) in system.perf
        found[name] = [
            replace(
                one,
                model=model,
                accelerator=engine.accelerator if there or not known else None,
                max_batch=None if known else engine.max_batch,
            )
            for one in every
        ]
    return found


def seen_in_records(
    lines: Iterable[str], *, source: str, speed: float = 1.0
) -> dict[str, list[Seen]]:
    """Return the steady loads that the *lines* of a file of records tell of, ours or the Go loop's.
    A cluster that ran at *speed* had so many seconds in one of its dates: what is steady is asked
    of its own time.
    Raise SpecError for a line that is none; a last one that has no end yet is left out.
    """
    rows: dict[tuple[str, int, str, int, int], list[Seen]] = defaultdict(list)
    settled = _Settled()
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            if number > 1 and not text.endswith("\n"):
                break  # a loop is writing it, or was stopped while it did
            line = None
        if not isinstance(line, Mapping) or not isinstance(line.get("servers") or [], list):
            raise SpecError(
                f"{source}: line {number}: expected a record of a cycle, found {text[:60]!r}"
            )
        t_s = _time_s(line, where=f"{source}: line {number}")
        servers = line.get("servers") or ()
        # A simulated run has one time only. Loads of the others are told in the cluster's already.
        of_dates = 1.0 if line.get("backend") == "sim" else speed
        for row in servers:
            one = _seen(row, t_s, speed=of_dates) if isinstance(row, Mapping) else None
            name = str(row.get("name")) if isinstance(row, Mapping) else ""
            if name and settled.after(name, t_s, one, speed=of_dates) and one:
                key = (
                    name,
                    int(t_s * of_dates // BLOCK_S),
                    one.accelerator or "",
                    one.max_batch or 0,
                    round(one.stretch.replicas),
                )
                rows[key].append(one)
    found: dict[str, list[Seen]] = defaultdict(list)
    for (name, *_), every in rows.items():
        if is_steady([one.stretch.load.rate_rpm for one in every]):
            found[name].append(_together(every))
    return dict(found)


def is_steady(counts: Sequence[float]) -> bool:
    """Tell whether as many requests came in equal times as *counts* at one rate, but for chance:
    the twin is asked what it does at their mean.
    """
    told = np.array(counts)
    mean = float(told.mean())
    # The variance of a few counts is itself off by chance: by two standard deviations at most.
    by_chance = (1.0 + 2.0 * math.sqrt(2.0 / max(len(told) - 1, 1))) / mean if mean else 0.0
    return mean > 0.0 and float(told.var()) / mean**2 <= UNSTEADY_MAX**2 + by_chance


class _Settled:
    """Who has been steady for how long, record after record."""

    def __init__(self) -> None:
        self._since_s: dict[str, float | None] = {}

    def after(self, name: str, t_s: float, seen: Seen | None, *, speed: float) -> bool:
        """Take in what was *seen* of a server (None: it was not steady); tell whether it has been
        steady for as long as its figures look back.
        """
        if seen is None:
            self._since_s[name] = None
            return False
        # With the first record nothing says that it was not.
        since_s = self._since_s.get(name, -math.inf)
        if since_s is None or since_s > t_s:
            since_s = t_s
        self._since_s[name] = since_s
        return (t_s - since_s) * speed >= SETTLED_S


def _together(every: Sequence[Seen]) -> Seen:
    took = [one.start_up_s for one in every if one.start_up_s is not None]
    return Seen(
        t_s=every[0].t_s,
        stretch=merged([one.stretch for one in every]),
        model=every[0].model,
        accelerator=every[0].accelerator,
        max_batch=every[0].max_batch,
        start_up_s=sum(took) / len(took) if took else None,
    )


def _time_s(line: Line, *, where: str) -> float:
    """Return when a cycle was: the second of a simulated run, else its date. Raise SpecError if it
    has neither.
    """
    if line.get("backend") == "sim":
        t_s = _figure(line.get("t_s"))
        if t_s is None:
            raise SpecError(f"{where}: t_s: expected seconds, found {shown(line.get('t_s'))}")
        return t_s
    found = line.get("ts")
    try:
        return date_of(str(found)).timestamp()
    except ValueError:
        raise SpecError(
            f"{where}: ts: expected a date such as 2026-11-28T06:00:00Z, found {shown(found)}"
        ) from None


def _seen(row: Line, t_s: float, *, speed: float) -> Seen | None:
    """Return what a row of a record tells of one server, None if it is not steady, or not known."""
    figures = [_figure(row.get(key)) for key in ("rpm", "avgInTok", "avgOutTok", "itl", "ttft")]
    replicas = _figure(row.get("ready", row.get("replicas")))
    moving = any(_figure(row.get(key)) for key in ("starting", "draining"))
    if moving or not all(figures) or not replicas or not isinstance(row.get("name"), str):
        return None
    rate_rpm, in_tokens, out_tokens, itl_ms, ttft_ms = (value or 0.0 for value in figures)
    running, waiting = (_figure(row.get(key)) or 0.0 for key in ("running", "waiting"))
    if running and waiting > WAITING_MAX * running:
        return None
    accelerator = row.get("currentAccelerator", row.get("accelerator"))
    model = row.get("model")
    took_s = _figure(row.get("startUpS"))
    max_batch = _figure(row.get("currentMaxBatch", row.get("maxBatch")))
    return Seen(
        t_s=t_s,
        stretch=Stretch(
            load=Load(rate_rpm=rate_rpm, in_tokens=in_tokens, out_tokens=out_tokens),
            per_replica_rpm=rate_rpm / replicas,
            replicas=replicas,
            requests=rate_rpm,
            ttft_ms=ttft_ms,
            itl_ms=itl_ms,
            completions_rpm=_figure(row.get("throughput")) or rate_rpm,
            running=(running or rate_rpm * (ttft_ms + itl_ms * out_tokens) / 60_000.0) / replicas,
            waiting=waiting / replicas,
            prefix_share=_figure(row.get("prefixCacheHitShare")),
        ),
        model=model if isinstance(model, str) and model else None,
        accelerator=accelerator if isinstance(accelerator, str) and accelerator else None,
        max_batch=int(max_batch) if max_batch else None,
        start_up_s=None if took_s is None else took_s * speed,
    )


def _figure(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= FIGURE_MAX else None
