"""What engines call the quantities that the loop reads: one table for vLLM and those who name
theirs alike, SGLang, TensorRT-LLM, TGI and llama.cpp; pure.

Names are those of each engine's documentation: vLLM "Production Metrics" (older names beside newer
ones), SGLang "Production Metrics", TensorRT-LLM "Metrics", NIM "Observability", Text Generation
Inference "Metrics", Triton's backend of TensorRT-LLM "Metrics", llama.cpp's server "GET /metrics".
A user adds names of an exporter of their own with `Names.extended`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from types import MappingProxyType

from loop.errors import SpecError

# Every quantity, and whether it is a counter; the others are gauges.
COUNTERS = (
    "ends",  # requests that ended; engines differ in whether aborted ones are among them
    "answers",  # requests whose answer length was counted
    "answer_tokens",
    "firsts",  # requests that got their first token
    "ttft_s",
    "prompt",  # prompt tokens, cached ones included
    "prompt_lengths",  # requests whose prompt length was observed, and the tokens of these
    "prompt_lengths_tokens",
    "generation",  # generated tokens
    "steps",  # observations of the latency between outputs: one a step, not one a token
    "steps_s",
    "per_token",  # requests whose mean time per output token was observed
    "per_token_s",
    "cache_queries",  # prompt tokens looked up in the prefix cache
    "cache_hits",  # those found there
    "transferred",  # those found in none of these, and fetched from elsewhere
    "preemptions",  # requests that lost their place in the KV cache
)
GAUGES = ("running", "waiting", "queued", "kv_usage", "start_time")
# Requests in further queues of an engine (on their way between prefill and decode, swapped out):
# they wait besides, and of each name that an engine has.
QUEUED, WAITING = "queued", "waiting"
QUANTITIES = COUNTERS + GAUGES
# Latencies of which there are histograms, by the counter that grows with each observation.
HISTOGRAMS: Mapping[str, str] = MappingProxyType(
    {"ttft": "firsts", "itl": "steps", "e2e": "ends", "queue": "firsts"}
)
# Of those that cannot be nothing, the counter of the seconds that were observed.
SECONDS: Mapping[str, str] = MappingProxyType({"ttft": "ttft_s", "itl": "steps_s"})
BUCKET = "_bucket"
TOTAL = "_total"
CREATED = "_created"  # a client library tells under this when each counter began
OF_A_HISTOGRAM = ("_count", "_sum")  # ends of the names of its two counters

# The first name that a process uses counts, so newer names stand first.
_VLLM: Mapping[str, Sequence[str]] = {
    "ends": ("request_success_total", "request_finish_total"),
    "answers": ("request_generation_tokens_count",),
    "answer_tokens": ("request_generation_tokens_sum",),
    "firsts": ("time_to_first_token_seconds_count",),
    "ttft_s": ("time_to_first_token_seconds_sum",),
    "prompt": ("prompt_tokens_total",),
    "prompt_lengths": ("request_prompt_tokens_count",),
    "prompt_lengths_tokens": ("request_prompt_tokens_sum",),
    "generation": ("generation_tokens_total",),
    "steps": ("inter_token_latency_seconds_count", "time_per_output_token_seconds_count"),
    "steps_s": ("inter_token_latency_seconds_sum", "time_per_output_token_seconds_sum"),
    "per_token": ("request_time_per_output_token_seconds_count",),
    "per_token_s": ("request_time_per_output_token_seconds_sum",),
    "cache_queries": ("prefix_cache_queries_total", "gpu_prefix_cache_queries_total"),
    "cache_hits": (
        "prefix_cache_hits_total",
        "gpu_prefix_cache_hits_total",
        "prompt_tokens_cached_total",
    ),
    "transferred": ("external_prefix_cache_hits_total",),
    "preemptions": ("num_preemptions_total",),
    "running": ("num_requests_running",),
    "waiting": ("num_requests_waiting",),
    "queued": ("num_requests_swapped",),
    "kv_usage": ("kv_cache_usage_perc", "gpu_cache_usage_perc"),
}
_VLLM_HISTOGRAMS: Mapping[str, Sequence[str]] = {
    "ttft": ("time_to_first_token_seconds",),
    "itl": ("inter_token_latency_seconds", "time_per_output_token_seconds"),
    "e2e": ("e2e_request_latency_seconds",),
    "queue": ("request_queue_time_seconds",),
}
_VLLM_NAMES = frozenset(chain.from_iterable(_VLLM.values()))
# vLLM's own, with the colon lost on the way, and as Ray Serve and KServe pass them on; LMDeploy
# names its metrics as vLLM does, and so does NIM, without a prefix.
_VLLM_PREFIXES = (
    *("vllm:", "vllm_", "ray_vllm:", "ray_vllm_", "kserve_vllm:", "kserve_vllm_"),
    *("lmdeploy:", "lmdeploy_", ""),
)

_FAMILIES = (
    tuple(prefix for prefix in _VLLM_PREFIXES if prefix),
    ("sglang:", "sglang_"),
    ("trtllm:", "trtllm_"),
    ("llamacpp:", "llamacpp_"),
)

_SGLANG: Mapping[str, Sequence[str]] = {
    "ends": ("sglang:e2e_request_latency_seconds_count", "sglang:num_requests_total"),
    "firsts": ("sglang:time_to_first_token_seconds_count",),
    "ttft_s": ("sglang:time_to_first_token_seconds_sum",),
    "prompt": ("sglang:prompt_tokens_total",),
    "generation": ("sglang:generation_tokens_total",),
    "steps": (
        "sglang:inter_token_latency_seconds_count",
        "sglang:time_per_output_token_seconds_count",
    ),
    "steps_s": (
        "sglang:inter_token_latency_seconds_sum",
        "sglang:time_per_output_token_seconds_sum",
    ),
    "cache_queries": (),
    "cache_hits": ("sglang:cached_tokens_total",),
    "running": ("sglang:num_running_reqs",),
    "waiting": ("sglang:num_queue_reqs",),
    "queued": (
        "sglang:num_grammar_queue_reqs",
        "sglang:num_prefill_prealloc_queue_reqs",
        "sglang:num_prefill_bootstrap_queue_reqs",
        "sglang:num_prefill_inflight_queue_reqs",
        "sglang:num_prefill_infight_queue_reqs",  # as it was spelt before
        "sglang:num_decode_prealloc_queue_reqs",
        "sglang:num_decode_transfer_queue_reqs",
    ),
    "kv_usage": ("sglang:token_usage",),
}
_SGLANG_HISTOGRAMS: Mapping[str, Sequence[str]] = {
    "ttft": ("sglang:time_to_first_token_seconds",),
    "itl": ("sglang:inter_token_latency_seconds", "sglang:time_per_output_token_seconds"),
    "e2e": ("sglang:e2e_request_latency_seconds",),
    "queue": ("sglang:queue_time_seconds",),
}
_TENSORRT: Mapping[str, Sequence[str]] = {
    "ends": ("trtllm:request_success_total",),
    "firsts": ("trtllm:time_to_first_token_seconds_count",),
    "ttft_s": ("trtllm:time_to_first_token_seconds_sum",),
    "prompt": ("trtllm:prompt_tokens_total",),
    "generation": ("trtllm:generation_tokens_total",),
    # It observes the mean of an answer, once a request.
    "per_token": ("trtllm:time_per_output_token_seconds_count",),
    "per_token_s": ("trtllm:time_per_output_token_seconds_sum",),
    "cache_hits": ("trtllm:prompt_cached_tokens_total",),
    "running": ("trtllm:num_requests_running", "trtllm:num_active_requests"),
    "waiting": (
        "trtllm:num_requests_waiting",
        "trtllm:num_queued_requests",
        "trtllm:server_queue_length",
    ),
    "kv_usage": ("trtllm:kv_cache_utilization",),
}
_TENSORRT_HISTOGRAMS: Mapping[str, Sequence[str]] = {
    "ttft": ("trtllm:time_to_first_token_seconds",),
    "e2e": ("trtllm:e2e_request_latency_seconds",),
    "queue": ("trtllm:request_queue_time_seconds",),
}
_TGI: Mapping[str, Sequence[str]] = {
    "ends": ("tgi_request_success", "tgi_request_success_total"),
    "answers": ("tgi_request_generated_tokens_count",),
    "answer_tokens": ("tgi_request_generated_tokens_sum",),
    "prompt": ("tgi_request_input_length_sum",),
    "prompt_lengths": ("tgi_request_input_length_count",),
    "prompt_lengths_tokens": ("tgi_request_input_length_sum",),
    "generation": ("tgi_request_generated_tokens_sum",),
    "per_token": ("tgi_request_mean_time_per_token_duration_count",),
    "per_token_s": ("tgi_request_mean_time_per_token_duration_sum",),
    "running": ("tgi_batch_current_size",),
    "waiting": ("tgi_queue_size",),
}
_TGI_HISTOGRAMS: Mapping[str, Sequence[str]] = {
    "itl": ("tgi_request_mean_time_per_token_duration",),
    "e2e": ("tgi_request_duration",),
    "queue": ("tgi_request_queue_duration",),
}
# It counts tokens and no requests: what runs and waits is all that tells of these.
_LLAMACPP: Mapping[str, Sequence[str]] = {
    "prompt": ("llamacpp:prompt_tokens_total",),
    "generation": ("llamacpp:tokens_predicted_total",),
    "running": ("llamacpp:requests_processing",),
    "waiting": ("llamacpp:requests_deferred",),
    "kv_usage": ("llamacpp:kv_cache_usage_ratio",),  # until 2025
}
# Triton tells several quantities under one name, told apart by a label; such a series is read under
# its name with that label behind. Requests are counted by each model of a chain (tokens made of the
# text, the engine, text made of the tokens): those of the engine count, which the templates of
# NVIDIA call so. What clients see of TTFT and ITL no metric tells.
_BY_LABEL: Mapping[str, str] = {
    "nv_trt_llm_request_metrics": "request_type",
    "nv_trt_llm_kv_cache_block_metrics": "kv_cache_block_type",
    "nv_inference_request_success": "model",
}
_TRITON: Mapping[str, Sequence[str]] = {
    "ends": ('nv_inference_request_success{model="tensorrt_llm"}',),
    "answers": ("nv_llm_output_token_len_count",),
    "answer_tokens": ("nv_llm_output_token_len_sum",),
    "prompt": ("nv_llm_input_token_len_sum",),
    "prompt_lengths": ("nv_llm_input_token_len_count",),
    "prompt_lengths_tokens": ("nv_llm_input_token_len_sum",),
    "generation": ("nv_llm_output_token_len_sum",),
    "running": (
        'nv_trt_llm_request_metrics{request_type="scheduled"}',
        'nv_trt_llm_request_metrics{request_type="active"}',
    ),
    "waiting": ('nv_trt_llm_request_metrics{request_type="waiting"}',),
    "kv_usage": ('nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction"}',),
}
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_OF_A_LABEL = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)\{([a-zA-Z_]\w*)="[^"\\]*"\}')


def called(metric: str, labels: dict[str, str]) -> str:
    """Return by which name the table has a series of *metric*; take the label out of *labels* that
    tells what it is, if one does.
    """
    label = _BY_LABEL.get(metric)
    return metric if label is None else f'{metric}{{{label}="{labels.pop(label, "")}"}}'


@dataclass(frozen=True, slots=False, kw_only=True)
class Names:
    """Metric names by quantity, those that count first at the front; and of histograms by latency,
    without the end that names their buckets.
    """

    by_quantity: Mapping[str, tuple[str, ...]]
    histograms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def ranks(self) -> Mapping[str, tuple[tuple[str, int], ...]]:
        """Return what each name means: quantities, and how far at the front it stands for each.

        One name may tell two quantities (TGI's sum of generated tokens is both). Names of queues
        all stand at the front.
        """
        found: dict[str, list[tuple[str, int]]] = {}
        for quantity, names in self.by_quantity.items():
            for place, name in enumerate(names):
                rank = place if quantity != QUEUED else 0
                found.setdefault(name, []).append((quantity, rank))
        return MappingProxyType({name: tuple(meanings) for name, meanings in found.items()})

    @cached_property
    def pattern(self) -> str:
        """Return a regular expression (RE2 and Python) that matches a name of the table whole.

        vLLM's prefixes stand before the names that they share: the query stays short.
        """
        return _pattern(_bare(self.ranks))

    @cached_property
    def queried(self) -> str:
        """Return the pattern with the names of histograms, too: a native one is one series, which
        has their two counters in it.
        """
        stems = (
            name.removesuffix(end)
            for name in self.ranks
            for end in OF_A_HISTOGRAM
            if name.endswith(end)
        )
        return _pattern([*_bare(self.ranks), *stems])

    @cached_property
    def created(self) -> frozenset[str]:
        """Return the names under which pages tell when each counter of the table began."""
        return frozenset(
            next(
                (name.removesuffix(end) for end in (TOTAL, *OF_A_HISTOGRAM) if name.endswith(end)),
                name,
            )
            + CREATED
            for counter in COUNTERS
            for name in _bare(self.by_quantity.get(counter, ()))
        )

    @cached_property
    def births_pattern(self) -> str:
        """Return a regular expression (RE2 and Python) that matches a name whole that tells when a
        process or a counter of an engine began.
        """
        return f"{START_TIME}|{_pattern(self.created)}"

    @cached_property
    def buckets(self) -> Mapping[str, tuple[str, int]]:
        """Return the latency that the buckets of each name tell, and how far at the front the name
        stands for it.
        """
        return MappingProxyType(
            {
                f"{name}{BUCKET}": (latency, rank)
                for latency, names in self.histograms.items()
                for rank, name in enumerate(names)
            }
        )

    @cached_property
    def buckets_pattern(self) -> str:
        """Return a regular expression (RE2 and Python) that matches a name of buckets whole."""
        return _pattern(self.buckets)

    def extended(self, more: Mapping[str, Sequence[str]], *, source: str) -> Names:
        """Return these names with those of the user before them. Raise SpecError for a quantity
        that does not exist, a name that Prometheus would not take, or one that a label has to
        tell apart.
        """
        names = dict(self.by_quantity)
        for quantity, given in more.items():
            if quantity not in QUANTITIES:
                known = ", ".join(QUANTITIES)
                raise SpecError(f"{source}: expected one of {known}, found {quantity!r}")
            for name in given:
                if not (_NAME.fullmatch(str(name)) or _known_label(str(name))):
                    raise SpecError(
                        f"{source}: {quantity}: expected a metric name, found {str(name)[:60]!r}"
                    )
                if label := _BY_LABEL.get(str(name)):
                    raise SpecError(
                        f'{source}: {quantity}: expected {name}{{{label}="…"}}, which tells by '
                        f"that label what it is of, found {name!r}"
                    )
            names[quantity] = (*given, *names.get(quantity, ()))
        return Names(by_quantity=MappingProxyType(names), histograms=self.histograms)


def _known_label(name: str) -> bool:
    """Tell whether *name* is of a metric that is read by a label, with that label behind."""
    found = _OF_A_LABEL.fullmatch(name)
    return found is not None and _BY_LABEL.get(found[1]) == found[2]


def _bare(names: Iterable[str]) -> Iterable[str]:
    """Return *names* as metrics have them, without a label behind."""
    return (name.partition("{")[0] for name in names)


def _pattern(names: Iterable[str]) -> str:
    """Return a regular expression for *names*, in which what they share stands once."""
    left, parts = set(names), []
    for prefixes in _FAMILIES:
        told = {
            name: match[1]
            for name in left
            if (match := re.fullmatch(rf"(?:{'|'.join(prefixes)})([a-z_0-9]+)", name))
        }
        if not told:
            continue
        ends = set(told.values())
        # Those that stand without a prefix, too, make all of them optional.
        optional = "?" if ends & left else ""
        parts.append(f"(?:{'|'.join(prefixes)}){optional}(?:{'|'.join(_short(ends))})")
        left -= told.keys() | ends
    return "|".join([*parts, *_short(left)])


def _short(names: Iterable[str]) -> list[str]:
    """Return expressions for *names*, one for those that differ in their ends."""
    ends: dict[str, set[str]] = {}
    for name in names:
        end = next((one for one in (TOTAL, *OF_A_HISTOGRAM) if name.endswith(one)), "")
        ends.setdefault(name.removesuffix(end), set()).add(end)
    return sorted(
        f"{stem}(?:{'|'.join(sorted(of - {''}))}){'?' * ('' in of)}"
        if len(of) > 1
        else f"{stem}{next(iter(of))}"
        for stem, of in ends.items()
    )


def _default() -> Names:
    by_quantity: dict[str, tuple[str, ...]] = {}
    for quantity in QUANTITIES:
        vllm = (prefix + name for name in _VLLM.get(quantity, ()) for prefix in _VLLM_PREFIXES)
        told = (of.get(quantity, ()) for of in (_SGLANG, _TENSORRT, _LLAMACPP))
        colons = _with_underscores(*chain.from_iterable(told))
        others = (*_TGI.get(quantity, ()), *_TRITON.get(quantity, ()))
        by_quantity[quantity] = _without_total(*vllm, *colons, *others)
    histograms = {
        latency: (
            *(prefix + name for name in _VLLM_HISTOGRAMS[latency] for prefix in _VLLM_PREFIXES),
            *_with_underscores(
                *_SGLANG_HISTOGRAMS[latency], *_TENSORRT_HISTOGRAMS.get(latency, ())
            ),
            *_TGI_HISTOGRAMS.get(latency, ()),
        )
        for latency in HISTOGRAMS
    }
    return Names(by_quantity=MappingProxyType(by_quantity), histograms=MappingProxyType(histograms))


def _with_underscores(*names: str) -> tuple[str, ...]:
    """Return *names*, and behind each the one that a way without colons makes of it."""
    return tuple(one for name in names for one in (name, name.replace(":", "_")))


def _without_total(*names: str) -> tuple[str, ...]:
    """Return *names*, and behind them those that exporters leave without the end of counters. One
    that names no engine could be anything then.
    """
    bare = (
        name.removesuffix(TOTAL)
        for name in names
        if name.endswith(TOTAL) and name not in _VLLM_NAMES
    )
    return tuple(dict.fromkeys((*names, *bare)))


NAMES = _default()
# Pages tell it, of every process of a client library; Prometheus is asked for it only of pods of
# which something is odd, for a namespace holds many processes that are no engines.
START_TIME = "process_start_time_seconds"
