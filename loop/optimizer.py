"""The front of the optimizer: sizes all servers, lets a solver choose, and says why. Pure: values in, values out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from loop.candidates import CandidateTable, OptimizerSettings
from loop.catalog import present_cost
from loop.queueing import analyze, make_model
from loop.reasons import binding, runner_up, why_none, why_short
from loop.sizing import MS_PER_MIN, SizingCache, size_all
from loop.solvers.exact import solve_exact
from loop.solvers.greedy import fill_left_over, solve_greedy
from loop.solvers.problem import Answer, Choice, Problem, make_problem

if TYPE_CHECKING:
    from loop.spec import ServerData, SystemData

__all__ = ["Assignment", "OptimizerSettings", "SizingCache", "Solution", "optimize"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What one server gets, and why.

    value is cost with the transition penalty [cents/h]. itl_ms, ttft_ms and rho (busy share of the batch) are what the
    belief expects at the present load; None where the replicas cannot keep up and the wait has no bound.
    reason is one line for people, details are figures for machines. held: it keeps what it has, unasked.
    """

    server: str
    accelerator: str
    replicas: int
    max_batch: int
    cost_cents_per_h: float
    value: float
    itl_ms: float | None
    ttft_ms: float | None
    rho: float | None
    rate_max_rpm: float
    held: bool = False
    reason: str = ""
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """The answer: allocations and unserved servers (with the reason) by name, in the order of the servers asked for.

    total_cost and total_value are in cents/h. gap: how far total_value may be above the least, relative (None: not
    known, as with greedy); optimal: proven.
    """

    allocations: Mapping[str, Assignment]
    unserved: Mapping[str, str]
    total_cost: float
    total_value: float
    gap: float | None = None
    optimal: bool = False
    note: str = ""


def optimize(
    data: SystemData,
    settings: OptimizerSettings,
    *,
    held: frozenset[str] = frozenset(),
    cache: SizingCache | None = None,
) -> Solution:
    """Return what each server of *data* should have at the load of its current allocation.

    Servers in *held* keep what they have; their cards are taken from capacity first, and where these alone exceed it
    the lowest class is reduced first. Servers that cannot be served are listed with the reason and block nobody.
    """
    asked = [server for name, server in data.servers.items() if name not in held]
    kept = [server for name, server in data.servers.items() if name in held]
    table = size_all(data, settings, servers=asked, cache=cache or SizingCache())
    left = {name: int(count) for name, count in zip(table.types, table.capacity, strict=True)}
    limited = not data.optimizer.unlimited
    allocations = _hold(data, settings, kept, left, limited=limited)
    problem = make_problem(table, capacity=[left[name] for name in table.types] if limited else None)
    answer = _solve(problem, data, settings)
    chosen, unserved = _explain(table, problem, answer, settings)
    allocations.update(chosen)
    order = [name for name in data.servers if name in allocations]
    return Solution(
        allocations={name: allocations[name] for name in order},
        unserved=unserved,
        total_cost=sum(allocations[name].cost_cents_per_h for name in order),
        total_value=sum(allocations[name].value for name in order),
        gap=answer.gap,
        optimal=answer.optimal,
        note=answer.note,
    )


def _solve(problem: Problem, data: SystemData, settings: OptimizerSettings) -> Answer:
    """Return the answer of the solver that the settings name; servers left over get parts by the saturation policy."""
    flags = data.optimizer
    if settings.solver == "greedy":
        return solve_greedy(
            problem, saturation_policy=flags.saturation_policy, delayed_best_effort=flags.delayed_best_effort
        )
    answer = solve_exact(problem, time_limit_s=settings.time_limit_s, gap=settings.gap)
    return replace(answer, choices=fill_left_over(problem, answer.choices, saturation_policy=flags.saturation_policy))


def _hold(
    data: SystemData,
    settings: OptimizerSettings,
    kept: Sequence[ServerData],
    left: dict[str, int],
    *,
    limited: bool,
) -> dict[str, Assignment]:
    """Return the held servers as they are and take their cards from *left*, highest class first."""
    result = {}
    for server in sorted(kept, key=lambda server: data.priority(server.service_class)):
        current = server.current
        unit = data.accelerators.get(current.accelerator)
        perf = data.perf.get((server.model, current.accelerator))
        replicas, reason = current.replicas, "held"
        if limited and unit is not None and perf is not None:
            cards = max(perf.acc_count, 1) * unit.multiplicity
            room = left.get(unit.type, 0) // cards
            if replicas > room:
                reason = f"capacity: held {replicas} replicas, room for {room} ({cards} {unit.type} each)"
                replicas = room
            left[unit.type] = left.get(unit.type, 0) - replicas * cards
        cost = present_cost(data, server, settings) * (replicas / current.replicas if current.replicas else 1.0)
        result[server.name] = Assignment(
            server=server.name,
            accelerator=current.accelerator,
            replicas=replicas,
            max_batch=current.max_batch,
            cost_cents_per_h=cost,
            value=0.0,
            itl_ms=None,
            ttft_ms=None,
            rho=None,
            rate_max_rpm=0.0,
            held=True,
            reason=reason,
        )
    return result


