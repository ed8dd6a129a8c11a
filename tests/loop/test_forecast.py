"""Forecasts of a load: what they cover at what cost on loads of every kind, and what they hold."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop.policies.slo import filters
from loop.policies.slo.forecast import (
    SAMPLES_MAX,
    STEP_S,
    Forecast,
    History,
    Series,
    forecast,
    season_steps,
    with_samples,
)
from tests.parts import first_rows

LEAD_S = 150.0
AHEAD = round(LEAD_S / STEP_S)
WINDOW_S = 60.0


def shapes() -> dict[str, np.ndarray]:
    """Return two hours of rates [requests/min] of several kinds."""
    rng = np.random.default_rng(3)
    two = np.arange(240) * STEP_S
    walk = [1.0]
    for _ in range(119):
        walk.append(walk[-1] + 0.2 * (1.0 - walk[-1]) + rng.normal(0.0, 0.1))
    return {
        "steady": np.full(240, 100.0),
        "day": 100.0 * (1.0 + 0.6 * np.sin(2.0 * np.pi * two / 3600.0)),
        "ramp": 100.0 * np.interp(two, [3600.0, 4500.0, 5400.0, 6300.0], [1.0, 2.5, 2.5, 1.0]),
        "walk": 100.0 * np.repeat(np.maximum(walk, 0.1), 2),
        "bursts": 100.0 * np.where(two % 600.0 < 90.0, 4.0, 1.0),
    }


def followed(
    rates: Iterable[float], *, quantile: float = 0.9, step_s: float = STEP_S
) -> list[Forecast]:
    """Return what is foreseen at each of *rates*, one a step."""
    history, found = History(), []
    for step, rate in enumerate(rates):
        (history,) = with_samples([history], [float(rate)], now_s=step_s * step, window_s=WINDOW_S)
        ((one, history),) = forecast([history], lead_s=[LEAD_S], quantile=[quantile])
        found.append(one)
    return found


def seen(truth: np.ndarray) -> np.ndarray:
    """Return what windows of a minute, one each half, count of a Poisson process of these rates."""
    counts = np.random.default_rng(4).poisson(np.asarray(truth) / 2.0)
    return counts + np.concatenate([counts[:1], counts[:-1]])


def foreseen(truth: np.ndarray, quantile: float) -> tuple[np.ndarray, np.ndarray]:
    """Return what is planned for at each moment that has a future, and that future; the first
    twenty minutes are for learning.
    """
    planned = [found.at(quantile) for found in followed(seen(truth), quantile=quantile)]
    return np.array(planned)[40:-AHEAD], truth[40 + AHEAD :]


@pytest.mark.parametrize(("step_s", "halves"), [(30.0, True), (60.0, False)])
def test_loads_are_looked_ahead_at_as_they_were_followed(step_s: float, halves: bool) -> None:
    """Looked at once a minute, windows of a minute share nothing: what moved is seen whole."""
    history = History()
    for step, rate in enumerate([100.0, 100.0, 160.0, 220.0]):
        (history,) = with_samples([history], [rate], now_s=step_s * step, window_s=WINDOW_S)
    assert history.bank is not None
    ((found, _),) = forecast([history], lead_s=[LEAD_S], quantile=[0.9])
    (ahead,) = filters.ahead([history.bank], [AHEAD], halves=[halves])
    assert found.futures.tolist() == ahead.futures.tolist()


@pytest.mark.parametrize(
    ("shape", "covered_min", "over_max"),
    first_rows(
        2,
        [
            ("steady", 0.85, 1.2),
            ("day", 0.85, 1.35),
            ("ramp", 0.8, 1.25),
            ("walk", 0.75, 1.35),
            ("bursts", 0.9, 1.6),
        ],
    ),
)
def test_a_quantile_of_nine_tenths_covers_about_that(
    shape: str, covered_min: float, over_max: float
) -> None:
    """Without planning for twice the load everywhere."""
    planned, future = foreseen(shapes()[shape], 0.9)
    assert np.mean(planned >= 0.98 * future) >= covered_min
    assert planned.mean() <= over_max * future.mean()


def test_bursts_that_come_back_are_foreseen() -> None:
    """Who only looks at the present is late at each of them."""
    planned, future = foreseen(shapes()["bursts"], 0.9)
    bursts = future > 200.0
    last_hour = np.arange(len(future)) >= len(future) - 120
    assert np.mean(planned[bursts & last_hour] >= 360.0) >= 0.9
    assert planned[~bursts].mean() < 260.0


def test_a_wild_load_goes_back_to_what_it_mostly_is() -> None:
    """A trough is no reason to take pods away that the next minute needs."""
    rng = np.random.default_rng(5)
    rates = [100.0]
    for _ in range(239):
        rates.append(max(0.0, rates[-1] + 0.4 * (100.0 - rates[-1]) + rng.normal(0.0, 40.0)))
    last = followed(rates)[60:]
    assert all(found.unsure > 0.0 for found in last)
    middles, seen_rpm = np.array([found.middle for found in last]), np.array(rates[60:])
    assert np.abs(middles - 100.0).mean() < 0.8 * np.abs(seen_rpm - 100.0).mean()


def test_a_load_may_rise_farther_than_it_may_fall() -> None:
    """What moves by a share of itself has no end above, and one below."""
    rng = np.random.default_rng(5)
    walk = np.cumsum(rng.normal(0.0, 0.25, 120))
    found = followed(300.0 * np.exp(walk - walk[-1]))[-1]
    above, below = found.at(0.95) - found.middle, found.middle - found.at(0.05)
    assert above > 1.2 * below > 0.0


def test_a_season_is_the_first_lag_at_which_a_load_comes_back() -> None:
    """Noise has none, and neither has a load that has not come back yet."""
    rng = np.random.default_rng(5)
    bursts = np.where(np.arange(200) % 20 < 3, 4.0, 1.0)
    assert season_steps(bursts + rng.normal(0.0, 0.2, 200)) == 20
    assert season_steps(rng.normal(1.0, 0.2, 200)) == 0
    assert season_steps(np.linspace(1.0, 2.0, 200)) == 0
    assert season_steps(bursts[:30]) == 0


def test_a_rise_is_followed_before_errors_have_shown_it() -> None:
    """Five samples that rise by a tenth each are no noise at this rate."""
    found = followed([600.0] * 20 + [660.0, 720.0, 780.0, 840.0, 900.0])[-1]
    assert found.method == "filters"
    assert found.middle > 1000.0


def test_a_steady_load_is_averaged_over_many_minutes() -> None:
    """What a window counts is chance by a tenth here; after an hour little of that is left."""
    counted = seen(np.full(240, 100.0))
    found = followed(counted)
    nows = np.array([one.now for one in found])
    assert np.std(nows[60:]) < 0.6 * np.std(counted[60:])
    assert found[-1].at(0.9) < 115.0 < found[1].at(0.9)


def test_a_jump_is_followed_at_once_and_forgotten_as_a_surprise() -> None:
    """One window may be a burst; four are a level, and nobody expects the next jump for long."""
    found = followed([600.0] * 40 + [900.0] + [1200.0] * 40)
    assert found[40].bursty > 0.3
    assert found[44].now == pytest.approx(1200.0, rel=0.05)
    assert found[-1].at(0.9) < 1300.0


def test_a_load_that_has_jumped_once_is_not_one_that_strays() -> None:
    """For minutes it looks as one that may be anything next; but it did not before."""
    found = followed(seen(np.repeat([100.0, 200.0], 120)))
    after = found[122:132]
    assert min(one.unsure for one in after) > 0.9
    assert max(one.stays_unsure for one in after) < 0.3
    strays = followed(seen(_straying()))[60:]
    assert np.mean([one.stays_unsure for one in strays]) > 0.8


def test_what_a_window_shows_half_of_is_foreseen() -> None:
    """A window of two steps that has risen holds a step from before the rise."""
    truth = _straying()[::2]
    counted = (truth[1:] + truth[:-1]) / 2.0
    errors = []
    for halves in (False, True):
        banks, found = [filters.first(counted[0], counting=1.0)], []
        for rate in counted[1:]:
            banks = filters.followed(banks, [rate], steps=1, counting=[1.0], halves=halves)
            found.append(filters.ahead(banks, [1], halves=[halves])[0].futures.mean())
        errors.append(np.abs(np.array(found)[40:-1] - counted[42:]).mean())
    assert errors[1] < 0.9 * errors[0]


def test_who_comes_by_the_clock_does_not_stray() -> None:
    """Bursts of every ten minutes are foreseen, however wild the moves are that lead there."""
    found = followed(seen(shapes()["bursts"]))[120:]
    by_clock = [one for one in found if one.method == "season"]
    assert len(by_clock) > 60
    assert max(one.strays for one in by_clock) == 0.0
    assert np.mean([one.stays_unsure for one in by_clock]) > 0.5


def _straying() -> np.ndarray:
    """Return two hours of a load of which nobody knows what it will be [requests/min]."""
    rng, walk = np.random.default_rng(8), [100.0]
    for _ in range(119):
        walk.append(max(10.0, walk[-1] + 0.2 * (100.0 - walk[-1]) + rng.normal(0.0, 40.0)))
    return np.repeat(walk, 2)


@pytest.mark.parametrize("share", [0.03, 0.3, 0.55])
def test_a_fall_is_no_reason_to_plan_for_more(share: float) -> None:
    """A load that fell to a fortieth got twice the replicas that it had had: to filters its fall
    was a burst, and to a history of errors the rise before it.
    """
    counted = seen(600.0 * np.repeat([0.12, 1.0, share], [8, 30, 20]))
    for step, found in enumerate(followed(counted, quantile=0.98)[40:], 41):
        assert found.at(0.98) <= counted[:step].max()


def test_a_sure_load_that_falls_is_planned_for_where_it_is() -> None:
    """It was planned for twice over for four minutes, with pods that had just been taken away."""
    counted = seen(1440.0 * np.repeat([1.0, 0.4], [60, 20]))
    for step, found in enumerate(followed(counted, quantile=0.98)[62:75], 63):
        assert found.at(0.98) <= 1.15 * counted[step - 3 : step].max() + 1e-6


def test_a_load_that_strays_may_come_back_from_a_fall() -> None:
    """What it does next is no surer for having been low for a minute."""
    counted = seen(_straying())
    low = [k for k in range(60, 240) if counted[k] <= 0.6 * counted[k - 15 : k].max()]
    found = followed(counted, quantile=0.98)
    higher = [found[k].at(0.98) > 1.3 * counted[k - 2 : k + 1].max() for k in low]
    assert len(low) > 20
    assert np.mean(higher) > 0.5


@pytest.mark.parametrize("before", [0.0, 2.0])
def test_a_load_that_begins_is_known_at_once(before: float) -> None:
    """Where next to nothing had come for long, it was a burst for six minutes, and then one that
    may be anything for twenty.
    """
    found = followed(seen(np.repeat([before, 100.0], [50, 40])))[51:]
    assert all(70.0 < one.now < 145.0 for one in found)
    assert all(one.bursty < 0.5 for one in found)
    assert max(one.stays_unsure for one in found[10:]) < 0.3


def test_a_load_that_went_up_and_down_once_is_not_waited_for() -> None:
    """What it does next is told by what it does now: the errors of its only step planned for four
    fifths of it for half an hour.
    """
    found = followed(seen(600.0 * np.repeat([0.12, 1.0, 0.03], [8, 30, 40])), quantile=0.98)
    assert found[40].at(0.98) > 300.0
    assert {one.method for one in found[50:]} == {"filters"}
    assert all(one.at(0.98) < 60.0 for one in found[65:])


@pytest.mark.costly
def test_bursts_are_told_from_a_load_that_moves() -> None:
    """What comes and goes within minutes comes again; a step, a rise and a walk are none."""
    rng = np.random.default_rng(6)
    spiky = 100.0 * np.where(rng.random(240) < 0.15, 6.0, 0.5)
    assert np.mean([one.bursty for one in followed(seen(spiky))[40:]]) > 0.8
    for shape in ("steady", "day", "ramp", "walk"):
        assert np.mean([one.bursty for one in followed(seen(shapes()[shape]))[40:]]) < 0.2


def test_cycles_between_two_steps_change_nothing_but_the_last_sample() -> None:
    """Whoever looks every second knows as much as who looks each half minute."""
    rates = seen(shapes()["day"])[:60]
    often, history = History(), History()
    for step, rate in enumerate(rates):
        (history,) = with_samples([history], [float(rate)], now_s=STEP_S * step, window_s=WINDOW_S)
        for second in range(3):
            now_s = STEP_S * step + second
            (often,) = with_samples([often], [float(rate)], now_s=now_s, window_s=WINDOW_S)
    assert often.rates == history.rates
    assert often.bank is not None
    assert history.bank is not None
    assert np.array_equal(often.bank.level, history.bank.level)


def test_a_forecast_is_the_same_beside_others() -> None:
    """All loads are reckoned together; what is foreseen of one must not depend on the rest."""
    rates = [seen(one)[:40] for one in shapes().values()]
    together = [History() for _ in rates]
    alone = [History() for _ in rates]
    lead_s, quantile = [30.0 * (1 + k) for k in range(len(rates))], [0.9] * len(rates)
    for step in range(40):
        # Each begins at a time of its own, so that their grids differ.
        known = [k for k in range(len(rates)) if step >= 5 * k]
        values, now_s = [float(rates[k][step]) for k in known], 20.0 * step
        after = with_samples([together[k] for k in known], values, now_s=now_s, window_s=WINDOW_S)
        found = forecast(
            after, lead_s=[lead_s[k] for k in known], quantile=[quantile[k] for k in known]
        )
        for k, value, (one, history) in zip(known, values, found, strict=True):
            together[k] = history
            (own,) = with_samples([alone[k]], [value], now_s=now_s, window_s=WINDOW_S)
            ((mine, alone[k]),) = forecast([own], lead_s=[lead_s[k]], quantile=[quantile[k]])
            assert one.futures.tolist() == mine.futures.tolist()
            assert (one.method, one.now, one.bursts) == (mine.method, mine.now, mine.bursts)


@given(
    values=st.lists(st.floats(0.0, 1e6), min_size=1, max_size=60),
    lead_s=st.floats(1.0, 900.0),
    quantile=st.floats(0.5, 0.99),
    window_s=st.floats(1.0, 600.0),
    tick_s=st.sampled_from([1.0, 15.0, 30.0, 60.0, 7200.0]),
)
def test_a_forecast_is_a_load(
    values: list[float], lead_s: float, quantile: float, window_s: float, tick_s: float
) -> None:
    """Finite and not negative, whatever came before and however often it is looked at."""
    history = History()
    for step, value in enumerate(values):
        (history,) = with_samples([history], [value], now_s=tick_s * step, window_s=window_s)
        ((found, history),) = forecast([history], lead_s=[lead_s], quantile=[quantile])
        assert 0.0 <= found.middle < np.inf
        assert 0.0 <= found.at(quantile) < np.inf
        assert 0.0 <= found.now < np.inf
        assert 0.0 <= found.bursty <= 1.0
        assert list(found.futures) == sorted(found.futures)


def test_a_series_has_one_sample_a_step_and_forgets_the_oldest() -> None:
    """Cycles may come at any time: the newest reading counts, and fills a gap before it."""
    series = Series()
    for now_s in (0.0, 10.0, 29.0, 30.0, 45.0, 150.0):
        series = series.with_sample(now_s, now_s=now_s)
    assert series.values == (29.0, 45.0, 150.0, 150.0, 150.0, 150.0)
    lately = [series.latest(length_s) for length_s in (0.0, 29.9, 60.0, 600.0)]
    assert lately == [(150.0,), (150.0,), (150.0, 150.0, 150.0), series.values]
    for step in range(6, 2 * SAMPLES_MAX):
        series = series.with_sample(float(step), now_s=STEP_S * step)
    assert len(series.values) == SAMPLES_MAX
    assert (series.values[-1], series.next_s) == (2 * SAMPLES_MAX - 1.0, STEP_S * 2 * SAMPLES_MAX)
    anew = series.with_sample(1.0, now_s=series.next_s + STEP_S * 10 * SAMPLES_MAX)
    assert anew.values == (1.0,)
