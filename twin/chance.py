"""Chance in the world: one generator per server and purpose, and how long a delay takes."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from twin.spec import Delay

# Spawn keys of the world begin here, so that they never meet those of the load, which begin at 0.
_SERVERS, _CLUSTER = 1_000_000, 2_000_000
START_UP, CRASH, ROUTER, ACTUATION = range(4)
_NODES = 0


def server_generator(seed: np.random.SeedSequence, index: int, purpose: int) -> np.random.Generator:
    """Return the generator of one purpose of the server at *index*: independent of what any other
    one draws.
    """
    return _generator(seed, _SERVERS + index, purpose)


class Chance:
    """The generator of one purpose of a server, made when something is drawn: most servers are
    never asked.
    """

    def __init__(self, seed: np.random.SeedSequence, index: int, purpose: int) -> None:
        self._key = seed, index, purpose

    @cached_property
    def rng(self) -> np.random.Generator:
        """Return the generator."""
        return server_generator(*self._key)

    def draw_s(self, delay: Delay) -> float:
        """Draw how long *delay* takes [s]."""
        return delay.mean_s if delay.is_fixed else draw_s(delay, self.rng)


def node_generator(seed: np.random.SeedSequence) -> np.random.Generator:
    """Return the generator that says which node fails."""
    return _generator(seed, _CLUSTER, _NODES)


def draw_s(delay: Delay, rng: np.random.Generator) -> float:
    """Draw how long *delay* takes [s]: its mean when cv is 0 (nothing is drawn), else a gamma
    variate.
    """
    if delay.is_fixed:
        return delay.mean_s
    shape = delay.cv**-2
    return float(rng.gamma(shape, delay.mean_s / shape))


def _generator(seed: np.random.SeedSequence, *key: int) -> np.random.Generator:
    return np.random.default_rng(
        np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, *key))
    )
