"""How long an iteration of a replica takes and how many KV blocks tokens need; pure arithmetic, no
state.
"""

from __future__ import annotations

from twin.spec import LatencyModel


def iteration_ms(latency_model: LatencyModel, *, tokens: int, kv_tokens: int) -> float:
    """Return the time of one iteration [ms] that computes *tokens* and reads *kv_tokens* of
    context.

    kv_tokens is summed over the scheduled requests, each with the context that it has after the
    iteration.
    """
    return (
        latency_model.alpha_ms + latency_model.beta_ms * tokens + latency_model.gamma_ms * kv_tokens
    )


def kv_blocks(tokens: int, block_size: int) -> int:
    """Return how many blocks of *block_size* tokens hold the KV of *tokens* tokens."""
    return -(-tokens // block_size)


def kv_block_count(kv_tokens: int | None, block_size: int) -> int | None:
    """Return how many whole blocks a KV cache of *kv_tokens* has; None where the memory is
    unlimited.
    """
    return None if kv_tokens is None else kv_tokens // block_size
