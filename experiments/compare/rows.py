"""One row of a comparison: a policy, the clairvoyant, a run without start-up, or what a perfect
scaler needs. What a process of a comparison does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from emulator.load import ServerLoad
from experiments.columns import Columns, Floats
from experiments.compare.clairvoyant import Candidate, bills, clairvoyant, objective_of
from experiments.compare.plans import Steps, paths_of, plan_from_json
from experiments.config import RunConfig
from experiments.demand import perfect_scaler, true_demand
from experiments.row_details import details_of
from experiments.run import RunResult, require_decisions, simulate_for_figures
from experiments.run_tables import SETTINGS
from experiments.scores.changes import overshoot, settling_s
from experiments.sources import Sources, read_sources
from experiments.sweep_rows import PlannedRun, Row, row_of, settings_row
from loop.policies.static_peak import StaticPeakPolicy
from loop.types import Load
from twin.spec import Delay

CLAIRVOYANT, PERFECT, NO_START_UP = "clairvoyant", "perfect scaler", "without start-up"
STATIC_PEAK = "static_peak"
BOUNDS = (CLAIRVOYANT, STATIC_PEAK)
TIMELINE_S = 30.0
_SCORES = frozenset(
    {
        "cell",
        "minute_attainment_p95",
        "cost_usd_per_1000_met",
        "gpu_hours",
        "reversals_per_h",
        "overshoot",
        "settling_s",
        "objective_usd_per_h",
        "plan",
        "bills",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared(PlannedRun):
    """A run of a comparison. kind is "policy", CLAIRVOYANT, PERFECT or NO_START_UP; policy is what
    tables call it, cell the number of the load.

    price_cents is what a missed request costs. rows are, for the clairvoyant, those of the policies
    that met the same load.
    """

    policy: str
    cell: int
    kind: str = "policy"
    price_cents: float = 1.0
    rows: tuple[Mapping[str, Any], ...] = ()

    @property
    def columns(self) -> frozenset[str]:
        """Return what is made of the row of this run once it is finished."""
        from experiments.tables import NEEDED  # which processes of a comparison do not need

        if self.kind == PERFECT:
            return SETTINGS | {"cell", "gpus_peak", "gpus_mean"}
        return NEEDED | _SCORES


def derived_id(*parts: object) -> str:
    """Return the name of a run that follows from other runs and settings."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def compared_row(planned: Compared) -> Row:
    """Return the row of *planned*."""
    sources = read_sources(planned.config)
    if planned.kind == PERFECT:
        demand = true_demand(sources, slot_s=60.0)
        found = perfect_scaler(demand)
        figures = {"gpus_peak": found.gpus_peak, "gpus_mean": found.gpus_mean}
        row = {**settings_row(planned), **figures, "policy": PERFECT, "error": ""}
        return row | {"cell": planned.cell}
    if planned.kind == CLAIRVOYANT:
        return _clairvoyant_row(planned, sources)
    if planned.kind == NO_START_UP:
        sources = without_start_up(sources)
    sources = told_peaks(sources)
    result = simulate_for_figures(sources)
    require_decisions(result)
    return _row(planned, sources, result, paths_of(result.cycles.desired)) | result.timings


def without_start_up(sources: Sources) -> Sources:
    """Return *sources* with pods that are ready as soon as they have their GPUs."""
    engines = {
        pair: replace(engine, start_up=Delay(mean_s=0.0))
        for pair, engine in sources.world.engines.items()
    }
    return replace(sources, world=replace(sources.world, engines=engines))


def told_peaks(sources: Sources) -> Sources:
    """Return *sources*; if its policy is static peak, it is told the busiest minute of each server:
    as a bound, it is to know.
    """
    if not isinstance(sources.policy, StaticPeakPolicy) or sources.policy.loads:
        return sources
    loads = {}
    for one in true_demand(sources, slot_s=60.0):
        current = sources.system.servers[one.server].current.load
        if current is not None:
            loads[one.server] = Load(
                rate_rpm=60.0 * float(one.work_rps.max()),
                in_tokens=current.in_tokens,
                out_tokens=current.out_tokens,
            )
    return replace(sources, policy=replace(sources.policy, loads=loads))


