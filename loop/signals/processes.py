"""Which engine processes a pod's scraped series are of: what is one page's, and what is a copy of
it; pure.

A pod may run several engines (data-parallel ranks, on ports of their own or on one page), each may
be scraped more than once (two jobs, a pair of Prometheus servers), and each metric may have several
series (one a finish reason). What tells them apart is in the labels, except for copies of one
target under another name, which are known by their values.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain, pairwise
from math import isnan
from typing import NamedTuple

from loop.signals.names import COUNTERS, GAUGES, QUEUED, START_TIME, WAITING, Names

Labels = tuple[tuple[str, str], ...]
Points = Sequence[tuple[float, float]]  # (time [s of the run], value), in order of time
# Labels by which one process tells several series of one metric apart.
OF_A_SERIES = frozenset(
    {"finished_reason", "reason", "model_name", "model", "le", "quantile"}
    | {"is_streaming", "cache_source", "priority"}  # SGLang
    | {"pid"}  # of who wrote a gauge that several processes of one server write
    | {"response_metric_type"}  # Triton
)
CONTAINER = "container"
# Times that a process has measured end in digits that no other process's have.
MEASURED_DIGITS = 4  # after the point, in seconds: finer ones are no figures that somebody made up
MEASURED = (("firsts", "ttft_s"), ("steps", "steps_s"), ("per_token", "per_token_s"))
# Labels that a scraper adds and that name the scrape, not what was scraped: series that differ in
# these alone are copies.
OF_A_SCRAPE = frozenset(
    {"job", "service", "prometheus", "prometheus_replica", "replica", "__replica__"}
    | {"receive", "tenant_id", "cluster", "monitor", "scrape_job", "passed_on_by"}
)
# Engines of one pod that differ in these are no copies of each other by their scrapes (the last two
# are Ray's).
RANKS = ("engine", "rank", "dp_rank", "tp_rank", "pp_rank", "ReplicaId", "WorkerId")
# Ranks that compute the same batch together (tensors, stages, experts, contexts): each tells the
# gauges of all of them. Those of data parallelism have a batch each. Of others nobody knows: they
# have one batch if they tell the same of it, and so have those that count requests each.
_RANK, _OF_A_BATCH_EACH = re.compile(r".*_rank"), re.compile(r"(?:.*_)?(?:dp|data_parallel)_rank")
_OF_ONE_BATCH = re.compile(
    r"(?:.*_)?(?:tp|pp|ep|cp|sp|tensor|pipeline|expert|context|sequence|stage)(?:_parallel)?_rank"
)
VALUE_MAX = 1e15  # tokens of a century, and sums of as many series as there are stay finite
TELL_OF_REQUESTS = ("ends", "answers", "firsts")
KV_IDLE_MAX = 0.01  # of an engine that does nothing; some blocks are never free
# Metrics of engines that show their gauges from the begin, and each counter from its first request
# on (vLLM shows all from the begin).
COUNT_LATE = ("sglang", "trtllm", "tgi_")
# A process began before each of its counters: a label set may have its birth from the first request
# of its kind only. But none of a process comes before the earliest that its page shows, and none
# goes: that one is the same from page to page, and later where a process has begun anew. It tells
# processes apart, then, as the start of the process does, which counts where both are told; how
# long a process had been there before, it does not tell.
BIRTHS = frozenset({"start_time"})
_BY_COUNTERS: Labels = (("born", "counters"),)
# What a page calls its own, which a scraper that has a label of that name renames.
_EXPORTED = {f"exported_{label}": label for label in (*OF_A_SERIES, *RANKS)}
# Who passes on what others have scraped (a Prometheus that is federated, a collector) stands as the
# instance and the job, and the engine's own behind; but so does what a page calls itself.
JOB, INSTANCE, PASSED_ON_BY = "job", "instance", "passed_on_by"
EXPORTED_JOB, EXPORTED_INSTANCE = f"exported_{JOB}", f"exported_{INSTANCE}"
SCRAPED = frozenset({JOB, INSTANCE, "port"})  # of which a scraper adds one at least
# Labels that tell targets and engines apart, and never what one page shows of one engine.
APART = frozenset((*RANKS, CONTAINER, INSTANCE, "port", "endpoint"))
ENGINES_MAX = 16  # in one pod: GPUs of a node
COPIES_MAX = 4  # of each, under labels of who scrapes it: two jobs, a pair of Prometheus servers
MODEL_NAME = "model_name"
MODEL_NAMES = (MODEL_NAME, f"exported_{MODEL_NAME}")
_PORT = re.compile(r":\d+$")
# Samples of one page are of one scrape if their times differ by no more, or by no more than a part
# of the time from one sample of a series to its next.
SAME_SCRAPE_S, SAME_SCRAPE_PART = 1.0, 0.4


class Series(NamedTuple):
    """One time series as scraped. labels: all but the metric's name, the pod and its namespace."""

    metric: str
    labels: Labels
    points: Points


