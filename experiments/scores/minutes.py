"""What happened to each server in each minute: arrivals, mean latencies, output, and whether the
targets held. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from experiments.columns import (
    MINUTE_S,
    UNFINISHED,
    Bools,
    Columns,
    Floats,
    Window,
    are_lost,
    in_order,
    select,
)
from experiments.requests import Block, Requests, requests_of
from experiments.scores.verdicts import LEFT_OUT, bounded_latencies_ms, judge, target_columns
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
    requests: Columns | Requests, targets: Sequence[SloTarget | None], window: Window
) -> MinuteTable:
    """Count *requests* (of all servers of *targets*, in their order) by the minutes of *window*.

    A rejected or failed request has no latency, so its minute has no mean that meets the targets:
    it is missed. Requests left out of the scores (unfinished, no target broken yet) are left out of
    the means.
    """
    found = requests_of(requests).blocks(len(targets))
    return joined([block_minutes(block, targets, window) for block in found], window)


def joined(tables: Sequence[MinuteTable], window: Window) -> MinuteTable:
    """Return the table of all servers from those of blocks of them."""
    if not tables:
        none = {name: np.empty(0, kind) for name, kind in _EMPTY.items()}
        edges_s = minute_edges_s(window)
        return _minutes_of(none, [], window, (np.zeros((0, edges_s.size - 1)),) * 2)
    rows = {name: np.concatenate([getattr(one, name) for one in tables]) for name in _BY_SERVER}
    return replace(tables[0], **rows)


def block_minutes(
    block: Block,
    targets: Sequence[SloTarget | None],
    window: Window,
    *,
    all_tokens: bool = True,
) -> MinuteTable:
    """Count the requests of *block* as minute_table does; *targets* are those of all servers. Only
    with *all_tokens*, tokens are counted of servers, too, that have no target for them.
    """
    own = targets[block.first : block.last]
    asked = [all_tokens or bool(target and target.slo_tps > 0) for target in own]
    rates = token_rates(block, window, asked=asked)
    tables = [
        _minutes_of(
            {**part, "server": part["server"] - block.first},
            targets[block.first : block.last],
            window,
            rates,
        )
        for part in block.parts()
    ]
    # A minute is in one part, and empty in the others.
    return reduce(_merged, tables)


def _merged(one: MinuteTable, other: MinuteTable) -> MinuteTable:
    return replace(
        one,
        arrivals=one.arrivals + other.arrivals,
        rate_rpm=one.rate_rpm + other.rate_rpm,
        ttft_ms=np.where(np.isnan(one.ttft_ms), other.ttft_ms, one.ttft_ms),
        itl_ms=np.where(np.isnan(one.itl_ms), other.itl_ms, one.itl_ms),
        counted=one.counted | other.counted,
        met=one.met | other.met,
        met_p95=one.met_p95 | other.met_p95,
    )


def _minutes_of(
    requests: Columns,
    targets: Sequence[SloTarget | None],
    window: Window,
    rates: tuple[Floats, Floats],
) -> MinuteTable:
    edges_s = minute_edges_s(window)
    length_s = np.diff(edges_s)
    shape = (len(targets), length_s.size)
    output_tps, demanded_tps = rates
    limits = target_columns(targets)
    slo_tps = limits.slo_tps[:, None]
    tps_missed = (slo_tps > 0) & (output_tps < slo_tps) & (output_tps < _MADE * demanded_tps)

    inside = (requests["arrival_s"] >= window.start_s) & (requests["arrival_s"] < window.end_s)
    own = select(requests, inside)
    cells = own["server"].astype(np.int64) * length_s.size + _minute_of(own["arrival_s"], edges_s)
    verdict = judge(own, targets, end_s=window.end_s, tps_missed=tps_missed.ravel()[cells])
    ttft_all, itl_all = bounded_latencies_ms(own, end_s=window.end_s)
    lost = are_lost(own["outcome"])
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


_BY_SERVER = [item.name for item in fields(MinuteTable) if item.name not in ("start_s", "length_s")]
_EMPTY = {
    "server": np.int64,
    "arrival_s": np.float64,
    "first_token_s": np.float64,
    "finish_s": np.float64,
    "outcome": np.int8,
    "output_tokens": np.int32,
}


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


def token_rates(
    block: Block, window: Window, *, asked: Sequence[bool] | None = None
) -> tuple[Floats, Floats]:
    """Return the output tokens made and the output tokens demanded, each per second of each minute,
    by server of *block*; NaN of servers that are not *asked* for (None: all are).

    A request makes its first token at first_token_s and the others evenly until its last; of an
    unfinished one the tokens generated so far are spread until the end. Demanded is what would have
    been made had no request waited: the same tokens at the same pace, but from the arrival on. (To
    count a request's tokens as demanded at the instant of its arrival would score the chance of the
    arrivals: a server without any queue would miss every second minute.)
    """
    edges_s = minute_edges_s(window)
    asked = [True] * (block.last - block.first) if asked is None else asked
    made, demanded = np.full((2, len(asked), edges_s.size - 1), np.nan)
    if not any(asked):
        return made, demanded
    tokens = {server: _Tokens(edges_s) for server, each in enumerate(asked) if each}
    usual_s = None
    if not block.whole:
        usual_s = _usual_token_s(
            lambda: (_served(own, end_s=window.end_s) for own in block.parts())
        )
    for part in block.parts():
        own = {**part, "server": part["server"] - block.first}
        ordered, edges = in_order(own, len(asked))
        served = _served(ordered, end_s=window.end_s)
        for server, sums in tokens.items():
            sums.add(served.between(edges[server], edges[server + 1]), usual_s=usual_s)
    for server, sums in tokens.items():
        made[server], demanded[server] = sums.totals()
    length_s = np.diff(edges_s)
    return made / length_s, demanded / length_s


class _Served(NamedTuple):
    """Of each request: when it came, and what was made of it, a first token at first_s and the
    rest evenly over the span; later are the tokens after the first that it asked for; paced says
    which have a pace of their own.
    """

    arrival_s: Floats
    served: Bools
    first_s: Floats
    span_s: Floats
    rest: Floats
    later: Floats
    paced: Bools

    def between(self, begin: int, end: int) -> _Served:
        """Return the rows from *begin* to before *end*."""
        return _Served._make([column[begin:end] for column in self])


def _served(own: Columns, *, end_s: float) -> _Served:
    unfinished = own["outcome"] == UNFINISHED
    served = np.isfinite(own["first_token_s"]) & ~are_lost(own["outcome"])
    last_s = np.where(unfinished, end_s, own["finish_s"])
    generated = np.where(unfinished, own["generated"], own["output_tokens"])
    first_s: Floats = np.where(served, own["first_token_s"], 0.0)
    span_s = np.where(served, last_s - first_s, 0.0)
    rest = np.where(served, generated - 1.0, 0.0)
    return _Served(
        arrival_s=own["arrival_s"],
        served=served,
        first_s=first_s,
        span_s=span_s,
        rest=rest,
        later=own["output_tokens"] - 1.0,
        paced=(rest > 0) & (span_s > 0),
    )


def _usual_token_s(parts: Callable[[], Iterable[_Served]]) -> float:
    """Return the pace of a request that has none of its own, for it was not served: the median of
    the others; 0 if nobody asks.
    """
    if not any((~part.paced & (part.later > 0)).any() for part in parts()):
        return 0.0
    found = []
    for part in parts():
        paced = part.paced
        found.append(part.span_s[paced] / part.rest[paced])
    paces = np.concatenate(found)
    return float(np.median(paces, overwrite_input=True)) if paces.size else 0.0


class _Tokens:
    """The tokens of one server by minute, made and demanded, of requests in order of arrival."""

    def __init__(self, edges_s: Floats) -> None:
        self._edges_s = edges_s
        self._first, self._came = np.zeros((2, edges_s.size - 1))
        self._made, self._demanded = _Spread(edges_s), _Spread(edges_s)

    def add(self, part: _Served, *, usual_s: float | None) -> None:
        """Count *part*; what has no pace of its own gets *usual_s*, None: the usual one of the
        part.
        """
        if usual_s is None:
            usual_s = _usual_token_s(lambda: [part])
        begin_s = float(part.arrival_s[0]) if part.arrival_s.size else 0.0
        begun = part.first_s[part.served]
        self._first += _counts(begun, self._edges_s)
        self._made.add(part.first_s, part.span_s, part.rest, settled_s=begin_s)
        token_s = np.full(part.span_s.shape, usual_s)
        np.divide(part.span_s, part.rest, out=token_s, where=part.paced)
        self._came += _counts(part.arrival_s, self._edges_s)
        self._demanded.add(part.arrival_s, part.later * token_s, part.later, settled_s=begin_s)

    def totals(self) -> tuple[Floats, Floats]:
        """Return the tokens made and those demanded."""
        return self._first + self._made.totals(), self._came + self._demanded.totals()


class _Spread:
    """The sums in each minute of tokens spread evenly over [begin, begin + span]; at begin where
    span is 0.
    """

    def __init__(self, edges_s: Floats) -> None:
        self._edges_s = edges_s
        self._at_once = np.zeros(edges_s.size - 1)
        self._begun, self._ended = _RampSum(edges_s), _RampSum(edges_s)

    def add(self, begin_s: Floats, span_s: Floats, tokens: Floats, *, settled_s: float) -> None:
        """Count these; what comes now or later begins at *settled_s* at the earliest."""
        even = span_s > 0
        if not even.all():
            weights = tokens[~even]
            at_once, _ = np.histogram(begin_s[~even], bins=self._edges_s, weights=weights)
            self._at_once += at_once
            begin_s, span_s, tokens = begin_s[even], span_s[even], tokens[even]
        slope = tokens / span_s
        self._begun.add(begin_s, slope, settled_s=settled_s)
        self._ended.add(begin_s + span_s, slope, settled_s=settled_s)

    def totals(self) -> Floats:
        """Return the sums."""
        until = self._begun.at_edges() - self._ended.at_edges()
        # The difference of two long sums: what is left of a quiet minute may be a rounding error
        # below zero.
        return self._at_once + np.maximum(np.diff(until), 0.0)


class _RampSum:
    """The sum of slope·max(0, edge − start) at each edge, in O(n log n) for all edges together.

    Sums go from the earliest start to the latest, whatever the parts in which these come: those
    before *settled_s*, that no later part can have, are added up and forgotten.
    """

    def __init__(self, edges_s: Floats) -> None:
        self._edges_s = edges_s
        self._settled_s = -np.inf
        self._start_s, self._slope = np.empty(0), np.empty(0)
        self._slopes, self._offsets = np.zeros((2, edges_s.size))
        self._sums = (0.0, 0.0)

    def add(self, start_s: Floats, slope: Floats, *, settled_s: float) -> None:
        """Count these."""
        if self._start_s.size:
            self._settle(self._start_s < settled_s)
            self._settled_s = settled_s
            start_s = np.concatenate((self._start_s, start_s))
            slope = np.concatenate((self._slope, slope))
        self._start_s, self._slope = start_s, slope

    def at_edges(self) -> Floats:
        """Return the sums, of all."""
        self._settle(slice(None))
        self._settled_s = np.inf
        ramps: Floats = self._slopes * self._edges_s - self._offsets
        return ramps

    def _settle(self, done: Bools | slice) -> None:
        """Add up what is *done* (a slice: all), and forget it."""
        start_s, slope = self._start_s[done], self._slope[done]
        if isinstance(done, slice):
            self._start_s, self._slope = np.empty((2, 0))
        else:
            self._start_s, self._slope = self._start_s[~done], self._slope[~done]
        order = np.argsort(start_s, kind="stable")
        start_s, slope = start_s[order], slope[order]
        slopes, offsets = np.empty((2, slope.size + 1))
        slopes[0], offsets[0] = self._sums
        slopes[1:] = slope
        np.multiply(slope, start_s, out=offsets[1:])
        np.cumsum(slopes, out=slopes)
        np.cumsum(offsets, out=offsets)
        # At edges before, the sums are what they were.
        first = np.searchsorted(self._edges_s, self._settled_s)
        begun = np.searchsorted(start_s, self._edges_s[first:], side="right")
        self._slopes[first:], self._offsets[first:] = slopes[begun], offsets[begun]
        self._sums = (float(slopes[-1]), float(offsets[-1]))


def _counts(values: Floats, edges: Floats) -> npt.NDArray[np.int64]:
    """Return what np.histogram does, which for a few hundred values takes several times as long."""
    ordered = np.sort(values)
    places = np.searchsorted(ordered, edges)
    places[-1] = np.searchsorted(ordered, edges[-1], side="right")
    return np.diff(places)


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
    if (np.diff(cells) < 0).any():
        order = np.argsort(cells, kind="stable")
        values, cells = values[order], cells[order]
    where, first, count = np.unique(cells, return_index=True, return_counts=True)
    places = first + np.ceil(percentile * count / 100.0 - 1e-9).astype(np.int64) - 1
    ends = first + count
    for begin, end, place in zip(first.tolist(), ends.tolist(), places.tolist(), strict=True):
        values[begin:end].partition(place - begin)
    found[where] = values[places]
    return found.reshape(shape)
