"""The replicas of a cluster as rows of arrays, and each of them as an Engine."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from math import inf, nan, nextafter
from struct import Struct
from typing import Any, NamedTuple, TypeVar
from weakref import ref

import numpy as np
import numpy.typing as npt

from twin.engine.compiled import columns as at
from twin.engine.compiled.columns import Floats, Ints, State
from twin.engine.compiled.machine_code import ENGINE, machine_code
from twin.engine.compiled.visit import NO_DRAWS, Stretch, Visit
from twin.engine.kv_cache import kv_block_count
from twin.engine.latency import boundaries_before, duration_s
from twin.engine.port import OnFinish
from twin.engine.telemetry import ReplicaReading, add_progression
from twin.request import REASONS, Request, RequestBatch, RequestLog
from twin.spec import EngineSpec

Scraped = tuple[Ints, Floats, Ints]
A = TypeVar("A", Ints, Floats)
_CHUNK = 4096
"""Requests that arrive in one call, and rows of the log that are kept until they are handed on."""


class _Requests(NamedTuple):
    """Requests side by side: where their instants, prompts and outputs are, and what holds them."""

    number: int
    times_at: int
    prompts_at: int
    outputs_at: int
    held: Sequence[Any]


_NO_REQUESTS = _Requests(0, 0, 0, 0, ())
# What belongs to one call stands behind what all have in common.
_INTS_AT = Struct(f"{at.INT_ARRAYS - at.A_VISITS}q")
_FLOATS_AT = Struct(f"{at.FLOAT_ARRAYS - at.F_ARRIVALS}q")
_COUNTS = Struct(f"{at.SIZES - at.N_VISITS}q")
_INSTANTS = Struct(f"{at.INSTANTS}d")
_VISITS_AT, _ARRIVALS_AT, _COUNTS_AT = 8 * at.A_VISITS, 8 * at.F_ARRIVALS, 8 * at.N_VISITS
_VISIT_INTS, _TURN = at.VISIT_INTS, at.V_TURN


class Sampled(NamedTuple):
    """What was read of servers, by visit: at each scrape its counters and buckets, its sums, and
    the rest of what columns.SAMPLE_INTS are; and whose turn it is then.
    """

    counted: npt.NDArray[np.int64]
    sums_s: npt.NDArray[np.float64]
    rest: list[list[list[int]]]
    turns: list[int]


class ReplicaTable:
    """The replicas of all servers of a cluster; how requests end is written to *records*.

    Arrays grow when they must; a row of a replica that nobody holds any more is used again.
    """

    def __init__(self, *, records: RequestLog) -> None:
        self._records = records
        self._owners: list[ref[TableReplica]] = []
        self._free_rows: list[int] = []
        self._rows: list[array[int]] = []  # by row, an array of it alone
        self._heap_end = 0
        self.objects: dict[int, Request] = {}
        self.state = State(
            ints=np.zeros((0, at.REPLICA_INTS), np.int64),
            floats=np.zeros((0, at.REPLICA_FLOATS)),
            buckets=np.zeros((0, at.BUCKETS), np.int64),
            counts=np.zeros((0, 1), np.int64),
            keys=np.zeros(0, np.int64),
            slots=np.zeros(0, np.int64),
            requests=np.zeros((0, at.REQUEST_INTS), np.int64),
            times=np.zeros((0, at.REQUEST_FLOATS)),
            pool=np.zeros(0, np.int64),
            sizes=np.zeros(2, np.int64),
            log=np.zeros((0, at.LOG_INTS), np.int64),
            log_times=np.zeros((0, at.LOG_FLOATS)),
        )
        self._last: Scraped = (
            np.zeros((0, at.SCRAPED_INTS), np.int64),
            np.zeros((0, at.SCRAPED_FLOATS)),
            np.zeros((0, at.BUCKETS), np.int64),
        )
        self._scratch: Scraped = (
            np.zeros(at.SCRAPED_INTS, np.int64),
            np.zeros(at.SCRAPED_FLOATS),
            np.zeros(at.BUCKETS, np.int64),
        )
        # By server, what was ever scraped of its replicas: counters and then buckets, and sums.
        self.scraped = np.zeros((0, at.S_RUNNING + at.BUCKETS), np.int64)
        self.scraped_sums = np.zeros((0, at.S_KV_USAGE))
        self._order: tuple[Ints, Floats] = (np.empty(2, np.int64), np.empty(2))
        # What the last call was about: one server is served from the same requests many times.
        self._batch: tuple[RequestBatch | None, _Requests] = (None, _NO_REQUESTS)
        self._run_code = machine_code(ENGINE, _entry)
        self._ints = (ctypes.c_void_p * at.INT_ARRAYS)()
        self._floats = (ctypes.c_void_p * at.FLOAT_ARRAYS)()
        self._sizes = (ctypes.c_int64 * at.SIZES)()
        self._instants = (ctypes.c_double * at.INSTANTS)()
        told = (self._ints, self._floats, self._sizes, self._instants)
        # To tell an address takes half the time that it takes to tell an array.
        self._told_at = tuple(ctypes.addressof(one) for one in told)
        # Whether an array was made anew since compiled code was told where they are: a table that
        # is set up makes most of them several times before the first call.
        self._moved = True
        records.sources.append(self.flush)

    def _hold(self) -> None:
        """Take down where the arrays are, and how long, after one of them was made anew."""
        self._moved = False
        s, order = self.state, self._order
        last, last_floats, last_buckets = self._last
        scratch, scratch_floats, scratch_buckets = self._scratch
        ints = [s.ints, s.buckets, s.counts, s.keys, s.slots, s.requests, s.pool, s.sizes, s.log]
        ints += [last, last_buckets, scratch, scratch_buckets, self.scraped, order[0]]
        floats = [s.floats, s.times, s.log_times, last_floats, scratch_floats]
        floats += [self.scraped_sums, order[1]]
        self._ints[: at.A_VISITS] = [_address(of) for of in ints]
        self._floats[: at.F_ARRIVALS] = [_address(of) for of in floats]
        self._sizes[: at.N_VISITS] = [
            *(*s.counts.shape, len(s.keys), len(s.requests)),
            *(len(s.log), len(self.scraped), len(order[0])),
        ]

    def add(
        self,
        spec: EngineSpec,
        *,
        server: str,
        index: int,
        max_batch: int,
        queue_max: int | None,
        on_finish: OnFinish | None = None,
    ) -> TableReplica:
        """Return an idle replica of *spec* for *server*, the one of this *index*. Told *on_finish*,
        it does not write to the records.
        """
        row = self._free_rows.pop() if self._free_rows else len(self._owners)
        self.make_server(index)
        self._make_rows(row + 1, block_size=spec.block_size)
        s, model = self.state, spec.latency_model
        heap, room = s.ints[row, [at.HEAP, at.HEAP_ROOM]].tolist()
        for column in (s.ints, s.floats, s.buckets, s.counts, *self._last):
            column[row] = 0
        blocks = kv_block_count(spec.kv_tokens, spec.block_size)
        size = 1 if blocks is None else spec.block_size
        ints = {
            at.SERVER: index,
            at.HEAP: heap,
            at.HEAP_ROOM: room,
            at.MAX_BATCH: max_batch,
            at.BUDGET: spec.max_num_batched_tokens,
            at.KV_BLOCKS: at.UNBOUNDED if blocks is None else blocks,
            at.KV_TOKENS: at.UNBOUNDED if blocks is None else blocks * size,
            at.BLOCK: size,
            at.PREFIX_BLOCK: spec.block_size,
            at.QUEUE_MAX: at.UNBOUNDED if queue_max is None else queue_max,
            at.FULL_PROMPT: spec.admission == "full_prompt",
            at.AHEAD: spec.scheduling == "async",
            **dict.fromkeys((at.RUN_FIRST, at.RUN_LAST, at.WAIT_FIRST, at.WAIT_LAST), -1),
            **dict.fromkeys((at.PARTIAL, at.PREFILL, at.FOLLOWER), -1),
        }
        floats = {
            at.NEXT_S: inf,
            at.SEEN_S: inf,
            at.ALPHA_S: model.alpha_ms / 1000.0,
            at.BETA_S: model.beta_ms / 1000.0,
            at.GAMMA_S: model.gamma_ms / 1000.0,
            at.OVERHEAD_S: spec.overhead_ms / 1000.0,
            at.PREFIX_SHARE: spec.prefix_share,
            at.BETA_MS: model.beta_ms,
            at.GAMMA_MS: model.gamma_ms,
            at.LAUNCH_MS: model.launch_ms,
            at.WEIGHTS_MS: model.weights_ms,
            at.P: model.p,
            at.ALPHA_MS: model.alpha_ms,
            at.EXPERTS_MS: model.experts_ms,
            at.EXPERTS_IDLE: model.experts_idle,
            at.ATTENTION: model.attention,
            at.SEQUENCE_MS: model.sequence_ms,
            at.SEQUENCE_S: model.sequence_ms / 1000.0,
            at.IS_PLAIN: model.is_plain,
        }
        s.ints[row, list(ints)] = list(ints.values())
        s.floats[row, list(floats)] = list(floats.values())
        self.make_batch(row, max_batch)
        replica = TableReplica(self, row, server=server, index=index, on_finish=on_finish)
        owner = ref(replica, partial(_give_back, self._free_rows, row))
        if row == len(self._owners):
            self._owners.append(owner)
            self._rows.append(array("q", (row,)))
        else:
            self._owners[row] = owner
        return replica

    def serve(
        self, index: int, stretch: Stretch, replicas: Sequence[TableReplica]
    ) -> tuple[int, int]:
        """Let the requests of *stretch* arrive at *replicas* of the server *index*. Return whose
        turn it is then, and how many tokens their prompts had.
        """
        batch, begin, end, number, (how, turn, draws), _ = stretch
        rows = array("q", [replica.row for replica in replicas])
        requests, tokens = self._requests([(batch, 0, end)]), 0
        for first in range(begin, end, _CHUNK):
            last = min(first + _CHUNK, end)
            self.make_slots(last - first)
            visit = array("q", (index, 0, len(rows), 0, 0, first, last))
            visit.extend((number + first - begin, how, 0, turn, 0))
            self._run(visit, rows, requests=requests, draws=draws[first - begin :])
            turn = visit[at.V_TURN]
            tokens += visit[at.V_TOKENS]
        return turn, tokens

    def follow(self, row: int, batch: RequestBatch, begin: int) -> None:
        """Let the requests of *batch* from *begin* on, whatever their times, come to the replica
        *row* as those end that came before: one for each.
        """
        count = len(batch) - begin
        if not count:
            return
        self.make_slots(count)
        s = self.state
        free = int(s.sizes[0]) - count
        slots = s.pool[free : free + count].copy()
        s.sizes[0] = free
        s.requests[slots] = 0
        s.requests[slots, at.ID] = np.arange(begin, len(batch))
        s.requests[slots, at.PROMPT] = batch.prompt_tokens[begin:]
        s.requests[slots, at.OUTPUT] = batch.output_tokens[begin:]
        s.requests[slots, at.TICKET] = -1
        s.requests[slots, at.NEXT] = [*slots[1:].tolist(), -1]
        s.times[slots] = nan
        s.ints[row, at.FOLLOWER] = slots[0]

    def submit(self, row: int, slot: int, now_s: float) -> int:
        """Submit the request of *slot* to the replica *row*; return the code of the reason why not,
        or 0.
        """
        return self._run(_ONE, self._rows[row], one=(slot, now_s))

    def advance(self, row: int, until_s: float) -> None:
        """Process every boundary of the replica *row* before *until_s*."""
        self.make_slots(0)
        self._run(_ONE, self._rows[row], until_s=until_s)

    def read(self, row: int, now_s: float) -> Scraped:
        """Return what a scrape at *now_s* sees of the replica *row*, until the next call."""
        self._run(_ONE, self._rows[row], look=(at.READ, nextafter(now_s, inf)))
        return self._scratch

    def _run(
        self,
        visits: array[int],
        rows: array[int],
        *,
        requests: _Requests = _NO_REQUESTS,
        draws: Floats = NO_DRAWS,
        one: tuple[int, float] = (-1, 0.0),
        until_s: float = -inf,
        look: tuple[int, float] = (0, 0.0),
        scrapes: tuple[int, int, int, int] = (0, 0, 0, 0),
    ) -> int:
        if 4 * len(rows) > len(self._order[0]):
            size = 4 << len(rows).bit_length()
            self._order = (np.empty(size, np.int64), np.empty(size))
            self._moved = True
        if self._moved:
            self._hold()
        (slot, now_s), (what, after_s) = one, look
        scrapes_at, samples_at, sums_at, count = scrapes
        number, times_at, prompts_at, outputs_at, _ = requests
        visits_at, length = visits.buffer_info()
        rows_at, replicas = rows.buffer_info()
        # What there is nothing of is not looked at.
        drawn = len(draws)
        draws_at = _address(draws) if drawn else 0
        places = (visits_at, rows_at, prompts_at, outputs_at, samples_at)
        _INTS_AT.pack_into(self._ints, _VISITS_AT, *places)
        _FLOATS_AT.pack_into(self._floats, _ARRIVALS_AT, times_at, draws_at, scrapes_at, sums_at)
        counts = (length // _VISIT_INTS, replicas, number, drawn, count, slot, what)
        _COUNTS.pack_into(self._sizes, _COUNTS_AT, *counts)
        _INSTANTS.pack_into(self._instants, 0, now_s, after_s, until_s)
        return self._run_code(*self._told_at)

    def _requests(self, parts: Sequence[tuple[RequestBatch, int, int]]) -> _Requests:
        """Return the requests of all *parts* (of a batch, from where to before where), one after
        the other.
        """
        if len(parts) != 1:
            return _side_by_side(
                np.concatenate([batch.times_s[begin:end] for batch, begin, end in parts]),
                np.concatenate([batch.prompt_tokens[begin:end] for batch, begin, end in parts]),
                np.concatenate([batch.output_tokens[begin:end] for batch, begin, end in parts]),
            )
        ((batch, begin, end),) = parts
        last, whole = self._batch
        if last is not batch:
            whole = _side_by_side(batch.times_s, batch.prompt_tokens, batch.output_tokens)
            self._batch = batch, whole
        return _Requests(
            end - begin,
            whole.times_at + 8 * begin,
            whole.prompts_at + 8 * begin,
            whole.outputs_at + 8 * begin,
            whole.held,
        )

    def sample(self, visits: Sequence[Visit[TableReplica]], scrapes_s: Sequence[float]) -> Sampled:
        """Let what has come arrive at each of several servers, and scrape their replicas at each of
        *scrapes_s*; what happens at these instants is in it.
        """
        told, rows, requests, draws = self._told(visits)
        count = len(scrapes_s)
        instants = array("d", (*scrapes_s, *[nextafter(one_s, inf) for one_s in scrapes_s]))
        lines = np.empty((len(visits), count, at.SAMPLE_INTS), np.int64)
        sums_s = np.empty((len(visits), count, at.S_KV_USAGE))
        self._run(
            told,
            rows,
            requests=requests,
            draws=draws,
            look=(at.READ, 0.0),
            scrapes=(instants.buffer_info()[0], _address(lines), _address(sums_s), count),
        )
        turns = told[_TURN::_VISIT_INTS].tolist()
        return Sampled(lines[:, :, : at.T_CAME], sums_s, lines[:, :, at.T_CAME :].tolist(), turns)

    def go_on(self, visits: Sequence[Visit[TableReplica]], until_s: float) -> list[tuple[int, int]]:
        """Let what has come arrive at each of several servers, and go on with their replicas to
        *until_s*; what happens at this instant is in it. Return of each whose turn it is then, and
        how many tokens the prompts had.
        """
        told, rows, requests, draws = self._told(visits)
        self._run(told, rows, requests=requests, draws=draws, until_s=nextafter(until_s, inf))
        ends = range(_TURN, len(told), _VISIT_INTS)
        return [(told[place], told[place + 1]) for place in ends]

    def _told(
        self, visits: Sequence[Visit[TableReplica]]
    ) -> tuple[array[int], array[int], _Requests, Floats]:
        """Return *visits* and the rows that they are about as compiled code reads them, with the
        requests that come and what chance drew, and have room for them.
        """
        rows: list[int] = []
        lines: list[int] = []
        draws, parts, begin, drawn = [], [], 0, 0
        for server, stretch, routed, read in visits:
            batch, first, last, number, (how, turn, chance), more = stretch
            to = start = len(rows)
            # Mostly one or two: to make a list of them costs more.
            for replica in routed:
                rows.append(replica.row)
            middle = len(rows)
            # Mostly all of them are ready.
            if read != routed:
                start = middle
                rows += [replica.row for replica in read]
            end = begin + last - first
            if end > begin:
                parts.append((batch, first, last))
            for part in more:
                parts.append(part)
                end += part[2] - part[1]
            lines += (server, to, middle, start, len(rows), begin, end, number, how, drawn, turn, 0)
            begin = end
            if len(chance):
                draws.append(chance)
                drawn += len(chance)
        self.make_slots(begin)
        # An array of numpy takes three times as long to be made.
        return (
            array("q", lines),
            array("q", rows),
            self._requests(parts) if parts else _NO_REQUESTS,
            np.concatenate(draws) if draws else NO_DRAWS,
        )

    def gauges(self) -> tuple[list[list[int]], list[float]]:
        """Return, of each row as it was last scraped, what ran, what waited and the prompt tokens
        that did; and the usages of the KV cache.
        """
        ints, floats, _ = self._last
        return ints[:, at.S_RUNNING :].tolist(), floats[:, at.S_KV_USAGE].tolist()

    def flush(self) -> None:
        """Hand on the rows of the log."""
        s = self.state
        count = int(s.sizes[1])
        if count:
            self._records.add_rows(s.log[:count], s.log_times[:count])
            s.sizes[1] = 0

    def record_unfinished(
        self, replicas: Sequence[TableReplica], now_s: float
    ) -> tuple[Ints, Ints, Ints]:
        """Record what is in flight on *replicas*, which are at *now_s*, at the end of a run. Return
        of each request its server, its number and the tokens that it has made.
        """
        self.flush()
        self.make_slots(0)
        rows = array("q", [replica.row for replica in replicas])
        self._run(_reading(len(rows)), rows, look=(at.LIST, nextafter(now_s, inf)))
        s = self.state
        lines = s.log[: s.sizes[1]].copy()
        self.flush()
        made = s.requests[lines[:, at.LOG_SLOT], at.GENERATED]
        return lines[:, at.LOG_SERVER], lines[:, at.LOG_ID], made

    def ended(self) -> list[tuple[Request, float]]:
        """Return the requests that were submitted as objects and have finished since the last
        call, and when; forget them here.
        """
        s = self.state
        count = int(s.sizes[1])
        found = []
        for ints, floats in zip(s.log[:count].tolist(), s.log_times[:count].tolist(), strict=True):
            request = self.objects.pop(ints[at.LOG_SLOT])
            request.generated = request.output_tokens
            request.preemptions = ints[at.LOG_PREEMPTIONS]
            request.admitted = True
            request.first_token_s = floats[at.LOG_FIRST_S]
            request.last_token_s = floats[at.LOG_END_S]
            found.append((request, floats[at.LOG_ENGINE_S]))
        s.sizes[1] = 0
        return found

    def make_server(self, index: int) -> None:
        """Have room for the totals of the server *index*, which may be scraped without replicas."""
        have = len(self.scraped)
        if index >= have:
            more = max(index + 1 - have, have)
            self.scraped = _grown(self.scraped, more)
            self.scraped_sums = _grown(self.scraped_sums, more)
            self._moved = True

    def make_slots(self, count: int) -> None:
        """Have room for *count* more requests, and for the records of all that there are."""
        s = self.state
        free, rows = s.sizes.tolist()
        held = len(s.requests) - free
        if free < count:
            more = max(count - free, len(s.requests), 64)
            self.state = s = s._replace(
                requests=_grown(s.requests, more),
                times=_grown(s.times, more),
                pool=_grown(s.pool, more),
            )
            first = len(s.requests) - more
            s.pool[free : free + more] = np.arange(first + more - 1, first - 1, -1)
            s.sizes[0] = free + more
            self._moved = True
        if rows + held + count > len(s.log):
            if rows >= _CHUNK and not self.objects:
                self.flush()
                rows = 0
            more = max(rows + held + count - len(s.log), 0)
            if more:
                more = max(more, len(s.log) // 2)
                self.state = s._replace(
                    log=_grown(s.log, more), log_times=_grown(s.log_times, more)
                )
                self._moved = True

    def _make_rows(self, rows: int, *, block_size: int) -> None:
        s = self.state
        if rows > len(s.ints):
            more = max(rows - len(s.ints), len(s.ints))
            self.state = s = s._replace(
                ints=_grown(s.ints, more),
                floats=_grown(s.floats, more),
                buckets=_grown(s.buckets, more),
                counts=_grown(s.counts, more),
            )
            ints, floats, buckets = self._last
            self._last = (_grown(ints, more), _grown(floats, more), _grown(buckets, more))
            self._moved = True
        if block_size > s.counts.shape[1]:
            self.state = self.state._replace(counts=_wider(s.counts, block_size))
            self._moved = True

    def make_batch(self, row: int, batch: int) -> None:
        """Have room for so many requests in the batch of *row*."""
        s = self.state
        begin, room = s.ints[row, [at.HEAP, at.HEAP_ROOM]].tolist()
        if batch <= room:
            return
        # What it leaves behind is lost; twice the room each time, that is as much again at most.
        room_now = max(batch, 2 * room)
        end = self._heap_end + room_now
        if end > len(s.keys):
            more = max(end - len(s.keys), len(s.keys))
            self.state = s = s._replace(keys=_grown(s.keys, more), slots=_grown(s.slots, more))
            self._moved = True
        for column in (s.keys, s.slots):
            column[self._heap_end : self._heap_end + room] = column[begin : begin + room]
        s.ints[row, [at.HEAP, at.HEAP_ROOM]] = self._heap_end, room_now
        self._heap_end = end


def _reading(replicas: int) -> array[int]:
    """Return the visit that reads so many replicas and brings no requests."""
    visit = array("q", bytes(8 * at.VISIT_INTS))
    visit[at.V_READ_END] = replicas
    return visit


# Of a call to one replica.
_ONE = _reading(1)


def _give_back(rows: list[int], row: int, _owner: ref[TableReplica]) -> None:
    rows.append(row)


def _side_by_side(times_s: Any, prompts: Any, outputs: Any) -> _Requests:
    """Return requests as compiled code reads them: a copy only of what is of another type, or not
    side by side.
    """
    times_s = np.ascontiguousarray(times_s, np.float64)
    prompts = np.ascontiguousarray(prompts, np.int64)
    outputs = np.ascontiguousarray(outputs, np.int64)
    return _Requests(
        number=len(times_s),
        times_at=_address(times_s),
        prompts_at=_address(prompts),
        outputs_at=_address(outputs),
        held=(times_s, prompts, outputs),
    )


def _entry() -> Callable[..., int]:
    from twin.engine.compiled.calls import run  # noqa: PLC0415, brings the compiler

    return run


def _address(values: Any) -> int:
    try:
        # Three times as fast as to ask the array.
        return ctypes.addressof(ctypes.c_char.from_buffer(values))
    except (TypeError, ValueError):  # not to be written to, or empty
        address: int = values.__array_interface__["data"][0]
        return address


def _grown(rows: A, more: int) -> A:
    grown: A = np.concatenate([rows, np.zeros((more, *rows.shape[1:]), rows.dtype)])
    return grown


def _wider(rows: Ints, columns: int) -> Ints:
    wider = np.zeros((len(rows), columns), rows.dtype)
    wider[:, : rows.shape[1]] = rows
    return wider


class TableReplica:
    """A row of a table, as an Engine: for all that is not done to many replicas at once."""

    __slots__ = ("__weakref__", "_index", "_on_finish", "_server", "_table", "row")

    def __init__(
        self,
        table: ReplicaTable,
        row: int,
        *,
        server: str,
        index: int,
        on_finish: OnFinish | None,
    ) -> None:
        self._table = table
        self._server, self._index = server, index
        self.row = row
        self._on_finish = on_finish

    @classmethod
    def of_spec(
        cls, spec: EngineSpec, *, max_batch: int, queue_max: int | None, on_finish: OnFinish
    ) -> TableReplica:
        """Return an idle replica of *spec* in a table of its own."""
        table = ReplicaTable(records=RequestLog())
        return table.add(
            spec,
            server="",
            index=0,
            max_batch=max_batch,
            queue_max=queue_max,
            on_finish=on_finish,
        )

    @property
    def table(self) -> ReplicaTable:
        """Return the table that it is a row of."""
        return self._table

    @property
    def next_boundary_s(self) -> float:
        return float(self._table.state.floats[self.row, at.NEXT_S])

    @property
    def outstanding(self) -> int:
        return self._int(at.OUTSTANDING)

    @property
    def running(self) -> int:
        """Requests in the batch, those being prefilled included."""
        return self._int(at.RUNNING)

    @property
    def waiting(self) -> int:
        """Requests in the queue, preempted ones included."""
        return self._int(at.WAITING)

    @property
    def queued_prompt_tokens(self) -> int:
        """Return the prompt tokens of the requests that wait, as of the last advance."""
        requests = self._table.state.requests
        return sum([int(requests[slot, at.PROMPT]) for slot in self._waiting()])

    def _int(self, column: int) -> int:
        return int(self._table.state.ints[self.row, column])

    def submit(self, request: Request, now_s: float) -> str | None:
        assert not request.blocks, "prefixes by their blocks need the plain engine"
        table = self._table
        table.make_slots(1)
        s = table.state
        s.sizes[0] -= 1
        slot = int(s.pool[s.sizes[0]])
        s.requests[slot] = 0
        s.requests[slot, at.ID] = request.id
        s.requests[slot, at.PROMPT] = request.prompt_tokens
        s.requests[slot, at.OUTPUT] = request.output_tokens
        s.requests[slot, at.REQUEST_PREEMPTIONS] = request.preemptions
        s.requests[slot, at.TICKET] = -1
        s.times[slot] = nan
        s.times[slot, at.ARRIVAL_S] = request.arrival_s
        if self._on_finish is not None:
            table.objects[slot] = request
        refused = table.submit(self.row, slot, now_s)
        if refused:
            table.objects.pop(slot, None)
            table.state.pool[table.state.sizes[0]] = slot
            table.state.sizes[0] += 1
        else:
            request.submitted_s = now_s
        self._tell()
        return REASONS[refused] if refused else None

    def advance(self, until_s: float, *, inclusive: bool) -> None:
        if self.next_boundary_s <= until_s:
            self._table.advance(self.row, nextafter(until_s, inf) if inclusive else until_s)
            self._tell()

    def _tell(self) -> None:
        if self._on_finish is not None:
            for request, finish_s in self._table.ended():
                self._on_finish(request, finish_s)

    def read(self, now_s: float) -> ReplicaReading:
        next_s = self.next_boundary_s
        assert next_s > now_s, f"read at {now_s}, but a boundary at {next_s} is not processed"
        s = self._table.state
        scraped, sums, counted = (seen.tolist() for seen in self._table.read(self.row, now_s))
        queue = counted[at.QUEUE_AT :]
        return ReplicaReading(
            prompt_tokens=scraped[at.S_PROMPT],
            generation_tokens=scraped[at.S_GENERATION],
            successes=scraped[at.S_SUCCESSES],
            rejections=self._int(at.REJECTIONS),
            preemptions=self._int(at.PREEMPTIONS),
            ttft_count=scraped[at.S_TTFT],
            ttft_sum_s=sums[at.S_TTFT_SUM],
            ttft_buckets=tuple(counted[at.TTFT_AT : at.ITL_AT]),
            itl_count=scraped[at.S_ITL],
            itl_sum_s=sums[at.S_ITL_SUM],
            itl_buckets=tuple(counted[at.ITL_AT : at.E2E_AT]),
            e2e_count=scraped[at.S_SUCCESSES],
            e2e_sum_s=float(s.floats[self.row, at.E2E_SUM_S]),
            e2e_buckets=tuple(counted[at.E2E_AT : at.QUEUE_AT]),
            queue_count=sum(queue),
            queue_sum_s=float(s.floats[self.row, at.QUEUE_SUM_S]),
            queue_buckets=tuple(queue),
            running=scraped[at.S_RUNNING],
            waiting=scraped[at.S_WAITING],
            kv_usage=sums[at.S_KV_USAGE],
            prefix_queries=self._int(at.PREFIX_QUERIES),
            prefix_hits=self._int(at.PREFIX_HITS),
        )

    def cached_tokens(self, request: Request) -> int:
        row, s = self.row, self._table.state
        share, size = float(s.floats[row, at.PREFIX_SHARE]), self._int(at.PREFIX_BLOCK)
        found = int(share * request.prompt_tokens)
        return min(found, request.prompt_tokens + request.generated - 1) // size * size

    def set_max_batch(self, max_batch: int, now_s: float) -> None:
        assert max_batch >= 1, f"max_batch must be >= 1, got {max_batch}"
        self.advance(now_s, inclusive=False)
        table, row = self._table, self.row
        table.make_batch(row, max_batch)
        raised = max_batch > self._int(at.MAX_BATCH)
        table.state.ints[row, at.MAX_BATCH] = max_batch
        if raised and self.waiting and self._int(at.LENGTH) > 1 and self.running < max_batch:
            self._truncate(now_s)

    def _truncate(self, now_s: float) -> None:
        ints, floats = self._table.state.ints[self.row], self._table.state.floats[self.row]
        k = self._done_before(now_s) + 1
        if k < ints[at.LENGTH]:
            ints[at.LENGTH] = k
            floats[at.DURATION_S] = duration_s(k, floats[at.C0_S], floats[at.C1_S])
            floats[at.NEXT_S] = floats[at.START_S] + floats[at.DURATION_S]

    def _done_before(self, now_s: float) -> int:
        """Return how many iterations of the segment in progress ended strictly before *now_s*."""
        if self._int(at.LENGTH) <= 1:
            return 0
        floats = self._table.state.floats[self.row]
        start_s, c0_s, c1_s = floats[[at.START_S, at.C0_S, at.C1_S]].tolist()
        return boundaries_before(now_s, start_s, c0_s, c1_s)

    def drain(self, now_s: float) -> list[Request]:
        self.advance(now_s, inclusive=False)
        s, row = self._table.state, self.row
        s.ints[row, at.DRAINING] = 1
        waiting = self._waiting()
        returned = [slot for slot in waiting if not s.requests[slot, at.ADMITTED]]
        kept = [slot for slot in waiting if s.requests[slot, at.ADMITTED]]
        s.ints[row, at.WAITING] = len(kept)
        for slot, after in zip(kept, [*kept[1:], -1], strict=False):
            s.requests[slot, at.NEXT] = after
        if kept:
            s.ints[row, at.WAIT_FIRST], s.ints[row, at.WAIT_LAST] = kept[0], kept[-1]
        s.ints[row, at.OUTSTANDING] -= len(returned)
        if not self.outstanding:
            s.floats[row, at.NEXT_S] = inf
        return [self._given_back(slot) for slot in returned]

    def abort(self, now_s: float) -> list[Request]:
        self.advance(now_s, inclusive=False)
        s, row = self._table.state, self.row
        self._count_segment(now_s)
        lost = [self._given_back(slot) for slot in (*self._running(), *self._waiting())]
        for request in lost:
            request.restart()
        for column in (at.RUN_FIRST, at.RUN_LAST, at.WAIT_FIRST, at.WAIT_LAST):
            s.ints[row, column] = -1
        for column in (at.RUNNING, at.WAITING, at.DECODES, at.CONTEXT_SUM, at.FINISHES, at.LENGTH):
            s.ints[row, column] = 0
        s.ints[row, at.PARTIAL] = s.ints[row, at.PREFILL] = -1
        s.ints[row, at.RESIDUE_SUM] = s.ints[row, at.OUTSTANDING] = 0
        s.counts[row] = 0
        s.floats[row, at.NEXT_S] = s.floats[row, at.SEEN_S] = inf
        return lost

    def _count_segment(self, now_s: float) -> None:
        """Count the tokens that were emitted before *now_s* in the segment in progress."""
        done = self._done_before(now_s)
        if done:
            s, row, n = self._table.state, self.row, self._int(at.DECODES)
            c0_s, c1_s = s.floats[row, [at.C0_S, at.C1_S]].tolist()
            s.ints[row, at.GENERATION_TOKENS] += n * done
            s.floats[row, at.ITL_SUM_S] += n * duration_s(done, c0_s, c1_s)
            buckets = s.buckets[row, at.ITL_AT : at.E2E_AT].tolist()
            add_progression(buckets, n, done, c0_s, c1_s)
            s.buckets[row, at.ITL_AT : at.E2E_AT] = buckets

    def in_flight(self, now_s: float) -> list[Request]:
        s, row = self._table.state, self.row
        done = self._done_before(nextafter(now_s, inf))
        floats = s.floats[row].tolist()
        c0_s, c1_s = floats[at.C0_S], floats[at.C1_S]
        last_token_s = floats[at.START_S] + duration_s(done, c0_s, c1_s)
        running = self._running()
        prefilling = set()
        slot = self._int(at.PREFILL)
        while slot >= 0:
            prefilling.add(slot)
            slot = int(s.requests[slot, at.NEXT])
        g = self._int(at.ITERATION) + done
        slots = [*running, *self._waiting()]
        offsets = s.requests[slots, at.OFFSET].tolist()
        found = self._requests(slots)
        for slot, request, offset in zip(running, found, offsets, strict=False):
            if slot not in prefilling:
                request.context = offset + g
                request.generated = request.context - request.prompt_tokens + 1
                request.last_token_s = last_token_s
        return found

    def _running(self) -> list[int]:
        return self._listed(at.RUN_FIRST, self.running)

    def _waiting(self) -> list[int]:
        return self._listed(at.WAIT_FIRST, self.waiting)

    def _listed(self, first: int, count: int) -> list[int]:
        slots, requests = [], self._table.state.requests
        slot = self._int(first)
        for _ in range(count):
            slots.append(slot)
            slot = int(requests[slot, at.NEXT])
        return slots

    def _requests(self, slots: list[int]) -> list[Request]:
        """Return the requests of *slots* as they stand there; those that were submitted, if some
        were.
        """
        table, found = self._table, []
        state = table.state
        for slot, ints, times_s in zip(
            slots, state.requests[slots].tolist(), state.times[slots].tolist(), strict=True
        ):
            request = table.objects.get(slot)
            arrival_s, submitted_s, first_s, last_s = times_s
            if request is None:
                request = Request(
                    id=ints[at.ID],
                    prompt_tokens=ints[at.PROMPT],
                    output_tokens=ints[at.OUTPUT],
                    arrival_s=arrival_s,
                    server=self._server,
                )
                request.server_index = self._index
            request.submitted_s = submitted_s
            request.first_token_s, request.last_token_s = first_s, last_s
            request.preemptions = ints[at.REQUEST_PREEMPTIONS]
            request.generated, request.context = ints[at.GENERATED], ints[at.CONTEXT]
            request.admitted = bool(ints[at.ADMITTED])
            found.append(request)
        return found

    def _given_back(self, slot: int) -> Request:
        """Return the request of *slot*, and let go of the slot."""
        (request,) = self._requests([slot])
        table = self._table
        table.objects.pop(slot, None)
        table.state.pool[table.state.sizes[0]] = slot
        table.state.sizes[0] += 1
        return request
