"""POST /optimizeOne for messages of mid 2025: requests of one length, targets of waiting; answers
of that form too.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import AfterValidator, Field

from loop.optimizer.settings import OptimizerSettings
from loop.schema.optimizer_json import optimize_json
from loop.schema.reading import parse_system
from loop.schema.wire import Figure, Message, Name, SystemData, written
from loop.services.answers import Json
from loop.services.optimizer_bounds import check_batches


class EarlyLoad(Message):
    """The load of a server: arrivals [requests/min], tokens of a request, and variations that mean
    nothing.
    """

    arrival_rate: Figure = 0.0
    avg_length: Figure = 0.0
    arrival_cov: Figure = Field(default=0.0, alias="arrivalCOV")
    service_cov: Figure = Field(default=0.0, alias="serviceCOV")


class EarlyAllocation(Message):
    """What a server has; only its load is of use here."""

    load: EarlyLoad = EarlyLoad()


class EarlyServer(Message):
    """A server; the load of what it has is told again in the answer."""

    name: Name
    current_alloc: EarlyAllocation = EarlyAllocation()


class EarlyServerData(Message):
    """All servers."""

    servers: list[EarlyServer] = Field(default_factory=list)


class EarlySystem(Message):
    """A system, of which only the servers are of use here."""

    server_data: EarlyServerData = EarlyServerData()


class EarlySystemData(Message):
    """A system in its wrapper."""

    system: EarlySystem = EarlySystem()


def _checked(body: dict[str, Any]) -> dict[str, Any]:
    """Return *body* where it can be read; what it means is left to the reader of older files."""
    SystemData.model_validate(body)
    EarlySystemData.model_validate(body)
    return body


EarlyBody = Annotated[dict[str, Any], AfterValidator(_checked)]


def make_early_optimisation(settings: OptimizerSettings) -> APIRouter:
    """Return the route. A server that is left without an allocation is absent from the answer, as
    it was.
    """
    router = APIRouter(default_response_class=Json, tags=["optimise"])

    @router.post("/optimizeOne")
    def optimize_one(body: EarlyBody) -> dict[str, Any]:
        """Optimise the system of the body, by the model of mid 2025."""
        check_batches(parse_system(body, source="body", lenient=True))
        answer = optimize_json(
            body,
            solver=settings.solver,
            rules=settings.rules,
            objective=settings.objective,
            time_limit_s=settings.time_limit_s,
            source="body",
        )
        servers = EarlySystemData.model_validate(body).system.server_data.servers
        loads = {server.name: written(server.current_alloc.load) for server in servers}
        return {
            "allocations": {
                name: {**row, "load": loads[name]} for name, row in answer["allocations"].items()
            }
        }

    return router
