"""Replicas that share what comes are sized as the pool that they are."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferno.api import simulate
from loop.optimizer.front import SizingCache, optimize
from loop.optimizer.model.queueing import replica_columns
from loop.optimizer.model.steady import steady_state
from loop.optimizer.model.tail import make_tail
from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.rules.go_today import GO_TODAY
from loop.optimizer.rules.ours import OURS
from loop.optimizer.solution import Assignment
from loop.schema.reading import read_system
from loop.spec import SystemData
from loop.types import Load

DATA = Path("sample-data/small")
SERVER, MODEL = "Premium-Llama-3.1-8B", "Llama-3.1-8B"


def loaded(rate_rpm: float, *, pooled: bool) -> SystemData:
    """Return the small system with one server, on the accelerator that it has."""
    data = read_system(DATA)
    server = data.servers[SERVER]
    load = Load(rate_rpm=rate_rpm, in_tokens=512.0, out_tokens=768.0)
    server = replace(
        server,
        keep_accelerator=True,
        pooled=pooled,
        current=replace(server.current, load=load),
    )
    return replace(data, servers={SERVER: server}, capacity={"H100": 1000})


def replicas(data: SystemData, rules: object = OURS) -> int:
    """Return how many replicas the optimizer gives."""
    settings = OptimizerSettings(rules=rules)  # type: ignore[arg-type]
    return optimize(data, settings, cache=SizingCache()).allocations[SERVER].replicas


def test_a_pool_needs_fewer_replicas_and_one_replica_is_none() -> None:
    """Of many replicas, few are full while others are not."""
    assert replicas(loaded(2000.0, pooled=True)) < replicas(loaded(2000.0, pooled=False))
    assert replicas(loaded(100.0, pooled=True)) == replicas(loaded(100.0, pooled=False)) == 1


def test_the_rules_of_the_existing_optimizer_know_of_no_pools() -> None:
    """It counts each replica alone."""
    alone, pooled = (loaded(2000.0, pooled=pooled) for pooled in (False, True))
    assert replicas(alone, GO_TODAY) == replicas(pooled, GO_TODAY)


@given(
    share=st.floats(0.2, 0.95), batch=st.integers(8, 256), pool=st.sampled_from([2.0, 4.0, 16.0])
)
def test_a_pool_is_full_less_often_and_as_busy_as_its_replicas(
    share: float, batch: int, pool: float
) -> None:
    """Work does not go away: the mean batch stays, what varies is less."""
    alone, many = (
        replica_columns(
            alpha=8.0,
            beta=0.03,
            gamma=0.0001,
            in_tokens=300.0,
            out_tokens=400.0,
            max_batch=batch,
            token_cv=0.5,
            pool=count,
        )
        for count in (1.0, pool)
    )
    rate = share * batch / (400.0 * (8.0 + 0.06 * batch)) * make_tail(alone).columns.alpha / 8.0
    one, all_ = (steady_state(make_tail(columns), rate) for columns in (alone, many))
    assert all_.waits[0] <= one.waits[0] + 1e-9
    assert all_.wait_rate[0] == pytest.approx(pool * one.wait_rate[0])
    if one.waits[0] < 0.05 and one.batch[0] > 2.0:
        assert all_.batch[0] == pytest.approx(one.batch[0], rel=0.05, abs=0.6)


@pytest.mark.parametrize(("rate_rpm", "itl_ms"), [(2000.0, 0.0), (300.0, 9.0), (800.0, 8.5)])
@pytest.mark.costly
def test_a_pool_meets_its_targets_on_the_twin(
    tmp_path: Path, rate_rpm: float, itl_ms: float
) -> None:
    """As often as its class asks, at the rate that its replicas are allowed; and no longer at a
    ninth more. *itl_ms*: another target, which then binds.
    """
    data = loaded(rate_rpm, pooled=True)
    if itl_ms:
        (group,) = (data.classes[one.service_class] for one in data.servers.values())
        target = replace(group.targets[MODEL], slo_itl_ms=itl_ms)
        group = replace(group, targets={**group.targets, MODEL: target})
        data = replace(data, classes={**data.classes, group.name: group})
    sized = optimize(data, OptimizerSettings(rules=OURS), cache=SizingCache()).allocations[SERVER]
    assert (sized.why.kind == "slo-itl") == (itl_ms > 0.0)
    shares = [
        share_of_a_pool(
            tmp_path / str(n), sized, times * sized.replicas * sized.rate_max_rpm, itl_ms
        )
        for n, times in enumerate((1.0, 1.11))
    ]
    assert shares[0] >= 0.93
    assert shares[1] < 0.95


def share_of_a_pool(directory: Path, sized: Assignment, rate_rpm: float, itl_ms: float) -> float:
    """Return the share of requests that meet their targets on the twin."""
    shutil.copytree(DATA, directory)
    said = json.loads((directory / "server-data.json").read_text())
    (row,) = [one for one in said["servers"] if one["name"] == SERVER]
    row["currentAlloc"] |= {"numReplicas": sized.replicas, "maxBatch": sized.max_batch}
    row["currentAlloc"]["load"] = {"arrivalRate": rate_rpm, "avgInTokens": 512, "avgOutTokens": 768}
    (directory / "server-data.json").write_text(json.dumps({"servers": [row]}))
    if itl_ms:
        file = directory / "serviceclass-data.json"
        classes = json.loads(file.read_text())
        for one in classes["serviceClasses"]:
            for aim in one["modelTargets"]:
                aim |= {"slo-itl": itl_ms}
        file.write_text(json.dumps(classes))
    twin = json.loads((directory / "twin-data.json").read_text())
    twin["servers"] = []
    (directory / "twin-data.json").write_text(json.dumps(twin))
    capacity = (directory / "capacity-data.json").read_text()
    capacity = json.dumps(
        {"count": [{**one, "count": 1000} for one in json.loads(capacity)["count"]]}
    )
    (directory / "capacity-data.json").write_text(capacity)
    found = simulate(data=directory, scenario="steady", policy="static", hours=0.5, seed=7)
    return float(found.summary["attainment"])
