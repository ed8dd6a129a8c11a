"""In how many bits a model keeps its weights, and its KV cache, by the quantization_config of its
config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Under which methods list what they leave as it was.
LISTS = ("modules_to_not_convert", "ignore", "exclude_modules", "ignored_layers", "exclude")
BITS = ("bits", "w_bit", "wbits", "num_bits", "nbits", "weight_bits")
# What is stored in eight bits, by a part of its method's name.
EIGHT = ("int8", "w8", "8bit", "load_in_8bit")
GUESSED = 8.0  # bits of a method that nobody here knows


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Bits of a quantised weight with its scales, whether fp8 units compute with it, the name of
    the method, and the names of what is left at 16 bits. is_guess: the file does not tell the bits.
    """

    bits: float
    is_fp8: bool = False
    method: str
    left: str = ""
    is_guess: bool = False

    def leaves(self, *names: str) -> bool:
        """Tell whether what one of *names* is in is left at 16 bits."""
        return any(name in self.left for name in names)


def precision(given: object) -> Precision:
    """Return what *given*, a quantization_config, says."""
    if not isinstance(given, Mapping):
        bits, is_fp8 = _by_name(str(given).lower())
        is_guess = _is_unknown(str(given).lower())
        return Precision(bits=bits, is_fp8=is_fp8, method=str(given), is_guess=is_guess)
    inner = given.get("quantization")  # of the file that modelopt puts beside the config
    if isinstance(inner, Mapping):
        given = {**given, **inner}
    named = ("quant_method", "quant_algo", "fmt", "quant_type")
    names = [str(given[key]) for key in named if given.get(key)]
    method = names[0] if names else str(given.get("format") or "unknown")
    words = " ".join(names).lower() or method.lower()
    found = _bits(given, words)
    bits, is_fp8 = found or _by_name(words)
    is_guess = found is None and _is_unknown(words)
    return Precision(bits=bits, is_fp8=is_fp8, method=method, left=_left(given), is_guess=is_guess)


def keeps_fp8(given: object) -> bool:
    """Tell whether vLLM keeps the KV cache of such a model in fp8 unless it is told otherwise: its
    file brings the scales.
    """
    if not isinstance(given, Mapping):
        return False
    inner = given.get("quantization")
    of_all = {**given, **inner} if isinstance(inner, Mapping) else given
    scheme = of_all.get("kv_cache_scheme")
    if isinstance(scheme, Mapping):
        return scheme.get("num_bits") == 8 and scheme.get("type") == "float"
    return str(of_all.get("kv_cache_quant_algo")).lower() == "fp8"


def _left(given: Mapping[str, object]) -> str:
    lists = [given[key] for key in LISTS if isinstance(given.get(key), list)]
    return " ".join(str(name) for names in lists if isinstance(names, list) for name in names)


def _bits(given: Mapping[str, object], names: str) -> tuple[float, bool] | None:
    """Return bits and whether it is fp8 where figures of *given* tell, None if none does."""
    groups = given.get("config_groups")
    if isinstance(groups, Mapping) and groups:
        return _by_group(next(iter(groups.values())))
    if given.get("load_in_4bit") is True:
        return 4.5, False
    if given.get("load_in_8bit") is True:
        return 8.0, False
    if "aqlm" in names:
        return _by_codebooks(given)
    whole = given.get("global_quant_config")
    if isinstance(whole, Mapping):
        return _by_quark(whole)
    for key in BITS:
        bits = given.get(key)
        if isinstance(bits, float) and 1.0 <= bits <= 16.0:  # a mean over layers
            return bits, False
        if isinstance(bits, int) and _is_bits(bits):
            size = given.get("group_size", given.get("q_group_size"))
            return bits + _scales(16.0, size), False
    if given.get("forward_dtype"):  # of FP-Quant
        return _by_name(str(given["forward_dtype"]).lower())
    for key in ("quant_config", "weight_quant_params"):  # of HQQ
        below = given.get(key)
        if isinstance(below, Mapping):
            return _bits(below, names)
    return None


def _by_codebooks(given: Mapping[str, object]) -> tuple[float, bool] | None:
    """Return the bits of a weight of AQLM, which keeps so many codes for a group of them."""
    figures = [given.get(name) for name in ("nbits_per_codebook", "num_codebooks", "in_group_size")]
    wide, count, size = (figure if isinstance(figure, int) else 0 for figure in figures)
    return (wide * count / size, False) if size > 0 and 1 <= wide * count / size <= 16 else None


def _is_bits(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 16


def _scales(bits: float, size: object) -> float:
    """Return the bits of scales for a weight, of which *size* share one."""
    return bits / size if isinstance(size, int) and size > 0 else 0.0


def _by_quark(given: Mapping[str, object]) -> tuple[float, bool]:
    """Return bits and whether it is fp8, of what AMD's quark says of all layers."""
    kinds = {}
    for key in ("weight", "input_tensors"):
        one = given.get(key)
        one = one[0] if isinstance(one, list) and one else one
        kinds[key] = str(one.get("dtype")).lower() if isinstance(one, Mapping) else ""
    # Its four bits are those of OCP, whose scales are of 32 weights each.
    bits, is_fp8 = _by_name(kinds["weight"].replace("fp4", "mxfp4"))
    return bits, is_fp8 and kinds["input_tensors"].startswith("fp8")


def _by_group(group: object) -> tuple[float, bool]:
    """Return bits and whether it is fp8, of a group of compressed-tensors."""
    weights = group.get("weights") if isinstance(group, Mapping) else None
    inputs = group.get("input_activations") if isinstance(group, Mapping) else None
    bits = weights.get("num_bits") if isinstance(weights, Mapping) else None
    if not isinstance(weights, Mapping) or not isinstance(bits, int) or not _is_bits(bits):
        return 8.0, False
    is_float = weights.get("type") == "float"
    has_inputs = isinstance(inputs, Mapping) and inputs.get("num_bits") == bits
    scales = _scales(8.0 if is_float and bits == 4 else 16.0, weights.get("group_size"))
    return bits + scales, is_float and has_inputs and bits == 8


def _by_name(name: str) -> tuple[float, bool]:
    """Return bits and whether it is fp8, as the name of a method has it."""
    if "mxfp4" in name:
        return 4.25, False
    if "fp4" in name:
        return 4.5, False
    if any(word in name for word in ("fp8", "float8", "e4m3")):
        return 8.0, True
    if any(word in name for word in ("awq", "gptq", "int4", "w4", "4bit")):
        return 4.125, False
    if "bitnet" in name:
        return 2.0, False
    if any(word in name for word in ("none", "bf16", "fp16", "bfloat16")):
        return 16.0, False
    return GUESSED, False


def _is_unknown(name: str) -> bool:
    """Tell whether the bits of a method of that *name* are a guess."""
    return _by_name(name) == (GUESSED, False) and not any(word in name for word in EIGHT)
