"""What a server did over hours and days, step by step, from the tracks of its processes; pure.

Where `demand` asks for the load of now, this keeps the growth of every counter by step, so that any
stretch can be added up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from loop.signals.demand import (
    EXPLAINED_FACTOR,
    EXPLAINED_MIN,
    MINUTE_S,
    MS,
    TOKENS_PER_STEP_MIN,
    is_far_more,
    load_of,
)
from loop.signals.names import HISTOGRAMS, SECONDS
from loop.signals.series import Track
from loop.types import Load

Floats = npt.NDArray[np.float64]

PREFIX_SHARE_MAX = 0.99  # something of each prompt is computed: its last token, at least
STEPS_MIN = 2.0  # of an answer, below which nearly all are cut ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """What a server did over a stretch of time; None: not known. per_replica_rpm is what one
    replica was asked for, requests how many had their first token. running and waiting are means of
    a replica. prefix_share is the part of the prompts that prefix caches held, and tokens_per_step
    what a step adds to an answer that goes on: above 1 with speculative decoding. None: nobody
    counts it.
    """

    load: Load
    per_replica_rpm: float | None
    replicas: float
    requests: float
    ttft_ms: float | None
    itl_ms: float | None
    completions_rpm: float
    running: float
    waiting: float
    prefix_share: float | None = None
    tokens_per_step: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class History:
    """Growth of one server by step of step_s from start_s [Unix time] on: sums over its pods.

    grown is by counter, and by which counters an engine has at all: tokens of one engine and
    requests of another make no mean. arrived is how many requests came. pods is how many told of
    each step, spread how many told of it only together with its neighbours. running and waiting are
    sums over pods.
    """

    start_s: float
    step_s: float
    steps: int
    grown: dict[frozenset[str], dict[str, Floats]] = field(default_factory=dict)
    arrived: Floats
    pods: Floats
    spread: Floats
    running: Floats
    waiting: Floats

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Tell of which steps the load is known."""
        found: npt.NDArray[np.bool_] = self.pods + self.spread > 0.0
        return found

    def add(self, tracks: Iterable[Track], *, first_s: float) -> None:
        """Take in the tracks of one pod, of which only what came after *first_s* is new."""
        told, together = np.zeros(self.steps), np.zeros(self.steps)
        for track in tracks:
            if track.counts:
                self._add(track, told, together, first_s=first_s)
        # Several processes of a pod are one replica.
        self.pods[:] += np.minimum(told, 1.0)
        self.spread[:] += np.minimum(together, 1.0) * (told == 0.0)

    def _add(self, track: Track, told: Floats, together: Floats, *, first_s: float) -> None:
        times_s = track.times_s
        if times_s[0] > first_s + 0.5 * self.step_s:
            self._begun(track)
        at = np.rint((np.array(times_s) - self.start_s) / self.step_s).astype(np.int64)
        first = round((first_s - self.start_s) / self.step_s)
        alike = self.grown.setdefault(frozenset(track.grown), {})
        grown = {
            "arrived": (self.arrived, np.diff(track.arrived)),
            "running": (self.running, _middle(track.running)),
            "waiting": (self.waiting, _middle(track.waiting)),
        } | {
            name: (alike.setdefault(name, np.zeros(self.steps)), np.diff(column))
            for name, column in track.grown.items()
        }
        new = (at[1:] > first) & (at[1:] > at[:-1]) & (at[:-1] >= 0) & (at[1:] <= self.steps)
        one = np.flatnonzero(new & (at[1:] == at[:-1] + 1))
        told[at[one]] = 1.0
        for total, growth in grown.values():
            total[at[one]] += growth[one]
        for k in np.flatnonzero(new & (at[1:] > at[:-1] + 1)).tolist():
            hole = slice(int(at[k]), int(at[k + 1]))
            together[hole] = 1.0
            for name, (total, growth) in grown.items():
                is_gauge = name in ("running", "waiting")
                total[hole] += growth[k] / (1 if is_gauge else hole.stop - hole.start)

    def _begun(self, track: Track) -> None:
        """Count what a process had served before its first scrape, if it can have begun then."""
        step = round((track.times_s[0] - self.start_s) / self.step_s) - 1
        if not 0 <= step < self.steps:
            return
        slope = track.arrived[-1] / track.alive_s if track.alive_s > 0.0 else 0.0
        explained = EXPLAINED_MIN + EXPLAINED_FACTOR * slope * self.step_s
        self.arrived[step] += track.at_first if track.at_first <= explained else 0.0

    def sped(self, speed: float) -> History:
        """Return it in the time of a world that runs at *speed*, to the same end."""
        step_s = self.step_s * speed
        start_s = self.start_s + self.steps * (self.step_s - step_s)
        return replace(self, start_s=start_s, step_s=step_s)

    def over(self, where: slice | npt.NDArray[Any]) -> Stretch | None:
        """Return what the server did over the known steps of *where*, None if there are none."""
        known = self.known[where]
        count = int(known.sum())
        if not count:
            return None

        def total(column: Floats) -> float:
            return float(column[where][known].sum())

        minutes = count * self.step_s / MINUTE_S
        grown = [
            {name: total(column) for name, column in of_alike.items()}
            for of_alike in self.grown.values()
        ]
        arrived, told = total(self.arrived), total(self.pods) + total(self.spread)
        ends = sum(_ends(of_alike) for of_alike in grown)
        rate_rpm = max(arrived, 0.0) / minutes
        latency = _added(grown, "ttft_s", "firsts")
        return Stretch(
            load=_load(grown, rate_rpm=rate_rpm, came=arrived, inside=self._inside(where)),
            per_replica_rpm=rate_rpm / (told / count) if told else None,
            replicas=told / count,
            requests=sum(of_alike.get("firsts", _ends(of_alike)) for of_alike in grown),
            # Some versions observe nothing but zeros: nobody's token came at once.
            ttft_ms=_mean(latency.get("ttft_s"), latency.get("firsts")) or None,
            itl_ms=_itl_ms(grown) or None,
            completions_rpm=ends / minutes,
            running=total(self.running) / max(told, 1.0),
            waiting=total(self.waiting) / max(told, 1.0),
            prefix_share=_prefix_share(_added(grown, "cache_hits", "cache_queries")),
            tokens_per_step=_whole_step(_added(grown, "steps", "firsts")),
        )

    def counted(self, tokens: Sequence[str], requests: Sequence[str]) -> tuple[Floats, Floats]:
        """Return by step how many tokens there were, and of how many requests, each by the first of
        those counters that an engine has: of the engines that have the very first of both, of the
        others where these had no requests.
        """
        best, others = [np.zeros((2, self.steps)) for _ in range(2)]
        every = list(self.grown.values())
        telling = [one for one in every if one.keys() & tokens and one.keys() & requests] or every
        for of_alike in telling:
            into = best if of_alike.keys() >= {tokens[0], requests[0]} else others
            for row, names in enumerate((tokens, requests)):
                into[row] += next((of_alike[name] for name in names if name in of_alike), 0.0)
        found = np.where(best[1] > 0.0, best, best + others)
        return found[0], found[1]

    @property
    def has_several(self) -> bool:
        """Tell whether requests have several answers (n of their parameters), of which engines
        count every end, and prompt and first token once: far more end than come, or were inside.
        """
        ends = sum(
            _ends({name: float(column.sum()) for name, column in of_alike.items()})
            for of_alike in self.grown.values()
        )
        return is_far_more(ends, float(self.arrived.sum()) + self._inside(slice(None)))

    @property
    def zeros(self) -> frozenset[str]:
        """Return the latencies of HISTOGRAMS of which nothing but zeros was observed."""
        grown = [
            {name: float(column.sum()) for name, column in of_alike.items()}
            for of_alike in self.grown.values()
        ]
        told = {
            latency: _added(grown, seconds, HISTOGRAMS[latency])
            for latency, seconds in SECONDS.items()
        }
        return frozenset(
            latency
            for latency, total in told.items()
            if total.get(HISTOGRAMS[latency]) and total.get(SECONDS[latency]) == 0.0
        )

    def _inside(self, where: slice | npt.NDArray[Any]) -> float:
        """Return how many requests were inside at most over the known steps of *where*: so many
        more than come may end.
        """
        inside = (self.running + self.waiting)[where][self.known[where]]
        return float(inside.max(initial=0.0))

    def answered(self) -> tuple[Floats, Floats]:
        """Return by step how many tokens answers had, and of how many requests they were."""
        if self.has_several:
            tokens, requests = self.counted(("generation",), ("firsts",))
            if requests.any():
                return tokens, requests
        return self.counted(("answer_tokens", "generation"), ("answers", "ends", "firsts"))

    def holes(self) -> list[tuple[float, float]]:
        """Return from when to when [Unix time] the load is not known."""
        edges = np.flatnonzero(np.diff(np.concatenate(([True], self.known, [True]))))
        return [
            (self.start_s + self.step_s * begin, self.start_s + self.step_s * end)
            for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
        ]


