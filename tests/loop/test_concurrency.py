"""The smallest batch worth allowing: figures for all batches at once, and the choice among them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loop.optimizer.front import SizingCache
from loop.optimizer.model.concurrency import WAIT_MARGIN, figures_by_batch, tune
from loop.optimizer.model.queueing import analyze, make_model, replica_columns
from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.rules.go_today import GO_TODAY
from loop.optimizer.rules.ours import OURS
from loop.optimizer.sizing import size_all
from tests.loop.small_systems import server, small_system


@settings(max_examples=40)
@given(
    load=st.floats(0.05, 0.9),
    queue=st.sampled_from([0.0, 3.0, 40.0, np.inf]),
    in_tokens=st.sampled_from([0.0, 700.0, 6000.0]),
)
def test_one_pass_says_what_a_chain_for_each_batch_says(
    load: float, queue: float, in_tokens: float
) -> None:
    """Running sums over the states of the largest batch stand in for one chain per batch."""
    largest = 24
    given_ = {
        "alpha": 7.0,
        "beta": 0.03,
        "gamma": 5e-5,
        "in_tokens": in_tokens,
        "out_tokens": 200.0,
    }
    whole = make_model(replica_columns(**given_, max_batch=largest, max_queue=queue))
    rate = load * whole.rate_max
    itl, ttft, loss, used = figures_by_batch(whole, rate)
    for batch in range(1, largest + 1):
        one = make_model(replica_columns(**given_, max_batch=batch, max_queue=queue))
        assert used[0, batch - 1] == pytest.approx(rate[0] / one.chain.service_full[0])
        if used[0, batch - 1] >= 1.0:
            continue
        found = analyze(one, rate)
        assert itl[0, batch - 1] == pytest.approx(found.itl[0], rel=1e-7)
        late = found.ttft[0] + (WAIT_MARGIN - 1.0) * found.wait[0]
        assert ttft[0, batch - 1] == pytest.approx(late, rel=1e-7)
        assert np.broadcast_to(loss, itl.shape)[0, batch - 1] == pytest.approx(
            found.loss[0], abs=1e-12
        )


def test_one_less_than_the_batch_chosen_would_not_do() -> None:
    """It is the smallest: with one less a replica falls short of near-peak throughput within the
    targets.
    """
    how = OptimizerSettings(rules=OURS, hysteresis=0.0)
    data = small_system(server(rpm=3000.0), itl_ms=9.0)
    table = size_all(data, how, servers=list(data.servers.values()), cache=SizingCache())
    row = table.accelerators.index("H100")
    tuned = tune(table, np.array([row]), table.replicas[[row]], how)
    model = make_model(table.columns.take(np.array([row])))
    rate = np.maximum(table.need[row] / table.replicas[row], how.near_peak * table.rate_max[row])
    itl, ttft, _, used = figures_by_batch(model, np.array([rate]))
    fits = (itl[0] <= 0.9 * 9.0) & (ttft[0] <= 0.9 * 800.0) & (used[0] <= how.utilisation_max)
    assert fits[tuned.batch[0] - 1]
    assert not fits[: tuned.batch[0] - 1].any()
    assert tuned.batch[0] < table.columns.max_batch[row]


def test_the_go_optimizer_leaves_batch_and_latencies_alone() -> None:
    """Also for fewer replicas than asked for: the original reports the figures of the whole."""
    how = OptimizerSettings(rules=GO_TODAY)
    data = small_system(server(rpm=3000.0), itl_ms=9.0)
    table = size_all(data, how, servers=list(data.servers.values()), cache=SizingCache())
    row = np.array([table.accelerators.index("H100")])
    tuned = how.rules.tune(table, row, np.array([1]), how)
    assert tuned.batch.tolist() == table.columns.max_batch[row].tolist()
    assert tuned.itl.tolist() == table.itl[row].tolist()
