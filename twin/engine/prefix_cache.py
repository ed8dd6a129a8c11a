"""Which prefixes of prompts a replica has computed already, and which of their blocks are held more
than once.

Two modes. By share: so much of every prompt is found, and each request counts its own blocks, as
nobody knows who shares with whom. By blocks: a request names the blocks of its prompt, each name
standing for all that comes before it too (as in Mooncake's traces). Blocks of one name are held
once while anybody uses them, and stay, idle, until the memory is needed: the least recently used go
first. Names beyond the prompt are those of the answer, where a conversation goes on with it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twin.engine.kv_cache import KvCache
    from twin.request import Request


class _Entry:
    """What is cached under one name: whole blocks, from a place in the prompt that the name
    implies.
    """

    __slots__ = ("blocks", "end", "users")

    def __init__(self, *, end: int, blocks: int) -> None:
        self.end = end
        self.blocks = blocks
        self.users = 1


class PrefixCache:
    """The prefixes of one replica.

    Engines cache whole blocks, and compute at least the last token of a prompt. idle_blocks are
    those that nobody uses; the scheduler counts them as free, and trims them to what is.
    """

    __slots__ = ("_entries", "_held", "_idle", "_kv", "_share", "_size", "idle_blocks")

    def __init__(self, kv: KvCache, *, block_size: int, share: float) -> None:
        assert 0.0 <= share <= 1.0, f"the share of a prompt must be 0..1, got {share}"
        self._kv = kv
        self._size = block_size
        self._share = share
        self.clear()

    def clear(self) -> None:
        """Forget all prefixes, as a process does that begins anew."""
        self._entries: dict[int, _Entry] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        # By ticket, the names whose blocks a running request uses, in the order of its prompt.
        self._held: dict[int, list[int]] = {}
        self.idle_blocks = 0

    def cached_tokens(self, request: Request) -> int:
        """Return how many tokens of *request* need not be computed if it begins now."""
        found = (
            self._matched(request) if request.blocks else int(self._share * request.prompt_tokens)
        )
        size = self._size
        return min(found, request.prompt_tokens + request.generated - 1) // size * size

    def _matched(self, request: Request) -> int:
        """Return the tokens up to where the blocks of *request* are cached without a gap."""
        found = 0
        step, prompt = request.block_tokens, request.prompt_tokens
        for index, name in enumerate(request.blocks):
            entry = self._entries.get(name)
            if entry is None or index * step >= prompt:
                break
            found = min(entry.end, prompt)
            if found < (index + 1) * step // self._size * self._size:
                break
        return found

    def shared_blocks(self, request: Request, cached: int) -> int:
        """Return how many of the blocks of *cached* tokens somebody else uses now."""
        return sum(
            entry.blocks
            for entry in map(self._entries.__getitem__, self._whole(request, cached))
            if entry.users
        )

    def _whole(self, request: Request, cached: int) -> list[int]:
        """Return the names of *request* that lie within *cached* tokens with all their blocks."""
        names = []
        for name in request.blocks:
            entry = self._entries.get(name)
            if entry is None or entry.end > cached:
                break
            names.append(name)
        return names

    def use(self, request: Request, cached: int) -> None:
        """Let *request*, which begins, use the blocks of its *cached* tokens."""
        names = self._whole(request, cached)
        for name in names:
            entry = self._entries[name]
            if entry.users:
                self._kv.share(entry.blocks)
            else:
                del self._idle[name]
                self.idle_blocks -= entry.blocks
            entry.users += 1
        self._held[request.ticket] = names

    def add(self, request: Request, computed: int) -> None:
        """Cache the blocks of *request* up to *computed* tokens, as the iteration begins that
        computes them. What another one has computed meanwhile stays the other's.
        """
        prompt = request.prompt_tokens
        if (len(request.blocks) - 1) * request.block_tokens >= prompt:
            # The block in which the answer begins is whole only with it.
            prompt -= prompt % request.block_tokens
        self._name(request, min(prompt, computed), prompt)

    def end(self, request: Request) -> None:
        """Cache what has a name of the answer of *request*, which ends, and let go of all."""
        if (len(request.blocks) - 1) * request.block_tokens >= request.prompt_tokens:
            # The last token of an answer is never computed upon.
            computed = request.prompt_tokens + request.output_tokens - 1
            self._name(request, computed, computed - computed % request.block_tokens)
        self.release(request.ticket)

    def _name(self, request: Request, computed: int, text: int) -> None:
        """Cache the blocks of *request* whose part of its *text* tokens is *computed*."""
        names, size, step = self._held[request.ticket], self._size, request.block_tokens
        for index in range(len(names), len(request.blocks)):
            end = min((index + 1) * step, text)
            name = request.blocks[index]
            if end > computed or index * step >= text or name in self._entries:
                break
            blocks = end // size - index * step // size
            self._entries[name] = _Entry(end=end // size * size, blocks=blocks)
            names.append(name)

    def release(self, ticket: int) -> int:
        """Let go of what the request of this *ticket* uses; return how many of its blocks others
        still use.
        """
        kept = 0
        # The end of a prompt is the first to be evicted: without its beginning it is of no use.
        for name in reversed(self._held.pop(ticket, ())):
            entry = self._entries[name]
            entry.users -= 1
            if entry.users:
                kept += entry.blocks
            else:
                self._idle[name] = None
                self.idle_blocks += entry.blocks
        if kept:
            self._kv.share(-kept)
        return kept

    def trim(self, free: float) -> None:
        """Evict idle blocks until there are at most *free*, the least recently used first."""
        while self.idle_blocks > free:
            name, _ = self._idle.popitem(last=False)
            self.idle_blocks -= self._entries.pop(name).blocks
