"""What every engine must do, as a suite for pytest: subclass it and say how the engine is made.

    class TestMine(EngineContract):
        sum_model = False  # its iteration time is another than alpha + beta · tokens + gamma · KV

        @pytest.fixture
        def factory(self) -> EngineFactory:
            return MyEngine.of_spec

Random scripts of arrivals, control actions and scrapes are played to it. An engine of the sum model
has to give the times of the plain per-iteration oracle; any other is held to what holds for all.
"""

from __future__ import annotations

from dataclasses import fields, replace
from math import isnan

import pytest

from twin.engine.port import EngineFactory
from twin.engine.telemetry import ReplicaReading
from twin.request import REASONS, Request
from twin.spec import EngineSpec
from twin.testing.replica_scripts import Outcome, Script, differences, make_script, play_engine

SEEDS = range(24)
each_seed = pytest.mark.parametrize("seed", SEEDS)
COUNTERS = tuple(
    field.name
    for field in fields(ReplicaReading)
    if field.name.endswith(("_count", "_sum_s", "_tokens"))
    or field.name in {"successes", "rejections", "preemptions"}
)


class EngineContract:
    """What every engine must do; with sum_model also the times of the oracle, to 1e-9."""

    sum_model = True

    @pytest.fixture
    def factory(self) -> EngineFactory:
        """Return what makes the engine under test; a subclass says what."""
        raise NotImplementedError("a subclass defines the fixture factory")

    @each_seed
    def test_every_request_ends_once_and_in_order(self, factory: EngineFactory, seed: int) -> None:
        """Nothing is lost and nothing is served twice, whatever is done to the engine."""
        script = make_script(seed)
        outcome = play_engine(script, factory)
        submitted = {event[3][0]: event[0] for event in script.events if event[2] == "submit"}
        assert outcome.ended.keys() == submitted.keys()
        for number, (how, end_s) in outcome.ended.items():
            assert how in {"finished", "handed_back", "lost", *REASONS}
            token_s = outcome.first_token_s[number]
            assert submitted[number] <= end_s
            if how == "finished":
                assert submitted[number] <= token_s <= end_s
            elif how != "lost":
                assert isnan(token_s)

    @each_seed
    def test_counters_only_grow_and_gauges_stay_in_their_bounds(
        self, factory: EngineFactory, seed: int
    ) -> None:
        """Rates are made of their differences; a step back reads as a restart."""
        readings = play_engine(make_script(seed), factory).readings
        for name in COUNTERS:
            values = [getattr(reading, name) for reading in readings]
            assert values == sorted(values), name
        for reading in readings:
            assert min(reading.running, reading.waiting) >= 0
            assert 0.0 <= reading.kv_usage <= 1.0
            assert reading.ttft_count >= reading.successes
            for kind in ("ttft", "itl", "e2e", "queue"):
                assert sum(getattr(reading, f"{kind}_buckets")) == getattr(reading, f"{kind}_count")

    @each_seed
    def test_looking_changes_nothing(self, factory: EngineFactory, seed: int) -> None:
        """If a scrape split a segment, results would depend on the scrape interval in their last
        digits.
        """
        script = make_script(seed)
        blind = replace(script, events=tuple(one for one in script.events if one[2] != "read"))
        seen, unseen = play_engine(script, factory), play_engine(blind, factory)
        assert _ends(seen) == _ends(unseen)
        assert seen.readings[-1] == unseen.readings[-1]

    @each_seed
    def test_a_script_played_twice_gives_the_same(self, factory: EngineFactory, seed: int) -> None:
        """A run can be repeated from its seed."""
        script = make_script(seed)
        assert _ends(play_engine(script, factory)) == _ends(play_engine(script, factory))

    @each_seed
    def test_the_sum_model_gives_the_times_of_the_oracle(
        self, factory: EngineFactory, seed: int
    ) -> None:
        """Whatever makes an engine fast may change its speed and nothing else."""
        if not self.sum_model:
            pytest.skip("another latency model")
        assert differences(make_script(seed), rel=1e-9, factory=factory) == []
        assert differences(make_script(seed, "dyadic"), rel=0.0, factory=factory) == []

    def test_it_refuses_what_can_never_fit_what_finds_the_queue_full_and_what_comes_late(
        self, factory: EngineFactory
    ) -> None:
        """Each with the reason that records carry."""
        script = make_script(0)
        spec = replace(_spec(script), kv_tokens=64, block_size=16)
        engine = factory(spec, max_batch=1, queue_max=1, on_finish=_ignore)
        assert engine.submit(_request(prompt=60, output=6), 0.0) == "never_fits"
        assert engine.submit(_request(prompt=10, output=20), 0.0) is None
        engine.advance(0.0, inclusive=True)
        assert engine.submit(_request(prompt=10, output=20), 0.0) is None
        assert engine.submit(_request(prompt=10, output=20), 0.0) == "queue_full"
        assert len(engine.drain(0.0)) == 1
        assert engine.submit(_request(prompt=1, output=1), 0.0) == "draining"

    def test_what_a_crash_loses_can_be_sent_again(self, factory: EngineFactory) -> None:
        """The gateway queues it anew: nothing of its first life may be left."""
        script = make_script(0)
        engine = factory(_spec(script), max_batch=2, queue_max=None, on_finish=_ignore)
        requests = [_request(prompt=1, output=1000) for _ in range(4)]
        for request in requests:
            engine.submit(request, 0.0)
        engine.advance(1e-3, inclusive=True)
        lost = engine.abort(1e-3)
        assert {id(one) for one in lost} == {id(one) for one in requests}
        assert engine.outstanding == 0
        assert all((one.generated, one.context, one.admitted) == (0, 0, False) for one in lost)


def _spec(script: Script) -> EngineSpec:
    return EngineSpec(
        model="m", accelerator="A", latency_model=script.replica["latency_model"], kv_tokens=None
    )


def _request(*, prompt: int, output: int) -> Request:
    return Request(prompt_tokens=prompt, output_tokens=output, arrival_s=0.0)


def _ignore(_request: Request, _finish_s: float) -> None:
    """Let a request finish unnoticed."""


def _ends(outcome: Outcome) -> tuple[object, ...]:
    return (outcome.ended, outcome.order, str(outcome.first_token_s), outcome.preemptions)
