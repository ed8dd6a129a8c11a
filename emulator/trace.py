"""A trace as the load of one server: at its own rate and sizes, or scaled to the server's. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from emulator.walk import OfferedLoad
from twin.arrivals import round_fairly

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from twin.traces import Trace

Origin = Literal["trace", "server"]
Offset = Literal["none", "random"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Replay:
    """A trace to be replayed, over and over with *repeat*. rate and tokens say whose means the
    nominal load has; offset whether it begins at its first request, or at one that the server's
    generator draws.
    """

    trace: Trace
    rate: Origin = "trace"
    tokens: Origin = "trace"
    repeat: bool = True
    offset: Offset = "none"

    def begun(self, rng: np.random.Generator) -> Trace:
        """Return the trace from where it begins; with an offset, its requests in the same circle
        from another one on.
        """
        if self.offset == "none":
            return self.trace
        return self.trace.from_request(int(rng.integers(len(self.trace.times_s))))

    def nominal(self, of_server: OfferedLoad) -> OfferedLoad:
        """Return the nominal load of a server that replays this trace."""
        sizes = self.trace if self.tokens == "trace" else of_server
        return OfferedLoad(
            rate_rpm=self.trace.rate_rpm if self.rate == "trace" else of_server.rate_rpm,
            in_tokens=sizes.in_tokens,
            out_tokens=sizes.out_tokens,
        )


def scaled_tokens(
    counts: NDArray[np.int64], factor: float, *, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return *counts* times *factor*, at least 1 each; fractions are rounded up with their own
    probability.
    """
    if factor == 1.0:
        return counts
    return np.maximum(round_fairly(rng, counts.astype(np.float64) * factor), 1)


def held(
    times_s: NDArray[np.float64],
    length_s: float,
    tokens: tuple[NDArray[np.int64], ...],
    plan: OfferedLoad,
) -> OfferedLoad:
    """Return the mean load that an interval of a trace really holds; token means are *plan*'s if
    none arrives.

    A trace moves within its mean rate, so its labels say what it holds.
    """
    if not len(times_s):
        return OfferedLoad(rate_rpm=0.0, in_tokens=plan.in_tokens, out_tokens=plan.out_tokens)
    in_tokens, out_tokens = (float(counts.mean()) for counts in tokens)
    return OfferedLoad(
        rate_rpm=60.0 * len(times_s) / length_s, in_tokens=in_tokens, out_tokens=out_tokens
    )
