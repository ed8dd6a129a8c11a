"""The latency models of an iteration, and the closed form of a decode segment against its
iterations one by one.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from twin.engine.latency import CHORD_MAX, duration_s, iteration_ms, pairs_twice, segment_s
from twin.engine.replica import Replica
from twin.request import Request
from twin.spec import LatencyModel
from twin.testing.naive_replica import NaiveReplica

# Qwen2.5-14B on an H100, fitted to a sweep: half of an iteration is reading the weights.
ROOFLINE = LatencyModel(alpha_ms=11.6, beta_ms=0.045, gamma_ms=6.5e-5, launch_ms=2.0, p=1.5)


def test_the_roofline_is_what_its_formula_says() -> None:
    """a + ((w + gamma·kv)^p + (beta·tokens)^p)^(1/p)."""
    read, compute = 9.6 + 6.5e-5 * 20_000, 0.045 * 300
    expected = 2.0 + (read**1.5 + compute**1.5) ** (1 / 1.5)
    found = iteration_ms(ROOFLINE, tokens=300, kv_tokens=20_000)
    assert found == pytest.approx(expected, rel=1e-12)


@given(tokens=st.integers(1, 10_000), kv_tokens=st.integers(0, 1_000_000), p=st.floats(1.0, 100.0))
def test_the_more_overlaps_the_less_an_iteration_takes(
    tokens: int, kv_tokens: int, p: float
) -> None:
    """Between the sum and the longer of the two, for any exponent that the data may have."""
    model = LatencyModel(alpha_ms=11.6, beta_ms=0.045, gamma_ms=6.5e-5, launch_ms=2.0, p=p)
    read, compute = 9.6 + 6.5e-5 * kv_tokens, 0.045 * tokens
    found = iteration_ms(model, tokens=tokens, kv_tokens=kv_tokens)
    assert 2.0 + max(read, compute) <= found * (1 + 1e-12)
    assert found <= (2.0 + read + compute) * (1 + 1e-12)


@given(
    decodes=st.integers(1, 256),
    context=st.integers(1, 4000),
    k=st.integers(1, CHORD_MAX),
    p=st.sampled_from([1.0, 1.2, 1.5, 2.0]),
)
def test_a_segment_takes_what_its_iterations_take(
    decodes: int, context: int, k: int, p: float
) -> None:
    """The sum to rounding, the roofline by its chord within 0.3 %."""
    model = LatencyModel(alpha_ms=11.6, beta_ms=0.045, gamma_ms=6.5e-5, launch_ms=2.0, p=p)
    context_sum = decodes * context
    c0_s, c1_s = segment_s(model, tokens=decodes, kv_tokens=context_sum + decodes, k=k)
    steps = (
        iteration_ms(model, tokens=decodes, kv_tokens=context_sum + decodes * (i + 1))
        for i in range(k)
    )
    expected = sum(steps) / 1000.0
    assert duration_s(k, c0_s, c1_s) == pytest.approx(expected, rel=1e-9 if p == 1.0 else 3e-3)


@pytest.mark.parametrize("p", [1.0, 1.5])
def test_a_token_takes_longer_late_in_a_prompt(p: float) -> None:
    """It is compared with all before it: in chunks a prompt computes as much as whole."""
    model = LatencyModel(alpha_ms=0.0, beta_ms=0.02, gamma_ms=0.0, p=p, attention=1.0 / 30_000.0)
    chunks = ((0, 7000), (7000, 20_000), (27_000, 5000))

    def compute_ms(before: int, chunk: int) -> float:
        pairs = pairs_twice(before, chunk) / 2.0
        return iteration_ms(model, tokens=chunk, kv_tokens=0, pairs=pairs)

    one_by_one = sum(0.02 * (1.0 + (before + 0.5) / 30_000.0) for before in range(32_000))
    assert compute_ms(0, 32_000) == pytest.approx(one_by_one)
    assert sum(compute_ms(*each) for each in chunks) == pytest.approx(one_by_one)
    first, last = compute_ms(0, 1), compute_ms(30_000, 1)
    assert last / first == pytest.approx(2.0, rel=1e-4)


@pytest.mark.parametrize("p", [1.0, 1.5])
def test_what_the_host_does_for_each_request_overlaps_with_nothing(p: float) -> None:
    """The GPU waits for it, so it is in no roofline; tokens of a prompt do not ask for it."""
    model = replace(ROOFLINE, p=p)
    host = replace(model, sequence_ms=0.02)
    with_it, without = (
        iteration_ms(each, tokens=3000, kv_tokens=9000, sequences=40) for each in (host, model)
    )
    assert with_it - without == pytest.approx(40 * 0.02)
    segments = [
        segment_s(each, tokens=40, kv_tokens=9000, sequences=40, k=100) for each in (host, model)
    ]
    (c0_s, c1_s), (c0_without_s, c1_without_s) = segments
    assert c0_s - c0_without_s == pytest.approx(40 * 0.02e-3)
    assert c1_s == pytest.approx(c1_without_s)


@pytest.mark.parametrize("p", [1.0, 1.5])
def test_experts_that_no_token_chose_are_not_read(p: float) -> None:
    """One token of two of eight experts reads a quarter of them; a long prompt all of them."""
    dense = LatencyModel(alpha_ms=20.0, beta_ms=0.02, gamma_ms=1e-4, launch_ms=2.0, p=p)
    mixture = replace(dense, experts_ms=16.0, experts_idle=0.75)
    for tokens in (1, 4, 40):
        unread = replace(dense, alpha_ms=20.0 - 16.0 * 0.75**tokens)
        found, expected = (
            iteration_ms(each, tokens=tokens, kv_tokens=900) for each in (mixture, unread)
        )
        assert found == pytest.approx(expected, rel=1e-12)
    prompt_ms = iteration_ms(mixture, tokens=2000, kv_tokens=2000)
    assert prompt_ms == pytest.approx(iteration_ms(dense, tokens=2000, kv_tokens=2000))


def test_a_lone_request_on_a_roofline_ends_when_the_oracle_says() -> None:
    """The engine's prefill and its one segment, against a model asked in every iteration."""
    settings: dict[str, Any] = {"latency_model": ROOFLINE, "max_batch": 8}
    ours, theirs = (
        Request(prompt_tokens=5000, output_tokens=1500, arrival_s=0.0) for _ in range(2)
    )
    replica = Replica(**settings, max_num_batched_tokens=2048)
    assert replica.submit(ours, 0.0) is None
    replica.advance(inf, inclusive=True)
    env = simpy.Environment()
    naive = NaiveReplica(env, **settings, max_num_batched_tokens=2048)
    ended: list[float] = []
    naive.on_finish = lambda _request, finish_s: ended.append(finish_s)
    assert naive.submit(theirs) is None
    env.run()
    assert ours.first_token_s == pytest.approx(theirs.first_token_s, rel=1e-12)
    assert ours.last_token_s == pytest.approx(ended[0], rel=1e-3)
    assert replica.steps <= 10


def test_a_scrape_into_a_segment_of_a_roofline_changes_nothing() -> None:
    """The chord belongs to the segment, whoever looks when."""
    ends = []
    for scrapes in (0, 50):
        replica = Replica(latency_model=ROOFLINE, max_batch=8)
        request = Request(prompt_tokens=500, output_tokens=900, arrival_s=0.0)
        replica.submit(request, 0.0)
        for i in range(scrapes):
            replica.advance(0.1 * i, inclusive=True)
            replica.read(0.1 * i)
        replica.advance(inf, inclusive=True)
        ends.append(request.last_token_s)
    assert ends[0] == ends[1]
