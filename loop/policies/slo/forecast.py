"""What a load will be when pods that are asked for now are ready: a bank of filters on a grid of
samples, and, of a load that has come back to what it was, what it was then. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from loop.policies.slo import filters
from loop.replacing import replace
from twin.frozen import made_quickly

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from loop.policies.slo.filters import Bank

    Floats = NDArray[np.float64]

STEP_S = 30.0  # of the grid: half a usual metrics window, so that neighbours share half their data
SAMPLES_MAX = 240  # two hours
ERRORS_MAX = 120  # the last hour of errors says how good a forecast is
ERRORS_MIN = 20  # before anything but the filters may be taken

# What was seen before must be better than the filters by this to take their place: the best of many
# is better than it should be.
BETTER_BY = 0.05
# A load whose windows have so much more or less than its level comes in bursts.
BURSTY = 0.3
PEAKS_FROM = 0.3  # of that, from which on the highest of the last minutes is tried
PEAK_STEPS = 10  # 300 s, what the horizontal pod autoscaler remembers of its recommendations
# A load is sure as long as its ninth decile is above its median by SURE at most, as a share of
# that, and nobody knows what it will be from UNSURE on; nor if the wildest moves are as likely as
# WILD.
HIGH, SURE, UNSURE = 0.9, 0.3, 0.5
WILD_FROM, WILD = 0.1, 0.5
# That has to stay so: a load that has jumped once looks like one that may be anything for a while.
UNSURE_S = 1200.0
# A load that was never more than so much of what comes now begins: what was before tells nothing.
NOTHING = 0.1
# A load that is below so much of the highest that was seen may go back to that, but no higher.
FALLEN = 0.6
# One that was as sure as this, and has fallen so far within so many samples, for the first time,
# is hardly higher than the highest of the last ones next.
FELL_SURE, FELL_STEPS, LAST_STEPS, ABOVE = 0.5, 16, 3, 1.15
# A load returns if it has gone so often from above its mean to below it, or back, by so many
# standard deviations at least.
CROSSINGS, WELL = 4, 0.5
RETURNS_FROM = 40  # samples that tell where an unsure load goes back to; with fewer, it stays
# Of a load that was more unsure than this for long, what it went back to says too little of how far
# it may rise: the filters that go back know that, too.
RETURNS_SURE = 0.5

# A season is a lag at which the history repeats itself: by this correlation, seen this often.
SEASON_CORRELATION, SEASON_CYCLES, SEASON_STEPS_MIN = 0.6, 2.5, 8


@dataclass(frozen=True, slots=True)
class Series:
    """Samples of one load [any unit], STEP_S apart, the oldest first; the first at start_s."""

    start_s: float = 0.0
    values: tuple[float, ...] = ()

    @property
    def next_s(self) -> float:
        """Return when the next sample is due."""
        return self.start_s + STEP_S * len(self.values)

    def is_due(self, now_s: float) -> bool:
        """Return whether the next sample is due."""
        return not self.values or now_s >= self.next_s - 1e-9

    def latest(self, length_s: float) -> tuple[float, ...]:
        """Return the samples of the last *length_s* before the last one, and that: others only once
        a next one is due.
        """
        return self.values[-1 - math.floor(length_s / STEP_S + 1e-9) :]

    def newest(self) -> Series:
        """Return the last sample alone."""
        return Series(self.next_s - STEP_S, self.values[-1:])

    def mean(self, length_s: float) -> float:
        """Return the mean of the last sample and those of the last *length_s* before it, one that
        is older by less than a step in part.
        """
        steps = length_s / STEP_S
        whole = int(steps)
        values = self.values[-1 - whole :]
        if len(values) <= whole or len(self.values) == len(values):
            return sum(values) / len(values)
        part = steps - whole
        return (sum(values) + part * self.values[-2 - whole]) / (len(values) + part)

    def as_array(self) -> Floats:
        """Return the samples as an array."""
        return np.fromiter(self.values, np.float64, len(self.values))

    def with_sample(self, value: float, *, now_s: float, most: bool = False) -> Series:
        """Return the series with what is seen at *now_s*, in the place of the last sample if the
        next is not due (*most*: the higher of the two); a gap is filled with it, and a series that
        is older than its longest memory begins anew.
        """
        if not self.values:
            return Series(now_s, (value,))
        if not self.is_due(now_s):
            # Not due yet, but newer than the last one: what is seen now counts.
            value = max(value, self.values[-1]) if most else value
            if value == self.values[-1]:
                return self
            return Series(self.start_s, (*self.values[:-1], value))
        missing = int((now_s - self.next_s) / STEP_S + 1e-9) + 1
        if missing > SAMPLES_MAX:
            return Series(now_s, (value,))
        dropped = max(0, len(self.values) + missing - SAMPLES_MAX)
        values = self.values[dropped:] + (value,) * missing
        return Series(self.start_s + STEP_S * dropped, values)

    def scaled(self, times: float) -> Series:
        """Return the series of so many *times* the load."""
        return Series(self.start_s, tuple(times * value for value in self.values))


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What is remembered of one load: its samples, each over window_s, the filters before the last
    one and now, what they said last, what they had planned for, and when, what it was to go back
    to, and how unsure its forecasts were. halves: the last sample shares half its window with the
    one before.
    """

    rates: Series = field(default_factory=Series)
    before: Bank | None = None
    bank: Bank | None = None
    said: filters.Ahead | None = None
    planned: Series = field(default_factory=Series)
    returning: Series = field(default_factory=Series)
    unsures: Series = field(default_factory=Series)
    window_s: float = 0.0
    halves: bool = False

    def scaled(self, times: float) -> History:
        """Return the history of so many *times* the load."""
        return replace(
            self,
            rates=self.rates.scaled(times),
            before=None if self.before is None else self.before.scaled(times),
            bank=None if self.bank is None else self.bank.scaled(times),
            planned=self.planned.scaled(times),
            returning=self.returning.scaled(times),
        )


