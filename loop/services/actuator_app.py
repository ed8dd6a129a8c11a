"""The actuator over HTTP: POST /update asks the world for allocations. A server that is not
in the message is left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from starlette.responses import Response

from loop.actors import WatchedBackend
from loop.actuator import plan, planned
from loop.errors import RefusedError, SpecError
from loop.schema.messages import Absent, UpdateRequest, decided
from loop.schema.models import Problem, Refused, written
from loop.services.answers import Json, body_of
from loop.services.logs import change_fields, log
from loop.services.world_app import create_world_app
from loop.services.world_metrics import NOTHING
from loop.types import Change

if TYPE_CHECKING:
    from fastapi import FastAPI

    from loop.actors import Owner
    from loop.ports import Backend, Thread
    from loop.services.auth import TokenSource
    from loop.services.world_metrics import WorldMetrics
    from loop.types import Snapshot

DONE = "Done"  # what the existing actuator says


def make_actuator_app(
    backend: Backend,
    owner: Owner,
    *,
    absent: Absent = "hold",
    token: TokenSource | None = None,
    timeout_s: float = 60.0,
    threads: Sequence[Thread] = (),
) -> FastAPI:
    """Return the service over *backend*, which only *owner* touches.

    absent: what becomes of a server that a message gives nothing: "hold" it, or end its replicas
    ("zero") as the existing actuator does. Call app.state.stop() before the server ends. Raise
    SpecError for another word.
    """
    if absent not in get_args(Absent):
        raise SpecError(f"absent: expected {' or '.join(get_args(Absent))}, found {absent!r}")
    watched = WatchedBackend(backend)
    app, desk, metrics = create_world_app(
        "actuator", owner, timeout_s=timeout_s, token=token, watched=watched, threads=threads
    )

    async def update(body: UpdateRequest) -> Response:
        """Ask the world for what differs from what is wanted already, and wait for no pod."""
        try:
            await desk.ask(lambda: carry_out(watched, body, absent=absent, metrics=metrics))
        except RefusedError as refusal:
            said = Refused(message=str(refusal), refused=dict(refusal.servers))
            return Json(written(said), status_code=503)
        return Json(DONE)

    update.__annotations__["body"] = body_of(UpdateRequest, "go")
    answers: dict[int | str, dict[str, Any]] = {
        200: {"model": Literal["Done"]},
        503: {"model": Refused | Problem, "description": "The world failed, or took only a part"},
    }
    app.post("/update", tags=["update"], response_model=None, responses=answers)(update)
    return app


def carry_out(
    backend: Backend, request: UpdateRequest, *, absent: Absent, metrics: WorldMetrics
) -> tuple[Change, ...]:
    """Return what was asked of the world for *request*, and show it in *metrics*. Raise
    BackendError if the world failed.
    """
    seen = backend.observe()
    # Who sends the message has decided, and may know the load although this world does not.
    changes = plan(decided(request, seen, absent=absent), seen, reduce_unknown=True)
    for name in sorted(request.allocations.keys() - seen.servers.keys()):
        line = f"{name}: not seen: nothing is asked for it"
        log("not-seen", line, {"server": name}, level=logging.WARNING)
    metrics.warn(["observe"] * len(seen.warnings))
    done, refused, held = changes, NOTHING, _held(request, seen, absent)
    taken = False
    try:
        if changes:
            backend.apply(changes)
        taken = bool(changes)
    except RefusedError as refusal:
        refused = refusal.servers
        done = tuple(change for change in changes if change.server not in refused)
        taken = bool(done)
        metrics.warn(["apply"] * len(refused))
        raise
    finally:
        metrics.look(
            seen,
            desired=planned(seen, done),
            held=held | dict.fromkeys(refused, "refused"),
            now_s=seen.now_s,
            refused=refused,
            taken=taken,
        )
        for change in done if taken else ():
            log("change", fields=change_fields(change))
    return changes


def _held(request: UpdateRequest, seen: Snapshot, absent: Absent) -> dict[str, str]:
    """Return why *request* asks nothing of which servers: it says so, or does not name them."""
    asked = request.allocations
    return {
        name: "held-by-request" if name in asked else "absent"
        for name in seen.servers
        if (asked[name].held if name in asked else absent == "hold")
    }
