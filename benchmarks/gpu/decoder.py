"""A decoder with random weights, of the shape that a config.json tells, as an engine runs one:
projections that belong together are one multiplication, and only the last token of a prompt gets
its logits. PyTorch and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from twin.spec import SpecError

KEYS = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
)
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a dense decoder."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    intermediate: int
    vocabulary: int

    @property
    def kv_values(self) -> int:
        """Return the values of one token in the KV cache, over all layers."""
        return 2 * self.layers * self.kv_heads * self.head


def shape_of(config: Mapping[str, Any], *, source: str) -> Shape:
    """Return the sizes in a config.json. Raise SpecError if it is not of a dense decoder with
    grouped attention: Llama, Mistral, Qwen and their like.
    """
    missing = [key for key in KEYS if not isinstance(config.get(key), int) or config[key] < 1]
    if missing:
        raise SpecError(f"{source}: expected {', '.join(KEYS)}, found no {', '.join(missing)}")
    if any(config.get(key) for key in EXPERTS) or config.get("kv_lora_rank"):
        raise SpecError(f"{source}: expected a dense decoder, found experts or latent attention")
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    if heads % kv_heads:
        raise SpecError(f"{source}: expected heads in whole groups, found {heads} and {kv_heads}")
    return Shape(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=heads,
        kv_heads=kv_heads,
        head=config.get("head_dim") or config["hidden_size"] // heads,
        intermediate=config["intermediate_size"],
        vocabulary=config["vocab_size"],
    )


class Decoder:
    """The weights of a decoder, and a KV cache of *kv_tokens* tokens that iterations share."""

    def __init__(
        self, shape: Shape, *, kv_tokens: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.shape = shape
        self._place: dict[str, Any] = {"device": device, "dtype": dtype}
        width, kv_width = shape.heads * shape.head, shape.kv_heads * shape.head
        self._layers = [
            {
                "qkv": self._random(width + 2 * kv_width, shape.hidden),
                "out": self._random(shape.hidden, width),
                "gate_up": self._random(2 * shape.intermediate, shape.hidden),
                "down": self._random(shape.hidden, shape.intermediate),
                "norms": torch.ones(2, shape.hidden, **self._place),
            }
            for _ in range(shape.layers)
        ]
        self._words = self._random(shape.vocabulary, shape.hidden)
        self._head = self._random(shape.vocabulary, shape.hidden)
        self._norm = torch.ones(shape.hidden, **self._place)
        # Keys and values of each layer.
        size = (shape.layers, 2, kv_tokens * kv_width)
        self._kv = torch.zeros(size, **self._place)

    def _random(self, rows: int, columns: int) -> Tensor:
        # Small enough that nothing overflows after many layers.
        return torch.randn(rows, columns, **self._place) * columns**-0.5

    @torch.inference_mode()
    def decode(self, tokens: Tensor, context: int) -> Tensor:
        """Return the next token of each of *tokens*, one a request, after *context* others."""
        return self._next(tokens[:, None], context)

    @torch.inference_mode()
    def prefill(self, tokens: Tensor) -> Tensor:
        """Return the token after the prompt *tokens*."""
        return self._next(tokens[None, :], 0)

    def _next(self, tokens: Tensor, context: int) -> Tensor:
        size = self.shape.hidden
        hidden = functional.embedding(tokens, self._words)
        turn = self._turns(context, tokens.shape[1])
        for place, layer in enumerate(self._layers):
            first, second = layer["norms"]
            normed = functional.rms_norm(hidden, (size,), first)
            hidden = hidden + self._attended(normed, place, context, turn)
            normed = functional.rms_norm(hidden, (size,), second)
            gate, up = functional.linear(normed, layer["gate_up"]).chunk(2, dim=-1)
            hidden = hidden + functional.linear(functional.silu(gate) * up, layer["down"])
        last = functional.rms_norm(hidden[:, -1], (size,), self._norm)
        return functional.linear(last, self._head).argmax(dim=-1)

    def _attended(self, normed: Tensor, place: int, context: int, turn: Tensor) -> Tensor:
        shape, layer = self.shape, self._layers[place]
        batch, count, _ = normed.shape
        parts = (shape.heads, shape.kv_heads, shape.kv_heads)
        mixed = functional.linear(normed, layer["qkv"]).view(batch, count, sum(parts), shape.head)
        query, key, value = mixed.transpose(1, 2).split(parts, dim=1)
        query, key = _turned(query, turn), _turned(key, turn)
        length = context + count
        held = self._kv[place, :, : batch * length * shape.kv_heads * shape.head]
        # By token, as attention kernels like it.
        kept = held.view(2, batch, length, shape.kv_heads, shape.head)
        keys, values = kept.transpose(2, 3)
        keys[:, :, context:] = key
        values[:, :, context:] = value
        if count == 1:
            # The heads that share a key stand for tokens of one head: the cache is read once.
            grouped = query.reshape(batch, shape.kv_heads, -1, shape.head)
            found = functional.scaled_dot_product_attention(grouped, keys, values)
        else:
            found = functional.scaled_dot_product_attention(
                query, keys, values, is_causal=True, enable_gqa=shape.heads != shape.kv_heads
            )
        found = found.reshape(batch, shape.heads, count, shape.head).transpose(1, 2)
        return functional.linear(found.reshape(batch, count, -1), layer["out"])

    def _turns(self, context: int, count: int) -> Tensor:
        """Return cosines and sines of the positions of *count* tokens after *context* others."""
        half = self.shape.head // 2
        device = self._place["device"]
        speeds = 10000.0 ** (-torch.arange(half, device=device, dtype=torch.float32) / half)
        places = torch.arange(context, context + count, device=device, dtype=torch.float32)
        angles = torch.outer(places, speeds)
        return torch.stack([angles.cos(), angles.sin()]).to(self._place["dtype"])


def _turned(values: Tensor, turn: Tensor) -> Tensor:
    """Return *values* with their places in the text in them."""
    cosine, sine = turn
    left, right = values.chunk(2, dim=-1)
    return torch.cat([left * cosine - right * sine, right * cosine + left * sine], dim=-1)
