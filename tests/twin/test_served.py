"""Claims about requests that a fit serves: the compiled engine gives what the plain one does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.engine.compiled.cache import installed
from twin.fit.served import Served, served
from twin.request import RequestBatch
from twin.spec import EngineSpec, LatencyModel

MODEL = LatencyModel(alpha_ms=6.0, beta_ms=0.02, gamma_ms=5e-5)
CURVED = LatencyModel(
    alpha_ms=6.0, beta_ms=0.02, gamma_ms=5e-5, launch_ms=1.2, p=1.5, sequence_ms=0.015
)
fast = pytest.mark.skipif(not installed(), reason="needs the extra fast")
requests = st.lists(
    st.tuples(st.floats(0.0, 0.3), st.integers(1, 900), st.integers(1, 300)),
    min_size=1,
    max_size=25,
)


def batch(given_requests: list[tuple[float, int, int]], *, of_users: bool = False) -> RequestBatch:
    """Return requests of these gaps, prompts and answers; of users the gaps mean nothing."""
    gaps, prompts, outputs = zip(*given_requests, strict=True)
    return RequestBatch(
        times_s=np.cumsum(gaps) * (not of_users),
        prompt_tokens=np.array(prompts),
        output_tokens=np.array(outputs),
    )


def columns(found: Served) -> list[list[float]]:
    """Return all that is told of the requests."""
    return [getattr(found, name).tolist() for name in Served.__slots__]


@fast
@given(
    requests=requests,
    model=st.sampled_from([MODEL, CURVED]),
    users=st.none() | st.integers(1, 40),
    is_async=st.booleans(),
    kv_tokens=st.none() | st.integers(1300, 9000),
    max_batch=st.integers(1, 32),
    queue_max=st.none() | st.just(0),
)
def test_both_engines_serve_the_same(
    requests: list[tuple[float, int, int]],
    model: LatencyModel,
    users: int | None,
    is_async: bool,
    kv_tokens: int | None,
    max_batch: int,
    queue_max: int | None,
) -> None:
    """A fit with the extra finds what one without it does, to the last bit: open and closed loops,
    full caches, requests that are lost.
    """
    spec = EngineSpec(
        model="",
        accelerator="",
        latency_model=model,
        scheduling="async" if is_async else "sync",
        kv_tokens=kv_tokens,
        max_num_batched_tokens=512,
        overhead_ms=3.0,
        admission="full_prompt",
    )
    plain, quick = (
        served(
            batch(requests, of_users=users is not None),
            spec,
            max_batch=max_batch,
            users=users,
            queue_max=queue_max,
            compiled=compiled,
        )
        for compiled in (False, True)
    )
    assert columns(plain) == columns(quick)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=fast)])
def test_users_that_ask_again_find_the_room_of_those_who_have_ended(*, compiled: bool) -> None:
    """Without a queue, two that end together, in memory for three: neither is turned away."""
    found = served(
        batch([(0.0, 100, 1)] * 6, of_users=True),
        EngineSpec(model="", accelerator="", latency_model=MODEL, kv_tokens=320),
        max_batch=8,
        queue_max=0,
        users=2,
        compiled=compiled,
    )
    assert len(found.arrival_s) == 6


def test_users_ask_again_when_they_are_answered() -> None:
    """Three users never have more than three requests in flight, and each asks at once."""
    found = served(
        batch([(0.0, 100, 50)] * 12, of_users=True),
        EngineSpec(model="", accelerator="", latency_model=MODEL),
        max_batch=8,
        users=3,
        compiled=False,
    )
    assert found.arrival_s[:3].tolist() == [0.0, 0.0, 0.0]
    assert sorted(found.arrival_s[3:]) == sorted(found.last_token_s[:9])
