"""The KV cache of one replica: what its scheduler asks of one, one that counts blocks, one without
bounds.

No block is ever moved here, and there is no time. A decode's context less the iteration counter g
is constant (its offset), so offsets say everything about the blocks of the decodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from sys import maxsize
from typing import Protocol

from twin.registry import resolve


class KvCache(Protocol):
    """The blocks of the decodes of one replica.

    There are *blocks* of block_size tokens, *tokens* together, inf for a cache without bounds. The
    replica keeps the number n of decodes and the sum of their contexts, and passes them in: it
    changes both at every boundary, and a call for each would cost more than all the rest that
    happens here. What requests in prefill hold the replica counts itself, they are few and
    short-lived.
    """

    @property
    def blocks(self) -> float:
        """Return how many blocks there are."""
        ...

    @property
    def block_size(self) -> int:
        """Return the tokens of a block."""
        ...

    @property
    def tokens(self) -> float:
        """Return the tokens of all blocks."""
        ...

    def join(self, offset: int) -> None:
        """Count in a decode with this context *offset*."""
        ...

    def leave(self, offset: int) -> None:
        """Count out a decode with this context *offset*."""
        ...

    def clear(self) -> None:
        """Forget all decodes."""
        ...

    def demand(self, g: int) -> int:
        """Return the new blocks that the decodes ask for in the iteration g → g+1."""
        ...

    def used(self, g: int, n: int, context_sum: int) -> int:
        """Return the blocks that the *n* decodes hold when their contexts at counter *g* sum to
        *context_sum*, less those that are shared.
        """
        ...

    def iterations_left(self, g: int, n: int, context_sum: int) -> int:
        """Return for how many iterations the free blocks last n >= 1 decodes; 0 when the next one
        cannot run.
        """
        ...

    def share(self, blocks: int) -> None:
        """Learn that so many *blocks* more are counted twice: two requests hold them, there is one
        copy. Below zero, that they are no longer.
        """
        ...

    def usage(self, held: int) -> float:
        """Return the share of the cache that *held* blocks are, 0..1; what a scraper sees."""
        ...


class BlockTable:
    """A cache of so many blocks, kept as the decodes per residue.

    With block size s the residue of a decode is r = (-offset) mod s: it takes a new block in the
    iteration g → g+1 exactly when g mod s = r. So the number of decodes per residue, and the sum of
    their residues, give demand, use and the limit of a segment exactly. Two integer updates when a
    decode starts or leaves replace a count of blocks per iteration.
    """

    __slots__ = ("_shared", "block_size", "blocks", "counts", "residue_sum", "tokens")

    def __init__(self, *, blocks: int, block_size: int) -> None:
        assert blocks >= 1, f"a replica needs at least one KV block, got {blocks}"
        self.blocks = blocks
        self.block_size = block_size
        self.tokens = blocks * block_size
        self.counts = [0] * block_size
        self.residue_sum = 0
        self._shared = 0

    def join(self, offset: int) -> None:
        residue = -offset % self.block_size
        self.counts[residue] += 1
        self.residue_sum += residue

    def leave(self, offset: int) -> None:
        residue = -offset % self.block_size
        self.counts[residue] -= 1
        self.residue_sum -= residue

    def clear(self) -> None:
        self.counts = [0] * self.block_size
        self.residue_sum = 0
        self._shared = 0

    def demand(self, g: int) -> int:
        return self.counts[g % self.block_size]

    def used(self, g: int, n: int, context_sum: int) -> int:
        # The last block of a decode has room for (r - x) mod s more tokens, and its context plus
        # that is whole blocks. Over all decodes that is S + W - x·n, with W the sum of residues,
        # and one more block for each residue below x, where the mod adds s. The division is exact.
        x = g % self.block_size
        whole = (context_sum + self.residue_sum - x * n) // self.block_size
        return whole + sum(self.counts[:x]) - self._shared

    def iterations_left(self, g: int, n: int, context_sum: int) -> int:
        size, counts = self.block_size, self.counts
        # In s iterations every decode takes exactly one block, so whole rounds need no walk.
        rounds, spare = divmod(self.blocks - self.used(g, n, context_sum), n)
        x = g % size
        k = size * rounds
        # A whole round of residues asks for n > spare blocks, so this ends within one round.
        while (spare := spare - counts[x]) >= 0:
            k += 1
            x = x + 1 if x + 1 < size else 0
        return k

    def share(self, blocks: int) -> None:
        self._shared += blocks

    def usage(self, held: int) -> float:
        return held / self.blocks


class UnlimitedCache:
    """A cache that is never full, for a world that does not know how large its caches are.

    Blocks of one token, and infinitely many: the arithmetic that the scheduler does for a counted
    cache finds room for everything, without a branch, and never asks for exact counts.
    """

    __slots__ = ("block_size", "blocks", "tokens")

    def __init__(self) -> None:
        self.blocks = self.tokens = inf
        self.block_size = 1

    def join(self, offset: int) -> None:
        """Need not count."""

    def leave(self, offset: int) -> None:
        """Need not count."""

    def clear(self) -> None:
        """Have nothing to forget."""

    def demand(self, g: int) -> int:  # noqa: ARG002, the same whenever
        return 0

    def used(self, g: int, n: int, context_sum: int) -> int:  # noqa: ARG002, as above
        return context_sum

    def iterations_left(self, g: int, n: int, context_sum: int) -> int:  # noqa: ARG002, as above
        return maxsize

    def share(self, blocks: int) -> None:
        """Need not count."""

    def usage(self, held: int) -> float:  # noqa: ARG002, nothing is a share of no bound
        return 0.0


KvCacheFactory = Callable[[int | None, int], KvCache]
"""Makes an empty cache of (tokens, None for no bound; block size)."""


def counted(kv_tokens: int | None, block_size: int) -> KvCache:
    """Return a cache of as many whole blocks as *kv_tokens* hold, without bounds for None."""
    blocks = kv_block_count(kv_tokens, block_size)
    return UnlimitedCache() if blocks is None else BlockTable(blocks=blocks, block_size=block_size)


KV_CACHES: Mapping[str, KvCacheFactory] = {"counted": counted}


def make_kv_cache(
    given: str | KvCacheFactory, *, kv_tokens: int | None, block_size: int
) -> KvCache:
    """Return an empty cache of the kind *given*. Raise SpecError for an unknown name."""
    return resolve(given, kind="kv_cache", known=KV_CACHES)(kv_tokens, block_size)


def kv_blocks(tokens: int, block_size: int) -> int:
    """Return how many blocks of *block_size* tokens hold the KV of *tokens* tokens."""
    return -(-tokens // block_size)


def kv_block_count(kv_tokens: int | None, block_size: int) -> int | None:
    """Return how many whole blocks a KV cache of *kv_tokens* has; None if it has no bound."""
    return None if kv_tokens is None else kv_tokens // block_size
