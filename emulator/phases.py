"""Phases: stretches of time over which the nominal load goes to a multiple of what it was. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from emulator.shapes import Curve

_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|h|m|s))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Go linearly, over *duration_s* > 0, to *ratio* times the value at the phase's start; None
    holds for ever.
    """

    duration_s: float | None
    ratio: float = 1.0


def phases_curve(phases: Sequence[Phase]) -> Curve:
    """Chain *phases* from a multiplier of 1; after the last one the multiplier stays.

    Only the last phase may be without a duration: it holds, and its ratio is not used.
    """
    knots = [(0.0, 1.0)]
    for phase in phases:
        if phase.duration_s is None:
            assert phase is phases[-1], "only the last phase may be endless"
            break
        time_s, value = knots[-1]
        knots.append((time_s + phase.duration_s, value * phase.ratio))
    return Curve(tuple(knots))


def duration_s(text: str) -> float | None:
    """Return the seconds of a duration such as "1h30m" or "90s"; None if *text* is none."""
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text))
