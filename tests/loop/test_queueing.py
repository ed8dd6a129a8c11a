"""The columnar queueing model: against the plain one, against closed forms, and at its edges."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop.optimizer.model.queueing import (
    Metrics,
    ReplicaColumns,
    analyze,
    decode_work,
    host_as_reading,
    longer,
    make_model,
    mean_iteration,
    prefill_chunks,
    prefill_time,
    prefill_work,
    replica_columns,
    work_per_iteration,
)
from tests.loop.slow_queue import SlowReplica
from twin.engine.replica import Replica
from twin.request import Request
from twin.spec import LatencyModel


def up_to(most: float) -> st.SearchStrategy[float]:
    """Return figures from none to *most*: products of what is next to none would vanish."""
    return st.just(0.0) | st.floats(1e-30, most)


REPLICAS = st.builds(
    SlowReplica,
    alpha=st.floats(0.5, 100.0),
    beta=up_to(1.0),
    gamma=up_to(0.01),
    in_tokens=up_to(3000.0),
    out_tokens=st.floats(1.0, 800.0),
    max_batch=st.integers(1, 40),
    max_queue=st.integers(0, 60),
    token_budget=st.sampled_from([512.0, 2048.0, 8192.0]),
)


def columns(*replicas: SlowReplica) -> ReplicaColumns:
    """Return the rows of *replicas*."""
    rows = [asdict(replica) for replica in replicas]
    return replica_columns(**{name: [row[name] for row in rows] for name in rows[0]})


def figures(found: Metrics, row: int = 0) -> dict[str, float]:
    """Return what *found* says of one row, under the names of the plain model."""
    names = (
        "throughput",
        "wait",
        "response",
        "in_service",
        "prefill",
        "itl",
        "ttft",
        "loss",
        "idle",
    )
    return {name: float(getattr(found, name)[row]) for name in names}


def twins_itl_ms(
    model: LatencyModel,
    *,
    tokens: tuple[int, int],
    rate_rps: float,
    max_batch: int,
    count: int,
    seed: int,
    warm_from: int = 0,
) -> float:
    """Return the mean ITL [ms] of *count* Poisson requests of (prompt, answer) *tokens* on one
    replica of the twin, from that of number *warm_from* on.
    """
    rng = np.random.default_rng(seed)
    requests = [
        Request(prompt_tokens=tokens[0], output_tokens=tokens[1], arrival_s=float(t))
        for t in np.cumsum(rng.exponential(1.0 / rate_rps, count))
    ]
    replica = Replica(latency_model=model, max_batch=max_batch)
    for request in requests:
        replica.submit(request, request.arrival_s)
    replica.advance(np.inf, inclusive=True)
    gaps = [
        (one.last_token_s - one.first_token_s) / (tokens[1] - 1) for one in requests[warm_from:]
    ]
    return 1000.0 * float(np.mean(gaps))


def close(found: dict[str, float], wanted: dict[str, float]) -> None:
    """Assert that all figures agree; those that are differences of others, to their scale."""
    for name, value in wanted.items():
        scale = 1e-9 * (wanted["response"] if name in {"wait", "itl", "ttft", "prefill"} else 1.0)
        assert found[name] == pytest.approx(value, rel=1e-7, abs=scale), name


@given(replicas=st.lists(REPLICAS, min_size=1, max_size=4), load=st.floats(0.001, 1.6))
def test_columns_say_what_the_plain_model_says(replicas: list[SlowReplica], load: float) -> None:
    """Padding, logarithms and the closed form of the queue must not show, below and above
    saturation.
    """
    model = make_model(columns(*replicas))
    rates = [load * replica.service_rate(replica.max_batch) for replica in replicas]
    found = analyze(model, np.array(rates))
    for i, (replica, rate) in enumerate(zip(replicas, rates, strict=True)):
        close(figures(found, i), replica.figures(rate))


@pytest.mark.parametrize("load", [0.2, 0.9, 1.0 - 1e-9, 1.0, 1.0 + 1e-9, 1.1, 50.0])
@pytest.mark.parametrize("queue", [1, 7, 300])
def test_the_closed_form_of_the_queue_holds_at_saturation(load: float, queue: int) -> None:
    """The geometric sum divides by 1 - ratio: near a ratio of 1 a series takes its place."""
    replica = SlowReplica(8.0, 0.03, 4e-5, 512.0, 256.0, 16, queue)
    rate = load * replica.service_rate(16)
    close(figures(analyze(make_model(columns(replica)), np.array([rate]))), replica.figures(rate))


def test_a_long_queue_is_an_unbounded_one() -> None:
    """Two formulas for one thing: the bounded sum with many states, and the infinite series."""
    bounded = SlowReplica(8.0, 0.03, 4e-5, 512.0, 256.0, 16, 4000)
    unbounded = replica_columns(
        alpha=8.0,
        beta=0.03,
        gamma=4e-5,
        in_tokens=512.0,
        out_tokens=256.0,
        max_batch=16,
        max_queue=np.inf,
    )
    rate = np.array([0.97 * bounded.service_rate(16)])
    close(
        figures(analyze(make_model(unbounded), rate)),
        figures(analyze(make_model(columns(bounded)), rate)),
    )


@pytest.mark.parametrize("batch", [1, 4, 30])
@pytest.mark.parametrize("load", [0.3, 0.9])
def test_iterations_of_fixed_length_make_an_erlang_queue(batch: int, load: float) -> None:
    """With beta = gamma = 0 the replica is M/M/c: the mean wait has Erlang's closed form."""
    service = 101.0 * 7.0
    rate = load * batch / service
    busy = load * batch
    terms = [busy**n / math.factorial(n) for n in range(batch)]
    full = busy**batch / math.factorial(batch) / (1.0 - load)
    wait = full / (sum(terms) + full) / (batch / service - rate)
    model = make_model(
        replica_columns(
            alpha=7.0, beta=0.0, gamma=0.0, in_tokens=64.0, out_tokens=100.0, max_batch=batch
        )
    )
    found = analyze(model, np.array([rate]))
    assert found.wait[0] == pytest.approx(wait, rel=1e-10)
    assert found.throughput[0] == rate


