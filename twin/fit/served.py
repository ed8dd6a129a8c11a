"""What one replica makes of requests that are known beforehand: served by the compiled engine where
it is at hand, by the plain one else, with the same times to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from math import inf

import numpy as np
import numpy.typing as npt

from twin.engine.compiled.cache import installed
from twin.engine.compiled.machine_code import ENGINE, has_code
from twin.engine.compiled.visit import NO_DRAWS, Stretch, fits_table
from twin.engine.port import make_plain
from twin.request import Outcome, Request, RequestBatch, RequestLog
from twin.spec import EngineSpec

Times = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Those requests that were served, in the order in which they came: times [s] as clients see
    them, and preemptions.
    """

    arrival_s: Times
    first_token_s: Times
    last_token_s: Times
    output_tokens: Counts
    preemptions: Counts

    def without_first(self, count: int) -> Served:
        """Return what is left after the first *count* of them."""
        return Served(**{each.name: getattr(self, each.name)[count:] for each in fields(self)})


@cache
def is_compiled() -> bool:
    """Tell whether there is a compiled engine that an earlier process has compiled: to compile one
    takes as long as a whole fit.
    """
    return installed() and has_code(ENGINE)


def served(
    batch: RequestBatch,
    spec: EngineSpec,
    *,
    max_batch: int,
    queue_max: int | None = None,
    users: int | None = None,
    compiled: bool | None = None,
) -> Served:
    """Serve *batch* on an idle replica of *spec*, as its requests come, or by so many *users*: the
    first of them come at once (at 0), and each later one when another has ended. *compiled* None is
    the compiled engine if it is at hand.
    """
    assert users is None or not batch.times_s.any(), "requests of users come at 0"
    if compiled is None:
        compiled = is_compiled()
    if compiled and fits_table(spec) and not batch.blocks:
        return _by_table(batch, spec, max_batch=max_batch, queue_max=queue_max, users=users)
    return _by_replica(batch, spec, max_batch=max_batch, queue_max=queue_max, users=users)


def _by_replica(
    batch: RequestBatch,
    spec: EngineSpec,
    *,
    max_batch: int,
    queue_max: int | None,
    users: int | None,
) -> Served:
    requests = batch.requests("", ids=range(len(batch)))
    coming = iter(requests if users is None else requests[users:])

    def again(_request: Request, finish_s: float) -> None:
        request = next(coming, None)
        if request is not None:
            request.arrival_s = finish_s
            ask(request)

    def ask(request: Request) -> None:
        if replica.submit(request, request.arrival_s) is None:
            taken.append(request)

    taken: list[Request] = []
    replica = make_plain(
        spec,
        max_batch=max_batch,
        queue_max=queue_max,
        on_finish=_nothing if users is None else again,
    )
    for request in coming if users is None else requests[:users]:
        ask(request)
    replica.advance(inf, inclusive=False)
    return _columns(taken)


def _columns(requests: Sequence[Request]) -> Served:
    return Served(
        arrival_s=np.array([request.arrival_s for request in requests]),
        first_token_s=np.array([request.first_token_s for request in requests]),
        last_token_s=np.array([request.last_token_s for request in requests]),
        output_tokens=np.array([request.output_tokens for request in requests], dtype=np.int64),
        preemptions=np.array([request.preemptions for request in requests], dtype=np.int64),
    )


def _by_table(
    batch: RequestBatch,
    spec: EngineSpec,
    *,
    max_batch: int,
    queue_max: int | None,
    users: int | None,
) -> Served:
    from twin.engine.compiled.columns import ROUND_ROBIN  # noqa: PLC0415, see below
    from twin.engine.compiled.table import ReplicaTable  # noqa: PLC0415, an extra

    log = RequestLog()
    table = ReplicaTable(records=log)
    replica = table.add(spec, server="", index=0, max_batch=max_batch, queue_max=queue_max)
    first = len(batch) if users is None else min(users, len(batch))
    table.serve(0, Stretch(batch, 0, first, 0, (ROUND_ROBIN, 0, NO_DRAWS)), [replica])
    table.follow(replica.row, batch, first)
    replica.advance(inf, inclusive=False)
    columns = log.frame()
    kept = np.flatnonzero(columns["outcome"] == Outcome.FINISHED)
    kept = kept[np.argsort(columns["id"][kept])]
    return Served(
        arrival_s=columns["arrival_s"][kept],
        first_token_s=columns["first_token_s"][kept],
        last_token_s=columns["finish_s"][kept],
        output_tokens=columns["output_tokens"][kept].astype(np.int64),
        preemptions=columns["preemptions"][kept].astype(np.int64),
    )


def _nothing(_request: Request, _finish_s: float) -> None:
    """Do nothing."""
