"""Whatever one object of a cluster has in it, all others are read as if it were not there."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop.backends.kube.budgets import budget_note, read_budgets, strictest
from loop.backends.kube.missing import missing_of
from loop.backends.kube.nodes import Shortages, read_capacity
from loop.backends.kube.patches import gpus_note, held_by, manager_of, tenant_of
from loop.backends.kube.read import left_alone_notes, read_servers, scraped
from loop.backends.kube.rivals import read_autoscalers, rival_notes
from loop.backends.kube.views import Sight, server_view
from loop.types import ServerView
from tests.loop.kube_objects import EPOCH_S, Json, deployment, node, pod
from tests.parts import first

NAMES = ("one", "two", "three")
VALUES: tuple[Any, ...] = (
    *(None, 0, -1, 10**30, -0.5, 1e308, "", "x" * 5000, "NaN", "\0", True, [], {}, [None], ["a"]),
    *({"a": None}, [[]], {"matchLabels": None}, "2026-13-45T99:00:00Z"),
)
CONTAINER: Json = {
    "name": "vllm",
    "image": "vllm",
    "args": ["--max-num-seqs", "64"],
    "env": [{"name": "BATCH", "value": "64"}],
    "ports": [{"name": "http", "containerPort": 8000}],
    "readinessProbe": {"httpGet": {"port": "http", "scheme": "HTTPS"}},
    "resources": {"limits": {"nvidia.com/gpu": "1"}, "requests": {"nvidia.com/gpu": "1"}},
}
POD_SPEC: Json = {
    "containers": [CONTAINER],
    "initContainers": [{"name": "side", "restartPolicy": "Always"}],
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "terminationGracePeriodSeconds": 30,
    "priorityClassName": "high",
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["fast"]}]}
                ]
            }
        }
    },
}


def objects() -> dict[str, list[Json]]:
    """Return a cluster of three servers with all that the loop reads of them."""
    made: dict[str, list[Json]] = {"deployments": [], "pods": [], "nodes": []}
    for name in NAMES:
        one = deployment(
            name,
            labels={"inferno.server.name": name},
            annotations={
                "inferno.server.apply.maxbatchsize": "--max-num-seqs",
                "inferno.server.status": '{"replicas": 2}',
            },
        )
        one["spec"]["template"]["spec"] = copy.deepcopy(POD_SPEC)
        one["metadata"]["managedFields"] = [
            {"manager": "kubectl", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
        ]
        made["deployments"].append(one)
        for letter, phase in (("a", "ready"), ("b", "starting")):
            here = pod(letter, of=name, phase=phase)
            here["spec"] = {**copy.deepcopy(POD_SPEC), "nodeName": "node-1", "priority": 1000}
            made["pods"].append(here)
    for name in ("node-1", "node-2"):
        here = node(name)
        here["metadata"]["labels"]["disk"] = "fast"
        here["spec"]["taints"] = [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]
        made["nodes"].append(here)
    target = {"kind": "Deployment", "name": "one"}
    made["autoscalers"] = [
        {"metadata": {"name": "a", "namespace": "infer"}, "spec": {"scaleTargetRef": target}}
    ]
    selector = {"matchExpressions": [{"key": "app", "operator": "In", "values": ["one"]}]}
    made["budgets"] = [
        {
            "metadata": {"name": "b", "namespace": "infer"},
            "spec": {"minAvailable": 1, "selector": selector},
        }
    ]
    made["others"] = [
        {
            "kind": "StatefulSet",
            "metadata": {"name": "c", "namespace": "infer", "labels": {}},
        }
    ]
    return made


def places(value: object, *, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where something stands in *value*, at any depth."""
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    return [
        place
        for key, one in inner
        for place in ((*before, key), *places(one, before=(*before, key)))
    ]


def spoil(rng: random.Random, one: Json) -> None:
    """Put something else, or nothing, in one place of an object."""
    *way, last = rng.choice(places(one))
    inside: Any = one
    for key in way:
        inside = inside[key]
    if rng.random() < 0.2:
        del inside[last]
    else:
        inside[last] = copy.deepcopy(rng.choice(VALUES))


def looked_at(made: Mapping[str, list[Json]]) -> dict[str, ServerView]:
    """Return the servers as the backend sees them, all its notes made."""
    told: list[str] = []
    servers = read_servers(made["deployments"], made["pods"], epoch_s=EPOCH_S)
    budgets = read_budgets(made["budgets"], told=told)
    autoscalers = read_autoscalers(made["autoscalers"], told=told)
    rival_notes((one.deployment for one in servers.by_name.values()), autoscalers)
    left_alone_notes(made["others"])
    capacity = read_capacity(
        made["nodes"],
        tenants=[tenant_of(server) for server in servers.by_name.values()],
        others=servers.unowned,
        types=("H100",),
    )
    Shortages(give_up_s=60.0).look(servers.by_name.values(), types={}, gpus={}, now_s=0.0)
    views = {}
    for name, server in servers.by_name.items():
        one = server.deployment
        budget = strictest(one, budgets)
        if budget:
            budget_note(name, budget)
        gpus_note(one, gpus={})
        manager_of(one, replicas=True)
        held_by(one)
        scraped(server, unowned=servers.unowned)
        views[name] = server_view(
            server,
            Sight(),
            missing=missing_of(server, now_s=0.0, give_up_s=60.0),
            gpus_reachable=capacity.reachable.get(name),
        )
    return views


@pytest.mark.parametrize("kind", first(2, objects()))
@given(seed=st.integers(0, 10**6))
def test_an_object_with_anything_in_it_stops_no_other(kind: str, seed: int) -> None:
    """An API server lists what it has: of its own kinds as described, of others whatever somebody
    wrote. One list for a text in a budget ended each cycle, for all servers.
    """
    rng, made = random.Random(seed), objects()
    one = rng.choice(made[kind])
    mine = one["metadata"]["name"].partition("-")[0]
    spoil(rng, one)
    check_others(made, mine if kind in ("deployments", "pods") else None)


@pytest.mark.parametrize("strange", [[None], {"a": None}, None], ids=str)
def test_a_variable_with_no_text_for_a_name_stops_no_other(strange: object) -> None:
    """A name that cannot be hashed is one in ten thousand of what is drawn above."""
    made = objects()
    made["pods"][0]["spec"]["containers"][0]["env"][0]["name"] = strange
    check_others(made, made["pods"][0]["metadata"]["name"].partition("-")[0])


def check_others(made: Mapping[str, list[Json]], mine: str | None) -> None:
    """Look at all that is *made*, and check that the servers but *mine* are seen as they are; None:
    check none.
    """
    views, whole = looked_at(made), looked_at(objects())
    for name in set(NAMES) - {mine} if mine else ():
        seen, before = views[name], whole[name]
        assert (seen.wanted, seen.ready, seen.starting) == (2, before.ready, before.starting)
        assert seen.gpus_reachable == before.gpus_reachable
