"""alpha, beta and gamma of a replica from request logs: which rows are fitted, which form of the
latency model is chosen, and how well the logs are replayed and predicted.

The search itself is in twin.fit.search. docs/validation.md says how well this does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from twin.fit.clients import Late, apart
from twin.fit.datasheet import SEQUENCE_MS
from twin.fit.exposure import Vector
from twin.fit.point_search import PointSearch
from twin.fit.replay import ReplayScore, ReplicaLimits, check_fits, score_logs
from twin.fit.request_csv import RequestRows
from twin.fit.search import (
    COEFFICIENTS,
    MANY_POINTS,
    PLAIN,
    Expected,
    Family,
    Prior,
    Search,
)
from twin.spec import LatencyModel, SpecError

ROWS_MIN = 10
# How many requests a user public tables count as a rule, from an empty server on.
ASKED_EACH = 10
POINTS_MIN = 3  # of a table of operating points, each of which stands for many requests
# More users than this are no load that anybody measured, and would be simulated for hours.
USERS_MAX = 10_000
# Of a table of fewer none are held out to choose a family. Of one of more, half is predicted by the
# rest once, not both halves by each other: each point is a simulation.
HELD_OUT_MIN, BOTH_MAX = 10, 20
# Of a longer log this many are fitted unless the caller names others: a fit replays them some 900
# times.
ROWS_FITTED_MAX = 1000
# How much of alpha is launching, not reading the weights: between 10 and 30 % by data sheets.
LAUNCH_SHARE = 0.2
FAMILIES = (
    PLAIN,
    Family(p=1.0, launch_share=0.0, scheduling="async"),
    Family(p=1.5, launch_share=LAUNCH_SHARE, scheduling="sync"),
    Family(p=1.5, launch_share=LAUNCH_SHARE, scheduling="sync", sequence_ms=SEQUENCE_MS),
    Family(p=1.5, launch_share=LAUNCH_SHARE, scheduling="async"),
)
# Another family than the plain one must predict the second halves better by this share.
BETTER = 0.05
# How much an error of TTFT counts beside one of E2E in that choice.
TTFT_COUNTS = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """The latency model found, and how a replay of the whole logs with it scores.

    overhead_ms is what a request spends outside the engine, found with the model if it was asked
    for (with_overhead), else 0. lowest and highest hold each coefficient's extremes among the
    latency models tried that fit nearly as well: if they are far apart the logs do not tell the
    coefficients from each other, and only their sum over its batches is known. fitted are the rows
    of each log, in order of arrival, whose times were used; held_out is the score of the rows after
    them, None if there are none. carried is how many of the fitted ones still waited when the first
    of those came: their queue is replayed, so what it is off by is in the errors of the later ones
    too. family was chosen by check, the score of the second halves of the fitted rows by a model
    fitted on the first halves; None if a log is too short for it. families holds such scores of all
    that were tried. evaluations is how many replays the fit took. apart tells by how much later the
    first tokens of each file came than was replayed, where their clients are not alike.
    """

    sources: tuple[str, ...]
    failed: int
    family: Family
    families: Mapping[Family, ReplayScore]
    latency_model: LatencyModel
    overhead_ms: float
    lowest: LatencyModel
    highest: LatencyModel
    limits: ReplicaLimits
    fitted: slice
    of_table: bool
    prior: Prior | None
    all_rows: ReplayScore
    fitted_rows: ReplayScore
    held_out: ReplayScore | None
    carried: int
    check: ReplayScore | None
    preemptions: int
    evaluations: int
    with_overhead: bool = False
    is_usual: bool | None = None
    apart: tuple[Late, ...] = ()


def fit_logs(
    logs: Sequence[RequestRows],
    *,
    limits: ReplicaLimits,
    fitted: slice | None = None,
    prior: Prior | None = None,
    with_overhead: bool = False,
    families: Sequence[Family] = (PLAIN,),
    start: LatencyModel | None = None,
    overhead: Expected | None = None,
) -> FitResult:
    """Fit the requests *fitted* of each of *logs*, of a replica that began each of them idle.

    fitted None means all, up to ROWS_FITTED_MAX together. The fit sees no row after them, the
    scores see all. with_overhead asks for the time that requests spend outside the engine, as logs
    of clients hold it. Of *families* the one is taken that predicts best what was held out. With
    *start* the search begins near that model instead of everywhere, which takes a tenth of the
    time. *overhead* is what is thought of that time before. Raise SpecError,
    one line, for a log or a limit that cannot be.
    """
    part = fitted or slice(max(ROWS_FITTED_MAX // len(logs), ROWS_MIN))
    _check(logs, part, limits)
    of_points = start is None and all(rows.points for rows in logs)
    given: dict[str, Any] = {
        "part": part,
        "limits": limits,
        "prior": prior,
        "with_overhead": with_overhead,
        "overhead": overhead,
    }
    stop = max(part.indices(len(rows))[1] for rows in logs)
    kinds = _of_a_table(families)
    logs, is_usual = _as_measured(logs, kinds[0], given) if of_points else (logs, None)
    seen = [rows.part(part) for rows in logs]
    if of_points:
        end = _of_points(logs, kinds, seen, given)
    else:
        begin = _figures(start or _sheet(logs, prior))
        first = Search(logs, family=families[0], start=begin, **given)
        end = _of_requests(first, families, seen, is_near=begin is not None)
    search, latency_model, overhead_ms = end.search, end.latency_model, end.overhead_ms
    evaluations = end.evaluations + search.probe()
    lowest, highest = search.nearly_as_good()
    replays = search.replays(logs, latency_model, overhead_ms)
    held_out = slice(stop, None)
    some_held_out = all(len(rows) > stop for rows in logs)
    return FitResult(
        sources=tuple(rows.source for rows in logs),
        failed=sum(rows.failed for rows in logs),
        family=search.family,
        families=end.halves,
        latency_model=latency_model,
        overhead_ms=overhead_ms,
        lowest=lowest,
        highest=highest,
        limits=limits,
        fitted=part,
        of_table=of_points,
        prior=prior,
        all_rows=score_logs(logs, replays, of=slice(None)),
        fitted_rows=score_logs(logs, replays, of=part),
        held_out=score_logs(logs, replays, of=held_out) if some_held_out else None,
        carried=sum(_waiting(rows, stop) for rows in logs if not rows.points),
        check=end.halves.get(search.family),
        preemptions=sum(int(replayed.preemptions.sum()) for replayed in replays),
        evaluations=evaluations,
        with_overhead=with_overhead,
        is_usual=is_usual,
        apart=apart(logs, replays) if with_overhead else (),
    )


def _waiting(rows: RequestRows, stop: int) -> int:
    """Return how many of the first *stop* requests had no token when the next one came."""
    if stop >= len(rows):
        return 0
    return int((rows.first_token_s[:stop] > rows.queued_s[stop]).sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """Where a search ended, and what it took; halves as FitResult.families. is_near: it did not
    look far, so that other models may explain the same.
    """

    search: Search
    latency_model: LatencyModel
    overhead_ms: float
    halves: Mapping[Family, ReplayScore]
    evaluations: int
    is_near: bool


def _of_requests(
    first: Search, families: Sequence[Family], seen: Sequence[RequestRows], *, is_near: bool
) -> _End:
    """Return what is found of the family whose first halves predict the second ones best."""
    search = first
    latency_model, overhead_ms = search.best()
    evaluations = search.evaluations
    halves: dict[Family, ReplayScore] = {}
    if min(map(len, seen)) >= 2 * ROWS_MIN:
        for family in families:
            halves[family], tried = _halves(seen, search.like(family))
            evaluations += tried
    family = _chosen(halves, families)
    if family != families[0]:
        search = search.like(family)
        latency_model, overhead_ms = search.best()
        evaluations += search.evaluations
    return _End(
        search=search,
        latency_model=latency_model,
        overhead_ms=overhead_ms,
        halves=halves,
        evaluations=evaluations,
        is_near=is_near,
    )


def _of_points(
    logs: Sequence[RequestRows],
    families: Sequence[Family],
    seen: Sequence[RequestRows],
    given: Mapping[str, Any],
) -> _End:
    """Return what is found of the family that predicts best the points that it was not fitted to;
    of a table too short for that, of the roofline that explains most.
    """
    halves: dict[Family, ReplayScore] = {}
    evaluations = 0
    if min(map(len, seen)) >= HELD_OUT_MIN:
        errors: dict[Family, Vector] = {}
        for family in families:
            halves[family], errors[family], tried = _predicted(seen, family, given)
            evaluations += tried
        chosen = [first_of_the_best(errors)]
    else:
        chosen = [each for each in families if each.p != 1.0] or list(families)
    searches = [PointSearch(logs, family=family, **given) for family in chosen]
    ends = [search.best() for search in searches]
    place = min(range(len(ends)), key=lambda place: searches[place].cost)
    search, (latency_model, overhead_ms) = searches[place], ends[place]
    return _End(
        search=search,
        latency_model=latency_model,
        overhead_ms=overhead_ms,
        # The one that was chosen with what was found of it.
        halves={search.family if each in chosen else each: halves[each] for each in halves},
        evaluations=evaluations + sum(search.evaluations for search in searches),
        is_near=True,
    )


def _as_measured(
    logs: Sequence[RequestRows], family: Family, given: Mapping[str, Any]
) -> tuple[Sequence[RequestRows], bool | None]:
    """Return *logs* with the points of users that do not tell how many requests were measured taken
    for a full server, or for ASKED_EACH a user from an empty server on: what a model of *family*
    explains better; and whether it is the latter. None: there are no such points.
    """
    usual = [rows.with_requests(ASKED_EACH) for rows in logs]
    if all(one.points == rows.points for one, rows in zip(usual, logs, strict=True)):
        return logs, None
    costs = []
    for each in (logs, usual):
        search = PointSearch(each, family=family, **given)
        search.best()
        costs.append(search.cost)
    is_usual = costs[1] < costs[0]
    return (usual if is_usual else logs), is_usual


def _predicted(
    seen: Sequence[RequestRows], family: Family, given: Mapping[str, Any]
) -> tuple[ReplayScore, Vector, int]:
    """Return how models of *family*, fitted to every other point of *seen* by load, predict the
    others, the error of each of these, and the replays that this took.
    """
    turns = (False, True) if max(map(len, seen)) <= BOTH_MAX else (False,)
    half = min(map(len, seen)) // 2
    rows, replays, evaluations = [], [], 0
    for turned in turns:
        points = [alternating(each, turned=turned) for each in seen]
        search = PointSearch(points, family=family, **{**given, "part": slice(half)})
        latency_model, overhead_ms = search.best()
        rows += points
        replays += search.replays(points, latency_model, overhead_ms)
        evaluations += search.evaluations
    held_out = slice(half, None)
    errors = [
        np.abs(found.last_token_s / each.e2e_s - 1.0)
        + TTFT_COUNTS * np.abs(found.first_token_s / each.ttft_s - 1.0)
        for each, found in zip(rows, replays, strict=True)  # of points, which begin at 0
    ]
    apart = np.concatenate([each[held_out] for each in errors])
    return score_logs(rows, replays, of=held_out), apart, evaluations


def first_of_the_best(errors: Mapping[Family, Vector]) -> Family:
    """Return the first family whose *errors* of the same points are within one standard error of
    those of the best: of a few points what is a little better is so by chance.
    """
    best = errors[min(errors, key=lambda family: float(errors[family].mean()))]

    def is_as_good(family: Family) -> bool:
        worse = errors[family] - best
        chance = float(worse.std(ddof=1)) / len(worse) ** 0.5
        return bool(worse.mean() <= chance)

    return next(family for family in errors if is_as_good(family))


def alternating(rows: RequestRows, *, turned: bool = False) -> RequestRows:
    """Return the operating points *rows* with every other one by load in the first half, or the
    others if *turned*: a sweep that is cut in two asks its light loads to tell the heavy ones.
    """

    def load(place: int) -> tuple[float, ...]:
        point = rows.points[place]
        return (point.users or 0, point.rate_rps or 0.0, point.input_tokens, point.output_tokens)

    order = sorted(range(len(rows)), key=load)
    first, second = (order[1::2], order[::2]) if turned else (order[::2], order[1::2])
    return rows.in_order([*first, *second])


def _of_a_table(families: Sequence[Family]) -> list[Family]:
    """Return one of *families* for each form and way to plan, the rooflines first: of those p and
    the host are searched for.
    """
    kinds = {(family.p == 1.0, family.scheduling): family for family in families}
    return sorted(kinds.values(), key=lambda family: family.p == 1.0)


def _sheet(logs: Sequence[RequestRows], prior: Prior | None) -> LatencyModel | None:
    """Return where to begin with a table so large that a search everywhere would take minutes."""
    many = max(len(rows.points) for rows in logs) > MANY_POINTS
    return prior.latency_model if prior is not None and many else None


def _figures(model: LatencyModel | None) -> Vector | None:
    if model is None:
        return None
    return np.array([getattr(model, field) for _, field, _ in COEFFICIENTS])


def _check(logs: Sequence[RequestRows], part: slice, limits: ReplicaLimits) -> None:
    for rows in logs:
        _check_part(rows, part)
        check_fits(rows, limits)
        for line, point in zip(rows.line.tolist(), rows.points, strict=False):
            if (point.users or 0) > USERS_MAX:
                raise SpecError(
                    f"{rows.source}: {rows.place} {line}: concurrency: expected at most "
                    f"{USERS_MAX:,}, found {point.users:,}"
                )


def _check_part(rows: RequestRows, part: slice) -> None:
    start, stop, step = part.indices(len(rows))
    rows_min = POINTS_MIN if rows.points else ROWS_MIN
    if step != 1 or stop - start < rows_min:
        found = len(range(start, stop)) if step == 1 else 1
        what = "operating points (of one or more files)" if rows.points else "consecutive rows"
        raise SpecError(f"{rows.source}: expected at least {rows_min} {what} to fit, found {found}")


def _chosen(halves: Mapping[Family, ReplayScore], families: Sequence[Family]) -> Family:
    """Return the family that predicts best; the first of *families* unless another is clearly
    better.
    """

    def error(family: Family) -> float:
        return halves[family].e2e_mape + TTFT_COUNTS * halves[family].ttft_mape

    if not halves:
        return families[0]
    best = min(halves, key=error)
    return best if error(best) < (1.0 - BETTER) * error(families[0]) else families[0]


def _halves(seen: Sequence[RequestRows], search: Search) -> tuple[ReplayScore, int]:
    """Return how a model of the first halves of *seen* predicts the second ones, and the replays
    that this took.

    The search starts at the model of the whole: that saves time, and the halves decide where it
    ends.
    """
    half = min(map(len, seen)) // 2
    search = search.over(seen, slice(half))
    latency_model, overhead_ms = search.best()
    replays = search.replays(seen, latency_model, overhead_ms)
    return score_logs(seen, replays, of=slice(half, None)), search.evaluations
