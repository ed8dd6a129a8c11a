"""A load that has jumped, as what came in the last quarter of a window tells."""

from __future__ import annotations

import numpy as np
import pytest

from loop.policies.slo.jumps import COUNTED_SHORT, JUMP_MAX, UP_MAX, Jumps
from loop.testing.fakes import server_view
from loop.types import Latest, Load, ServerView

WINDOW_S, LATEST_S = 60.0, 15.0


def seen(before: float, came: float, *, told: bool = True) -> ServerView:
    """Return a server to which *came* requests came in the last quarter of the window, and *before*
    in the others.
    """
    load = Load(rate_rpm=before + came, in_tokens=500.0, out_tokens=100.0)
    latest = Latest(came * 60.0 / LATEST_S, LATEST_S) if told else None
    return server_view(load=load, latest=latest)


def after(*views: ServerView, every_s: float = 2.0 * WINDOW_S) -> Jumps:
    """Return what is learnt of *views*; no window is of the time of the last one, or just behind
    it, unless they come more often.
    """
    jumps = Jumps()
    for number, view in enumerate(views):
        assert view.load is not None
        now_s = every_s * number
        jumps = jumps.with_sample(view, view.load, now_s=now_s, window_s=WINDOW_S)
    return jumps


def poisson(rng: np.random.Generator, rate_rpm: float, *, times: float = 1.0) -> ServerView:
    """Return a window of Poisson's process whose last quarter has so many *times* as much."""
    quarter = rate_rpm / 4.0
    return seen(float(rng.poisson(3.0 * quarter)), float(rng.poisson(times * quarter)))


@pytest.mark.parametrize("rate_rpm", [8.0, 60.0, 900.0])
@pytest.mark.parametrize("every_s", [60.0, 300.0])
def test_a_steady_load_hardly_ever_jumps(rate_rpm: float, every_s: float) -> None:
    """Beyond the deviations of a Poisson process: less than once in an hour."""
    rng, count = np.random.default_rng(5), 0
    for _ in range(10):
        jumps = Jumps()
        for number in range(120):
            view = poisson(rng, rate_rpm)
            assert view.load is not None
            now_s = every_s * number
            jumps = jumps.with_sample(view, view.load, now_s=now_s, window_s=WINDOW_S)
            count += jumps.jump > 1.0
    assert count <= 15


def high(came: float) -> float:
    """Return how many times as much a load may be of which *came* requests were counted."""
    return float(1.0 + COUNTED_SHORT / np.sqrt(came))


@pytest.mark.parametrize("times", [1.5, 2.0])
def test_a_jump_is_known_from_the_last_quarter_of_the_window(times: float) -> None:
    """Of the rate of the window, in which a quarter of it is already; and no less than it is, nor
    more than a count of that may be wrong.
    """
    short, quarter, found = 0, 0.25 * 600.0 * times, list[float]()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        jumps = after(*(poisson(rng, 600.0) for _ in range(20)), poisson(rng, 600.0, times=times))
        found.append(jumps.high * (3.0 + times) / 4.0)
        short += found[-1] < times
    assert short <= 2
    assert np.median(found) == pytest.approx(times * high(quarter), rel=0.1)


def test_a_jump_in_the_midst_of_the_window_is_told_from_the_last_window() -> None:
    """Looks come every 30 s: half of what the window has is of after the jump already, and by the
    window alone one to twice the load of 60 a minute is no more than one to one and a half.
    """
    steady = [seen(45.0, 15.0)] * 20
    jumps = after(*steady, seen(60.0, 30.0), every_s=30.0)
    assert jumps.jump * 90.0 == pytest.approx(120.0)
    assert jumps.high * 90.0 == pytest.approx(120.0 * high(30.0))
    assert after(*steady, seen(60.0, 30.0)).jump == 1.0
    assert after(*steady, seen(60.0, 30.0), every_s=10.0).jump == 1.0, "windows that overlap"


def test_a_jump_counts_for_so_much_at_most() -> None:
    """However much came: one burst is no load."""
    jumps = after(*[seen(450.0, 150.0)] * 20, seen(450.0, 500.0))
    assert jumps.jump * 950.0 == pytest.approx(JUMP_MAX * 600.0)


def test_a_load_that_jumps_all_the_time_is_no_jump() -> None:
    """Its forecast knows that it may be anything next."""
    rng = np.random.default_rng(7)
    restless = [poisson(rng, 600.0, times=float(rng.choice([0.3, 2.0]))) for _ in range(40)]
    assert after(*restless, seen(450.0, 300.0)).jump == 1.0


