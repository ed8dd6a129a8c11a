"""What a load will be when pods that are asked for now are ready: forecasts on a grid of samples,
chosen by how they would have done on the server's own history. Pure.

All but the peak and the season are linear filters of the samples, so that one matrix product
tests each of them on the whole history of every server at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

STEP_S = 30.0  # of the grid: half a usual metrics window, so that neighbours share half their data
SAMPLES_MAX = 240  # two hours
ERRORS_MAX = 120  # the last hour of errors says how good a forecast is

# Before there are errors to learn from: their standard deviation is a twelfth of the load, and they
# count for eight.
PRIOR_ERROR, PRIOR_COUNT = 0.08, 8
_NORMAL = np.array(
    [NormalDist().inv_cdf((rank + 0.5) / PRIOR_COUNT) for rank in range(PRIOR_COUNT)]
)
# A forecast must be better than the present load by this to take its place: the best of many is
# better than it should be.
BETTER_BY = 0.05

# Exponential means by the weight of the newest sample; trends by the weights of the newest sample
# in level and slope and by what is left of the slope after each step (Gardner & McKenzie 1985).
MEANS = (0.5, 0.2)
TRENDS = ((0.6, 0.3, 0.9), (0.4, 0.15, 0.95))
PEAK_STEPS = 10  # 300 s, what the horizontal pod autoscaler remembers of its recommendations

# A season is a lag at which the history repeats itself: by this correlation, seen this often.
SEASON_CORRELATION, SEASON_CYCLES, SEASON_STEPS_MIN = 0.6, 2.5, 8
# A slope that noise alone would have once in a thousand times, over so many samples; it is followed
# unless that has cost more than this many times the best in the past.
SLOPE_SIGMAS, SLOPE_STEPS = 3.0, 7
FOLLOWED_LOSS_MAX = 1.5


@dataclass(frozen=True, slots=True)
class Series:
    """Samples of one load [any unit], STEP_S apart, the oldest first; the first at start_s."""

    start_s: float = 0.0
    values: tuple[float, ...] = ()

    @property
    def next_s(self) -> float:
        """Return when the next sample is due."""
        return self.start_s + STEP_S * len(self.values)

    def since(self, when_s: float) -> tuple[float, ...]:
        """Return the samples of the steps that end after *when_s*, and the last one anyway."""
        count = math.floor((self.next_s - when_s) / STEP_S + 1e-9)
        return self.values[-max(1, count) :]

    def with_sample(self, value: float, *, now_s: float, most: bool = False) -> Series:
        """Return the series with what is seen at *now_s*, in the place of the last sample if the
        next is not due (*most*: the higher of the two); a gap is filled with it, and a series that
        is older than its longest memory begins anew.
        """
        if not self.values:
            return Series(now_s, (value,))
        missing = int((now_s - self.next_s) / STEP_S + 1e-9) + 1
        if now_s < self.next_s - 1e-9:
            # Not due yet, but newer than the last one: what is seen now counts.
            value = max(value, self.values[-1]) if most else value
            if value == self.values[-1]:
                return self
            return Series(self.start_s, (*self.values[:-1], value))
        if missing > SAMPLES_MAX:
            return Series(now_s, (value,))
        values = (*self.values, *(value for _ in range(missing)))
        dropped = max(0, len(values) - SAMPLES_MAX)
        return Series(self.start_s + STEP_S * dropped, values[dropped:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A load some time ahead, and how it was foreseen: futures that are equally likely, each >= 0,
    lowest first.
    """

    futures: Floats
    method: str

    @property
    def middle(self) -> float:
        """Return the median of the futures."""
        return float(self.futures[len(self.futures) // 2])

    def at(self, quantile: float) -> float:
        """Return the load that no more than *quantile* of the futures are below."""
        return float(self.futures[min(int(quantile * len(self.futures)), len(self.futures) - 1)])


def forecast(series: Series, *, lead_s: float, quantile: float, noise: float = 0.0) -> Forecast:
    """Return what *series* will be *lead_s* ahead.

    quantile: 0 to 1, the share of futures that are to be no higher. noise: the standard deviation
    that counting alone gives the last sample (requests of a Poisson process in a metrics window);
    what it adds to the errors of the past is not asked for again.

    The method is the one with the least mean pinball loss at *quantile* over the errors of the
    past (Koenker & Bassett 1978); the quantile is that of its own errors. A slope that stands out
    of the noise is followed at once, unless following slopes has done clearly worse before.
    """
    values = np.array(series.values)
    ahead = max(1, round(lead_s / STEP_S))
    trials = []
    for name, made in _methods(values, ahead).items():
        errors = (values[ahead:] - made[: max(0, len(values) - ahead)])[-ERRORS_MAX:]
        expected = _expected_errors(errors, now=float(values[-1]), noise=noise)
        high = float(expected[min(int(quantile * len(expected)), len(expected) - 1)])
        loss = _pinball(errors - high, quantile) if len(errors) else math.inf
        trials.append(_Trial(name, float(made[-1]), expected, high, loss))
    last = trials[0]
    good = [trial for trial in trials if trial.loss < (1.0 - BETTER_BY) * last.loss]
    best = min(good, key=lambda trial: trial.loss, default=last)
    if _rises(values, noise):
        fit = [
            trial
            for trial in trials
            if trial.name.startswith("trend") and not trial.loss > FOLLOWED_LOSS_MAX * best.loss
        ]
        best = max((best, *fit), key=lambda trial: trial.middle + trial.high)
    return Forecast(futures=np.maximum(best.middle + best.errors, 0.0), method=best.name)


@dataclass(frozen=True, slots=True)
class _Trial:
    """A method: what it says now, the errors to expect of it, sorted, the quantile of these that is
    asked for, and what it would have lost in the past.
    """

    name: str
    middle: float
    errors: Floats
    high: float
    loss: float


def _methods(values: Floats, ahead: int) -> dict[str, Floats]:
    """Return by method what it would have said at each of *values* of the one *ahead* steps
    later.
    """
    count = len(values)
    linear = _filters(ahead)[:, :count, :count] @ values
    made = {"last": values, **dict(zip(_NAMES, linear, strict=True))}
    padded = np.concatenate([np.full(PEAK_STEPS, values[0]), values])
    windows = np.lib.stride_tricks.sliding_window_view(padded, PEAK_STEPS + 1)
    made["peak"] = windows.max(axis=1)
    season = season_steps(values)
    if season > 0:
        made["season"] = _seasonal(values, season, ahead)
    return made


_NAMES = (
    tuple(f"mean {weight:g}" for weight in MEANS)
    + tuple(f"trend {level:g}" for level, _, _ in TRENDS)
    + ("trend line",)
)


@lru_cache(maxsize=32)
def _filters(ahead: int) -> Floats:
    """Return, by method of _NAMES, the matrix that makes of samples what it says at each of them.

    A filter that begins at the first sample is causal, so the upper left corner of the matrix is
    that of a shorter history.
    """
    impulses = np.eye(SAMPLES_MAX)
    made = []
    for weight in MEANS:
        level, rows = impulses[0], [impulses[0]]
        for sample in impulses[1:]:
            level = weight * sample + (1.0 - weight) * level
            rows.append(level)
        made.append(np.stack(rows))
    for level_weight, slope_weight, left in TRENDS:
        level, slope = impulses[0], np.zeros(SAMPLES_MAX)
        reach = sum(left**step for step in range(1, ahead + 1))
        rows = [level]
        for sample in impulses[1:]:
            before = level
            level = level_weight * sample + (1.0 - level_weight) * (level + left * slope)
            slope = slope_weight * (level - before) + (1.0 - slope_weight) * left * slope
            rows.append(level + reach * slope)
        made.append(np.stack(rows))
    # The straight line through the last samples, carried on; before there are as many, the first
    # sample stands for those that are missing.
    at = np.arange(SLOPE_STEPS) - (SLOPE_STEPS - 1) / 2.0
    weights = 1.0 / SLOPE_STEPS + at * (at[-1] + ahead) / (at @ at)
    line = np.zeros((SAMPLES_MAX, SAMPLES_MAX))
    for row in range(SAMPLES_MAX):
        for back, weight in enumerate(weights[::-1]):
            line[row, max(row - back, 0)] += weight
    made.append(line)
    return np.stack(made)


def season_steps(values: Floats) -> int:
    """Return the lag at which *values* repeat themselves most clearly, 0 if at none.

    The lag is the first peak of the autocorrelation that is as high as any later one, or nearly.
    """
    longest = int(len(values) / SEASON_CYCLES)
    if longest <= SEASON_STEPS_MIN:
        return 0
    around = values - values.mean()
    power = float(around @ around)
    if power <= 0.0:
        return 0
    found = np.correlate(around, around, "full")[len(values) - 1 :][: longest + 2]
    lags = np.arange(len(found))
    # Fewer pairs at longer lags: compared with as many of the power.
    found = found / power * len(values) / (len(values) - lags)
    inner = found[1:-1]
    peaks = np.flatnonzero((inner >= found[:-2]) & (inner >= found[2:])) + 1
    peaks = peaks[(peaks >= SEASON_STEPS_MIN) & (found[peaks] >= SEASON_CORRELATION)]
    if not len(peaks):
        return 0
    return int(peaks[found[peaks] >= 0.9 * found[peaks].max()][0])


def _seasonal(values: Floats, season: int, ahead: int) -> Floats:
    """Return the highest of what was one season before the moment *ahead*, and a step about it:
    pods must be ready when a rise begins, and no clock of a load is exact.
    """
    made = values.copy()
    for shift in (-1, 0, 1):
        back = season - ahead - shift
        while back < 0:
            back += season
        if shift == -1 and back < len(values):
            made[back:] = -np.inf
        if back < len(values):
            made[back:] = np.maximum(made[back:], values[: len(values) - back])
    return np.where(np.isfinite(made), made, values)


def _expected_errors(errors: Floats, *, now: float, noise: float) -> Floats:
    """Return the errors to expect, sorted: those of the past without what counting adds, and some
    of a normal distribution, which stand for what was not seen yet.
    """
    prior = PRIOR_ERROR * now * _NORMAL
    count = len(errors)
    if not count:
        return prior
    mean = float(errors.sum()) / count
    spread = max(float(errors @ errors) / count - mean**2, 0.0)
    real = math.sqrt(max(0.0, 1.0 - noise**2 / spread)) if spread > 0.0 else 1.0
    middle = float(np.sort(errors)[count // 2])
    return np.sort(np.concatenate([middle + (errors - middle) * real, prior]))


def _pinball(errors: Floats, quantile: float) -> float:
    """Return the mean loss of having planned for too little (above 0) or too much."""
    losses = np.maximum(quantile * errors, (quantile - 1.0) * errors)
    return float(losses.sum()) / len(errors)


def _rises(values: Floats, noise: float) -> bool:
    """Tell whether the last samples rise by more than noise would let them."""
    recent = values[-SLOPE_STEPS:]
    if len(recent) < 4:
        return False
    at = np.arange(len(recent)) - (len(recent) - 1) / 2.0
    slope = float(at @ recent) / float(at @ at)
    left = recent - recent.mean() - slope * at
    # Neighbours share half their data, so that noise is larger than if they were independent.
    scatter = max(float(np.sqrt(left @ left / (len(recent) - 2))), noise)
    return slope > SLOPE_SIGMAS * 1.4 * scatter / math.sqrt(float(at @ at))


def poisson_noise(rate_rpm: float, window_s: float) -> float:
    """Return the standard deviation of a rate [requests/min] that was counted over *window_s*."""
    return (max(rate_rpm, 0.0) * 60.0 / window_s) ** 0.5 if window_s > 0.0 else 0.0