def _clairvoyant_row(planned: Compared, sources: Sources) -> Row:
    others = [
        Candidate(
            name=row["policy"],
            plan=plan_from_json(row["plan"]),
            tick_s=row["period_s"],
            bills={name: (cost, missed) for name, (cost, missed) in row["bills"].items()},
        )
        for row in planned.rows
    ]
    best = clairvoyant(sources, others, price_cents=planned.price_cents)
    if best.result is not None:
        return _row(planned, sources, best.result, best.plan) | best.result.timings
    same = next(row for row in planned.rows if row["policy"] == best.name)
    return {**same, **settings_row(planned), "policy": CLAIRVOYANT, "path_of": best.name}


def _row(planned: Compared, sources: Sources, result: RunResult, plan: Mapping[str, Steps]) -> Row:
    summary = result.summary
    met_thousands = summary["met"] / 1000.0
    cost_usd = summary["cost_cents"] / 100.0
    owed = bills(result)
    # The sum that the clairvoyant takes the least of, to the last digit: regret is never below 0.
    objective_cents = objective_of(owed, planned.price_cents)
    return {
        **row_of(planned, summary),
        "policy": planned.policy,
        "cell": planned.cell,
        "cost_usd_per_1000_met": cost_usd / met_thousands if met_thousands else None,
        "gpu_hours": summary["accelerator_hours"],
        "objective_usd_per_h": objective_cents / 100.0 / result.window.hours,
        **after_step(result, sources.loads),
        **details_of(sources, result),
        "path_of": "",
        "plan": {name: [list(step) for step in path] for name, path in plan.items()},
        "bills": {name: list(bill) for name, bill in owed.items()},
        "gpus_held": _gpus_held(result.pods, end_s=result.window.end_s).tolist(),
    }


def after_step(result: RunResult, loads: Sequence[ServerLoad]) -> dict[str, float | None]:
    """Return overshoot (in replicas) and settling time after the last jump of the load of each
    server, summed and at worst over those whose load jumps; None if none does.
    """
    histories = result.cycles.desired
    over: list[float] = []
    settled: list[float] = []
    for load in loads:
        step_s, history = last_jump_s(load), histories.get(load.server, ())
        if step_s is None or step_s >= result.window.end_s:
            continue
        t_s = np.array([one.t_s for one in history])
        wanted = np.array([float(one.replicas) for one in history])
        if (t_s >= step_s).any():
            over.append(overshoot(t_s, wanted, step_s=step_s))
            settled.append(settling_s(t_s, wanted, step_s=step_s))
    if not over:
        return {"overshoot": None, "settling_s": None}
    return {"overshoot": sum(over), "settling_s": max(settled)}


def last_jump_s(load: ServerLoad) -> float | None:
    """Return the last instant at which the nominal *load* jumps and then stays, None if there is
    none. A load that was counted is another one every minute, and jumps at none.
    """
    curve = load.curve
    jumps = [
        t_s
        for (t_s, value), (next_s, after) in zip(curve.knots[:-1], curve.knots[1:], strict=True)
        if t_s == next_s and t_s > 0.0 and value != after
    ]
    return jumps[-1] if jumps and not (curve.repeat or load.counted) else None


def _gpus_held(pods: Columns, *, end_s: float) -> Floats:
    """Return the GPUs that pods hold, every half minute."""
    instants = np.arange(0.0, end_s, TIMELINE_S)
    granted = np.where(np.isnan(pods["granted_s"]), np.inf, pods["granted_s"])
    released = np.where(np.isnan(pods["released_s"]), np.inf, pods["released_s"])
    held: Floats = np.array(
        [pods["gpus"][(granted <= t_s) & (released > t_s)].sum() for t_s in instants], dtype=float
    )
    return held


def planned_policy(config: RunConfig, *, name: str, cell: int, price_cents: float) -> Compared:
    """Return the run of a policy, called *name*, under the load number *cell*. Raise SpecError for
    what is wrong with any of it.
    """
    sources = read_sources(config)
    return Compared(
        run_id=derived_id(sources.run_id, "compared", name, cell, price_cents),
        config=sources.config,
        notes=sources.notes,
        policy=name,
        cell=cell,
        price_cents=price_cents,
        label=f"{config.scenario} {name} seed {config.seed}",
    )
