"""Who answered at one port: one process, whose pages may come twice or out of order, or several by
turns; pure.

A counter of one process grows until that begins anew, and then from 0. What does not fit this tells
of pages that came late, of an old page passed on once more, or of workers behind one port of which
each counts for itself.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise, starmap
from math import remainder
from typing import Any

from loop.signals.names import COUNTERS
from loop.signals.processes import TELL_OF_REQUESTS, Points, Process, at_times

# A counter that a page begins to name was 0 before, if what it shows can have happened since: what
# was inside, and that at three times its later rate or at ten requests a second.
BORN_FACTOR, BORN_RPS = 3.0, 10.0
# A counter that falls alone, beside so many others that grow, for so many scrapes at most, is not
# of another process.
OTHERS_MIN, DIP_SCRAPES_MAX = 3, 2
# Sums of times grow by what was measured, which is less than nothing if a clock is set back.
TIMES = ("ttft_s", "steps_s", "per_token_s")
# An engine that generates so evenly does not stop for the time between two scrapes.
REPEAT_SCRAPES_MIN, STEADY_PART = 4, 0.5
# Of the time at which one process began, as it is told again and again: by whole seconds, as the
# start of a machine is told; two processes begin at any fractions of them.
FLUTTER_S, WHOLE_S = 2.0, 1e-3
TURNS_S_MAX = 900.0  # in longer, a process may have begun anew twice
TURNS_MIN = 2  # falls of the counters of one port, beyond which it is not one process that restarts
# An engine gives each request inside a token at twice its best mean speed at most. So many
# requests more than a scrape met may have been inside: few where counters fell, for then it may be
# several.
UNSEEN_INSIDE, UNSEEN_INSIDE_FALLS = 256.0, 4.0
SPEED_FACTOR, TOKEN_S_MIN = 2.0, 0.002


def by_turns(port: Process, *, speed: float = 1.0) -> list[Process]:
    """Return the processes that have answered by turns at *port*, which is read as one: it alone,
    but for workers behind one port of which each counts for itself.

    They are told apart by when each began, if pages tell that. Else its counters fall then, and
    later are again where they had been before: no process that begins anew counts on from there. A
    worker that was met once is taken to do as much as another. If what it seems to have done in
    between is more than any engine does, nobody knows whom which page was of, and all have been met
    once. Pages that all say the same birth are of one. Of a twin *speed* seconds pass in one of the
    scrapes.
    """
    mended = _without_times_that_fell(_with_lone_dips_mended(port))
    process = _with_steady_births(_without_repeat(mended))
    if _of_one_birth(process):
        return [_in_order(process)]
    if _one_after_the_other(process):
        return [process]
    chains = _by_birth(process)
    if chains is None:
        chains = _by_counts(process, speed=speed)
        falls = len(chains) > 1 or _falls(process)
        if any(_beyond_an_engine(process, of, falls=falls, speed=speed) for of in chains):
            chains = [[time_s] for time_s in process.times_s]
    if len(chains) < 2:
        return [process]
    met = [_at_scrapes(process, of) for of in chains if len(of) > 1]
    once = [_at_scrapes(process, of) for of in chains if len(of) == 1]
    if not met:
        return once
    return met + met[:1] * sum(map(_has_done_anything, once))


def _with_lone_dips_mended(process: Process) -> Process:
    """Return *process* with the one counter mended that falls and is back, or rises and is back,
    within a few scrapes, while no other counter of the page falls at all.

    A process that begins anew, or another one, would show in all of them: such samples came out of
    order.
    """
    columns = {
        (quantity, labels): points
        for quantity in COUNTERS
        for labels, points in process.by_quantity.get(quantity, {}).items()
    }
    fallen = [
        key
        for key, points in columns.items()
        if any(now < before for (_, before), (_, now) in pairwise(points))
    ]
    grown = sum(points[-1][1] > points[0][1] for points in columns.values())
    if len(fallen) != 1 or grown <= OTHERS_MIN:
        return process
    quantity, labels = fallen[0]
    points = _without_dips(columns[fallen[0]])
    of = {**process.by_quantity[quantity], labels: points}
    return process._replace(by_quantity={**process.by_quantity, quantity: of})


def _without_times_that_fell(process: Process) -> Process:
    """Return *process* without the sums of times that have fallen, if nothing else has: a clock was
    set back, and what was measured by it is less than nothing. Of a histogram the count tells
    whether a process has begun anew, and what the sum has grown by nobody knows.
    """
    fallen = {quantity for quantity in TIMES if _fell(process, quantity)}
    others = [quantity for quantity in COUNTERS if quantity not in fallen]
    if not fallen or any(_fell(process, quantity) for quantity in others):
        return process
    columns = [points for other in others for points in process.by_quantity.get(other, {}).values()]
    if sum(points[-1][1] > points[0][1] for points in columns) <= OTHERS_MIN:
        return process
    kept = {name: of for name, of in process.by_quantity.items() if name not in fallen}
    return process._replace(by_quantity=kept)


def _fell(process: Process, quantity: str) -> bool:
    return any(
        now < before
        for points in process.by_quantity.get(quantity, {}).values()
        for (_, before), (_, now) in pairwise(points)
    )


def _without_dips(points: Points) -> Points:
    """Return *points* with those on the line between their neighbours that are below what was
    before, or above what comes, for a few scrapes only.
    """
    kept = [points[0]]
    for k in range(1, len(points)):
        later = points[k + 1 : k + 1 + DIP_SCRAPES_MAX]
        dips = points[k][1] < kept[-1][1] and any(one[1] >= kept[-1][1] for one in later)
        spikes = any(kept[-1][1] <= one[1] < points[k][1] for one in later)
        if not dips and not spikes:
            kept.append(points[k])
    if any(now < before for (_, before), (_, now) in pairwise(kept)):
        return points
    times_s, values = zip(*kept, strict=True)
    return [(time_s, _between(time_s, times_s, values)) for time_s, _ in points]


def _between(time_s: float, times_s: Sequence[float], values: Sequence[float]) -> float:
    """Return the value at *time_s* on the lines between *values*; behind the last one that."""
    k = bisect_right(times_s, time_s)
    if k == len(times_s):
        return values[-1]
    part = (time_s - times_s[k - 1]) / (times_s[k] - times_s[k - 1])
    return values[k - 1] + part * (values[k] - values[k - 1])


def _without_repeat(process: Process) -> Process:
    """Return *process* without its latest page if that is the one before, passed on once more."""
    columns = [
        at_times(points, process.times_s)
        for counter in COUNTERS
        for points in process.by_quantity.get(counter, {}).values()
    ]
    generated = _values(process, "generation")
    if len(generated) < REPEAT_SCRAPES_MIN or any(of[-1] != of[-2] for of in columns):
        return process
    grown = [now - before for before, now in pairwise(generated)][:-1]
    inside = _values(process, "running")[-1]
    if not repeats(inside=inside, least=min(grown), most=max(grown)):
        return process
    return _at_scrapes(process, process.times_s[:-1])


def repeats(*, inside: Any, least: Any, most: Any) -> Any:
    """Tell whether a page on which no counter has moved is an old one: there are requests *inside*,
    and from page to page before so many tokens were generated at *least* and at *most*; numbers, or
    arrays of them.
    """
    return (inside > 0.0) & (most > 0.0) & (least >= STEADY_PART * most)


def _with_steady_births(process: Process) -> Process:
    """Return *process* with births as one that are some whole seconds apart, where no counter falls
    from page to page of these: some programs reckon it anew from the start of the machine, which
    moves when its clock is set.
    """
    columns = process.by_quantity.get("start_time", {})
    if len(columns) != 1:
        return process
    ((labels, points),) = columns.items()
    known: dict[float, list[float]] = {}
    for began in sorted({began for _, began in points}):
        for first, of in known.items():
            apart_s = began - first
            if apart_s <= FLUTTER_S and abs(remainder(apart_s, 1.0)) <= WHOLE_S:
                of.append(began)
                break
        else:
            known[began] = [began]
    steady: dict[float, float] = {}
    for first, of in known.items():
        times_s = [time_s for time_s, began in points if began in of]
        if len(of) > 1 and not _falls(_at_scrapes(process, times_s)):
            steady |= dict.fromkeys(of, first)
    births = {labels: [(time_s, steady.get(began, began)) for time_s, began in points]}
    order = [began for _, began in births[labels]]
    # Workers begin a moment apart, and answer by turns; one that begins anew does neither.
    apart = all(later[0] - earlier[-1] > FLUTTER_S for earlier, later in pairwise(known.values()))
    if not steady or not apart or order != sorted(order):
        return process
    return process._replace(by_quantity={**process.by_quantity, "start_time": births})


def _of_one_birth(process: Process) -> bool:
    """Tell whether all pages say that they are of a process that began at one time."""
    columns = list(process.by_quantity.get("start_time", {}).values())
    if len(columns) != 1 or len(columns[0]) != len(process.times_s):
        return False
    return len({began for _, began in columns[0]}) == 1


def _one_after_the_other(process: Process) -> bool:
    """Tell whether pages are of processes of which each began after the one before had answered
    for the last time, by one and the same epoch of the times of pages, for births are dates.

    It takes two beginnings: one of any two workers has some epoch.
    """
    columns = list(process.by_quantity.get("start_time", {}).values())
    if len(columns) != 1 or len(columns[0]) != len(process.times_s):
        return False
    changes = [of for of in pairwise(columns[0]) if of[0][1] != of[1][1]]
    # Workers of one port begin a moment apart, and an older one may answer after a younger one.
    if len(changes) < 2 or any(now - before <= FLUTTER_S for (_, before), (_, now) in changes):
        return False
    begun = [(now - now_s, now - before_s) for (before_s, _), (now_s, now) in changes]
    least, most = max(least for least, _ in begun), min(most for _, most in begun)
    return least <= most + FLUTTER_S


def _falls(process: Process) -> bool:
    return any(_fell(process, counter) for counter in COUNTERS)


def _in_order(process: Process) -> Process:
    """Return *process*, which is one, without pages that came out of order: a few whose counters
    show less than those before, and later go on from there.
    """
    columns = [
        at_times(points, process.times_s)
        for counter in COUNTERS
        for points in process.by_quantity.get(counter, {}).values()
    ]
    shown = list(zip(*columns, strict=True))
    if not any(starmap(_less, pairwise(shown))):
        return process
    kept = [0]
    for k in range(1, len(shown)):
        before, later = shown[kept[-1]], shown[k + 1 : k + 1 + DIP_SCRAPES_MAX]
        if not _less(before, shown[k]) or all(_less(before, one) for one in later):
            kept.append(k)
    return _at_scrapes(process, [process.times_s[k] for k in kept])


def _has_done_anything(process: Process) -> bool:
    return any(any(_values(process, name)) for name in TELL_OF_REQUESTS)


def _by_birth(process: Process) -> list[list[float]] | None:
    """Return the scrapes of each process by when it began, None if these do not come by turns."""
    columns = list(process.by_quantity.get("start_time", {}).values())
    if len(columns) != 1 or len(columns[0]) != len(process.times_s):
        return None
    of: dict[float, list[float]] = defaultdict(list)
    for time_s, began in columns[0]:
        of[began].append(time_s)
    order = [began for _, began in columns[0]]
    # A process that begins anew is younger than the one before, and that never answers again.
    return None if order == sorted(order) else list(of.values())


def _beyond_an_engine(
    process: Process, times_s: Sequence[float], *, falls: bool, speed: float
) -> bool:
    """Tell whether between two of *times_s* more tokens were generated than an engine with the
    requests that were met in it can generate.
    """
    columns = [
        at_times(points, process.times_s)
        for points in process.by_quantity.get("generation", {}).values()
    ]
    at = {time_s: k for k, time_s in enumerate(process.times_s)}
    running, waiting, steps, seconds, firsts, generated = (
        _values(process, name)
        for name in ("running", "waiting", "steps", "steps_s", "firsts", "generation")
    )
    tokens = [
        max(told, given - first)
        for told, given, first in zip(steps, generated, firsts, strict=True)
    ]
    of_life = list(zip(seconds, tokens, strict=True))
    grown = [
        (now_s - before_s, now - before) for (before_s, before), (now_s, now) in pairwise(of_life)
    ]
    most_tps = tokens_per_s_most(
        inside=max(map(sum, zip(running, waiting, strict=True)), default=0.0),
        token_s=min(
            (total_s / count for total_s, count in (*of_life, *grown) if min(total_s, count) > 0.0),
            default=0.0,
        ),
        falls=falls,
    )
    for before_s, now_s in pairwise(times_s):
        shown = [(column[at[before_s]], column[at[now_s]]) for column in columns]
        more = sum(now - before for before, now in shown if before is not None and now is not None)
        if more > most_tps * speed * (now_s - before_s):
            return True
    return False


def tokens_per_s_most(*, inside: Any, token_s: Any, falls: bool) -> Any:
    """Return how many tokens a second an engine generates at most, in which so many requests were
    met *inside* and that gave each a token every *token_s* at its fastest (0: it does not tell);
    numbers, or arrays of them.
    """
    unseen = UNSEEN_INSIDE_FALLS if falls else UNSEEN_INSIDE
    # The larger of the two, of arrays as of numbers.
    longest_s = token_s + (TOKEN_S_MIN - token_s) * (token_s < TOKEN_S_MIN)
    return SPEED_FACTOR * (inside + unseen) / longest_s


def _values(process: Process, quantity: str) -> list[float]:
    """Return the sum of the series of *quantity* at each scrape; what is not shown is 0."""
    columns = process.by_quantity.get(quantity, {}).values()
    shown = [at_times(points, process.times_s) for points in columns]
    return [sum(filter(None, (column[k] for column in shown))) for k in range(len(process.times_s))]


def _by_counts(process: Process, *, speed: float) -> list[list[float]]:
    """Return the scrapes of each process by what its counters show, all as one if these can be of
    one.
    """
    counters = [
        points for counter in COUNTERS for points in process.by_quantity.get(counter, {}).values()
    ]
    times_s = process.times_s
    if not times_s or times_s[-1] - times_s[0] > TURNS_S_MAX:
        return [list(times_s)]
    if not any(now < before for points in counters for (_, before), (_, now) in pairwise(points)):
        return [list(times_s)]
    columns = [at_times(points, times_s) for points in counters]
    shown = list(zip(*columns, strict=True))
    falls = sum(starmap(_less, pairwise(shown)))
    requests = [
        at_times(points, times_s)
        for name in TELL_OF_REQUESTS
        for points in process.by_quantity.get(name, {}).values()
    ]
    most_rps = BORN_RPS * speed + BORN_FACTOR * _slowest_rps(requests, times_s)
    chains: list[list[int]] = []
    turns, jumps = 0, False
    for k, now in enumerate(shown):
        fitting = []
        for of in chains:
            if _less(shown[of[-1]], now):
                continue
            if _most(requests, of[-1], k) > most_rps * (times_s[k] - times_s[of[-1]]):
                jumps = True
            else:
                fitting.append(of)
        found = min(fitting, key=lambda of: _distance(shown[of[-1]], now), default=None)
        if found is None:
            chains.append([k])
            continue
        turns += found[-1] != k - 1
        found.append(k)
    if not turns or (falls < TURNS_MIN and not jumps):
        return [list(times_s)]
    return [[times_s[k] for k in of] for of in chains]


def _slowest_rps(columns: Iterable[Sequence[float | None]], times_s: Sequence[float]) -> float:
    """Return the least rate at which any of *columns* grew from one time to another."""
    rises = (
        (now - before) / (time_s - earlier_s)
        for column in columns
        for (earlier_s, before), (time_s, now) in combinations(zip(times_s, column, strict=True), 2)
        if before is not None and now is not None and now > before
    )
    return min(rises, default=0.0)


def _most(columns: Iterable[Sequence[float | None]], k: int, later: int) -> float:
    """Return by how much the fastest of *columns* grew between two places."""
    steps = ((column[k], column[later]) for column in columns)
    return max(
        (now - before for before, now in steps if before is not None and now is not None),
        default=0.0,
    )


def _less(before: Sequence[float | None], now: Sequence[float | None]) -> bool:
    """Tell whether any counter shows less *now* than *before*."""
    return any(
        old is not None and new is not None and new < old
        for old, new in zip(before, now, strict=True)
    )


def _distance(before: Sequence[float | None], now: Sequence[float | None]) -> float:
    return sum(
        new - old
        for old, new in zip(before, now, strict=True)
        if old is not None and new is not None
    )


def _at_scrapes(process: Process, times_s: list[float]) -> Process:
    """Return what *process* showed at *times_s*."""
    kept = set(times_s)
    return Process(
        times_s,
        {
            quantity: {
                labels: points
                for labels, all_points in of.items()
                if (points := [point for point in all_points if point[0] in kept])
            }
            for quantity, of in process.by_quantity.items()
        },
    )
