"""From a solver's choices to assignments: figures at the load each replica then gets, and words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loop.optimizer.model.queueing import analyze, make_model
from loop.optimizer.model.rates import BINDING
from loop.optimizer.sizing import MS_PER_MIN
from loop.optimizer.solution import Assignment
from loop.optimizer.table import (
    BAD_LOAD,
    GOOD,
    ITL_SHORT,
    NO_LATENCY_MODEL,
    NO_MEMORY,
    ONE_STATE,
    TOO_MANY,
    TTFT_SHORT,
    Answer,
    Candidate,
    Choice,
    Means,
    Problem,
    Tuned,
)
from loop.types import Why, one_pool
from twin.frozen import made_quickly
from twin.spec import Pool

if TYPE_CHECKING:
    from loop.optimizer.cache import Assigned, SizingCache
    from loop.optimizer.rules import OptimizerSettings
    from loop.optimizer.solvers.several import SeveralAnswer
    from loop.optimizer.table import CandidateTable
    from loop.types import WhyKind


def explain(
    table: CandidateTable,
    problem: Problem,
    answer: Answer,
    settings: OptimizerSettings,
    cache: SizingCache,
    *,
    known: Assigned,
) -> tuple[dict[str, Assignment], dict[str, Why]]:
    """Return the choices as assignments, and why the other servers have none; *known* is what they
    were assigned before.
    """
    choices, dropped = _kept(table, problem, answer.choices, settings)
    assignments = _assign(table, problem, choices, settings, cache, known=known)
    left = _left(problem, choices.values())
    return assignments, _unserved(
        table, problem, settings, left=left, known=assignments.keys() | dropped.keys()
    ) | dropped


def explain_several(
    table: CandidateTable,
    problem: Problem,
    answer: SeveralAnswer,
    settings: OptimizerSettings,
    cache: SizingCache,
    *,
    known: Assigned,
) -> tuple[dict[str, Assignment], dict[str, Why]]:
    """Return the parts as assignments, and why the other servers have none."""
    idle = {
        i: Choice(rows[0], 0)
        for i, rows in enumerate(problem.options)
        if rows and i not in answer.parts and table.accelerator[rows[0]] < 0
    }
    choices, dropped = _kept(table, problem, idle, settings)
    assignments = _assign(table, problem, choices, settings, cache, known=known)
    taken = [choice for parts in answer.parts.values() for choice in parts]
    for i, parts in answer.parts.items():
        found = [binding(table, part.row) for part in parts]
        assignments[table.servers[i]] = _joined(table, parts, value=answer.value[i], bound=found)
    left = _left(problem, taken)
    return assignments, _unserved(
        table, problem, settings, left=left, known=assignments.keys() | dropped.keys()
    ) | dropped


def _kept(
    table: CandidateTable,
    problem: Problem,
    choices: Mapping[int, Choice],
    settings: OptimizerSettings,
) -> tuple[dict[int, Choice], dict[str, Why]]:
    """Return the choices that give something, or nothing to no load; and servers that the rules
    drop, with the reason.
    """
    nothing = {i for i, choice in choices.items() if table.accelerator[choice.row] < 0}
    dropped = {}
    if settings.rules.idle_dropped and problem.capacity is not None:
        dropped = {table.servers[i]: settings.rules.idle_dropped for i in nothing}
    return {
        i: choice
        for i, choice in choices.items()
        if table.servers[i] not in dropped and (choice.replicas > 0 or i in nothing)
    }, dropped


def _assign(
    table: CandidateTable,
    problem: Problem,
    choices: Mapping[int, Choice],
    settings: OptimizerSettings,
    cache: SizingCache,
    *,
    known: Assigned,
) -> dict[str, Assignment]:
    made: dict[str, Assignment | None] = {}
    new = {}
    for i in sorted(choices):
        choice, name = choices[i], table.servers[i]
        made[name] = known.get(name, int(table.accelerator[choice.row]), choice.replicas)
        if made[name] is None:
            new[i] = choice
    found = _found(table, problem, new, settings, cache) if new else {}
    for i, choice in new.items():
        name = table.servers[i]
        known.put(name, int(table.accelerator[choice.row]), choice.replicas, found[name])
    return {name: one or found[name] for name, one in made.items()}


def _found(
    table: CandidateTable,
    problem: Problem,
    choices: Mapping[int, Choice],
    settings: OptimizerSettings,
    cache: SizingCache,
) -> dict[str, Assignment]:
    servers = sorted(choices)
    rows = np.array([choices[i].row for i in servers], dtype=np.intp)
    replicas = np.array([choices[i].replicas for i in servers], dtype=np.int64)
    bound = [_kind_of(index) for index in table.binding[rows].tolist()]
    values = settings.rules.part_values(table, rows, replicas).tolist()
    taken = zip(table.candidates(rows), bound, values, strict=True)
    if not settings.figures:
        return {
            table.servers[i]: _bare(table.servers[i], one, choices[i].replicas, kind, value)
            for i, (one, kind, value) in zip(servers, taken, strict=True)
        }
    tuned = settings.rules.tune(table, rows, replicas, settings, cache=cache)
    return {
        table.servers[i]: _assignment(
            table, problem, choices[i], _Figures(tuned, k, *one), settings
        )
        for k, (i, one) in enumerate(zip(servers, taken, strict=True))
    }


def _unserved(
    table: CandidateTable,
    problem: Problem,
    settings: OptimizerSettings,
    *,
    left: Sequence[int],
    known: Set[str],
) -> dict[str, Why]:
    """Return why each server that is not *known* has nothing."""
    return {
        name: settings.rules.why_unserved(table, problem, i, left, settings)
        for i, name in enumerate(table.servers)
        if name not in known
    }


def _left(problem: Problem, choices: Iterable[Choice]) -> list[int]:
    """Return the GPUs by type that *choices* leave free."""
    left = list(problem.capacity or [])
    for choice in choices if problem.capacity is not None else ():
        left[problem.type[choice.row]] -= problem.units[choice.row] * choice.replicas
    return left


def _joined(
    table: CandidateTable, parts: Sequence[Choice], *, value: float, bound: Sequence[WhyKind]
) -> Assignment:
    """Return the parts of one server as one assignment; its load is spread so that all parts are
    equally busy.
    """
    rows = np.array([part.row for part in parts], dtype=np.intp)
    replicas = np.array([part.replicas for part in parts])
    total = float((table.rate_max[rows] * replicas).sum())
    used = float(table.need[rows[0]]) / total if total > 0.0 else 0.0
    rate = table.rate_max[rows] * used
    seen = table.means(rows)
    if used > 0.0:
        found = analyze(make_model(table.columns.take(rows)), rate)
        seen = Means(found.itl, found.ttft, found.rho)
    share = rate * replicas / (rate * replicas).sum() if used > 0.0 else replicas / replicas.sum()
    pools = tuple(
        Pool(
            accelerator=table.accelerators[int(table.accelerator[part.row])],
            replicas=part.replicas,
            max_batch=int(table.columns.max_batch[part.row]),
        )
        for part in parts
    )
    costs = tuple(table.unit_cost(part.row) * part.replicas for part in parts)
    line = " + ".join(f"{pool.replicas} × {pool.accelerator}" for pool in pools)
    words = [word(kind) for kind in bound]
    return Assignment(
        server=table.servers[int(table.server[rows[0]])],
        pools=pools,
        pool_costs=costs,
        cost_cents_per_h=sum(costs),
        value=value,
        itl_ms=float(seen.itl @ share),
        ttft_ms=float(seen.ttft @ share),
        rho=float(seen.rho @ share),
        rate_max_rpm=total * MS_PER_MIN / int(replicas.sum()),
        why=Why(
            kind=bound[0],
            text=f"{line} at {used:.0%}, bound by {', '.join(dict.fromkeys(words))}",
            details={"utilisation": used, "binding": words},
        ),
    )


@dataclass(frozen=True, slots=True)
class _Figures:
    """What belongs to the choice at *position* of those tuned together, which is *candidate*."""

    tuned: Tuned
    position: int
    candidate: Candidate
    bound: WhyKind
    value: float

    @property
    def batch(self) -> int:
        return int(self.tuned.batch[self.position])

    @property
    def latencies(self) -> tuple[float, float | None, float]:
        """Return ITL, TTFT (None if it has no bound) and the busy share."""
        means = self.tuned.means
        ttft = float(means.ttft[self.position])
        bounded = ttft if math.isfinite(ttft) else None
        return float(means.itl[self.position]), bounded, float(means.rho[self.position])

    @property
    def tail(self) -> dict[str, object]:
        """Return the latencies at the percentile, if it is asked for; None if it has no bound."""
        found = {
            "itlAtPercentile": float(self.tuned.itl_tail[self.position]),
            "ttftAtPercentile": float(self.tuned.ttft_tail[self.position]),
        }
        return {
            name: value if math.isfinite(value) else None
            for name, value in found.items()
            if not math.isnan(value)
        }


def _assignment(
    table: CandidateTable,
    problem: Problem,
    choice: Choice,
    figures: _Figures,
    settings: OptimizerSettings,
) -> Assignment:
    row, replicas, candidate = choice.row, choice.replicas, figures.candidate
    share = replicas / candidate.replicas if candidate.replicas else 1.0
    wanted = problem.replicas[row]
    itl, ttft, rho = figures.latencies
    need_rpm = float(table.need[row]) * MS_PER_MIN
    used = (
        need_rpm / (candidate.rate_max_rpm * replicas)
        if candidate.rate_max_rpm * replicas > 0.0
        else 0.0
    )
    other = runner_up(table, problem, int(table.server[row]), row)
    details: dict[str, object] = {
        "binding": word(figures.bound),
        "rateMaxRpm": candidate.rate_max_rpm,
        "utilisation": used,
        "replicasWanted": candidate.replicas,
        "units": candidate.units_per_replica * replicas,
        "type": candidate.type,
        "maxBatchAllowed": candidate.max_batch,
    }
    tail = figures.tail
    if tail:
        details |= {"percentile": float(table.percentile[row]), **tail}
    if table.percentile[row] < table.asked.percentile[row]:
        details["percentileAsked"] = float(table.asked.percentile[row])
    cut = batch_cut(table, row, settings)
    if cut:
        details["maxBatchCut"] = cut
    if other is not None:
        details["runnerUp"] = {
            "accelerator": other.accelerator,
            "replicas": other.replicas,
            "cost": other.cost_cents_per_h,
            "value": other.value,
        }
    return Assignment(
        server=table.servers[int(table.server[row])],
        pools=one_pool(
            accelerator=candidate.accelerator, replicas=replicas, max_batch=figures.batch
        ),
        cost_cents_per_h=candidate.cost_cents_per_h * share,
        value=figures.value,
        itl_ms=itl,
        ttft_ms=ttft,
        rho=rho,
        rate_max_rpm=candidate.rate_max_rpm,
        why=Why(
            kind="capacity" if replicas < wanted else figures.bound,
            text=_text(table, row, choice, details, bound=figures.bound, wanted=wanted),
            details=details,
        ),
    )


def _bare(
    server: str, candidate: Candidate, replicas: int, bound: WhyKind, value: float
) -> Assignment:
    """Return an assignment without what is asked for by OptimizerSettings.figures."""
    share = replicas / candidate.replicas if candidate.replicas else 1.0
    return Assignment(
        server=server,
        pools=one_pool(
            accelerator=candidate.accelerator, replicas=replicas, max_batch=candidate.max_batch
        ),
        cost_cents_per_h=candidate.cost_cents_per_h * share,
        value=value,
        itl_ms=None,
        ttft_ms=None,
        rho=None,
        rate_max_rpm=candidate.rate_max_rpm,
        why=Why(kind="capacity" if replicas < candidate.replicas else bound),
    )


def _text(
    table: CandidateTable,
    row: int,
    choice: Choice,
    details: Mapping[str, object],
    *,
    bound: WhyKind,
    wanted: int,
) -> str:
    if table.accelerator[row] < 0:
        return "no load: no replicas"
    if bound == "no-load":
        return f"no load: the least number of replicas, {choice.replicas}"
    name = table.accelerators[int(table.accelerator[row])]
    line = (
        f"{choice.replicas} × {name} at {details['utilisation']:.0%} of "
        f"{details['rateMaxRpm']:.4g} rpm each, "
        f"bound by {details['binding']}"
    )
    if choice.replicas < wanted:
        line = f"capacity: {choice.replicas} of {wanted} replicas; {line}"
    if "percentileAsked" in details:
        line += (
            f"; sized for {details['percentile']:.1%} of requests, as no accelerator reaches "
            f"{details['percentileAsked']:.1%}"
        )
    if "maxBatchCut" in details:
        line += f"; {details['maxBatchCut']}"
    other = details.get("runnerUp")
    if isinstance(other, dict):
        usd_per_h = other["cost"] / 100.0
        line += f"; next {other['replicas']} × {other['accelerator']} for $ {usd_per_h:.2f}/h"
    return line


def binding(table: CandidateTable, row: int) -> WhyKind:
    """Return what keeps a replica of *row* from taking more: slo-itl, slo-ttft, slo-tps, loss,
    batch; or no-load.
    """
    return _kind_of(int(table.binding[row]))


def _kind_of(index: int) -> WhyKind:
    return BINDING[index] if index >= 0 else "no-load"


def word(kind: WhyKind) -> str:
    """Return *kind* as texts and details have it."""
    return "no load" if kind == "no-load" else kind


def batch_cut(table: CandidateTable, row: int, settings: OptimizerSettings) -> str:
    """Return what cut the batch of *row* below what the model's data or the server's ask for, or
    nothing.
    """
    wanted, batch = int(table.wanted_batch[row]), int(table.columns.max_batch[row])
    if table.accelerator[row] < 0 or batch >= wanted:
        return ""
    by = f"the cap of {settings.max_batch_cap}" if batch == settings.max_batch_cap else "KV cache"
    return f"batch cut from {wanted} to {batch} by {by}"


def why_unserved(
    table: CandidateTable,
    problem: Problem,
    i: int,
    left: Sequence[int],
    settings: OptimizerSettings,
) -> Why:
    """Return why server *i* has nothing; *left* is GPUs by type index."""
    if problem.options[i]:
        return why_short(table, problem, i, left)
    return why_none(table, i, settings)


def why_none(table: CandidateTable, i: int, settings: OptimizerSettings) -> Why:
    """Return why server *i* has no option at all."""
    name = table.servers[i]
    if name in table.problem:
        return table.problem[name]
    rows = range(int(table.start[i]), int(table.start[i + 1]))
    reasons = {row: _why_row(table, row, settings) for row in rows if table.verdict[row] != GOOD}
    # What came nearest to serving says most: the fewest replicas over the cap, or the best latency.
    nearest = min(reasons, key=lambda row: _distance(table, row))
    others = len(reasons) - 1
    tail = (
        f" (and {others} more accelerator{'s' if others > 1 else ''} that cannot)" if others else ""
    )
    return Why(kind="infeasible", text=reasons[nearest] + tail)


def _distance(table: CandidateTable, row: int) -> tuple[int, float]:
    verdict = int(table.verdict[row])
    if verdict == TOO_MANY:
        return 0, float(table.replicas[row])
    if verdict == TTFT_SHORT:
        return 1, float(table.best_ttft[row]) / float(table.asked.slo_ttft[row])
    if verdict == ITL_SHORT:
        return 1, float(table.best_itl[row]) / float(table.asked.slo_itl[row])
    return 2, float(verdict)


def _why_row(table: CandidateTable, row: int, settings: OptimizerSettings) -> str:
    """Return why the option of *row* cannot be taken."""
    verdict = int(table.verdict[row])
    accelerator = table.accelerators[int(table.accelerator[row])]
    used = "" if settings.headroom == 0.0 else f" (less {settings.headroom:.0%} headroom)"
    if verdict == ITL_SHORT:
        target, best = table.asked.slo_itl[row], table.best_itl[row]
        return (
            f"slo-itl {target:g} ms{used} below the best attainable {best:.4g} ms, on {accelerator}"
        )
    if verdict == TTFT_SHORT:
        target, best = table.asked.slo_ttft[row], table.best_ttft[row]
        return (
            f"slo-ttft {target:g} ms{used} below the best attainable {best:.4g} ms, on "
            f"{accelerator}"
        )
    if verdict == TOO_MANY:
        return (
            f"needs {table.replicas[row]} replicas of {accelerator}, more than the cap of "
            f"{min(settings.replicas_cap, table.asked.most[row]):g}"
        )
    return {
        NO_LATENCY_MODEL: f"alpha, beta and gamma are all zero on {accelerator}",
        BAD_LOAD: "the load has a negative figure",
        NO_MEMORY: f"one request does not fit the KV cache of {accelerator}",
        ONE_STATE: (
            f"max batch 1 without a queue on {accelerator}: the compatible model is invalid there"
        ),
    }.get(verdict, f"no rate meets the targets on {accelerator}")


def why_short(table: CandidateTable, problem: Problem, i: int, left: Sequence[int]) -> Why:
    """Return how much capacity server *i* lacks, for the option that lacks least; *left* is GPUs
    by type index.
    """
    short = [
        (problem.units[row] * problem.replicas[row] - left[problem.type[row]], position, row)
        for position, row in enumerate(problem.options[i])
    ]
    lack, _, row = min(short)
    kind = problem.type[row]
    gpus = problem.units[row] * problem.replicas[row]
    text = f"capacity: {gpus} {table.types[kind]} needed, {left[kind]} free, {lack} short"
    return Why(kind="capacity", text=text)


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerUp:
    """The next best option of a server."""

    accelerator: str
    replicas: int
    cost_cents_per_h: float
    value: float


def runner_up(table: CandidateTable, problem: Problem, i: int, row: int) -> RunnerUp | None:
    """Return the best option of server *i* besides *row*, whether there is room for it or not."""
    other = next((k for k in problem.options[i] if k != row), None)
    if other is None or table.accelerator[other] < 0:
        return None
    return RunnerUp(
        accelerator=table.accelerators[int(table.accelerator[other])],
        replicas=int(table.replicas[other]),
        cost_cents_per_h=float(table.cost[other]),
        value=float(table.value[other]),
    )
