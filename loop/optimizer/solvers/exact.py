"""The exact solver: one option per server, as many servers as possible by priority, then least
score.

Lexicographic: first the number of servers served of the highest priority, then of the next, …, then
the total score.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loop.optimizer.solvers import Bools, Ints
from loop.optimizer.solvers.core import (
    Effort,
    Found,
    Group,
    OutOfTimeError,
    Program,
    minimise,
    relaxed,
)
from loop.optimizer.solvers.deadline import Deadline
from loop.optimizer.solvers.greedy import fill_left_over, largest_share, solve_greedy
from loop.optimizer.solvers.nearby import all_but_one, only_best
from loop.optimizer.solvers.shortages import Needs, Shortages
from loop.optimizer.table import Answer, Choice, PickPart, Problem
from loop.replacing import replace

LARGE = 2500  # options from which on a system without a time limit is solved to LARGE_GAP
LARGE_GAP = 1e-3
LARGE_NODES = 500  # of one tree of a large system
ANY_GAP = 1e9  # if any solution will do
LIKELY_NODES = 50  # of one tree among likely options
MORE = "more servers may be possible: not all could be looked at"
ROUGH_GAP = 0.05  # if only the number of servers counts
NO_LIMIT_S = 600.0
NOBODY = Answer(choices={})


def solve_exact(
    problem: Problem,
    *,
    deadline: Deadline | None = None,
    gap: float = 0.0,
    whole: bool = False,
    shortages: Shortages | None = None,
) -> Answer:
    """Return what each server gets. Servers that get nothing are absent.

    gap: relative distance of the score from the least that is good enough. deadline: when it is
    reached the best found stands, with its gap; None: no limit worth naming, but a large system is
    solved to LARGE_GAP and by so many nodes only, so that the answer is quick and does not depend
    on the speed of the machine. With a deadline that is done first, and the time that is left is
    for better answers. whole: if it is shown that not all can be served, NOBODY.
    *shortages* remember what was shown, to be filled.
    """
    best = best_for_all(problem)
    if best is not None:
        return best
    known = Shortages() if shortages is None else shortages
    names = problem.names
    order = sorted(range(len(names)), key=names.__getitem__)
    if order == list(range(len(names))):
        return _solved(problem, known, deadline=deadline, gap=gap, whole=whole)
    # Servers in the order of their names: what is as good must not depend on that in which they
    # were given.
    turned = _turned(problem, order)
    found = _solved(turned, known, deadline=deadline, gap=gap, whole=whole)
    if found is NOBODY:
        return found
    return replace(found, choices={order[i]: choice for i, choice in found.choices.items()})


def best_for_all(problem: Problem) -> Answer | None:
    """Return the best option of every server, if there is room for all of them."""
    best = {
        i: Choice(rows[0], problem.replicas[rows[0]])
        for i, rows in enumerate(problem.options)
        if rows
    }
    if problem.capacity is None or _fits(problem, best.values()):
        return Answer(choices=best, gap=0.0, optimal=True)
    return None


def _turned(problem: Problem, order: Sequence[int]) -> Problem:
    """Return *problem* with its servers in another *order*."""
    return replace(
        problem,
        names=[problem.names[i] for i in order],
        priority=[problem.priority[i] for i in order],
        options=[problem.options[i] for i in order],
        weight=None if problem.weight is None else [problem.weight[i] for i in order],
    )


def _solved(
    problem: Problem,
    shortages: Shortages,
    *,
    deadline: Deadline | None,
    gap: float,
    whole: bool,
) -> Answer:
    needs = Needs.of(problem)
    short = shortages.shown(needs)
    if whole and (short or needs.unfit):
        return NOBODY
    options = _options(problem)
    if not len(options.row):
        return Answer(choices={}, gap=0.0, optimal=True)
    large = len(options.row) > LARGE
    effort = Effort(
        gap=max(gap, LARGE_GAP) if large else gap,
        time_limit_s=NO_LIMIT_S if deadline is None or large else deadline.limit_s,
        nodes=LARGE_NODES if large else None,
        thorough=not large,
        deadline=deadline,
    )
    near = None if effort.gap > 0.0 else _nearby(problem, options)
    if near is not None:
        return near
    search = _Search(problem, options, effort)
    answer = _found(search, shortages, needs, whole=whole)
    if deadline is None or not large or answer is NOBODY or answer.optimal:
        return answer
    search.effort = replace(
        effort, gap=gap, time_limit_s=deadline.limit_s, nodes=None, thorough=True
    )
    again = _found(search, shortages, needs, whole=whole)
    return again if again is NOBODY else min(answer, again, key=search.rank)


def _found(search: _Search, shortages: Shortages, needs: Needs, *, whole: bool) -> Answer:
    """Return what *search* finds: everybody served, or else as many as can be."""
    short = shortages.shown(needs)
    try:
        served = None if short else search.all_served()
    except OutOfTimeError:
        return search.by_priority()
    if served is None and not short and search.effort.thorough:
        shortages.add(needs)
        short = True
    return served or (NOBODY if whole and short else search.by_priority())


def solve_grouped(
    problem: Problem,
    *,
    saturation_policy: str,
    pick_part: PickPart = largest_share,
    deadline: Deadline | None = None,
    gap: float = 0.0,
    whole: bool = False,
    shortages: Shortages | None = None,
) -> Answer:
    """Return the exact answer class by class, highest first, with parts by the saturation policy
    after each.

    If all servers can be served this is solve_exact, and one solution of it; else one more for
    each class that is short. gap and optimal are those of the last of them.
    whole and *shortages* as of solve_exact.
    """
    fixed: dict[int, Choice] = {}
    rest = problem
    while True:
        answer = solve_exact(rest, deadline=deadline, gap=gap, whole=whole, shortages=shortages)
        short = [i for i, rows in enumerate(rest.options) if rows and i not in answer.choices]
        if not short:
            return replace(answer, choices={**fixed, **answer.choices})
        if whole:
            return NOBODY
        level = min(problem.priority[i] for i in short)
        fixed |= {i: choice for i, choice in answer.choices.items() if problem.priority[i] <= level}
        upper = _classes(problem, to=level)
        fixed = fill_left_over(
            upper, fixed, saturation_policy=saturation_policy, pick_part=pick_part
        )
        rest = _classes(_without(problem, fixed), after=level)
        if not any(rest.options):
            return replace(answer, choices=fixed)


def _classes(problem: Problem, *, after: float = -math.inf, to: float = math.inf) -> Problem:
    """Return *problem* with options for the priorities in (after, to] only."""
    pairs = zip(problem.priority, problem.options, strict=True)
    return replace(
        problem, options=[rows if after < priority <= to else [] for priority, rows in pairs]
    )


def _without(problem: Problem, taken: Mapping[int, Choice]) -> Problem:
    """Return *problem* with the capacity that *taken* leaves."""
    assert problem.capacity is not None, "without a limit no server is short"
    left = list(problem.capacity)
    for choice in taken.values():
        if problem.units[choice.row]:
            left[problem.type[choice.row]] -= problem.units[choice.row] * choice.replicas
    return replace(problem, capacity=left)


@dataclass(frozen=True, slots=True)
class _Options:
    """The options worth considering: row in the table, server, GPUs and score of each."""

    row: Ints
    owner: Ints
    gpus: NDArray[np.float64]
    score: NDArray[np.float64]


def _options(problem: Problem) -> _Options:
    """Return the options that fit the capacity and are not beaten: another of the same type, no
    dearer, no larger.
    """
    assert problem.capacity is not None, "unlimited capacity leaves nothing to solve"
    kept: list[tuple[int, int, int]] = []
    for i, rows in enumerate(problem.options):
        smallest: dict[int, int] = {}
        for row in rows:
            kind, gpus = problem.type[row], problem.units[row] * problem.replicas[row]
            room = problem.capacity[kind] if gpus else 0
            if gpus <= room and gpus < smallest.get(kind, gpus + 1):
                smallest[kind] = gpus
                kept.append((row, i, gpus))
    table = np.array(kept, dtype=np.int64).reshape(-1, 3)
    score = np.array([problem.score[row] for row in table[:, 0]], dtype=np.float64)
    return _Options(table[:, 0], table[:, 1], table[:, 2].astype(np.float64), score)


def _known(problem: Problem, options: _Options) -> Ints:
    """Return the greedy choices as options; if one of them is beaten, the option that beats
    it.
    """
    place: dict[tuple[int, int], list[int]] = {}
    for k, (row, owner) in enumerate(
        zip(options.row.tolist(), options.owner.tolist(), strict=True)
    ):
        place.setdefault((owner, problem.type[row]), []).append(k)
    found = []
    for i, choice in solve_greedy(problem).choices.items():
        gpus = problem.units[choice.row] * choice.replicas
        found.append(next(k for k in place[i, problem.type[choice.row]] if options.gpus[k] <= gpus))
    return np.array(found, dtype=np.int64)


def _program(problem: Problem, options: _Options, *, must: NDArray[np.bool_]) -> Program:
    assert problem.capacity is not None
    kinds = np.array(problem.type, dtype=np.int64)[options.row]
    return Program(
        owner=options.owner,
        gpus=options.gpus,
        type=np.maximum(kinds, 0),  # no type at all takes no GPUs
        capacity=np.array(problem.capacity, dtype=np.float64),
        must=must,
    )


def _nearby(problem: Problem, options: _Options) -> Answer | None:
    """Return the best answer if it is found in a few steps and is the only one: it serves every
    server that has an option, or all but one.
    """
    able = np.zeros(len(problem.names), dtype=np.bool_)
    able[options.owner] = True
    program = _program(problem, options, must=able)
    taken = only_best(program, options.score)
    if taken is None:
        taken = all_but_one(program, options.score, np.array(problem.priority, dtype=np.int64))
    if taken is None:
        return None
    total = float(options.score[taken].sum())
    return _answer(problem, options, Found(taken=taken, cost=total, bound=total, proven=True))


class _Search:
    """One run: which servers can be served, by priority, and what is spent on it."""

    def __init__(self, problem: Problem, options: _Options, effort: Effort) -> None:
        self.problem, self.options, self.effort = problem, options, effort
        self.able = np.zeros(len(problem.names), dtype=np.bool_)
        self.able[options.owner] = True
        self.priority = np.array(problem.priority, dtype=np.int64)
        self.levels = sorted(set(self.priority[self.able].tolist()))
        # The options of a solution with all the numbers served that are fixed so far; the greedy
        # one to begin with.
        self.known = _known(problem, options)

    def rank(self, answer: Answer) -> tuple[list[int], float, float, bool]:
        """Return what is less of the better answer: servers that go without, by priority, then the
        score, then what is not known.
        """
        served = [self.problem.priority[i] for i in answer.choices]
        score = sum(self.problem.score[choice.row] for choice in answer.choices.values())
        gap = math.inf if answer.gap is None else answer.gap
        return [-served.count(level) for level in self.levels], score, gap, bool(answer.note)

    def all_served(self) -> Answer | None:
        """Return the best answer that serves every server that has an option, or None if there
        is none. Raise OutOfTimeError if that is not known.
        """
        everyone = _program(self.problem, self.options, must=self.able)
        found = minimise(everyone, self.options.score, self._final())
        if found is None:
            return None
        self.known = found.taken
        return _answer(self.problem, self.options, found)

    def by_priority(self) -> Answer:
        """Return the answer if not all can be served: as many as possible, priority by
        priority.
        """
        program = _program(self.problem, self.options, must=np.zeros_like(self.able))
        certain = True
        for level in self.levels:
            program, sure = self._most(program, self.able & (self.priority == level))
            certain = certain and sure
        try:
            best = minimise(program, self.options.score, self._final(), known=self.known)
        except OutOfTimeError:
            best = None
        if best is None:
            total = float(self.options.score[self.known].sum())
            best = Found(
                taken=self.known,
                cost=total,
                bound=relaxed(program, self.options.score),
                proven=False,
            )
        self.known = best.taken
        answer = _answer(self.problem, self.options, best)
        return answer if certain else replace(answer, optimal=False, note=MORE)

    def _most(self, program: Program, here: Bools) -> tuple[Program, bool]:
        """Return *program* made to serve the most servers of *here*, and whether that number is
        certain.

        The relaxation says how many there can be at most. A solution with a given number, least
        score in mind, is found sooner than one that is only asked to be numerous; so numbers are
        tried, first among the likely options. Only that there is none with one more has to be shown
        among all.
        """
        able = int(here.sum())
        served = here[self.options.owner].astype(np.float64)
        known = int(served[self.known].sum())
        if known == able:
            return _serving(program, here, able), True
        if self.effort.left_s <= 0.0:
            return _serving(program, here, known), False
        most = min(int(-relaxed(program, -served) + 1e-6), able)
        count = self._likely(program, here, most)
        while count < most and self.effort.thorough:
            try:
                more = minimise(
                    _serving(program, here, count + 1),
                    self.options.score,
                    self._rough(thorough=True),
                )
            except OutOfTimeError:
                return _serving(program, here, count), False
            if more is None:
                most = count
            else:
                self.known, count = more.taken, int(served[more.taken].sum())
        return _serving(program, here, count), count == most

    def _likely(self, program: Program, here: Bools, most: int) -> int:
        """Return a number of servers of *here*, *most* or less, for which a solution is found among
        likely options: those of low score and whose GPUs are worth little.
        """

        def found(count: int) -> bool:
            one = minimise(
                _serving(program, here, count), self.options.score, self._rough(thorough=False)
            )
            self.known = self.known if one is None else one.taken
            return one is not None

        count, missing, step = int(here[self.options.owner[self.known]].sum()), most + 1, 1
        while missing - count > 1 and not found(max(missing - step, count + 1)):
            missing, step = max(missing - step, count + 1), 2 * step
        count = max(count, int(here[self.options.owner[self.known]].sum()))
        while missing - count > 1:
            middle = (count + missing) // 2
            count, missing = (middle, missing) if found(middle) else (count, middle)
        return count

    def _final(self) -> Effort:
        return replace(self.effort, time_limit_s=0.6 * self.effort.time_limit_s)

    def _rough(self, *, thorough: bool) -> Effort:
        share = (0.35 if thorough else 0.05) * self.effort.time_limit_s / len(self.levels)
        nodes = self.effort.nodes if thorough else LIKELY_NODES
        gap = ROUGH_GAP if thorough else ANY_GAP
        return replace(self.effort, gap=gap, time_limit_s=share, nodes=nodes, thorough=thorough)


def _serving(program: Program, here: Bools, count: int) -> Program:
    """Return *program* made to serve at least *count* of the servers *here*."""
    able = int(here.sum())
    if count == able:
        return replace(program, must=program.must | here)
    return replace(program, groups=(*program.groups, Group(np.flatnonzero(here), able - count)))


def _answer(problem: Problem, options: _Options, found: Found) -> Answer:
    rows = options.row[found.taken].tolist()
    owners = options.owner[found.taken].tolist()
    choices = {i: Choice(row, problem.replicas[row]) for i, row in zip(owners, rows, strict=True)}
    assert _fits(problem, choices.values()), "capacity exceeded"
    cost = float(options.score[found.taken].sum())
    gap = 0.0 if found.proven else max(0.0, cost - found.bound) / max(abs(cost), 1e-9)
    return Answer(choices=choices, gap=gap, optimal=found.proven)


def _fits(problem: Problem, choices: Iterable[Choice]) -> bool:
    """Tell whether the choices hold no more GPUs than there are."""
    used: dict[int, int] = {}
    for choice in choices:
        kind = problem.type[choice.row]
        used[kind] = used.get(kind, 0) + problem.units[choice.row] * choice.replicas
    assert problem.capacity is not None
    return all(kind < 0 or gpus <= problem.capacity[kind] for kind, gpus in used.items())
