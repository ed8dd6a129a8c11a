"""How far the requests in flight are from what the load of a window says: a load may be steady from
window to window, and come in bursts that no window shows. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loop.types import Load, ServerView

KEPT = 0.95  # of the weight of a sample, after each further one: ten minutes of samples of 30 s
SAMPLES_MIN = 5.0
# Gauges that are about as high as Little's law (Little 1961) has them count what it means.
LITTLE_MIN, LITTLE_MAX = 0.5, 2.0
BORNE = 0.2  # the queue of a batch bears as much
SURE = 1.5  # some twenty samples tell a variance to a third
NORMAL = math.sqrt(math.pi / 2.0)  # standard deviation over mean absolute deviation


@dataclass(frozen=True, slots=True)
class Spread:
    """Sums over the samples of a server, the later ones with more weight: what was in flight, what
    should have been by Little's law, how far these were apart, the requests that a window was
    counted by, and the weights.
    """

    seen: float = 0.0
    meant: float = 0.0
    apart: float = 0.0
    counted: float = 0.0
    weight: float = 0.0

    def with_sample(self, view: ServerView, load: Load, *, window_s: float) -> Spread:
        """Return it with what is in flight in *view*, which sees *load* over *window_s*; nothing is
        learnt where latencies are not known.
        """
        if view.itl_ms is None or load.rate_rpm <= 0.0 or load.out_tokens <= 0.0:
            return self
        lasts_s = ((view.ttft_ms or 0.0) + load.out_tokens * view.itl_ms) / 1000.0
        seen, meant = view.running + view.backlog, load.rate_rpm / 60.0 * lasts_s
        return Spread(
            seen=KEPT * self.seen + seen,
            meant=KEPT * self.meant + meant,
            apart=KEPT * self.apart + abs(seen - meant),
            counted=KEPT * self.counted + load.rate_rpm * window_s / 60.0,
            weight=KEPT * self.weight + 1.0,
        )

    @property
    def within(self) -> float:
        """Return the coefficient of variation of the load within a window, beyond what chance does
        (requests in flight and counted ones as those of Poisson's process) and what queues bear.

        Of a Poisson process that is 0, of others it is what teletraffic calls peakedness, as a
        share (Fredericks 1980).
        """
        if self.weight < SAMPLES_MIN or self.meant <= 0.0:
            return 0.0
        if not LITTLE_MIN <= self.seen / self.meant <= LITTLE_MAX:
            return 0.0
        deviation = NORMAL * self.apart / self.meant
        chance = self.weight / self.meant + 2.0 * self.weight / self.counted
        return math.sqrt(max(0.0, deviation**2 - SURE * chance - BORNE**2))
