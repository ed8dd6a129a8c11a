"""KV blocks of the decodes of one replica, kept as counts of residues so that no block is ever
moved; no time here.

A decode's context less the iteration counter g is constant (its offset). With block size s its
residue is r = (-offset) mod s: it takes a new block in the iteration g → g+1 exactly when g mod s =
r. So the number of decodes per residue, and the sum of their residues, give demand, use and the
limit of a segment exactly.
"""

from __future__ import annotations


class ResidueTable:
    """The decodes of one replica by residue.

    blocks and block_size describe the KV cache; tokens is what it holds. The number n of decodes
    and the sum S of their contexts at counter g are kept by the replica and passed in.
    """

    __slots__ = ("_counts", "_residue_sum", "block_size", "blocks", "tokens")

    def __init__(self, *, blocks: int, block_size: int) -> None:
        assert blocks >= 1, f"a replica needs at least one KV block, got {blocks}"
        self.blocks = blocks
        self.block_size = block_size
        self.tokens = blocks * block_size
        self._counts = [0] * block_size
        self._residue_sum = 0

    def join(self, offset: int) -> None:
        """Count in a decode with this context *offset*."""
        residue = -offset % self.block_size
        self._counts[residue] += 1
        self._residue_sum += residue

    def leave(self, offset: int) -> None:
        """Count out a decode with this context *offset*."""
        residue = -offset % self.block_size
        self._counts[residue] -= 1
        self._residue_sum -= residue

    def clear(self) -> None:
        """Forget all decodes."""
        self._counts = [0] * self.block_size
        self._residue_sum = 0

    def demand(self, g: int) -> int:
        """Return the new blocks that the decodes ask for in the iteration g → g+1."""
        return self._counts[g % self.block_size]

    def used(self, g: int, n: int, context_sum: int) -> int:
        """Return the blocks that the *n* decodes hold when their contexts at counter *g* sum to
        *context_sum*.
        """
        x = g % self.block_size
        return (context_sum + self._residue_sum - x * n) // self.block_size + sum(self._counts[:x])

    def iterations_left(self, g: int, n: int, context_sum: int) -> int:
        """Return for how many iterations the free blocks last n >= 1 decodes; 0 when the next one
        cannot run.
        """
        size, counts = self.block_size, self._counts
        rounds, spare = divmod(self.blocks - self.used(g, n, context_sum), n)
        x = g % size
        k = size * rounds
        # A whole round of residues asks for n > spare blocks, so this ends within one round.
        while (spare := spare - counts[x]) >= 0:
            k += 1
            x = x + 1 if x + 1 < size else 0
        return k
