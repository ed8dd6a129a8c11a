"""From the series of an engine process to what it did: growth, resets and gaps belong to one
series, sums come after; pure. Which series are of one process is in processes.py, and who
answered at one port in turns.py.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import NamedTuple

from loop.signals.names import COUNTERS, GAUGES, NAMES, Names
from loop.signals.processes import (
    KV_IDLE_MAX,
    TELL_OF_REQUESTS,
    Labels,
    Points,
    Process,
    Series,
    at_times,
    processes_of,
    tells_of_requests,
)
from loop.signals.turns import BORN_FACTOR, BORN_RPS, FLUTTER_S, by_turns
from twin.frozen import made_quickly

REASONS = frozenset({"finished_reason", "reason"})
ABORTS = frozenset({"abort", "aborted", "cancelled", "canceled", "error", "timeout"})

# More ends than this are explained by no first tokens: a series that came late with all it had
# counted before. Engines without first tokens (embeddings) count none at all.
ENDS_FACTOR_MAX, ENDS_MIN = 1.25, 5.0
TOLD = frozenset(GAUGES)
CLOCKS_S = 2.0  # of a cluster and of who scrapes, between which a restart and its sample may stand
MISSED_INTERVALS = 1.5  # after its last scrape, and whoever tells then tells in its place
# Of so many scrapes one at most at which counters have fallen, and nobody tells why: between
# others a process may have begun anew that shows more by now than the one before.
RESTARTS_OF_SCRAPES = 4
# Prompt tokens per request of the life of the process, beyond what its ends explain.
PROMPTS_FACTOR = 1.25


@made_quickly
@dataclass(frozen=True, slots=True)
class Track:
    """What one engine process told, from its first scrape in the window to its last.

    times_s: instants of the scrapes. grown: by counter, what it had grown by at each of them; where
    a counter fell the process had been restarted, and what was in it is gone. gauges: the latest
    values. alive_s: time between scrapes of one life. started_s: when the process began, if told.
    at_first: requests that it had had when it was scraped first (ended, running or waiting).
    arrived_by_…: how many requests each figure tells of. late: requests that a counter had counted
    before it was shown. running, waiting: these gauges at each scrape. tells: the gauges
    that it has. given_up: those of its ends that were. by_turns: others answer
    at its port, too. counts: it has a counter of requests; gauges alone cannot tell that none came.
    restarts: how often it has begun anew; if often, and nobody tells when, it has been alive for no
    known time.
    """

    times_s: Sequence[float]
    grown: Mapping[str, Sequence[float]]
    gauges: Mapping[str, float]
    arrived: Sequence[float]
    arrived_by_ends: float
    arrived_by_firsts: float
    arrived_by_prompts: float
    alive_s: float
    at_first: float
    ended_at_first: float
    started_s: float | None
    running: Sequence[float]
    waiting: Sequence[float]
    tells: frozenset[str]
    late: float
    given_up: float = 0.0
    by_turns: bool = False
    counts: bool = True
    restarts: int = 0

    @property
    def uncounted(self) -> bool:
        """Tell whether it worked on requests that may be none of those it tells of."""
        if self.total("prompt"):
            return True
        busy = self.total("generation") or self.gauges["kv_usage"] > KV_IDLE_MAX
        return bool(busy) and "running" not in self.tells

    @property
    def hangs(self) -> bool:
        """Tell whether requests are in it and none of its counters moved."""
        inside = self.gauges["running"] + self.gauges["waiting"]
        return inside > 0.0 and not any(grown[-1] for grown in self.grown.values())

    def total(self, counter: str) -> float | None:
        """Return the growth of *counter* over the track; None where it was not told."""
        grown = self.grown.get(counter)
        return grown[-1] if grown else None

    def came(self, begin_s: float, end_s: float) -> float:
        """Return how many requests came between two times; outside the scrapes as many as on the
        mean between them.
        """
        return max(0.0, self._by(end_s) - self._by(begin_s))

    def _by(self, time_s: float) -> float:
        times_s, arrived = self.times_s, self.arrived
        if times_s[0] < time_s < times_s[-1]:
            after = bisect_right(times_s, time_s)
            part = (time_s - times_s[after - 1]) / (times_s[after] - times_s[after - 1])
            return arrived[after - 1] + part * (arrived[after] - arrived[after - 1])
        edge = 0 if time_s <= times_s[0] else -1
        covered_s = times_s[-1] - times_s[0]
        slope = arrived[-1] / covered_s if covered_s > 0.0 else 0.0
        return arrived[edge] + (time_s - times_s[edge]) * slope


def tracks_of(
    series: Sequence[Series],
    *,
    names: Names = NAMES,
    engines: Collection[str] = (),
    speed: float = 1.0,
    restarts_s: Collection[float] = (),
) -> list[Track]:
    """Return the tracks of the processes of one pod, copies counted once. *engines* are containers
    that are known to run one each; *restarts_s* is when its engine is known to have come up again.
    Of a twin *speed* seconds pass in one of the samples.
    """
    tracks = []
    for process, begun in in_place_of_others(processes_of(series, names=names, engines=engines)):
        restarted = begun | restarts_between(process.times_s, restarts_s)
        # What falls because a process has begun anew is none of another one's.
        answered = [process] if restarted else by_turns(process, speed=speed)
        of_port = (_track(one, by_turns=len(answered) > 1, restarted=restarted) for one in answered)
        tracks += [track for track in of_port if track is not None]
    return tracks


def in_place_of_others(processes: Iterable[Process]) -> list[tuple[Process, frozenset[int]]]:
    """Return the *processes* of a pod, those as one of which each told only when the one before had
    ended (the address of a pod has changed, or labels that somebody gives it), and at which scrapes
    of it another one began: whether it goes on counting nobody knows.
    """
    chains: list[list[Process]] = []
    for process in sorted(processes, key=lambda one: one.times_s[:1]):
        chain = next((of for of in chains if _is_over(of[-1], by=process)), None)
        if chain is None:
            chains.append([process])
        else:
            chain.append(process)
    return [(chain[0], frozenset[int]()) if len(chain) == 1 else _joined(chain) for chain in chains]


def _is_over(process: Process, *, by: Process) -> bool:
    """Tell whether *process* had missed a scrape when another one, that began after it, told."""
    mine_s, its_s = process.times_s, by.times_s
    if not mine_s or not its_s or its_s[0] <= mine_s[-1]:
        return False
    intervals_s = [later - earlier for of in (mine_s, its_s) for earlier, later in pairwise(of)]
    return its_s[-1] - mine_s[-1] > MISSED_INTERVALS * max(intervals_s, default=float("inf"))


def _joined(chain: Sequence[Process]) -> tuple[Process, frozenset[int]]:
    times_s: list[float] = []
    begun: set[int] = set()
    by_quantity: dict[str, dict[Labels, Points]] = {}
    for process in chain:
        begun.add(len(times_s))
        times_s += process.times_s
        for quantity, columns in process.by_quantity.items():
            of = by_quantity.setdefault(quantity, {})
            for labels, points in columns.items():
                of[labels] = [*of.get(labels, ()), *points]
    return Process(times_s, by_quantity), frozenset(begun - {0})


def restarts_between(times_s: Sequence[float], restarts_s: Collection[float]) -> frozenset[int]:
    """Return at which of *times_s* a process has begun anew since the one before, if it did at
    *restarts_s*, of another clock; or may have, since these are its latest ones.
    """
    first_s = min(restarts_s, default=float("-inf"))
    return frozenset(
        k
        for k, (before_s, now_s) in enumerate(pairwise(times_s), start=1)
        if before_s < first_s + CLOCKS_S
        or any(before_s - CLOCKS_S < began_s <= now_s + CLOCKS_S for began_s in restarts_s)
    )


def _begun_anew(process: Process) -> Iterator[int]:
    """Yield at which scrapes *process* says that it has begun since the one before."""
    for points in process.by_quantity.get("start_time", {}).values():
        began = at_times(points, process.times_s)
        for k, (before, now) in enumerate(pairwise(began), start=1):
            if before is not None and now is not None and now - before > FLUTTER_S:
                yield k


def _track(
    process: Process, *, by_turns: bool = False, restarted: Collection[int] = ()
) -> Track | None:
    """Return what *process* did, or None where it tells nothing of an engine. *restarted* are the
    scrapes at which it has begun anew since the one before.
    """
    times_s, by_quantity = process.times_s, process.by_quantity
    if not times_s or by_quantity.keys() <= {"start_time"}:
        return None
    counts = tells_of_requests(process)
    running = _gauge(by_quantity.get("running"), times_s)
    waiting = _gauge(by_quantity.get("waiting"), times_s)
    inside = [sum(both) for both in zip(running, waiting, strict=True)]
    births = _Births(process, inside)
    known = {*restarted, *_begun_anew(process)}
    counted = {name: by_quantity[name].values() for name in COUNTERS if name in by_quantity}
    broken = known.union(_falls_at(chain.from_iterable(counted.values()), times_s))
    grown = {
        counter: _grown(columns, times_s, broken, births=births, of=counter)
        for counter, columns in counted.items()
    }
    unexplained = len(broken - known)
    unsteady = unexplained > 1 and RESTARTS_OF_SCRAPES * unexplained >= len(times_s)
    aborted = _aborted(by_quantity.get("ends", {}), times_s, births, broken=broken)
    told = _arrivals(
        process,
        grown,
        running=running,
        waiting=waiting,
        broken=broken,
        births=births,
        aborted=aborted,
    )
    ends_told = "ends" in grown or "answers" in grown
    start = by_quantity.get("start_time")
    ended = _first_value(by_quantity.get("ends") or by_quantity.get("answers"), times_s[0])
    return Track(
        times_s=times_s,
        grown=grown,
        gauges={
            "running": running[-1],
            "waiting": waiting[-1],
            "kv_usage": _fullest(by_quantity.get("kv_usage", {}).values()),
        },
        arrived=told.counted,
        arrived_by_ends=(told.by_ends if ends_told else told.counted)[-1],
        arrived_by_firsts=(told.by_firsts or told.by_ends)[-1],
        arrived_by_prompts=(told.by_prompts or told.by_ends)[-1],
        # Of requests that it does not count it has told for no time.
        alive_s=(counts and not unsteady)
        * sum(
            later - earlier
            for k, (earlier, later) in enumerate(pairwise(times_s), start=1)
            if k not in broken
        ),
        at_first=ended + inside[0],
        ended_at_first=ended,
        started_s=max(points[-1][1] for points in start.values()) if start else None,
        running=running,
        waiting=waiting,
        tells=TOLD.intersection(by_quantity),
        late=births.late,
        given_up=aborted,
        by_turns=by_turns,
        counts=counts,
        restarts=len(broken),
    )


class _Arrivals(NamedTuple):
    """How many requests had come at each scrape, by what tells of them; counted is the one of these
    that counts.
    """

    counted: list[float]
    by_ends: list[float]
    by_firsts: list[float] | None = None
    by_prompts: list[float] | None = None


def _arrivals(
    process: Process,
    grown: Mapping[str, list[float]],
    *,
    running: Sequence[float],
    waiting: Sequence[float],
    broken: set[int],
    births: _Births,
    aborted: float,
) -> _Arrivals:
    times_s, by_quantity = process.times_s, process.by_quantity
    # Some engines show the counter of ends from the first end on, some never.
    ends = max(
        (grown[name] for name in ("ends", "answers") if name in grown),
        key=lambda column: column[-1],
        default=[0.0] * len(times_s),
    )
    by_ends = _arrived(ends, births.inside, times_s, broken)
    if "firsts" in grown:
        # Of requests that run fewer than before, none may have had its first token at the start of
        # the process or of the window: so this figure cannot be too high.
        ran: list[float] = []
        for k, of_running in enumerate(running):
            ran.append(ran[-1] if k and k not in broken else of_running)
        ahead = [
            of_waiting + min(0.0, of_running - at_start)
            for of_running, of_waiting, at_start in zip(running, waiting, ran, strict=True)
        ]
        by_firsts = _arrived(grown["firsts"], ahead, times_s, broken)
        # An end needs a first token, of this window or of what ran at its start, unless it was
        # given up while it waited.
        explained = ENDS_FACTOR_MAX * (grown["firsts"][-1] + running[0]) + ENDS_MIN + aborted
        too_many = grown["firsts"][-1] > 0.0 and explained < ends[-1]
        # Requests that their clients gave up end nowhere, but had their first token.
        more = too_many or by_firsts[-1] > by_ends[-1]
        return _Arrivals(by_firsts if more else by_ends, by_ends, by_firsts=by_firsts)
    if "prompt" in grown and (each := _tokens_of_a_prompt(by_quantity)) > 0.0:
        prompts = [tokens / each for tokens in grown["prompt"]]
        by_prompts = _arrived(prompts, waiting, times_s, broken)
        more = by_prompts[-1] > PROMPTS_FACTOR * by_ends[-1] + ENDS_MIN
        return _Arrivals(by_prompts if more else by_ends, by_ends, by_prompts=by_prompts)
    return _Arrivals(by_ends, by_ends)


def _aborted(
    columns: Mapping[Labels, Points],
    times_s: Sequence[float],
    births: _Births,
    *,
    broken: Collection[int],
) -> float:
    """Return how many requests ended that were given up, by the reason that an engine names."""
    aborts = [points for labels, points in columns.items() if names_an_abort(labels)]
    return _grown(aborts, times_s, broken, births=births, of="ends")[-1]


def names_an_abort(labels: Labels) -> bool:
    """Tell whether a counter of ends with *labels* counts requests that were given up."""
    return any(label in REASONS and value in ABORTS for label, value in labels)


def _tokens_of_a_prompt(by_quantity: Mapping[str, Mapping[Labels, Points]]) -> float:
    """Return the mean length of a prompt in the life of a process, 0 if it does not tell."""
    tokens, count = (
        sum(points[-1][1] for points in by_quantity.get(name, {}).values())
        for name in ("prompt_lengths_tokens", "prompt_lengths")
    )
    return tokens / count if count > 0.0 else 0.0


class _Births:
    """What counters were when a page began to name them: nothing, if what they show first can have
    happened since the scrape before; else they had been counting before, as fast as later.

    Counters of one process that begin together are judged by those of requests.
    """

    def __init__(self, process: Process, inside: Sequence[float]) -> None:
        self.inside = inside
        self._times_s = process.times_s
        self._requests = {
            name: process.by_quantity.get(name, {}).values() for name in TELL_OF_REQUESTS
        }
        self._counted = {
            points[0][0]
            for columns in self._requests.values()
            for points in columns
            if self._impossible(points)
        }
        self._first_s = min(
            (
                time_s
                for columns in self._requests.values()
                for points in columns
                for time_s, value in points
                if value > 0.0
            ),
            default=float("inf"),
        )
        self.late = 0.0

    def before(self, points: Points, *, of: str) -> float:
        """Return what the counter *of*, that shows *points*, was at the first scrape."""
        first_s, first = points[0]
        if first_s <= self._times_s[0]:
            return first
        # Who has served requests has counted their tokens: but not all engines count each end.
        had_been = first_s in self._counted or (
            of not in ("ends", "answers") and self._first_s < first_s
        )
        if not had_been:
            return 0.0
        before = max(0.0, first - _rate_rps(points) * (first_s - self._times_s[0]))
        if of in TELL_OF_REQUESTS:
            self.late = max(self.late, before)
        return before

    def _impossible(self, points: Points) -> bool:
        first_s, first = points[0]
        k = bisect_right(self._times_s, first_s) - 1
        if k < 1:
            return False
        gap_s = first_s - self._times_s[k - 1]
        fastest_rps = BORN_RPS + BORN_FACTOR * _rate_rps(points)
        return first > self.inside[k - 1] + fastest_rps * gap_s


def _rate_rps(points: Points) -> float:
    """Return how fast a counter grows from its first sample to its last, 0 if that is not told."""
    (first_s, first), (last_s, last) = points[0], points[-1]
    return max(0.0, last - first) / (last_s - first_s) if last_s > first_s else 0.0


def _grown(
    columns: Iterable[Points],
    times_s: Sequence[float],
    broken: Collection[int],
    *,
    births: _Births,
    of: str,
) -> list[float]:
    """Return by how much the series of the counter *of* have grown in all at each of *times_s*.

    What a series was that begins later than its page *births* tell: absent is not unknown. At the
    scrapes *broken* a process has begun anew: nothing is taken to have grown over these.
    """
    total = [0.0] * len(times_s)
    for points in columns:
        before = births.before(points, of=of)
        grown = 0.0
        for k, now in enumerate(at_times(points, times_s)):
            if now is not None and k:
                grown += 0.0 if k in broken else max(0.0, now - before)
                before = now
            total[k] += grown
    return total


def _falls_at(columns: Iterable[Points], times_s: Sequence[float]) -> Iterator[int]:
    """Yield at which of *times_s* a counter shows less than before: a process that begins anew."""
    for points in columns:
        falls_s = {now_s for (_, before), (now_s, now) in pairwise(points) if now < before}
        if falls_s:
            yield from (bisect_left(times_s, fall_s) for fall_s in falls_s)


def _gauge(columns: Mapping[Labels, Points] | None, times_s: Sequence[float]) -> list[float]:
    """Return the sum of the series of one gauge at each of *times_s*; what a page does not show
    that shows others of them is 0, and if it shows none all are as they were.
    """
    shown = [at_times(points, times_s) for points in (columns or {}).values()]
    total, value = [], 0.0
    for told in zip(*shown, strict=True):
        there = [one for one in told if one is not None]
        value = sum(there) if there else value
        total.append(value)
    return total or [0.0] * len(times_s)


def _arrived(
    passed: Sequence[float], inside: Sequence[float], times_s: Sequence[float], broken: set[int]
) -> list[float]:
    """Return how many requests had come at each scrape: those that passed a point, and those that
    are more than before in front of it. Over a restart as many as on the mean of the rest: what was
    in the process is gone, and what came while it was away is not known.
    """
    steps = [
        0.0 if k in broken else passed[k] - passed[k - 1] + inside[k] - inside[k - 1]
        for k in range(1, len(passed))
    ]
    if broken:
        lost_s = sum(times_s[k] - times_s[k - 1] for k in broken)
        alive_s = times_s[-1] - times_s[0] - lost_s
        slope = sum(steps) / alive_s if alive_s > 0.0 else 0.0
        for k in broken:
            steps[k - 1] = slope * (times_s[k] - times_s[k - 1])
    return list(accumulate(steps, initial=0.0))


def _fullest(caches: Collection[Points]) -> float:
    """Return the share in use of the fullest of *caches* that the latest page shows of any."""
    latest_s = max((points[-1][0] for points in caches), default=0.0)
    told = (points[-1][1] for points in caches if points[-1][0] == latest_s)
    return max(map(share_of, told), default=0.0)


def share_of(usage: float) -> float:
    """Return a usage of the KV cache as a share of it; some exporters tell it in percent."""
    return usage if usage <= 1.0 else min(usage / 100.0, 1.0)


def _first_value(columns: Mapping[Labels, Points] | None, first_s: float) -> float:
    return sum(
        points[0][1] for points in (columns or {}).values() if points and points[0][0] <= first_s
    )