def model_names(labels: Iterable[Labels]) -> frozenset[str]:
    """Return what engines call the models that they serve (vLLM's label model_name), by the labels
    of their series.
    """
    # Most are the same value: told apart by where it is, which is quick, they are few.
    distinct = {id(of_one): of_one for of_one in labels}
    return frozenset(
        value
        for of_one in distinct.values()
        for label, value in of_one
        if label in MODEL_NAMES and value
    )


def processes_of(
    series: Sequence[Series], *, names: Names, engines: Collection[str]
) -> list[Process]:
    """Return the processes of one pod, copies left out: one a port. *engines* are containers that
    are known to run one each.
    """
    targets: dict[Labels, dict[Labels, list[Series]]] = defaultdict(lambda: defaultdict(list))
    # Most series of a page differ in their metric alone: labels are told apart once.
    by_labels: dict[Labels, list[Series]] = defaultdict(list)
    for one in series:
        by_labels[one.labels].append(one)
    _leave_out_reckoned(by_labels, names)
    parts = _parts(by_labels)
    for labels, alike in by_labels.items():
        part = parts[labels]
        targets[part.target][part.scrape] += alike
    found: list[tuple[Labels, Process]] = []
    for target, scrapes in targets.items():
        processes = [_process(of_one, names, parts) for of_one in scrapes.values()]
        apart = list[Process]()
        for process in sorted(processes, key=_completeness, reverse=True):
            if all(_contradict(process, of) for of in apart):
                apart.append(process)
        found += [(target, process) for process in apart]
    if len(found) > 1:
        found = _without_copies(found, engines=engines)
    return _whole(found)


def _leave_out_reckoned(by_labels: dict[Labels, list[Series]], names: Names) -> None:
    """Leave out of *by_labels* what a recording rule has made of other series of the pod: it has
    neither job nor instance, as all that was scraped has then, and tells what that tells. A rule
    names no engine that was not scraped.
    """
    scraped = [labels for labels in by_labels if not SCRAPED.isdisjoint(name for name, _ in labels)]
    if not scraped or len(scraped) == len(by_labels):
        return
    told = {
        quantity
        for labels in scraped
        for one in by_labels[labels]
        for quantity, _ in _meanings(names, one.metric)
    }
    pairs = frozenset(chain.from_iterable(scraped))
    for labels in by_labels.keys() - set(scraped):
        if any(pair[0] in APART and pair not in pairs for pair in labels):
            continue
        by_labels[labels] = [
            one
            for one in by_labels[labels]
            if not any(quantity in told for quantity, _ in _meanings(names, one.metric))
        ]
        if not by_labels[labels]:
            del by_labels[labels]


class Part(NamedTuple):
    """The labels of a series: what tells its target, the scrape of it, and the series."""

    target: Labels
    scrape: Labels
    own: Labels


