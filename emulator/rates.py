"""A load as it was measured, minute by minute, as the load of one server. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emulator.shapes import Curve
from emulator.walk import OfferedLoad

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rates:
    """The rate and the mean tokens of a request from each of times_s to the next one; the last
    stretch ends at end_s, from where on the load begins again (*repeat*), or stays as it is.

    times_s ascend from 0. Tokens of a stretch without requests are any number above 0.
    """

    times_s: Floats
    rates_rpm: Floats
    in_tokens: Floats
    out_tokens: Floats
    end_s: float
    repeat: bool = True

    @property
    def mean(self) -> OfferedLoad:
        """Return the mean load, tokens by request."""
        lengths_s = np.diff(self.times_s, append=self.end_s)
        requests = self.rates_rpm * lengths_s
        total = float(requests.sum())
        weights = requests if total > 0.0 else lengths_s
        return OfferedLoad(
            rate_rpm=total / self.end_s,
            in_tokens=float(np.average(self.in_tokens, weights=weights)),
            out_tokens=float(np.average(self.out_tokens, weights=weights)),
        )

    def curves(self) -> tuple[Curve, Curve, Curve]:
        """Return how the rate and both kinds of tokens move, as multiples of their means; a rate
        that is always 0 has no mean to be a multiple of, and stays as it is.
        """
        mean = self.mean
        return (
            self._curve(self.rates_rpm / mean.rate_rpm if mean.rate_rpm else self.rates_rpm),
            self._curve(self.in_tokens / mean.in_tokens),
            self._curve(self.out_tokens / mean.out_tokens),
        )

    def _curve(self, factors: Floats) -> Curve:
        ends_s = [*self.times_s[1:].tolist(), self.end_s]
        knots = [
            knot
            for begin_s, end_s, factor in zip(
                self.times_s.tolist(), ends_s, factors.tolist(), strict=True
            )
            for knot in ((begin_s, factor), (end_s, factor))
        ]
        return Curve(tuple(knots), repeat=self.repeat)
