"""Forecasts of the next value of a series of loads, each from the series alone; pure.

The predictors of NVIDIA Dynamo's planner (constant, Kalman, ARIMA, Prophet) are among them,
restated from its predictors.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from loop.errors import SpecError

Predictor = Literal["constant", "arima", "kalman", "prophet"]
PREDICTORS: tuple[Predictor, ...] = get_args(Predictor)

POINTS_MIN = 5  # fewer are not fitted
POINTS_MAX = 500  # of the past; a day of intervals of 3 minutes
PROPHET_POINTS = 50
ORDER_MAX = 3
STEADY_SHARE = 1e-9  # of its size, within which a series does not move

# Of the Kalman filter: how uncertain it begins, how level and trend wander, how noisy a point is.
UNCERTAIN, LEVEL_WANDERS, TREND_WANDERS, NOISE = 1000.0, 1.0, 0.1, 10.0


def observed(series: Sequence[float], value: float) -> tuple[float, ...]:
    """Return *series* with *value*: what is no number is 0, and zeros before the first load are
    left out.
    """
    value = value if math.isfinite(value) else 0.0
    if value == 0.0 and not series:
        return ()
    return (*series[-POINTS_MAX + 1 :], value)


def predicted(
    predictor: Predictor,
    series: Sequence[float],
    *,
    log1p: bool = False,
    points_min: int | None = None,
) -> float:
    """Return what *predictor* expects after *series*, never below 0; 0 of none. *log1p*: it works
    on log(1 + value). Fewer than *points_min* points (None: as it is shipped) give the last one.
    """
    if not series:
        return 0.0
    few = (1 if predictor == "constant" else POINTS_MIN) if points_min is None else points_min
    if predictor == "constant" or len(series) < few:
        return max(series[-1], 0.0)
    forecast = {"arima": arima, "kalman": kalman, "prophet": prophet}[predictor]
    if not log1p:
        return max(forecast(series), 0.0)
    return max(math.expm1(forecast([math.log1p(max(value, 0.0)) for value in series])), 0.0)


def kalman(
    series: Sequence[float],
    *,
    level_wanders: float = LEVEL_WANDERS,
    trend_wanders: float = TREND_WANDERS,
    noise: float = NOISE,
) -> float:
    """Return the level that a filter of level and trend expects next."""
    step = np.array([[1.0, 1.0], [0.0, 1.0]])
    wander = np.diag([level_wanders, trend_wanders])
    state, spread = np.array([series[0], 0.0]), UNCERTAIN * np.eye(2)
    for value in series[1:]:
        state, spread = step @ state, step @ spread @ step.T + wander
        gain = spread[:, 0] / (spread[0, 0] + noise)
        state = state + gain * (value - state[0])
        spread = spread - np.outer(gain, spread[0])
    return float((step @ state)[0])


def arima(series: Sequence[float]) -> float:
    """Return the next value by an autoregression of the series or of its changes, of the order that
    the corrected information criterion of Akaike takes.

    A series that has none is fitted again on log(1 + value), where bursts are not all that counts.
    """
    values = np.asarray(series, dtype=float)
    if _steady(values):
        return float(values[-1])
    order, forecast = _autoregression(values)
    if order > 0 or values.min() < 0.0:
        return forecast
    return math.expm1(min(_autoregression(np.log1p(values))[1], math.log1p(10 * values.max())))


def prophet(series: Sequence[float], *, step_s: float = 180.0) -> float:
    """Return what the package prophet, if it is installed, expects after the last points. Raise
    SpecError if it is not.
    """
    pandas, package = prophet_packages()
    recent = list(series)[-PROPHET_POINTS:]
    dates = pandas.Timestamp("2024-01-01") + pandas.to_timedelta(
        [step_s * number for number in range(len(recent) + 1)], unit="s"
    )
    model: Any = package.Prophet()
    model.fit(pandas.DataFrame({"ds": dates[:-1], "y": recent}))
    return float(model.predict(pandas.DataFrame({"ds": dates[-1:]}))["yhat"].iloc[0])


def prophet_packages() -> tuple[Any, Any]:
    """Return pandas and prophet. Raise SpecError if one of them is not installed."""
    try:
        return import_module("pandas"), import_module("prophet")
    except ImportError:
        raise SpecError(
            "predictor prophet: expected the package prophet, found none: pip install prophet, or "
            "take another predictor"
        ) from None


def holt(
    times_s: Sequence[float],
    series: Sequence[float],
    *,
    ahead_s: float,
    level: float = 0.5,
    trend: float = 0.2,
    damping: float = 1.0,
) -> float:
    """Return the value *ahead_s* after the last of *series*, by its level and its trend; the trend
    is *damping* of itself after each interval of the series.
    """
    if len(series) < 2:
        return max(series[-1], 0.0) if series else 0.0
    interval_s = (times_s[-1] - times_s[0]) / (len(series) - 1)
    now, slope = series[0], 0.0
    for value in series[1:]:
        before = now
        now = level * value + (1 - level) * (now + damping * slope)
        slope = trend * (now - before) + (1 - trend) * damping * slope
    steps = ahead_s / interval_s if interval_s > 0 else 0.0
    reach = steps if damping >= 1.0 else damping * (1 - damping**steps) / (1 - damping)
    return float(max(now + reach * slope, 0.0))


def seasonal(
    times_s: Sequence[float], series: Sequence[float], *, ahead_s: float, season_s: float
) -> float | None:
    """Return the value of one season before, at the same distance from the present level; None if
    the past does not reach so far.
    """
    then_s, before_s = times_s[-1] + ahead_s - season_s, times_s[-1] - season_s
    if not series or before_s < times_s[0] or then_s > times_s[-1]:
        return None
    then, before = (float(np.interp(at_s, times_s, series)) for at_s in (then_s, before_s))
    return max(series[-1] * then / before if before > 0 else then, 0.0)


def _steady(values: npt.NDArray[np.float64]) -> bool:
    return float(np.ptp(values)) <= STEADY_SHARE * float(np.abs(values).max())


def _autoregression(values: npt.NDArray[np.float64]) -> tuple[int, float]:
    """Return the order, and the forecast of the next value."""
    changes = np.diff(values)
    differs = bool(changes.var() < values.var())
    base = changes if differs else values
    best: tuple[float, int, float] | None = None
    for order in range(min(ORDER_MAX, (len(base) - 2) // 2) + 1):
        score, forecast = _fitted(base, order)
        if best is None or score < best[0]:
            best = (score, order, forecast)
    assert best is not None
    _, order, forecast = best
    return order, float(values[-1]) + forecast if differs else forecast


def _fitted(values: npt.NDArray[np.float64], order: int) -> tuple[float, float]:
    """Return the criterion (less is better) and the forecast of an autoregression of *order*."""
    lags = min(ORDER_MAX, (len(values) - 2) // 2)
    # All orders are fitted to the same points: their criteria can be compared.
    target = values[lags:]
    columns = [values[lags - back : len(values) - back] for back in range(1, order + 1)]
    table = np.column_stack([np.ones(len(target)), *columns])
    weights, *_ = np.linalg.lstsq(table, target, rcond=None)
    count, free = len(target), order + 2
    error = float(np.mean((target - table @ weights) ** 2))
    spare = count - free - 1
    penalty = 2.0 * free * count / spare if spare > 0 else math.inf if order else 2.0 * free
    latest = [1.0, *(values[-back] for back in range(1, order + 1))]
    return count * math.log(max(error, 1e-300)) + penalty, float(np.dot(latest, weights))