def test_an_unbounded_queue_in_overload_has_no_mean_wait() -> None:
    """Inf says so; a large number would be taken for a latency."""
    model = make_model(
        replica_columns(
            alpha=7.0, beta=0.02, gamma=0.0, in_tokens=64.0, out_tokens=[100.0, 100.0], max_batch=8
        )
    )
    found = analyze(model, model.rate_max * np.array([0.5, 1.2]))
    assert np.isfinite(found.wait[0])
    assert np.isinf(found.wait[1])
    assert found.throughput[1] == pytest.approx(model.chain.service_full[1])
    assert np.isfinite(found.itl).all()


def test_a_prefill_takes_more_iterations_where_the_batch_fills_the_budget() -> None:
    """The number is found in closed form; counting up must give the same at every batch."""
    replica = SlowReplica(5.0, 0.1, 1e-4, 4000.0, 64.0, 40, 0, 512.0)
    model = make_model(columns(replica))
    assert model.chunks is not None
    assert model.chunks[0].tolist() == [replica.chunks(batch) for batch in range(1, 41)]
    assert not model.steady[0]


def test_a_roofline_of_exponent_one_is_the_sum_and_overlap_only_helps() -> None:
    """One family: the sum's formulas are those of p = 1, and a larger p takes less time."""
    shape: dict[str, Any] = {
        **{"alpha": 11.6, "beta": 0.045, "gamma": 6.5e-5, "in_tokens": 800.0, "out_tokens": 200.0},
        **{"max_batch": [1, 32, 128], "launch": 2.0},
    }
    columns = replica_columns(**shape, p=1.0)
    batch = np.array([[1.0, 7.0, 128.0]])
    wide = columns.as_column()
    chunks = np.ones((3, 1))
    delta = work_per_iteration(wide, chunks)
    assert mean_iteration(wide, batch, chunks) == pytest.approx(wide.alpha + batch * delta)
    assert prefill_time(columns, np.full(3, 7.0), np.ones(3)) == pytest.approx(
        columns.alpha + 6.0 * delta[:, 0] + prefill_work(columns, np.ones(3))
    )
    rate = 0.5 * make_model(columns).rate_max
    plain = analyze(make_model(columns), rate)
    for p in (1.2, 1.5, 2.0):
        found = analyze(make_model(replica_columns(**shape, p=p)), rate)
        assert (found.itl < plain.itl).all()
        assert (found.ttft < plain.ttft).all()
        assert (found.itl > 2.0).all()
        plain = found


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
def test_the_estimate_of_a_roofline_is_that_of_the_twin(p: float) -> None:
    """Sizing by another model than the engine's would be sizing for another engine."""
    model = LatencyModel(alpha_ms=11.6, beta_ms=0.045, gamma_ms=6.5e-5, launch_ms=2.0, p=p)
    columns = replica_columns(
        **{"alpha": 11.6, "beta": 0.045, "gamma": 6.5e-5, "launch": 2.0, "p": p},
        **{"in_tokens": 600.0, "out_tokens": 200.0, "max_batch": 64},
    )
    rate_rps = 6.0
    estimate = analyze(make_model(columns), np.array([rate_rps / 1000.0]))
    itl_ms = twins_itl_ms(
        model,
        tokens=(600, 200),
        rate_rps=rate_rps,
        max_batch=64,
        count=3000,
        seed=1,
        warm_from=300,
    )
    assert estimate.itl[0] == pytest.approx(itl_ms, rel=0.05)