def empty_history(*, start_s: float, step_s: float, steps: int) -> History:
    """Return a history of which nothing is known."""

    def nothing() -> Floats:
        return np.zeros(steps)

    return History(
        start_s=start_s,
        step_s=step_s,
        steps=steps,
        arrived=nothing(),
        pods=nothing(),
        spread=nothing(),
        running=nothing(),
        waiting=nothing(),
    )


def _middle(column: Sequence[float]) -> Floats:
    values = np.array(column)
    middle: Floats = 0.5 * (values[1:] + values[:-1])
    return middle


def _added(grown: Sequence[Mapping[str, float]], *counters: str) -> dict[str, float]:
    """Return the sum over those of *grown* that have all *counters* and of which the last has
    grown, over all if none does: an engine of another time has nothing to tell of this one.
    """
    telling = [one for one in grown if one.keys() >= set(counters) and one[counters[-1]] > 0.0]
    added: dict[str, float] = {}
    for of_alike in telling or grown:
        for name, growth in of_alike.items():
            added[name] = added.get(name, 0.0) + growth
    return added


def _ends(grown: Mapping[str, float]) -> float:
    return max(grown.get("ends", 0.0), grown.get("answers", 0.0))


def _load(
    grown: Sequence[Mapping[str, float]], *, rate_rpm: float, came: float, inside: float
) -> Load:
    """Return the load, prompts and answers by the engines that tell both tokens and requests.
    *inside*: how many requests were there at most, of which many may end while few come.
    """
    prompts, answers = (
        load_of(rate_rpm, found, _ends(found), came=came)
        for found in (_added(grown, "prompt", "firsts"), _added(grown, "answer_tokens", "answers"))
    )
    out_tokens = answers.out_tokens
    if is_far_more(sum(map(_ends, grown)), came + inside):  # each has several answers
        total = _added(grown, "generation", "firsts")
        if total.get("firsts"):
            out_tokens = max(out_tokens, total.get("generation", 0.0) / total["firsts"])
    return replace(prompts, out_tokens=out_tokens)


