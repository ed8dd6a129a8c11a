"""The optimizer over HTTP: POST /optimizeOne, and the verbs of the existing service. Sizing and
choosing are elsewhere.

Requests run in worker threads. Those to /optimizeOne share nothing; verbs that change the system go
one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from pydantic import ValidationError
from starlette.responses import Response

from loop.errors import SpecError
from loop.optimizer.front import optimize
from loop.optimizer.rules.go_2025 import GO_2025
from loop.optimizer.rules.go_today import GO_TODAY
from loop.optimizer.rules.ours import OURS
from loop.optimizer.settings import OptimizerSettings
from loop.schema.optimizer_json import read_throughputs, solution_json
from loop.schema.reading import parse_system
from loop.schema.rows import SATURATION_POLICIES
from loop.schema.wire import (
    AllocationData,
    AllocationSolution,
    ExplainedSolution,
    OptimizeRequest,
    OptimizerSpec,
    Problem,
    SystemData,
    error_line,
)
from loop.services import optimizer_store as store
from loop.services.answers import Json, message
from loop.services.auth import TokenSource
from loop.services.optimizer_bounds import check_batches
from loop.services.optimizer_early import make_early_optimisation
from loop.services.optimizer_store import System, VerbError
from loop.services.optimizer_verbs import Desk, make_verbs
from loop.services.scaffold import BODY_BYTES_MAX, create_app

Answer = dict[str, Any]
ALLOCATION_KEYS = tuple(field.alias or name for name, field in AllocationData.model_fields.items())


def make_optimizer_app(
    *,
    settings: OptimizerSettings,
    stateful: bool = False,
    token: TokenSource | None = None,
    body_bytes_max: int = BODY_BYTES_MAX,
) -> FastAPI:
    """Return the service. stateful: with the verbs that change a system that it keeps, else with
    those that show.

    settings.rules: by those of the Go optimizer, answers as its service, 404 where a server is left
    without an allocation; by those of mid 2025, only /optimizeOne, for messages of that time.
    Call app.state.stop() before the server ends: it lets nobody in any more and waits a moment for
    those inside.
    """
    early = settings.rules is GO_2025
    compat = settings.rules is not OURS
    assert not (stateful and early), "the verbs are those of today"
    app = create_app(
        "optimizer",
        token=token,
        body_bytes_max=body_bytes_max,
        compat=settings.rules is GO_TODAY,
        description="Which accelerator, how many replicas and what batch each server should have.",
        separate_input_output_schemas=False,
        responses={
            "4XX": {"model": Problem, "description": "Refused, and why"},
            503: {"model": Problem},
        },
    )

    @app.exception_handler(VerbError)
    async def answer_verb(_request: Request, problem: VerbError) -> Response:
        return message(problem.status, str(problem))

    if early:
        app.include_router(make_early_optimisation(settings))
    else:
        desk = Desk(stateful=stateful, compat=compat)
        app.include_router(_optimisation(desk, settings))
        app.include_router(make_verbs(desk))
    return app


def _optimisation(desk: Desk, settings: OptimizerSettings) -> APIRouter:
    compat = desk.compat
    solution = AllocationSolution if compat else ExplainedSolution
    router = APIRouter(tags=["optimise"])
    answers: dict[int | str, dict[str, Any]] = {200: {"model": solution}}

    @router.post("/optimizeOne", responses=answers, response_model=None)
    def optimize_one(body: SystemData) -> Json:
        """Optimise the system of the body, and keep it as the one that the other verbs see."""
        desk.check(body)
        flags = body.system.optimizer_data.optimizer
        system, answer = _optimised(store.system_of(body.system), flags, settings)
        desk.change(lambda _before: system)
        return _told(answer, compat=compat)

    if desk.stateful:

        @router.post("/optimize", responses=answers, response_model=None)
        def optimize_kept(body: OptimizeRequest) -> Json:
            """Optimise the system that the other verbs built up; /applyAllocation then makes the
            answer its state.
            """
            # The existing service reads flags in a wrapper as none at all.
            flags = body if compat or body.optimizer is None else body.optimizer
            with desk.lock:
                desk.system, answer = _optimised(desk.system, flags, settings)
            return _told(answer, compat=compat)

    return router


def _optimised(
    system: System, flags: OptimizerSpec, settings: OptimizerSettings
) -> tuple[System, Answer]:
    """Return *system* with what each server shall have, and the answer that says so."""
    asked = store.message_of(system, flags)
    # Leniently: a server that names what does not exist must not block the others; it is told why
    # it gets nothing.
    data = parse_system(asked, source="body", lenient=True)
    compat = settings.rules is not OURS
    if compat:
        check_batches(data)
    else:
        _check_policy(flags.saturation_policy)
    solution = optimize(data, settings)
    answer = solution_json(solution, data, throughputs=read_throughputs(asked), explain=not compat)
    desired = {
        name: _allocation(name, found)
        for name, found in answer["allocations"].items()
        if not found.get("parts")
    }
    return store.with_desired(system, desired, compat=compat), answer


def _check_policy(policy: str) -> None:
    """Raise SpecError where there is no such policy; the existing service takes it for None."""
    if policy and policy.lower() not in {known.lower() for known in SATURATION_POLICIES}:
        known = ", ".join(SATURATION_POLICIES)
        raise SpecError(f"body: saturationPolicy: expected one of {known}, found {policy[:60]!r}")


def _allocation(server: str, found: Mapping[str, Any]) -> AllocationData:
    """Return one allocation of the answer. Raise SpecError where its figures are beyond what a
    message may hold.
    """
    try:
        allocation = AllocationData.model_validate({key: found[key] for key in ALLOCATION_KEYS})
    except ValidationError as problem:
        error = problem.errors(include_url=False, include_context=False)[0]
        raise SpecError(
            f"{server}: the answer would be beyond all measure: {error_line(error)}"
        ) from None
    # In a message null is absent; here it is a latency without bound, to be shown as it was
    # answered.
    unbounded = {"itl_average": found["itlAverage"], "ttft_average": found["ttftAverage"]}
    return allocation.model_copy(
        update={key: None for key, value in unbounded.items() if value is None}
    )


def _told(answer: Answer, *, compat: bool) -> Json:
    """Return the answer as a response. In compat: 404 where a server got nothing, and nothing but
    allocations.
    """
    if not compat:
        return Json(answer)
    if answer["unallocated"]:
        names = ", ".join(sorted(answer["unallocated"]))
        raise VerbError(
            f"optimization error: no feasible allocation for servers: [{names}]", status=404
        )
    return Json({"allocations": answer["allocations"]})