def _parts(all_labels: Collection[Labels]) -> dict[Labels, Part]:
    """Return what each of *all_labels* of a pod tells. A label that would tell apart more engines
    than a pod has counts by something else (teams, requests) in one. Where all labels together
    tell apart too many, only those do that are known to, or none. What names a scrape stays that.
    """
    directly = _scraped_directly(all_labels)
    values = Counter(label for label, _ in {pair for labels in all_labels for pair in labels})
    told = values.keys() - OF_A_SCRAPE
    many = {label for label in told - APART if values[label] > ENGINES_MAX}
    parts: dict[Labels, Part] = {}
    for also in (many, told - APART, told):
        own = OF_A_SERIES | also
        parts = {labels: told_apart(labels, directly=directly, own=own) for labels in all_labels}
        if len({part.target for part in parts.values()}) <= ENGINES_MAX * COPIES_MAX:
            break
    return parts


def told_apart(
    labels: Labels, *, directly: Collection[str] = (), own: Collection[str] = OF_A_SERIES
) -> Part:
    """Return what each of *labels* tells. *directly*: instances that are known to be targets;
    *own*: those by which one process tells series apart.
    """
    of_page = _of_the_page(labels, directly=directly)
    kept = [pair for pair in of_page if pair[0] not in own]
    return Part(
        target=tuple(pair for pair in kept if pair[0] not in OF_A_SCRAPE),
        scrape=tuple(pair for pair in kept if pair[0] in OF_A_SCRAPE),
        own=tuple(pair for pair in of_page if pair[0] in own),
    )


def _scraped_directly(labels: Iterable[Labels]) -> frozenset[str]:
    """Return the instances of those series of a pod that nobody has passed on."""
    each = map(dict, labels)
    return frozenset(one.get(INSTANCE, "") for one in each if EXPORTED_INSTANCE not in one)


def _of_the_page(labels: Labels, *, directly: Collection[str]) -> Labels:
    """Return *labels* with those of the page under the names that they have there: a scraper that
    adds labels of the same names keeps them as exported_…. What is passed on of a target that is
    scraped *directly*, too, has the labels of that one.
    """
    if all(label not in _EXPORTED and label != EXPORTED_INSTANCE for label, _ in labels):
        return labels
    told = dict(labels)
    for label in told.keys() & _EXPORTED.keys():
        told[_EXPORTED[label]] = told.pop(label)
    if told.get(EXPORTED_INSTANCE) in directly:
        told[PASSED_ON_BY] = f"{told.get(JOB, '')} {told.get(INSTANCE, '')}"
        told[INSTANCE] = told.pop(EXPORTED_INSTANCE)
        told[JOB] = told.pop(EXPORTED_JOB, "")
    return tuple(sorted(told.items()))


class _Page(NamedTuple):
    """A process that tells of requests, its labels, and the quantities that it shows under them."""

    labels: Mapping[str, str]
    process: Process
    quantities: frozenset[str]

    def shows(self, labels: Mapping[str, str], process: Process) -> bool:
        """Tell whether *process* is what the same page shows under further *labels*: other
        quantities, at the same scrapes.
        """
        return (
            self.labels.items() < labels.items()
            and APART.isdisjoint(labels.keys() - self.labels.keys())
            and self.quantities.isdisjoint(process.by_quantity.keys() - BIRTHS)
            and set(process.times_s) <= set(self.process.times_s)
        )

    def joined(self, further: Labels, columns: Mapping[str, Mapping[Labels, Points]]) -> _Page:
        """Return the page with *columns* of series that have *further* labels."""
        by_quantity = dict(self.process.by_quantity)
        for quantity, of in columns.items():
            own = {(*further, *labels): points for labels, points in of.items()}
            by_quantity[quantity] = {**by_quantity.get(quantity, {}), **own}
        return self._replace(process=Process(self.process.times_s, by_quantity))


