"""Claims about traces that others write: the same requests whatever their columns are called, in
Parquet as in text.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from twin.spec import SpecError
from twin.traces import read_trace

ARRIVALS = [0.0, 1.5, 2.25, 7.125]
MOONCAKE = "timestamp input_length output_length"
PROMPTS, OUTPUTS = [100, 2000, 30, 4], [10, 1, 300, 7]


@pytest.mark.parametrize(
    "header",
    [
        ",arrived_at,num_prefill_tokens,num_decode_tokens",  # Vidur, with the index of pandas
        "request_id,arrival_timestamp,prompt_size,token_size",  # splitwise-sim
        "id,Start Time,prompt_tokens,completion_tokens",
    ],
)
def test_a_trace_is_read_by_what_its_columns_are_called(tmp_path: Path, header: str) -> None:
    """Whoever has a simulator has its traces, and had to rename columns first."""
    path = tmp_path / "trace.csv"
    rows = [f"{n},{row[0]},{row[1]},{row[2]}" for n, row in enumerate(zipped())]
    path.write_text("\n".join([header, *rows]), encoding="utf-8")
    trace = read_trace(path)
    assert trace.times_s.tolist() == ARRIVALS
    assert (trace.prompt_tokens.tolist(), trace.output_tokens.tolist()) == (PROMPTS, OUTPUTS)
    assert "are taken for time, prompt and answer" in trace.notes[0]


def test_the_end_of_a_name_tells_the_unit_and_lines_of_json_are_read_too(tmp_path: Path) -> None:
    """LLMServingSim counts in nanoseconds."""
    path = tmp_path / "trace.jsonl"
    path.write_text(
        "\n".join(
            f'{{"arrival_time_ns": {at * 1e9:.0f}, "input_toks": {n}, "output_toks": {m}}}'
            for at, n, m in zipped()
        ),
        encoding="utf-8",
    )
    assert read_trace(path).times_s.tolist() == ARRIVALS


@pytest.mark.parametrize("keys", ["startTime prompt_tokens completion_tokens", MOONCAKE])
@pytest.mark.parametrize("in_array", [False, True])
def test_lines_of_json_may_have_dates(tmp_path: Path, keys: str, in_array: bool) -> None:
    """Gateways write them so; a CSV could have them, and JSON could not."""
    rows = [
        dict(zip(keys.split(), (f"2026-05-10T00:00:{at:06.3f}Z", prompt, output), strict=True))
        for at, prompt, output in zipped()
    ]
    path = tmp_path / "trace.json"
    text = json.dumps(rows) if in_array else "\n".join(map(json.dumps, rows))
    path.write_text(text, encoding="utf-8")
    assert read_trace(path).times_s.tolist() == pytest.approx(ARRIVALS)


def test_two_columns_that_may_be_the_prompt_are_none(tmp_path: Path) -> None:
    """Which one it is would be a guess."""
    path = tmp_path / "trace.csv"
    path.write_text("timestamp,prompt_tokens,context_tokens,output_tokens\n0,1,2,3\n1,1,2,3\n")
    with pytest.raises(SpecError, match="expected JSON lines or the columns of a known format"):
        read_trace(path)


def zipped() -> list[tuple[float, int, int]]:
    """Return the requests."""
    return list(zip(ARRIVALS, PROMPTS, OUTPUTS, strict=True))


@pytest.mark.parametrize(
    ("columns", "times"),
    [
        (("arrival_s", "input_tokens", "output_tokens"), ARRIVALS),
        (
            ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
            [pd.Timestamp("2024-05-10") + pd.Timedelta(at, "s") for at in ARRIVALS],
        ),
        (
            ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
            [f"2024-05-10T00:00:{at:06.3f}+00:00" for at in ARRIVALS],
        ),
        (("timestamp", "input_length", "output_length"), [round(at * 1000) for at in ARRIVALS]),
    ],
)
def test_a_trace_in_parquet_is_the_same(
    tmp_path: Path, columns: tuple[str, str, str], times: list[Any]
) -> None:
    """Public traces come so as well, and were bytes that are no text."""
    path = tmp_path / "trace.parquet"
    table = dict(zip(columns, (times, PROMPTS, [10.0, 1.0, float("nan"), 7.0]), strict=True))
    hashes = {"hash_ids": [[1], [1, 2, 3, 4], [5], []]}
    pd.DataFrame({**table, **(hashes if "input_length" in table else {})}).to_parquet(path)
    trace = read_trace(path)
    assert trace.times_s.tolist() == pytest.approx([0.0, 1.5, 7.125])
    assert (trace.prompt_tokens.tolist(), trace.dropped) == ([100, 2000, 4], 1)
    if trace.blocks is not None:
        assert trace.blocks.tolist() == [1, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"arrival_s": [0, 1], "input_tokens": [1, -2]}, "row 2: input_tokens: expected a whole"),
        ({"arrival_s": ["a", "b"], "input_tokens": [1, 2]}, "arrival_s: expected dates"),
        ({"at": [0, 1], "input_tokens": [1, 2]}, "expected JSON lines or the columns"),
        (
            {"timestamp": [0, 1], "input_length": [1, 2], "hash_ids": ["[1]", "[2]"]},
            "hash_ids: expected lists of whole numbers, found ",
        ),
    ],
)
def test_what_is_wrong_in_parquet_is_told_in_a_line(
    tmp_path: Path, table: dict[str, Any], told: str
) -> None:
    """As of a CSV."""
    path = tmp_path / "trace.parquet"
    output = "output_length" if "input_length" in table else "output_tokens"
    pd.DataFrame({**table, output: [3, 3]}).to_parquet(path)
    with pytest.raises(SpecError, match=re.escape(told)):
        read_trace(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(SpecError, match="expected Parquet, found"):
        read_trace(path)