def test_a_large_batch_of_short_outputs_is_no_work() -> None:
    """The original counts chunks one by one for each batch, which takes it 0.6 s here."""
    model = make_model(
        replica_columns(
            alpha=5.0, beta=0.1, gamma=1e-4, in_tokens=4096.0, out_tokens=1.0, max_batch=77824
        )
    )
    assert np.isfinite(analyze(model, 0.5 * model.rate_max).ttft).all()


def test_cached_tokens_are_read_and_not_computed() -> None:
    """Context is context: decode steps, and each chunk of the prefill, read all of it."""
    shape = {"alpha": 5.0, "beta": 0.1, "gamma": 0.01, "out_tokens": 10.0, "max_batch": 4}
    cold = replica_columns(**shape, in_tokens=1000.0)
    warm = replica_columns(**shape, in_tokens=1000.0, cached=600.0)
    once, twice = np.ones(1), np.full(1, 2.0)
    assert decode_work(warm) == decode_work(cold)
    assert prefill_work(warm, once) == pytest.approx(0.1 * 400.0 + 0.01 * 1000.0)
    assert prefill_work(warm, twice) == pytest.approx(0.1 * 400.0 + 0.01 * (800.0 + 1000.0))
    assert prefill_work(cold, twice) == pytest.approx(0.1 * 1000.0 + 0.01 * (500.0 + 1000.0))


def test_a_prompt_of_which_little_is_computed_takes_few_chunks() -> None:
    """The token budget is one of computed tokens."""
    shape = {"alpha": 5.0, "beta": 0.1, "gamma": 0.0, "out_tokens": 10.0, "max_batch": 4}
    cold = replica_columns(**shape, in_tokens=20_000.0)
    warm = replica_columns(**shape, in_tokens=20_000.0, cached=19_000.0)
    chunks = prefill_chunks(cold)
    assert chunks is not None
    assert chunks.min() >= 3.0
    assert prefill_chunks(warm) is None


def test_long_prompts_take_the_estimate_as_much_computing_as_the_twin() -> None:
    """The estimate has one beta: with the work of all tokens it has the load of the twin, by which
    prompts of 30,000 tokens need half as many replicas more.
    """
    model = LatencyModel(alpha_ms=7.0, beta_ms=0.022, gamma_ms=5e-5, attention=3.5e-5)
    shape: dict[str, Any] = {"in_tokens": 30_000.0, "out_tokens": 50.0}
    more = longer(
        np.array([model.attention]),
        **{key: np.array([value]) for key, value in shape.items()},
        cached=np.zeros(1),
        token_cv=np.zeros(1),
    )
    per_prompt_ms = 0.022 * (30_000 + 3.5e-5 * 30_000**2 / 2.0)
    assert 0.022 * more[0] * 30_050.0 == pytest.approx(per_prompt_ms + 0.022 * 50.0)
    columns = replica_columns(alpha=7.0, beta=0.022 * more, gamma=5e-5, max_batch=16, **shape)
    rate_rps = 0.3
    estimate = analyze(make_model(columns), np.array([rate_rps / 1000.0]))
    itl_ms = twins_itl_ms(
        model,
        tokens=(30_000, 50),
        rate_rps=rate_rps,
        max_batch=16,
        count=1500,
        seed=3,
    )
    assert estimate.itl[0] == pytest.approx(itl_ms, rel=0.1)


