"""The disturbance of a load: a plain and a mean-reverting walk of its offered load. Pure; the
generator is passed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from twin.frozen import made_quickly
from twin.spec import SpecError

if TYPE_CHECKING:
    import numpy as np

WalkKind = Literal["plain", "reverting"]

# A nominal below this is nothing: no deviation from it is worth keeping, and ratios to it would
# overflow.
NEGLIGIBLE = 1e-9


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedLoad:
    """What an emulator sets for one server: the rate [requests/min] and the mean tokens of a
    request.
    """

    rate_rpm: float
    in_tokens: float
    out_tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """How an offered load wanders about its nominal.

    alpha is the standard deviation of a step as a part of the nominal, theta the part of the way
    back that a reverting walk goes in a step. Raise SpecError if one is not in [0, 1].
    """

    kind: WalkKind = "plain"
    alpha: float = 0.5
    theta: float = 0.2

    def __post_init__(self) -> None:
        if self.kind not in get_args(WalkKind):
            raise SpecError(
                f"walk: expected one of {', '.join(get_args(WalkKind))}, found {self.kind!r}"
            )
        for name, value in (("alpha", self.alpha), ("theta", self.theta)):
            if not 0.0 <= value <= 1.0:
                raise SpecError(f"{name}: expected a number in [0, 1], found {value:g}")


def check_interval(interval_s: float) -> float:
    """Return *interval_s*, or raise SpecError if it is not a finite number of seconds above
    0.
    """
    if not (interval_s > 0.0 and math.isfinite(interval_s)):
        raise SpecError(f"interval: expected a number of seconds > 0, found {interval_s:g}")
    return interval_s


def step(
    walk: Walk,
    current: OfferedLoad,
    nominal_before: OfferedLoad,
    nominal_now: OfferedLoad,
    *,
    rng: np.random.Generator,
) -> OfferedLoad:
    """Return the offered load one interval after *current* (semantics: first the nominal's own
    move, then the draw).
    """
    if walk.kind == "plain":
        return step_plain(current, nominal_before, nominal_now, alpha=walk.alpha, rng=rng)
    return step_reverting(
        current, nominal_before, nominal_now, alpha=walk.alpha, theta=walk.theta, rng=rng
    )


def step_plain(
    current: OfferedLoad,
    nominal_before: OfferedLoad,
    nominal_now: OfferedLoad,
    *,
    alpha: float,
    rng: np.random.Generator,
) -> OfferedLoad:
    """Return current + Normal(0, alpha · nominal_now), drawn for the rate, the input and the output
    tokens in turn.

    *current* first moves with its nominal. The rate stays in [min(6, nominal/10), max(240,
    2·nominal)] rpm, tokens in [min(100, nominal), max(10 000, nominal)].
    """
    # Written out: it is done for each server in each interval.
    of_rate, of_input, of_output = rng.standard_normal(3).tolist()
    rate_rpm, in_tokens, out_tokens = _figures(nominal_now)
    rate_before, in_before, out_before = _figures(nominal_before)
    rate = _moved(current.rate_rpm, rate_before, rate_rpm) + alpha * rate_rpm * of_rate
    input_ = _moved(current.in_tokens, in_before, in_tokens) + alpha * in_tokens * of_input
    output = _moved(current.out_tokens, out_before, out_tokens) + alpha * out_tokens * of_output
    return OfferedLoad(
        rate_rpm=_clamp(rate, min(6.0, rate_rpm / 10.0), max(240.0, 2.0 * rate_rpm)),
        in_tokens=_clamp(input_, min(100.0, in_tokens), max(10_000.0, in_tokens)),
        out_tokens=_clamp(output, min(100.0, out_tokens), max(10_000.0, out_tokens)),
    )


def step_reverting(
    current: OfferedLoad,
    nominal_before: OfferedLoad,
    nominal_now: OfferedLoad,
    *,
    alpha: float,
    theta: float,
    rng: np.random.Generator,
) -> OfferedLoad:
    """Return current + theta · (nominal_now - current) + Normal(0, alpha · nominal_now).

    The result stays in [nominal/10, 10·nominal]. *current* first moves with its nominal; the order
    of draws is that of step_plain.
    """
    before, now = _figures(nominal_before), _figures(nominal_now)
    moved = [_moved(c, b, n) for c, b, n in zip(_figures(current), before, now, strict=True)]
    draws = rng.standard_normal(3).tolist()
    stepped = [
        m + theta * (n - m) + alpha * n * z for m, n, z in zip(moved, now, draws, strict=True)
    ]
    rate, in_tokens, out_tokens = (
        _clamp(s, n / 10.0, n * 10.0) for s, n in zip(stepped, now, strict=True)
    )
    return OfferedLoad(rate_rpm=rate, in_tokens=in_tokens, out_tokens=out_tokens)


def _figures(point: OfferedLoad) -> tuple[float, float, float]:
    return point.rate_rpm, point.in_tokens, point.out_tokens


def _moved(current: float, before: float, now: float) -> float:
    """Move *current* by the ratio now/before; a nominal that comes from nothing has no ratio, and
    starts undisturbed.

    Written as a deviation from the nominal, so that a load without deviation stays on its nominal
    to the last digit.
    """
    return now if before < NEGLIGIBLE else now + (current - before) * (now / before)


def _clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
