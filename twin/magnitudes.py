"""How large a figure may be: one table for all that reads figures (data files, labels and
annotations, messages, what was measured, the twin as a cluster).

A figure beyond it is a slip or a fault, and no reader lets one through: products of what is within
it are finite.
"""

from __future__ import annotations

LARGEST_FIGURE = 1e12
LARGEST_WHOLE = 2**31 - 1  # what some write for "without limit" is within it

RATE_RPM_MAX = LARGEST_FIGURE
TOKENS_MAX = LARGEST_FIGURE  # of one request
REPLICAS_MAX = LARGEST_WHOLE
BATCH_MAX = LARGEST_WHOLE

# What is simulated request by request has narrower bounds: beyond them a world would stand still,
# or fill the memory of the machine.
SIMULATED_RATE_RPM_MAX = 200_000  # of one Deployment
SIMULATED_TOKENS_MAX = 1_000_000  # mean of a request
SIMULATED_REPLICAS_MAX = 1000  # of one Deployment
SIMULATED_BATCH_MAX = 100_000


def figure(text: str, *, largest: float = LARGEST_FIGURE) -> float | None:
    """Return the figure that *text* says; None if it says none from 0 to *largest*, as NaN."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0.0 <= number <= largest else None


def whole(text: str, *, largest: int = LARGEST_WHOLE) -> int | None:
    """Return the whole number that *text* says in plain digits; None if it says none from 0 to
    *largest*.
    """
    # Python refuses to read thousands of digits, and reads some signs that are no plain digits.
    if not (text.isascii() and text.isdigit()) or len(text.lstrip("0")) > len(str(largest)):
        return None
    number = int(text.lstrip("0") or "0")
    return number if number <= largest else None
