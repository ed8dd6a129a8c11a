"""The replica that is written out in one function does what every engine must, and that to the bits
of the one that it is written out of.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from random import Random

import pytest

from tests.parts import first
from twin.engine.port import EngineFactory, make_engine
from twin.engine.replica import Replica
from twin.engine.telemetry import ReplicaReading
from twin.engine.written_out import WrittenOut
from twin.request import Request
from twin.spec import EngineSpec, LatencyModel
from twin.testing.engine import EngineContract
from twin.testing.replica_scripts import Script, make_script, play_engine, with_prefixes

SEEDS, MANY = 30, 1000
GRIDS = ("none", "integer", "dyadic", "coarse")


class TestWrittenOut(EngineContract):
    @pytest.fixture
    def factory(self) -> EngineFactory:
        return WrittenOut.of_spec


def _script(seed: int, grid: str) -> Script:
    """Return a script in which everything is on now and then."""
    script, rng = make_script(seed, grid), Random(seed)  # type: ignore[arg-type]
    changes: dict[str, object] = {
        "overhead_ms": rng.choice([0.0, 8.0]),
        "scheduling": rng.choice(["sync", "async"]),
        "prefix_share": rng.choice([0.0, 0.0, 0.3, 0.9]),
    }
    if grid == "none" and seed % 3 == 0:
        model: LatencyModel = script.replica["latency_model"]
        changes["latency_model"] = replace(
            model,
            launch_ms=0.3 * model.alpha_ms,
            p=rng.choice([1.0, 2.6]),
            attention=0.003,
            sequence_ms=rng.choice([0.0, 0.3]),
            experts_ms=rng.choice([0.0, 0.5]) * model.alpha_ms,
            experts_idle=0.7,
        )
    script = replace(script, replica={**script.replica, **changes})
    return with_prefixes(script, seed) if seed % 7 == 0 else script


def _compare(seeds: range, grid: str) -> None:
    preempted = 0
    for seed in seeds:
        script = _script(seed, grid)
        one, other = (play_engine(script, kind.of_spec) for kind in (WrittenOut, Replica))
        assert str(one) == str(other), f"script {seed}"
        preempted += any(one.preemptions.values())
    # A comparison in which the memory never runs out compares only half.
    assert preempted >= len(seeds) / 10


@pytest.mark.parametrize("grid", first(1, GRIDS))
def test_a_replica_written_out_gives_the_bits_of_the_one_in_steps(grid: str) -> None:
    """Times, tokens, readings and what is in flight: it is there for speed alone."""
    _compare(range(SEEDS), grid)


@pytest.mark.fuzz
@pytest.mark.parametrize("grid", first(1, GRIDS))
def test_a_thousand_scripts_more(grid: str) -> None:
    """`make fuzz`."""
    _compare(range(SEEDS, SEEDS + MANY), grid)


@pytest.mark.parametrize("in_steps", [True, False])
@pytest.mark.parametrize("first_named", [inf, 1, 40])
def test_a_client_that_waits_for_its_answer_may_ask_again_at_once(
    first_named: float, *, in_steps: bool
) -> None:
    """on_finish may submit in the midst of a step, as benchmarks with a fixed concurrency do; and
    be the first to name the blocks of a prompt, while others are on their way.
    """

    def served(kind: type[Replica]) -> tuple[list[tuple[float, ...]], ReplicaReading]:
        spec = EngineSpec(
            model="m",
            accelerator="A",
            latency_model=LatencyModel(alpha_ms=9.7, beta_ms=0.17, gamma_ms=0.0013),
            kv_tokens=900,
        )
        ended: list[tuple[float, ...]] = []

        def again(request: Request, finish_s: float) -> None:
            ended.append((request.first_token_s, finish_s, request.cached_tokens))
            number = len(ended)
            if number < 200:
                next_one = Request(50, 1 + number % 23, finish_s)
                if number >= first_named and number % 3:
                    next_one.blocks, next_one.block_tokens = (number % 2, 2, 3 + number), 16
                assert replica.submit(next_one, finish_s) is None

        replica = kind.of_spec(spec, max_batch=8, queue_max=None, on_finish=again)
        for number in range(24):
            # Most come while others are served, so that the replica is on its way to them.
            replica.submit(Request(50, 5, number / 64), number / 64)
        while replica.outstanding:
            replica.advance(replica.next_boundary_s if in_steps else inf, inclusive=in_steps)
        return ended, replica.read(ended[-1][1])

    ended, reading = served(Replica)
    assert len(ended) >= 200
    assert (reading.prefix_hits > 0) == (first_named < inf)
    assert served(WrittenOut) == (ended, reading)


def test_what_it_does_not_cover_is_left_to_the_replica_in_steps() -> None:
    """Speculative decoding adds tokens by the fraction, and without a queue there must be room."""
    spec = EngineSpec(
        model="m",
        accelerator="A",
        latency_model=LatencyModel(alpha_ms=10.0, beta_ms=0.1, gamma_ms=0.0),
    )

    def kind(spec: EngineSpec, queue_max: int | None = None) -> type:
        return type(make_engine(spec, max_batch=2, queue_max=queue_max, on_finish=_ignore))

    assert kind(spec) is kind(spec, 3) is WrittenOut
    assert kind(spec, 0) is kind(replace(spec, tokens_per_step=1.5)) is Replica


def _ignore(_request: Request, _finish_s: float) -> None:
    """Let a request finish unnoticed."""
