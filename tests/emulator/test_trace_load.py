"""Claims about emulator.trace and the replay of traces in emulator.load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emulator.load import ServerLoad, batches
from emulator.shapes import steps
from emulator.trace import Replay, scaled_tokens
from emulator.walk import OfferedLoad, Walk
from twin.traces import Trace, read_trace

SERVER = OfferedLoad(rate_rpm=60.0, in_tokens=300.0, out_tokens=50.0)


@pytest.fixture(scope="module")
def trace() -> Trace:
    """Make a minute of 300 requests, busier towards its end."""
    rng = np.random.default_rng(1)
    times_s = np.sort(60.0 * np.sqrt(rng.random(300)))
    return Trace(
        name="made",
        times_s=times_s - times_s[0],
        prompt_tokens=rng.integers(10, 2000, 300),
        output_tokens=rng.integers(1, 100, 300),
    )


def load_of(replay: Replay, walk: Walk | None = None) -> ServerLoad:
    return ServerLoad(
        server="s",
        index=0,
        seed=1,
        nominal=replay.nominal(SERVER),
        walk=walk or Walk(alpha=0.0),
        replay=replay,
    )


def collected(
    load: ServerLoad, *, interval_s: float, until_s: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    chunk = list(batches(load, interval_s=interval_s, until_s=until_s))
    columns = [
        [getattr(batch, name) for batch in chunk]
        for name in ("times_s", "prompt_tokens", "output_tokens")
    ]
    times_s, in_tokens, out_tokens = (np.concatenate(column) for column in columns)
    return times_s, in_tokens, out_tokens


@pytest.mark.parametrize("interval_s", [60.0, 7.0, 0.5])
def test_a_trace_without_disturbance_is_replayed_to_the_request(trace: Trace, interval_s: float):
    """The same instants and the same sizes, whatever the interval: nothing is drawn."""
    replay = Replay(trace=trace, repeat=False)
    times_s, in_tokens, out_tokens = collected(
        load_of(replay), interval_s=interval_s, until_s=100.0
    )
    np.testing.assert_allclose(times_s, trace.times_s, atol=1e-9)
    assert np.array_equal(in_tokens, trace.prompt_tokens)
    assert np.array_equal(out_tokens, trace.output_tokens)


def test_a_trace_is_the_same_circle_wherever_it_begins():
    """After a gap of a minute it ran 12 % slower, and where several requests shared the instant of
    the first one no run began.
    """
    times_s = np.array([0.0, 0.0, 1.0, 5.0, 5.0, 5.0, 65.0, 66.0, 66.0])
    sizes = np.arange(1, 10)
    trace = Trace(name="gap", times_s=times_s, prompt_tokens=sizes, output_tokens=sizes)
    circle_s = np.concatenate([times_s + turn * trace.span_s for turn in range(4)])
    begun = set()
    for seed in range(40):
        load = replace(load_of(Replay(trace=trace, offset="random")), seed=seed)
        until_s = 2 * trace.span_s
        got_s, prompts, _ = collected(load, interval_s=60.0, until_s=until_s)
        first = int(prompts[0]) - 1
        expected_s = circle_s[first:] - circle_s[first]
        np.testing.assert_allclose(got_s, expected_s[expected_s < until_s - 1e-9], atol=1e-9)
        np.testing.assert_array_equal(prompts, (first + np.arange(len(prompts))) % 9 + 1)
        begun.add(first)
    assert begun == {0, 2, 3, 6, 7}


def test_a_trace_scaled_to_the_server_has_its_rate_and_sizes(trace: Trace):
    """One trace can drive servers of any size: pattern and mix from the trace, means from the
    server.
    """
    replay = Replay(trace=trace, rate="server", tokens="server")
    times_s, in_tokens, out_tokens = collected(load_of(replay), interval_s=60.0, until_s=3000.0)
    assert len(times_s) == pytest.approx(3000, abs=1)
    assert in_tokens.mean() == pytest.approx(300.0, rel=0.01)
    assert out_tokens.mean() == pytest.approx(50.0, rel=0.02)
    assert in_tokens.min() >= 1
    assert out_tokens.min() >= 1


def test_a_shape_moves_a_trace(trace: Trace):
    """Twice the rate from half a minute on: the second half of the trace takes half of its time."""
    replay = Replay(trace=trace, repeat=False)
    times_s, _, _ = collected(
        replace(load_of(replay), curve=steps([(30.0, 2.0)])), interval_s=60.0, until_s=100.0
    )
    expected = np.where(trace.times_s < 30.0, trace.times_s, 30.0 + (trace.times_s - 30.0) / 2.0)
    np.testing.assert_allclose(times_s, expected, atol=1e-9)


def test_alpha_disturbs_a_trace_as_it_does_any_load(trace: Trace):
    """The trace's clock runs faster or slower and its sizes grow or shrink; no request is lost."""
    replay = Replay(trace=trace)
    walk = Walk(kind="reverting", alpha=0.3)
    times_s, in_tokens, _ = collected(load_of(replay, walk), interval_s=10.0, until_s=600.0)
    assert np.all(np.diff(times_s) >= 0.0)
    calm = collected(load_of(replay), interval_s=10.0, until_s=600.0)
    assert not np.array_equal(in_tokens[:300], calm[1][:300])
    assert np.corrcoef(in_tokens[:300], trace.prompt_tokens)[0, 1] > 0.8


def test_the_labels_of_a_trace_say_what_the_interval_holds(trace: Trace):
    """A trace moves within its mean rate: a offered load at the mean would be a lie for every
    minute of it.
    """
    load = load_of(Replay(trace=trace, repeat=False))
    first, second, third = list(batches(load, interval_s=40.0, until_s=120.0))
    assert first.interval.offered_load.rate_rpm == pytest.approx(np.sum(trace.times_s < 40.0) * 1.5)
    assert (
        second.interval.offered_load.in_tokens == trace.prompt_tokens[trace.times_s >= 40.0].mean()
    )
    assert third.interval.offered_load.rate_rpm == 0.0
    assert third.interval.offered_load.in_tokens == pytest.approx(trace.in_tokens)


def test_scaled_sizes_keep_their_mean_and_are_at_least_one():
    """A factor of 0.3 turns one token into one token, not into none."""
    rng = np.random.default_rng(2)
    counts = np.full(100_000, 15)
    assert scaled_tokens(counts, 0.37, rng=rng).mean() == pytest.approx(5.55, abs=0.01)
    assert scaled_tokens(np.array([1, 1, 1]), 0.3, rng=rng).tolist() == [1, 1, 1]
    assert scaled_tokens(counts, 1.0, rng=rng) is counts


@pytest.mark.parametrize("name", ["code", "conv"])
def test_the_public_azure_hours_replay_whole(shared: Path, name: str):
    """An hour of a production service, minute by minute, loses no request and moves none by a
    microsecond.
    """
    path = shared / "traces" / f"AzureLLMInferenceTrace_{name}.csv"
    if not path.exists():
        pytest.skip(f"{path.name} is not there")
    azure = read_trace(path)
    load = load_of(Replay(trace=azure, repeat=False))
    times_s, in_tokens, out_tokens = collected(load, interval_s=60.0, until_s=3600.0)
    np.testing.assert_allclose(times_s, azure.times_s, atol=1e-6)
    assert np.array_equal(in_tokens, azure.prompt_tokens)
    assert np.array_equal(out_tokens, azure.output_tokens)
