"""The scores of a run from the truth of its requests: attainment, latencies, goodput, losses,
offered load. Pure.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any
from weakref import finalize

import numpy as np

from experiments.columns import (
    FAILED,
    FINISHED,
    REJECTED,
    UNFINISHED,
    Columns,
    Floats,
    Window,
    arrived_within,
    by_server,
    select,
)
from experiments.requests import Block, Requests, requests_of
from experiments.scores.minutes import MinuteTable, block_minutes, joined
from experiments.scores.verdicts import (
    LEFT_OUT,
    MET,
    MISSED,
    judge,
    measured_e2e_ms,
    measured_latencies_ms,
    target_columns,
)
from loop.spec import SloTarget
from twin.spool import read_whole, write_whole

__all__ = ["cut_at", "score_requests"]

Scores = dict[str, Any]

_PERCENTILES = (50, 90, 95, 99)
_LATENCIES = ("ttft", "itl", "e2e")


def score_requests(
    requests: Columns | Requests,
    *,
    names: Sequence[str],
    targets: Sequence[SloTarget | None],
    window: Window,
) -> tuple[Scores, dict[str, Scores]]:
    """Return the overall scores and those of each server, over the requests that arrived in
    *window*.

    *names* and *targets* are by server index. Overall attainment is request-weighted, over the
    servers with a target; `attainment_mean_servers` is the plain mean over them. Shares of nothing
    are None.
    """
    requests = requests_of(requests)
    scores: dict[str, Scores] = {}
    tables: list[MinuteTable] = []
    latencies = _Latencies(requests.directory)
    everything = _Traffic(latencies)
    for block in requests.blocks(len(targets)):
        table = block_minutes(block, targets, window, all_tokens=False)
        tables.append(table)
        traffic: list[_Traffic] = []
        for part in block.parts():
            for row, own in enumerate(_judged(part, block, table, targets, window)):
                if row == len(traffic):
                    traffic.append(_Traffic(latencies))
                traffic[row].add(own)
        for index, mine in enumerate(traffic, block.first):
            everything.join(mine)
            row = index - block.first
            scores[names[index]] = _server_scores(mine, table, row, targets[index], window)
    minutes = joined(tables, window)
    aimed = target_columns(targets).any_set
    bounded = aimed | np.array([bool(target and target.percentiles) for target in targets])
    with_target = [scores[name] for index, name in enumerate(names) if aimed[index]]
    overall = {
        **_attainment(
            sum(score["met"] for score in with_target),
            sum(score["missed"] for score in with_target),
            sum(score["left_out"] for score in with_target),
        ),
        "attainment_mean_servers": _mean_of(with_target, "attainment"),
        "minute_attainment": _share(minutes.met[aimed].sum(), minutes.counted[aimed].sum()),
        "minute_attainment_mean_servers": _mean_of(with_target, "minute_attainment"),
        "minute_attainment_p95": _share(
            minutes.met_p95[bounded].sum(), minutes.counted[bounded].sum()
        ),
        **everything.scores(window),
    }
    return overall, scores


def _judged(
    part: Columns,
    block: Block,
    minutes: MinuteTable,
    targets: Sequence[SloTarget | None],
    window: Window,
) -> Iterator[Columns]:
    """Yield the scored requests of each server of the *block* in a *part* of it, with their
    latencies and verdicts; *minutes* are those of the block.
    """
    own = select(part, arrived_within(part, window))
    server = own["server"] - block.first
    minute_of = np.searchsorted(minutes.start_s, own["arrival_s"], side="right") - 1
    own = {**own, "server": server}
    verdicts = judge(
        own,
        targets[block.first : block.last],
        end_s=window.end_s,
        tps_missed=minutes.tps_missed[server, minute_of],
    )
    ttft_ms, itl_ms = measured_latencies_ms(own)
    own |= {"ttft": ttft_ms, "itl": itl_ms, "e2e": measured_e2e_ms(own), "verdict": verdicts}
    yield from by_server(own, block.last - block.first)


def _server_scores(
    mine: _Traffic, minutes: MinuteTable, row: int, target: SloTarget | None, window: Window
) -> Scores:
    return {
        "slo_ttft_ms": target.slo_ttft_ms if target else 0.0,
        "slo_itl_ms": target.slo_itl_ms if target else 0.0,
        "slo_tps": target.slo_tps if target else 0.0,
        **_attainment(mine.counts["met"], mine.counts["missed"], mine.counts["left_out"]),
        "minute_attainment": _share(minutes.met[row].sum(), minutes.counted[row].sum()),
        "minute_attainment_p95": _share(minutes.met_p95[row].sum(), minutes.counted[row].sum()),
        **mine.scores(window),
    }


def _attainment(met: int, missed: int, left_out: int) -> Scores:
    return {
        "attainment": _share(met, met + missed),
        "met": met,
        "missed": missed,
        "left_out": left_out,
    }


class _Latencies:
    """Latencies of requests one after the other, of which exact percentiles need all: in memory, or
    in files without names in *directory*.
    """

    def __init__(self, directory: Path | None) -> None:
        self._counts = dict.fromkeys(_LATENCIES, 0)
        self._parts: dict[str, list[Floats]] = {name: [] for name in _LATENCIES}
        self._files: dict[str, FileIO] = {}
        if directory is not None:
            self._files = {name: _nameless(directory) for name in _LATENCIES}
            for file in self._files.values():
                finalize(self, file.close)

    @property
    def ends(self) -> Mapping[str, int]:
        """Return how many there are, by name."""
        return dict(self._counts)

    def add(self, name: str, values: Floats) -> None:
        """Append *values*."""
        self._counts[name] += values.size
        if self._files:
            write_whole(self._files[name], values)
        elif values.size:
            self._parts[name].append(values)

    def between(self, name: str, begin: int, end: int) -> Floats:
        """Return those from *begin* to before *end*, which may be written to."""
        if self._files:
            found = np.empty(end - begin)
            self._files[name].seek(begin * found.itemsize)
            read_whole(self._files[name], found)
            self._files[name].seek(0, os.SEEK_END)
            return found
        parts, first, found_parts = self._parts[name], self._counts[name], []
        # From the end: the last server is asked for when its values have just come.
        for part in reversed(parts):
            first -= part.size
            if first < end:
                found_parts.append(part[max(begin - first, 0) : end - first])
            if first <= begin:
                break
        return np.concatenate(found_parts[::-1]) if found_parts else np.empty(0)


def _nameless(directory: Path) -> FileIO:
    # Open as long as it is asked.
    file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115, as it says
    assert isinstance(file, FileIO)
    return file


class _Traffic:
    """What was offered, what came of it, how fast: of one server, or of several together, whose
    *latencies* stand one after the other.
    """

    def __init__(self, latencies: _Latencies) -> None:
        self.counts: Counter[str] = Counter()
        self._latencies = latencies
        self._begins = latencies.ends
        self._ends = self._begins

    def add(self, own: Columns) -> None:
        """Count the requests of *own*."""
        outcome, verdict = own["outcome"], own["verdict"]
        met = verdict == MET
        outcomes = np.bincount(outcome, minlength=UNFINISHED + 1).tolist()
        verdicts = np.bincount(verdict - LEFT_OUT, minlength=MET - LEFT_OUT + 1).tolist()
        self.counts.update(
            requests=outcome.size,
            finished=outcomes[FINISHED],
            rejected=outcomes[REJECTED],
            failed=outcomes[FAILED],
            unfinished=outcomes[UNFINISHED],
            preemptions=int(own["preemptions"].sum()),
            met=verdicts[MET - LEFT_OUT],
            missed=verdicts[MISSED - LEFT_OUT],
            left_out=verdicts[0],
            waiting=int(np.count_nonzero(np.isnan(own["first_token_s"][verdict == LEFT_OUT]))),
            prompt_tokens=int(own["prompt_tokens"].sum(dtype=np.int64)),
            output_tokens=int(own["output_tokens"].sum(dtype=np.int64)),
            met_tokens=int(own["output_tokens"][met].sum(dtype=np.int64)),
        )
        for name in _LATENCIES:
            values = own[name]
            self._latencies.add(name, values[np.isfinite(values)])
        self._ends = self._latencies.ends

    def join(self, other: _Traffic) -> None:
        """Count what *other* counted, too."""
        self.counts.update(other.counts)
        self._ends = other._ends

    def scores(self, window: Window) -> Scores:
        """Return the figures; goodput counts the met requests and their output tokens."""
        counts = self.counts
        requests = counts["requests"]
        told = ("requests", "finished", "rejected", "failed", "unfinished")
        return {
            **{name: counts[name] for name in (*told, "waiting", "preemptions")},
            "offered_rpm": requests / (window.length_s / 60.0),
            "offered_in_tokens": _share(counts["prompt_tokens"], requests),
            "offered_out_tokens": _share(counts["output_tokens"], requests),
            "goodput_rps": counts["met"] / window.length_s,
            "goodput_tps": counts["met_tokens"] / window.length_s,
            **_percentiles("ttft_ms", self._values("ttft")),
            **_percentiles("itl_ms", self._values("itl")),
            **_percentiles("e2e_ms", self._values("e2e")),
        }

    def _values(self, name: str) -> Floats:
        return self._latencies.between(name, self._begins[name], self._ends[name])


def _percentiles(name: str, known: Floats) -> Mapping[str, float | None]:
    """Return mean and percentiles of *known*, and leave it in another order."""
    if known.size == 0:
        return {f"{name}_mean": None, **{f"{name}_p{p}": None for p in _PERCENTILES}}
    # The mean of numpy, without the way to it: there are many servers.
    mean = float(np.add.reduce(known)) / known.size
    cuts = cut_at(known, _PERCENTILES)
    return {
        f"{name}_mean": mean,
        **{f"{name}_p{p}": cut for p, cut in zip(_PERCENTILES, cuts, strict=True)},
    }


def cut_at(values: Floats, percentiles: Sequence[float]) -> list[float]:
    """Return what np.percentile does, to the last bit, of some numbers, and leave *values* in
    another order. For a few hundred values it takes five times as long as all that it does.
    """
    # To sort them all takes a third of the time that it takes to part them at a few places.
    values.sort()
    places = [(len(values) - 1) * (p / 100.0) for p in percentiles]
    lower = [int(place) for place in places]
    upper = [min(place + 1, len(values) - 1) for place in lower]
    found = []
    for place, a, b in zip(places, values[lower].tolist(), values[upper].tolist(), strict=True):
        t = place - int(place)
        found.append(b - (b - a) * (1.0 - t) if t >= 0.5 else a + (b - a) * t)
    return found


def _share(part: float, whole: float) -> float | None:
    return float(part) / float(whole) if whole else None


def _mean_of(scores: Sequence[Scores], name: str) -> float | None:
    known = [float(score[name]) for score in scores if score[name] is not None]
    return sum(known) / len(known) if known else None