@np.errstate(under="ignore")
def with_samples(
    histories: Sequence[History],
    values: Sequence[float],
    *,
    now_s: float,
    window_s: float,
    chances: Sequence[float] | None = None,
) -> list[History]:
    """Return each history with its one of *values*, seen at *now_s* over the last *window_s*. What
    chance adds to its variance is its one of *chances* (None: 1) times what counting requests adds.

    A sample that is not due takes the place of the last one.
    """
    found: list[History] = []
    chances = [1.0] * len(values) if chances is None else chances
    # What the filters have to follow, by steps: where the history is, and the filters before.
    due: dict[int, list[tuple[int, Bank]]] = {}
    for place, (history, value) in enumerate(zip(histories, values, strict=True)):
        last = history.rates
        rates = last.with_sample(value, now_s=now_s)
        begun = _begun(rates, window_s=window_s)
        anew = not last.values or rates.start_s > last.next_s
        steps = round((rates.next_s - last.next_s) / STEP_S)
        before = None if anew else history.before if steps == 0 else history.bank
        if begun is not None or before is None:
            found.append(_first(begun or rates, chance=chances[place], window_s=window_s))
        elif steps == 0 and value == last.values[-1]:
            found.append(history if rates is last else replace(history, rates=rates))
        else:
            found.append(replace(history, rates=rates, before=before, window_s=window_s))
            due.setdefault(max(1, steps), []).append((place, before))
    for steps, some in due.items():
        halves = window_s > STEP_S * steps
        overlap = filters.OVERLAP if halves else 1.0
        banks = filters.followed(
            [before for _, before in some],
            [values[place] for place, _ in some],
            steps=steps,
            counting=[
                chances[place] * overlap * poisson_noise(one.typical, window_s) ** 2
                for place, one in some
            ],
            halves=halves,
        )
        for (place, _), bank in zip(some, banks, strict=True):
            found[place] = replace(found[place], bank=bank, halves=halves)
    return found