def test_a_bursty_load_that_jumps_far_is_seen_to() -> None:
    """What is usual is a share of what chance does at that rate, and at a higher one that is less:
    gaps of cv 1.5 and rates of 0.7 to 1.4, and then seven times as much.
    """
    rng = np.random.default_rng(8)
    restless = [
        poisson(rng, 40.0 * float(rng.choice([0.7, 1.4])), times=float(rng.choice([0.3, 1.7])))
        for _ in range(40)
    ]
    assert after(*restless, seen(30.0, 17.0)).jump == 1.0
    assert after(*restless, seen(42.0, 70.0)).jump * 112.0 == pytest.approx(JUMP_MAX * 56.0)


def test_many_requests_vary_by_little_more_than_chance_and_still_jump() -> None:
    """A tenth of 6,000 a minute is many deviations of Poisson's process."""
    rng = np.random.default_rng(9)
    uneven = [poisson(rng, 6000.0, times=float(rng.uniform(0.8, 1.2))) for _ in range(40)]
    assert after(*uneven, seen(4500.0, 3000.0)).jump * 7500.0 == pytest.approx(12000.0)
    assert after(*uneven, seen(4500.0, 1800.0)).jump == 1.0


def test_a_load_stays_up_as_long_as_what_comes_is_as_much() -> None:
    """A window later the last quarter is no more than the others; the forecast takes longer."""
    steady = [seen(450.0, 150.0)] * 20
    up = [seen(1350.0, 500.0), seen(1400.0, 380.0), seen(1350.0, 600.0)]
    jumps = after(*steady, seen(450.0, 450.0), *up)
    assert jumps.up == 4
    assert jumps.jump * 1950.0 == pytest.approx(2400.0)
    assert jumps.high * 1950.0 == pytest.approx(2400.0 * high(600.0))
    assert after(*steady, seen(450.0, 450.0), *up, seen(1700.0, 150.0)).up == 0, "it is over"
    assert after(*steady, seen(450.0, 450.0), *[seen(1350.0, 450.0)] * UP_MAX).up == 0, "is known"


def test_a_jump_that_is_no_jump_again_half_a_minute_later_stays() -> None:
    """Of 120 a minute after 60: what came since is too little beside a window that has some of it
    already, and to send away the pods that are starting would cost a minute.
    """
    steady = [seen(45.0, 15.0)] * 20
    jumped = after(*steady, seen(45.0, 33.0), every_s=30.0)
    later = seen(70.0, 26.0)
    assert later.load is not None
    now_s = 30.0 * (len(steady) + 1)
    stays = jumped.with_sample(later, later.load, now_s=now_s, window_s=WINDOW_S)
    assert jumped.up == 1
    assert stays.up == 2
    assert stays.jump * 96.0 == pytest.approx(104.0)
    assert stays.high * 96.0 == pytest.approx(104.0 * high(26.0))


def test_a_load_that_falls_or_that_nobody_tells_is_no_jump() -> None:
    """Nor is one of a server that is just begun."""
    steady = [seen(450.0, 150.0)] * 20
    assert after(*steady, seen(450.0, 50.0)).jump == 1.0
    assert after(seen(450.0, 300.0)).jump == 1.0
    assert after(*steady, seen(450.0, 300.0)).jump > 1.0
    assert after(*steady, seen(0.0, 0.0), seen(0.0, 4.0)).jump == 1.0


def test_a_jump_stays_while_pods_that_begin_leave_out_what_came_lately() -> None:
    """The first pod that is ready would else end what the others were asked for; the next window is
    full of the jump, and one that falls has none.
    """
    jumped = [*[seen(450.0, 150.0)] * 20, seen(450.0, 300.0)]
    untold = seen(825.0, 275.0, told=False)
    once, twice = after(*jumped, untold), after(*jumped, untold, untold)
    assert once.up == 2
    assert once.jump * 1100.0 == pytest.approx(1200.0)
    assert once.high * 1100.0 == pytest.approx(1200.0 * high(300.0))
    assert (twice.up, twice.jump, twice.high) == (3, 1.0, 1.0)
    assert after(*jumped, *[untold] * UP_MAX).up == 0, "its forecast knows it"
    assert after(*jumped, seen(300.0, 100.0, told=False)).up == 0


def test_a_newer_window_has_more_of_the_jump_in_it() -> None:
    """Looks more often than samples would else multiply it: twice the load came to be thrice."""
    jumps = after(*[seen(450.0, 150.0)] * 20, seen(450.0, 300.0))
    for rate_rpm in (750.0, 900.0, 1100.0):
        jump, most = jumps.of_now(rate_rpm)
        assert jump * rate_rpm == pytest.approx(1200.0)
        assert most * rate_rpm == pytest.approx(1200.0 * high(300.0))
    assert jumps.of_now(1250.0)[0] == 1.0
    calm = after(*[seen(450.0, 150.0)] * 20)
    assert calm.of_now(300.0) == (1.0, 1.0), "a load that falls has not jumped"
