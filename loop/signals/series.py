"""From scraped series to what each engine process did: growth, resets and gaps belong to one
series, sums come after; pure.

A pod may run several engines (data-parallel ranks, on ports of their own or on one page), each may
be scraped more than once (two jobs, a pair of Prometheus servers), and each metric may have several
series (one a finish reason). What tells them apart is in the labels, except for copies of one
target under another name, which are known by their values.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, combinations, pairwise, starmap
from typing import NamedTuple

from loop.signals.names import COUNTERS, GAUGES, NAMES, Names

Labels = tuple[tuple[str, str], ...]
Points = Sequence[tuple[float, float]]  # (time [s of the run], value), in order of time

# Labels by which one process tells several series of one metric apart.
OF_A_SERIES = frozenset({"finished_reason", "reason", "model_name", "model", "le", "quantile"})
REASONS = frozenset({"finished_reason", "reason"})
ABORTS = frozenset({"abort", "aborted", "cancelled", "canceled", "error", "timeout"})
CONTAINER = "container"
# Times that a process has measured end in digits that no other process's have.
MEASURED_DIGITS = 4  # after the point, in seconds: finer ones are no figures that somebody made up
MEASURED = (("firsts", "ttft_s"), ("steps", "steps_s"), ("per_token", "per_token_s"))
# Labels that a scraper adds and that name the scrape, not what was scraped: series that differ in
# these alone are copies.
OF_A_SCRAPE = frozenset(
    {"job", "service", "prometheus", "prometheus_replica", "replica", "__replica__"}
    | {"receive", "tenant_id", "cluster", "monitor", "scrape_job"}
)
# Engines of one pod that differ in these are never copies of each other.
RANKS = ("engine", "rank", "dp_rank", "tp_rank", "pp_rank")
# Ranks that compute the same batch together: each tells the gauges of all of them.
OF_ONE_BATCH = frozenset({"tp_rank", "pp_rank", "moe_ep_rank"})
VALUE_MAX = 1e15  # tokens of a century, and sums of as many series as there are stay finite
TELL_OF_REQUESTS = ("ends", "answers", "firsts")
# Labels that tell targets and engines apart, and never what one page shows of one engine.
APART = frozenset((*RANKS, CONTAINER, "instance", "port", "endpoint"))
MODEL_NAME = "model_name"
# What a page calls its own, which a scraper that has a label of that name renames.
_EXPORTED = {f"exported_{label}": label for label in (*OF_A_SERIES, *RANKS)}
_PORT = re.compile(r":\d+$")

# More ends than this are explained by no first tokens: a series that came late with all it had
# counted before. Engines without first tokens (embeddings) count none at all.
ENDS_FACTOR_MAX, ENDS_MIN = 1.25, 5.0
# A counter that a page begins to name was 0 before, if what it shows can have happened since: what
# was inside, and that at three times its later rate or at ten requests a second.
BORN_FACTOR, BORN_RPS = 3.0, 10.0
TURNS_S_MAX = 900.0  # in longer, a process may have begun anew twice
TURNS_MIN = 2  # falls of the counters of one port, beyond which it is not one process that restarts
SAME_SCRAPE_S = 1.0  # samples of one page are of one scrape if their times differ by no more
KV_IDLE_MAX = 0.01  # of an engine that does nothing; some blocks are never free
# Prompt tokens per request of the life of the process, beyond what its ends explain.
PROMPTS_FACTOR = 1.25


class Series(NamedTuple):
    """One time series as scraped. labels: all but the metric's name, the pod and its namespace."""

    metric: str
    labels: Labels
    points: Points


