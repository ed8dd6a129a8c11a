"""Whether a load has jumped, by what came in the last part of a window: the window itself shows it
only when it is full of it. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loop.replacing import replace

if TYPE_CHECKING:
    from loop.types import Load, ServerView

KEPT = 0.95  # of the weight of a sample, after each further one: ten minutes of samples of 30 s
SAMPLES_MIN = 5.0
# A jump is what came lately beyond so many deviations (of three, chance makes four an hour where
# thirty servers are looked at twice a minute), is no smaller than that, and counts for so much at
# most.
SURPRISE, JUMP_MIN, JUMP_MAX = 3.4, 1.25, 3.0
COUNT_MIN = 10.0  # requests: of fewer, Poisson's process has a few more now and then
# A load of more than so many times the deviations of Poisson's process, and of more than such a
# share, jumps all the time, and back again: its forecast knows that.
CALM, CALM_SHARE = 2.0, 0.15
# A load that has jumped is taken for what came lately, for so many samples at most (by then its
# forecast has seen it for long enough), as long as that is so much of the window's: the window is
# full of it only two samples later, and what came until then is too little to be a jump again.
UP_MAX, UP_LEAST = 6, 0.7
# What came lately is a count, and the load may be so many deviations of it higher. A load that has
# jumped is taken for that: to have a replica too many for a minute costs less than to do without
# one until it has started.
COUNTED_SHORT = 2.0


@dataclass(frozen=True, slots=True)
class Jumps:
    """Sums over the samples of a server, the later ones with more weight: squares of how far what
    came lately was from what came before it in the window, in deviations of Poisson's process, and
    the weights. jump is how many times the load of the window that of now is (1: as it is, or
    nobody knows), high how many it may be by such a count; up how many samples ago it jumped, if it
    has stayed (0: it has not). window is the last one, when it ended [s] and its rate
    [requests/min].
    """

    squares: float = 0.0
    weight: float = 0.0
    jump: float = 1.0
    high: float = 1.0
    up: int = 0
    window: tuple[float, float] | None = None

    def with_sample(self, view: ServerView, load: Load, *, now_s: float, window_s: float) -> Jumps:
        """Return it with what came to *view*, which sees *load* over *window_s* at *now_s*."""
        latest = view.latest
        if latest is None or not 0.0 < latest.length_s < window_s or load.rate_rpm <= 0.0:
            return self._by_window(load, now_s=now_s)
        came = latest.rate_rpm * latest.length_s / 60.0
        before, over_s = load.rate_rpm * window_s / 60.0 - came, window_s - latest.length_s
        if self.window is not None and latest.length_s <= now_s - self.window[0] <= window_s:
            # Of this window some may be of after the jump, too; nothing of the last one is.
            before, over_s = self.window[1] * window_s / 60.0, window_s
        expected = before * latest.length_s / over_s
        if expected <= 0.0:
            return self.without_sample()
        times, chance = came / expected, 1.0 / expected + 1.0 / before
        squares = KEPT * self.squares + min(times - 1.0, 1.0) ** 2 / chance
        jump, share = self._jump(times, chance, came=came), latest.rate_rpm / load.rate_rpm
        stays = 0 < self.up < UP_MAX and share >= UP_LEAST
        up = 1 if jump > 1.0 else self.up + 1 if stays else 0
        high, most = jump, JUMP_MAX
        if jump > 1.0:
            # Of what came before, as a rate, that is; of the window it is less.
            of_window = expected * 60.0 / (latest.length_s * load.rate_rpm)
            jump, high, most = jump * of_window, jump * of_window, JUMP_MAX * of_window
        elif stays:
            jump = high = share
        if up and came >= COUNT_MIN:
            high *= 1.0 + COUNTED_SHORT / math.sqrt(came)
        jump, high = (max(1.0, min(times, most)) for times in (jump, high))
        return Jumps(squares, KEPT * self.weight + 1.0, jump, high, up, (now_s, load.rate_rpm))

    def without_sample(self) -> Jumps:
        """Return it where nothing is known of now."""
        return self if not self.up else replace(self, jump=1.0, high=1.0, up=0)

    def of_now(self, rate_rpm: float) -> tuple[float, float]:
        """Return jump and high of a window of *rate_rpm* that is newer than the last sample: it has
        more of the jump in it.
        """
        before_rpm = rate_rpm if self.window is None else self.window[1]
        jump, high = (of_newer(times, before_rpm, rate_rpm) for times in (self.jump, self.high))
        return jump, high

    def _by_window(self, load: Load, *, now_s: float) -> Jumps:
        """Return it where only the rate of the window is known: pods that have just begun, or gone,
        leave out what came lately. A load that is up stays so, and for a sample what it was taken
        for: then the window is full of it.
        """
        if self.window is None or not 0 < self.up < UP_MAX:
            return self.without_sample()
        if load.rate_rpm <= UP_LEAST * self.window[1]:
            return self.without_sample()
        jump, high = self.of_now(load.rate_rpm) if self.up == 1 else (1.0, 1.0)
        window = now_s, load.rate_rpm
        return replace(self, jump=jump, high=high, up=self.up + 1, window=window)

    def _jump(self, times: float, chance: float, *, came: float) -> float:
        """Return how many *times* what came before *came* lately, if that is no chance; else 1.
        *chance*: the variance of it of a Poisson process.
        """
        if self.weight < SAMPLES_MIN or came < COUNT_MIN:
            return 1.0
        usual = self.squares / self.weight
        if usual > CALM**2 and usual * chance > CALM_SHARE**2:
            return 1.0
        least = max(JUMP_MIN, 1.0 + SURPRISE * math.sqrt(max(usual, 1.0) * chance))
        return min(times, JUMP_MAX) if times >= least else 1.0


def of_newer(times: float, before_rpm: float, rate_rpm: float) -> float:
    """Return how many times a window of *rate_rpm* a load is that was so many *times* the one of
    *before_rpm*: the newer one has more of a jump in it, and what has not jumped (1) has not by a
    fall.
    """
    if times <= 1.0 or rate_rpm <= 0.0:
        return times
    return max(1.0, times * (before_rpm / rate_rpm))
