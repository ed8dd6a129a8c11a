"""The verbs that build up, show and take apart the system of the optimizer service: one table of
what is kept, by what can be done with it.

Paths and answers are those of the existing service, which changes things on GET too (add…,
remove…).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from inspect import Parameter, Signature
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from loop.schema.models import (
    AcceleratorCount,
    AcceleratorData,
    AcceleratorSpec,
    CapacityData,
    Level,
    Message,
    ModelAcceleratorPerfData,
    ModelData,
    ModelTarget,
    ServerData,
    ServerSpec,
    ServiceClassData,
    ServiceClassSpec,
)
from loop.schema.reading import merged_classes
from loop.services import optimizer_store as store
from loop.services.answers import Json, body_of
from loop.services.optimizer_store import System, VerbError

Find = Callable[..., Any]
Put = Callable[[System, Iterable[Any]], System]


class Desk:
    """Holds the system that the verbs work on: read as it stands, changed by one verb at a time."""

    def __init__(self, *, stateful: bool, compat: bool) -> None:
        self.stateful = stateful
        self.compat = compat
        self.system = System()
        self.lock = threading.Lock()

    def change(self, act: Callable[[System], System]) -> tuple[System, System]:
        """Let *act* change the system; return it as it was before, and as it is then."""
        with self.lock:
            before, self.system = self.system, act(self.system)
            return before, self.system


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of thing that is kept, and its verbs by their paths ("": there is no such verb).

    one and several are the messages of one and of many of it; key is how a path names one. listed
    returns the answer to get_all, which is an answer. find, put and drop look up, take in and take
    out. shown is what get and remove answer; dropped returns what remove answers, if not that.
    """

    tag: str
    key: str
    one: type[Message]
    shown: Any
    get_all: str = ""
    get: str = ""
    set: str = ""
    add: str = ""
    remove: str = ""
    several: type[Message] | None = None
    answer: Any = None
    listed: Callable[[System], Any] | None = None
    find: Find
    put: Put | None = None
    drop: Callable[..., System]
    dropped: Callable[..., Any] | None = None


def _kind(tag: str, kept: str, missing: str, **others: Any) -> Kind:
    """Return a kind that the system keeps by name under *kept*."""
    one: type[Message] = others["one"]
    several: type[Message] = others["several"]
    rows = next(iter(several.model_fields))

    def values(system: System) -> Mapping[str, Any]:
        found: Mapping[str, Any] = getattr(system, kept)
        return found

    def changed(system: System, new: Mapping[str, Any]) -> System:
        others: dict[str, Any] = {kept: new}
        return replace(system, **others)

    def find(system: System, name: str) -> Any:
        return store.find(values(system), name, missing)

    def drop(system: System, name: str) -> System:
        find(system, name)
        return changed(system, store.without(values(system), name))

    def put(system: System, more: Iterable[Any]) -> System:
        new = {getattr(each, one.label[0]): each for each in more}
        return changed(system, {**values(system), **new})

    usual: dict[str, Any] = {"shown": one, "find": find, "drop": drop, "put": put}
    kind = Kind(tag=tag, **{**usual, "answer": several, **others})
    if kind.listed is not None:
        return kind

    def listed(system: System) -> Message:
        found: dict[str, Any] = {rows: [kind.find(system, name) for name in values(system)]}
        return several.model_construct(**found)

    return replace(kind, listed=listed)


def _drop_capacity(system: System, name: str) -> System:
    store.find(system.capacity, name, "accelerator type {} not found")
    return replace(system, capacity=store.without(system.capacity, name))


def _model(system: System, name: str) -> ModelData:
    rows = store.find(system.models, name, "model {} not found")
    return ModelData.model_construct(models=list(rows.values()))


def _put_classes(system: System, rows: Iterable[ServiceClassSpec]) -> System:
    return replace(system, classes=merged_classes(system.classes, rows))


KINDS = (
    _kind(
        "accelerators",
        "accelerators",
        "accelerator {} not found",
        one=AcceleratorSpec,
        several=AcceleratorData,
        key="{name:path}",
        get_all="getAccelerators",
        get="getAccelerator",
        set="setAccelerators",
        add="addAccelerator",
        remove="removeAccelerator",
        answer=list[AcceleratorSpec],
        listed=lambda system: list(system.accelerators.values()),
    ),
    _kind(
        "capacity",
        "capacity",
        "capacity for {} not found",
        one=AcceleratorCount,
        several=CapacityData,
        key="{type:path}",
        get_all="getCapacities",
        get="getCapacity",
        set="setCapacities",
        add="setCapacity",
        remove="removeCapacity",
        drop=_drop_capacity,
    ),
    _kind(
        "models",
        "models",
        "model {} not found",
        one=ModelAcceleratorPerfData,
        several=ModelData,
        key="{name:path}",
        get_all="getModels",
        get="getModel",
        set="setModels",
        remove="removeModel",
        answer=list[str],
        listed=lambda system: list(system.models),
        shown=ModelData,
        find=_model,
        put=store.set_perf,
        dropped=lambda _system, name: name,
    ),
    Kind(
        tag="models",
        key="{name:path}/{acc}",
        one=ModelAcceleratorPerfData,
        shown=ModelAcceleratorPerfData,
        get="getModelAcceleratorPerf",
        add="addModelAcceleratorPerf",
        remove="removeModelAcceleratorPerf",
        find=store.get_perf,
        put=store.add_perf,
        drop=store.remove_perf,
    ),
    _kind(
        "service classes",
        "classes",
        "service class {} not found",
        one=ServiceClassSpec,
        several=ServiceClassData,
        key="{name:path}",
        get_all="getServiceClasses",
        get="getServiceClass",
        set="setServiceClasses",
        remove="removeServiceClass",
        put=_put_classes,
    ),
    Kind(
        tag="service classes",
        key="{name}/{model:path}",
        one=ModelTarget,
        shown=ModelTarget,
        get="getServiceClassModelTarget",
        remove="removeServiceClassModelTarget",
        find=store.get_target,
        drop=store.remove_target,
    ),
    _kind(
        "servers",
        "servers",
        "server {} not found",
        one=ServerSpec,
        several=ServerData,
        key="{name:path}",
        get_all="getServers",
        get="getServer",
        set="setServers",
        add="addServer",
        remove="removeServer",
        find=store.get_server,
        put=store.set_servers,
    ),
)


