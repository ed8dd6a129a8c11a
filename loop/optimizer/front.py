"""The front of the optimizer: sizes all servers, lets a solver choose, and says why. Pure: values
in, values out.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from loop.optimizer.cache import Assigned, Chosen, SizingCache, Solved
from loop.optimizer.explain import explain, explain_several
from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.solution import Assignment, Solution
from loop.optimizer.solvers.exact import NOBODY, best_for_all, solve_exact, solve_grouped
from loop.optimizer.solvers.greedy import fill_left_over, solve_greedy
from loop.optimizer.solvers.several import SeveralAnswer, SeveralProblem, solve_several
from loop.optimizer.table import GOOD, TOO_MANY, Answer, Problem, home_rows, make_problem
from loop.replacing import replace

if TYPE_CHECKING:
    from loop.optimizer.solvers.shortages import Shortages
    from loop.optimizer.table import CandidateTable
    from loop.spec import OptimizerData, SystemData

__all__ = ["Assignment", "OptimizerSettings", "SizingCache", "Solution", "optimize"]


def optimize(
    data: SystemData, settings: OptimizerSettings, *, cache: SizingCache | None = None
) -> Solution:
    """Return what each server of *data* should have at the load of its current allocation.

    Servers that cannot be served are listed with the reason and block nobody. If the data say
    heterogeneous, the exact solver may give a server several accelerators (Assignment.pools).
    *cache* remembers what was found before; the answer is the same without it, but that it may have
    figures that are not asked for.
    """
    cache = SizingCache() if cache is None else cache
    whole = settings.whole
    if whole:
        settings = replace(settings, whole=False)
    asked = settings if settings.figures else replace(settings, figures=True)
    solved = cache.solved(data, asked)
    if solved is None:
        chosen = _at_home(data, settings, cache, asked=asked)
        chosen = chosen or _solve(data, settings, cache, whole=whole)
        solved = Solved(chosen)
        if chosen.answer is not NOBODY:
            cache.keep(data, asked, solved)
    if solved.solution is None or (settings.figures and solved.chosen is not None):
        assert solved.chosen is not None, "nothing is explained yet"
        solved.solution = _explained(data, settings, solved.chosen, cache, asked=asked)
        if settings.figures:
            solved.chosen = None
    return solved.solution


def _at_home(
    data: SystemData, settings: OptimizerSettings, cache: SizingCache, *, asked: OptimizerSettings
) -> Chosen | None:
    """Return what is chosen where some servers stay where they are, by what was chosen of all as
    they could move: the best for each, if there is room for that. None if it has to be solved.
    """
    beside = cache.chosen_beside(data, asked)
    if beside is None or settings.rules.in_force(settings).solver != "exact":
        return None
    (table, problem, answer, _), stayers = beside
    rows = home_rows(table, stayers)
    if rows is None or isinstance(answer, SeveralAnswer):
        return None
    options = list(problem.options)
    for place, row in zip(stayers, rows, strict=True):
        options[place] = [row]
    problem = replace(problem, options=options)
    best = best_for_all(problem)
    return None if best is None else Chosen(table, problem, best)


def _solve(
    data: SystemData, settings: OptimizerSettings, cache: SizingCache, *, whole: bool
) -> Chosen:
    """Return what a solver chooses, and of what."""
    rules = settings.rules
    settings, flags = rules.in_force(settings), rules.flags(data.optimizer)
    table = rules.size(
        data,
        settings,
        servers=list(data.servers.values()),
        cache=cache,
    )
    chosen = _chosen(table, flags, settings, cache, whole=whole)
    wider = None if chosen.answer is NOBODY else _wider(chosen, settings)
    if wider is None:
        return chosen
    return _chosen(wider, flags, settings, cache, whole=whole)._replace(wider=True)


def _wider(chosen: Chosen, settings: OptimizerSettings) -> CandidateTable | None:
    """Return the table of what is *chosen* in which servers that got nothing may take what needs
    more replicas than they may have: who asks cuts these, and few are better than none. None if
    that helps nobody.
    """
    table, answer = chosen.table, chosen.answer
    over = table.verdict == TOO_MANY
    over &= (table.replicas > table.asked.most) & (table.replicas <= settings.replicas_cap)
    if not over.any():
        return None
    served = answer.parts if isinstance(answer, SeveralAnswer) else answer.choices
    over &= ~np.isin(table.server, list(served))
    return replace(table, verdict=np.where(over, GOOD, table.verdict)) if over.any() else None


def _chosen(
    table: CandidateTable,
    flags: OptimizerData,
    settings: OptimizerSettings,
    cache: SizingCache,
    *,
    whole: bool,
) -> Chosen:
    """Return what a solver chooses of *table*."""
    shared = flags.heterogeneous and settings.solver == "exact"
    problem_of = partial(
        make_problem,
        table,
        capacity=None if flags.unlimited else table.capacity.tolist(),
        tie_break=settings.rules.tie_break,
        # Several accelerators are shared out by the load, and cut to the bound after that.
        bounded=settings.bounded and not shared,
    )
    if shared:
        problem = problem_of()
        several = solve_several(
            _several(table, problem),
            by_cost=settings.objective == "cost",
            time_limit_s=None if settings.time_limit is None else settings.time_limit.limit_s,
        )
        return Chosen(table, problem, several)
    if settings.solver == "exact":
        # Mostly all have room for the best, and the next best is only told of.
        problem = problem_of(first=2)
        best = best_for_all(problem)
        if best is not None:
            return Chosen(table, problem, best)
    problem = problem_of()
    answer = _answer(problem, flags, settings, whole=whole, shortages=cache.shortages)
    return Chosen(table, problem, answer)


def _explained(
    data: SystemData,
    settings: OptimizerSettings,
    chosen: Chosen,
    cache: SizingCache,
    *,
    asked: OptimizerSettings,
) -> Solution:
    """Return what is *chosen* as the solution; *asked* are the settings with figures."""
    settings = settings.rules.in_force(settings)
    table, problem, answer, wider = chosen
    known = (
        Assigned(data.servers, {}, figures=settings.figures)
        if wider
        else cache.assigned(data, asked, figures=settings.figures)
    )
    if isinstance(answer, SeveralAnswer):
        allocations, unserved = explain_several(
            table, problem, answer, settings, cache, known=known
        )
    else:
        allocations, unserved = explain(table, problem, answer, settings, cache, known=known)
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


def _answer(
    problem: Problem,
    flags: OptimizerData,
    settings: OptimizerSettings,
    *,
    whole: bool,
    shortages: Shortages,
) -> Answer:
    """Return the answer of the solver that the settings name; servers left over get parts of
    what they need, by the saturation policy. NOBODY, if not all can be served and *whole* says that
    this is enough to know.
    """
    pick_part = settings.rules.pick_part
    if settings.solver == "greedy":
        return solve_greedy(
            replace(problem, weight=settings.rules.weight(problem.priority)),
            saturation_policy=flags.saturation_policy,
            delayed_best_effort=flags.delayed_best_effort,
            pick_part=pick_part,
        )
    deadline = None if settings.time_limit is None else settings.time_limit.begin()
    if flags.saturation_policy != "None" and not flags.delayed_best_effort:
        return solve_grouped(
            problem,
            saturation_policy=flags.saturation_policy,
            pick_part=pick_part,
            deadline=deadline,
            gap=settings.gap,
            whole=whole,
            shortages=shortages,
        )
    answer = solve_exact(
        problem,
        deadline=deadline,
        gap=settings.gap,
        whole=whole,
        shortages=shortages,
    )
    if answer is NOBODY:
        return answer
    filled = fill_left_over(
        problem, answer.choices, saturation_policy=flags.saturation_policy, pick_part=pick_part
    )
    return replace(answer, choices=filled)


def _several(table: CandidateTable, problem: Problem) -> SeveralProblem:
    """Return what the solver for several accelerators needs to know besides *problem*."""
    count = len(table.servers)
    need, present, least = np.zeros(count), np.zeros(count), np.zeros(count, dtype=np.int64)
    need[table.server] = table.need
    present[table.server] = table.asked.cost
    least[table.server] = table.asked.least.astype(np.int64)
    here = (table.asked.accelerator == table.accelerator) & (table.accelerator >= 0)
    return SeveralProblem(
        problem=problem,
        rate=table.rate_max,
        unit_cost=table.unit_costs,
        now=np.where(here, table.asked.replicas, 0.0).astype(np.int64),
        need=need,
        least=least,
        present_cost=present,
    )
