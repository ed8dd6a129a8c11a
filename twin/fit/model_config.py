"""What a config.json says of a model: parameters, what of them computes a token, KV cache, bytes.

Hugging Face publishes one beside every model, and each family names its figures in its own way.
Layers are counted one by one, since attention, mixtures of experts and recurrent blocks alternate.
Norms and biases are left out: they are less than a thousandth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twin.datafile import Entry, read_json
from twin.fit.model_families import (
    CONTEXTS,
    DEFAULTS,
    ENCODERS,
    EXPERT_SIZE,
    EXPERTS,
    EXPERTS_USED,
    GATELESS,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    INTERMEDIATE,
    KV_HEADS,
    LAYERS,
    LEARNED_POSITIONS,
    NESTED,
    POSITIONS,
    SHARED_EXPERTS,
    SHARED_SIZE,
    TEXT,
    TIED,
    TIES,
    VOCABULARY,
)
from twin.fit.quantisation import keeps_fp8, precision
from twin.spec import SpecError

# Of what is weak: how far off it may be, nobody knows.
UNMEASURED = "no measurement of such a model was used"
NO_DECODERS = ("ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")
LAYERS_MAX = 10_000
FIGURE_MAX = 10**9  # far above any of a model; what is more is no figure of one
# The context at which windows that slide are taken: what lies before them is not read.
CONTEXT = 4096
WHOLE = frozenset({"attention", "full_attention"})  # layers that keep all of it

ATTENTION = (
    "attention",
    "full_attention",
    "sliding_attention",
    "chunked_attention",
    "indexed_attention",  # of the tokens that an index finds
    "compressed_sparse_attention",
    "heavily_compressed_attention",
)
# Of how many tokens DeepSeek V4 keeps one entry, by the kind of a layer.
COMPRESSED = {"compressed_sparse_attention": 4, "heavily_compressed_attention": 128}
# Blocks that read a state of fixed size in place of a KV cache.
RECURRENT = ("mamba", "linear_attention", "conv", "recurrent", "mlp", "moe")
# Of the letters of Nemotron-H's hybrid_override_pattern.
LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a config.json says of a model.

    parameters are all of them, active those that compute one token (without the table of the
    inputs, which is only looked up), routed those of the experts that a token may or may not
    choose: it chooses *used* of *experts* in a layer; tables are those of words, one or two.
    weight_bytes is bytes a parameter as the file stores it, on the mean, expert_bytes those of one
    that is routed. kv_values are the values of one token in the KV cache, over all layers, each of
    kv_value_bytes; compared those that the attention of one token multiplies with one before it.
    heads are those of attention in a layer, kv_heads those of the keys and values.
    hidden are the values of a token between two layers, context the tokens that a request may have
    (0: not told, or windows keep less of it than that). Windows that slide are taken at a context
    of CONTEXT tokens.
    """

    name: str
    layers: int
    parameters: float
    active: float
    heads: int
    kv_heads: int
    kv_values: int
    kv_value_bytes: float
    compared: float
    hidden: int
    context: int
    intermediate: int
    vocabulary: int
    experts: int
    used: int
    routed: float
    tables: float
    weight_bytes: float
    expert_bytes: float
    is_fp8: bool
    weak: tuple[str, ...]

    def is_split_by(self, gpus: int) -> bool:
        """Tell whether so many *gpus* can share its heads: each takes as many, and a KV head is on
        as many of them as any other.
        """
        fewer, more = sorted((gpus, self.kv_heads))
        return self.heads % gpus == 0 and more % fewer == 0


def read_model(path: Path, *, name: str | None = None) -> ModelFacts:
    """Return what the config.json at *path* says; *name* None: its own name, or the file's."""
    document = read_json(path)
    if not isinstance(document, Mapping):
        raise SpecError(f"{path}: expected a config.json, found {type(document).__name__}")
    return model_facts(document, source=str(path), name=name or _name_of(document, path))


def _name_of(document: Mapping[str, Any], path: Path) -> str:
    given = document.get("name") or document.get("_name_or_path")
    if isinstance(given, str) and given:
        return given.rstrip("/").rpartition("/")[2]
    return path.parent.name if path.stem == "config" and path.parent.name else path.stem


