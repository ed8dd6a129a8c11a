"""The verbs that build up, show and take apart the system of the optimizer service; one function
per kind of thing.

Paths and answers are those of the existing service, which changes things on GET too (add…,
remove…).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from fastapi import APIRouter
from starlette.responses import Response

from loop.schema.wire import (
    AcceleratorCount,
    AcceleratorData,
    AcceleratorSpec,
    CapacityData,
    Message,
    ModelAcceleratorPerfData,
    ModelData,
    ModelTarget,
    ServerData,
    ServerSpec,
    ServiceClassData,
    ServiceClassSpec,
    require_essentials,
)
from loop.services import optimizer_store as store
from loop.services.answers import Json
from loop.services.optimizer_store import System, VerbError


class Desk:
    """Holds the system that the verbs work on: read as it stands, changed by one verb at a time."""

    def __init__(self, *, stateful: bool, compat: bool) -> None:
        self.stateful = stateful
        self.compat = compat
        self.system = System()
        self.lock = threading.Lock()

    def change(self, verb: Callable[[System], System]) -> tuple[System, System]:
        """Obey *verb*; return the system as it was before, and as it is then."""
        with self.lock:
            before, self.system = self.system, verb(self.system)
            return before, self.system

    def check(self, message: Message) -> None:
        """Raise SpecError where *message* leaves out what cannot be zero; the existing service
        takes that for zero.
        """
        if not self.compat:
            require_essentials(message)


def make_verbs(desk: Desk) -> APIRouter:
    """Return the routes: those that show, and where the desk is stateful also those that change."""
    router = APIRouter(default_response_class=Json)
    show_accelerators(router, desk)
    show_capacities(router, desk)
    show_models(router, desk)
    show_classes(router, desk)
    show_servers(router, desk)
    if desk.stateful:
        change_accelerators(router, desk)
        change_capacities(router, desk)
        change_models(router, desk)
        change_perf(router, desk)
        change_classes(router, desk)
        change_targets(router, desk)
        change_servers(router, desk)
    return router


def show_accelerators(router: APIRouter, desk: Desk) -> None:
    """Add the verbs that show accelerators."""

    @router.get("/getAccelerators", tags=["accelerators"])
    def get_accelerators() -> list[AcceleratorSpec]:
        return list(desk.system.accelerators.values())

    @router.get("/getAccelerator/{name:path}", tags=["accelerators"])
    def get_accelerator(name: str) -> AcceleratorSpec:
        return store.get_accelerator(desk.system, name)


def change_accelerators(router: APIRouter, desk: Desk) -> None:
    """Add the verbs that change accelerators."""

    @router.post("/setAccelerators", tags=["accelerators"])
    def set_accelerators(body: AcceleratorData) -> AcceleratorData:
        desk.check(body)
        desk.change(lambda system: store.set_accelerators(system, body.accelerators))
        return body

    @router.post("/addAccelerator", tags=["accelerators"])
    def add_accelerator(body: AcceleratorSpec) -> AcceleratorSpec:
        desk.check(body)
        desk.change(lambda system: store.set_accelerators(system, [body]))
        return body

    @router.get("/removeAccelerator/{name:path}", tags=["accelerators"])
    def remove_accelerator(name: str) -> AcceleratorSpec:
        before, _ = desk.change(lambda system: store.remove_accelerator(system, name))
        return before.accelerators[name]


def show_capacities(router: APIRouter, desk: Desk) -> None:
    """Add the verbs that show capacity."""

    @router.get("/getCapacities", tags=["capacity"])
    def get_capacities() -> CapacityData:
        counts = [
            AcceleratorCount(type=kind, count=count) for kind, count in desk.system.capacity.items()
        ]
        return CapacityData(count=counts)

    @router.get("/getCapacity/{type:path}", tags=["capacity"])
    def get_capacity(type: str) -> AcceleratorCount:  # noqa: A002 the name of the parameter in the API
        return store.get_capacity(desk.system, type)


def change_capacities(router: APIRouter, desk: Desk) -> None:
    """Add the verbs that change capacity."""

    @router.post("/setCapacities", tags=["capacity"])
    def set_capacities(body: CapacityData) -> CapacityData:
        desk.check(body)
        desk.change(lambda system: store.set_capacities(system, body.count))
        return body

    @router.post("/setCapacity", tags=["capacity"])
    def set_capacity(body: AcceleratorCount) -> AcceleratorCount:
        desk.check(body)
        desk.change(lambda system: store.set_capacities(system, [body]))
        return body

    @router.get("/removeCapacity/{type:path}", tags=["capacity"])
    def remove_capacity(type: str) -> AcceleratorCount:  # noqa: A002 the name of the parameter in the API
        before, _ = desk.change(lambda system: store.remove_capacity(system, type))
        return store.get_capacity(before, type)


def show_models(router: APIRouter, desk: Desk) -> None:
    """Add the verbs that show models and how they perform."""

    @router.get("/getModels", tags=["models"])
    def get_models() -> list[str]:
        return list(desk.system.models)

    @router.get("/getModel/{name:path}", tags=["models"])
    def get_model(name: str) -> ModelData:
        return ModelData(models=list(store.get_model(desk.system, name).values()))

    @router.get("/getModelAcceleratorPerf/{name:path}/{acc}", tags=["models"])
    def get_model_accelerator_perf(name: str, acc: str) -> ModelAcceleratorPerfData:
        return store.get_perf(desk.system, name, acc)


def change_models(router: APIRouter, desk: Desk) -> None:
    """Add the verbs that change models."""

    @router.post("/setModels", tags=["models"])
    def set_models(body: ModelData) -> ModelData:
        desk.check(body)
        desk.change(lambda system: store.set_perf(system, body.models))
        return body

    @router.get("/addModel/{name:path}", tags=["models"])
    def add_model(name: str) -> str:
        desk.change(lambda system: store.add_model(system, name, compat=desk.compat))
        return name

    @router.get("/removeModel/{name:path}", tags=["models"])
    def remove_model(name: str) -> str:
        desk.change(lambda system: store.remove_model(system, name))
        return name


def change_perf(router: APIRouter, desk: Desk) -> None:
    """Add the verbs that change how a model performs on an accelerator."""

    @router.post("/addModelAcceleratorPerf", tags=["models"])
    def add_model_accelerator_perf(body: ModelAcceleratorPerfData) -> ModelAcceleratorPerfData:
        desk.check(body)
        desk.change(lambda system: store.add_perf(system, body))
        return body

    @router.get("/removeModelAcceleratorPerf/{name:path}/{acc}", tags=["models"])
    def remove_model_accelerator_perf(name: str, acc: str) -> ModelAcceleratorPerfData:
        before, _ = desk.change(lambda system: store.remove_perf(system, name, acc))
        return store.get_perf(before, name, acc)


def show_classes(router: APIRouter, desk: Desk) -> None:
    """Add the verbs that show service classes and their targets."""

    @router.get("/getServiceClasses", tags=["service classes"])
    def get_service_classes() -> ServiceClassData:
        return ServiceClassData(service_classes=list(desk.system.classes.values()))

    @router.get("/getServiceClass/{name:path}", tags=["service classes"])
    def get_service_class(name: str) -> ServiceClassSpec:
        return store.get_class(desk.system, name)

    @router.get("/getServiceClassModelTarget/{name}/{model:path}", tags=["service classes"])
    def get_service_class_model_target(name: str, model: str) -> ModelTarget:
        return store.get_target(desk.system, name, model)


def change_classes(router: APIRouter, desk: Desk) -> None:
    """Add the verbs that change service classes."""

    @router.post("/setServiceClasses", tags=["service classes"])
    def set_service_classes(body: ServiceClassData) -> ServiceClassData:
        desk.check(body)
        desk.change(lambda system: store.set_classes(system, body.service_classes))
        return body

    @router.get("/addServiceClass/{name}/{priority}", tags=["service classes"])
    def add_service_class(name: str, priority: str) -> ServiceClassSpec:
        if not (priority.isascii() and priority.isdigit() and len(priority) <= 9):
            raise VerbError(f"service class priority {priority} invalid", status=400)
        _, after = desk.change(
            lambda system: store.add_class(system, name, int(priority), compat=desk.compat)
        )
        return after.classes[name]

    @router.get("/removeServiceClass/{name:path}", tags=["service classes"])
    def remove_service_class(name: str) -> ServiceClassSpec:
        before, _ = desk.change(lambda system: store.remove_class(system, name))
        return before.classes[name]


def change_targets(router: APIRouter, desk: Desk) -> None:
    """Add the verbs that change the targets of a service class."""

    @router.post(
        "/addServiceClassModelTargets", tags=["service classes"], response_model=ServiceClassSpec
    )
    def add_service_class_model_targets(body: ServiceClassSpec) -> ServiceClassSpec | Response:
        desk.check(body)
        try:
            _, after = desk.change(
                lambda system: store.add_targets(system, body, compat=desk.compat)
            )
        except VerbError as problem:
            if desk.compat:
                return Json(str(problem), status_code=problem.status)
            raise
        return after.classes[body.name]

    @router.get("/removeServiceClassModelTarget/{name}/{model:path}", tags=["service classes"])
    def remove_service_class_model_target(name: str, model: str) -> ModelTarget:
        before, _ = desk.change(lambda system: store.remove_target(system, name, model))
        return store.get_target(before, name, model)


def show_servers(router: APIRouter, desk: Desk) -> None:
    """Add the verbs that show servers."""

    @router.get("/getServers", tags=["servers"])
    def get_servers() -> ServerData:
        return ServerData(servers=list(desk.system.servers.values()))

    @router.get("/getServer/{name:path}", tags=["servers"])
    def get_server(name: str) -> ServerSpec:
        return store.get_server(desk.system, name)


def change_servers(router: APIRouter, desk: Desk) -> None:
    """Add the verbs that change servers."""

    @router.post("/setServers", tags=["servers"])
    def set_servers(body: ServerData) -> ServerData:
        desk.check(body)
        desk.change(lambda system: store.set_servers(system, body.servers))
        return body

    @router.post("/addServer", tags=["servers"])
    def add_server(body: ServerSpec) -> ServerSpec:
        desk.check(body)
        desk.change(lambda system: store.set_servers(system, [body]))
        return body

    @router.get("/removeServer/{name:path}", tags=["servers"])
    def remove_server(name: str) -> ServerSpec:
        before, _ = desk.change(lambda system: store.remove_server(system, name))
        return before.servers[name]

    @router.get("/applyAllocation", tags=["servers"])
    def apply_allocation() -> str:
        desk.change(lambda system: store.apply_desired(system, compat=desk.compat))
        return "Done"