def _whole(found: list[tuple[Labels, Process]]) -> list[Process]:
    """Return the processes that tell of requests, with what their pages show of them under further
    labels: SGLang's scheduler adds its ranks to gauges, and an exporter may tell one counter by
    method and the others not. If none does, return those that there are.
    """
    pages: list[_Page] = []
    others: list[tuple[Labels, Process]] = []
    apart = _with_batches_of_their_own(sorted(found, key=lambda one: one[0]))
    for target, process in sorted(apart, key=lambda one: (-len(one[1].by_quantity), one[0])):
        if not tells_of_requests(process):
            others.append((target, process))
            continue
        labels = dict(target)
        k = next((k for k, page in enumerate(pages) if page.shows(labels, process)), None)
        if k is None:
            pages.append(_Page(labels, process, frozenset(process.by_quantity)))
        else:
            further = tuple(pair for pair in target if pair[0] not in pages[k].labels)
            pages[k] = pages[k].joined(further, process.by_quantity)
    seen: set[Labels] = set()
    alone: list[Process] = []
    for target, process in sorted(others, key=lambda one: one[0]):
        batch = tuple(pair for pair in target if not _OF_ONE_BATCH.fullmatch(pair[0]))
        if not pages and batch not in seen:
            seen.add(batch)
            alone.append(process)
        agreeing = [
            k
            for k, page in enumerate(pages)
            if all(page.labels.get(label, value) == value for label, value in target)
        ]
        if not agreeing or batch in seen:
            continue
        seen.add(batch)
        k = agreeing[0]
        times_s = pages[k].process.times_s
        columns: dict[str, Mapping[Labels, Points]] = {
            quantity: {own: _held_at(points, times_s) for own, points in of.items()}
            for quantity, of in process.by_quantity.items()
            if quantity in GAUGES and quantity not in BIRTHS
        }
        # Of a process with several engines each began when it did.
        for one in agreeing:
            held_s = pages[one].process.times_s
            born = {
                quantity: {own: _held_at(points, held_s) for own, points in of.items()}
                for quantity, of in process.by_quantity.items()
                if quantity in BIRTHS
            }
            pages[one] = pages[one].joined(batch, born)
        told = frozenset[str]().union(*(pages[of].quantities for of in agreeing))
        if set(process.times_s) <= set(times_s):
            # What the pages tell by a further label each is told of all of them together here.
            columns |= {
                quantity: of
                for quantity, of in process.by_quantity.items()
                if quantity in COUNTERS and quantity not in told
            }
        pages[k] = pages[k].joined(batch, columns)
    if not pages:
        return _with_nothing_counted([_with_one_birth(process) for process in alone])
    return [_with_one_birth(page.process) for page in pages]


def _with_nothing_counted(alone: list[Process]) -> list[Process]:
    """Return *alone*, the processes of a pod of which none counts requests, the first with none
    counted if they show that they have not been asked for anything yet.
    """
    if not alone or not all(map(_was_never_asked, alone)):
        return alone
    first, *others = alone
    none: dict[Labels, Points] = {(): [(time_s, 0.0) for time_s in first.times_s]}
    return [first._replace(by_quantity={**first.by_quantity, "ends": none}), *others]


def _was_never_asked(process: Process) -> bool:
    """Tell whether *process* is of an engine that begins to show its counters with its first
    request, shows none, and had nothing in it at any scrape.
    """
    by_quantity = process.by_quantity
    idle = {"running": 0.0, "waiting": 0.0, "kv_usage": KV_IDLE_MAX}
    return (
        process.counts_late
        and "running" in by_quantity
        and by_quantity.keys() <= set(GAUGES)
        and all(
            value <= most
            for gauge, most in idle.items()
            for points in by_quantity.get(gauge, {}).values()
            for _, value in points
        )
    )


def _with_one_birth(process: Process) -> Process:
    """Return *process* with the birth that counters tell only where nobody tells its own, and that
    as one: the earliest of each page.
    """
    births = process.by_quantity.get("start_time", {})
    by_counters = [points for labels, points in births.items() if labels[-1:] == _BY_COUNTERS]
    if not by_counters:
        return process
    own = {labels: points for labels, points in births.items() if labels[-1:] != _BY_COUNTERS}
    earliest: dict[float, float] = {}
    for time_s, began in chain.from_iterable(by_counters):
        earliest[time_s] = min(began, earliest.get(time_s, began))
    births = own or {_BY_COUNTERS: sorted(earliest.items())}
    return process._replace(by_quantity={**process.by_quantity, "start_time": births})