def model_facts(document: Mapping[str, Any], *, source: str, name: str) -> ModelFacts:
    """Return what *document*, a config.json, says. Raise SpecError for one that is no decoder, or
    of whose layers it does not tell.
    """
    config = _Config(_flat(document, source), source=source)
    config.refuse_what_is_no_decoder()
    embedding = float(config.whole(VOCABULARY)) * config.hidden
    parts = _Parts(embedding=embedding, head=0.0 if config.is_tied() else embedding)
    if config.kind in LEARNED_POSITIONS:
        parts.embedding += float(config.whole(POSITIONS, default=0)) * config.hidden
    parts.embedding += config.tables_of_layers()
    kinds = config.kinds()
    for place, kind in enumerate(kinds):
        config.add_layer(parts, place=place, kind=kind)
    if not parts.kv_values:
        raise SpecError(
            f"{source}: layers: expected some with attention, found only "
            f"{', '.join(dict.fromkeys(kinds))}"
        )
    weak = config.weak(kinds)
    weight_bytes, expert_bytes, is_fp8 = _bytes(config, parts, weak)
    return ModelFacts(
        name=name,
        layers=len(kinds),
        parameters=parts.parameters,
        # A token is looked up in the one table and compared with all of the other.
        active=parts.attention + parts.dense + parts.chosen + embedding,
        heads=config.heads,
        kv_heads=config.kv_heads,
        kv_values=round(parts.kv_values),
        kv_value_bytes=1.0 if keeps_fp8(config.quantised()) else 2.0,
        compared=parts.compared,
        hidden=config.hidden,
        context=0 if set(kinds) - WHOLE else config.whole(CONTEXTS, at_least=0, default=0),
        intermediate=config.intermediate,
        vocabulary=config.whole(VOCABULARY),
        experts=config.experts,
        used=config.used,
        routed=parts.routed,
        tables=parts.embedding + parts.head,
        weight_bytes=weight_bytes,
        expert_bytes=expert_bytes,
        is_fp8=is_fp8,
        weak=tuple(weak),
    )


