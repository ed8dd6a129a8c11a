"""When requests arrive and how many tokens they have: unit-rate processes, by name or of one's own,
warped by a rate; and token counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

from twin.registry import name_of, resolve
from twin.spec import CV_MIN, SpecError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from twin.spec import Named, TokenDistribution

_BLOCK = 256
# Of gaps whose mean is one, as many reach further than this by far; of gaps of 0 none ever would.
_DRAWN_MAX = 100_000
_DRAWN_FACTOR_MAX = 100.0
_TINY = float(np.finfo(np.float64).tiny)


class ArrivalProcess(Protocol):
    """The gaps between the arrivals of a stationary process of rate one: their mean is 1 in the
    long run. All its chance comes from the generator that it is made with.
    """

    def first(self) -> float:
        """Draw the wait from an arbitrary instant to the first arrival."""
        ...

    def gaps(self, count: int) -> NDArray[np.float64]:
        """Draw the next *count* gaps; which they are must not depend on how many are asked for at
        once.
        """
        ...


class ArrivalFactory(Protocol):
    """Makes a process; *cv* is the coefficient of variation that data or scenario ask for."""

    def __call__(self, rng: np.random.Generator, *, cv: float) -> ArrivalProcess:
        """Return a process at its beginning."""
        ...


class Renewal:
    """Independent gaps: exponential (cv 1: a Poisson process), or gamma-distributed with mean 1 and
    coefficient of variation *cv* (0: evenly spaced).
    """

    __slots__ = ("_cv", "_rng")

    def __init__(self, rng: np.random.Generator, *, cv: float = 1.0) -> None:
        self._rng = rng
        self._cv = cv if cv >= CV_MIN else 0.0

    def first(self) -> float:
        """Draw the first wait: a uniform part of a gap chosen in proportion to its length."""
        if self._cv == 0.0:
            return self._rng.random()
        if self._cv == 1.0:
            return self._rng.standard_exponential()
        variance = self._cv * self._cv
        return self._rng.standard_gamma(1.0 / variance + 1.0) * variance * self._rng.random()

    def gaps(self, count: int) -> NDArray[np.float64]:
        """Draw the next *count* gaps."""
        if self._cv == 0.0:
            return np.ones(count)
        if self._cv == 1.0:
            return self._rng.standard_exponential(count)
        variance = self._cv * self._cv
        return self._rng.standard_gamma(1.0 / variance, count) * variance


ARRIVAL_PROCESSES: Mapping[str, ArrivalFactory] = {"renewal": Renewal}


class ArrivalStream:
    """A *process* of rate one, mapped through the cumulated rate that the caller gives.

    It is stationary from the start. Which arrivals come depends on the generator and on the
    cumulated rate only, not on how the time is cut into calls, so a policy cannot move them.
    """

    __slots__ = ("_ahead", "_cv", "_process")

    def __init__(
        self, rng_arrivals: np.random.Generator, *, cv: float = 1.0, process: Named = "renewal"
    ) -> None:
        assert 0.0 <= cv < math.inf, f"cv must be finite and >= 0, got {cv}"
        factory = resolve(process, kind="arrival process", known=ARRIVAL_PROCESSES)
        try:
            self._process = factory(rng_arrivals, cv=cv)
            first = self._process.first()
        except (TypeError, AttributeError) as error:
            raise SpecError(f"arrival process {name_of(process)}: {error}") from error
        self._cv = cv if cv >= CV_MIN else 0.0
        # Positions of the arrivals drawn but not yet due, in units of the process, from the
        # present.
        self._ahead = _gaps([first])

    def until(
        self, t0_s: float, t1_s: float, rate_rps_at_t0: float, rate_rps_at_t1: float | None = None
    ) -> NDArray[np.float64]:
        """Return the arrival instants in [t0_s, t1_s), ascending, for a rate that is linear in
        between.

        Without *rate_rps_at_t1* the rate is constant. Each call goes on where the one before ended.
        """
        rate_rps_at_t1 = rate_rps_at_t0 if rate_rps_at_t1 is None else rate_rps_at_t1
        units = _cumulated(t0_s, t1_s, rate_rps_at_t0, rate_rps_at_t1)
        self._draw_beyond(units)
        due = int(self._ahead.searchsorted(units, side="left"))
        positions, self._ahead = self._ahead[:due], self._ahead[due:] - units
        return _instants(positions, t0_s, t1_s, rate_rps_at_t0, rate_rps_at_t1)

    def _draw_beyond(self, units: float) -> None:
        drawn, drawn_max = 0, _DRAWN_MAX + _DRAWN_FACTOR_MAX * units
        while self._ahead[-1] < units:
            if drawn > drawn_max:
                raise SpecError(
                    f"arrival process: expected gaps of mean 1, found {drawn} in a row that are "
                    f"shorter than {units:g} together"
                )
            missing = units - self._ahead[-1]
            count = _BLOCK + int(missing + 3.0 * self._cv * math.sqrt(missing))
            more = self._ahead[-1] + np.cumsum(_gaps(self._process.gaps(count)))
            self._ahead = np.concatenate((self._ahead, more))
            drawn += len(more)


def _gaps(given: NDArray[np.float64] | list[float]) -> NDArray[np.float64]:
    """Return *given* as they are. Raise SpecError for what is no gap: times would go back."""
    gaps = np.asarray(given, dtype=np.float64)
    if not (len(gaps) and 0.0 <= gaps.min() <= gaps.max() < math.inf):
        found = f"{gaps.min():g} to {gaps.max():g}" if len(gaps) else "none"
        raise SpecError(f"arrival process: expected finite gaps >= 0, found {found}")
    return gaps


class CountedStream:
    """Arrivals of a load that was counted: as many in each call as its cumulated rate says, at
    instants that chance chooses, so that a Poisson process that was counted comes out as one.

    What is left of a cumulated rate beyond whole requests goes on to the next call.
    """

    __slots__ = ("_left", "_rng")

    def __init__(self, rng_arrivals: np.random.Generator) -> None:
        self._rng = rng_arrivals
        self._left = 0.0

    def until(
        self, t0_s: float, t1_s: float, rate_rps_at_t0: float, rate_rps_at_t1: float | None = None
    ) -> NDArray[np.float64]:
        """Return the arrival instants in [t0_s, t1_s), as ArrivalStream.until does."""
        rate_rps_at_t1 = rate_rps_at_t0 if rate_rps_at_t1 is None else rate_rps_at_t1
        units = _cumulated(t0_s, t1_s, rate_rps_at_t0, rate_rps_at_t1)
        # The tolerance lets a minute that is cut into two halves have all its requests.
        count = int(self._left + units + 1e-6)
        self._left += units - count
        positions = np.sort(self._rng.random(count)) * units
        return _instants(positions, t0_s, t1_s, rate_rps_at_t0, rate_rps_at_t1)


class ReplayStream:
    """The arrivals of a trace as a unit-rate process, warped like an ArrivalStream.

    At the trace's own mean rate it gives back the trace's instants. *times_s* ascend from 0 and lie
    in [0, span_s); with *repeat* the trace begins again after span_s, otherwise it falls silent.
    """

    __slots__ = ("_now_units", "_positions", "_repeat", "drawn")

    def __init__(self, times_s: NDArray[np.float64], *, span_s: float, repeat: bool) -> None:
        assert 0.0 <= times_s[0] <= times_s[-1] < span_s, "times_s must ascend in [0, span_s)"
        self._positions = times_s * (len(times_s) / span_s)
        self._repeat = repeat
        self._now_units = 0.0
        self.drawn = (
            0  # requests so far: request number i of the stream is request i mod n of the trace
        )

    def until(
        self, t0_s: float, t1_s: float, rate_rps_at_t0: float, rate_rps_at_t1: float | None = None
    ) -> NDArray[np.float64]:
        """Return the arrival instants in [t0_s, t1_s), as ArrivalStream.until does."""
        rate_rps_at_t1 = rate_rps_at_t0 if rate_rps_at_t1 is None else rate_rps_at_t1
        end_units = self._now_units + _cumulated(t0_s, t1_s, rate_rps_at_t0, rate_rps_at_t1)
        numbers = np.arange(self.drawn, self._count_before(end_units))
        size = len(self._positions)
        positions = (numbers // size) * size + self._positions[numbers % size] - self._now_units
        self._now_units = end_units
        self.drawn += len(numbers)
        return _instants(positions, t0_s, t1_s, rate_rps_at_t0, rate_rps_at_t1)

    def _count_before(self, units: float) -> int:
        size = len(self._positions)
        rounds = int(units // size) if self._repeat else 0
        count = rounds * size + int(
            self._positions.searchsorted(units - rounds * size, side="left")
        )
        # Rounding may put a position a hair before a boundary already passed: never give a request
        # back.
        return max(count, self.drawn)


def token_counts(
    rng: np.random.Generator, n: int, *, mean: float, distribution: TokenDistribution, cv: float
) -> NDArray[np.int64]:
    """Draw *n* token counts >= 1 whose expectation is exactly *mean* (a mean below 1 counts as 1).

    The first token is certain; the rest follow the distribution with mean `mean - 1` and standard
    deviation `cv·mean`, so the bound of 1 does not shift the mean. "fixed" ignores *cv*. Fractions
    are rounded up with their own probability, which keeps the mean while rounding to the nearest
    would not (a fixed mean of 2.4 tokens).
    """
    assert 0.0 <= mean < math.inf, f"mean must be finite and >= 0, got {mean}"
    assert 0.0 <= cv < math.inf, f"cv must be finite and >= 0, got {cv}"
    rest = max(mean, 1.0) - 1.0
    spread = cv * mean
    if distribution == "fixed" or cv < CV_MIN or rest == 0.0:
        draws = np.full(n, rest)
    elif distribution == "lognormal":
        sigma = math.sqrt(math.log1p((spread / rest) ** 2))
        draws = rng.lognormal(math.log(rest) - 0.5 * sigma * sigma, sigma, n)
    else:
        draws = rng.standard_gamma((rest / spread) ** 2, n) * (spread * spread / rest)
    return round_fairly(rng, draws, least=1.0)


def round_fairly(
    rng: np.random.Generator, values: NDArray[np.float64], *, least: float = 0.0
) -> NDArray[np.int64]:
    """Round to a neighbouring integer so that the expectation is the value itself; integers stay as
    they are. Return *least* more.
    """
    whole = np.floor(values)
    up = rng.random(len(values)) < values - whole
    # Whole floats are exact, and adding in place makes no more arrays: it is drawn for each server.
    whole += up
    if least:
        whole += least
    return whole.astype(np.int64)


def _cumulated(t0_s: float, t1_s: float, rate0_rps: float, rate1_rps: float) -> float:
    assert t1_s >= t0_s, f"time must not go back: {t0_s} to {t1_s}"
    assert min(rate0_rps, rate1_rps) >= 0.0, f"rates must be >= 0, got {rate0_rps} and {rate1_rps}"
    return 0.5 * (rate0_rps + rate1_rps) * (t1_s - t0_s)


def _instants(
    positions: NDArray[np.float64], t0_s: float, t1_s: float, rate0_rps: float, rate1_rps: float
) -> NDArray[np.float64]:
    """Solve r0·τ + (r1 - r0)/(t1 - t0)·τ²/2 = position for each τ, in the form that also holds for
    equal rates.
    """
    if not len(positions):
        return positions
    last_s = math.nextafter(t1_s, t0_s)
    if rate0_rps == rate1_rps:
        # The same as below, to the last bit: what all have in common once, and in order already.
        rate_rps = rate0_rps + math.sqrt(rate0_rps * rate0_rps)
        elapsed_s = 2.0 * positions / max(rate_rps, _TINY)
        return np.minimum(np.maximum(t0_s + elapsed_s, t0_s), last_s)
    slope = (rate1_rps - rate0_rps) / (t1_s - t0_s)
    root = np.sqrt(np.maximum(rate0_rps * rate0_rps + 2.0 * slope * positions, 0.0))
    elapsed_s = 2.0 * positions / np.maximum(rate0_rps + root, _TINY)
    # The formula may break the order of two close arrivals, or cross the ends of the call, in the
    # last digit.
    return np.clip(np.maximum.accumulate(t0_s + elapsed_s), t0_s, last_s)