def _with_batches_of_their_own(
    found: Sequence[tuple[Labels, Process]],
) -> Sequence[tuple[Labels, Process]]:
    """Return *found* without those that differ from one before in a rank, other than that of a
    batch of its own, and tell the same: each may count the requests of all.
    """
    if len(found) == 1:
        return found
    kept: list[tuple[Labels, Process]] = []
    known: dict[Labels, list[Mapping[str, object]]] = defaultdict(list)
    for target, process in found:
        batch = tuple(pair for pair in target if not _may_be_of_one_batch(pair[0]))
        if len(batch) == len(target):
            kept.append((target, process))
            continue
        told = {
            quantity: sorted((own, [value for _, value in points]) for own, points in of.items())
            for quantity, of in process.by_quantity.items()
            if quantity not in BIRTHS
        }
        if told not in known[batch]:
            known[batch].append(told)
            kept.append((target, process))
    return kept


def _may_be_of_one_batch(label: str) -> bool:
    return bool(_RANK.fullmatch(label)) and not _OF_A_BATCH_EACH.fullmatch(label)


def tells_of_requests(process: Process) -> bool:
    return any(process.by_quantity.get(name) for name in TELL_OF_REQUESTS)


def _held_at(points: Points, times_s: Sequence[float]) -> Points:
    """Return the value at each of *times_s*: the latest one, before the first the first."""
    told_s = [time_s for time_s, _ in points]
    return [(time_s, points[max(0, bisect_right(told_s, time_s) - 1)][1]) for time_s in times_s]


class Process(NamedTuple):
    """One process as one scraper saw it: by quantity its series, each with its labels.
    counts_late: by the names of its gauges, its engine shows no counter before it has something to
    count.
    """

    times_s: list[float]
    by_quantity: Mapping[str, Mapping[Labels, Points]]
    counts_late: bool = False


def _completeness(process: Process) -> tuple[bool, float, int, int]:
    """Return how much of copies each tells: one sample alone tells no rate, however new it is."""
    times_s = process.times_s
    newest_s = times_s[-1] if times_s else 0.0
    return (len(times_s) > 1, newest_s, len(times_s), len(process.by_quantity))


def _process(series: Sequence[Series], names: Names, parts: Mapping[Labels, Part]) -> Process:
    ranked: dict[str, tuple[int, dict[Labels, Points]]] = {}
    queues: dict[str, dict[Labels, Points]] = defaultdict(dict)
    times: dict[str, dict[float, float]] = defaultdict(dict)
    created: dict[float, float] = {}
    for one in series:
        if one.metric in names.created:
            for time_s, began in one.points:
                if 0.0 < began <= VALUE_MAX:
                    created[time_s] = min(began, created.get(time_s, began))
            continue
        # No quantity is negative. A value that is none was not told, but its page came.
        points = [point for point in one.points if 0.0 <= point[1] <= VALUE_MAX]
        times[one.metric].update(one.points)
        if not points:
            continue
        own = parts[one.labels].own
        for quantity, rank in _meanings(names, one.metric):
            if quantity == QUEUED:
                _add(queues[one.metric], own, points)
                continue
            best = ranked.get(quantity)
            if best is None or rank < best[0]:
                ranked[quantity] = (rank, {own: points})
            elif rank == best[0]:
                _add(best[1], own, points)
    scrapes: set[float] = set()
    for metric, told in times.items():
        meanings = _meanings(names, metric)
        # A recording rule that gives a metric another name has times of its own.
        if any(quantity not in ranked or ranked[quantity][0] >= of for quantity, of in meanings):
            scrapes.update(told)
    # Some stores show that a target has gone by a last sample of all its series that is no number:
    # no page came then.
    scrapes &= {time_s for one in series for time_s, value in one.points if not isnan(value)}
    by_quantity = {
        quantity: _without_parts(found) if quantity in GAUGES else found
        for quantity, (_, found) in ranked.items()
    }
    if queues:
        further: dict[Labels, Points] = {
            ((QUEUED, metric), *own): points
            for metric, of in queues.items()
            for own, points in _without_parts(of).items()
        }
        by_quantity[WAITING] = {**by_quantity.get(WAITING, {}), **further}
    late = any(one.metric.startswith(COUNT_LATE) for one in series)
    process = _at_one_time(Process(sorted(scrapes), by_quantity, late))
    return _with_births(process, created) if created else process


