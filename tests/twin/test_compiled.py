"""The compiled engine does what every engine must, and that to the bits of the plain one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import simpy

pytest.importorskip("numba", reason="the compiled engine needs the extra `fast`")

from tests.twin.fuzz_worlds import played
from twin.engine.compiled.table import TableReplica
from twin.engine.port import EngineFactory
from twin.engine.replica import Replica
from twin.request import RequestBatch
from twin.serving.cluster import Cluster
from twin.spec import LatencyModel, Pool, Server
from twin.testing.engine import EngineContract
from twin.testing.replica_scripts import make_script, play_engine
from twin.testing.worlds import spec_of

pytestmark = pytest.mark.slow  # compiling takes longer than all that make quick tries

QUICK, MANY = 100, 1000
CROWD, CROWDS = 12, 4
RARE = ("preemption", "drain", "crash", "requeue", "prefix hit")


class TestCompiled(EngineContract):
    @pytest.fixture
    def factory(self) -> EngineFactory:
        return TableReplica.of_spec


@pytest.mark.parametrize("grid", ["none", "integer", "dyadic", "coarse"])
@pytest.mark.parametrize("seed", range(25))
def test_a_compiled_replica_gives_the_bits_of_the_plain_one(seed: int, grid: str) -> None:
    """Times, tokens, readings and what is in flight."""
    script = make_script(seed, grid)
    assert str(play_engine(script, TableReplica.of_spec)) == str(
        play_engine(script, Replica.of_spec)
    )


def test_worlds_with_the_compiled_engine_are_those_with_the_plain_one() -> None:
    """Requests, pods and what a controller sees, through crashes, drains and new settings."""
    _compare(range(QUICK))


def test_many_replicas_are_chosen_as_by_a_look_at_all_of_them() -> None:
    """From 16 replicas on they are kept in order; none of the other worlds has so many."""
    for seed in range(CROWDS):
        _compare_crowd(seed)


@pytest.mark.fuzz
def test_many_replicas_in_worlds_more() -> None:
    """`make fuzz`."""
    for seed in range(CROWDS, 10 * CROWDS):
        _compare_crowd(seed)


@pytest.mark.fuzz
@pytest.mark.parametrize("part", range(10))
def test_a_thousand_worlds_are_the_same_by_both_engines(part: int) -> None:
    """`make fuzz`: what a hundred worlds do not meet."""
    share = MANY // 10
    _compare(range(QUICK + part * share, QUICK + (part + 1) * share))


def test_a_scrape_of_the_table_tells_of_queues_and_of_preemptions() -> None:
    """What a policy sees of a server that is short of memory."""
    windows = []
    for compiled in (True, False):
        env = simpy.Environment()
        spec = spec_of(
            Server(name="s", model="s", pool=Pool(accelerator="A", replicas=2, max_batch=8)),
            capacity={"A": 2},
            latency_model=LatencyModel(alpha_ms=40.0, beta_ms=0.0, gamma_ms=0.0),
            kv_tokens=128,
        )
        cluster = Cluster(env, spec, seed=np.random.SeedSequence(1), compiled=compiled)
        cluster.expect(
            "s",
            RequestBatch(
                times_s=np.arange(1.0, 50.0, 0.25),
                prompt_tokens=np.full(196, 20),
                output_tokens=np.full(196, 40),
            ),
        )
        env.run(until=61.0)
        windows.append(cluster.snapshot().servers["s"].window)
    fast, plain = windows
    assert fast == plain
    assert fast.preemptions is not None
    assert fast.preemptions > 0
    assert fast.percentiles_ms["queue"]["p99"] > fast.percentiles_ms["queue"]["p50"]


def _compare_crowd(seed: int) -> None:
    fast, plain = (played(seed, compiled=compiled, crowd=CROWD) for compiled in (True, False))
    assert fast.results == plain.results, f"world {seed}"


def _compare(seeds: range) -> None:
    met: Counter[str] = Counter()
    for seed in seeds:
        plain = played(seed)
        assert played(seed, compiled=True).results == plain.results, f"world {seed}"
        met.update(plain.features)
    # A comparison in which nothing rare happens compares nothing.
    assert min(met[feature] for feature in RARE) >= len(seeds) / 5, met