def _itl_ms(grown: Sequence[Mapping[str, float]]) -> float | None:
    """Return the mean time between two tokens, over tokens: as they come, not as answers end."""
    totals = _added(grown, "steps_s", "steps")
    steps, spent_s = totals.get("steps"), totals.get("steps_s")
    if not steps or spent_s is None:
        totals = _added(grown, "per_token_s", "per_token")
        return _mean(totals.get("per_token_s"), totals.get("per_token"))
    return _mean(spent_s, (_tokens_per_step(totals) or 1.0) * steps)


def _tokens_per_step(totals: Mapping[str, float]) -> float | None:
    steps = totals.get("steps")
    if not steps:
        return None
    gaps = (totals.get("generation") or 0.0) - (totals.get("firsts") or 0.0)
    return gaps / steps if gaps > TOKENS_PER_STEP_MIN * steps else 1.0


def _whole_step(totals: Mapping[str, float]) -> float | None:
    """Return the tokens of a step that no answer ends in: half of the last one is cut on the mean,
    which of answers of a few steps is a good part.
    """
    told, steps, answers = _tokens_per_step(totals), totals.get("steps"), totals.get("firsts")
    if told is None or told == 1.0 or not steps or not answers or steps < STEPS_MIN * answers:
        return told
    return told * steps / (steps - 0.5 * answers)


def _prefix_share(totals: Mapping[str, float]) -> float | None:
    hits, asked = totals.get("cache_hits"), totals.get("cache_queries")
    if hits is None or not asked:
        return None
    return min((hits + totals.get("transferred", 0.0)) / asked, PREFIX_SHARE_MAX)


def _mean(total_s: float | None, count: float | None) -> float | None:
    return MS * total_s / count if total_s is not None and count else None


def blocks(history: History, *, length_s: float) -> Sequence[slice]:
    """Return the stretches of about *length_s* that make up *history*."""
    size = max(round(length_s / history.step_s), 1)
    return [slice(begin, begin + size) for begin in range(0, history.steps, size)]
