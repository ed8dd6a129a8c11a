"""When the next period is due: arithmetic on counted periods, no clock and no waiting."""

from __future__ import annotations

import math


def next_period(*, now_s: float, period_s: float, previous: int) -> int:
    """Return the number n of the next cycle, due at n · period_s: after *previous*, and not in the
    past at now_s.

    Periods that passed meanwhile are skipped; one that is due this very instant is not. Numbers
    count from 1.
    """
    assert period_s > 0, f"period_s must be > 0, got {period_s}"
    number = max(previous + 1, math.floor(now_s / period_s))
    # The quotient may be rounded down below a whole number: 0.7 // 0.1 is 6, and 6 · 0.1 lies in
    # the past at 0.7.
    return number if number * period_s >= now_s else number + 1


def due_s(number: int, *, period_s: float) -> float:
    """Return when cycle *number* is due; a product, so that errors of rounding never add up."""
    return number * period_s
