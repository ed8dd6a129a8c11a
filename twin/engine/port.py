"""What the world asks of an engine, and the engines by name: one replica that serves requests.

An engine is pulled. It has no clock and knows no SimPy: the owner of the time calls it, and its
state is that of the last boundary it was advanced over, whatever the time outside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from twin.engine.replica import Replica
from twin.engine.telemetry import ReplicaReading
from twin.engine.written_out import WrittenOut, covers
from twin.registry import resolve
from twin.request import Request
from twin.spec import EngineSpec

OnFinish = Callable[[Request, float], None]


class Engine(Protocol):
    """One replica, with everything that it holds.

    Calls come in order of time. Of those at one instant, control actions (set_max_batch, drain,
    abort) come first, then submissions, then advance(inclusive=True) and read. What was not
    advanced yet (next_boundary_s before the time of the call) is processed first. Looking never
    changes a result: neither reads nor extra advances do.
    """

    @property
    def next_boundary_s(self) -> float:
        """Return the next instant at which there is something to process, inf when idle."""
        ...

    @property
    def outstanding(self) -> int:
        """Return how many requests are held, waiting or running, as of the last advance."""
        ...

    def submit(self, request: Request, now_s: float) -> str | None:
        """Take *request* into the queue, or return why not (one of twin.request.REASONS)."""
        ...

    def advance(self, until_s: float, *, inclusive: bool) -> None:
        """Process every boundary before *until_s*, and with *inclusive* those at it."""
        ...

    def read(self, now_s: float) -> ReplicaReading:
        """Return what a scrape at *now_s* sees. Needs an advance to *now_s* inclusively; changes
        nothing.
        """
        ...

    def cached_tokens(self, request: Request) -> int:
        """Return how many tokens of the prompt of *request* need not be computed, as of the last
        advance; changes nothing.
        """
        ...

    def set_max_batch(self, max_batch: int, now_s: float) -> None:
        """Let the next scheduling decision use *max_batch*; lowering it preempts nobody."""
        ...

    def drain(self, now_s: float) -> list[Request]:
        """Refuse new requests from now on and hand back those that never ran, in their order.

        Preempted ones stay and are served. The engine is drained when outstanding is 0.
        """
        ...

    def abort(self, now_s: float) -> list[Request]:
        """Crash: lose all that is in flight and return it in order of admission, restarted, ready
        to be queued again.

        Tokens that were emitted before *now_s* stay counted.
        """
        ...

    def in_flight(self, now_s: float) -> list[Request]:
        """Return what runs and what waits, in that order, as it stands at *now_s*.

        Needs an advance to *now_s* inclusively. Brings generated, context and last_token_s of
        decodes up to date.
        """
        ...


class EngineFactory(Protocol):
    """Makes an idle engine for a pod that gets ready."""

    def __call__(
        self, spec: EngineSpec, *, max_batch: int, queue_max: int | None, on_finish: OnFinish
    ) -> Engine:
        """Return an engine of *spec*; queue_max None is an unbounded queue.

        *on_finish* is called with (request, finish_s) while the engine is advanced, so finish_s may
        be long past for a caller that waits for it; it may submit at finish_s. The client sees the
        end at request.last_token_s, which is later by the overhead.
        """
        ...


def make_plain(
    spec: EngineSpec, *, max_batch: int, queue_max: int | None, on_finish: OnFinish
) -> Engine:
    """Return an idle Replica of *spec*: the one that is written out, where that one can be it."""
    kind = WrittenOut if covers(spec, queue_max=queue_max) else Replica
    return kind.of_spec(spec, max_batch=max_batch, queue_max=queue_max, on_finish=on_finish)


ENGINES: Mapping[str, EngineFactory] = {"plain": make_plain}


def make_engine(
    spec: EngineSpec, *, max_batch: int, queue_max: int | None, on_finish: OnFinish
) -> Engine:
    """Return an idle engine of the kind that *spec* names. Raise SpecError for an unknown name."""
    factory = resolve(spec.engine, kind="engine", known=ENGINES)
    return factory(spec, max_batch=max_batch, queue_max=queue_max, on_finish=on_finish)
