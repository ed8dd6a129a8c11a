"""The twin against reality: what was measured of each server, what its data predict, since when the
two differ, and which coefficient of the latency model explains it. Pure.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, cast

import numpy as np
from scipy.optimize import minimize_scalar

from experiments.own_system.points import KNOWN_MIN, Point, operating_point
from loop.signals.history import Stretch
from loop.spec import Perf, ServerData, SystemData
from loop.types import Load
from twin.fit.points import operate
from twin.spec import LatencyModel

Json = dict[str, Any]
Coefficient = Literal["alpha", "beta", "gamma", "overhead"]

# Of one window of one server so many loads are simulated, from light to heavy.
LOADS = 3
REQUESTS_MIN = 30
# Below this a difference is no drift: the twin itself is off by as much.
TOLERATED = 0.05
# A difference counts from so many windows on, and if it is so many times what chance makes of them.
WINDOWS_MIN, SIGMAS = 2, 3.0
# By how much the squared errors must fall for a change in time, or a coefficient, to be accepted.
ACCEPTED = 16.0
FACTORS = (0.4, 2.5)
POINTS_OF_A_SEARCH = 9
FACTOR_TOLERANCE = 0.01
# Another coefficient that explains the difference nearly as well is named too.
NEARLY = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was measured of one server over some minutes from t_s on [Unix time, or seconds of the
    run]. accelerator and max_batch: None if they were not told. start_up_s: of the pods of then.
    """

    t_s: float
    stretch: Stretch
    accelerator: str | None = None
    max_batch: int | None = None
    start_up_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One server over one stretch of time: measured and predicted, each with its load."""

    server: str
    t_s: float
    points: tuple[Point, ...]
    max_batch: int
    token_cv: float
    predicted: tuple[tuple[float, float], ...]  # TTFT, ITL [ms] of each point
    throughput_rpm: tuple[float, float]  # measured, predicted
    start_up_s: tuple[float | None, float | None]

    def ratio(self, metric: Literal["ttft", "itl"]) -> float:
        """Return measured over predicted, by the geometric mean of the points."""
        return float(np.exp(np.mean([one[metric == "itl"] for one in self.log_ratios])))

    @property
    def log_ratios(self) -> list[tuple[float, float]]:
        """Return the logarithms of measured over predicted TTFT and ITL by point."""
        return [
            (
                math.log((point.stretch.ttft_ms or 1.0) / ttft_ms),
                math.log((point.stretch.itl_ms or 1.0) / itl_ms),
            )
            for point, (ttft_ms, itl_ms) in zip(self.points, self.predicted, strict=True)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """Which coefficient explains a drift: its value before and now. others explain it nearly as
    well.
    """

    name: Coefficient
    before: float
    now: float
    others: tuple[Coefficient, ...] = ()

    @property
    def factor(self) -> float:
        """Return now over before."""
        return self.now / self.before if self.before else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDrift:
    """The drift of one model on one accelerator. since_s: from when on, None if there is none;
    from_start: it was there when the measurements began. moved None: no coefficient explains it.
    unsure: what is off may be chance, or is of too few windows to say.
    """

    model: str
    accelerator: str
    windows: tuple[Window, ...]
    since_s: float | None = None
    from_start: bool = False
    ttft_ratio: float = 1.0
    itl_ratio: float = 1.0
    moved: Moved | None = None
    unsure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The drift of a system, and what could not be compared."""

    engines: tuple[EngineDrift, ...]
    notes: tuple[str, ...] = field(default=())