def _explain(
    table: CandidateTable, problem: Problem, answer: Answer, settings: OptimizerSettings
) -> tuple[dict[str, Assignment], dict[str, str]]:
    """Return the choices as assignments, and why the other servers have none."""
    choices = {i: choice for i, choice in answer.choices.items() if choice.replicas > 0 or _nothing(table, choice)}
    unserved: dict[str, str] = {}
    if settings.compat and problem.capacity is not None:
        for i in [i for i, choice in choices.items() if _nothing(table, choice)]:
            del choices[i]
            unserved[table.servers[i]] = "no load and no least number of replicas: dropped where capacity is limited"
    servers = sorted(choices)
    rows = np.array([choices[i].row for i in servers], dtype=np.intp)
    words = binding(table, rows, settings)
    partial = _partial(table, [choices[i] for i in servers], settings)
    assignments = {
        table.servers[i]: _assignment(table, problem, choices[i], word=word, partial=partial.get(choices[i].row))
        for i, word in zip(servers, words, strict=True)
    }
    left = _left(problem, choices)
    for i, name in enumerate(table.servers):
        if name not in assignments and name not in unserved:
            unserved[name] = why_short(table, problem, i, left) if problem.options[i] else why_none(table, i, settings)
    return assignments, unserved


def _nothing(table: CandidateTable, choice: Choice) -> bool:
    """Tell whether *choice* is the answer to no load: no replicas of no accelerator."""
    return bool(table.accelerator[choice.row] < 0)


def _left(problem: Problem, choices: Mapping[int, Choice]) -> list[int]:
    """Return the cards by type that *choices* leave free."""
    left = list(problem.capacity or [])
    if problem.capacity is not None:
        for choice in choices.values():
            left[problem.type[choice.row]] -= problem.units[choice.row] * choice.replicas
    return left


_Latency = tuple[float | None, float | None, float | None]


def _partial(table: CandidateTable, choices: Sequence[Choice], settings: OptimizerSettings) -> dict[int, _Latency]:
    """Return ITL, TTFT and rho of the rows that got fewer replicas than they asked for, at the load these get.

    The original reports those of the whole; in compat so do we.
    """
    part = [choice for choice in choices if choice.replicas < table.replicas[choice.row]]
    if not part or settings.compat:
        return {}
    rows = np.array([choice.row for choice in part], dtype=np.intp)
    rate = table.need[rows] / np.array([choice.replicas for choice in part])
    seen = analyze(make_model(table.columns.take(rows)), rate)
    figures = zip(seen.itl.tolist(), seen.ttft.tolist(), seen.rho.tolist(), strict=True)
    return {
        int(row): (itl, ttft if np.isfinite(ttft) else None, rho)
        for row, (itl, ttft, rho) in zip(rows.tolist(), figures, strict=True)
    }


def _assignment(
    table: CandidateTable, problem: Problem, choice: Choice, *, word: str, partial: _Latency | None
) -> Assignment:
    i = int(table.server[choice.row])
    row, replicas = choice.row, choice.replicas
    candidate = table.candidate(row)
    share = replicas / candidate.replicas if candidate.replicas else 1.0
    itl, ttft, rho = partial or (candidate.itl_ms, candidate.ttft_ms, candidate.rho)
    need_rpm = float(table.need[row]) * MS_PER_MIN
    used = need_rpm / (candidate.rate_max_rpm * replicas) if candidate.rate_max_rpm * replicas > 0.0 else 0.0
    other = runner_up(table, problem, i, row)
    details: dict[str, object] = {
        "binding": word,
        "rateMaxRpm": candidate.rate_max_rpm,
        "utilisation": used,
        "replicasWanted": candidate.replicas,
        "units": candidate.units_per_replica * replicas,
        "type": candidate.type,
    }
    if other is not None:
        details["runnerUp"] = {
            "accelerator": other.accelerator,
            "replicas": other.replicas,
            "cost": other.cost_cents_per_h,
            "value": other.value,
        }
    return Assignment(
        server=table.servers[i],
        accelerator=candidate.accelerator,
        replicas=replicas,
        max_batch=candidate.max_batch,
        cost_cents_per_h=candidate.cost_cents_per_h * share,
        value=candidate.value * share,
        itl_ms=itl,
        ttft_ms=ttft,
        rho=rho,
        rate_max_rpm=candidate.rate_max_rpm,
        reason=_reason(table, row, choice, details),
        details=details,
    )


def _reason(table: CandidateTable, row: int, choice: Choice, details: Mapping[str, object]) -> str:
    if table.accelerator[row] < 0:
        return "no load: no replicas"
    if details["binding"] == "no load":
        return f"no load: the least number of replicas, {choice.replicas}"
    name = table.accelerators[int(table.accelerator[row])]
    line = (
        f"{choice.replicas} × {name} at {details['utilisation']:.0%} of {details['rateMaxRpm']:.4g} rpm each, "
        f"bound by {details['binding']}"
    )
    if choice.replicas < table.replicas[row]:
        line = f"capacity: {choice.replicas} of {table.replicas[row]} replicas; {line}"
    other = details.get("runnerUp")
    if isinstance(other, dict):
        line += f"; next {other['replicas']} × {other['accelerator']} for {other['cost']:.6g}"
    return line
