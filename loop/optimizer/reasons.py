"""Why a server got what it got, or got nothing: the words and figures that go with an allocation.
Decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loop.optimizer.model.rates import BINDING
from loop.optimizer.table import (
    BAD_LOAD,
    GOOD,
    ITL_SHORT,
    NO_LATENCY_MODEL,
    NO_MEMORY,
    ONE_STATE,
    TOO_MANY,
    TTFT_SHORT,
)
from loop.types import Why

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loop.optimizer.settings import OptimizerSettings
    from loop.optimizer.solvers.problem import Problem
    from loop.optimizer.table import CandidateTable
    from loop.types import WhyKind


def binding(table: CandidateTable, row: int) -> WhyKind:
    """Return what keeps a replica of *row* from taking more: slo-itl, slo-ttft, slo-tps, loss,
    batch; or no-load.
    """
    index = int(table.binding[row])
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
            f"{settings.replicas_cap}"
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
