"""Which metrics were found, which are missing, and which others were seen in their place."""

from __future__ import annotations

from loop.signals.names import NAMES
from loop.signals.survey import survey

VLLM = (
    "vllm:request_success_total",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:time_to_first_token_seconds_sum",
    "vllm:time_to_first_token_seconds_count",
    "vllm:inter_token_latency_seconds_sum",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
)


def test_an_engine_that_tells_all_has_nothing_missing() -> None:
    """What it shows besides is of no interest then."""
    found = survey([*VLLM, "vllm:request_queue_time_seconds_count"], names=NAMES)
    assert found.missing == ()
    assert found.sufficient
    assert found.line.startswith("found requests (vllm:request_success_total), prompt tokens (")
    assert "instead" not in found.line


def test_what_is_missing_is_named_with_what_was_seen_instead() -> None:
    """Whoever renamed the metrics on the way sees at once which names to give."""
    seen = ["llm_requests_total", "llm_tokens_in_total", "llm_request_seconds_bucket", "up"]
    found = survey([*seen, "vllm:num_requests_running"], names=NAMES)
    assert not found.sufficient
    assert found.others == ("llm_requests_total", "llm_tokens_in_total")
    assert "missing: requests, prompt tokens, generated tokens, TTFT" in found.line
    assert "seen instead: llm_requests_total, llm_tokens_in_total" in found.line


def test_names_of_ones_own_count() -> None:
    """They are those of --metric-names."""
    names = NAMES.extended({"ends": ["llm_requests_total"]}, source="names.yaml")
    assert survey(["llm_requests_total"], names=names).found == {"requests": "llm_requests_total"}


def test_a_load_can_be_known_without_latencies() -> None:
    """Requests and tokens are enough to size by; the rest is told as missing."""
    found = survey(VLLM[:3], names=NAMES)
    assert found.sufficient
    assert found.missing[:2] == ("TTFT", "ITL")


def test_no_metrics_at_all_are_told_as_such() -> None:
    """Nobody scrapes these pods."""
    assert survey([], names=NAMES).line == "no metrics of an engine were found"
    assert survey(["process_cpu_seconds_total"], names=NAMES).line.startswith("no metrics")