def _first(rates: Series, *, chance: float, window_s: float) -> History:
    """Return the history of a load of which only the last of *rates* tells."""
    value = rates.values[-1]
    return History(
        rates=rates,
        bank=filters.first(value, counting=chance * poisson_noise(value, window_s) ** 2),
        returning=rates,
        window_s=window_s,
        halves=window_s > STEP_S,  # as far as one sample tells
    )


def begins(history: History, value: float, *, now_s: float, window_s: float) -> bool:
    """Return whether the load of *history* has just begun, as *value* is seen at *now_s* over the
    last *window_s*, which is not full of it yet.
    """
    rates = history.rates.with_sample(value, now_s=now_s)
    return _begun(rates, window_s=window_s) is not None


def _begun(rates: Series, *, window_s: float) -> Series | None:
    """Return *rates* from the last sample before the load began, if it has within the last
    *window_s*: windows are not full of it yet; else None.
    """
    within = math.ceil(window_s / STEP_S - 1e-9)
    before, value = rates.values[:-within], rates.values[-1]
    if not before or value <= 0.0 or max(before) > NOTHING * value:
        return None
    dropped = len(before) - 1
    return Series(rates.start_s + STEP_S * dropped, rates.values[dropped:])


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A load some time ahead, and how it was foreseen: futures that are equally likely, each >= 0,
    lowest first. now is what it is, without the chance of counting; bursts is how much of it comes
    and goes from window to window, as a share; wild is how likely it is one that may be anything
    next; lately how unsure its forecasts were on the mean of the last UNSURE_S, 0 to 1.
    """

    futures: Floats
    method: str
    now: float
    bursts: float = 0.0
    wild: float = 0.0
    lately: float = 1.0

    @property
    def bursty(self) -> float:
        """Return how far it is a load that comes in bursts, 0 to 1."""
        return min(1.0, self.bursts / BURSTY)

    @property
    def unsure(self) -> float:
        """Return how far nobody knows what the load will be, 0 to 1."""
        spread = (self.at(HIGH) - self.middle) / max(self.middle, 1e-9)
        by_spread = (spread - SURE) / (UNSURE - SURE)
        by_moves = (self.wild - WILD_FROM) / (WILD - WILD_FROM)
        return min(max(by_spread, by_moves, 0.0), 1.0)

    @property
    def stays_unsure(self) -> float:
        """Return how far nobody knows what the load will be, nor did lately, 0 to 1."""
        return min(self.unsure, self.lately)

    @property
    def strays(self) -> float:
        """Return how far it is a load that nobody can foresee, 0 to 1: none by the clock, and none
        that comes in bursts, which are over soon.
        """
        return 0.0 if self.method == "season" else self.stays_unsure * (1.0 - self.bursty)

    @property
    def middle(self) -> float:
        """Return the median of the futures."""
        return float(self.futures[len(self.futures) // 2])

    def at(self, quantile: float) -> float:
        """Return the load that no more than *quantile* of the futures are below."""
        return float(self.futures[min(int(quantile * len(self.futures)), len(self.futures) - 1)])


def steps_ahead(lead_s: float) -> int:
    """Return how many samples ahead *lead_s* is: all that a forecast depends on it by."""
    return max(1, round(lead_s / STEP_S))


@np.errstate(under="ignore")
def forecast(
    histories: Sequence[History], *, lead_s: Sequence[float], quantile: Sequence[float]
) -> list[tuple[Forecast, History]]:
    """Return of each history what the load will be *lead_s* ahead, and it with what the filters
    planned.

    quantile: 0 to 1, the share of futures that are to be no higher. The filters are taken unless
    the highest of the last minutes (of a load in bursts), what the load goes back to (of one that
    has just become unsure), or what was a season ago, has done better: by the mean pinball loss at
    *quantile* over the past (Koenker & Bassett 1978), with the errors that it had.
    """
    if not histories:
        return []
    banks = [history.bank for history in histories if history.bank is not None]
    assert len(banks) == len(histories), "a sample was seen"
    steps = [steps_ahead(each) for each in lead_s]
    together = zip(histories, _said(histories, banks, steps), quantile, strict=True)
    return [_forecast(history, said, share) for history, said, share in together]


def _said(
    histories: Sequence[History], banks: Sequence[Bank], steps: Sequence[int]
) -> list[filters.Ahead]:
    """Return what the *banks* of *histories* say ahead: what they said last, if nothing came since.
    A server that is sized anew is asked about in the next cycle again, at another quantile.
    """
    found = {
        place: history.said
        for place, (history, bank, each) in enumerate(zip(histories, banks, steps, strict=True))
        if history.said is not None and history.said.bank is bank and history.said.steps == each
    }
    new = [place for place in range(len(banks)) if place not in found]
    made = filters.ahead(
        [banks[place] for place in new],
        [steps[place] for place in new],
        halves=[histories[place].halves for place in new],
    )
    found.update(zip(new, made, strict=True))
    return [found[place] for place in range(len(banks))]


def _forecast(history: History, said: filters.Ahead, quantile: float) -> tuple[Forecast, History]:
    values, ahead = history.rates.as_array(), said.steps
    fell = _fell(history, values)
    by_filters = Forecast(
        futures=_no_higher_by_a_fall(said.futures, values, fell=fell),
        method="filters",
        now=said.now,
        bursts=said.bursts,
        wild=said.wild,
    )
    last_s = history.rates.next_s - STEP_S
    history = replace(
        history,
        said=said,
        planned=history.planned.with_sample(by_filters.at(quantile), now_s=last_s),
        returning=history.returning.with_sample(_returning(values, ahead), now_s=last_s),
    )
    best = _better(by_filters, history, values, ahead=ahead, quantile=quantile, fell=fell)
    unsures = history.unsures.with_sample(best.unsure, now_s=last_s)
    best = replace(best, lately=_lately(unsures))
    return best, replace(history, unsures=unsures)


def _lately(unsures: Series) -> float:
    """Return the mean of *unsures* over UNSURE_S; 0 if there is none."""
    lately = unsures.latest(UNSURE_S)
    return sum(lately) / len(lately) if lately else 0.0


def _no_higher_by_a_fall(futures: Floats, values: Floats, *, fell: bool) -> Floats:
    """Return *futures*, no higher than the highest of *values* if the last one is FALLEN from it,
    and hardly higher than the last ones if a load that was sure *fell*.

    To filters a fall is as good a reason for a rise: their chance has no side. But all that it
    tells is that the load may come back, of one that has done so before.
    """
    if not _fallen(values):
        return futures
    most = float(values.max())
    if fell:
        most = min(most, ABOVE * float(values[-LAST_STEPS:].max()))
    return np.minimum(futures, most)


def _fell(history: History, values: Floats) -> bool:
    """Tell whether a load that was sure has just fallen, and for the first time."""
    sure = _lately(history.unsures) < FELL_SURE
    return sure and _fallen(values[-FELL_STEPS:]) and not _returns(values)


def _fallen(values: Floats) -> bool:
    return bool(values[-1] <= FALLEN * values.max())


def _better(
    by_filters: Forecast,
    history: History,
    values: Floats,
    *,
    ahead: int,
    quantile: float,
    fell: bool,
) -> Forecast:
    """Return what was best in the past, of *by_filters* and of what needs the whole history."""
    planned = history.planned.as_array()
    count = min(len(values), len(planned)) - ahead
    if count < ERRORS_MIN:
        return by_filters
    count = min(count, ERRORS_MAX)
    later = values[len(values) - count :]
    least = (1.0 - BETTER_BY) * _pinball(
        later - planned[len(planned) - ahead - count : len(planned) - ahead], quantile
    )
    past = _of_the_past(values, ahead, bursty=by_filters.bursty > PEAKS_FROM)
    told = len(history.returning.values) == len(values) and by_filters.unsure > 0.0
    sure = _lately(history.unsures) <= RETURNS_SURE
    if told and sure and (not _fallen(values) or _returns(values)):
        past["returning"] = history.returning.as_array()
    best = by_filters
    for name, made in past.items():
        errors = np.sort(later - made[len(values) - ahead - count : len(values) - ahead])
        high = float(errors[min(int(quantile * count), count - 1)])
        loss = _pinball(errors - high, quantile)
        if loss < least:
            least = loss
            counting = poisson_noise(by_filters.now, history.window_s) ** 2
            futures = float(made[-1]) + _without_counting(errors, counting=counting)
            futures = _no_higher_by_a_fall(np.maximum(futures, 0.0), values, fell=fell)
            best = replace(by_filters, futures=futures, method=name)
    return best


def _returns(values: Floats) -> bool:
    """Tell whether *values* go from well above their mean to well below it, and back, again and
    again: of a load that has moved once, nobody knows that it will come back.
    """
    around, well = values - values.mean(), WELL * values.std()
    sides = np.sign(around[np.abs(around) > well])
    return int(np.count_nonzero(sides[1:] != sides[:-1])) >= CROSSINGS


def _without_counting(errors: Floats, *, counting: float) -> Floats:
    """Return *errors*, lowest first, nearer to their median by what *counting* adds to their
    variance.
    """
    variance, middle = float(errors.var()), errors[len(errors) // 2]
    kept = max(0.0, 1.0 - counting / variance) ** 0.5 if variance > 0.0 else 0.0
    found: Floats = middle + kept * (errors - middle)
    return found


def _of_the_past(values: Floats, ahead: int, *, bursty: bool) -> dict[str, Floats]:
    """Return by method what it would have said at each of *values* of the one *ahead* steps
    later.
    """
    made = {}
    if bursty:
        padded = np.concatenate([np.full(PEAK_STEPS, values[0]), values])
        windows = np.lib.stride_tricks.sliding_window_view(padded, PEAK_STEPS + 1)
        made["peak"] = windows.max(axis=1)
    season = season_steps(values)
    if season > 0:
        made["season"] = _seasonal(values, season, ahead)
    return made


def _returning(values: Floats, ahead: int) -> float:
    """Return what the last of *values* goes back to in *ahead* steps, as far as it did in the past:
    by linear regression.
    """
    now, then = values[:-ahead][-ERRORS_MAX:], values[ahead:][-ERRORS_MAX:]
    if len(now) < RETURNS_FROM:
        return float(values[-1])
    mean = now.sum() / len(now)
    around = now - mean
    power = float(around @ around)
    kept = min(max(float(around @ then) / power, 0.0), 1.0) if power > 0.0 else 0.0
    return float(then.sum() / len(then) + kept * (values[-1] - mean))


def season_steps(values: Floats) -> int:
    """Return the lag at which *values* repeat themselves most clearly, 0 if at none.

    The lag is the first peak of the autocorrelation that is as high as any later one, or nearly.
    """
    longest = int(len(values) / SEASON_CYCLES)
    if longest <= SEASON_STEPS_MIN:
        return 0
    around = values - values.sum() / len(values)
    power = float(around @ around)
    if power <= 0.0:
        return 0
    # All lags up to half of the history, that of 0 in the middle.
    found = np.correlate(around, around, "same")[len(values) // 2 :][: longest + 2]
    lags = np.arange(len(found))
    # Fewer pairs at longer lags: compared with as many of the power.
    found = found / power * len(values) / (len(values) - lags)
    if found[SEASON_STEPS_MIN:].max() < SEASON_CORRELATION:
        return 0
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


def _pinball(errors: Floats, quantile: float) -> float:
    """Return the mean loss of having planned for too little (above 0) or too much."""
    losses = np.maximum(quantile * errors, (quantile - 1.0) * errors)
    return float(losses.sum()) / len(errors)


def poisson_noise(rate_rpm: float, window_s: float) -> float:
    """Return the standard deviation of a rate [requests/min] that was counted over *window_s*."""
    return (max(rate_rpm, 0.0) * 60.0 / window_s) ** 0.5 if window_s > 0.0 else 0.0
