"""One request and its life as a flat mutable record, and the compact log of how requests ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import repeat
from math import nan
from struct import Struct
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from twin.spool import Spool


class Outcome(IntEnum):
    """How a request stands in the log."""

    FINISHED = 0
    REJECTED = 1
    FAILED = 2
    UNFINISHED = 3


REASONS = (
    *(
        "",
        "queue_full",
        "never_fits",
        "draining",
        "crashed",
        "node_lost",
        "drain_timeout",
        "no_pod",
    ),
    "server_removed",
)
"""What the reason codes of a log mean; the empty reason belongs to finished and unfinished
requests.
"""

_REASON_CODES = {reason: code for code, reason in enumerate(REASONS)}


class Request:
    """One request: what it asks for, and where it is in its life.

    Its source makes it once, and hands it on: server names the server that is asked, arrival_s is
    when the client asked and never changes. The gateway that takes it in sets id and server_index,
    its place in the records. submitted_s is when the replica that holds it now took it in.
    first_token_s and last_token_s are nan until there is such a token; the first, and the last of
    a finished request, are counted as its client sees them, after the overhead of the server.
    generated and context
    (tokens whose KV is held) are kept current by a replica only while the request is not decoding:
    ask Engine.in_flight for them. admitted says whether the present replica ever ran it. ticket and
    context_offset belong to the replica: its place in the admission order, and context less the
    replica's iteration counter, which stays constant while it decodes.

    blocks name the blocks of the prompt, block_tokens tokens each, if the source knows them: each
    name stands for all that comes before it, too (twin.engine.prefix_cache). If there are more than
    the prompt has, a conversation goes on with the answer: they are its blocks, and one more name
    than it fills. cached_tokens is what the present replica found computed when it last began the
    request.

    What else a source knows of a request is one more argument here, and one more column of the log
    below if it is to be recorded; no hand between them names the fields.
    """

    __slots__ = (
        "admitted",
        "arrival_s",
        "block_tokens",
        "blocks",
        "cached_tokens",
        "context",
        "context_offset",
        "first_token_s",
        "generated",
        "id",
        "last_token_s",
        "output_tokens",
        "preemptions",
        "prompt_tokens",
        "server",
        "server_index",
        "submitted_s",
        "ticket",
    )

    def __init__(  # noqa: PLR0917, a call by names takes twice as long, and a run makes millions
        self,
        prompt_tokens: int,
        output_tokens: int,
        arrival_s: float,
        server: str = "",
        blocks: Sequence[int] = (),
        block_tokens: int = 512,
        id: int = -1,  # the word of the records
        server_index: int = 0,
    ) -> None:
        assert prompt_tokens >= 1, f"request {id}: prompt_tokens must be >= 1, got {prompt_tokens}"
        assert output_tokens >= 1, f"request {id}: output_tokens must be >= 1, got {output_tokens}"
        self.id = id
        self.server = server
        self.server_index = server_index
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.arrival_s = self.submitted_s = arrival_s
        self.blocks = blocks
        self.block_tokens = block_tokens
        self.generated = self.context = self.cached_tokens = self.context_offset = 0
        self.ticket = self.preemptions = 0
        self.admitted = False
        self.first_token_s = self.last_token_s = nan

    def restart(self) -> None:
        """Forget what a lost replica computed, so that another one can serve the request from its
        beginning.

        The arrival stays, and so does the count of preemptions. The first token is forgotten too:
        the client's stream broke with the replica, so the TTFT that counts is that of the retry,
        measured from the first arrival.
        """
        self.generated = 0
        self.context = 0
        self.cached_tokens = 0
        self.admitted = False
        self.first_token_s = nan
        self.last_token_s = nan


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RequestBatch:
    """Requests to come to one server, in order of arrival, as columns.

    blocks are the names of each one's prompt blocks, of block_tokens tokens, if a source knows
    them.
    """

    times_s: npt.NDArray[np.float64]
    prompt_tokens: npt.NDArray[np.int64]
    output_tokens: npt.NDArray[np.int64]
    blocks: Sequence[Sequence[int]] = ()
    block_tokens: int = 0

    def __len__(self) -> int:
        return len(self.times_s)

    def requests(
        self,
        server: str,
        begin: int = 0,
        end: int | None = None,
        *,
        ids: Iterable[int] | None = None,
        server_index: int = 0,
    ) -> list[Request]:
        """Return the requests from *begin* to before *end*, addressed to *server*, and numbered
        *ids* for the records if they are known.
        """
        return list(
            map(
                Request,
                self.prompt_tokens[begin:end].tolist(),
                self.output_tokens[begin:end].tolist(),
                self.times_s[begin:end].tolist(),
                repeat(server),
                self.blocks[begin:end] if self.blocks else repeat(()),
                repeat(self.block_tokens),
                repeat(-1) if ids is None else ids,
                repeat(server_index),
            )
        )


ROW = np.dtype(
    [
        ("server", "<i2"),
        ("id", "<i8"),
        ("prompt_tokens", "<i4"),
        ("output_tokens", "<i4"),
        ("preemptions", "<u4"),
        ("arrival_s", "<f8"),
        ("first_token_s", "<f8"),
        ("finish_s", "<f8"),
        ("outcome", "i1"),
        ("reason", "i1"),
    ]
)
_INTS = ("server", "id", "prompt_tokens", "output_tokens", "preemptions", "outcome", "reason")
_TIMES = ("arrival_s", "first_token_s", "finish_s")
_pack = Struct("<hqiiIdddbb").pack


def _row(request: Request, end_s: float, outcome: int, reason: int) -> bytes:
    """Return *request* as the log keeps it: in the order and the types above."""
    # Every attribute spelled out: an attrgetter over a list of names takes three times as long, and
    # this runs once for every request of every run.
    return _pack(
        request.server_index,
        request.id,
        request.prompt_tokens,
        request.output_tokens,
        request.preemptions,
        request.arrival_s,
        request.first_token_s,
        end_s,
        outcome,
        reason,
    )


_SPOOLED_BYTES = 4 << 20


class RequestLog:
    """Every ended request in 48 packed bytes; shared by all replicas of a cluster. With a *spool*
    (of ROW), rows are handed on to it as time passes (`settle`).
    """

    __slots__ = ("_rows", "_spool", "sources")

    def __init__(self, spool: Spool | None = None) -> None:
        self._rows = bytearray()
        self._spool = spool
        # Called before anybody looks: whoever keeps rows back for a while hands them on then.
        self.sources: list[Callable[[], None]] = []

    def __len__(self) -> int:
        self._gather()
        return len(self._rows) // ROW.itemsize

    def _gather(self) -> None:
        for hand_on in self.sources:
            hand_on()

    def settle(self, *, all_rows: bool = False) -> None:
        """Hand on the rows to the spool, if there is one and they are many, or *all_rows* are to
        be.
        """
        if self._spool is None or (len(self._rows) < _SPOOLED_BYTES and not all_rows):
            return
        if all_rows:
            self._gather()
        self._spool.add(np.frombuffer(self._rows, dtype=ROW))
        self._rows = bytearray()

    @property
    def nbytes(self) -> int:
        """Bytes that the rows take, spare room of the growing buffer included."""
        return self._rows.__sizeof__()

    def add_finished(self, request: Request, finish_s: float) -> None:
        """Record that the client of *request* had its last token at *finish_s*."""
        # _row written out: every request of a run comes by here.
        self._rows += _pack(
            request.server_index,
            request.id,
            request.prompt_tokens,
            request.output_tokens,
            request.preemptions,
            request.arrival_s,
            request.first_token_s,
            finish_s,
            0,
            0,
        )

    def add_rejected(self, request: Request, now_s: float, reason: str) -> None:
        """Record that *request* was turned away at *now_s* for *reason* (one of REASONS)."""
        self._add(request, now_s, Outcome.REJECTED, reason)

    def add_failed(self, request: Request, now_s: float, reason: str) -> None:
        """Record that *request* was lost at *now_s* for *reason* (one of REASONS)."""
        self._add(request, now_s, Outcome.FAILED, reason)

    def add_unfinished(self, request: Request) -> None:
        """Record that *request* was still waiting or running when the run ended; it may have a
        first token. `len` of the log first, so that those that ended stand before it.
        """
        self._add(request, nan, Outcome.UNFINISHED, "")

    def add_rows(self, ints: npt.NDArray[np.int64], times_s: npt.NDArray[np.float64]) -> None:
        """Record requests, a row each: server, id, prompt, output, preemptions, outcome and reason;
        arrival, first token and end.
        """
        rows = np.empty(len(ints), ROW)
        for column, name in enumerate(_INTS):
            rows[name] = ints[:, column]
        for column, name in enumerate(_TIMES):
            rows[name] = times_s[:, column]
        self._rows += rows.tobytes()

    def _add(self, request: Request, end_s: float, outcome: Outcome, reason: str) -> None:
        self._rows += _row(request, end_s, outcome, _REASON_CODES[reason])

    def frame(self) -> dict[str, npt.NDArray[Any]]:
        """Return the columns as arrays, one row a request in the order in which they were recorded.

        finish_s is when the request ended, however it did; nan for unfinished ones. outcome is an
        Outcome, reason an index into REASONS.
        """
        self._gather()
        rows = np.frombuffer(bytes(self._rows), dtype=ROW)
        return {name: np.ascontiguousarray(rows[name]) for name in ROW.names or ()}

    def hand_over(self) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.int64]]:
        """Return the columns of `frame` in the order of the servers and of their requests, and the
        place that each row had; forget the rows: at the end of a run most of its memory is theirs.
        """
        self._gather()
        rows = np.frombuffer(self._rows, dtype=ROW)
        # One key of both: an id has 44 bits of room above which the server stands.
        key = (rows["server"].astype(np.int64) << 44) + rows["id"]
        # No two keys are equal. Whole rows are put in order and then cut into columns: to pick each
        # column out of the rows takes three times as long.
        order = np.argsort(key)
        rows = rows.take(order)
        columns = {name: np.ascontiguousarray(rows[name]) for name in ROW.names or ()}
        # Made anew, not cleared: who still looks at the rows goes on to see them.
        self._rows = bytearray()
        return columns, order


class NoRequestLog(RequestLog):
    """Forgets every request: a world that runs for days must not keep them all."""

    __slots__ = ()

    def settle(self, *, all_rows: bool = False) -> None:
        """Have nothing to hand on."""

    def add_finished(self, request: Request, finish_s: float) -> None:
        """Forget it."""

    def add_rejected(self, request: Request, now_s: float, reason: str) -> None:
        """Forget it."""

    def add_failed(self, request: Request, now_s: float, reason: str) -> None:
        """Forget it."""

    def add_unfinished(self, request: Request) -> None:
        """Forget it."""

    def add_rows(self, ints: npt.NDArray[np.int64], times_s: npt.NDArray[np.float64]) -> None:
        """Forget them."""