def _with_births(process: Process, created: Mapping[float, float]) -> Process:
    """Return *process* with the earliest that each of its pages tells of when its counters were
    *created*, of which each may have a time of its own within a moment.
    """
    times_s = process.times_s
    steps_s = [later_s - earlier_s for earlier_s, later_s in pairwise(times_s)]
    same_s = max(SAME_SCRAPE_S, SAME_SCRAPE_PART * min(steps_s, default=0.0))
    earliest: dict[float, float] = {}
    for time_s, began in created.items():
        k = bisect_right(times_s, time_s)
        if k and time_s - (page_s := times_s[k - 1]) <= same_s:
            earliest[page_s] = min(began, earliest.get(page_s, began))
    if not earliest:
        return process
    births = {**process.by_quantity.get("start_time", {}), _BY_COUNTERS: sorted(earliest.items())}
    return process._replace(by_quantity={**process.by_quantity, "start_time": births})


def _add(columns: dict[Labels, Points], own: Labels, points: Points) -> None:
    """Add a series to *columns*: who puts the answers of several together may show it in parts."""
    before = columns.get(own)
    columns[own] = points if before is None else sorted({*before, *points})


def has_parts(labels: Iterable[Labels]) -> bool:
    """Tell whether of the series of one metric, with these *labels*, one may be what others add up
    to: it has some of their labels, and none besides.
    """
    told = [frozenset(pair for pair in of_one if pair[1]) for of_one in labels]
    alike = len({len(one) for one in told}) == 1  # as nearly always: none can have more
    return not alike and any(one < other for one in told for other in told)


def _without_parts(columns: dict[Labels, Points]) -> dict[Labels, Points]:
    """Return the series of one gauge without those that are parts of another one (SGLang shows all
    requests, and those of each priority beside them).
    """
    if len(columns) == 1 or not has_parts(columns):
        return columns
    told = {labels: frozenset(pair for pair in labels if pair[1]) for labels in columns}
    parts = set[Labels]()
    for whole, points in columns.items():
        of_it = [labels for labels in columns if told[whole] < told[labels]]
        if points[-1][1] >= sum(columns[labels][-1][1] for labels in of_it):
            parts.update(of_it)
    return {labels: points for labels, points in columns.items() if labels not in parts}


def _meanings(names: Names, metric: str) -> Sequence[tuple[str, int]]:
    return names.ranks.get(metric, ()) if metric != START_TIME else (("start_time", 0),)


def _at_one_time(process: Process) -> Process:
    """Return *process* with one time for each scrape: who passes series on may give each a time of
    its own, within a moment.
    """
    times_s = process.times_s
    columns = [points for of in process.by_quantity.values() for points in of.values()]
    if len(times_s) <= max(map(len, columns), default=0):
        return process
    steps_s = [
        later_s - earlier_s
        for points in columns
        for (earlier_s, _), (later_s, _) in pairwise(points)
    ]
    same_s = max(SAME_SCRAPE_S, SAME_SCRAPE_PART * min(steps_s, default=0.0))
    begin_s = times_s[0]
    of_scrape = {}
    for time_s in times_s:
        begin_s = time_s if time_s - begin_s > same_s else begin_s
        of_scrape[time_s] = begin_s
    if any(len({of_scrape[time_s] for time_s, _ in points}) < len(points) for points in columns):
        return process
    return Process(
        sorted(set(of_scrape.values())),
        {
            quantity: {
                labels: [(of_scrape[time_s], value) for time_s, value in points]
                for labels, points in of.items()
            }
            for quantity, of in process.by_quantity.items()
        },
        process.counts_late,
    )


def _without_copies(
    found: list[tuple[Labels, Process]], *, engines: Collection[str]
) -> list[tuple[Labels, Process]]:
    """Return the processes without those that are another one scraped under another name."""
    kept: list[tuple[Labels, Process]] = []
    for target, process in sorted(found, key=lambda one: _completeness(one[1]), reverse=True):
        if not any(
            _may_be_one(target, other, engines=engines)
            and (_named_as_one(target, other) or _measured_alike(process, of))
            and _copy(process, of)
            for other, of in kept
        ):
            kept.append((target, process))
    return kept


