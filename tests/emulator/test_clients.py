"""Users who wait for their answers, on a cluster that tells them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simpy

from emulator.load import ServerLoad
from emulator.to_sim import SimFeeder
from emulator.walk import OfferedLoad
from experiments.scenario import parse_scenario
from tests.parts import first
from twin.request import Outcome
from twin.serving.cluster import Cluster
from twin.spec import ClusterSpec, Pool, Server, SpecError
from twin.testing.worlds import cluster_of, spec_of

LOAD = ServerLoad(
    server="s",
    index=0,
    seed=1,
    nominal=OfferedLoad(rate_rpm=60.0, in_tokens=100.0, out_tokens=50.0),
    token_distribution="fixed",
    users=10,
)


def one(*, max_batch: int = 64, **fields: Any) -> ClusterSpec:
    """Return a system of one server with one pod."""
    pool = Pool(accelerator="A", replicas=1, max_batch=max_batch)
    return spec_of(Server(name="s", model="m", pool=pool, **fields), capacity={"A": 4, "B": 0})


def world(spec: ClusterSpec, load: ServerLoad) -> tuple[simpy.Environment, Cluster, SimFeeder]:
    """Return *spec* under *load* for ten minutes."""
    env, cluster = cluster_of(spec)
    feeder = SimFeeder(
        env, cluster.submit, [load], interval_s=60.0, until_s=600.0, watch=cluster.watch
    )
    return env, cluster, feeder


@pytest.mark.parametrize("think_s", first(1, [2.0, 0.0]))
def test_every_user_has_one_request_under_way_or_thinks(think_s: float) -> None:
    """Little: users = throughput · (answer + thinking)."""
    env, cluster, feeder = world(one(), replace(LOAD, think_s=think_s))
    env.run(until=599.8)
    frame = cluster.requests.frame()
    answer_s = float(np.mean(frame["finish_s"] - frame["arrival_s"]))
    assert len(cluster.unfinished()) <= 10
    per_s = len(frame["id"]) / 599.8
    assert per_s * (answer_s + think_s) == pytest.approx(10.0, rel=0.03)
    if not think_s:
        assert len(cluster.unfinished()) == 10
        # Ten at a time, in step: 50 iterations of 10 ms.
        assert answer_s == pytest.approx(0.5, rel=1e-6)
    assert feeder.offered()["s"].requests == len(frame["id"]) + len(cluster.unfinished())


def test_the_next_request_comes_when_the_client_has_the_answer() -> None:
    """Not when somebody looks at the engine: the pods are followed from boundary to boundary."""
    spec = one()
    slow = {key: replace(each, overhead_ms=250.0) for key, each in spec.engines.items()}
    env, cluster, _ = world(replace(spec, engines=slow), replace(LOAD, users=1))
    env.run(until=20.0)
    frame = cluster.requests.frame()
    assert frame["arrival_s"][1:] == pytest.approx(frame["finish_s"][:-1])
    assert frame["finish_s"][0] == pytest.approx(0.5 + 0.25)


def test_a_conversation_goes_on_with_all_that_was_said() -> None:
    """Four turns of 100 tokens and 50: each prompt is 150 longer, and finds the ones before."""
    env, cluster, _ = world(one(), replace(LOAD, users=3, think_s=1.0, turns=4))
    env.run(until=300.0)
    frame = cluster.requests.frame()
    found = set(frame["prompt_tokens"].tolist())
    assert found == {100, 250, 400, 550}
    # Whole blocks of 16, and never the last token of an answer: 144, 288, 448 of 1,300.
    share = cluster.snapshot().servers["s"].window.prefix_hit_share
    assert share == pytest.approx(880 / 1300, abs=0.03)


def test_users_who_are_turned_away_try_again_later() -> None:
    """A full server must not be asked for ever at one instant."""
    env, cluster, _ = world(one(max_batch=2, queue_max=0), LOAD)
    env.run(until=60.0)
    frame = cluster.requests.frame()
    rejected = frame["outcome"] == Outcome.REJECTED
    assert 100 < np.count_nonzero(rejected) < 600
    assert np.count_nonzero(~rejected) > 100


def test_users_wait_for_pods_that_start_late_and_survive_a_crash() -> None:
    """A user without an answer asks nothing else, and one whose server crashed gets one all the
    same.
    """
    env, cluster, _ = world(one(crash_rate_per_h=30.0), LOAD)
    env.run(until=600.0)
    frame = cluster.requests.frame()
    assert len(cluster.unfinished()) <= 10
    assert np.count_nonzero(frame["arrival_s"] > 500.0) > 50


def test_a_scenario_has_users_or_a_rate() -> None:
    """Both would be two loads."""
    text = "load: [{server: s, users: 4, think_s: 1.5}]"
    rule = parse_scenario(text, name="n", source="n.yaml", base=Path()).load[0]
    assert (rule.users, rule.think_s) == (4, 1.5)
    told = parse_scenario(
        "load: [{users: 4, turns: 3}]", name="n", source="n.yaml", base=Path()
    ).load[0]
    assert (rule.turns, told.turns) == (1, 3)
    with pytest.raises(SpecError, match="turns: expected users, who have them"):
        parse_scenario("load: [{turns: 3}]", name="n", source="n.yaml", base=Path())
    with pytest.raises(SpecError, match="expected users or a rate, not both"):
        parse_scenario(
            "load: [{users: 4, scale: 2}]",
            name="n",
            source="n.yaml",
            base=Path(),
        )
