"""One policy, wherever the optimizer runs: through a service it decides what it decides here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from loop.backends.http import remote_policy
from loop.backends.http_client import ServiceClient
from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.rules.ours import OURS
from loop.policies.slo import SloPolicy
from loop.policies.slo.case import UNIT_FROM
from loop.schema.reading import read_system
from loop.services.optimizer_app import make_optimizer_app
from loop.spec import SystemData, gpus
from loop.testing.fakes import server_data, server_view, system
from loop.types import CapacityView, Decision, Load, ServerView, Snapshot
from tests.live.optimizer_served import serving
from tests.live.world_served import client_of

LARGE = Path("sample-data/large")


@pytest.fixture(scope="module")
def optimizer() -> Iterator[httpx.Client]:
    """Serve our optimizer."""
    with serving(make_optimizer_app(settings=OptimizerSettings(rules=OURS))) as client:
        yield client


def seen(*views: ServerView, **fields: object) -> Snapshot:
    """Return a snapshot of *views*."""
    return Snapshot(now_s=0.0, servers={view.name: view for view in views}, **fields)  # type: ignore[arg-type]


def as_seen(data: SystemData, *, factor: float) -> Snapshot:
    """Return what the files say that servers have, with *factor* times the capacity."""
    views = [
        server_view(
            server.name,
            model=server.model,
            service_class=server.service_class,
            accelerator=server.current.accelerator,
            wanted=server.current.replicas,
            ready=server.current.replicas,
            max_batch=server.current.max_batch,
            load=server.current.load,
        )
        for server in data.servers.values()
    ]
    capacity = {
        kind: CapacityView(type=kind, total=int(count * factor), used=0)
        for kind, count in data.capacity.items()
    }
    return seen(*views, capacity=capacity)


def decided(
    optimizer: httpx.Client, snapshot: Snapshot, data: SystemData
) -> tuple[Decision, Decision]:
    """Return the decisions with the optimizer here, and with the one that is served."""
    local, _ = SloPolicy().decide(snapshot, data, {})
    remote, _ = remote_policy(client_of("optimizer", optimizer)).decide(snapshot, data, {})
    return local, remote


def same(local: Decision, remote: Decision) -> bool:
    """Tell whether both want, expect, hold and leave out the same, for the same reasons."""
    wanted, asked = (
        {
            name: (each.pools, each.held, each.why, each.itl_ms)
            for name, each in decision.targets.items()
        }
        for decision in (local, remote)
    )
    return wanted == asked and local.unserved == remote.unserved


@pytest.mark.parametrize("factor", [1.0, 0.3, 0.15, 0.05])
def test_a_service_decides_the_same_however_scarce_gpus_are(
    optimizer: httpx.Client, factor: float
) -> None:
    """Once 5 of 27 servers got something else at 0.3 of the capacity, and 11 at 0.15; and more GPUs
    were asked for than exist.
    """
    data = read_system(LARGE)
    snapshot = as_seen(data, factor=factor)
    local, remote = decided(optimizer, snapshot, data)
    assert same(local, remote)
    assert len(remote.targets) == len(data.servers)
    taken = dict.fromkeys(data.capacity, 0)
    for name, target in remote.targets.items():
        held = gpus(
            data,
            model=snapshot.servers[name].model,
            accelerator=target.accelerator,
            replicas=target.replicas,
        )
        if held is not None:
            taken[held[0]] += held[1]
    assert snapshot.capacity is not None
    assert all(count <= snapshot.capacity[kind].total for kind, count in taken.items())


CASES = {
    "load for several replicas": seen(
        server_view("s1", load=Load(rate_rpm=900.0, in_tokens=512.0, out_tokens=256.0))
    ),
    "a backlog": seen(server_view("s1", backlog=200)),
    "tokens that are no whole numbers": seen(
        server_view("s1", load=Load(rate_rpm=4321.5, in_tokens=513.49, out_tokens=250.49))
    ),
    "no load": seen(server_view("s1", load=Load(rate_rpm=0.0, in_tokens=0.0, out_tokens=0.0))),
    "two classes, few GPUs": seen(
        server_view("s1", load=Load(rate_rpm=2000.0, in_tokens=512.0, out_tokens=256.0)),
        server_view("s2", service_class="Free", model="qwen_14b"),
    ),
    "a load that nobody knows": seen(
        server_view("s1", load=None, wanted=6), server_view("s2", wanted=1)
    ),
    "held servers beyond the capacity": seen(
        server_view("s1", load=None, wanted=9), server_view("s2", wanted=1)
    ),
    "a model that nobody knows": seen(server_view("s1", model="gpt_9"), server_view("s2")),
    "nothing serves it yet": seen(server_view("s1", load=None, wanted=0, ready=0, backlog=3)),
    "no accelerator yet": seen(server_view("s1", accelerator="", wanted=0, ready=0)),
}


@pytest.mark.parametrize("snapshot", CASES.values(), ids=CASES.keys())
def test_a_service_decides_the_same_of_odd_servers(
    optimizer: httpx.Client, snapshot: Snapshot
) -> None:
    """Five processes or one: the same loop."""
    data = system(servers={"s2": server_data("s2", service_class="Free", min_replicas=1)})
    assert same(*decided(optimizer, snapshot, data))


def test_a_batch_is_bound_by_the_kv_cache_in_a_service_too(optimizer: httpx.Client) -> None:
    """The capacity of the cache is ours to say: a message of the existing components has none."""
    data = system()
    data = replace(data, perf={key: replace(row, kv_tokens=9000) for key, row in data.perf.items()})
    busy = server_view(load=Load(rate_rpm=900.0, in_tokens=512.0, out_tokens=256.0), max_batch=1)
    local, remote = decided(optimizer, seen(busy), data)
    assert same(local, remote)
    roomy, _ = SloPolicy().decide(seen(busy), system(), {})
    assert local.targets["s1"].pools != roomy.targets["s1"].pools


def test_servers_that_nobody_asked_for_are_left_out_of_the_answer() -> None:
    """A service that keeps a system of its own may name them."""
    row = {"accelerator": "H100", "numReplicas": 4, "maxBatch": 64}
    answer = httpx.Response(200, json={"allocations": {"s1": row, "s9": row}})
    client = ServiceClient(
        "optimizer", "http://here", timeout_s=1.0, transport=httpx.MockTransport(lambda _: answer)
    )
    decision, _ = remote_policy(client).decide(seen(server_view("s1")), system(), {})
    assert {name: target.replicas for name, target in decision.targets.items()} == {"s1": 4}
    assert decision.targets["s1"].why.kind == "remote"


def test_a_service_trusts_the_prefix_cache_as_much(optimizer: httpx.Client) -> None:
    """What counts as cached is decided here, and told: it knows no snapshot."""
    load = Load(rate_rpm=500.0, in_tokens=4096.0, out_tokens=64.0)
    snapshot = seen(server_view(load=load, cache_hit_share=0.9))
    service = client_of("optimizer", optimizer)
    local, _ = SloPolicy(prefix_cache_trust=0.7).decide(snapshot, system(), {})
    remote, _ = remote_policy(service, prefix_cache_trust=0.7).decide(snapshot, system(), {})
    assert same(local, remote)
    cold, _ = SloPolicy().decide(snapshot, system(), {})
    assert local.targets["s1"].replicas < cold.targets["s1"].replicas


def test_a_service_decides_the_same_of_loads_that_move(optimizer: httpx.Client) -> None:
    """What a replica can take, and how much work requests are, is asked of the service, too."""
    data = system(servers={"s2": server_data("s2", service_class="Free", min_replicas=1)})
    policies = SloPolicy(), remote_policy(client_of("optimizer", optimizer))
    states = [policy.start() for policy in policies]
    for step in range(2 * UNIT_FROM):
        growth = 1.0 + 0.2 * max(0, step - UNIT_FROM)
        views = [
            server_view("s1", load=Load(rate_rpm=900.0 * growth, in_tokens=512.0, out_tokens=99.5)),
            server_view(
                "s2", load=Load(rate_rpm=600.0, in_tokens=512.0 * growth, out_tokens=256.0)
            ),
        ]
        snapshot = replace(seen(*views), now_s=30.0 * step, window_s=60.0)
        found = []
        for place, policy in enumerate(policies):
            decision, states[place] = policy.decide(snapshot, data, states[place])
            found.append(decision)
        assert same(*found)
    for name in ("s1", "s2"):
        here, there = (state[name] for state in states)
        assert here.replica_rpm == there.replica_rpm > 0.0
        assert here.unit is not None
        assert here.unit == there.unit
