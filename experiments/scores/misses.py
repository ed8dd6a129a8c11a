"""Why requests were missed: the first cause of each, by what the pods of its server could do when
it came, what was asked for, and what was there to be had. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from experiments.columns import Columns, Floats, Window, arrived_within, select
from experiments.demand import Demand, seen_demand
from experiments.requests import requests_of
from experiments.scores.cuts import Cuts
from experiments.scores.minutes import block_minutes
from experiments.scores.verdicts import LEFT_OUT, MISSED, judge, target_columns
from experiments.sources import Sources
from loop.spec import SloTarget

_Flags = tuple[list[float], list[bool]]

# In the order in which they are asked about.
CAUSES = ("infeasible", "no GPUs", "pods start", "not yet known", "queue left over", "tail")
MEANING: Mapping[str, str] = {
    "infeasible": "no accelerator meets the targets of this server, or of this prompt",
    "no GPUs": "what was needed was asked for, or given up, and there were no GPUs for it",
    "pods start": "enough pods were there or starting, too few of them ready",
    "not yet known": "too few pods were asked for: the load was not known yet, or underrated",
    "queue left over": "the pods were enough again, but worked off what had waited",
    "tail": "the pods were enough for the mean: chance of arrivals and lengths",
}
SLOT_S = 10.0
# Work that is left over within this share of what a slot can do is none.
NEGLIGIBLE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Misses:
    """Missed requests by server (rows) and cause (columns, as CAUSES), and scored requests by
    server.
    """

    names: tuple[str, ...]
    counts: npt.NDArray[np.int64]
    scored: npt.NDArray[np.int64]

    @property
    def points(self) -> Floats:
        """Return the points of overall attainment that each server lost to each cause."""
        points: Floats = 100.0 * self.counts / max(int(self.scored.sum()), 1)
        return points

    @property
    def attainment(self) -> float:
        """Return the share of the scored requests that were met."""
        return 1.0 - float(self.counts.sum()) / max(int(self.scored.sum()), 1)


def misses_of(
    sources: Sources,
    *,
    requests: Columns,
    pods: Columns,
    cuts: Cuts,
    window: Window,
) -> Misses:
    """Attribute every missed request of a run of *sources*, see `explain_misses`."""
    return explain_misses(
        requests,
        pods,
        cuts,
        seen_demand(sources, requests, slot_s=SLOT_S),
        targets=sources.targets,
        shortest_ttft_ms=_shortest_ttft_ms(sources),
        window=window,
    )


def explain_misses(
    requests: Columns,
    pods: Columns,
    cuts: Cuts,
    demand: Sequence[Demand],
    *,
    targets: Sequence[SloTarget | None],
    shortest_ttft_ms: Mapping[str, tuple[float, float]],
    window: Window,
) -> Misses:
    """Attribute every missed request of *window* to its first cause.

    *cuts* are those of the GPUs that there are (CycleLines); *demand* is by server, in the order of
    *targets*; shortest_ttft_ms tells, by server, the least time of a first token that any of its
    accelerators can do (fixed, and for each prompt token).
    """
    aimed = target_columns(targets).any_set
    counts = np.zeros((len(targets), len(CAUSES)), dtype=np.int64)
    scored = np.zeros(len(targets), dtype=np.int64)
    causes_of: dict[int, npt.NDArray[np.int64]] = {}
    for own, verdicts in judged(requests, targets, window):
        for server in np.unique(own["server"]).tolist():
            one, target = demand[server], targets[server]
            mine = (own["server"] == server) & aimed[server]
            scored[server] += np.count_nonzero(verdicts[mine] != LEFT_OUT)
            missed = select(own, mine & (verdicts == MISSED))
            if not missed["arrival_s"].size:
                continue
            if server not in causes_of:
                causes_of[server] = _causes_of_slots(
                    one, select(pods, pods["server"] == server), cuts.get(one.server, ([], []))
                )
            slots = causes_of[server]
            place = np.minimum((missed["arrival_s"] // one.slot_s).astype(np.int64), len(slots) - 1)
            causes = slots[place]
            fixed_ms, token_ms = shortest_ttft_ms[one.server]
            limit_ms = target.slo_ttft_ms if target else 0.0
            if limit_ms > 0.0:
                alone_ms = fixed_ms + token_ms * missed["prompt_tokens"]
                causes = np.where(alone_ms > limit_ms, CAUSES.index("infeasible"), causes)
            counts[server] += np.bincount(causes, minlength=len(CAUSES))
    return Misses(names=tuple(one.server for one in demand), counts=counts, scored=scored)


def judged(
    requests: Columns, targets: Sequence[SloTarget | None], window: Window
) -> Iterator[tuple[Columns, npt.NDArray[np.int8]]]:
    """Yield the requests that arrived in *window*, and the verdict on each: some at a time, since
    what is reckoned of all would be as large as the run.
    """
    for block in requests_of(requests).blocks(len(targets)):
        minutes = block_minutes(block, targets, window, all_tokens=False)
        for part in block.parts():
            own = select(part, arrived_within(part, window))
            minute = np.searchsorted(minutes.start_s, own["arrival_s"], side="right") - 1
            tps_missed = minutes.tps_missed[own["server"] - block.first, minute]
            yield own, judge(own, targets, end_s=window.end_s, tps_missed=tps_missed)


def _causes_of_slots(demand: Demand, pods: Columns, cuts: _Flags) -> npt.NDArray[np.int64]:
    """Return what a request that is missed is missed by, if it comes in each slot (into CAUSES)."""
    slots = len(demand.work_rps)
    if not demand.choices:
        return np.full(slots, CAUSES.index("infeasible"))
    middle_s: Floats = (np.arange(slots, dtype=np.float64) + 0.5) * demand.slot_s
    rates = {choice.accelerator: choice.rate_rps for choice in demand.choices}
    ready, starting, pending = _capacities(pods, rates, middle_s)
    work = demand.work_rps
    cut = _at(cuts, middle_s)
    short = ready < work
    queued = _left_over(work, ready) > NEGLIGIBLE * np.maximum(ready, 1e-9)
    found = np.full(slots, CAUSES.index("tail"))
    found[queued & ~short] = CAUSES.index("queue left over")
    found[short] = CAUSES.index("not yet known")
    found[short & cut] = CAUSES.index("no GPUs")
    found[short & (ready + starting + pending >= work)] = CAUSES.index("no GPUs")
    found[short & (ready + starting >= work)] = CAUSES.index("pods start")
    return found


def _capacities(
    pods: Columns, rates: Mapping[str, float], at_s: Floats
) -> tuple[Floats, Floats, Floats]:
    """Return the requests/s that ready, starting and pending pods sustain (or would) at each
    instant.
    """
    rate = np.array([rates.get(name, 0.0) for name in pods["accelerator"].tolist()])
    asked, granted, ready, draining, released = (
        np.where(np.isnan(pods[name]), np.inf, pods[name])
        for name in ("asked_s", "granted_s", "ready_s", "draining_s", "released_s")
    )
    leaves = np.minimum(draining, released)

    def sustained(begin: Floats, end: Floats) -> Floats:
        real = begin < end
        rises = np.interp(at_s, *_steps(begin[real], rate[real]), left=0.0)
        falls = np.interp(at_s, *_steps(end[real], rate[real]), left=0.0)
        found: Floats = rises - falls
        return found

    return (
        sustained(ready, leaves),
        sustained(granted, np.minimum(ready, leaves)),
        sustained(asked, np.minimum(granted, leaves)),
    )


def _steps(at_s: Floats, sizes: Floats) -> tuple[Floats, Floats]:
    """Return the corners of the sum of *sizes* that have come, for np.interp."""
    known = np.isfinite(at_s)
    order = np.argsort(at_s[known], kind="stable")
    times, sums = at_s[known][order], np.cumsum(sizes[known][order])
    if not times.size:
        return np.zeros(1), np.zeros(1)
    before = np.concatenate(([0.0], sums[:-1]))
    corners = np.column_stack((times, np.nextafter(times, np.inf))).ravel()
    return corners, np.column_stack((before, sums)).ravel()


def _at(cuts: _Flags, at_s: Floats) -> npt.NDArray[np.bool_]:
    """Return whether the latest decision at each instant was cut; before the first none was."""
    times, flags = cuts
    place = np.searchsorted(np.array(times, dtype=np.float64), at_s, side="right")
    return np.array([False, *flags])[place]


def _left_over(work: Floats, ready: Floats) -> Floats:
    """Return, for each slot, the work that waits since before it [slots of requests/s]."""
    waits = np.zeros(len(work))
    left = 0.0
    for slot in range(len(work)):
        waits[slot] = left
        left = max(left + work[slot] - ready[slot], 0.0)
    return waits


def _shortest_ttft_ms(sources: Sources) -> dict[str, tuple[float, float]]:
    """Return the least fixed time of a first token and the least for each token of the prompt, over
    the accelerators that a server may have.
    """
    found = {}
    for name, server in sources.system.servers.items():
        engines = [
            engine
            for (model, accelerator), engine in sources.world.engines.items()
            if model == server.model
            and (not server.keep_accelerator or accelerator == server.current.accelerator)
        ]
        models = [engine.latency_model for engine in engines]
        overheads = [engine.overhead_ms for engine in engines]
        found[name] = (
            min((one.alpha_ms for one in models), default=0.0) + min(overheads, default=0.0),
            min((one.beta_ms for one in models), default=0.0),
        )
    return found