@dataclass(frozen=True, slots=True)
class Track:
    """What one engine process told, from its first scrape in the window to its last.

    times_s: instants of the scrapes. grown: by counter, what it had grown by at each of them; where
    a counter fell the process had been restarted, and what was in it is gone. gauges: the latest
    values. alive_s: time between scrapes of one life. started_s: when the process began, if told.
    at_first: requests that it had had when it was scraped first (ended, running or waiting).
    arrived_by_…: how many requests each figure tells of. late: requests that a counter had counted
    before it was shown. running, waiting: these gauges at each scrape. tells_running: it has a
    gauge of the requests that run. by_turns: others answer at its port, too.
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
    tells_running: bool
    late: float
    by_turns: bool = False

    @property
    def uncounted(self) -> bool:
        """Tell whether it worked on requests that may be none of those it tells of."""
        if self.total("prompt"):
            return True
        busy = self.total("generation") or self.gauges["kv_usage"] > KV_IDLE_MAX
        return bool(busy) and not self.tells_running

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


def model_names(series: Iterable[Series]) -> frozenset[str]:
    """Return what engines call the models that they serve (vLLM's label model_name)."""
    return frozenset(
        value
        for labels in {one.labels for one in series}
        for label, value in labels
        if label == MODEL_NAME and value
    )


def tracks_of(
    series: Sequence[Series], *, names: Names = NAMES, engines: Collection[str] = ()
) -> list[Track]:
    """Return the tracks of the processes of one pod, copies counted once. *engines* are containers
    that are known to run one each.

    A process whose page names no counter of requests or prompts is left out: gauges alone cannot
    tell that nothing came.
    """
    targets: dict[Labels, dict[Labels, list[Series]]] = defaultdict(lambda: defaultdict(list))
    by_labels: dict[Labels, list[Series]] = {}
    for one in series:
        # Most series of a page differ in their metric alone: labels are told apart once.
        alike = by_labels.get(one.labels)
        if alike is None:
            kept = [pair for pair in _of_the_page(one.labels) if pair[0] not in OF_A_SERIES]
            scrape = tuple(pair for pair in kept if pair[0] in OF_A_SCRAPE)
            target = tuple(pair for pair in kept if pair[0] not in OF_A_SCRAPE)
            alike = by_labels[one.labels] = targets[target][scrape]
        alike.append(one)
    found: list[tuple[Labels, _Process]] = []
    for target, scrapes in targets.items():
        processes = [_process(of_one, names) for of_one in scrapes.values()]
        apart = list[_Process]()
        for process in sorted(processes, key=_completeness, reverse=True):
            if all(_contradict(process, of) for of in apart):
                apart.append(process)
        found += [(target, process) for process in apart]
    if len(found) > 1:
        found = _without_copies(found, engines=engines)
    tracks = []
    for process in _whole(found):
        by_turns = _by_turns(process)
        of_port = (_track(one, by_turns=len(by_turns) > 1) for one in by_turns)
        tracks += [track for track in of_port if track is not None]
    return tracks


def _of_the_page(labels: Labels) -> Labels:
    """Return *labels* with those of the page under the names that they have there: a scraper that
    adds labels of the same names keeps them as exported_….
    """
    if all(label not in _EXPORTED for label, _ in labels):
        return labels
    told = dict(labels)
    for label in told.keys() & _EXPORTED.keys():
        told[_EXPORTED[label]] = told.pop(label)
    return tuple(sorted(told.items()))


class _Page(NamedTuple):
    """A process that tells of requests, its labels, and the quantities that it shows under them."""

    labels: Mapping[str, str]
    process: _Process
    quantities: frozenset[str]

    def shows(self, labels: Mapping[str, str], process: _Process) -> bool:
        """Tell whether *process* is what the same page shows under further *labels*: other
        quantities, at the same scrapes.
        """
        return (
            self.labels.items() < labels.items()
            and APART.isdisjoint(labels.keys() - self.labels.keys())
            and self.quantities.isdisjoint(process.by_quantity)
            and set(process.times_s) <= set(self.process.times_s)
        )

    def joined(self, further: Labels, columns: Mapping[str, Mapping[Labels, Points]]) -> _Page:
        """Return the page with *columns* of series that have *further* labels."""
        by_quantity = dict(self.process.by_quantity)
        for quantity, of in columns.items():
            own = {(*further, *labels): points for labels, points in of.items()}
            by_quantity[quantity] = {**by_quantity.get(quantity, {}), **own}
        return self._replace(process=_Process(self.process.times_s, by_quantity))


def _whole(found: list[tuple[Labels, _Process]]) -> list[_Process]:
    """Return the processes that tell of requests, with what their pages show of them under further
    labels: SGLang's scheduler adds its ranks to gauges, and an exporter may tell one counter by
    method and the others not.
    """
    pages: list[_Page] = []
    gauges: list[tuple[Labels, _Process]] = []
    for target, process in sorted(found, key=lambda one: (-len(one[1].by_quantity), one[0])):
        if not _tells_of_requests(process):
            gauges.append((target, process))
            continue
        labels = dict(target)
        k = next((k for k, page in enumerate(pages) if page.shows(labels, process)), None)
        if k is None:
            pages.append(_Page(labels, process, frozenset(process.by_quantity)))
        else:
            further = tuple(pair for pair in target if pair[0] not in pages[k].labels)
            pages[k] = pages[k].joined(further, process.by_quantity)
    seen: set[Labels] = set()
    for target, process in sorted(gauges, key=lambda one: one[0]):
        batch = tuple(pair for pair in target if pair[0] not in OF_ONE_BATCH)
        k = next(
            (
                k
                for k, page in enumerate(pages)
                if all(page.labels.get(label, value) == value for label, value in target)
            ),
            None,
        )
        if k is None or batch in seen:
            continue
        seen.add(batch)
        times_s = pages[k].process.times_s
        columns = {
            quantity: {own: _held_at(points, times_s) for own, points in of.items()}
            for quantity, of in process.by_quantity.items()
            if quantity in GAUGES
        }
        pages[k] = pages[k].joined(batch, columns)
    return [page.process for page in pages]


def _tells_of_requests(process: _Process) -> bool:
    return any(process.by_quantity.get(name) for name in TELL_OF_REQUESTS)


def _held_at(points: Points, times_s: Sequence[float]) -> Points:
    """Return the value at each of *times_s*: the latest one, before the first the first."""
    told_s = [time_s for time_s, _ in points]
    return [(time_s, points[max(0, bisect_right(told_s, time_s) - 1)][1]) for time_s in times_s]


class _Process(NamedTuple):
    """One process as one scraper saw it: by quantity its series, each with its labels."""

    times_s: list[float]
    by_quantity: Mapping[str, Mapping[Labels, Points]]


def _completeness(process: _Process) -> tuple[float, int, int]:
    times_s = process.times_s
    return (times_s[-1] if times_s else 0.0, len(times_s), len(process.by_quantity))


def _process(series: Sequence[Series], names: Names) -> _Process:
    ranked: dict[str, tuple[int, dict[Labels, Points]]] = {}
    times: dict[str, dict[float, float]] = defaultdict(dict)
    of_labels: dict[Labels, Labels] = {}
    for one in series:
        # No quantity is negative. A value that is none was not told, but its page came.
        points = [point for point in one.points if 0.0 <= point[1] <= VALUE_MAX]
        times[one.metric].update(one.points)
        if not points:
            continue
        own = of_labels.get(one.labels)
        if own is None:
            own = tuple(pair for pair in _of_the_page(one.labels) if pair[0] in OF_A_SERIES)
            of_labels[one.labels] = own
        for quantity, rank in names.ranks.get(one.metric, ()):
            best = ranked.get(quantity)
            if best is None or rank < best[0]:
                ranked[quantity] = (rank, {own: points})
            elif rank == best[0]:
                best[1][own] = points
    scrapes: set[float] = set()
    for metric, told in times.items():
        meanings = names.ranks.get(metric, ())
        # A recording rule that gives a metric another name has times of its own.
        if any(quantity not in ranked or ranked[quantity][0] >= of for quantity, of in meanings):
            scrapes.update(told)
    by_quantity = {quantity: found for quantity, (_, found) in ranked.items()}
    return _at_one_time(_Process(sorted(scrapes), by_quantity))


def _at_one_time(process: _Process) -> _Process:
    """Return *process* with one time for each scrape: who passes series on may give each a time of
    its own, within a moment.
    """
    times_s = process.times_s
    columns = [points for of in process.by_quantity.values() for points in of.values()]
    if len(times_s) <= max(map(len, columns), default=0):
        return process
    begin_s = times_s[0]
    of_scrape = {}
    for time_s in times_s:
        begin_s = time_s if time_s - begin_s > SAME_SCRAPE_S else begin_s
        of_scrape[time_s] = begin_s
    if any(len({of_scrape[time_s] for time_s, _ in points}) < len(points) for points in columns):
        return process
    return _Process(
        sorted(set(of_scrape.values())),
        {
            quantity: {
                labels: [(of_scrape[time_s], value) for time_s, value in points]
                for labels, points in of.items()
            }
            for quantity, of in process.by_quantity.items()
        },
    )


def _without_copies(
    found: list[tuple[Labels, _Process]], *, engines: Collection[str]
) -> list[tuple[Labels, _Process]]:
    """Return the processes without those that are another one scraped under another name."""
    kept: list[tuple[Labels, _Process]] = []
    for target, process in sorted(found, key=lambda one: _completeness(one[1]), reverse=True):
        if not any(
            _may_be_one(target, other, engines=engines)
            and (_named_as_one(target, other) or _measured_alike(process, of))
            and _copy(process, of)
            for other, of in kept
        ):
            kept.append((target, process))
    return kept


def _contradict(one: _Process, other: _Process) -> bool:
    """Tell whether two processes that differ in labels of a scrape only are two all the same: what
    those labels tell apart may be engines (the replicas of Ray Serve on one node).

    Read in the order of their times, copies fall when their process restarts, and by less than a
    step where two clocks disagree; two engines again and again.
    """
    for quantity in COUNTERS:
        mine, its = one.by_quantity.get(quantity, {}), other.by_quantity.get(quantity, {})
        for labels in mine.keys() & its.keys():
            alone = [[value for _, value in points] for points in (mine[labels], its[labels])]
            steps = [later - before for values in alone for before, later in pairwise(values)]
            restarts = max(sum(map(_falls, pairwise(values))) for values in alone)
            merged = [value for _, value in sorted((*mine[labels], *its[labels]))]
            most = max(steps, default=0.0)
            if sum(before - now > most for before, now in pairwise(merged)) > restarts:
                return True
    return False


def _falls(pair: tuple[float, float]) -> bool:
    return pair[1] < pair[0]


def _may_be_one(one: Labels, other: Labels, *, engines: Collection[str]) -> bool:
    """Tell whether labels allow two processes to be one: neither ranks nor containers that are
    known to run an engine each tell them apart.
    """
    first, second = dict(one), dict(other)
    containers = {first.get(CONTAINER), second.get(CONTAINER)}
    if len(containers) > 1 and containers <= set(engines):
        return False
    shared = first.keys() & second.keys() & set(RANKS)
    return all(first[label] == second[label] for label in shared)


def _named_as_one(one: Labels, other: Labels) -> bool:
    """Tell whether the same counters of two processes are enough to take them for one.

    One job scrapes no container at two ports for one page, but a sidecar may pass on the page of
    its neighbour at a port of its own.
    """
    first, second = dict(one), dict(other)
    if CONTAINER in first and CONTAINER in second and first[CONTAINER] != second[CONTAINER]:
        return True
    if first.get("job") != second.get("job"):
        return True
    ports = [_PORT.search(labels.get("instance", "")) for labels in (first, second)]
    if all(ports):
        return first["instance"] == second["instance"]
    return first.get("port") == second.get("port")


def _measured_alike(one: _Process, other: _Process) -> bool:
    """Tell whether two processes have measured the same time, to its last digits, for the same
    number of observations.
    """
    for count, seconds in MEASURED:
        mine, its = _measured(one, count, seconds), _measured(other, count, seconds)
        if any(
            mine[number] == its[number] != round(its[number], MEASURED_DIGITS)
            for number in mine.keys() & its.keys()
        ):
            return True
    return False


def _measured(process: _Process, count: str, seconds: str) -> dict[float, float]:
    """Return the seconds observed by how many observations there had been, over one series."""
    counts, sums = (process.by_quantity.get(name, {}) for name in (count, seconds))
    return {
        number: total
        for labels in counts.keys() & sums.keys()
        for (_, number), (_, total) in zip(counts[labels], sums[labels], strict=False)
    }


def _copy(one: _Process, other: _Process) -> bool:
    """Tell whether two processes are one: read in the order of their times, no counter of the two
    ever falls, and tokens, which grow by hundreds, are among those that have grown.

    Two engines with the same load would have to agree in every counter to the last token.
    """
    grew = False
    for quantity in COUNTERS:
        mine, its = one.by_quantity.get(quantity, {}), other.by_quantity.get(quantity, {})
        pairs = [(mine[labels], its[labels]) for labels in mine.keys() & its.keys()]
        if not pairs and len(mine) == len(its) == 1:
            # Whoever scraped the one may have dropped a label that the other has.
            pairs = list(zip(mine.values(), its.values(), strict=True))
        for pair in pairs:
            values = [value for _, value in sorted(chain.from_iterable(pair))]
            if any(later < earlier for earlier, later in pairwise(values)):
                return False
            grew = grew or (quantity in ("prompt", "generation") and values[-1] > values[0])
    return grew


def _by_turns(process: _Process) -> list[_Process]:
    """Return the processes that have answered by turns at the port of *process*: it alone, but for
    workers behind one port of which each counts for itself.

    Its counters fall then, and later are again where they had been before: no process that begins
    anew counts on from there. A worker that was met once is taken to do as much as another.
    """
    counters = [
        points for counter in COUNTERS for points in process.by_quantity.get(counter, {}).values()
    ]
    times_s = process.times_s
    if not times_s or times_s[-1] - times_s[0] > TURNS_S_MAX:
        return [process]
    if not any(now < before for points in counters for (_, before), (_, now) in pairwise(points)):
        return [process]
    columns = [_at(points, times_s) for points in counters]
    shown = list(zip(*columns, strict=True))
    falls = sum(starmap(_less, pairwise(shown)))
    requests = [
        _at(points, times_s)
        for name in TELL_OF_REQUESTS
        for points in process.by_quantity.get(name, {}).values()
    ]
    most_rps = BORN_RPS + BORN_FACTOR * _slowest_rps(requests, times_s)
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
        return [process]
    met = [_at_scrapes(process, [times_s[k] for k in of]) for of in chains if len(of) > 1]
    return met + met[:1] * (len(chains) - len(met))


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


def _at_scrapes(process: _Process, times_s: list[float]) -> _Process:
    """Return what *process* showed at *times_s*."""
    kept = set(times_s)
    return _Process(
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


def _track(process: _Process, *, by_turns: bool = False) -> Track | None:
    """Return what *process* did, or None where it does not tell of requests."""
    times_s, by_quantity = process.times_s, process.by_quantity
    if not times_s or not _tells_of_requests(process):
        return None
    running = _gauge(by_quantity.get("running"), times_s)
    waiting = _gauge(by_quantity.get("waiting"), times_s)
    inside = [
        of_running + of_waiting for of_running, of_waiting in zip(running, waiting, strict=True)
    ]
    births = _Births(process, inside)
    grown: dict[str, list[float]] = {}
    broken: set[int] = set()
    for counter in COUNTERS:
        if counter in by_quantity:
            columns = by_quantity[counter].values()
            grown[counter] = _grown(columns, times_s, broken, births=births, of=counter)
    told = _arrivals(process, grown, running=running, waiting=waiting, broken=broken, births=births)
    ends_told = "ends" in grown or "answers" in grown
    start = by_quantity.get("start_time")
    ended = _first_value(by_quantity.get("ends") or by_quantity.get("answers"), times_s[0])
    usage = by_quantity.get("kv_usage")
    return Track(
        times_s=times_s,
        grown=grown,
        gauges={
            "running": running[-1],
            "waiting": waiting[-1],
            "kv_usage": max(
                (_share(points[-1][1]) for points in (usage or {}).values()), default=0.0
            ),
        },
        arrived=told.counted,
        arrived_by_ends=(told.by_ends if ends_told else told.counted)[-1],
        arrived_by_firsts=(told.by_firsts or told.by_ends)[-1],
        arrived_by_prompts=(told.by_prompts or told.by_ends)[-1],
        alive_s=sum(
            later - earlier
            for k, (earlier, later) in enumerate(pairwise(times_s), start=1)
            if k not in broken
        ),
        at_first=ended + inside[0],
        ended_at_first=ended,
        started_s=max(points[-1][1] for points in start.values()) if start else None,
        running=running,
        waiting=waiting,
        tells_running="running" in by_quantity,
        late=births.late,
        by_turns=by_turns,
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
    process: _Process,
    grown: Mapping[str, list[float]],
    *,
    running: Sequence[float],
    waiting: Sequence[float],
    broken: set[int],
    births: _Births,
) -> _Arrivals:
    times_s, by_quantity = process
    # Some engines show the counter of ends from the first end on, some never.
    ends = max(
        (grown[name] for name in ("ends", "answers") if name in grown),
        key=lambda column: column[-1],
        default=[0.0] * len(times_s),
    )
    by_ends = _arrived(ends, births.inside, times_s, broken)
    if "firsts" in grown:
        # Of requests that run fewer than before, none may have had its first token at the start:
        # so this figure cannot be too high.
        ahead = [
            of_waiting + min(0.0, of_running - running[0])
            for of_running, of_waiting in zip(running, waiting, strict=True)
        ]
        by_firsts = _arrived(grown["firsts"], ahead, times_s, broken)
        # An end needs a first token, of this window or of what ran at its start, unless it was
        # given up while it waited.
        aborted = _aborted(by_quantity.get("ends", {}), times_s, births)
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


def _aborted(columns: Mapping[Labels, Points], times_s: Sequence[float], births: _Births) -> float:
    """Return how many requests ended that were given up, by the reason that an engine names."""
    aborts = [
        points
        for labels, points in columns.items()
        if any(label in REASONS and value in ABORTS for label, value in labels)
    ]
    return _grown(aborts, times_s, set(), births=births, of="ends")[-1]


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

    def __init__(self, process: _Process, inside: Sequence[float]) -> None:
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
    broken: set[int],
    *,
    births: _Births,
    of: str,
) -> list[float]:
    """Return by how much the series of the counter *of* have grown in all at each of *times_s*.

    What a series was that begins later than its page *births* tell: absent is not unknown. A fall
    is a restart: its index goes into *broken*, and nothing is taken to have grown over it.
    """
    total = [0.0] * len(times_s)
    for points in columns:
        before = births.before(points, of=of)
        grown = 0.0
        for k, now in enumerate(_at(points, times_s)):
            if now is not None and k:
                if now >= before:
                    grown += now - before
                else:
                    broken.add(k)
                before = now
            total[k] += grown
    return total


def _gauge(columns: Mapping[Labels, Points] | None, times_s: Sequence[float]) -> list[float]:
    """Return the sum of the series of one gauge at each of *times_s*; what is not shown is 0."""
    total = [0.0] * len(times_s)
    for points in (columns or {}).values():
        value = 0.0
        for k, told in enumerate(_at(points, times_s)):
            value = value if told is None else told
            total[k] += value
    return total


def _at(points: Points, times_s: Sequence[float]) -> Sequence[float | None]:
    """Return the value at each of *times_s*, None where there is none. They are among these."""
    if len(points) == len(times_s):
        return [value for _, value in points]
    told = dict(points)
    return [told.get(time_s) for time_s in times_s]


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


def _share(usage: float) -> float:
    """Return a usage of the KV cache as a share of it; some exporters tell it in percent."""
    return usage if usage <= 1.0 else min(usage / 100.0, 1.0)


def _first_value(columns: Mapping[Labels, Points] | None, first_s: float) -> float:
    return sum(
        points[0][1] for points in (columns or {}).values() if points and points[0][0] <= first_s
    )
