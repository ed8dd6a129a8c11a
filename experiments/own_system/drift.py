"""The twin against reality: what was measured of each server, what its data predict, since when the
two differ, and which coefficient of the latency model explains it. Pure.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from scipy.optimize import minimize_scalar

from experiments.own_system.points import KNOWN_MIN, Point, operating_point
from loop.signals.history import Stretch
from loop.spec import Perf, ServerData, SystemData
from loop.types import Load
from twin.fit.points import operate

Json = dict[str, Any]
# What can move: coefficients of the latency model (model-data.json), and what the engine is set to
# or its prompts are like (twin-data.json).
Part = Literal["alpha", "beta", "gamma", "overhead", "kvTokens", "tokensPerStep", "prefixShare"]
COEFFICIENTS = ("alpha", "beta", "gamma", "overhead")

# Of one window of one server so many loads are simulated, from light to heavy.
LOADS = 3
REQUESTS_MIN = 30
# Above this part of a full batch, measured or predicted, a burst queues: how long is chance.
BUSY_MAX = 0.75
# A mean TTFT of so many times the usual is of a queue.
QUEUED = 2.0
# Below this a difference is no drift: a change in time, and what was there from the beginning. Of
# the latter nothing says how far off one replica under Poisson arrivals is from several behind a
# router, under whatever came: up to 15 % over ten loads of the sample systems.
TOLERATED, TOLERATED_FROM_START = 0.05, 0.2
# A difference counts from so many windows on, and if it is so many times what chance makes of them.
WINDOWS_MIN, SIGMAS = 2, 3.0
# By how much the squared errors must fall for a change in time, or a coefficient, to be accepted.
ACCEPTED = 16.0
FACTORS = (0.4, 2.5)
KV_FACTORS = (0.03, 1.0)  # a larger one changes nothing where the old one was large enough
TOKENS_PER_STEP = (1.0, 5.0)
PREFIX_SHARE = (0.0, 0.95)
POINTS_OF_A_SEARCH = 9
PLACES, TOLERANCE = 7, 0.01  # of a search, as a part of its range
# Whatever explains the difference nearly as well is named too: what is left of the squared errors
# is at most so many times as much, or so much more.
NEARLY, NEARLY_MORE = 2.0, 4.0
# What is off by more than this many standard deviations on the mean is not explained.
EXPLAINED_SIGMAS = 1.0
# Pods that start by this factor slower or faster than the data say are told: one alone is easily a
# third off the mean.
START_UP_FACTOR = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was measured of one server over some minutes from t_s on [Unix time, or seconds of the
    run]. model, accelerator and max_batch: None if they were not told. start_up_s: of the pods of
    then.
    """

    t_s: float
    stretch: Stretch
    model: str | None = None
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
    prefix_share: float  # by the data
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
                math.log(point.ttft_ms / ttft_ms),
                math.log(point.itl_ms / itl_ms),
            )
            for point, (ttft_ms, itl_ms) in zip(self.points, self.predicted, strict=True)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What explains a drift: its value before and now. others explain it nearly as well."""

    name: Part
    before: float
    now: float
    others: tuple[Part, ...] = ()

    @property
    def factor(self) -> float | None:
        """Return now over before, None of nothing."""
        return self.now / self.before if self.before else None

    @property
    def is_coefficient(self) -> bool:
        """Tell whether it is of the latency model."""
        return self.name in COEFFICIENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDrift:
    """The drift of one model on one accelerator. since_s: from when on, None if there is none;
    from_start: it was there when the measurements began. moved None: nothing alone explains it.
    unsure: what is off may be chance, or is of too few windows to say. start_up_s: how long pods
    took, and take by the data, if the two are far apart.
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
    start_up_s: tuple[float, float] | None = None


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
            # A loop decides about whatever the cluster has: its data need not name the servers.
            model = next((one.model for one in every if one.model), "")
            if not model:
                notes.append(f"{name}: not in the data, and nothing tells its model")
                continue
            server = ServerData(name=name, model=model)
        windows: dict[tuple[int, str], list[Seen]] = defaultdict(list)
        for one in every:
            accelerator = one.accelerator or server.current.accelerator
            windows[int(one.t_s // window_s), accelerator].append(one)
        compared = 0
        for (number, accelerator), own in sorted(windows.items()):
            perf = system.perf.get((server.model, accelerator))
            if perf is None:
                engine = f"{server.model} on {accelerator or 'an unknown accelerator'}"
                notes.append(f"{name}: the data have no latency model of {engine}")
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
    counted, rates = 0, [0.0, 0.0]
    for place in np.array_split(np.arange(len(good)), min(LOADS, max(len(good), 1))):
        group = [good[k] for k in place.tolist()]
        if not group:
            continue
        point = Point(server=server.name, stretch=merged([one.stretch for one in group]))
        if point.stretch.requests < REQUESTS_MIN:
            continue
        ttft_ms, itl_ms = predict(
            perf,
            point,
            max_batch=max_batch,
            prefix_share=server.prefix_share,
            token_cv=server.token_cv,
        )
        stretch = point.stretch
        held_ms = ttft_ms + itl_ms * stretch.load.out_tokens
        in_flight = (stretch.per_replica_rpm or 0.0) * held_ms / 60_000.0
        if max(stretch.running, in_flight) > BUSY_MAX * max_batch:
            continue
        points.append(point)
        predicted.append((ttft_ms, itl_ms))
        most_rpm = stretch.replicas * max_batch * 60_000.0 / held_ms
        counted += len(group)
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
        prefix_share=server.prefix_share,
        predicted=tuple(predicted),
        throughput_rpm=(rates[0] / counted, rates[1] / counted),
        start_up_s=(sum(took) / len(took) if took else None, perf.start_up_s),
    )


def merged(stretches: Sequence[Stretch]) -> Stretch:
    """Return several stretches of time, at least one, as one: means by request, rates by time. What
    one of them does not know is not known.
    """
    weights = np.array([max(one.requests, 1e-9) for one in stretches])
    tokens = weights * np.array([max(one.load.out_tokens, 1e-9) for one in stretches])

    def by_request(values: Sequence[float]) -> float:
        return float(np.average(values, weights=weights))

    def by_time(values: Sequence[float]) -> float:
        return float(np.mean(values))

    def without_queues(values: Sequence[float]) -> float:
        # One that no sample saw is the greater part of a mean, of ten minutes or of a day. A median
        # would leave out the long prompts, too.
        told = np.array(values)
        usual = told <= QUEUED * np.median(told)
        return float(np.average(told[usual], weights=weights[usual]))

    def by_token(values: Sequence[float]) -> float:
        return float(np.average(values, weights=tokens))

    def if_told(
        values: Sequence[float | None], mean: Callable[[Sequence[float]], float] = by_request
    ) -> float | None:
        told = [value for value in values if value is not None]
        return mean(told) if len(told) == len(values) else None

    return Stretch(
        load=Load(
            rate_rpm=by_time([one.load.rate_rpm for one in stretches]),
            in_tokens=by_request([one.load.in_tokens for one in stretches]),
            out_tokens=by_request([one.load.out_tokens for one in stretches]),
        ),
        per_replica_rpm=if_told([one.per_replica_rpm for one in stretches], by_time),
        replicas=by_time([one.replicas for one in stretches]),
        requests=float(sum(one.requests for one in stretches)),
        ttft_ms=if_told([one.ttft_ms for one in stretches], without_queues),
        itl_ms=if_told([one.itl_ms for one in stretches], by_token),
        completions_rpm=by_time([one.completions_rpm for one in stretches]),
        running=by_time([one.running for one in stretches]),
        waiting=by_time([one.waiting for one in stretches]),
        prefix_share=if_told([one.prefix_share for one in stretches]),
        tokens_per_step=if_told([one.tokens_per_step for one in stretches]),
    )


def predict(
    perf: Perf,
    point: Point,
    *,
    max_batch: int,
    prefix_share: float,
    token_cv: float,
) -> tuple[float, float]:
    """Return the TTFT and the ITL [ms] of a replica of the twin at *point*; *prefix_share* is the
    cached part of the prompts where the engine does not tell it.
    """
    load = operating_point(point, token_cv=token_cv)
    if point.stretch.prefix_share is None:
        load = replace(load, prefix_share=prefix_share)
    steady = operate(
        load,
        latency_model=perf.latency_model,
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
    plain = EngineDrift(
        model=perf.model,
        accelerator=perf.accelerator,
        windows=tuple(windows),
        start_up_s=_start_up_s(windows),
    )
    logs, weights = _table(windows)
    times_s = np.array([window.t_s for window in windows])
    split = _split(logs, weights, times_s)
    before = times_s < split if split is not None else np.zeros(len(times_s), dtype=bool)
    base = _mean(logs[before], weights[before]) if before.any() else np.zeros(2)
    after = _mean(logs[~before], weights[~before]) - base
    plain = replace(plain, ttft_ratio=float(np.exp(after[0])), itl_ratio=float(np.exp(after[1])))
    off = np.abs(after).max()
    if off < math.log1p(TOLERATED_FROM_START if split is None else TOLERATED):
        return plain
    if len(windows) < WINDOWS_MIN or off < SIGMAS * _chance(logs[~before], weights[~before]):
        return replace(plain, unsure=True)
    late = [window for window, early in zip(windows, before.tolist(), strict=True) if not early]
    moved = _moved(perf, late, base=base)
    if split is None and moved is None:
        # As likely as an engine: requests that come in bursts, or a router of another kind.
        return replace(plain, unsure=True)
    return replace(
        plain,
        since_s=float(split if split is not None else times_s.min()),
        from_start=split is None,
        moved=moved,
    )


def _start_up_s(windows: Sequence[Window]) -> tuple[float, float] | None:
    """Return how long pods took on the mean, and take by the data, if these are far apart."""
    told = [
        (took_s, by_data_s)
        for took_s, by_data_s in (one.start_up_s for one in windows)
        if took_s and by_data_s
    ]
    if not told:
        return None
    took_s, by_data_s = (sum(values) / len(told) for values in zip(*told, strict=True))
    return (
        (took_s, by_data_s)
        if abs(math.log(took_s / by_data_s)) > math.log(START_UP_FACTOR)
        else None
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
    """Return the time from which on the ratios are others than before, None if there is none: with
    two windows at least on each side, as one may be of a bad hour.
    """

    def misfit(part: np.ndarray) -> np.ndarray:
        apart = logs[part] - _mean(logs[part], weights[part])
        of_each: np.ndarray = (weights[part, None] * apart**2).sum(axis=0)
        return of_each

    whole = misfit(np.ones(len(times_s), dtype=bool))
    best: tuple[float, float] | None = None
    for time_s in np.unique(times_s)[WINDOWS_MIN : 1 - WINDOWS_MIN].tolist():
        late = times_s >= time_s
        left = misfit(late) + misfit(~late)
        # Windows that are further apart than their weights let expect say less.
        apart = np.maximum(left / max(len(logs) - 2, 1), 1.0)
        gain = float(((whole - left) / apart).sum())
        step = _mean(logs[late], weights[late]) - _mean(logs[~late], weights[~late])
        if np.abs(step).max() >= math.log1p(TOLERATED) and (best is None or gain > best[0]):
            best = (gain, time_s)
    return best[1] if best is not None and best[0] > ACCEPTED else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cause:
    """Something that may have moved: its value by the data, between which values it is looked for,
    and the engine and the cached part of its prompts with another value.
    """

    name: Part
    before: float
    low: float
    high: float
    changed: Callable[[float], tuple[Perf, float | None]]
    is_factor: bool = True  # it is looked for by its logarithm
    # The engine would tell if it counted it: taken for the cause only if nothing else comes near.
    is_untold: bool = False


def _causes(perf: Perf, windows: Sequence[Window]) -> list[_Cause]:
    """Return all that may have moved. What engines tell themselves need not be looked for."""
    points = [point for window in windows for point in window.points]
    ttft_ms = float(np.median([one.ttft_ms for one in points]))
    share = float(np.mean([window.prefix_share for window in windows]))
    stretches = [one.stretch for one in points]
    return [*_coefficients(perf, ttft_ms=ttft_ms), *_settings(perf, stretches, share=share)]


def _coefficients(perf: Perf, *, ttft_ms: float) -> list[_Cause]:
    def scaled(fields: Sequence[str], factor: float) -> tuple[Perf, None]:
        values = {name: getattr(perf, name) for name in fields}
        return replace(perf, **{k: v * factor for k, v in values.items() if v is not None}), None

    def coefficient(name: Part, before: float, *fields: str) -> _Cause:
        low, high = (before * factor for factor in FACTORS)
        return _Cause(
            name=name,
            before=before,
            low=low,
            high=high,
            changed=lambda value: scaled(fields, value / before),
        )

    model = perf.latency_model
    found = [
        coefficient("alpha", model.alpha_ms, "alpha_ms", "launch_ms", "weights_ms", "experts_ms"),
        coefficient("beta", model.beta_ms, "beta_ms"),
        coefficient("gamma", model.gamma_ms, "gamma_ms"),
    ]
    # It may begin at nothing, so it has no factor.
    overhead = _Cause(
        name="overhead",
        before=perf.overhead_ms,
        low=0.0,
        high=perf.overhead_ms + ttft_ms,
        changed=lambda value: (replace(perf, overhead_ms=value), None),
        is_factor=False,
    )
    return [*(one for one in found if one.before > 0.0), overhead]


def _settings(perf: Perf, stretches: Sequence[Stretch], *, share: float) -> list[_Cause]:
    found = []
    if perf.kv_tokens:
        low, high = (perf.kv_tokens * factor for factor in KV_FACTORS)
        found.append(
            _Cause(
                name="kvTokens",
                before=perf.kv_tokens,
                low=low,
                high=high,
                changed=lambda value: (replace(perf, kv_tokens=round(value)), None),
            )
        )
    steps = [one.tokens_per_step for one in stretches]
    told = [value for value in steps if value is not None]
    low, high = TOKENS_PER_STEP
    if len(told) == len(steps):
        low = high = float(np.mean(told))
    if high > low or abs(low / perf.tokens_per_step - 1.0) > TOLERATED:
        found.append(
            _Cause(
                name="tokensPerStep",
                before=perf.tokens_per_step,
                low=low,
                high=high,
                changed=lambda value: (replace(perf, tokens_per_step=value), None),
                is_factor=False,
                is_untold=high > low,
            )
        )
    if any(one.prefix_share is None for one in stretches):
        low, high = PREFIX_SHARE
        found.append(
            _Cause(
                name="prefixShare",
                before=share,
                low=low,
                high=high,
                changed=lambda value: (perf, value),
                is_factor=False,
                is_untold=True,
            )
        )
    return found


def _moved(perf: Perf, windows: Sequence[Window], *, base: np.ndarray) -> Moved | None:
    """Return what explains what *windows* measured, beside what was off *base* from the beginning;
    None if nothing alone does.
    """
    every = [(point, window) for window in windows for point in window.points]
    every.sort(key=lambda one: one[0].stretch.running)
    chosen = np.unique(np.linspace(0, len(every) - 1, POINTS_OF_A_SEARCH).round().astype(int))
    every = [every[place] for place in chosen.tolist()]
    known = np.array([point.known_within for point, _ in every])
    measured = np.array([(math.log(point.ttft_ms), math.log(point.itl_ms)) for point, _ in every])

    def misfit(changed: Perf, prefix_share: float | None) -> float:
        predicted = np.log(
            [
                predict(
                    changed,
                    point,
                    max_batch=window.max_batch,
                    prefix_share=window.prefix_share if prefix_share is None else prefix_share,
                    token_cv=window.token_cv,
                )
                for point, window in every
            ]
        )
        apart = (measured - predicted - base) / known[:, None]
        return float(np.log1p(apart**2).sum())

    def of_cause(cause: _Cause, value: float) -> float:
        return misfit(*cause.changed(value))

    nothing = misfit(perf, None)
    found = [(*_least(partial(of_cause, cause), cause), cause) for cause in _causes(perf, windows)]
    loss, value, cause = min(found, key=lambda one: one[0] + NEARLY_MORE * one[2].is_untold)
    if nothing - loss < 2.0 or loss > math.log1p(EXPLAINED_SIGMAS**2) * 2 * len(every):
        return None
    return Moved(
        name=cause.name,
        before=cause.before,
        now=value,
        others=tuple(
            other.name
            for other_loss, _, other in found
            if other is not cause and other_loss < max(loss * NEARLY, loss + NEARLY_MORE)
        ),
    )


def _least(misfit: Callable[[float], float], cause: _Cause) -> tuple[float, float]:
    """Return the least *misfit* of a value of *cause*, and that value."""
    if cause.low == cause.high:
        return misfit(cause.low), cause.low

    def value_of(place: float) -> float:
        if cause.is_factor:
            return cause.low * math.exp(place * math.log(cause.high / cause.low))
        return cause.low + (cause.high - cause.low) * place

    # Of a KV cache that is large enough any size fits equally well: a slope has to be found first.
    places = np.linspace(0.0, 1.0, PLACES)
    near = float(places[np.argmin([misfit(value_of(place)) for place in places.tolist()])])
    width = 1.0 / (PLACES - 1)
    best = minimize_scalar(
        lambda place: misfit(value_of(place)),
        bounds=(max(near - width, 0.0), min(near + width, 1.0)),
        method="bounded",
        options={"xatol": TOLERANCE},
    )
    return float(best.fun), value_of(float(best.x))
