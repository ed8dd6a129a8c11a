"""Claims about config.json of other families: what their authors and Hugging Face count is what is
counted here.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from tests.parts import first
from tests.twin.mutations import mutated
from twin.fit.model_config import model_facts
from twin.fit.quantisation import precision
from twin.spec import SpecError

Json = dict[str, Any]


def shape(model_type: str, layers: int, hidden: int, heads: int, **others: Any) -> Json:
    """Return a config with the names that most families use."""
    return {
        "model_type": model_type,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
    } | others


def mixture(experts: int, used: int, size: int, **others: Any) -> Json:
    """Return the experts of a config under their usual names."""
    named = {"num_experts": experts, "num_experts_per_tok": used, "moe_intermediate_size": size}
    return named | others


LATENT = {
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "moe_layer_freq": 1,
}
GEMMA_4 = {"model_type": "gemma4_text", "vocab_size": 262144, "tie_word_embeddings": True}


def of_letters(pattern: str) -> list[str]:
    """Return the layers of Nemotron-H as transformers lists them."""
    kinds = {"M": "linear_attention", "E": "moe", "*": "full_attention"}
    return [kinds[letter] for letter in pattern]


LLAMA_4 = shape(
    *("llama4_text", 48, 5120, 40),
    num_key_value_heads=8,
    head_dim=128,
    intermediate_size=8192,
    intermediate_size_mlp=16384,
    vocab_size=202048,
    num_experts_per_tok=1,
)
GPT_OSS = shape(
    *("gpt_oss", 36, 2880, 64),
    num_key_value_heads=8,
    head_dim=64,
    intermediate_size=2880,
    vocab_size=201088,
    sliding_window=128,
    layer_types=["sliding_attention", "full_attention"] * 18,
    num_local_experts=128,
    num_experts_per_tok=4,
    quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": ["*.self_attn"]},
)

# Name: config, billions of parameters, of those that compute a token (None: nearly all), and KV
# bytes a token at 16 bits.
FAMILIES: dict[str, tuple[Json, float, float | None, int]] = {
    "Qwen3-235B-A22B": (
        shape("qwen3_moe", 94, 4096, 64, num_key_value_heads=4, head_dim=128, vocab_size=151936)
        | mixture(128, 8, 1536, intermediate_size=12288, mlp_only_layers=[]),
        *(235.1, 21.6, 192512),
    ),
    "Qwen1.5-MoE-A2.7B, with an expert that all take": (
        shape("qwen2_moe", 24, 2048, 16, num_key_value_heads=16, vocab_size=151936)
        | mixture(60, 4, 1408, intermediate_size=5632, shared_expert_intermediate_size=5632),
        *(14.32, 2.38, 196608),
    ),
    "DeepSeek-V3": (
        shape("deepseek_v3", 61, 7168, 128, num_key_value_heads=128, vocab_size=129280)
        | mixture(256, 8, 2048, intermediate_size=18432, q_lora_rank=1536)
        | {"n_shared_experts": 1, "first_k_dense_replace": 3, **LATENT},
        *(671.0, 36.6, 70272),
    ),
    "DeepSeek-V2-Lite, whose queries are not compressed": (
        shape("deepseek_v2", 27, 2048, 16, num_key_value_heads=16, vocab_size=102400)
        | mixture(64, 6, 1408, intermediate_size=10944, q_lora_rank=None)
        | {"n_shared_experts": 2, "first_k_dense_replace": 1, **LATENT},
        *(15.71, 2.45, 31104),
    ),
    "gpt-oss-120b": (GPT_OSS, 116.8, 5.13, 38016),
    "Llama 4 Scout": ({"text_config": LLAMA_4 | {"num_local_experts": 16}}, 107.8, 16.1, 196608),
    "Llama 4 Maverick, every second layer dense": (
        {"text_config": LLAMA_4 | {"num_local_experts": 128, "interleave_moe_layer_step": 2}},
        *(400.7, 16.1, 196608),
    ),
    "Gemma 3 4B, which leaves its heads to its class": (
        {
            "model_type": "gemma3",
            "text_config": {
                "model_type": "gemma3_text",
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "num_hidden_layers": 34,
                "sliding_window": 1024,
            },
        },
        *(3.88, None, 50176),
    ),
    "LLaVA 1.5 7B, which leaves all to its class": (
        {"model_type": "llava", "text_config": {"model_type": "llama", "vocab_size": 32064}},
        *(6.74, None, 524288),
    ),
    "Falcon 7B, one KV head whatever num_kv_heads says": (
        shape("falcon", 32, 4544, 71, num_kv_heads=71, multi_query=True, vocab_size=65024),
        *(6.92, None, 8192),
    ),
    "Falcon 40B, as it was first published": (
        {"model_type": "RefinedWeb", "n_layer": 60, "hidden_size": 8192, "n_head": 128}
        | {"n_head_kv": 8, "vocab_size": 65024},
        *(41.3, None, 122880),
    ),
    "Phi-2, with two matrices a block": (
        shape("phi", 32, 2560, 32, intermediate_size=10240, vocab_size=51200),
        *(2.78, None, 327680),
    ),
    "StarCoder": (
        {"model_type": "gpt_bigcode", "n_embd": 6144, "n_layer": 40, "n_head": 48}
        | {"n_inner": 24576, "multi_query": True, "n_positions": 8192, "vocab_size": 49152},
        *(15.52, None, 20480),
    ),
    "OPT 6.7B": (
        shape("opt", 32, 4096, 32, ffn_dim=16384, vocab_size=50272, max_position_embeddings=2048),
        *(6.66, None, 524288),
    ),
    "DBRX, whose figures are nested": (
        {"model_type": "dbrx", "d_model": 6144, "n_heads": 48, "n_layers": 40, "vocab_size": 100352}
        | {"attn_config": {"kv_n_heads": 8, "model_type": ""}}
        | {"ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4}},
        *(131.6, 35.9, 163840),
    ),
    "GLM-4 9B": (
        {"model_type": "chatglm", "num_layers": 40, "hidden_size": 4096, "kv_channels": 128}
        | {"num_attention_heads": 32, "multi_query_attention": True, "multi_query_group_num": 2}
        | {"ffn_hidden_size": 13696, "padded_vocab_size": 151552},
        *(9.4, None, 40960),
    ),
    "Jamba 52B, one layer of eight with attention": (
        shape("jamba", 32, 4096, 32, num_key_value_heads=8, intermediate_size=14336)
        | {"vocab_size": 65536, "num_experts": 16, "num_experts_per_tok": 2, "mamba_d_state": 16}
        | {"attn_layer_period": 8, "attn_layer_offset": 4}
        | {"expert_layer_period": 2, "expert_layer_offset": 1},
        *(51.6, 11.8, 16384),
    ),
    "Nemotron-H 8B": (
        shape("nemotron_h", 52, 4096, 32, num_key_value_heads=8, attention_head_dim=128)
        | {"intermediate_size": 21504, "vocab_size": 131072, "mamba_num_heads": 128}
        | {"mamba_head_dim": 64, "ssm_state_size": 128, "n_groups": 8}
        | {"hybrid_override_pattern": "M-M-M-M*-" + 3 * "M-M-M-M-M*-" + 5 * "M-"},
        *(8.1, None, 16384),
    ),
    "Qwen3-Next 80B": (
        shape("qwen3_next", 48, 2048, 16, num_key_value_heads=2, head_dim=256, vocab_size=151936)
        | mixture(512, 10, 512, shared_expert_intermediate_size=512, full_attention_interval=4)
        | {"linear_num_key_heads": 16, "linear_key_head_dim": 128}
        | {"linear_num_value_heads": 32, "linear_value_head_dim": 128},
        *(79.7, 3.56, 24576),
    ),
    "Granite 4 H Small": (
        shape("granitemoehybrid", 40, 4096, 32, num_key_value_heads=8, intermediate_size=768)
        | {"shared_intermediate_size": 1536, "num_local_experts": 72, "num_experts_per_tok": 10}
        | {"vocab_size": 100352, "tie_word_embeddings": True, "mamba_n_heads": 128}
        | {"mamba_d_head": 64, "mamba_d_state": 128}
        | {"layer_types": (["mamba"] * 5 + ["attention"] + ["mamba"] * 4) * 4},
        *(32.2, 8.8, 16384),
    ),
    "Falcon-H1 7B, attention and a state side by side in each layer": (
        shape("falcon_h1", 44, 3072, 12, num_key_value_heads=2, head_dim=128, vocab_size=130049)
        | {"intermediate_size": 12288, "mamba_n_heads": 24, "mamba_d_head": 128}
        | {"mamba_d_state": 256, "mamba_n_groups": 1},
        *(7.59, None, 45056),
    ),
    "Apertus 8B, with two matrices a block": (
        shape("apertus", 32, 4096, 32, num_key_value_heads=8, vocab_size=131072)
        | {"intermediate_size": 21504},
        *(8.05, None, 131072),
    ),
    "LFM2 1.2B, as it was first published": (
        shape("lfm2", 16, 2048, 32, num_key_value_heads=8, vocab_size=65536, block_ff_dim=12288)
        | {"block_auto_adjust_ff_dim": True, "block_multiple_of": 256, "tie_embedding": True}
        | {"full_attn_idxs": [2, 5, 8, 10, 12, 14]},
        *(1.17, None, 12288),
    ),
    "Hunyuan A13B, which lists the same for each layer": (
        shape("hunyuan_v1_moe", 32, 4096, 32, num_key_value_heads=8, vocab_size=128167)
        | {"intermediate_size": 3072, "moe_intermediate_size": [3072] * 32, "num_experts": 64}
        | {"moe_topk": [8] * 32, "num_shared_expert": [1] * 32, "tie_word_embeddings": True},
        *(80.4, 12.75, 131072),
    ),
    "LongCat-Flash, layers of two and experts that compute nothing": (
        {"model_type": "longcat_flash", "num_layers": 28, "hidden_size": 6144}
        | {"num_attention_heads": 64, "ffn_hidden_size": 12288, "expert_ffn_hidden_size": 2048}
        | {"n_routed_experts": 512, "zero_expert_num": 256, "moe_topk": 12, "vocab_size": 131072}
        | {"q_lora_rank": 1536, **LATENT},
        *(560.6, 27.1, 64512),
    ),
    "Arctic, with a dense block beside its experts": (
        shape("arctic", 35, 7168, 56, num_key_value_heads=8, intermediate_size=4864)
        | {"num_local_experts": 128, "num_experts_per_tok": 2, "vocab_size": 32000}
        | {"parallel_attn_mlp_res": True},
        *(479.0, 17.0, 143360),
    ),
    "Llama 3.2 Vision 11B, of which eight layers read the picture": (
        {
            "text_config": shape("mllama_text_model", 40, 4096, 32, num_key_value_heads=8)
            | {"intermediate_size": 14336, "vocab_size": 128256}
            | {"cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38]}
        },
        *(9.78, None, 131072),
    ),
    "SmolLM3 3B, which leaves its one table to its class": (
        shape("smollm3", 36, 2048, 16, num_key_value_heads=4, vocab_size=128256)
        | {"intermediate_size": 11008},
        *(3.08, None, 73728),
    ),
    "GLM-4.5": (
        shape("glm4_moe", 92, 5120, 96, num_key_value_heads=8, head_dim=128, vocab_size=151552)
        | mixture(160, 8, 1536, intermediate_size=12288, n_shared_experts=1)
        | {"first_k_dense_replace": 3},
        *(352.8, 32.85, 376832),
    ),
    "Gemma 3n E4B, with tables of each layer and caches that others read": (
        {
            "text_config": shape("gemma3n_text", 35, 2048, 8, num_key_value_heads=2, head_dim=256)
            | {"intermediate_size": [16384] * 35, "vocab_size": 262400, "sliding_window": 4096}
            | {"vocab_size_per_layer_input": 262144, "hidden_size_per_layer_input": 256}
            | {"num_kv_shared_layers": 15}
        },
        # 6.87 with what mixes them.
        *(6.78, 4.43, 40960),
    ),
    "DeepSeek-V3.2, which finds the tokens that it attends to": (
        shape("deepseek_v32", 61, 7168, 128, vocab_size=129280, intermediate_size=18432)
        | {"n_routed_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 2048}
        | {"n_shared_experts": 1, "first_k_dense_replace": 3, "q_lora_rank": 1536}
        | {"index_head_dim": 128, "index_n_heads": 64, "index_topk": 2048}
        | LATENT,
        *(671.9, 37.5, 78080),
    ),
    "Step-3, whose many queries share one head": (
        {
            "text_config": shape("step3_text", 61, 7168, 64, head_dim=256, vocab_size=128815)
            | {"num_attention_groups": 1, "share_q_dim": 2048, "intermediate_size": 18432}
            | {"moe_num_experts": 48, "moe_top_k": 3, "moe_intermediate_size": 5120}
            | {"share_expert_dim": 5120, "moe_layers_enum": ",".join(map(str, range(4, 60)))}
        },
        *(316.0, 38.0, 62464),
    ),
    "Step-3.5-Flash, which lists the layers that guess, too": (
        shape("step3p5", 45, 4096, 64, head_dim=128, num_attention_groups=8, vocab_size=128896)
        | {"intermediate_size": 11264, "moe_num_experts": 288, "moe_top_k": 8}
        | {"moe_intermediate_size": 1280, "share_expert_dim": 1280, "sliding_window": 512}
        | {"moe_layers_enum": ",".join(map(str, range(3, 45))), "num_nextn_predict_layers": 3}
        | {"layer_types": (["full_attention"] + ["sliding_attention"] * 3) * 12}
        | {
            "attention_other_setting": {
                "attention_type": "sliding_attention",
                "num_attention_heads": 96,
                "num_attention_groups": 8,
                "head_dim": 128,
            }
        },
        *(196.8, 11.4, 66048),
    ),
    "MiMo-V2-Flash, with other heads in windows": (
        shape("mimo_v2_flash", 48, 4096, 64, num_key_value_heads=4, vocab_size=152576)
        | mixture(256, 8, 2048, intermediate_size=16384, moe_layer_freq=[0] + [1] * 47)
        | {"head_dim": 192, "v_head_dim": 128, "swa_num_key_value_heads": 8, "sliding_window": 128}
        | {"hybrid_layer_pattern": [0] + ([1] * 5 + [0]) * 7 + [1] * 5},
        *(309.0, None, 26880),
    ),
    "Nemotron 3 Nano, which lists its layers, each of which is one thing": (
        shape("nemotron_h", 52, 2688, 32, num_key_value_heads=2, head_dim=128, vocab_size=131072)
        | mixture(128, 6, 1856, moe_shared_expert_intermediate_size=3712, n_shared_experts=1)
        | {"mamba_num_heads": 64, "mamba_head_dim": 64, "n_groups": 8, "ssm_state_size": 128}
        | {"layers_block_type": of_letters("MEMEM*E" + "MEMEM*E" * 4 + "MEMEMEM*E" + "MEMEMEME")},
        *(31.58, 3.23, 6144),
    ),
    "Nemotron 3 Super, whose experts compute in fewer values": (
        {"model_type": "nemotron_h", "hidden_size": 4096, "num_attention_heads": 32}
        | {"num_key_value_heads": 2, "head_dim": 128, "vocab_size": 131072}
        | mixture(512, 22, 2688, moe_shared_expert_intermediate_size=5376, n_shared_experts=1)
        | {"mamba_num_heads": 128, "mamba_head_dim": 64, "n_groups": 8, "ssm_state_size": 128}
        | {"moe_latent_size": 1024, "layers_block_type": of_letters("MEMEMEM*E" * 9 + "MEMEMEM")},
        *(117.83, 12.09, 9216),
    ),
    "GLM-5, which lists its blocks": (
        shape("glm_moe_dsa", 78, 6144, 64, vocab_size=154880, intermediate_size=12288)
        | mixture(256, 8, 2048, n_shared_experts=1, q_lora_rank=2048, kv_lora_rank=512)
        | {"qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256}
        | {"index_head_dim": 128, "index_n_heads": 32, "index_topk": 2048}
        | {"layer_types": ["indexed_attention"] * 78}
        | {"mlp_layer_types": ["dense"] * 3 + ["sparse"] * 75},
        *(743.91, 40.83, 99840),
    ),
    "DeepSeek-V4-Flash, which makes one entry of 4 or 128 tokens": (
        shape("deepseek_v4", 43, 4096, 64, num_key_value_heads=1, head_dim=512, vocab_size=129280)
        | {"moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": 1}
        | {"num_experts_per_tok": 6, "q_lora_rank": 1024, "o_lora_rank": 1024, "o_groups": 8}
        | {"index_head_dim": 128, "index_n_heads": 64, "index_topk": 512, "sliding_window": 128}
        | {"compress_ratios": [128, 128, 128] + [4, 128] * 20 + [0]}
        | {"num_nextn_predict_layers": 1},
        *(284.33, 13.27, 7320),
    ),
    "Gemma 4 26B, with a dense block beside its experts": (
        GEMMA_4
        | {"num_hidden_layers": 30, "hidden_size": 2816, "num_attention_heads": 16}
        | {"num_key_value_heads": 8, "num_global_key_value_heads": 2, "attention_k_eq_v": True}
        | {"enable_moe_block": True, "intermediate_size": 2112, "moe_intermediate_size": 704}
        | {"num_experts": 128, "top_k_experts": 8, "sliding_window": 1024},
        *(25.23, 3.82, 71680),
    ),
    "Gemma 4 E2B, whose layers without a cache have wider blocks": (
        GEMMA_4
        | {"num_hidden_layers": 35, "hidden_size": 1536, "num_attention_heads": 8}
        | {"num_key_value_heads": 1, "intermediate_size": 6144, "use_double_wide_mlp": True}
        | {"hidden_size_per_layer_input": 256, "num_kv_shared_layers": 20}
        | {"layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 7},
        # 4.63 with what mixes them.
        *(4.61, 2.26, 7680),
    ),
    "Jais 2 8B, with two matrices a block": (
        shape("jais2", 32, 3328, 26, head_dim=128, intermediate_size=26624, vocab_size=150272),
        *(8.09, None, 425984),
    ),
    "InternVL, whose one table is told outside": (
        {
            "tie_word_embeddings": True,
            "text_config": shape("qwen2", 32, 4096, 32, intermediate_size=22016)
            | {"vocab_size": 151936, "tie_word_embeddings": False},
        },
        *(11.43, None, 524288),
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_config_of_another_family_has_the_parameters_that_are_published(name: str) -> None:
    """Names, blocks and layers differ, and each is a factor of weights, compute or KV cache."""
    config, billions, active, kv_bytes = FAMILIES[name]
    found = model_facts(config, source="config.json", name=name)
    assert found.parameters / 1e9 == pytest.approx(billions, rel=0.005)
    assert found.active <= found.parameters
    if active is not None:
        assert found.active / 1e9 == pytest.approx(active, rel=0.01)
    assert 2 * found.kv_values == kv_bytes


LLAMA = shape(
    *("llama", 80, 8192, 64), num_key_value_heads=8, intermediate_size=28672, vocab_size=128256
)


def _group(bits: int, kind: str, *, inputs: bool) -> Json:
    weights = {"num_bits": bits, "type": kind}
    groups = {"group_0": {"weights": weights, "input_activations": weights if inputs else None}}
    return {"quant_method": "compressed-tensors", "config_groups": groups}


def _quark(weight: str, inputs: str | None) -> Json:
    of_all = {"weight": {"dtype": weight}, "input_tensors": inputs and {"dtype": inputs}}
    return {"quant_method": "quark", "global_quant_config": of_all}


@pytest.mark.parametrize(
    ("given", "gigabytes", "is_fp8"),
    [
        ({"quant_method": "fp8", "fmt": "e4m3"}, 72.7, True),
        ({"quant_method": "fbgemm_fp8"}, 72.7, True),
        (_group(8, "float", inputs=True), 72.7, True),
        (_group(8, "float", inputs=False), 72.7, False),
        (_group(8, "int", inputs=True), 72.7, False),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 39.5, False),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True}, 39.5, False),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 42.7, False),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}, 42.7, False),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, 72.7, True),
        ({"quant_method": "unheard-of"}, 72.7, False),
        (_quark("fp4", "fp4"), 40.5, False),
        (_quark("fp8_e4m3", "fp8_e4m3"), 72.7, True),
        (_quark("fp8_e4m3", None), 72.7, False),
        ({"quant_method": "exl3", "bits": 3.5}, 34.1, False),
        ({"quant_method": "torchao", "quant_type": "Int4WeightOnlyConfig"}, 39.5, False),
        ("awq", 39.5, False),
        (None, 141.1, False),
    ],
)
def test_the_weights_of_a_file_are_as_large_as_the_files_that_are_published(
    given: object, gigabytes: float, is_fp8: bool
) -> None:
    """Llama 3.1 70B as several have quantised it; the tables of words stay at 16 bits."""
    found = model_facts(LLAMA | {"quantization_config": given}, source="config.json", name="m")
    assert found.parameters * found.weight_bytes / 1e9 == pytest.approx(gigabytes, rel=0.005)
    assert found.is_fp8 == is_fp8
    plain = model_facts(LLAMA, source="config.json", name="m")
    assert (found.weak == plain.weak) == (is_fp8 or given is None)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}, 1.0),
        ({"quant_method": "modelopt", "kv_cache_scheme": {"num_bits": 8, "type": "float"}}, 1.0),
        (_group(8, "float", inputs=True) | {"kv_cache_scheme": None}, 2.0),
        (
            _group(8, "float", inputs=True) | {"kv_cache_scheme": {"num_bits": 8, "type": "float"}},
            1.0,
        ),
        ({"quant_method": "modelopt", "quantization": {"kv_cache_quant_algo": None}}, 2.0),
        ({"quant_method": "modelopt", "quantization": {"kv_cache_quant_algo": "FP8"}}, 1.0),
        ({"quant_method": "fp8"}, 2.0),
        (None, 2.0),
    ],
)
def test_a_cache_whose_scales_the_file_brings_is_kept_in_eight_bits(
    given: object, kept: float
) -> None:
    """vLLM does so by itself: such a cache was thought to hold half as many tokens."""
    found = model_facts(LLAMA | {"quantization_config": given}, source="config.json", name="m")
    assert found.kv_value_bytes == kept


def test_only_the_experts_of_gpt_oss_are_of_four_bits() -> None:
    """65.2 GB are published; a step reads the experts at 4.25 bits, the rest at 16."""
    found = model_facts(GPT_OSS, source="config.json", name="m")
    assert found.parameters * found.weight_bytes / 1e9 == pytest.approx(65.2, rel=0.005)
    assert found.expert_bytes == 4.25 / 8.0
    assert found.routed / found.parameters > 0.95


def test_what_sees_besides_inherits_its_quantisation_from_outside() -> None:
    """Some write it beside the part that writes, some into it."""
    quantised = {"quantization_config": {"quant_method": "fp8"}}
    outside = {"text_config": LLAMA, **quantised}
    inside = {"text_config": LLAMA | quantised}
    for document in (outside, inside):
        found = model_facts(document, source="config.json", name="m")
        assert found.is_fp8
        assert any("only the part that writes" in reason for reason in found.weak)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (
            LLAMA | {"architectures": ["BertForMaskedLM"]},
            "config.json: expected a decoder, found BertForMaskedLM",
        ),
        (
            LLAMA | {"is_encoder_decoder": True, "model_type": "t5"},
            "config.json: expected a decoder, found t5",
        ),
        (
            shape("mamba2", 64, 4096, 128, vocab_size=32768),
            "config.json: layers: expected some with attention, found only mamba",
        ),
        (
            LLAMA | {"block_configs": [{}] * 80},
            "config.json: block_configs: expected layers of one shape, found a list of 80",
        ),
        (
            LLAMA | {"layer_types": ["full_attention"] * 3},
            "config.json: layer types: expected 80, found 3",
        ),
        (
            LLAMA | {"layer_types": ["retention"] * 80},
            "config.json: layer type: expected one of attention, full_attention, ",
        ),
        (
            LLAMA | {"num_hidden_layers": 10**9},
            "config.json: num_hidden_layers: expected a whole number >= 1 and <= 10000, found 1000",
        ),
        (
            LLAMA | {"num_key_value_heads": 128},
            "config.json: num_key_value_heads: expected at most as many as heads, 64, found 128",
        ),
        (
            shape("chatglm", 28, 4096, 32, vocab_size=65024)
            | {"multi_query_attention": True, "multi_query_group_num": 33},
            "config.json: multi_query_group_num: expected at most as many as heads, 32, found 33",
        ),
        (
            LLAMA
            | {"layer_types": ["sliding_attention"] * 80, "swa_num_attention_heads": 16}
            | {"swa_num_key_value_heads": 32},
            "config.json: swa_num_key_value_heads: expected at most as many as heads, 16, found 32",
        ),
        ({}, "config.json: num_hidden_layers: expected a whole number"),
    ],
)
def test_what_cannot_be_counted_is_told(config: Json, line: str) -> None:
    """A wrong figure is taken for a right one; a line is not."""
    with pytest.raises(SpecError) as caught:
        model_facts(config, source="config.json", name="m")
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize("name", first(9, FAMILIES))
def test_whatever_is_wrong_in_a_config_is_told_in_one_line(name: str) -> None:
    """Fifteen of each family in which values are others, or gone: figures, or what is wrong."""
    rng = Random(name)
    for _ in range(15):
        config = mutated(FAMILIES[name][0] | {"architectures": ["SomeForCausalLM"]}, rng)
        found, told = None, ""
        try:
            found = model_facts(config, source="config.json", name=name)
        except SpecError as error:
            told = str(error)
        assert "\n" not in told
        if found is not None:
            assert 0.0 < found.active <= found.parameters * 1.000001 < float("inf")
            assert found.kv_values > 0
            assert found.used <= found.experts


@pytest.mark.parametrize(
    ("told", "bits"),
    [
        ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4}}}, 4.0),
        ({"quant_method": "aqlm", "nbits_per_codebook": 16, "num_codebooks": 1}, 8.0),
        (
            {"quant_method": "aqlm", "nbits_per_codebook": 16, "num_codebooks": 1}
            | {"in_group_size": 8},
            2.0,
        ),
        ({"quant_method": "bitnet"}, 2.0),
        ({"quant_method": "fp_quant", "forward_dtype": "mxfp4"}, 4.25),
        ({"quantization": {"quant_algo": "FP8"}}, 8.0),
    ],
)
def test_bits_are_found_wherever_a_method_keeps_them(told: Json, bits: float) -> None:
    """Eight were taken for each of these, and the weights were two to four times too large."""
    assert precision(told).bits == bits


def test_bits_that_the_file_does_not_tell_are_said_to_be_a_guess() -> None:
    """Eight are taken, of a method that nobody here knows; in silence that was a fact."""
    found = model_facts(
        LLAMA | {"quantization_config": {"quant_method": "vptq"}}, source="config.json", name="m"
    )
    assert "weights quantised by vptq: the file does not tell their bits, 8 are taken" in found.weak
    told = LLAMA | {"quantization_config": {"quant_method": "w8a8_int8"}}
    assert not any("taken" in why for why in model_facts(told, source="c", name="m").weak)
