"""The compiled engine does what every engine must, and that to the bits of the plain one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import simpy

pytest.importorskip("numba", reason="the compiled engine needs the extra `fast`")

from tests.twin.fuzz_worlds import played
from tests.twin.odd_worlds import played_oddly
from twin.engine.compiled.table import TableReplica
from twin.engine.port import EngineFactory
from twin.engine.replica import Replica
from twin.request import RequestBatch
from twin.serving.cluster import Cluster
from twin.spec import Delay, LatencyModel, Pool, Server
from twin.testing.engine import EngineContract
from twin.testing.replica_scripts import make_script, play_engine
from twin.testing.worlds import spec_of

pytestmark = pytest.mark.slow  # compiling takes longer than all that make quick tries

QUICK, MANY = 100, 1000
CROWD, CROWDS = 12, 4
ODD = 20
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


def test_worlds_at_the_edges_of_what_can_be_set_are_the_same_by_both_engines() -> None:
    """Samples every second, windows of all sizes, no queue, memory for less than a prompt, answers
    of one token, users, and crashes at the instants of scrapes.
    """
    for seed in range(ODD):
        assert played_oddly(seed, compiled=True) == played_oddly(seed), f"world {seed}"


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
def test_five_hundred_worlds_more_at_the_edges() -> None:
    """`make fuzz`."""
    for seed in range(ODD, 25 * ODD):
        assert played_oddly(seed, compiled=True) == played_oddly(seed), f"world {seed}"


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


@pytest.mark.parametrize("empty", range(1, 8))
def test_servers_without_pods_at_first_are_scraped_all_the_same(empty: int) -> None:
    """Each of *empty*, a bit a server, has requests before its first pod, and so has one that is
    added in the midst of the run.
    """
    names = ("first", "second", "third")
    times_s = np.arange(1.0, 40.0)
    coming = RequestBatch(
        times_s=times_s, prompt_tokens=np.full(39, 20), output_tokens=np.full(39, 40)
    )
    found = []
    for compiled in (True, False):
        env = simpy.Environment()
        pools = [
            Pool(accelerator="A", replicas=1 - (empty >> k & 1), max_batch=4) for k in range(3)
        ]
        servers = [
            Server(name=name, model="m", pool=pool) for name, pool in zip(names, pools, strict=True)
        ]
        spec = spec_of(*servers, capacity={"A": 4}, start_up=Delay(mean_s=5.0))
        cluster = Cluster(env, spec, seed=np.random.SeedSequence(1), compiled=compiled)
        for name in names:
            cluster.expect(name, coming)
        seen = []
        for until_s in (16.0, 46.0, 76.0):
            env.run(until=until_s)
            seen.append([server.window for server in cluster.snapshot().servers.values()])
            seen.append([server.backlog for server in cluster.snapshot().servers.values()])
            if until_s == 16.0:
                cluster.add_server(replace(servers[0], name="late"))
                late = replace(coming, times_s=times_s + 16.0)
                cluster.expect("late", late)
            if until_s == 46.0:
                for name in (*names, "late"):
                    cluster.scale(name, Pool(accelerator="A", replicas=1, max_batch=4))
        found.append(seen)
    fast, plain = found
    assert fast == plain
    assert sum(backlog > 0 for backlog in fast[1]) == empty.bit_count()


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
