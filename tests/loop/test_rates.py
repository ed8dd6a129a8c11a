"""The highest rate within targets: roots, ends of the range, several targets at once, and the
original's steps.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop.optimizer.model.queueing import Model, analyze, make_model, replica_columns
from loop.optimizer.model.rates import (
    BINDING,
    BLOCK_CELLS,
    TPS_SHARE,
    Targets,
    blocks,
    highest_rates,
)
from loop.optimizer.rules.go_today import STEPWISE


def model(**fields: float) -> Model:
    """Return a replica like Llama-3.1-8B on an H100; *fields* replace what it has."""
    given = {
        "alpha": 6.49,
        "beta": 0.0219,
        "gamma": 4.96e-5,
        "in_tokens": 1024.0,
        "out_tokens": 512.0,
        "max_batch": 64,
    }
    return make_model(replica_columns(**{**given, **fields}))


def targets(itl: float = 0.0, ttft: float = 0.0, tps: float = 0.0, loss: float = 0.0) -> Targets:
    """Return the targets of one row."""
    return Targets(*(np.array([value]) for value in (itl, ttft, tps, loss)))


@given(
    itl=st.floats(6.0, 60.0),
    ttft=st.floats(20.0, 3000.0),
    queue=st.sampled_from([0.0, 5.0, np.inf]),
    batch=st.integers(2, 120),
    in_tokens=st.just(0.0) | st.floats(1e-30, 6000.0),
)
def test_the_rate_is_where_the_first_target_is_met_exactly(
    itl: float, ttft: float, queue: float, batch: int, in_tokens: float
) -> None:
    """Lower would waste replicas, higher would break the target; with kinks where another target
    takes over.
    """
    replica = model(max_queue=queue, max_batch=batch, in_tokens=in_tokens, token_budget=100_000.0)
    found = highest_rates(replica, targets(itl=itl, ttft=ttft))
    low = analyze(replica, replica.rate_min)
    if np.isnan(found.rate[0]):
        assert low.itl[0] > itl or low.ttft[0] > ttft
        return
    here = analyze(replica, found.rate)
    assert here.itl[0] <= itl * (1.0 + 3e-6)
    assert here.ttft[0] <= ttft * (1.0 + 3e-6)
    if BINDING[found.binding[0]] == "batch":
        assert found.rate[0] == replica.rate_max[0]
    else:
        figure, target = (
            (here.itl, itl) if BINDING[found.binding[0]] == "slo-itl" else (here.ttft, ttft)
        )
        assert figure[0] == pytest.approx(target, rel=3e-6)


def test_a_target_below_what_one_request_needs_is_infeasible_and_says_what_would_be() -> None:
    """The best attainable figure is what a user has to know."""
    found = highest_rates(model(), targets(itl=2.0))
    assert np.isnan(found.rate[0])
    assert found.itl_floor[0] == pytest.approx(6.49 + 0.0219 + 4.96e-5 * 1280.0, rel=0.02)


def test_targets_that_never_bind_leave_the_highest_rate() -> None:
    """Beyond 0.999 of a full batch's rate the queue has no length worth naming."""
    replica = model()
    assert highest_rates(replica, targets(itl=1e5)).rate[0] == replica.rate_max[0]
    assert highest_rates(replica, targets()).rate[0] == replica.rate_max[0]


def test_a_tps_target_keeps_a_margin() -> None:
    """A replica at its highest rate has none for a burst."""
    replica = model()
    assert highest_rates(replica, targets(tps=1.0)).rate[0] == pytest.approx(
        TPS_SHARE * replica.rate_max[0]
    )


def test_a_bounded_queue_may_turn_away_only_so_many() -> None:
    """What is lost is not served, whatever the latencies of the others."""
    replica = model(max_queue=2.0)
    found = highest_rates(replica, targets(itl=1e5, loss=0.01))
    assert BINDING[found.binding[0]] == "loss"
    assert analyze(replica, found.rate).loss[0] == pytest.approx(0.01, rel=1e-5)


def test_the_rate_of_the_original_is_a_step_of_its_bisection() -> None:
    """Near the floor a latency hardly depends on the rate, and where its search stops decides the
    replicas.
    """
    replica = model(max_queue=0.0)
    floor = analyze(replica, replica.rate_min).itl[0]
    exact = highest_rates(replica, targets(itl=floor * 1.0001))
    stepped = highest_rates(replica, targets(itl=floor * 1.0001), search=STEPWISE)
    low, high = replica.rate_min[0], replica.rate_max[0]
    steps = []
    while len(steps) < 60:
        steps.append(0.5 * (low + high))
        low, high = (steps[-1], high) if steps[-1] < exact.rate[0] else (low, steps[-1])
    assert min(abs(step / stepped.rate[0] - 1.0) for step in steps) < 1e-12
    assert abs(stepped.rate[0] / exact.rate[0] - 1.0) > 1e-5


def test_rows_do_not_disturb_each_other() -> None:
    """A row is sized alike alone and among others that end early, late, or have no root."""
    batches = np.array([2, 64, 7, 64, 33, 64])
    rows = replica_columns(
        alpha=6.49,
        beta=0.0219,
        gamma=4.96e-5,
        in_tokens=1024.0,
        out_tokens=512.0,
        max_batch=batches,
        max_queue=0.0,
    )
    wanted = Targets(
        np.array([9.0, 9.0, 2.0, 0.0, 12.0, 12.0]),
        np.array([0.0, 60.0, 50.0, 45.0, 41.0, 0.0]),
        np.zeros(6),
        np.zeros(6),
    )
    together = highest_rates(make_model(rows), wanted).rate
    for i in range(6):
        row = np.array([i])
        alone = highest_rates(make_model(rows.take(row)), wanted.take(row)).rate[0]
        assert alone == pytest.approx(together[i], rel=1e-5, nan_ok=True)


@given(sizes=st.lists(st.integers(1, 100_000), max_size=80))
def test_blocks_hold_every_row_once_and_stay_small(sizes: list[int]) -> None:
    """A row that is left out would be sized as zero."""
    found = list(blocks(np.array(sizes, dtype=np.int64)))
    assert sorted(int(row) for part in found for row in part) == list(range(len(sizes)))
    for part in found:
        assert len(part) == 1 or len(part) * (max(sizes[row] for row in part) + 1) <= BLOCK_CELLS