def drift_of(seen: Mapping[str, Sequence[Seen]], system: SystemData, *, window_s: float) -> Drift:
    """Return the drift of the servers *seen* against *system*, by windows of *window_s*."""
    notes: list[str] = []
    found: dict[tuple[str, str], list[Window]] = defaultdict(list)
    for name, every in seen.items():
        server = system.servers.get(name)
        if server is None:
            notes.append(f"{name}: not in the data")
            continue
        windows: dict[tuple[int, str], list[Seen]] = defaultdict(list)
        for one in every:
            accelerator = one.accelerator or server.current.accelerator
            windows[int(one.t_s // window_s), accelerator].append(one)
        compared = 0
        for (number, accelerator), own in sorted(windows.items()):
            perf = system.perf.get((server.model, accelerator))
            if perf is None:
                notes.append(f"{name}: the data know no latency model of it on {accelerator!r}")
                continue
            window = _window(server, perf, own, t_s=number * window_s)
            if window is not None:
                found[server.model, accelerator].append(window)
                compared += 1
        if not compared:
            notes.append(f"{name}: too little was measured of it: no steady load with latencies")
    return Drift(
        engines=tuple(
            _engine(system.perf[key], sorted(windows, key=lambda one: one.t_s))
            for key, windows in found.items()
        ),
        notes=tuple(dict.fromkeys(notes)),
    )


def _window(server: ServerData, perf: Perf, every: Sequence[Seen], *, t_s: float) -> Window | None:
    good = [one for one in every if one.stretch.ttft_ms and one.stretch.itl_ms]
    good.sort(key=lambda one: (one.stretch.per_replica_rpm or 0.0, one.t_s))
    told = next((one.max_batch for one in good if one.max_batch), 0)
    max_batch = told or server.current.max_batch or perf.max_batch or 1
    points, predicted = [], []
    rates = [0.0, 0.0]
    for place in np.array_split(np.arange(len(good)), min(LOADS, max(len(good), 1))):
        group = [good[k] for k in place.tolist()]
        point = Point(server=server.name, stretch=merged([one.stretch for one in group]))
        if not group or point.stretch.requests < REQUESTS_MIN:
            continue
        ttft_ms, itl_ms = predict(perf, point, max_batch=max_batch, token_cv=server.token_cv)
        points.append(point)
        predicted.append((ttft_ms, itl_ms))
        stretch = point.stretch
        held_ms = ttft_ms + itl_ms * stretch.load.out_tokens
        most_rpm = stretch.replicas * max_batch * 60_000.0 / held_ms
        rates[0] += stretch.completions_rpm * len(group)
        rates[1] += min(stretch.load.rate_rpm, most_rpm) * len(group)
    if not points:
        return None
    took = [one.start_up_s for one in every if one.start_up_s is not None]
    return Window(
        server=server.name,
        t_s=t_s,
        points=tuple(points),
        max_batch=max_batch,
        token_cv=server.token_cv,
        predicted=tuple(predicted),
        throughput_rpm=(rates[0] / len(good), rates[1] / len(good)),
        start_up_s=(sum(took) / len(took) if took else None, perf.start_up_s),
    )


def merged(stretches: Sequence[Stretch]) -> Stretch:
    """Return several stretches of time as one: means by request, rates by time."""
    weights = np.array([max(one.requests, 1e-9) for one in stretches])

    def by_request(values: Sequence[float]) -> float:
        return float(np.average(values, weights=weights)) if stretches else 0.0

    def by_time(values: Sequence[float]) -> float:
        return float(np.mean(values)) if stretches else 0.0

    tokens = weights * np.array([max(one.load.out_tokens, 1e-9) for one in stretches])
    return Stretch(
        load=Load(
            rate_rpm=by_time([one.load.rate_rpm for one in stretches]),
            in_tokens=by_request([one.load.in_tokens for one in stretches]),
            out_tokens=by_request([one.load.out_tokens for one in stretches]),
        ),
        per_replica_rpm=by_time([one.per_replica_rpm or 0.0 for one in stretches]),
        replicas=by_time([one.replicas for one in stretches]),
        requests=float(sum(one.requests for one in stretches)),
        ttft_ms=by_request([one.ttft_ms or 0.0 for one in stretches]),
        itl_ms=float(np.average([one.itl_ms or 0.0 for one in stretches], weights=tokens))
        if stretches
        else 0.0,
        completions_rpm=by_time([one.completions_rpm for one in stretches]),
        running=by_time([one.running for one in stretches]),
        waiting=by_time([one.waiting for one in stretches]),
    )


def predict(
    perf: Perf,
    point: Point,
    *,
    max_batch: int,
    latency_model: LatencyModel | None = None,
    token_cv: float,
) -> tuple[float, float]:
    """Return the TTFT and the ITL [ms] of a replica of the twin at *point*."""
    steady = operate(
        operating_point(point, token_cv=token_cv),
        latency_model=latency_model or perf.latency_model,
        max_batch=max(max_batch, 1),
        token_budget=8192,
        kv_tokens=perf.kv_tokens,
        scheduling=perf.scheduling,
        overhead_ms=perf.overhead_ms,
        tokens_per_step=perf.tokens_per_step,
    )
    return steady.ttft_s * 1e3, max(steady.itl_s, 1e-9) * 1e3


# -- since when, and why


def _engine(perf: Perf, windows: Sequence[Window]) -> EngineDrift:
    plain = EngineDrift(model=perf.model, accelerator=perf.accelerator, windows=tuple(windows))
    logs, weights = _table(windows)
    times_s = np.array([window.t_s for window in windows])
    split = _split(logs, weights, times_s)
    before = times_s < split if split is not None else np.zeros(len(times_s), dtype=bool)
    base = _mean(logs[before], weights[before]) if before.any() else np.zeros(2)
    after = _mean(logs[~before], weights[~before]) - base
    plain = replace(plain, ttft_ratio=float(np.exp(after[0])), itl_ratio=float(np.exp(after[1])))
    off = np.abs(after).max()
    if off < math.log1p(TOLERATED):
        return plain
    if len(windows) < WINDOWS_MIN or off < SIGMAS * _chance(logs[~before], weights[~before]):
        return replace(plain, unsure=True)
    late = [window for window, early in zip(windows, before.tolist(), strict=True) if not early]
    return replace(
        plain,
        since_s=float(split if split is not None else times_s.min()),
        from_start=split is None,
        moved=_moved(perf, late, base=base),
    )


def _table(windows: Sequence[Window]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean log ratios of TTFT and ITL by window, and what they weigh."""
    logs = np.array([np.mean(window.log_ratios, axis=0) for window in windows])
    known = np.array(
        [
            math.sqrt(sum(point.known_within**2 for point in window.points)) / len(window.points)
            for window in windows
        ]
    )
    return logs, 1.0 / np.maximum(known, KNOWN_MIN / 2.0) ** 2


def _mean(logs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    mean: np.ndarray = np.average(logs, axis=0, weights=weights)
    return mean


def _chance(logs: np.ndarray, weights: np.ndarray) -> float:
    """Return the standard error of the weighted mean of *logs*, by how far they are apart and by
    what they weigh, the larger of the two.
    """
    told = 1.0 / math.sqrt(float(weights.sum()))
    if len(logs) < 2:
        return told
    apart = (weights[:, None] * (logs - _mean(logs, weights)) ** 2).sum(axis=0) / weights.sum()
    return max(told, math.sqrt(float(apart.max()) / (len(logs) - 1)))


def _split(logs: np.ndarray, weights: np.ndarray, times_s: np.ndarray) -> float | None:
    """Return the time from which on the ratios are others than before, None if there is none."""

    def misfit(part: np.ndarray) -> float:
        if not part.any():
            return 0.0
        apart = logs[part] - _mean(logs[part], weights[part])
        return float((weights[part, None] * apart**2).sum())

    whole = misfit(np.ones(len(times_s), dtype=bool))
    best: tuple[float, float] | None = None
    for time_s in np.unique(times_s)[1:].tolist():
        late = times_s >= time_s
        gain = whole - misfit(late) - misfit(~late)
        step = _mean(logs[late], weights[late]) - _mean(logs[~late], weights[~late])
        if np.abs(step).max() >= math.log1p(TOLERATED) and (best is None or gain > best[0]):
            best = (gain, time_s)
    return best[1] if best is not None and best[0] > ACCEPTED else None


def _moved(perf: Perf, windows: Sequence[Window], *, base: np.ndarray) -> Moved | None:
    """Return the coefficient that explains what *windows* measured, beside what was off *base* from
    the beginning.
    """
    every = [(point, window) for window in windows for point in window.points]
    every.sort(key=lambda one: one[0].stretch.running)
    chosen = np.unique(np.linspace(0, len(every) - 1, POINTS_OF_A_SEARCH).round().astype(int))
    every = [every[place] for place in chosen.tolist()]
    known = np.array([point.known_within for point, _ in every])
    measured = np.array(
        [
            (math.log(point.stretch.ttft_ms or 1.0), math.log(point.stretch.itl_ms or 1.0))
            for point, _ in every
        ]
    )
    before = {
        "alpha": perf.latency_model.alpha_ms,
        "beta": perf.latency_model.beta_ms,
        "gamma": perf.latency_model.gamma_ms,
        "overhead": perf.overhead_ms,
    }

    def misfit(name: str, factor: float) -> float:
        model = perf.latency_model
        changed = perf
        if name == "overhead":
            changed = replace(perf, overhead_ms=perf.overhead_ms * factor)
        elif name == "alpha":
            parts = ("alpha_ms", "launch_ms", "experts_ms")
            model = replace(model, **{part: getattr(model, part) * factor for part in parts})
        else:
            field_name = f"{name}_ms"
            model = replace(model, **{field_name: getattr(model, field_name) * factor})
        predicted = np.log(
            [
                predict(
                    changed,
                    point,
                    max_batch=window.max_batch,
                    token_cv=window.token_cv,
                    latency_model=model,
                )
                for point, window in every
            ]
        )
        apart = (measured - predicted - base) / known[:, None]
        return float(np.log1p(apart**2).sum())

    nothing = misfit("alpha", 1.0)
    found: list[tuple[float, float, str]] = []
    for name, value in before.items():
        if value <= 0.0:
            continue
        found.append((*_least(partial(misfit, name)), name))
    loss, factor, name = min(found)
    if nothing - loss < 2.0:
        return None
    others = tuple(
        cast("Coefficient", other)
        for other_loss, _, other in found
        if other != name and other_loss < loss * NEARLY
    )
    return Moved(
        name=cast("Coefficient", name),
        before=before[name],
        now=before[name] * factor,
        others=others,
    )


def _least(misfit: Callable[[float], float]) -> tuple[float, float]:
    """Return the least *misfit* of a factor, and that factor."""

    def of_log(log_factor: float) -> float:
        return misfit(math.exp(log_factor))

    low, high = (math.log(end) for end in FACTORS)
    best = minimize_scalar(
        of_log, bounds=(low, high), method="bounded", options={"xatol": FACTOR_TOLERANCE}
    )
    return float(best.fun), math.exp(float(best.x))
