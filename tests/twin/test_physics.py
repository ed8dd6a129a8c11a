"""The latency model and the KV blocks, in figures that can be checked by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.engine.kv_cache import kv_block_count, kv_blocks
from twin.engine.latency import iteration_ms
from twin.spec import LatencyModel


def test_an_iteration_costs_its_constant_its_tokens_and_the_context_it_reads() -> None:
    """Every time in the twin comes from this line."""
    latency_model = LatencyModel(alpha_ms=6.0, beta_ms=0.5, gamma_ms=0.01)
    assert iteration_ms(latency_model, tokens=8, kv_tokens=300) == pytest.approx(6.0 + 4.0 + 3.0)


@given(tokens=st.integers(0, 10**6), block_size=st.integers(1, 128))
def test_blocks_hold_their_tokens_with_less_than_a_block_to_spare(
    tokens: int, block_size: int
) -> None:
    """A block too few would let a replica hold what it has no room for."""
    assert tokens <= kv_blocks(tokens, block_size) * block_size < tokens + block_size


def test_a_memory_has_whole_blocks_only() -> None:
    """2588 blocks of 16 tokens is what vLLM reported for a memory of 41408 tokens; a rest is of no
    use.
    """
    assert kv_block_count(41408, 16) == 2588
    assert kv_block_count(41423, 16) == 2588
    assert kv_block_count(None, 16) is None
