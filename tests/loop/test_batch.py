"""The smallest batch worth allowing, and what is expected of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from loop.optimizer.batch import ROUGH, tune
from loop.optimizer.front import SizingCache
from loop.optimizer.model.tail import make_tail
from loop.optimizer.model.within import make_goals, shares_within
from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.rules.go_today import GO_TODAY
from loop.optimizer.rules.ours import OURS
from loop.optimizer.sizing import size_all
from loop.optimizer.table import GOOD
from tests.loop.small_systems import server, small_system


@pytest.mark.parametrize("headroom", [0.0, 0.2])
@pytest.mark.parametrize(("itl_ms", "ttft_ms"), [(9.0, 800.0), (60.0, 150.0), (60.0, 60.0)])
def test_a_batch_less_by_a_part_of_it_would_not_do(
    itl_ms: float, ttft_ms: float, headroom: float
) -> None:
    """It is the smallest: with less, a replica at its rate meets its targets too seldom."""
    how = OptimizerSettings(rules=OURS, hysteresis=0.0, headroom=headroom)
    data = small_system(server(rpm=3000.0), itl_ms=itl_ms, ttft_ms=ttft_ms)
    table = size_all(data, how, servers=list(data.servers.values()), cache=SizingCache())
    row = np.array([table.accelerators.index("H100")])
    tuned = tune(table, row, table.replicas[row], how, cache=SizingCache())

    def share(batch: int) -> float:
        columns = replace(table.columns.take(row), max_batch=np.array([batch]))
        goal = 1.0 - headroom
        tail = make_tail(columns)
        goals = make_goals(tail, ttft=np.array([ttft_ms * goal]), itl=np.array([itl_ms * goal]))
        return float(shares_within(tail, table.rate_max[row], goals).both[0])

    chosen = int(tuned.batch[0])
    assert share(chosen) >= 0.95
    less = chosen - max(chosen // ROUGH, 1) - 1
    assert share(less) < 0.95
    assert chosen < table.columns.max_batch[row[0]]


def test_the_latencies_at_the_percentile_are_those_that_so_many_meet() -> None:
    """People see them beside the means."""
    how = OptimizerSettings(rules=OURS, hysteresis=0.0)
    data = small_system(server(rpm=3000.0), itl_ms=20.0)
    table = size_all(data, how, servers=list(data.servers.values()), cache=SizingCache())
    rows = np.flatnonzero(table.verdict == GOOD)
    tuned = tune(table, rows, table.replicas[rows], how, cache=SizingCache())
    columns = replace(table.columns.take(rows), max_batch=tuned.batch)
    rate = table.need[rows] / table.replicas[rows]
    tail = make_tail(columns)
    met = shares_within(tail, rate, make_goals(tail, ttft=tuned.ttft_tail, itl=tuned.itl_tail))
    assert met.ttft == pytest.approx(0.95, abs=1e-2)
    assert met.itl == pytest.approx(0.95, abs=1e-2)
    assert (tuned.means.itl < tuned.itl_tail).all()
    assert (tuned.means.ttft < tuned.ttft_tail).all()


def test_the_go_optimizer_leaves_batch_and_latencies_alone() -> None:
    """Also for fewer replicas than asked for: the original reports the figures of the whole."""
    how = OptimizerSettings(rules=GO_TODAY)
    data = small_system(server(rpm=3000.0), itl_ms=9.0)
    table = size_all(data, how, servers=list(data.servers.values()), cache=SizingCache())
    row = np.array([table.accelerators.index("H100")])
    tuned = how.rules.tune(table, row, np.array([1]), how, cache=SizingCache())
    assert tuned.batch.tolist() == table.columns.max_batch[row].tolist()
    assert tuned.means.itl.tolist() == table.means(row).itl.tolist()
