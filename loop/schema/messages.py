"""What goes between the services as JSON, ours ⇄ values of the loop: GET /collect and POST /update;
pure.

The words are those of the existing Go components (loop/schema/models.py). Fields that only ours
read stand beside them, and the older names of mid 2025 too, so that one message serves readers of
every version (docs/services.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Any, Literal, Protocol

from pydantic import Field, TypeAdapter

from loop.actuator import planned
from loop.schema.models import (
    AllocationData,
    Message,
    ServerLoad,
    ServerSpec,
    written,
)
from loop.schema.parsing import read, read_value
from loop.types import Change, Decision, Load, PodView, ServerView, Snapshot, Target, Why, one_pool
from twin.magnitudes import LARGEST_FIGURE

Json = dict[str, Any]
Absent = Literal["hold", "zero"]

NO_LOAD = Load(rate_rpm=0.0, in_tokens=0.0, out_tokens=0.0)


class Place(Protocol):
    """The object of a cluster that a server is."""

    @property
    def uid(self) -> str:
        """Return what makes it this one, and no later one of its name."""
        ...

    @property
    def namespace(self) -> str:
        """Return where it is."""
        ...

    @property
    def name(self) -> str:
        """Return its name there."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeResource:
    """The object of a cluster that a server is; all empty where there is no cluster."""

    uid: str = ""
    namespace: str = ""
    name: str = ""


