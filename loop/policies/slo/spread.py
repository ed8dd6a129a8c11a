"""How far the requests in flight are from what the load of a window says: a load may be steady from
window to window, and come in bursts that no window shows. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loop.policies.slo.jumps import of_newer
from loop.replacing import replace

if TYPE_CHECKING:
    from loop.types import Load, ServerView

KEPT = 0.95  # of the weight of a sample, after each further one: ten minutes of samples of 30 s
SAMPLES_MIN = 5.0
# Gauges that are about as high as Little's law (Little 1961) has them count what it means.
LITTLE_MIN, LITTLE_MAX = 0.5, 2.0
BORNE = 0.2  # the queue of a batch bears as much
SURE = 1.5  # some twenty samples tell a variance to a third
# A jump is what is in flight beyond so many deviations, and counts for so much at most: requests
# also stay because replicas are slow.
SURPRISE, JUMP_MIN, JUMP_MAX = 3.0, 1.25, 2.0
SURPRISES_MAX = 2
NORMAL = math.sqrt(math.pi / 2.0)  # standard deviation over mean absolute deviation


@dataclass(frozen=True, slots=True)
class Spread:
    """Sums over the samples of a server, the later ones with more weight: what was in flight, what
    should have been by Little's law, how far these were apart, the requests that a window was
    counted by, and the weights. jump is how many times the load of the window that of now is (1: as
    it is, or nobody knows); surprises how many samples in a row had more in flight than that;
    rate_rpm is that of the last window.
    """

    seen: float = 0.0
    meant: float = 0.0
    apart: float = 0.0
    counted: float = 0.0
    weight: float = 0.0
    jump: float = 1.0
    surprises: int = 0
    rate_rpm: float = 0.0

    def with_sample(self, view: ServerView, load: Load, *, window_s: float) -> Spread:
        """Return it with what is in flight in *view*, which sees *load* over *window_s*; nothing is
        learnt where latencies are not known, or nobody sampled the gauges, or not all of them.
        """
        partly = "running" in view.unknown_gauges or "waiting" in view.unknown_gauges
        itl_ms = None if view.sample_age_s is None or partly else view.itl_ms
        if itl_ms is None or load.rate_rpm <= 0.0 or load.out_tokens <= 0.0:
            return self.without_sample()
        lasts_s = ((view.ttft_ms or 0.0) + load.out_tokens * itl_ms) / 1000.0
        seen, meant = view.running + view.backlog, load.rate_rpm / 60.0 * lasts_s
        jump = self._jump(seen, meant)
        surprises = self.surprises + 1 if jump > 1.0 else 0
        return Spread(
            seen=KEPT * self.seen + seen,
            meant=KEPT * self.meant + meant,
            apart=KEPT * self.apart + abs(seen - meant),
            counted=KEPT * self.counted + load.rate_rpm * window_s / 60.0,
            weight=KEPT * self.weight + 1.0,
            # A window later it would have shown a jump: it is the replicas that are slow.
            jump=jump if surprises <= SURPRISES_MAX else 1.0,
            surprises=surprises,
            rate_rpm=load.rate_rpm,
        )

    def without_sample(self) -> Spread:
        """Return it where nothing is known of now."""
        return self if self.surprises == 0 else replace(self, jump=1.0, surprises=0)

    def of_now(self, rate_rpm: float) -> float:
        """Return jump of a window of *rate_rpm* that is newer than the last sample: it has more of
        the jump in it.
        """
        return of_newer(self.jump, self.rate_rpm, rate_rpm)

    def _jump(self, seen: float, meant: float) -> float:
        """Return how many times the load of the window that of now is, if it has jumped; else 1."""
        if not self._fits or meant <= 0.0:
            return 1.0
        usual = max(self._deviation**2, 1.0 / meant) ** 0.5
        times = seen / meant
        if times < max(JUMP_MIN, 1.0 + SURPRISE * usual):
            return 1.0
        return min(times, JUMP_MAX)

    @property
    def _fits(self) -> bool:
        """Return whether there are samples enough, and gauges that count what they should."""
        return (
            self.weight >= SAMPLES_MIN
            and self.meant > 0.0
            and LITTLE_MIN <= self.seen / self.meant <= LITTLE_MAX
        )

    @property
    def _deviation(self) -> float:
        return NORMAL * self.apart / self.meant

    @property
    def within(self) -> float:
        """Return the coefficient of variation of the load within a window, beyond what chance does
        (requests in flight and counted ones as those of Poisson's process) and what queues bear.

        Of a Poisson process that is 0, of others it is what teletraffic calls peakedness, as a
        share (Fredericks 1980).
        """
        if not self._fits:
            return 0.0
        chance = self.weight / self.meant + 2.0 * self.weight / self.counted
        return math.sqrt(max(0.0, self._deviation**2 - SURE * chance - BORNE**2))