class Verbs:
    """Adds verbs to a router, each a path and what it does."""

    def __init__(self, desk: Desk) -> None:
        self.router = APIRouter(default_response_class=Json)
        self._level: Level = "go" if desk.compat else "ours"

    def add(
        self, path: str, act: Callable[..., Any], *, tag: str, answer: Any, body: Any = None
    ) -> None:
        """Add the verb *path*: a POST of a *body*, or a GET; *act* takes what the path names, in
        its order, or the body.
        """
        asked: dict[str, Any] = dict.fromkeys(re.findall(r"{(\w+)", path), str)
        if body is not None:
            asked["body"] = body_of(body, self._level)

        def endpoint(**values: Any) -> Any:
            return act(*(values[name] for name in asked))

        # FastAPI reads from the signature what a path holds and what a body must be.
        parameters = [
            Parameter(name, Parameter.KEYWORD_ONLY, annotation=kind) for name, kind in asked.items()
        ]
        endpoint.__signature__ = Signature(parameters)  # type: ignore[attr-defined] # as inspect says
        endpoint.__name__ = re.sub(r"(?<!^)([A-Z])", r"_\1", path.split("/", maxsplit=1)[0]).lower()
        self.router.add_api_route(
            f"/{path}",
            endpoint,
            methods=["GET" if body is None else "POST"],
            response_model=answer,
            tags=[tag],
        )


def make_verbs(desk: Desk) -> APIRouter:
    """Return the routes: those that show, and where the desk is stateful also those that change."""
    verbs = Verbs(desk)
    for kind in KINDS:
        _add_reading(verbs, desk, kind)
        if desk.stateful:
            _add_changing(verbs, desk, kind)
    if desk.stateful:
        _add_irregular(verbs, desk)
    return verbs.router


def _add_reading(verbs: Verbs, desk: Desk, kind: Kind) -> None:
    listed, find = kind.listed, kind.find
    if kind.get_all and listed:
        verbs.add(kind.get_all, lambda: listed(desk.system), tag=kind.tag, answer=kind.answer)
    if kind.get:

        def get(*key: str) -> Any:
            return find(desk.system, *key)

        verbs.add(f"{kind.get}/{kind.key}", get, tag=kind.tag, answer=kind.shown)


def _add_changing(verbs: Verbs, desk: Desk, kind: Kind) -> None:
    put, drop, dropped = kind.put, kind.drop, kind.dropped or kind.find
    if kind.set and put and kind.several:
        rows = next(iter(kind.several.model_fields))

        def set_all(body: Message) -> Message:
            desk.change(lambda system: put(system, getattr(body, rows)))
            return body

        verbs.add(kind.set, set_all, tag=kind.tag, answer=kind.several, body=kind.several)
    if kind.add and put:

        def add(body: Message) -> Message:
            desk.change(lambda system: put(system, [body]))
            return body

        verbs.add(kind.add, add, tag=kind.tag, answer=kind.one, body=kind.one)
    if kind.remove:

        def remove(*key: str) -> Any:
            before, _ = desk.change(lambda system: drop(system, *key))
            return dropped(before, *key)

        answer = kind.shown if kind.dropped is None else str
        verbs.add(f"{kind.remove}/{kind.key}", remove, tag=kind.tag, answer=answer)


def _add_irregular(verbs: Verbs, desk: Desk) -> None:
    """Add what has no place in the table: three verbs that add, and the one that applies."""

    def add_model(name: str) -> str:
        desk.change(lambda system: store.add_model(system, name, compat=desk.compat))
        return name

    def add_class(name: str, priority: str) -> ServiceClassSpec:
        if not (priority.isascii() and priority.isdigit() and len(priority) <= 9):
            raise VerbError(f"service class priority {priority} invalid", status=400)
        _, after = desk.change(
            lambda system: store.add_class(system, name, int(priority), compat=desk.compat)
        )
        return after.classes[name]

    def add_targets(body: ServiceClassSpec) -> ServiceClassSpec | Response:
        try:
            _, after = desk.change(
                lambda system: store.add_targets(system, body, compat=desk.compat)
            )
        except VerbError as problem:
            if desk.compat:
                return Json(str(problem), status_code=problem.status)
            raise
        return after.classes[body.name]

    def apply_allocation() -> str:
        desk.change(lambda system: store.apply_desired(system, compat=desk.compat))
        return "Done"

    spec, classes = ServiceClassSpec, "service classes"
    verbs.add("addModel/{name:path}", add_model, tag="models", answer=str)
    verbs.add("addServiceClass/{name}/{priority}", add_class, tag=classes, answer=spec)
    verbs.add("addServiceClassModelTargets", add_targets, tag=classes, answer=spec, body=spec)
    verbs.add("applyAllocation", apply_allocation, tag="servers", answer=str)