def _contradict(one: Process, other: Process) -> bool:
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
    if first.get(JOB) != second.get(JOB):
        return True
    behind = [labels.get(EXPORTED_INSTANCE, "") for labels in (first, second)]
    if all(map(_PORT.search, behind)):
        return behind[0] == behind[1]
    ports = [_PORT.search(labels.get(INSTANCE, "")) for labels in (first, second)]
    if all(ports):
        return first[INSTANCE] == second[INSTANCE]
    return first.get("port") == second.get("port")


def _measured_alike(one: Process, other: Process) -> bool:
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


def _measured(process: Process, count: str, seconds: str) -> dict[float, float]:
    """Return the seconds observed by how many observations there had been, over one series."""
    counts, sums = (process.by_quantity.get(name, {}) for name in (count, seconds))
    return {
        number: total
        for labels in counts.keys() & sums.keys()
        for (_, number), (_, total) in zip(counts[labels], sums[labels], strict=False)
    }


def _copy(one: Process, other: Process) -> bool:
    """Tell whether two processes are one: read in the order of their times, no counter of the two
    falls but where it does in one alone (a restart), and tokens, which grow by hundreds, are among
    those that have grown. Of two looks at one time nobody knows which was the first, but
    each counter must tell the same of that, and have grown by no more than it can at once.

    Two engines with the same load would have to agree in every counter to the last token.
    """
    grew = False
    requests = max(1.0, *(_most_requests(process) for process in (one, other)))
    orders: dict[tuple[float, float], set[bool]] = defaultdict(set)  # by two looks: rises or falls
    for quantity in COUNTERS:
        mine, its = one.by_quantity.get(quantity, {}), other.by_quantity.get(quantity, {})
        pairs = [(mine[labels], its[labels]) for labels in mine.keys() & its.keys()]
        if not pairs and len(mine) == len(its) == 1:
            # Whoever scraped the one may have dropped a label that the other has.
            pairs = list(zip(mine.values(), its.values(), strict=True))
        for pair in pairs:
            # Of samples of one time that of the same process always stands first.
            merged = sorted(
                ((time_s, k, value) for k, points in enumerate(pair) for time_s, value in points)
            )
            restarts = max(_falls_of(points) for points in pair)
            most = max(_most_in_a_moment(points, requests=requests) for points in pair)
            falls = 0
            for (before_s, _, before), (now_s, _, now) in pairwise(merged):
                if at_once := now_s - before_s <= SAME_SCRAPE_S:
                    orders[before_s, now_s] |= {now > before} if now != before else set()
                falls += before - now > (most if at_once else 0.0)
                grew = grew or (quantity in ("prompt", "generation") and now > before)
            if falls > restarts:
                return False
    return grew and all(len(of) < 2 for of in orders.values())


def _most_requests(process: Process) -> float:
    """Return by how many requests *process* grew at most from one look to the next."""
    columns = (process.by_quantity.get(name, {}) for name in TELL_OF_REQUESTS)
    return max(
        (
            later - before
            for of in columns
            for points in of.values()
            for (_, before), (_, later) in pairwise(points)
        ),
        default=0.0,
    )


def _most_in_a_moment(points: Points, *, requests: float) -> float:
    """Return by how much a counter may grow within a moment: as it grew at most, and by one of the
    *requests* that came at most between two looks.
    """
    return max(
        (
            (later - before) * min(1.0, SAME_SCRAPE_S / (later_s - before_s) + 1.0 / requests)
            for (before_s, before), (later_s, later) in pairwise(points)
        ),
        default=0.0,
    )


def _falls_of(points: Points) -> int:
    return sum(map(_falls, pairwise(value for _, value in points)))


def at_times(points: Points, times_s: Sequence[float]) -> Sequence[float | None]:
    """Return the value at each of *times_s*, None where there is none. They are among these."""
    if len(points) == len(times_s):
        return [value for _, value in points]
    told = dict(points)
    return [told.get(time_s) for time_s in times_s]