NOWHERE = KubeResource()


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a collector answered: of ours all that was seen, of others what the servers of the wire
    say.
    """

    snapshot: Snapshot
    places: Mapping[str, KubeResource]


class Resource(Message):
    """The object of a cluster, in the words of the Go components."""

    uid: str = ""
    name: str = ""
    space: str = ""


class CollectAnswer(Message):
    """The answer of a collector; snapshot is there where it is ours."""

    servers: list[ServerSpec] = Field(default=[])
    kube_resources: dict[str, Resource] = Field(default={}, alias="kube-resources")
    snapshot: Json | None = None


class DesiredAllocation(AllocationData):
    """What a server shall have. Ours say besides why, and which servers are only named, and
    held.
    """

    held: bool = False
    reason: str = ""


class UpdateRequest(Message):
    """What an actuator is asked for. allocations must be said: to say nothing must not end all
    servers.
    """

    allocations: dict[str, DesiredAllocation]
    kube_resources: dict[str, Resource] = Field(default={}, alias="kube-resources")


# What a message says of the one pool of a server, and what the pool calls it.
_FLAT = {"accelerator": "accelerator", "wanted": "replicas", "max_batch": "max_batch"}


@cache
def _snapshot_reader() -> TypeAdapter[Snapshot]:
    return TypeAdapter(Snapshot)


def collect_message(seen: Snapshot, estimated: Snapshot, places: Mapping[str, Place]) -> Json:
    """Return the answer to GET /collect: what is *estimated* in the words of all, and what was
    *seen* for our own.

    replicas has a row for each pod that reports, for a tuner of latency models: see replica_specs.
    A server whose load is not known is told of as one to be held, so that no reader takes it for
    idle: no load, and a least number of replicas on its accelerator that is what it has. One that
    has nothing to hold is left out.
    """
    rows = [
        _with_concurrency(
            server_spec(view, view.load) if view.load is not None else held_spec(view),
            [pod.running for pod in view.pods if _tells_what_runs(pod)],
        )
        for view in estimated.servers.values()
        if view.load is not None or view.wanted > 0
    ]
    return {
        "servers": rows,
        "replicas": [
            row for view in estimated.servers.values() for row in replica_specs(view, view.load)
        ],
        "kube-resources": {name: _object(places.get(name, NOWHERE)) for name in estimated.servers},
        "snapshot": snapshot_json(seen),
    }


def server_spec(view: ServerView, load: Load, *, cost_cents_per_h: float = 0.0) -> Json:
    """Return *view* under *load* as a server of the wire. What it desires is nothing, as existing
    collectors say.
    """
    current = AllocationData(
        accelerator=view.accelerator,
        num_replicas=view.wanted,
        max_batch=view.max_batch,
        cost=figure(cost_cents_per_h),
        itl_average=figure(view.itl_ms),
        ttft_average=figure(view.ttft_ms),
        load=wire_load(load, throughput_rpm=view.completions_rpm),
    )
    spec = ServerSpec(
        name=view.name,
        model=view.model,
        min_num_replicas=view.replicas_min,
        gpus_per_replica=view.gpus_per_replica,
        accelerator_types=None if view.types is None else sorted(view.types),
        current_alloc=current,
    )
    return with_older_names(written(spec) | {"class": view.service_class})


def replica_specs(view: ServerView, load: Load | None) -> list[Json]:
    """Return the pods of *view* that report as servers of one replica each, named SERVER/POD, as
    existing tuners read them: what each did, at which batch, with how many requests at a time.

    Mean tokens are those of the whole server; without a *load* they are not known, and there are no
    rows.
    """
    if load is None:
        return []
    rows = []
    for pod in view.pods:
        if pod.completions_rpm is None:
            continue
        own = replace(load, rate_rpm=figure(pod.rate_rpm))
        alone = replace(
            view,
            name=f"{view.name}/{pod.name}",
            pools=one_pool(accelerator=pod.accelerator, replicas=1, max_batch=pod.max_batch),
            completions_rpm=pod.completions_rpm,
            itl_ms=pod.itl_ms,
            ttft_ms=pod.ttft_ms,
            replicas_min=0,
        )
        running = [pod.running] if _tells_what_runs(pod) else []
        rows.append(_with_concurrency(server_spec(alone, own), running))
    return rows


def _tells_what_runs(pod: PodView) -> bool:
    return pod.completions_rpm is not None and "running" not in pod.unknown_gauges


def _with_concurrency(server: Json, running: Sequence[int]) -> Json:
    """Return the *server* of the wire with the mean of the requests that its pods run, if any of
    them tells.
    """
    if not running:
        return server
    mean = sum(running) / len(running)
    return server | {"currentAlloc": server["currentAlloc"] | {"avgConcurrency": mean}}


def held_spec(view: ServerView) -> Json:
    """Return *view* as a server of the wire that every optimizer leaves as it is: nothing to do,
    and that with all.
    """
    return server_spec(view, NO_LOAD) | {
        "keepAccelerator": True,
        "minNumReplicas": max(view.wanted, view.replicas_min),
        "maxBatchSize": view.max_batch,
    }


def with_older_names(server: Json) -> Json:
    """Return the *server* of the wire with what components of mid 2025 read besides: a length, and
    a wait.
    """
    allocations = {
        key: server[key] | {"waitAverage": 0} for key in ("currentAlloc", "desiredAlloc")
    }
    for allocation in allocations.values():
        allocation["load"] = _older_load(allocation["load"])
    return server | allocations


def read_collected(answer: object, *, now_s: float) -> Collected:
    """Return what a collector answered; *now_s* is the time of what was seen, where the answer does
    not tell.

    Raise SpecError, one line, where it cannot be read.
    """
    found = read(CollectAnswer, answer, source="answer")
    places = {
        name: KubeResource(uid=one.uid, namespace=one.space, name=one.name)
        for name, one in found.kube_resources.items()
    }
    if found.snapshot is not None:
        return Collected(snapshot=read_snapshot(found.snapshot), places=places)
    servers = {spec.name: _view(spec) for spec in found.servers}
    return Collected(snapshot=Snapshot(now_s=now_s, servers=servers), places=places)


def update_message(seen: Snapshot, changes: Iterable[Change], places: Mapping[str, Place]) -> Json:
    """Return the body of POST /update that asks for *changes*, and names every other server with
    what it has.

    It has to: existing actuators end whom the message does not name. Ours leave alone who is marked
    as held.
    """
    changes = tuple(changes)
    changed = {change.server for change in changes}
    allocations = {}
    for name, change in planned(seen, changes).items():
        view = seen.servers[name]
        desired = DesiredAllocation(
            accelerator=change.accelerator,
            num_replicas=change.replicas,
            max_batch=change.max_batch,
            load=wire_load(view.load or NO_LOAD, throughput_rpm=view.completions_rpm),
            held=name not in changed,
            reason=change.why.text,
        )
        row = written(desired)
        allocations[name] = row | {"load": _older_load(row["load"])}
    return {
        "allocations": allocations,
        "kube-resources": {name: _object(places.get(name, NOWHERE)) for name in allocations},
    }


def decided(request: UpdateRequest, seen: Snapshot, *, absent: Absent) -> Decision:
    """Return what *request* asks of the servers *seen*; it may name others, which planning leaves
    out.

    absent "zero": a server that the request knows (or any, where it tells no kube-resources) and
    gives nothing, ends.
    """
    targets = {
        name: Target(
            server=name,
            pools=one_pool(
                accelerator=desired.accelerator,
                # In these messages an empty accelerator means no replicas.
                replicas=desired.num_replicas if desired.accelerator else 0,
                max_batch=desired.max_batch,
            ),
            why=Why(kind="remote", text=desired.reason),
        )
        for name, desired in request.allocations.items()
        if not desired.held
    }
    if absent == "zero":
        known = request.kube_resources or seen.servers
        for name, view in seen.servers.items():
            if name in known and name not in request.allocations:
                targets[name] = Target(
                    server=name,
                    pools=one_pool(
                        accelerator=view.accelerator, replicas=0, max_batch=view.max_batch
                    ),
                    why=Why(kind="remote", text="nothing is allocated to it"),
                )
    return Decision(targets=targets)


def snapshot_json(snapshot: Snapshot) -> Json:
    """Return *snapshot* as JSON, fields by their names. A figure that is no number is left out:
    nobody knows it.
    """
    plain = _plain(snapshot)
    assert isinstance(plain, dict)
    return plain


def read_snapshot(obj: object) -> Snapshot:
    """Return the inverse of snapshot_json. Raise SpecError where *obj* is no snapshot."""
    return read_value(_snapshot_reader(), _with_pools(obj), source="snapshot")


def _with_pools(obj: object) -> object:
    """Return the snapshot *obj* with pools in its servers; what is no snapshot as it is."""
    if not isinstance(obj, Mapping) or not isinstance(obj.get("servers"), Mapping):
        return obj
    servers = {
        name: {**row, "pools": [{to: row[flat] for flat, to in _FLAT.items() if flat in row}]}
        if isinstance(row, Mapping)
        else row
        for name, row in obj["servers"].items()
    }
    return {**obj, "servers": servers}


def _view(spec: ServerSpec) -> ServerView:
    """Return the server of a collector that is not ours: it counts one kind of replicas, and its
    zeros are unknown.
    """
    current = spec.current_alloc
    return ServerView(
        name=spec.name,
        model=spec.model,
        service_class=spec.service_class or "Free",
        pools=one_pool(
            accelerator=current.accelerator,
            replicas=current.num_replicas,
            max_batch=current.max_batch,
        ),
        ready=current.num_replicas,
        load=Load(
            rate_rpm=current.load.arrival_rate,
            in_tokens=current.load.avg_in_tokens,
            out_tokens=current.load.avg_out_tokens,
        ),
        completions_rpm=current.load.throughput or None,
        ttft_ms=current.ttft_average or None,
        itl_ms=current.itl_average or None,
        replicas_min=spec.min_num_replicas,
        gpus_per_replica=spec.gpus_per_replica,
    )


def wire_load(load: Load, *, throughput_rpm: float | None) -> ServerLoad:
    """Return *load* in the words of the wire, with whole tokens."""
    # Existing readers of token counts take whole numbers only; some tokens must not become none.
    tokens = [
        0 if count == 0 else max(round(count), 1)
        for count in map(figure, (load.in_tokens, load.out_tokens))
    ]
    return ServerLoad(
        arrival_rate=figure(load.rate_rpm),
        throughput=figure(throughput_rpm),
        avg_in_tokens=tokens[0],
        avg_out_tokens=tokens[1],
    )


def _older_load(load: Json) -> Json:
    return load | {"avgLength": load["avgOutTokens"], "arrivalCOV": 0, "serviceCOV": 0}


def figure(value: float | None) -> float:
    """Return *value* as the wire can hold it: 0 where there is none."""
    return (
        min(value, LARGEST_FIGURE)
        if value is not None and math.isfinite(value) and value > 0
        else 0.0
    )


def _object(place: Place) -> Json:
    return {"uid": place.uid, "name": place.name, "space": place.namespace}


def _plain(value: object) -> object:
    if isinstance(value, Load) and not all(
        map(math.isfinite, (value.rate_rpm, value.in_tokens, value.out_tokens))
    ):
        return None
    if is_dataclass(value):
        named = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        if isinstance(value, ServerView):
            # A server has one pool, whose figures stand among its own in the message.
            del named["pools"]
            named |= {name: getattr(value, name) for name in _FLAT}
        return {name: item for name, item in named.items() if not _unknown(item)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _unknown(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
