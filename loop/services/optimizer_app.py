"""The optimizer over HTTP: POST /optimizeOne, and the verbs of the existing service. Sizing and
choosing are elsewhere.

Requests run in worker threads. Those to /optimizeOne share nothing; verbs that change the system go
one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Request
from prometheus_client import CollectorRegistry
from starlette.responses import Response

from loop.clocks import MonotonicClock
from loop.errors import SpecError
from loop.optimizer.front import optimize
from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.rules.go_2025 import GO_2025
from loop.optimizer.rules.go_today import GO_TODAY
from loop.schema.models import (
    AllocationSolution,
    ExplainedSolution,
    OptimizerData,
    OptimizerSpec,
    Problem,
    SystemData,
)
from loop.schema.optimizer_json import check_batches, optimize_json, solution_json, throughputs
from loop.schema.reading import system_data
from loop.services import optimizer_store as store
from loop.services.answers import Json, JsonText, body_of, message
from loop.services.auth import TokenSource
from loop.services.optimizer_habits import Habits, habits_of
from loop.services.optimizer_metrics import OptimizerMetrics
from loop.services.optimizer_store import System, VerbError
from loop.services.optimizer_verbs import Desk, make_verbs
from loop.services.scaffold import BODY_BYTES_MAX, create_app
from twin.magnitudes import LARGEST_FIGURE, LARGEST_WHOLE

if TYPE_CHECKING:
    from loop.ports import Clock

Answer = dict[str, Any]


def make_optimizer_app(
    *,
    settings: OptimizerSettings,
    stateful: bool = False,
    token: TokenSource | None = None,
    body_bytes_max: int = BODY_BYTES_MAX,
    clock: Clock | None = None,
) -> FastAPI:
    """Return the service. stateful: with the verbs that change a system that it keeps, else with
    those that show.

    settings.rules: by those of the Go optimizer, answers as its service, 404 where a server is left
    without an allocation; by those of mid 2025, only /optimizeOne, for messages of that time.
    *clock* tells how old a question is. Call app.state.stop() before the server ends: it lets
    nobody in any more and waits a moment for those inside.
    """
    early = settings.rules is GO_2025
    assert not (stateful and early), "the verbs are those of today"
    registry = CollectorRegistry()
    metrics = OptimizerMetrics(registry, MonotonicClock() if clock is None else clock)
    app = create_app(
        "optimizer",
        token=token,
        registry=registry,
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
        app.include_router(_early_optimization(settings, metrics))
    else:
        desk = Desk(stateful=stateful, habits=habits_of(settings.rules))
        app.include_router(_optimization(desk, settings, metrics))
        app.include_router(make_verbs(desk))
    return app


def _optimization(desk: Desk, settings: OptimizerSettings, metrics: OptimizerMetrics) -> APIRouter:
    habits = desk.habits
    solution = ExplainedSolution if habits.explains else AllocationSolution
    router = APIRouter(tags=["optimize"])
    answers: dict[int | str, dict[str, Any]] = {200: {"model": solution}}

    def optimized(system: System, flags: OptimizerSpec) -> tuple[System, Answer]:
        return _optimized(system, flags, settings, habits, metrics)

    def optimize_one(body: SystemData) -> Json:
        """Optimize the system of the body, and keep it as the one that the other verbs see."""
        spec = body.spec
        system, answer = optimized(store.system_of(spec), spec.optimizer_data.flags)
        desk.change(lambda _before: system)
        return _told(answer, habits)

    def optimize_kept(body: OptimizerData) -> Json:
        """Optimize the system that the other verbs built up; /applyAllocation then makes the
        answer its state.
        """
        flags = body.flags if habits.reads_wrapped_flags else body
        with desk.lock:
            desk.system, answer = optimized(desk.system, flags)
        return _told(answer, habits)

    optimize_one.__annotations__["body"] = body_of(SystemData, habits.level)
    optimize_kept.__annotations__["body"] = body_of(OptimizerData, habits.level)
    router.post("/optimizeOne", responses=answers, response_model=None)(optimize_one)
    if desk.stateful:
        router.post("/optimize", responses=answers, response_model=None)(optimize_kept)
    return router


def _early_optimization(settings: OptimizerSettings, metrics: OptimizerMetrics) -> APIRouter:
    """Return the route for messages of mid 2025. A server that is left without an allocation is
    absent from the answer, as it was.
    """
    router = APIRouter(default_response_class=Json, tags=["optimize"])

    @router.post("/optimizeOne", response_model=None)
    def optimize_one(body: JsonText) -> Json:
        """Optimize the system of the body, by the model of mid 2025."""
        answer = optimize_json(
            body,
            solver=settings.solver,
            rules=settings.rules,
            objective=settings.objective,
            time_limit=settings.time_limit,
            source="body",
            look=metrics.answered,
        )
        return Json({"allocations": answer["allocations"]})

    return router


def _optimized(
    system: System,
    flags: OptimizerSpec,
    settings: OptimizerSettings,
    habits: Habits,
    metrics: OptimizerMetrics,
) -> tuple[System, Answer]:
    """Return *system* with what each server shall have, and the answer that says so; show it in
    *metrics*.
    """
    spec = store.spec_of(system, flags)
    data = system_data(spec)
    if habits.bounds_batches:
        check_batches(data, source="body")
    solution = optimize(data, settings)
    said = throughputs(spec.server_data)
    answer = solution_json(solution, data, throughputs=said, explain=habits.explains)
    rows = {name: row for name, row in answer["allocations"].items() if not row.get("parts")}
    for name, row in rows.items():
        _check_measure(name, row)
    refused = bool(solution.unserved) and not habits.explains
    metrics.answered(data, solution, servers=spec.server_data.servers, refused=refused)
    return store.with_desired(system, rows, unserved_keeps=habits.unserved_keeps), answer


def _check_measure(server: str, row: Mapping[str, Any]) -> None:
    """Raise SpecError if the figures of an answer are beyond what a message may hold: the verbs
    could not show it.
    """
    largest = max(row["cost"], row["itlAverage"] or 0.0, row["ttftAverage"] or 0.0)
    if row["numReplicas"] > LARGEST_WHOLE or largest > LARGEST_FIGURE:
        raise SpecError(
            f"{server}: the answer would be beyond all measure: expected figures of at most "
            f"{LARGEST_FIGURE:g}, found {row['numReplicas']} replicas for {row['cost']:g}"
        )


def _told(answer: Answer, habits: Habits) -> Json:
    """Return the answer as a response: as it is if the service explains; else allocations alone,
    or 404 if a server got nothing.
    """
    if habits.explains:
        return Json(answer)
    if answer["unallocated"]:
        names = ", ".join(sorted(answer["unallocated"]))
        raise VerbError(
            f"optimization error: no feasible allocation for servers: [{names}]", status=404
        )
    return Json({"allocations": answer["allocations"]})
