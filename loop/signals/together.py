"""What the engines of many pods did, reckoned at once over arrays of all series and samples; pure.

It is what `series.py` finds pod by pod, to the last bit, for pods of which nothing is odd: one
process, scraped once and whole each time, whose counters never fall and were all there from the
begin. Who is odd is left to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from loop.signals.names import COUNTERS, GAUGES, QUEUED, WAITING, Names
from loop.signals.processes import (
    TELL_OF_REQUESTS,
    VALUE_MAX,
    Labels,
    Points,
    Series,
    has_parts,
    model_names,
    told_apart,
)
from loop.signals.series import (
    ENDS_FACTOR_MAX,
    ENDS_MIN,
    PROMPTS_FACTOR,
    TOLD,
    Track,
    names_an_abort,
    share_of,
)
from loop.signals.turns import REPEAT_SCRAPES_MIN, repeats, tokens_per_s_most

Floats = NDArray[np.float64]
Places = NDArray[np.intp]
# Of fewer pods that are alike, arrays cost more than to look at each.
ALIKE_MIN = 4


class Name(NamedTuple):
    """What a series is called."""

    metric: str
    labels: Labels


@dataclass(frozen=True)
class PodNames:
    """What the series of one pod are called, and which rows of an answer they are."""

    names: tuple[Name, ...]
    rows: tuple[int, ...]

    @cached_property
    def labels(self) -> tuple[Labels, ...]:
        """Return the labels of the series, each once."""
        return tuple(dict.fromkeys(name.labels for name in self.names))

    @cached_property
    def models(self) -> frozenset[str]:
        """Return what the engines of the pod call the models that they serve."""
        return model_names(self.labels)


class Samples:
    """The samples of many series, one series behind the other."""

    def __init__(self, points: Sequence[Points], *, epoch_s: float) -> None:
        """Take the *points* of each series, their times as Unix time; *epoch_s* is the date of
        second 0 of the run. Raise ValueError where one is no number.
        """
        counts = np.fromiter(map(len, points), np.intp, len(points))
        told = chain.from_iterable(chain.from_iterable(points))
        both = np.fromiter(told, np.float64, 2 * int(counts.sum())).reshape(-1, 2)
        if not np.isfinite(both[:, 0]).all():
            raise ValueError("a time is no number")
        self.times_s = both[:, 0] - epoch_s
        self.values = both[:, 1].copy()
        self.counts = counts
        self.ends = np.cumsum(counts)

    def in_order(self) -> NDArray[np.bool_]:
        """Tell of each series whether its times grow from sample to sample."""
        falls = np.zeros(len(self.times_s) + 1, np.intp)
        falls[1:-1] = np.diff(self.times_s) <= 0.0
        # The first sample of a series comes after the last one of another.
        falls[(self.ends - self.counts)[self.counts > 0]] = 0
        before = np.concatenate(([0], np.cumsum(falls)))
        in_order: NDArray[np.bool_] = before[self.ends] == before[self.ends - self.counts]
        return in_order

    def points(self, row: int) -> list[tuple[float, float]]:
        """Return the times and values of one series."""
        part = slice(self.ends[row] - self.counts[row], self.ends[row])
        return list(zip(self.times_s[part].tolist(), self.values[part].tolist(), strict=True))


class Rows(Sequence[Series]):
    """The series of one pod among *samples*: made one by one only when somebody looks at them."""

    def __init__(self, samples: Samples, called: PodNames) -> None:
        self.samples, self.called = samples, called

    @property
    def labels(self) -> Sequence[Labels]:
        """Return the labels of the series, each once."""
        return self.called.labels

    def __len__(self) -> int:
        return len(self.called.rows)

    @overload
    def __getitem__(self, index: int) -> Series: ...

    @overload
    def __getitem__(self, index: slice) -> list[Series]: ...

    def __getitem__(self, index: int | slice) -> Series | list[Series]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        metric, labels = self.called.names[index]
        return Series(metric, labels, self.samples.points(self.called.rows[index]))

    def __iter__(self) -> Iterator[Series]:
        return (self[k] for k in range(len(self)))


def labels_of(pod: Sequence[Series]) -> Iterable[Labels]:
    """Return the labels of the series of one pod, or of all that differ."""
    return pod.labels if isinstance(pod, Rows) else (one.labels for one in pod)


def names_of(pod: Sequence[Series]) -> Sequence[Name]:
    """Return what the series of one pod are called, in their order; their samples cost more."""
    return pod.called.names if isinstance(pod, Rows) else [Name(*one[:2]) for one in pod]


def models_of(pod: Sequence[Series]) -> frozenset[str]:
    """Return what the engines of one pod call the models that they serve."""
    return pod.called.models if isinstance(pod, Rows) else model_names(labels_of(pod))


@dataclass(frozen=True, slots=True, eq=False)
class _Shape:
    """What the series of pods that are alike tell, in their order: the places of those of each
    quantity, of counters, and of ends that are aborts.
    """

    by_quantity: Mapping[str, tuple[int, ...]]
    counters: tuple[int, ...]
    aborts: tuple[int, ...]

    def of(self, quantity: str) -> tuple[int, ...]:
        return self.by_quantity.get(quantity, ())


class Crowd:
    """Pods, one answer after the other. It remembers what their series are called."""

    def __init__(self, names: Names) -> None:
        self._names = names
        # By where the names are: they stay there from answer to answer.
        self._known: dict[int, tuple[PodNames, _Shape | None]] = {}
        self._shapes: dict[tuple[tuple[str, Labels], ...], _Shape | None] = {}

    def tracks(
        self, pods: Sequence[Rows], *, begins_s: Sequence[float | None] = ()
    ) -> list[list[Track] | None]:
        """Return the tracks of each of *pods*, which are rows of the same samples; None of those
        that have to be looked at one by one. Samples until *begins_s* of a pod do not count.
        """
        found: list[list[Track] | None] = [None] * len(pods)
        if not pods or not all(len(pod) for pod in pods):
            return found
        samples = pods[0].samples
        alike: dict[_Shape, list[int]] = {}
        for k, shape in enumerate(self._shapes_of(pods)):
            if shape is not None:
                alike.setdefault(shape, []).append(k)
        counts = samples.counts
        if any(begin_s is not None for begin_s in begins_s):
            counts = _counts_after(samples, _begins(pods, begins_s))
        in_order = samples.in_order()
        for shape, places in alike.items():
            rows = np.array([pods[k].called.rows for k in places], np.intp)
            told = counts[rows]
            whole = in_order[rows].all(1) & (told == told[:, :1]).all(1) & (told[:, 0] > 0)
            for count in np.unique(told[whole, 0]).tolist():
                here = np.flatnonzero(whole & (told[:, 0] == count))
                if len(here) < ALIKE_MIN:
                    continue
                of = samples.ends[rows[here]][:, :, None] + np.arange(-count, 0)
                tracks = _tracks(shape, samples.times_s[of], samples.values[of])
                for place, track in zip(here.tolist(), tracks, strict=True):
                    found[places[place]] = track
        return found

    def _shapes_of(self, pods: Sequence[Rows]) -> Iterator[_Shape | None]:
        before, self._known = self._known, {}
        for pod in pods:
            key = id(pod.called)
            known = before.get(key)
            if known is None:
                known = pod.called, self._shape(pod.called.names)
            self._known[key] = known
            yield known[1]

    def _shape(self, names: Sequence[Name]) -> _Shape | None:
        """Return the shape of a pod whose series have *names*, None where they may be of more than
        one process.
        """
        parts = {name.labels: told_apart(name.labels) for name in names}
        if len({(part.target, part.scrape) for part in parts.values()}) > 1:
            return None
        told = tuple((name.metric, parts[name.labels].own) for name in names)
        if told not in self._shapes:
            self._shapes[told] = _shape(told, self._names)
        return self._shapes[told]


def _shape(told: Sequence[tuple[str, Labels]], names: Names) -> _Shape | None:
    """Return the shape of pods whose series have these metrics and labels of their own; None where
    one stands twice, or none tells of requests.
    """
    if len(set(told)) < len(told):
        return None
    ranked: dict[str, list[tuple[int, int]]] = {}
    for place, (metric, _) in enumerate(told):
        for quantity, rank in names.ranks.get(metric, ()):
            ranked.setdefault(quantity, []).append((rank, place))
    by_quantity = {
        quantity: tuple(place for rank, place in of if rank == min(of)[0])
        for quantity, of in ranked.items()
    }
    if "start_time" in by_quantity or by_quantity.keys().isdisjoint(TELL_OF_REQUESTS):
        return None
    # Each further queue is a gauge of its own.
    gauges: dict[str, list[Labels]] = {}
    for gauge in GAUGES:
        for metric, own in (told[k] for k in by_quantity.get(gauge, ())):
            gauges.setdefault(metric if gauge == QUEUED else gauge, []).append(own)
    if any(map(has_parts, gauges.values())):
        return None
    if queues := by_quantity.pop(QUEUED, ()):
        by_quantity[WAITING] = (*by_quantity.get(WAITING, ()), *queues)
    counters = {place for counter in COUNTERS for place in by_quantity.get(counter, ())}
    ends = by_quantity.get("ends", ())
    return _Shape(
        by_quantity,
        tuple(sorted(counters)),
        tuple(place for place in ends if names_an_abort(told[place][1])),
    )


def _begins(pods: Sequence[Rows], begins_s: Sequence[float | None]) -> Floats:
    """Return from when on the samples of each series count."""
    begins = np.full(len(pods[0].samples.counts), -np.inf)
    for pod, begin_s in zip(pods, begins_s, strict=True):
        if begin_s is not None:
            begins[list(pod.called.rows)] = begin_s
    return begins


def _counts_after(samples: Samples, begins_s: Floats) -> Places:
    """Return how many samples of each series, whose times grow, come after *begins_s*."""
    later = samples.times_s > np.repeat(begins_s, samples.counts)
    before = np.concatenate(([0], np.cumsum(later)))
    counts: Places = before[samples.ends] - before[samples.ends - samples.counts]
    return counts


def _tracks(shape: _Shape, times_s: Floats, values: Floats) -> Iterator[list[Track] | None]:
    """Yield the tracks of pods of a *shape*, None of a pod of which something is odd. The axes of
    both arrays are pods, series, and samples.
    """
    good = (times_s == times_s[:, :1]).all((1, 2))
    good &= ((values >= 0.0) & (values <= VALUE_MAX)).all((1, 2))
    good &= (np.diff(values[:, shape.counters], axis=2) >= 0.0).all((1, 2))
    good[good] = ~_beyond_engines(shape, times_s[good, 0], values[good])
    good[good] = ~_repeats(shape, values[good])
    tracks = _even_tracks(shape, times_s[good, 0], values[good])
    for is_good in good.tolist():
        yield [next(tracks)] if is_good else None


def _beyond_engines(shape: _Shape, times_s: Floats, values: Floats) -> NDArray[np.bool_]:
    """Return of which pods more tokens were generated than an engine can generate, by the rule of
    `processes.py`.
    """

    def total(*quantities: str) -> Floats:
        places = [place for name in quantities for place in shape.by_quantity.get(name, ())]
        summed: Floats = values[:, places].sum(1)
        return summed

    seconds, generated = total("steps_s"), total("generation")
    tokens = np.maximum(total("steps"), generated - total("firsts"))
    # Of the life of each engine, and of each time between two scrapes.
    seconds = np.concatenate((seconds, np.diff(seconds)), axis=1)
    tokens = np.concatenate((tokens, np.diff(tokens)), axis=1)
    told = (seconds > 0.0) & (tokens > 0.0)
    token_s = np.divide(seconds, tokens, out=np.full_like(tokens, np.inf), where=told).min(1)
    most_tps = tokens_per_s_most(
        inside=total("running", "waiting").max(1),
        token_s=np.where(told.any(1), token_s, 0.0),
        falls=False,
    )
    # Who is at the limit is looked at once more.
    limit = (1.0 - 1e-9) * most_tps[:, None] * np.diff(times_s)
    beyond: NDArray[np.bool_] = (np.diff(generated) > limit).any(1)
    return beyond


def _repeats(shape: _Shape, values: Floats) -> NDArray[np.bool_]:
    """Return of which pods the latest page is the one before once more, by the rule of
    `processes.py`.
    """
    if values.shape[2] < REPEAT_SCRAPES_MIN:
        return np.zeros(len(values), np.bool_)
    grown = np.diff(values[:, list(shape.by_quantity.get("generation", ()))].sum(1))[:, :-1]
    inside = values[:, list(shape.by_quantity.get("running", ())), -1].sum(1)
    still = (values[:, shape.counters, -1] == values[:, shape.counters, -2]).all(1)
    found: NDArray[np.bool_] = still & repeats(inside=inside, least=grown.min(1), most=grown.max(1))
    return found


class _Counts(NamedTuple):
    """How many requests had come at each scrape, as `series.py` has it."""

    counted: Floats
    by_ends: Floats
    by_firsts: Floats
    by_prompts: Floats


def _even_tracks(shape: _Shape, times_s: Floats, values: Floats) -> Iterator[Track]:
    """Yield the tracks of pods of which nothing is odd; *times_s* are those of their scrapes."""
    gauges = {
        quantity: sum(
            (values[:, place] for place in shape.of(quantity)), start=np.zeros(times_s.shape)
        )
        for quantity in ("running", "waiting")
    }
    grown = {
        counter: _grown(values, shape.of(counter)) for counter in COUNTERS if shape.of(counter)
    }
    aborted = _grown(values, shape.aborts)[:, -1]
    told = _counts(
        grown,
        gauges["running"],
        gauges["waiting"],
        aborted=aborted,
        prompt_tokens=_tokens_of_a_prompt(shape, values),
    )
    ends_told = "ends" in grown or "answers" in grown
    tells = TOLD.intersection(shape.by_quantity)
    first = values[:, :, 0]
    ended = sum(
        (first[:, place] for place in shape.of("ends") or shape.of("answers")),
        start=np.zeros(len(times_s)),
    )
    columns = zip(
        times_s.tolist(),
        zip(*(of.tolist() for of in grown.values()), strict=True),
        told.counted.tolist(),
        (told.by_ends if ends_told else told.counted)[:, -1].tolist(),
        told.by_firsts[:, -1].tolist(),
        told.by_prompts[:, -1].tolist(),
        (ended + (gauges["running"] + gauges["waiting"])[:, 0]).tolist(),
        ended.tolist(),
        gauges["running"].tolist(),
        gauges["waiting"].tolist(),
        values[:, shape.of("kv_usage"), -1].tolist(),
        aborted.tolist(),
        strict=True,
    )
    for times, grew, came, *by, at_first, before, runs, waits, usage, given_up in columns:
        ends, firsts, prompts = by
        yield Track(
            times_s=times,
            grown=dict(zip(grown, grew, strict=True)),
            gauges={
                "running": runs[-1],
                "waiting": waits[-1],
                "kv_usage": max(map(share_of, usage), default=0.0),
            },
            arrived=came,
            arrived_by_ends=ends,
            arrived_by_firsts=firsts,
            arrived_by_prompts=prompts,
            alive_s=sum(later - earlier for earlier, later in pairwise(times)),
            at_first=at_first,
            ended_at_first=before,
            started_s=None,
            running=runs,
            waiting=waits,
            tells=tells,
            late=0.0,
            given_up=given_up,
        )


def _grown(values: Floats, places: Iterable[int]) -> Floats:
    """Return by how much the series at *places* have grown in all at each scrape."""
    total = np.zeros((values.shape[0], values.shape[2]))
    for place in places:
        # One after the other, as they are added up pod by pod: the same digits.
        total[:, 1:] += np.cumsum(np.diff(values[:, place], axis=1), axis=1)
    return total


def _tokens_of_a_prompt(shape: _Shape, values: Floats) -> Floats:
    """Return the mean length of a prompt in the life of a process, 0 if it does not tell."""
    tokens, count = (
        sum((values[:, place, -1] for place in shape.of(name)), start=np.zeros(len(values)))
        for name in ("prompt_lengths_tokens", "prompt_lengths")
    )
    return np.divide(tokens, count, out=np.zeros(len(values)), where=count > 0.0)


def _counts(
    grown: Mapping[str, Floats],
    running: Floats,
    waiting: Floats,
    *,
    aborted: Floats,
    prompt_tokens: Floats,
) -> _Counts:
    ends = grown.get("ends", grown.get("answers", np.zeros(running.shape)))
    if "ends" in grown and "answers" in grown:
        answers = grown["answers"]
        ends = np.where(answers[:, -1:] > ends[:, -1:], answers, ends)
    by_ends = _arrived(ends, running + waiting)
    if "firsts" not in grown:
        by_prompts = by_ends
        if "prompt" in grown:
            told = prompt_tokens[:, None] > 0.0
            prompts = np.divide(
                grown["prompt"], prompt_tokens[:, None], where=told, out=by_ends * 0
            )
            by_prompts = np.where(told, _arrived(prompts, waiting), by_ends)
        more = by_prompts[:, -1] > PROMPTS_FACTOR * by_ends[:, -1] + ENDS_MIN
        return _Counts(np.where(more[:, None], by_prompts, by_ends), by_ends, by_ends, by_prompts)
    by_firsts = _arrived(grown["firsts"], waiting + np.minimum(0.0, running - running[:, :1]))
    last = grown["firsts"][:, -1]
    explained = ENDS_FACTOR_MAX * (last + running[:, 0]) + ENDS_MIN + aborted
    more = (last > 0.0) & (explained < ends[:, -1])
    more |= by_firsts[:, -1] > by_ends[:, -1]
    return _Counts(np.where(more[:, None], by_firsts, by_ends), by_ends, by_firsts, by_ends)


def _arrived(passed: Floats, inside: Floats) -> Floats:
    """Return how many requests had come at each scrape, as `series.py` does without restarts."""
    steps = np.zeros(passed.shape)
    steps[:, 1:] = passed[:, 1:] - passed[:, :-1] + inside[:, 1:] - inside[:, :-1]
    came: Floats = np.cumsum(steps, axis=1)
    return came
