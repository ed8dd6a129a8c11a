"""Claims about emulator.load: intervals of a server's load, and the requests under it."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest
from scipy import stats

from emulator.load import Batch, LoadInterval, ServerLoad, batches, intervals
from emulator.shapes import burst, ramp, steps
from emulator.walk import OfferedLoad, Walk
from twin.spec import SpecError

SURE = float(stats.norm.ppf(1 - 1e-4))
NOMINAL = OfferedLoad(rate_rpm=600.0, in_tokens=1000.0, out_tokens=200.0)
CALM = ServerLoad(server="vllm-001", index=0, seed=1, nominal=NOMINAL, walk=Walk(alpha=0.0))
WILD = replace(CALM, walk=Walk(kind="reverting", alpha=0.2))


def times_of(chunk: list[Batch]) -> np.ndarray:
    return np.concatenate([batch.times_s for batch in chunk])


def run(load: ServerLoad, *, interval_s: float = 60.0, until_s: float = 3600.0) -> list[Batch]:
    return list(batches(load, interval_s=interval_s, until_s=until_s))


def plan(
    load: ServerLoad, *, interval_s: float = 60.0, until_s: float = 3600.0
) -> list[LoadInterval]:
    return list(intervals(load, interval_s=interval_s, until_s=until_s))


def test_the_first_interval_is_undisturbed_and_every_other_one_takes_a_step():
    """The run starts from the data's load, as a cluster's labels do; then the load moves once an
    interval.
    """
    points = [interval.offered_load for interval in plan(WILD)]
    assert points[0] == NOMINAL
    assert len(set(points)) == 60


def test_intervals_are_counted_and_the_last_one_is_cut_at_the_end():
    """0.1 s counted ten times is 1 s: intervals never drift from the periods of a controller."""
    fine = plan(CALM, interval_s=0.1, until_s=100.05)
    assert len(fine) == 1001
    assert fine[600].t0_s == 600 * 0.1
    assert all(before.t1_s == after.t0_s for before, after in pairwise(fine))
    assert (fine[-1].t0_s, fine[-1].t1_s) == (100.0, 100.05)
    endless = intervals(CALM, interval_s=60.0)
    assert next(islice(endless, 5000, None)).t0_s == 300_000.0


def test_without_disturbance_the_offered_load_is_the_nominal():
    """What tables call offered must be what the data files say, within the noise of a Poisson
    hour.
    """
    chunk = run(replace(CALM, token_distribution="gamma"), until_s=36_000.0)
    requests = sum(len(batch.times_s) for batch in chunk)
    assert abs(requests - 360_000) < SURE * math.sqrt(360_000)
    for name, mean in (("prompt_tokens", 1000.0), ("output_tokens", 200.0)):
        counts = np.concatenate([getattr(batch, name) for batch in chunk])
        assert abs(counts.mean() - mean) < SURE * 0.5 * mean / math.sqrt(requests)
        assert counts.std() == pytest.approx(0.5 * mean, rel=0.02)


def test_the_requests_of_an_interval_follow_its_offered_load():
    """Offered loads are what `labels` report: they must be what arrives."""
    chunk = run(WILD, interval_s=600.0, until_s=36_000.0)
    expected = np.array([batch.interval.offered_load.rate_rpm * 10.0 for batch in chunk])
    counted = np.array([len(batch.times_s) for batch in chunk])
    assert expected.std() > 10.0 * math.sqrt(expected.mean())
    assert np.sum((counted - expected) ** 2 / expected) < stats.chi2.ppf(1 - 1e-4, len(chunk))
    means = np.array([batch.output_tokens.mean() for batch in chunk]) / [
        b.interval.offered_load.out_tokens for b in chunk
    ]
    assert np.all(np.abs(means - 1.0) < SURE * 0.5 / np.sqrt(counted))


def test_a_burst_shorter_than_an_interval_happens():
    """The offered load is held for a minute; ten seconds of ×9 inside it still arrive when they
    should.
    """
    load = replace(CALM, curve=burst(factor=9.0, start_s=80.0, length_s=10.0))
    second = plan(load, until_s=180.0)[1]
    assert second.offered_load == NOMINAL
    assert [(p.t0_s, p.t1_s, p.start, p.end) for p in second.rates_rps] == [
        (60.0, 80.0, 10.0, 10.0),
        (80.0, 90.0, 90.0, 90.0),
        (90.0, 120.0, 10.0, 10.0),
    ]
    times = times_of(run(load, until_s=180.0))
    inside = np.sum((times >= 80.0) & (times < 90.0))
    assert abs(inside - 900) < SURE * 30.0
    assert abs(len(times) - inside - 1700) < SURE * math.sqrt(1700)


def test_a_disturbance_scales_the_whole_shape():
    """rate(t) = offered load · nominal(t)/nominal(start): a load that stands 30 % high is 30 % high
    in its burst too.
    """
    shape = ramp(factor=5.0, start_s=0.0, up_s=900.0, hold_s=0.0, down_s=900.0)
    for interval in plan(replace(WILD, curve=shape), until_s=1800.0):
        deviation = interval.offered_load.rate_rpm / (600.0 * shape.at(interval.t0_s))
        for piece in interval.rates_rps:
            assert piece.start == pytest.approx(deviation * 10.0 * shape.at(piece.t0_s))
            assert piece.end == pytest.approx(deviation * 10.0 * shape.at(piece.t1_s))


def test_a_load_may_stop_and_come_back():
    """A nominal of zero has no ratio; the load comes back at its nominal, and its walk goes on from
    there.
    """
    load = replace(WILD, curve=steps([(600.0, 0.0), (1230.0, 2.0)]))
    chunk = run(load, until_s=2400.0)
    rates = {batch.interval.t0_s: batch.interval.offered_load.rate_rpm for batch in chunk}
    times = times_of(chunk)
    assert not np.any((times >= 600.0) & (times < 1230.0))
    assert rates[600.0] == rates[1200.0] == 0.0
    assert 0.0 < abs(rates[1260.0] / 1200.0 - 1.0) < SURE * 0.2
    assert abs(np.sum((times >= 1230.0) & (times < 1260.0)) - 600) < SURE * math.sqrt(600)


def test_a_seed_fixes_every_request_and_another_seed_none():
    """A run can be repeated from its seed."""
    once, again, other = run(WILD), run(WILD), run(replace(WILD, seed=2))
    for a, b in zip(once, again, strict=True):
        assert np.array_equal(a.times_s, b.times_s)
        assert np.array_equal(a.prompt_tokens, b.prompt_tokens)
        assert np.array_equal(a.output_tokens, b.output_tokens)
    assert not np.array_equal(once[0].times_s, other[0].times_s)


def test_servers_have_generators_of_their_own():
    """27 servers that burst in step would be another experiment."""
    first, second = run(WILD), run(replace(WILD, index=1, server="vllm-002"))
    counts = np.array([[len(batch.times_s) for batch in chunk] for chunk in (first, second)])
    steps_taken = np.diff(
        [[batch.interval.offered_load.rate_rpm for batch in chunk] for chunk in (first, second)]
    )
    for pair in (counts, steps_taken):
        assert abs(np.corrcoef(pair)[0, 1]) < SURE / math.sqrt(59)


def test_alpha_leaves_the_unit_process_alone():
    """Runs of one seed at two alphas differ by the offered loads only: the same arrivals,
    warped.
    """
    calm, wild = run(CALM), run(WILD)

    def positions(chunk: list[Batch]) -> np.ndarray:
        done, units = 0.0, []
        for batch in chunk:
            rate = batch.interval.offered_load.rate_rpm / 60.0
            units.append(done + (batch.times_s - batch.interval.t0_s) * rate)
            done += 60.0 * rate
        return np.concatenate(units)

    a, b = positions(calm), positions(wild)
    common = min(len(a), len(b))
    np.testing.assert_allclose(a[:common], b[:common], atol=1e-6)


def test_the_interval_is_checked():
    """An interval of zero would never end the first instant."""
    with pytest.raises(SpecError, match="interval: expected a number of seconds > 0, found 0"):
        next(intervals(CALM, interval_s=0.0))