@pytest.mark.parametrize(("gamma", "p"), [(5e-5, 1.0), (0.0, 1.0), (5e-5, 1.5)])
def test_the_host_takes_the_estimate_as_long_as_the_twin(gamma: float, p: float) -> None:
    """Forty requests that run together wait for it forty times, and a prompt for its own share."""
    model = LatencyModel(
        alpha_ms=7.0, beta_ms=0.022, gamma_ms=gamma, launch_ms=1.4, p=p, sequence_ms=0.05
    )
    shape: dict[str, Any] = {"out_tokens": 400.0, "max_batch": 256}
    sequence, power = np.array([model.sequence_ms]), np.array([p])
    gammas, reading, host = host_as_reading(sequence, np.array([gamma]), power)
    columns = replica_columns(
        alpha=7.0,
        beta=0.022,
        gamma=gammas,
        launch=1.4,
        p=p,
        in_tokens=300.0 + reading,
        cached=reading,
        host=host,
        **shape,
    )
    rate_rps = 8.0
    estimate = analyze(make_model(columns), np.array([rate_rps / 1000.0]))
    itl_ms = twins_itl_ms(
        model,
        tokens=(300, 400),
        rate_rps=rate_rps,
        max_batch=256,
        count=1200,
        seed=5,
        warm_from=200,
    )
    assert estimate.itl[0] == pytest.approx(itl_ms, rel=0.04)
    # A prompt is not longer by what its decodes wait for.
    nothing = np.zeros(1)
    lone = replace(
        columns, in_tokens=np.array([300.0]), cached=nothing, gamma=nothing, host=nothing
    )
    prefill = analyze(make_model(lone), np.array([1e-6])).prefill
    assert analyze(make_model(columns), np.array([1e-6])).prefill == pytest.approx(prefill, abs=0.2)


@pytest.mark.parametrize("sequence_ms", [0.015, 0.05])
def test_a_roofline_hides_nothing_of_the_host(sequence_ms: float) -> None:
    """What a full batch serves was 9 to 13 % too much: reading was taken to hide the host."""
    model = LatencyModel(
        alpha_ms=6.49, beta_ms=0.0219, gamma_ms=5e-6, launch_ms=1.0, p=1.5, sequence_ms=sequence_ms
    )
    gamma, reading, host = host_as_reading(
        np.array([sequence_ms]), np.array([model.gamma_ms]), np.array([model.p])
    )
    columns = replica_columns(
        alpha=model.alpha_ms,
        beta=model.beta_ms,
        gamma=gamma,
        in_tokens=200.0 + reading,
        out_tokens=100.0,
        max_batch=256,
        launch=model.launch_ms,
        p=model.p,
        cached=reading,
        host=host,
    )
    requests = [Request(prompt_tokens=200, output_tokens=100, arrival_s=0.0) for _ in range(3000)]
    replica = Replica(latency_model=model, max_batch=256)
    for request in requests:
        replica.submit(request, 0.0)
    replica.advance(np.inf, inclusive=True)
    ends = sorted(one.last_token_s for one in requests)
    served_rps = 1800 / (ends[2399] - ends[599])
    estimate = make_model(columns)
    assert 1000.0 * estimate.rate_max[0] == pytest.approx(served_rps, rel=0.05)
    # And what a replica that is loaded well takes for a token.
    rate_rps = 0.8 * served_rps
    itl_ms = twins_itl_ms(
        model,
        tokens=(200, 100),
        rate_rps=rate_rps,
        max_batch=256,
        count=3000,
        seed=11,
        warm_from=600,
    )
    found = analyze(estimate, np.array([rate_rps / 1000.0]))
    assert found.itl[0] == pytest.approx(itl_ms, rel=0.08)


def test_nobody_waits_for_a_host_that_does_nothing() -> None:
    """All figures of before were made so, and both rules of Go know nothing else."""
    found = host_as_reading(np.zeros(2), np.array([5e-5, 0.0]), np.array([1.0, 1.5]))
    assert [one.tolist() for one in found] == [[5e-5, 0.0], [0.0, 0.0], [0.0, 0.0]]


@given(replica=REPLICAS)
def test_nothing_cached_changes_nothing(replica: SlowReplica) -> None:
    """All figures of before were made so."""
    cold, same = columns(replica), replica_columns(**asdict(replica), cached=0.0)
    assert np.array_equal(prefill_work(cold, np.ones(1)), prefill_work(same, np.ones(1)))
    assert cold.computed == same.in_tokens
