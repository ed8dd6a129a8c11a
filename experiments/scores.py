"""The scores of a run from the truth of its requests: attainment, latencies, goodput, losses,
offered load. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

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
    blocks,
    by_server,
    select,
)
from experiments.minutes import MinuteTable, minute_table
from experiments.verdicts import (
    LEFT_OUT,
    MET,
    MISSED,
    judge,
    measured_e2e_ms,
    measured_latencies_ms,
    target_columns,
)
from loop.spec import SloTarget

Scores = dict[str, Any]

_PERCENTILES = (50, 90, 95, 99)


def score_requests(
    requests: Columns, *, names: Sequence[str], targets: Sequence[SloTarget | None], window: Window
) -> tuple[Scores, dict[str, Scores]]:
    """Return the overall scores and those of each server, over the requests that arrived in
    *window*.

    *names* and *targets* are by server index. Overall attainment is request-weighted, over the
    servers with a target; `attainment_mean_servers` is the plain mean over them. Shares of nothing
    are None.
    """
    minutes = minute_table(requests, targets, window)
    scores: dict[str, Scores] = {}
    everything = _Traffic()
    for first, last, block in blocks(requests, len(targets)):
        for index, own in enumerate(_judged(block, minutes, targets, (first, last), window), first):
            mine = _Traffic()
            mine.add(own)
            everything.join(mine)
            scores[names[index]] = _server_scores(mine, minutes, index, targets[index], window)
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
    block: Columns,
    minutes: MinuteTable,
    targets: Sequence[SloTarget | None],
    span: tuple[int, int],
    window: Window,
) -> list[Columns]:
    """Return the scored requests of each server of the *span*, with their verdicts."""
    first, last = span
    own = select(block, arrived_within(block, window))
    server = own["server"] - first
    minute_of = np.searchsorted(minutes.start_s, own["arrival_s"], side="right") - 1
    own = {**own, "server": server}
    verdicts = judge(
        own,
        targets[first:last],
        end_s=window.end_s,
        tps_missed=minutes.tps_missed[server + first, minute_of],
    )
    return by_server({**own, "verdict": verdicts}, last - first)


def _server_scores(
    mine: _Traffic, minutes: MinuteTable, index: int, target: SloTarget | None, window: Window
) -> Scores:
    return {
        "slo_ttft_ms": target.slo_ttft_ms if target else 0.0,
        "slo_itl_ms": target.slo_itl_ms if target else 0.0,
        "slo_tps": target.slo_tps if target else 0.0,
        **_attainment(mine.counts["met"], mine.counts["missed"], mine.counts["left_out"]),
        "minute_attainment": _share(minutes.met[index].sum(), minutes.counted[index].sum()),
        "minute_attainment_p95": _share(minutes.met_p95[index].sum(), minutes.counted[index].sum()),
        **mine.scores(window),
    }


def _attainment(met: int, missed: int, left_out: int) -> Scores:
    return {
        "attainment": _share(met, met + missed),
        "met": met,
        "missed": missed,
        "left_out": left_out,
    }


class _Traffic:
    """What was offered, what came of it, how fast: of one server, or of several together."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.latencies_ms: dict[str, list[Floats]] = {"ttft": [], "itl": [], "e2e": []}

    def add(self, own: Columns) -> None:
        """Count the requests of *own*."""
        outcome, verdict = own["outcome"], own["verdict"]
        met = verdict == MET
        self.counts.update(
            requests=outcome.size,
            finished=int(np.count_nonzero(outcome == FINISHED)),
            rejected=int(np.count_nonzero(outcome == REJECTED)),
            failed=int(np.count_nonzero(outcome == FAILED)),
            unfinished=int(np.count_nonzero(outcome == UNFINISHED)),
            preemptions=int(own["preemptions"].sum()),
            met=int(np.count_nonzero(met)),
            missed=int(np.count_nonzero(verdict == MISSED)),
            left_out=int(np.count_nonzero(verdict == LEFT_OUT)),
            prompt_tokens=int(own["prompt_tokens"].sum(dtype=np.int64)),
            output_tokens=int(own["output_tokens"].sum(dtype=np.int64)),
            met_tokens=int(own["output_tokens"][met].sum(dtype=np.int64)),
        )
        ttft_ms, itl_ms = measured_latencies_ms(own)
        for name, values in (("ttft", ttft_ms), ("itl", itl_ms), ("e2e", measured_e2e_ms(own))):
            self.latencies_ms[name].append(values[np.isfinite(values)])

    def join(self, other: _Traffic) -> None:
        """Count what *other* counted, too."""
        self.counts.update(other.counts)
        for name, parts in other.latencies_ms.items():
            self.latencies_ms[name] += parts

    def scores(self, window: Window) -> Scores:
        """Return the figures; goodput counts the met requests and their output tokens."""
        counts = self.counts
        requests = counts["requests"]
        told = ("requests", "finished", "rejected", "failed", "unfinished", "preemptions")
        return {
            **{name: counts[name] for name in told},
            "offered_rpm": requests / (window.length_s / 60.0),
            "offered_in_tokens": _share(counts["prompt_tokens"], requests),
            "offered_out_tokens": _share(counts["output_tokens"], requests),
            "goodput_rps": counts["met"] / window.length_s,
            "goodput_tps": counts["met_tokens"] / window.length_s,
            **_percentiles("ttft_ms", self.latencies_ms["ttft"]),
            **_percentiles("itl_ms", self.latencies_ms["itl"]),
            **_percentiles("e2e_ms", self.latencies_ms["e2e"]),
        }


def _percentiles(name: str, parts: Sequence[Floats]) -> Mapping[str, float | None]:
    known = np.concatenate(parts) if parts else np.empty(0)
    if known.size == 0:
        return {f"{name}_mean": None, **{f"{name}_p{p}": None for p in _PERCENTILES}}
    cuts = np.percentile(known, _PERCENTILES)
    return {
        f"{name}_mean": float(known.mean()),
        **{f"{name}_p{p}": float(cut) for p, cut in zip(_PERCENTILES, cuts, strict=True)},
    }


def _share(part: float, whole: float) -> float | None:
    return float(part) / float(whole) if whole else None


def _mean_of(scores: Sequence[Scores], name: str) -> float | None:
    known = [float(score[name]) for score in scores if score[name] is not None]
    return sum(known) / len(known) if known else None