def _flat(document: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the fields of the part that writes, with those that it leaves out."""
    for key in TEXT:
        inner = document.get(key)
        if isinstance(inner, Mapping):
            # What it does not say itself is said outside, as whether it is quantised.
            outer = {name: value for name, value in document.items() if name not in TEXT}
            # But whether it has one table of words is said by the whole.
            tied = {name: outer[name] for name in TIES if outer.get(name) is not None}
            return _flat({**outer, **inner, **tied, "is_part": True}, source)
    found = dict(document)
    for key in NESTED:
        inner = document.get(key)
        if isinstance(inner, Mapping):
            found |= {name: value for name, value in inner.items() if name != "model_type"}
    defaults = DEFAULTS.get(str(found.get("model_type")), {})
    return {**defaults, **{name: value for name, value in found.items() if value is not None}}


def _compressed(ratio: object) -> str:
    """Return the kind of a layer that makes one entry of so many tokens, 0: has a window only."""
    if ratio == 0:
        return "sliding_attention"
    return next(
        (kind for kind, known in COMPRESSED.items() if ratio == known), f"compressed by {ratio}"
    )


@dataclass(slots=True, kw_only=True)
class _Parts:
    """Sums over the layers: parameters by what they are, and values of the KV cache."""

    embedding: float
    head: float
    attention: float = 0.0
    dense: float = 0.0
    routed: float = 0.0
    chosen: float = 0.0  # of those routed
    kv_values: float = 0.0
    compared: float = 0.0

    @property
    def parameters(self) -> float:
        return self.embedding + self.head + self.attention + self.dense + self.routed


class _Config:
    """The fields of a config, under whatever names, and what they mean for each layer."""

    def __init__(self, fields: Mapping[str, Any], *, source: str) -> None:
        self._fields = fields
        self._entry = Entry(fields, source=source)
        self._source = source
        self.kind = str(fields.get("model_type", ""))
        self.layers = self.whole(LAYERS, at_most=LAYERS_MAX, default=self._listed_layers())
        self.hidden = self.whole(HIDDEN)
        self.heads = self.whole(HEADS)
        self.kv_heads = self._kv_heads()
        self.head = self.whole(HEAD_DIM, default=max(self.hidden // self.heads, 1))
        self.matrices = 2.0 if self.kind in GATELESS else 3.0
        usual = 4 * self.hidden
        self.experts = self.whole(EXPERTS, at_least=0, default=0)
        if self.experts <= 1 or self.get("enable_moe_block") is False:
            self.experts = 0
        self.used = self._used() if self.experts else 0
        # A layer of LongCat is two of attention and two dense ones, beside its experts.
        self.twice = 2 if self.kind == "longcat_flash" else 1
        # Each layer of Nemotron-H is one thing: attention, a state, or a block.
        self.is_split = self.kind == "nemotron_h" or isinstance(
            self.get("hybrid_override_pattern"), str
        )
        self.intermediate = self._intermediate(
            self.whole(INTERMEDIATE, default=self.whole(EXPERT_SIZE, default=usual))
        )
        self.expert_size = self.whole(EXPERT_SIZE, default=self.intermediate)

    def whole(
        self,
        names: Sequence[str],
        *,
        at_least: int = 1,
        at_most: int = FIGURE_MAX,
        default: int | None = None,
    ) -> int:
        """Return the figure that is there under the first of *names*; of a list of one for each
        layer the one that all have.
        """
        name = next((name for name in names if self._entry.has(name)), names[0])
        listed = self.get(name)
        if isinstance(listed, list) and listed and all(each == listed[0] for each in listed):
            entry = Entry({name: listed[0]}, source=self._source)
            return entry.whole(name, at_least=at_least, at_most=at_most)
        return self._entry.whole(name, at_least=at_least, at_most=at_most, default=default)

    def get(self, name: str) -> Any:
        """Return a field as it is, None if it is absent."""
        return self._fields.get(name)

    def quantised(self) -> Any:
        """Return what the file says of how its weights are stored, None if nothing."""
        return self.get("quantization_config") or self.get("quantization")

    def _listed(self, name: str) -> list[Any]:
        """Return the list *name*, an empty one if it is none."""
        found = self.get(name)
        return found if isinstance(found, list) else []

    def refuse_what_is_no_decoder(self) -> None:
        """Raise SpecError for an encoder, or for layers that this cannot count."""
        architectures = [str(each) for each in self._listed("architectures")]
        is_encoder = any(each.endswith(NO_DECODERS) for each in architectures)
        is_encoder |= self.kind in ENCODERS and self.get("is_decoder") is not True
        if self.get("is_encoder_decoder") is True or is_encoder:
            found = ", ".join(architectures) or self.kind or "is_encoder_decoder"
            raise SpecError(f"{self._source}: expected a decoder, found {found}")
        if isinstance(self.get("block_configs"), list):
            raise SpecError(
                f"{self._source}: block_configs: expected layers of one shape, found a list of "
                f"{len(self.get('block_configs'))}"
            )

    def is_tied(self) -> bool:
        """Tell whether the table of inputs is that of the outputs."""
        usual, old = TIES
        tied = self._entry.flag(old, default=self.kind in TIED)
        return self._entry.flag(usual, default=tied)

    def tables_of_layers(self) -> float:
        """Return the parameters of the tables of words that each layer has of its own."""
        size = self.whole(("hidden_size_per_layer_input",), at_least=0, default=0)
        if not size:
            return 0.0
        words = self.whole(("vocab_size_per_layer_input",), default=self.whole(VOCABULARY))
        return float(words) * size * self.layers

    def _used(self) -> int:
        """Return how many experts a token takes that compute something."""
        idle = self.whole(("zero_expert_num",), at_least=0, default=0)
        used = self.whole(EXPERTS_USED, at_most=self.experts + idle)
        return max(round(used * self.experts / (self.experts + idle)), 1)

    def _intermediate(self, size: int) -> int:
        """Return the size of a block: LFM2 takes two thirds of what it says, made round."""
        if self.get("block_auto_adjust_ff_dim") is not True:
            return size
        multiple = self.whole(("block_multiple_of",), default=256)
        return -(-(2 * size // 3) // multiple) * multiple

    def kinds(self) -> list[str]:
        """Return what each layer does in place of, or as, attention."""
        listed = next(
            (self.get(name) for name in ("layer_types", "layers_block_type") if self.get(name)),
            None,
        )
        pattern = self.get("hybrid_override_pattern")
        ratios = self.get("compress_ratios")
        if isinstance(listed, list):
            kinds = [str(each) for each in listed]
        elif isinstance(ratios, list):
            kinds = [_compressed(ratio) for ratio in ratios]
        elif isinstance(pattern, str):
            kinds = [LETTERS.get(letter, letter) for letter in pattern]
        else:
            return [self._kind(place) for place in range(self.layers)]
        # Some list those too that only guess further tokens (Step 3.5), and come last.
        further = self.whole(("num_nextn_predict_layers",), at_least=0, default=0)
        if len(kinds) == self.layers + further:
            kinds = kinds[: self.layers]
        if len(kinds) != self.layers:
            raise SpecError(
                f"{self._source}: layer types: expected {self.layers}, found {len(kinds)}"
            )
        return [("mamba" if each == "hybrid" else each) for each in kinds]

    def _listed_layers(self) -> int | None:
        """Return how many layers a list of them has, where their number is not told."""
        for name, kind in (("hybrid_override_pattern", str), ("layers_block_type", list)):
            listed = self.get(name)
            if isinstance(listed, kind) and listed:
                return len(listed)
        return None

    def _kind(self, place: int) -> str:
        """Return the kind of a layer where a rule tells it."""
        period, offset = self.get("attn_layer_period"), self.get("attn_layer_offset") or 0
        if isinstance(period, int) and period > 0:
            return "attention" if place % period == offset else "mamba"
        those = self.get("attn_layer_indices")
        if isinstance(those, list):
            return "attention" if place in those else "mamba"
        those = self.get("full_attn_idxs")
        if isinstance(those, list):
            return "attention" if place in those else "conv"
        linear = self.get("linear_attn_config")
        if isinstance(linear, Mapping) and isinstance(linear.get("full_attn_layers"), list):
            # Kimi counts from 1.
            return "attention" if place + 1 in linear["full_attn_layers"] else "linear_attention"
        those = self.get("attn_type_list")
        if isinstance(those, list) and place < len(those):
            return "attention" if those[place] == 1 else "linear_attention"
        those = self.get("hybrid_layer_pattern")
        if isinstance(those, list) and place < len(those):
            return "sliding_attention" if those[place] == 1 else "full_attention"
        every = self.get("full_attention_interval")
        if isinstance(every, int) and every > 0:
            return "full_attention" if (place + 1) % every == 0 else "linear_attention"
        if self.kind in ("mamba", "mamba2", "falcon_mamba"):
            return "mamba"
        every = self.get("sliding_window_pattern")
        if isinstance(every, int) and every > 0:
            return "full_attention" if (place + 1) % every == 0 else "sliding_attention"
        return "sliding_attention" if self._window() is not None else "full_attention"

    def _window(self) -> int | None:
        window = self.get("sliding_window")
        if not isinstance(window, int) or self.get("use_sliding_window") is False:
            return None
        return window if window > 0 else None

    def add_layer(self, parts: _Parts, *, place: int, kind: str) -> None:
        """Add the parameters and the KV cache of one layer to *parts*."""
        if kind in ATTENTION:
            parts.attention += self.twice * self._attention(kind)
            if self.kind == "falcon_h1":  # both in each layer, side by side
                parts.attention += self._recurrent("mamba")
            seen = self._seen(kind)
            parts.kv_values += 0.0 if self._reads_others(place) else self._kept(kind)
            parts.compared += seen * self._compared(kind)
        elif kind in RECURRENT:
            parts.attention += self._recurrent(kind)
        else:
            known = ", ".join((*ATTENTION, *RECURRENT))
            raise SpecError(f"{self._source}: layer type: expected one of {known}, found {kind!r}")
        if not self.is_split:
            wide = self._entry.flag("use_double_wide_mlp", default=False)
            self._add_block(
                parts,
                is_sparse=self._is_sparse(place),
                times=2.0 if wide and self._reads_others(place) else 1.0,  # Gemma 4
            )
        elif kind in ("mlp", "moe"):  # which are layers of their own there
            self._add_block(parts, is_sparse=kind == "moe")

    def _seen(self, kind: str) -> float:
        """Return the part of a context of CONTEXT tokens that a layer keeps."""
        window = self._window()
        windowed = 1.0 if window is None else min(window / CONTEXT, 1.0)
        if kind in COMPRESSED:
            return min(windowed + 1.0 / COMPRESSED[kind], 1.0)
        return windowed if kind == "sliding_attention" else float(self.twice)

    def _kept(self, kind: str) -> float:
        """Return the values of a token that a layer keeps."""
        kept = self._seen(kind) * self._kv_values(kind)
        if kind == "compressed_sparse_attention":  # and what its entries are found by
            kept += self._index_size() / 2.0 / COMPRESSED[kind]
        return kept

    def _reads_others(self, place: int) -> bool:
        """Tell whether a layer keeps nothing of a token: it reads what the picture gave, or what
        another layer keeps.
        """
        shared = self.whole(("num_kv_shared_layers",), at_least=0, default=0)
        return place in self._listed("cross_attention_layers") or place >= self.layers - shared

    def _attention(self, kind: str) -> float:
        hidden, heads = self.hidden, self.heads
        if self._entry.has("o_lora_rank"):
            return self._grouped(kind)
        if self._entry.has("kv_lora_rank"):
            latent, rope = self._latent()
            plain = self.whole(("qk_nope_head_dim",), at_least=0, default=128)
            value = self.whole(("v_head_dim",), default=128)
            query = heads * (plain + rope)
            low = self.whole(("q_lora_rank",), at_least=0, default=0)
            queries = low * (hidden + query) if low else hidden * query
            expanded = latent * heads * (plain + value)
            index = self._index_size()
            indexed = self.whole(("index_n_heads",), at_least=0, default=0) if index else 0
            # What finds the tokens that are attended to (DeepSeek V3.2).
            queries += (low or hidden) * indexed * index + hidden * (index + indexed)
            return float(queries + hidden * (latent + rope) + expanded + heads * value * hidden)
        gated = self.get("attn_output_gate") is True or self.kind == "qwen3_next"
        heads, groups, size, value = self._heads(kind)
        queries = (2 if gated else 1) * heads * size
        low = self.whole(("share_q_dim",), at_least=0, default=0)
        asked = low * (hidden + queries) if low else hidden * queries
        # Gemma 4 adds up the keys themselves.
        is_one = self.get("attention_k_eq_v") is True and kind != "sliding_attention"
        kept = size if is_one else size + value
        return float(asked + hidden * groups * kept + heads * value * hidden)

    def _grouped(self, kind: str) -> float:
        """Return the parameters of DeepSeek V4's attention: one vector a token, of which several
        are made one, and an output in groups.
        """
        hidden, size = self.hidden, self.head
        low, out, groups = (
            self.whole((name,)) for name in ("q_lora_rank", "o_lora_rank", "o_groups")
        )
        of_heads = self.heads * size
        found = low * (hidden + of_heads) + hidden * size + out * (of_heads + groups * hidden)
        if kind == "heavily_compressed_attention":
            found += 2 * hidden * size
        if kind == "compressed_sparse_attention":
            indexed, index = self.whole(("index_n_heads",)), self._index_size()
            found += 4 * hidden * (size + index) + low * indexed * index + hidden * indexed
        return float(found)

    def _heads(self, kind: str) -> tuple[int, int, int, int]:
        """Return heads, KV heads, and the values of a key and of what is added up; layers whose
        windows slide may have their own (MiMo).
        """
        value = self.whole(("v_head_dim",), default=self.head)
        other = self.get("attention_other_setting")  # of Step 3.5, whose windows have more heads
        if isinstance(other, Mapping) and other.get("attention_type") == kind:
            told = Entry(other, source=f"{self._source}: attention_other_setting")
            heads = told.whole("num_attention_heads", at_least=1, at_most=FIGURE_MAX)
            groups = told.whole("num_attention_groups", at_least=1, at_most=heads)
            return heads, groups, self.head, value
        if kind != "sliding_attention":
            size = self.whole(("global_head_dim",), default=self.head)  # of Gemma 4
            groups = self.whole(("num_global_key_value_heads",), default=self.kv_heads)
            is_own = size != self.head and not self._entry.has("v_head_dim")
            return self.heads, groups, size, size if is_own else value
        heads, size, value = (
            self.whole((f"swa_{name}",), default=figure)
            for name, figure in (
                ("num_attention_heads", self.heads),
                ("head_dim", self.head),
                ("v_head_dim", value),
            )
        )
        usual = min(self.kv_heads, heads)
        return heads, self._groups(("swa_num_key_value_heads",), heads, default=usual), size, value

    def _index_size(self) -> int:
        return self.whole(("index_head_dim",), at_least=0, default=0)

    def _latent(self) -> tuple[int, int]:
        rope = self.whole(("qk_rope_head_dim",), at_least=0, default=64)
        return self.whole(("kv_lora_rank",)), rope

    def _kv_values(self, kind: str) -> float:
        if self._entry.has("o_lora_rank"):
            return float(self.head)
        if self._entry.has("kv_lora_rank"):
            # What tokens are found by is kept in eight bits.
            return sum(self._latent()) + self._index_size() / 2.0
        _, groups, size, value = self._heads(kind)
        return groups * (size + value)

    def _compared(self, kind: str) -> int:
        """Return the values of the queries, and of what their answers are added up of."""
        if not self._entry.has("kv_lora_rank"):
            heads, _, size, value = self._heads(kind)
            return heads * (size + value)
        # Of a prompt they are compared as they are, not in the compressed form of decodes.
        plain = self.whole(("qk_nope_head_dim",), at_least=0, default=128)
        value = self.whole(("v_head_dim",), default=128)
        return self.heads * (plain + self._latent()[1] + value)

    def _kv_heads(self) -> int:
        if self._entry.has("kv_lora_rank"):
            return 1  # what is compressed serves all heads, so each GPU holds it whole
        # Falcon's first files say both, and mean the one.
        if self.get("multi_query") is True and self.get("new_decoder_architecture") is not True:
            return 1
        if self.get("multi_query_attention") is True:
            return self._groups(("multi_query_group_num",), self.heads, default=1)
        return self._groups(KV_HEADS, self.heads, default=self.heads)

    def _groups(self, names: Sequence[str], heads: int, *, default: int) -> int:
        """Return the KV heads under one of *names*, each of which serves one of *heads* or more."""
        groups = self.whole(names, default=default)
        if groups > heads:
            name = next((name for name in names if self._entry.has(name)), names[0])
            raise SpecError(
                f"{self._source}: {name}: expected at most as many as heads, {heads}, "
                f"found {groups}"
            )
        return groups

    def _recurrent(self, kind: str) -> float:
        """Return the parameters of a block with a state of fixed size, as usual for its kind."""
        hidden = self.hidden
        if kind in ("mlp", "moe"):
            return 0.0
        if kind == "conv":
            return 4.0 * hidden * hidden
        if kind == "linear_attention" and self._has_state():
            kind = "mamba"  # as transformers calls it
        if kind == "linear_attention" and self._entry.has("linear_num_value_heads"):
            values = self.whole(("linear_num_value_heads",))
            wide = values * self.whole(("linear_value_head_dim",))
            narrow = self.whole(("linear_num_key_heads",)) * self.whole(("linear_key_head_dim",))
            return float(hidden * (2 * narrow + 2 * wide + 2 * values) + wide * hidden)
        if kind == "linear_attention":  # with a gate in MiniMax's
            return (5.0 if self.get("attn_type_list") else 4.0) * hidden * self.heads * self.head
        heads = self.whole(("mamba_n_heads", "mamba_num_heads"), at_least=0, default=0)
        state = self.whole(("mamba_d_state", "ssm_state_size", "state_size"), default=16)
        if not heads:
            inner = self.whole(("mamba_expand", "expand"), default=2) * hidden
            rank = -(-hidden // 16)
            return float(3 * hidden * inner + inner * (2 * rank + 3 * state))
        inner = heads * self.whole(
            ("mamba_d_head", "mamba_head_dim"),
            default=self.whole(("mamba_expand", "expand"), default=2) * hidden // heads,
        )
        groups = self.whole(("mamba_n_groups", "n_groups"), default=1)
        return float(hidden * (2 * inner + 2 * groups * state + heads) + inner * hidden)

    def _has_state(self) -> bool:
        """Tell whether the file describes a state as Mamba has it."""
        return any(self._entry.has(name) for name in ("mamba_n_heads", "mamba_num_heads"))

    def _is_sparse(self, place: int) -> bool:
        """Tell whether a layer is a mixture of experts."""
        if not self.experts:
            return False
        kinds = self._listed("mlp_layer_types")
        if kinds:
            return place < len(kinds) and kinds[place] != "dense"
        listed, told = self.get("moe_layers"), self.get("moe_layers_enum")
        if isinstance(listed, list):
            return place in listed
        if isinstance(told, str):
            return str(place) in [each.strip() for each in told.split(",")]
        # Named by their families: at which layers experts begin, and every how many they stand.
        first = self.whole(
            ("first_k_dense_replace", "moe_layer_start_index", "num_dense_layers"),
            at_least=0,
            default=0,
        )
        if place < first or place in self._listed("mlp_only_layers"):
            return False
        frequency = self.get("moe_layer_freq")
        if isinstance(frequency, list):
            return place < len(frequency) and bool(frequency[place])
        period = self.get("expert_layer_period")
        if isinstance(period, int) and period > 0:
            return place % period == (self.get("expert_layer_offset") or 0)
        every = self.whole(
            ("interleave_moe_layer_step", "decoder_sparse_step", "moe_layer_freq"), default=1
        )
        return (place + 1) % every == 0 if every > 1 else True

    def _add_block(self, parts: _Parts, *, is_sparse: bool, times: float = 1.0) -> None:
        if not is_sparse:
            size = self.whole(("intermediate_size_mlp",), default=self.intermediate)
            if self.kind == "granitemoehybrid":  # without experts only what all share is left
                size = self.whole(SHARED_SIZE, default=size)
            parts.dense += times * self.matrices * self.hidden * size
            return
        if self.twice > 1:
            parts.dense += self.twice * self.matrices * self.hidden * self.intermediate
        if self.get("enable_moe_block") is True:  # Gemma 4's dense block beside the experts
            parts.dense += self.matrices * self.hidden * self.intermediate
        if self.get("parallel_attn_mlp_res") is True:  # Arctic's dense block beside the experts
            parts.dense += self.matrices * self.hidden * self.hidden
        # Experts of Nemotron 3 Super compute in fewer values, into which a token is brought first.
        latent = self.whole(("moe_latent_size", "moe_hidden_size"), default=self.hidden)
        parts.dense += 2.0 * self.hidden * latent if latent != self.hidden else 0.0
        each = self.matrices * latent * self.expert_size
        parts.dense += self.hidden * self.experts + self._shared()
        parts.routed += self.experts * each
        parts.chosen += self.used * each

    def _shared(self) -> float:
        """Return the parameters of the experts that every token takes."""
        size = self.whole(SHARED_SIZE, at_least=0, default=0)
        if not size:
            size = self.whole(SHARED_EXPERTS, at_least=0, default=0) * self.expert_size
        if not size and self.kind in ("llama4", "llama4_text"):
            size = self.expert_size
        return self.matrices * self.hidden * size

    def weak(self, kinds: Sequence[str]) -> list[str]:
        """Return why what is said of this model may be further off than usual."""
        said = []
        if self._entry.has("kv_lora_rank") or self._entry.has("o_lora_rank"):
            said.append(f"a compressed KV cache: {UNMEASURED}")
        window = self._window()
        if "sliding_attention" in kinds and window is not None and window < CONTEXT:
            said.append(
                f"windows of {window} tokens slide: the KV cache is that of a context of {CONTEXT}"
            )
        if any(kind in RECURRENT for kind in kinds) or self.kind == "falcon_h1":
            said.append(
                f"layers with a state in place of a KV cache: {UNMEASURED}, and the memory of the "
                "state is left out"
            )
        if self.get("is_part") is True:
            said.append("only the part that writes is counted, not what sees or hears")
        return said


def _bytes(config: _Config, parts: _Parts, weak: list[str]) -> tuple[float, float, bool]:
    """Return the bytes of a weight on the mean, those of an expert's, and whether fp8 units compute
    with them.
    """
    kind = config.get("torch_dtype") or config.get("dtype")
    plain = 4.0 if kind == "float32" else 2.0
    given = config.quantised()
    found = precision(given) if given else None
    if found is None or found.bits >= 16.0:
        return plain, plain, False
    # Tables of words are hardly ever stored in few bits.
    whole = parts.embedding + parts.head
    if found.leaves("attn", "attention"):
        whole += parts.attention
    if parts.routed and (found.method == "mxfp4" or found.leaves("shared_expert")):
        whole += parts.dense
    stored = whole * 2.0 + (parts.parameters - whole) * found.bits / 8.0
    if found.is_guess:
        weak.append(
            f"weights quantised by {found.method[:30]}: the file does not tell their bits, 8 are "
            "taken"
        )
    elif not found.is_fp8:
        weak.append(f"weights of {found.bits:.3g} bits ({found.method}): {UNMEASURED}")
    return stored / parts.parameters, found.bits / 8.0, found.is_fp8
