"""Claims about twin.traces: public formats are read, and a bad file is named with its line."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from twin.spec import SpecError
from twin.traces import read_trace

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
OWN = "arrival_s,input_tokens,output_tokens\n"
BURST = (
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
)


def write(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_azure_times_are_read_with_and_without_an_offset(tmp_path: Path):
    """The 2023 trace has seven digits and no offset, the 2024 one six and +00:00."""
    trace = read_trace(
        write(
            tmp_path,
            AZURE + "2023-11-16 23:59:59.9000000,374,44\n"
            "2023-11-17 00:00:00.0250001,396,109\n"
            "2023-11-17 00:00:01+00:00,12,1\n",
        )
    )
    np.testing.assert_allclose(trace.times_s, [0.0, 0.125, 1.1], atol=1e-6)
    assert trace.prompt_tokens.tolist() == [374, 396, 12]
    assert trace.output_tokens.tolist() == [44, 109, 1]
    assert (trace.in_tokens, trace.out_tokens) == (782 / 3, 154 / 3)


def test_mooncake_times_are_milliseconds(tmp_path: Path):
    """Its JSON lines carry more fields than are needed."""
    text = (
        '{"timestamp": 1000, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}\n'
        "\n"
        '{"timestamp": 4000, "input_length": 7322, "output_length": 490, "hash_ids": []}\n'
    )
    trace = read_trace(write(tmp_path, text, "trace.jsonl"))
    assert trace.times_s.tolist() == [0.0, 3.0]
    assert trace.prompt_tokens.tolist() == [6758, 7322]


def test_burstgpt_failures_are_left_out_and_counted_and_a_model_can_be_chosen(tmp_path: Path):
    """Rows with no response are failed requests: they asked for no tokens that we know of."""
    rows = "5,s1,1,ChatGPT,472,18,490,Conversation log\n45,s1,0,ChatGPT,1087,0,1087,API log\n"
    rows += "47,s2,2,GPT-4,30,20,50,API log\n118,s2,3,ChatGPT,417,276,693,API log\n"
    path = write(tmp_path, BURST + rows)
    trace = read_trace(path)
    assert trace.times_s.tolist() == [0.0, 42.0, 113.0]
    assert trace.models == ("ChatGPT", "GPT-4", "ChatGPT")
    assert trace.dropped == 1
    assert read_trace(path, model="ChatGPT").times_s.tolist() == [0.0, 113.0]
    with pytest.raises(
        SpecError,
        match="model: expected one of those in the trace \\(ChatGPT, GPT-4\\), found 'GPT-5'",
    ):
        read_trace(path, model="GPT-5")


def test_our_own_rows_may_come_in_any_order_and_with_more_columns(tmp_path: Path):
    """A request log sorted by completion is a trace too."""
    trace = read_trace(
        write(tmp_path, "input_tokens,output_tokens,arrival_s,note\n7,8,30.5,x\n5,6,10.5,y\n")
    )
    assert trace.times_s.tolist() == [0.0, 20.0]
    assert trace.prompt_tokens.tolist() == [5, 7]
    assert trace.span_s == 40.0
    assert trace.rate_rpm == 3.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected a request trace, found an empty file"),
        ("a,b\n1,2\n", "line 1: expected JSON lines or the columns of a known format"),
        (
            OWN + "0,1,1\n1,x,1\n",
            "line 3: input_tokens: expected a whole number in 0..1000000000, found 'x'",
        ),
        (
            OWN + "0,1,1\n1,-4,1\n",
            "line 3: input_tokens: expected a whole number in 0..1000000000, found '-4'",
        ),
        (
            OWN + "0,1,1\n1,4,1.5\n",
            "line 3: output_tokens: expected a whole number in 0..1000000000, found '1.5'",
        ),
        (OWN + "0,1,1\nnan,4,1\n", "line 3: arrival_s: expected a finite number, found 'nan'"),
        (OWN + "0,1,1\n1,4,2,9\n", "line 3: expected 3 columns, found 4"),
        (OWN + '0,1,1\n1,"4,2\n', "line 3: expected CSV, found unexpected end of data"),
        (OWN.replace("output", "input") + "0,1,1\n", "line 1: expected JSON lines or the columns"),
        (
            OWN.replace("\n", ",arrival_s\n") + "0,1,1,1\n",
            "line 1: expected the columns arrival_s, input_tokens",
        ),
        (OWN + "0,1,1\n1,4\n", "line 3: expected 3 columns, found 2"),
        (OWN + "0,1,1\n", "expected at least two requests at different instants, found 1 request"),
        (
            OWN + "3,1,1\n3,1,1\n",
            "expected at least two requests at different instants, found 2 request",
        ),
        (
            AZURE + "yesterday,1,1\n",
            "line 2: TIMESTAMP: expected a date and time, found 'yesterday'",
        ),
        (
            '{"timestamp": 1, "input_length": 2}\n',
            "line 1: expected a JSON object with timestamp, input_length, output_length",
        ),
        (
            '{"timestamp": 1,\n',
            "line 1: expected a JSON object with timestamp, input_length, output_length, found "
            "'{\"timestamp\": 1,'",
        ),
    ],
)
def test_a_bad_trace_is_one_line_that_names_file_and_line(tmp_path: Path, text: str, expected: str):
    """A trace of a million rows is mended by its line number."""
    with pytest.raises(SpecError) as caught:
        read_trace(write(tmp_path, text))
    assert str(caught.value).startswith("trace.csv: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_wrong_format_are_named(tmp_path: Path):
    """The format may be forced, and then its columns must be there."""
    with pytest.raises(SpecError, match=r"none\.csv: expected a request trace, found no such file"):
        read_trace(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(
        SpecError,
        match=r"bytes\.csv: expected a request trace \(text in UTF-8\), found 'utf-8' codec",
    ):
        read_trace(tmp_path / "bytes.csv")
    path = write(tmp_path, OWN + "0,1,1\n\n1,1,1\n")
    with pytest.raises(
        SpecError, match="expected the columns TIMESTAMP, ContextTokens, GeneratedTokens"
    ):
        read_trace(path, "azure")
    with pytest.raises(SpecError, match="format: expected one of azure, mooncake, burstgpt, own"):
        read_trace(path, "parquet")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "requests", "in_tokens", "out_tokens"),
    [("code", 8819, 2048, 28), ("conv", 19366, 1155, 211)],
)
def test_the_public_azure_hours_are_read_whole(
    shared: Path, name: str, requests: int, in_tokens: int, out_tokens: int
):
    """The counts are those of the traces' own description; the means are known from their
    publication.
    """
    path = shared / "traces" / f"AzureLLMInferenceTrace_{name}.csv"
    if not path.exists():
        pytest.skip(f"{path.name} is not there")
    trace = read_trace(path)
    assert len(trace.times_s) == requests
    assert trace.dropped == 0
    assert np.all(np.diff(trace.times_s) >= 0.0)
    assert 3400 < trace.times_s[-1] < 3600
    assert math.isclose(trace.in_tokens, in_tokens, abs_tol=0.5)
    assert math.isclose(trace.out_tokens, out_tokens, abs_tol=0.5)
