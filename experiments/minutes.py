"""What happened to each server in each minute: arrivals, mean latencies, output, and whether the
targets held. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from experiments.columns import (
    FAILED,
    MINUTE_S,
    REJECTED,
    UNFINISHED,
    Bools,
    Columns,
    Floats,
    Window,
    blocks,
    by_server,
    select,
)
from experiments.verdicts import LEFT_OUT, bounded_latencies_ms, judge, target_columns
from loop.spec import SloTarget

# a first token takes a prefill also where nobody waits, so what is made comes a little after the
# demand
_MADE = 0.95
PERCENTILE = 95.0  # of the requests of a minute, what met_p95 holds to a target of all requests


@dataclass(frozen=True, slots=True, kw_only=True)
class MinuteTable:
    """Figures by server (rows) and minute (columns); a request belongs to the minute it arrived in.

    Means are NaN in a minute without a request that counts. `counted` tells the minutes that are
    scored: an arrival that is not left out; `met` those of them that kept every target by their
    means, `met_p95` by the percentiles of their requests that the targets name, or else by the
    95th, a lost one later than any. Rates of a cut minute use its own length.
    """

    start_s: Floats
    length_s: Floats
    arrivals: npt.NDArray[np.int64]
    rate_rpm: Floats
    ttft_ms: Floats
    itl_ms: Floats
    output_tps: Floats
    demanded_tps: Floats
    tps_missed: Bools
    counted: Bools
    met: Bools
    met_p95: Bools


def minute_table(
    requests: Columns, targets: Sequence[SloTarget | None], window: Window
) -> MinuteTable:
    """Count *requests* (of all servers of *targets*, in their order) by the minutes of *window*.

    A rejected or failed request has no latency, so its minute has no mean that meets the targets:
    it is missed. Requests left out of the scores (unfinished, no target broken yet) are left out of
    the means.
    """
    # A block of servers at a time: for each request a dozen figures are made on the way.
    parts = [
        _minutes_of({**own, "server": own["server"] - first}, targets[first:last], window)
        for first, last, own in blocks(requests, len(targets))
    ]
    if not parts:
        return _minutes_of(requests, targets, window)
    rows = {
        item.name: np.concatenate([getattr(part, item.name) for part in parts])
        for item in fields(MinuteTable)
        if item.name not in ("start_s", "length_s")
    }
    return replace(parts[0], **rows)


def _minutes_of(
    requests: Columns, targets: Sequence[SloTarget | None], window: Window
) -> MinuteTable:
    edges_s = minute_edges_s(window)
    length_s = np.diff(edges_s)
    shape = (len(targets), length_s.size)
    output_tps, demanded_tps = token_rates(requests, servers=len(targets), window=window)
    limits = target_columns(targets)
    slo_tps = limits.slo_tps[:, None]
    tps_missed = (slo_tps > 0) & (output_tps < slo_tps) & (output_tps < _MADE * demanded_tps)

    inside = (requests["arrival_s"] >= window.start_s) & (requests["arrival_s"] < window.end_s)
    own = select(requests, inside)
    cells = own["server"].astype(np.int64) * length_s.size + _minute_of(own["arrival_s"], edges_s)
    verdict = judge(own, targets, end_s=window.end_s, tps_missed=tps_missed.ravel()[cells])
    ttft_all, itl_all = bounded_latencies_ms(own, end_s=window.end_s)
    lost = np.isin(own["outcome"], (REJECTED, FAILED))
    scored = verdict != LEFT_OUT

    arrivals = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
    ttft_ms = _cell_means(ttft_all, cells, scored & ~lost, shape)
    itl_ms = _cell_means(itl_all, cells, scored & ~lost & np.isfinite(itl_all), shape)
    lost_here = np.bincount(cells, weights=lost, minlength=arrivals.size).reshape(shape) > 0
    counted = np.bincount(cells, weights=scored, minlength=arrivals.size).reshape(shape) > 0
    # NaN (no figure in this minute) compares as not above the target.
    late = (limits.slo_ttft_ms[:, None] > 0) & (ttft_ms > limits.slo_ttft_ms[:, None])
    slow = (limits.slo_itl_ms[:, None] > 0) & (itl_ms > limits.slo_itl_ms[:, None])
    broken = np.zeros(shape, dtype=bool)
    for latency, values, chosen in (
        ("ttft", np.where(lost, np.inf, ttft_all), scored),
        ("itl", itl_all, scored & ~lost & np.isfinite(itl_all)),
    ):
        for percentile, limit_ms in _percentile_limits(targets, latency):
            cut = _cell_percentiles(values, cells, chosen, shape, percentile=percentile)
            broken |= (limit_ms[:, None] > 0) & (cut > limit_ms[:, None])
    # Without a target of TTFT a lost request has to count by itself.
    many_lost = lost_here & ~_bounds_ttft(targets)[:, None]
    return MinuteTable(
        start_s=edges_s[:-1],
        length_s=length_s,
        arrivals=arrivals,
        rate_rpm=arrivals / (length_s / MINUTE_S),
        ttft_ms=ttft_ms,
        itl_ms=itl_ms,
        output_tps=output_tps,
        demanded_tps=demanded_tps,
        tps_missed=tps_missed,
        counted=counted,
        met=counted & ~(late | slow | lost_here | tps_missed),
        met_p95=counted & ~(broken | many_lost | tps_missed),
    )


def _percentile_limits(
    targets: Sequence[SloTarget | None], latency: str
) -> list[tuple[float, Floats]]:
    """Return, for each percentile that any target bounds, the bounds of all servers [ms]; 0 is
    none.

    A server whose targets name no percentile of *latency* has its target of all requests as the
    bound of the 95th.
    """
    limits: dict[float, Floats] = {}
    for server, target in enumerate(targets):
        if target is None:
            continue
        named = {
            one.percentile: one.limit_ms for one in target.percentiles if one.latency == latency
        }
        of_all = target.slo_ttft_ms if latency == "ttft" else target.slo_itl_ms
        for percentile, limit_ms in (named or {PERCENTILE: of_all}).items():
            limits.setdefault(percentile, np.zeros(len(targets)))[server] = limit_ms
    return sorted(limits.items())


def _bounds_ttft(targets: Sequence[SloTarget | None]) -> Bools:
    return np.array(
        [
            target is not None
            and (target.slo_ttft_ms > 0 or any(one.latency == "ttft" for one in target.percentiles))
            for target in targets
        ],
        dtype=bool,
    )


def minute_edges_s(window: Window) -> Floats:
    """Return the edges of the clock's minutes within *window*, its two ends included [s]."""
    first = int(window.start_s // MINUTE_S) + 1
    last = int(np.ceil(window.end_s / MINUTE_S))
    return np.array([window.start_s, *(MINUTE_S * k for k in range(first, last)), window.end_s])


def token_rates(requests: Columns, *, servers: int, window: Window) -> tuple[Floats, Floats]:
    """Return the output tokens made and the output tokens demanded, each per second of each minute,
    by server.

    A request makes its first token at first_token_s and the others evenly until its last; of an
    unfinished one the tokens generated so far are spread until the end. Demanded is what would have
    been made had no request waited: the same tokens at the same pace, but from the arrival on. (To
    count a request's tokens as demanded at the instant of its arrival would score the chance of the
    arrivals: a server without any queue would miss every second minute.)
    """
    edges_s = minute_edges_s(window)
    made, demanded = np.zeros((2, servers, edges_s.size - 1))
    for server, own in enumerate(by_server(requests, servers)):
        made[server], demanded[server] = _tokens_in_minutes(own, edges_s)
    length_s = np.diff(edges_s)
    return made / length_s, demanded / length_s


def _tokens_in_minutes(own: Columns, edges_s: Floats) -> tuple[Floats, Floats]:
    unfinished = own["outcome"] == UNFINISHED
    served = np.isfinite(own["first_token_s"]) & ~np.isin(own["outcome"], (REJECTED, FAILED))
    last_s = np.where(unfinished, edges_s[-1], own["finish_s"])
    generated = np.where(unfinished, own["generated"], own["output_tokens"])
    first_s: Floats = np.where(served, own["first_token_s"], 0.0)
    span_s: Floats = np.where(served, last_s - first_s, 0.0)
    one: Floats = np.where(served, 1.0, 0.0)
    rest: Floats = np.where(served, generated - 1.0, 0.0)
    made = _spread(edges_s, first_s, span_s * 0.0, one) + _spread(edges_s, first_s, span_s, rest)

    paced = (rest > 0) & (span_s > 0)
    # Whoever was not served has no pace of its own: it would have had the usual one.
    usual = float(np.median(span_s[paced] / rest[paced])) if paced.any() else 0.0
    token_s = np.full(span_s.shape, usual)
    np.divide(span_s, rest, out=token_s, where=paced)
    later: Floats = own["output_tokens"] - 1.0
    at_arrival = _spread(edges_s, own["arrival_s"], span_s * 0.0, np.ones(later.shape))
    return made, at_arrival + _spread(edges_s, own["arrival_s"], later * token_s, later)


def _spread(edges_s: Floats, begin_s: Floats, span_s: Floats, tokens: Floats) -> Floats:
    """Return the sum in each minute of *tokens* spread evenly over [begin, begin + span]; at begin
    where span is 0.
    """
    even = span_s > 0
    at_once, _ = np.histogram(begin_s[~even], bins=edges_s, weights=tokens[~even])
    slope = tokens[even] / span_s[even]
    until = _ramp_sum(edges_s, begin_s[even], slope) - _ramp_sum(
        edges_s, begin_s[even] + span_s[even], slope
    )
    # The difference of two long sums: what is left of a quiet minute may be a rounding error below
    # zero.
    return at_once + np.maximum(np.diff(until), 0.0)


def _ramp_sum(edges_s: Floats, start_s: Floats, slope: Floats) -> Floats:
    """Return sum of slope·max(0, edge − start) at each edge, in O(n log n) for all edges
    together.
    """
    order = np.argsort(start_s, kind="stable")
    slopes = np.concatenate(([0.0], np.cumsum(slope[order])))
    offsets = np.concatenate(([0.0], np.cumsum(slope[order] * start_s[order])))
    begun = np.searchsorted(start_s[order], edges_s, side="right")
    ramps: Floats = slopes[begun] * edges_s - offsets[begun]
    return ramps


def _minute_of(arrival_s: Floats, edges_s: Floats) -> npt.NDArray[np.int64]:
    return np.searchsorted(edges_s, arrival_s, side="right").astype(np.int64) - 1


def _cell_means(
    values: Floats, cells: npt.NDArray[np.int64], chosen: Bools, shape: tuple[int, int]
) -> Floats:
    size = shape[0] * shape[1]
    count = np.bincount(cells[chosen], minlength=size)
    total = np.bincount(cells[chosen], weights=values[chosen], minlength=size)
    means = np.full(size, np.nan)
    np.divide(total, count, out=means, where=count > 0)
    return means.reshape(shape)


def _cell_percentiles(
    values: Floats,
    cells: npt.NDArray[np.int64],
    chosen: Bools,
    shape: tuple[int, int],
    *,
    percentile: float,
) -> Floats:
    """Return the *percentile* of the *chosen* values of each cell, NaN for a cell without any: the
    least value that at least so many are not above.
    """
    found = np.full(shape[0] * shape[1], np.nan)
    values, cells = values[chosen], cells[chosen]
    order = np.lexsort((values, cells))
    where, first, count = np.unique(cells[order], return_index=True, return_counts=True)
    rank = np.ceil(percentile * count / 100.0 - 1e-9).astype(np.int64)
    found[where] = values[order][first + rank - 1]
    return found.reshape(shape)
