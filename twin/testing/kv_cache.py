"""What every KV cache must do, as a suite for pytest: subclass it and say how the cache is made.

class TestMine(KvCacheContract):
    @pytest.fixture
    def factory(self) -> KvCacheFactory:
        return my_cache
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from twin.engine.kv_cache import KvCacheFactory

AHEAD = 3000


class KvCacheContract:
    """Blocks are never counted while a segment runs: what a cache says must be what counting
    would.
    """

    @pytest.fixture
    def factory(self) -> KvCacheFactory:
        """Return what makes the cache under test; a subclass says what."""
        raise NotImplementedError("a subclass defines the fixture factory")

    @pytest.mark.parametrize("seed", range(40))
    def test_use_demand_and_the_end_of_memory_are_those_of_counting(
        self, factory: KvCacheFactory, seed: int
    ) -> None:
        """One block too many or too few shifts a preemption, and all that comes after it."""
        rng = Random(seed)  # noqa: S311 a script for a test, the same on every machine
        size, g = rng.randint(1, 17), rng.randint(0, 100)
        contexts = [rng.randint(1, 60) for _ in range(rng.randint(1, 12))]
        held = _held(contexts, size)
        cache = factory((held[0] + rng.randint(0, 40)) * size, size)
        gone = rng.randint(1, 60)
        for context in (*contexts, gone):
            cache.join(context - g)
        cache.leave(gone - g)
        n, total, ahead = len(contexts), sum(contexts), rng.randint(0, 50)
        assert cache.used(g, n, total) == held[0]
        assert cache.used(g + ahead, n, total + n * ahead) == held[ahead]
        assert cache.demand(g) == held[1] - held[0]
        left = cache.iterations_left(g, n, total)
        assert held[left] <= cache.blocks < held[left + 1]

    def test_it_has_whole_blocks_and_is_empty_at_first_and_after_it_forgot(
        self, factory: KvCacheFactory
    ) -> None:
        """A replica that crashed begins anew."""
        cache = factory(1000, 16)
        assert (cache.blocks, cache.block_size, cache.tokens) == (62, 16, 992)
        assert (cache.used(0, 0, 0), cache.usage(0), cache.usage(62)) == (0, 0.0, 1.0)
        cache.join(40)
        cache.clear()
        assert (cache.used(5, 0, 0), cache.demand(5)) == (0, 0)

    def test_without_a_bound_it_lasts(self, factory: KvCacheFactory) -> None:
        """No capacity given means that none is known, and nothing is ever preempted."""
        cache = factory(None, 16)
        cache.join(1000)
        assert cache.iterations_left(0, 1, 1000) > 10**9
        assert cache.usage(1000) < 1e-9


def _held(contexts: Sequence[int], block_size: int) -> list[int]:
    """Return the blocks that these decodes hold after 0, 1, … iterations."""
    return [sum(-(-(context + k) // block_size) for context in contexts) for k in range(AHEAD)]
