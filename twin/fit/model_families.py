"""How families of models name the figures of their config.json, and what they are like where the
file does not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Each figure under the names that families give it, the usual one first.
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HIDDEN = ("hidden_size", "n_embd", "n_embed", "d_model")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
KV_HEADS = (
    "num_key_value_heads",
    "num_kv_heads",
    "n_head_kv",
    "kv_n_heads",
    "n_kv_heads",
    "num_attention_groups",
)
HEAD_DIM = ("head_dim", "attention_head_dim", "kv_channels")
VOCABULARY = ("vocab_size", "padded_vocab_size")
INTERMEDIATE = ("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim", "block_ff_dim")
EXPERTS = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts")
EXPERTS_USED = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "moe_top_k",
    "moe_topk",
    "moe_k",
    "top_k_experts",
)
EXPERT_SIZE = ("moe_intermediate_size", "expert_ffn_hidden_size")
SHARED_EXPERTS = (
    "n_shared_experts",
    "num_shared_experts",
    "num_shared_expert",
    "moe_num_shared_experts",
)
SHARED_SIZE = (
    "shared_expert_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "shared_intermediate_size",
    "share_expert_dim",
)
POSITIONS = ("n_positions", "max_position_embeddings")
CONTEXTS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
# Where models that also see or hear keep the one that writes.
TEXT = ("text_config", "llm_config", "language_config", "thinker_config")
TIES = ("tie_word_embeddings", "tie_embedding")
NESTED = ("attn_config", "ffn_config")

# They make a vector of a text, and no text: without a KV cache, and with other blocks.
ENCODERS = frozenset(
    [
        *("albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "esm"),
        *("mobilebert", "modernbert", "mpnet", "new", "nomic_bert", "roberta"),
        *("xlm-roberta", "xlm-roberta-xl"),
    ]
)
# Two matrices a block instead of three, as nothing gates.
GATELESS = frozenset(
    [
        "apertus",
        "apertus1p5",
        "apertus1p5_text",
        "arcee",
        "bloom",
        "codegen",
        "falcon",
        "gpt2",
        "gpt_bigcode",
        "gpt_neo",
        "gpt_neox",
        "gptj",
        "jais2",
        "mpt",
        "nanochat",
        "nemotron",
        "nemotron_h",
        "opt",
        "persimmon",
        "phi",
        "RefinedWeb",
        "RefinedWebModel",
        "starcoder2",
    ]
)
# Read out through the table of inputs, if the file does not say.
TIED = frozenset(
    [
        "bloom",
        "cohere",
        "cohere2",
        "ernie4_5",
        "ernie4_5_moe",
        "falcon",
        "gemma",
        "gemma2",
        "gemma3",
        "gemma3_text",
        "gemma3n_text",
        "gemma4",
        "gemma4_text",
        "gpt2",
        "gpt_bigcode",
        "gpt_neo",
        "lfm2",
        "lfm2_moe",
        "mpt",
        "opt",
        "RefinedWeb",
        "RefinedWebModel",
        "smollm3",
        "starcoder2",
    ]
)
LEARNED_POSITIONS = frozenset(["gpt2", "gpt_bigcode", "gpt_neo", "opt"])
# What a file may leave out, as the classes of transformers have it.
GEMMA_3 = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 262208,
    "sliding_window_pattern": 6,
    "sliding_window": 4096,
}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "intermediate_size": 11008,
        "vocab_size": 32000,
    },
    "mistral": {
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 32000,
    },
    "gemma": {"head_dim": 256},
    "gemma2": {"head_dim": 256, "sliding_window_pattern": 2, "sliding_window": 4096},
    "gemma3_text": GEMMA_3,
    "gemma4_text": {
        "head_dim": 256,
        "global_head_dim": 512,
        "sliding_window_pattern": 6,
        "sliding_window": 512,
    },
    "gpt_oss": {"head_dim": 64, "sliding_window_pattern": 2, "sliding_window": 128},
    "cohere2": {"sliding_window_pattern": 4, "sliding_window": 4096},
}
