"""The scores of a run from the truth of its requests: attainment, latencies, goodput, losses,
offered load. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.columns import (
    FAILED,
    FINISHED,
    REJECTED,
    UNFINISHED,
    Bools,
    Columns,
    Floats,
    Window,
    arrived_within,
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
    own = select(requests, arrived_within(requests, window))
    minute_of = np.searchsorted(minutes.start_s, own["arrival_s"], side="right") - 1
    verdicts = judge(
        own, targets, end_s=window.end_s, tps_missed=minutes.tps_missed[own["server"], minute_of]
    )
    everything = np.ones(verdicts.size, dtype=bool)
    by_server = {
        name: _server_scores(own, verdicts, minutes, index, targets[index], window=window)
        for index, name in enumerate(names)
    }
    aimed = target_columns(targets).any_set
    bounded = aimed | np.array([bool(target and target.percentiles) for target in targets])
    with_target = [by_server[name] for index, name in enumerate(names) if aimed[index]]
    overall = {
        **_attainment(verdicts, everything & aimed[own["server"]]),
        "attainment_mean_servers": _mean_of(with_target, "attainment"),
        "minute_attainment": _share(minutes.met[aimed].sum(), minutes.counted[aimed].sum()),
        "minute_attainment_mean_servers": _mean_of(with_target, "minute_attainment"),
        "minute_attainment_p95": _share(
            minutes.met_p95[bounded].sum(), minutes.counted[bounded].sum()
        ),
        **_traffic(own, verdicts, everything, window),
    }
    return overall, by_server


def _server_scores(
    own: Columns,
    verdicts: Any,
    minutes: MinuteTable,
    index: int,
    target: SloTarget | None,
    *,
    window: Window,
) -> Scores:
    mine = own["server"] == index
    return {
        "slo_ttft_ms": target.slo_ttft_ms if target else 0.0,
        "slo_itl_ms": target.slo_itl_ms if target else 0.0,
        "slo_tps": target.slo_tps if target else 0.0,
        **_attainment(verdicts, mine),
        "minute_attainment": _share(minutes.met[index].sum(), minutes.counted[index].sum()),
        "minute_attainment_p95": _share(minutes.met_p95[index].sum(), minutes.counted[index].sum()),
        **_traffic(own, verdicts, mine, window),
    }


def _attainment(verdicts: Any, chosen: Bools) -> Scores:
    met = int(np.count_nonzero(verdicts[chosen] == MET))
    missed = int(np.count_nonzero(verdicts[chosen] == MISSED))
    left_out = int(np.count_nonzero(verdicts[chosen] == LEFT_OUT))
    return {
        "attainment": _share(met, met + missed),
        "met": met,
        "missed": missed,
        "left_out": left_out,
    }


def _traffic(own: Columns, verdicts: Any, chosen: Bools, window: Window) -> Scores:
    """Return what was offered, what came of it, how fast; goodput counts the met requests and their
    output tokens.
    """
    outcome = own["outcome"][chosen]
    met = chosen & (verdicts == MET)
    ttft_ms, itl_ms = measured_latencies_ms(select(own, chosen))
    return {
        "requests": int(np.count_nonzero(chosen)),
        "finished": int(np.count_nonzero(outcome == FINISHED)),
        "rejected": int(np.count_nonzero(outcome == REJECTED)),
        "failed": int(np.count_nonzero(outcome == FAILED)),
        "unfinished": int(np.count_nonzero(outcome == UNFINISHED)),
        "preemptions": int(own["preemptions"][chosen].sum()),
        "offered_rpm": float(np.count_nonzero(chosen)) / (window.length_s / 60.0),
        "offered_in_tokens": _mean(own["prompt_tokens"][chosen]),
        "offered_out_tokens": _mean(own["output_tokens"][chosen]),
        "goodput_rps": float(np.count_nonzero(met)) / window.length_s,
        "goodput_tps": float(own["output_tokens"][met].sum()) / window.length_s,
        **_percentiles("ttft_ms", ttft_ms),
        **_percentiles("itl_ms", itl_ms),
        **_percentiles("e2e_ms", measured_e2e_ms(select(own, chosen))),
    }


def _percentiles(name: str, values: Floats) -> Mapping[str, float | None]:
    known = values[np.isfinite(values)]
    if known.size == 0:
        return {f"{name}_mean": None, **{f"{name}_p{p}": None for p in _PERCENTILES}}
    cuts = np.percentile(known, _PERCENTILES)
    return {
        f"{name}_mean": float(known.mean()),
        **{f"{name}_p{p}": float(cut) for p, cut in zip(_PERCENTILES, cuts, strict=True)},
    }


def _share(part: float, whole: float) -> float | None:
    return float(part) / float(whole) if whole else None


def _mean(values: Any) -> float | None:
    return float(values.mean()) if values.size else None


def _mean_of(scores: Sequence[Scores], name: str) -> float | None:
    known = [float(score[name]) for score in scores if score[name] is not None]
    return sum(known) / len(known) if known else None
