"""The verbs that build up, show and take apart the system of the optimizer service: one table of
what is kept, by what can be done with it.

Paths and answers are those of the existing service, which changes things on GET too (add…,
remove…).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter, Signature
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from loop.schema.models import (
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
)
from loop.services import optimizer_store as store
from loop.services.answers import Json, body_of
from loop.services.optimizer_habits import Habits
from loop.services.optimizer_store import System, VerbError

Change = Callable[..., System]


class Desk:
    """Holds the system that the verbs work on: read as it stands, changed by one verb at a time."""

    def __init__(self, *, stateful: bool, habits: Habits) -> None:
        self.stateful = stateful
        self.habits = habits
        self.system = System()
        self.lock = threading.Lock()

    def change(self, act: Callable[[System], System]) -> tuple[System, System]:
        """Let *act* change the system; return it as it was before, and as it is then."""
        with self.lock:
            before, self.system = self.system, act(self.system)
            return before, self.system


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """A POST of a *body*, or a GET. *act* takes the desk, then what the path names, in its order,
    or the body; *answer* is the type of what it returns.
    """

    tag: str
    path: str
    act: Callable[..., Any]
    answer: Any
    body: type[Message] | None = None
    changes: bool = True


def _show(tag: str, path: str, answer: Any, find: Callable[..., Any]) -> Verb:
    def act(desk: Desk, *key: str) -> Any:
        return find(desk.system, *key)

    return Verb(tag=tag, path=path, act=act, answer=answer, changes=False)


def _set(tag: str, path: str, body: type[Message], put: Change) -> Verb:
    (rows,) = body.model_fields

    def act(desk: Desk, said: Message) -> Message:
        desk.change(lambda system: put(system, getattr(said, rows)))
        return said

    return Verb(tag=tag, path=path, act=act, answer=body, body=body)


def _add(tag: str, path: str, body: type[Message], put: Change) -> Verb:
    def act(desk: Desk, said: Message) -> Message:
        desk.change(lambda system: put(system, [said]))
        return said

    return Verb(tag=tag, path=path, act=act, answer=body, body=body)


def _remove(tag: str, path: str, answer: Any, drop: Change, find: Callable[..., Any]) -> Verb:
    def act(desk: Desk, *key: str) -> Any:
        before, _ = desk.change(lambda system: drop(system, *key))
        return find(before, *key)

    return Verb(tag=tag, path=path, act=act, answer=answer)


def _add_model(desk: Desk, name: str) -> str:
    desk.change(lambda system: store.add_model(system, name, keeps=desk.habits.adding_keeps))
    return name


def _add_class(desk: Desk, name: str, priority: str) -> ServiceClassSpec:
    if not (priority.isascii() and priority.isdigit() and len(priority) <= 9):
        raise VerbError(f"service class priority {priority} invalid", status=400)
    keeps = desk.habits.adding_keeps
    _, after = desk.change(lambda system: store.add_class(system, name, int(priority), keeps=keeps))
    return after.classes[name]


def _add_targets(desk: Desk, said: ServiceClassSpec) -> ServiceClassSpec | Response:
    try:
        corrects = desk.habits.corrects_priority
        _, after = desk.change(lambda system: store.add_targets(system, said, corrects=corrects))
    except VerbError as problem:
        if desk.habits.wraps_refusals:
            raise
        return Json(str(problem), status_code=problem.status)
    return after.classes[said.name]


def _apply(desk: Desk) -> str:
    keeps = desk.habits.unserved_keeps
    desk.change(lambda system: store.apply_desired(system, unserved_keeps=keeps))
    return "Done"


UNITS, GPUS, MODELS, CLASSES, SERVERS = (
    "accelerators",
    "capacity",
    "models",
    "service classes",
    "servers",
)
ROW, TARGET = ModelAcceleratorPerfData, ModelTarget

# Of each kind: get all, get one, set several, add one, remove one.
VERBS = (
    _show(UNITS, "getAccelerators", list[AcceleratorSpec], store.ACCELERATORS.all),
    _show(UNITS, "getAccelerator/{name:path}", AcceleratorSpec, store.ACCELERATORS.get),
    _set(UNITS, "setAccelerators", AcceleratorData, store.ACCELERATORS.put),
    _add(UNITS, "addAccelerator", AcceleratorSpec, store.ACCELERATORS.put),
    _remove(
        UNITS,
        "removeAccelerator/{name:path}",
        AcceleratorSpec,
        store.ACCELERATORS.drop,
        store.ACCELERATORS.get,
    ),
    _show(GPUS, "getCapacities", CapacityData, store.get_capacities),
    _show(GPUS, "getCapacity/{type:path}", AcceleratorCount, store.CAPACITY.get),
    _set(GPUS, "setCapacities", CapacityData, store.CAPACITY.put),
    _add(GPUS, "setCapacity", AcceleratorCount, store.CAPACITY.put),
    _remove(
        GPUS,
        "removeCapacity/{type:path}",
        AcceleratorCount,
        store.CAPACITY.drop,
        store.CAPACITY.get,
    ),
    _show(MODELS, "getModels", list[str], lambda system: list(system.models)),
    _show(MODELS, "getModel/{name:path}", ModelData, store.get_model),
    _set(MODELS, "setModels", ModelData, store.set_perf),
    Verb(tag=MODELS, path="addModel/{name:path}", act=_add_model, answer=str),
    _remove(MODELS, "removeModel/{name:path}", str, store.MODELS.drop, lambda _before, name: name),
    _show(MODELS, "getModelAcceleratorPerf/{name:path}/{acc}", ROW, store.get_perf),
    _add(MODELS, "addModelAcceleratorPerf", ROW, store.add_perf),
    _remove(
        MODELS,
        "removeModelAcceleratorPerf/{name:path}/{acc}",
        ROW,
        store.remove_perf,
        store.get_perf,
    ),
    _show(CLASSES, "getServiceClasses", ServiceClassData, store.get_classes),
    _show(CLASSES, "getServiceClass/{name:path}", ServiceClassSpec, store.CLASSES.get),
    _set(CLASSES, "setServiceClasses", ServiceClassData, store.set_classes),
    Verb(
        tag=CLASSES,
        path="addServiceClass/{name}/{priority}",
        act=_add_class,
        answer=ServiceClassSpec,
    ),
    _remove(
        CLASSES,
        "removeServiceClass/{name:path}",
        ServiceClassSpec,
        store.CLASSES.drop,
        store.CLASSES.get,
    ),
    _show(CLASSES, "getServiceClassModelTarget/{name}/{model:path}", TARGET, store.get_target),
    Verb(
        tag=CLASSES,
        path="addServiceClassModelTargets",
        act=_add_targets,
        answer=ServiceClassSpec,
        body=ServiceClassSpec,
    ),
    _remove(
        CLASSES,
        "removeServiceClassModelTarget/{name}/{model:path}",
        TARGET,
        store.remove_target,
        store.get_target,
    ),
    _show(SERVERS, "getServers", ServerData, store.get_servers),
    _show(SERVERS, "getServer/{name:path}", ServerSpec, store.get_server),
    _set(SERVERS, "setServers", ServerData, store.set_servers),
    _add(SERVERS, "addServer", ServerSpec, store.set_servers),
    _remove(SERVERS, "removeServer/{name:path}", ServerSpec, store.SERVERS.drop, store.get_server),
    Verb(tag=SERVERS, path="applyAllocation", act=_apply, answer=str),
)


def make_verbs(desk: Desk) -> APIRouter:
    """Return the routes: those that show, and where the desk is stateful also those that change."""
    router = APIRouter(default_response_class=Json)
    for verb in VERBS:
        if desk.stateful or not verb.changes:
            _add_route(router, desk, verb)
    return router


def _add_route(router: APIRouter, desk: Desk, verb: Verb) -> None:
    asked: dict[str, Any] = dict.fromkeys(re.findall(r"{(\w+)", verb.path), str)
    if verb.body is not None:
        asked["body"] = body_of(verb.body, desk.habits.level)

    def endpoint(**values: Any) -> Any:
        return verb.act(desk, *(values[name] for name in asked))

    # FastAPI reads from the signature what a path holds and what a body must be.
    parameters = [
        Parameter(name, Parameter.KEYWORD_ONLY, annotation=kind) for name, kind in asked.items()
    ]
    endpoint.__signature__ = Signature(parameters)  # type: ignore[attr-defined] # as inspect says
    word = verb.path.partition("/")[0]
    endpoint.__name__ = re.sub(r"(?<!^)([A-Z])", r"_\1", word).lower()
    router.add_api_route(
        f"/{verb.path}",
        endpoint,
        methods=["GET" if verb.body is None else "POST"],
        response_model=verb.answer,
        tags=[verb.tag],
    )
