"""Claims about twin.traces: public formats are read, and a bad file is named with its line."""

from __future__ import annotations

import gzip
import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.parts import first
from twin.fit.logs import read_logs
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


@pytest.mark.parametrize(
    "header",
    [
        "timestamp,contexttokens,generatedtokens\n",
        "timestamp,context_tokens,generated_tokens\n",
        "Time Stamp,Context Tokens,Generated Tokens\n",
    ],
)
@pytest.mark.parametrize("rows", [3, 3000])
def test_columns_are_known_however_they_are_written(tmp_path: Path, header: str, rows: int):
    """Tools that copy a trace rename its columns by habits of their own."""
    row = "2023-11-16 23:{:02d}:{:02d},374,44\n"
    text = "".join(row.format(n // 60, n % 60) for n in range(rows))
    copied, plain = (read_trace(write(tmp_path, head + text)) for head in (header, AZURE))
    assert copied.times_s.tolist() == plain.times_s.tolist()
    assert copied.prompt_tokens.tolist() == plain.prompt_tokens.tolist()


def test_of_columns_that_differ_in_writing_alone_the_one_of_the_format_is_read(tmp_path: Path):
    """Else a file of two would be read by chance."""
    header = "TIMESTAMP,contexttokens,ContextTokens,GeneratedTokens\n"
    trace = read_trace(write(tmp_path, header + "2023-11-16,1,2,3\n2023-11-17,1,2,3\n"))
    assert trace.prompt_tokens.tolist() == [2, 2]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("also", [{}, {"chat_id": 1}])
def test_json_lines_may_come_as_one_array(tmp_path: Path, indent: int | None, also: dict[str, int]):
    """Many tools write them so; blocks and units are those of the lines."""
    entries = [
        {"timestamp": at, "input_length": 1024, "output_length": 5, "hash_ids": [at, 7], **also}
        for at in (0, 3000, 5000)
    ]
    lines = read_trace(write(tmp_path, "\n".join(map(json.dumps, entries)), "trace.jsonl"))
    found = read_trace(write(tmp_path, json.dumps(entries, indent=indent), "trace.json"))
    assert found.times_s.tolist() == lines.times_s.tolist()
    assert found.prompt_tokens.tolist() == lines.prompt_tokens.tolist()
    wrong = [*entries, {"timestamp": 1}]
    with pytest.raises(SpecError, match=r"entry 4: expected a JSON object with timestamp"):
        read_trace(write(tmp_path, json.dumps(wrong, indent=indent), "trace.json"))
    with pytest.raises(SpecError, match=r"trace.json: expected a JSON array, found "):
        read_trace(write(tmp_path, json.dumps(entries, indent=indent)[:-9], "trace.json"))


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


@pytest.mark.parametrize(("tokens", "also"), [(512, {}), (16, {"chat_id": 1}), (64, {})])
def test_blocks_have_the_tokens_that_prompts_and_their_blocks_tell(
    tmp_path: Path, tokens: int, also: dict[str, int]
):
    """Mooncake's have 512, Bailian's 16, and what others write in the same columns is seen."""
    lines = []
    for second, prompt in enumerate((700, 1300, 90, 4000)):
        hashes = list(range(-(-prompt // tokens)))
        entry = {"timestamp": second, "input_length": prompt, "output_length": 9} | also
        lines.append(json.dumps(entry | {"hash_ids": hashes}))
    trace = read_trace(write(tmp_path, "\n".join(lines), "t.jsonl"))
    assert trace.block_tokens == tokens
    assert trace.starts is not None
    assert np.diff(trace.starts)[1] == -(-1300 // tokens)


def test_logs_of_load_generators_are_traces_of_when_their_requests_came(tmp_path: Path):
    """Whoever has measured a server can replay what was sent to it; runs come one after the
    other, and who failed is left out.
    """
    logs = Path(__file__).parent / "logs"
    for name in (
        "vllm-0.33.json",
        "guidellm-0.8.json",
        "aiperf-0.13.jsonl",
        "inference-perf-0.7-requests.json",
    ):
        (trace, read) = (read_trace(logs / name), read_logs(logs / name))
        assert len(trace.times_s) == sum(map(len, read))
        assert trace.dropped == sum(rows.failed for rows in read)
        np.testing.assert_allclose(trace.times_s[: len(read[0])], read[0].queued_s)
        assert (np.diff(trace.times_s) >= 0.0).all()
    csv = "queued_s,input_tokens,output_tokens,first_token_s,last_token_s\n5,9,3,6,7\n8,9,2,9,9.5\n"
    assert read_trace(write(tmp_path, csv)).times_s.tolist() == [0.0, 3.0]
    with pytest.raises(SpecError, match="found the means of a run"):
        read_trace(logs / "genai-perf-0.0.16.json")


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


@pytest.mark.parametrize("rows", [4, 4000])
@pytest.mark.parametrize("untold", ["0", "", "nan", "NULL"])
def test_rows_without_an_answer_are_left_out_and_told(tmp_path: Path, untold: str, rows: int):
    """Gateways leave the tokens of requests that failed empty: one of them ended the whole trace,
    and with 0 a third of it was left out in silence.
    """
    served = "".join(f"{k},300,20\n" for k in range(rows))
    text = f"{OWN}{served}{rows}.5,{'8' if untold == '0' else ''},{untold}\n"
    trace = read_trace(write(tmp_path, text), spread="none")
    assert (len(trace.times_s), trace.dropped) == (rows, 1)
    name = trace.name
    assert trace.notes[0] == (
        f"trace {name}: 1 of its {rows + 1:,} rows have no output (failed): left out"
    )
    lines = [{"timestamp": 1000 * k, "input_length": 9, "output_length": 9} for k in range(rows)]
    lines[1]["output_length"] = None
    path = write(tmp_path, "\n".join(map(json.dumps, lines)), "t.jsonl")
    assert (len(read_trace(path).times_s), read_trace(path).dropped) == (rows - 1, 1)


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
            OWN + "1700000000,1,1\n1700000001500,1,1\n",
            "expected times within 20 years of each other, found 1.7e+09 to 1.7e+12 s",
        ),
        (OWN + "1700000000,1,1\n0,1,1\n", "found 0 to 1.7e+09 s: are all there"),
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
    assert str(caught.value).startswith(f"{tmp_path / 'trace.csv'}: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_wrong_format_are_named(tmp_path: Path):
    """The format may be forced, and then its columns must be there."""
    with pytest.raises(SpecError, match=r"none\.csv: expected a request trace, found no such file"):
        read_trace(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(
        SpecError,
        match=r"bytes\.csv: expected a request trace \(text in UTF-8\), found bytes that are not",
    ):
        read_trace(tmp_path / "bytes.csv")
    path = write(tmp_path, OWN + "0,1,1\n\n1,1,1\n")
    with pytest.raises(
        SpecError, match="expected the columns TIMESTAMP, ContextTokens, GeneratedTokens"
    ):
        read_trace(path, "azure")
    with pytest.raises(
        SpecError, match="format: expected one of azure, mooncake, bailian, burstgpt, servegen, own"
    ):
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


def test_times_in_seconds_are_never_read_as_milliseconds_in_silence(tmp_path: Path):
    """Formats that share columns differ in something else; if nothing tells, the user must."""
    row = '{{"timestamp": {}, "input_length": 5, "output_length": 6{}}}\n'
    chat = "".join(row.format(t, ', "chat_id": 1, "turn": 1') for t in (0.5, 1.75, 60.5))
    assert read_trace(write(tmp_path, chat, "chat.jsonl")).times_s.tolist() == [0.0, 1.25, 60.0]
    bare = write(tmp_path, "".join(row.format(t, "") for t in (0.5, 1.75, 60.5)), "bare.jsonl")
    with pytest.raises(SpecError, match=r"bare\.jsonl: timestamp: expected whole milliseconds"):
        read_trace(bare)
    assert read_trace(bare, unit="s").times_s.tolist() == [0.0, 1.25, 60.0]
    assert read_trace(bare, unit="ms").times_s.tolist() == [0.0, 0.00125, 0.06]
    dates = write(tmp_path, AZURE + "2023-11-16 23:59:59,1,1\n2023-11-17 00:00:00,1,1\n", "d.csv")
    with pytest.raises(SpecError, match=r"unit: expected none \(its times are dates\)"):
        read_trace(dates, unit="s")


def test_a_rate_that_no_server_sees_is_told(tmp_path: Path):
    """A thousand times off is another unit."""
    rows = "".join(
        f'{{"timestamp": {t}, "input_length": 5, "output_length": 6}}\n' for t in range(0, 900, 1)
    )
    (note,) = read_trace(write(tmp_path, rows, "hour.jsonl")).notes
    assert "60,000 requests a minute" in note
    assert "unit: s, ms, us or ns" in note


MOONCAKE_ROW = '{{"timestamp": {}, "input_length": 5, "output_length": 6}}'
BURST_ROW = "{},GPT-4,5,6,11,API log"


@pytest.mark.parametrize(
    ("row", "gap", "read", "true"),
    [
        (MOONCAKE_ROW, 15, "ms", "s"),  # was 4,000 requests a minute in silence
        (MOONCAKE_ROW.replace("}}", ', "chat_id": 1}}'), 1000, "s", "ms"),
        (BURST_ROW, 1000, "s", "ms"),  # was one request in 17 minutes
        ("{},5,6", 1000, "s", "ms"),
    ],
)
def test_a_unit_that_nothing_tells_is_said_where_the_rate_is_unlikely(
    tmp_path: Path, row: str, gap: int, read: str, true: str
):
    """Whole seconds and milliseconds look alike, and a thousand times off is another load."""
    header = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
    head = {BURST_ROW: [header], "{},5,6": [SERVEGEN.strip()]}.get(row, [])
    text = "\n".join([*head, *(row.format(gap * n + n % 3) for n in range(60))])
    path = write(tmp_path, text)
    (note,) = read_trace(path).notes
    assert f"read as {read}: are its times in another unit? (unit: s, ms, us or ns)" in note
    right = read_trace(path, unit=true)  # type: ignore[arg-type] # one of TraceUnit
    assert right.notes == ()
    assert 3.0 < right.rate_rpm < 70.0
    assert read_trace(path, unit=read).notes == ()  # type: ignore[arg-type] # as above


@pytest.mark.parametrize(("spread", "shared"), [("random", False), ("even", False), ("none", True)])
def test_requests_of_one_tick_are_spread_over_it_and_that_is_said(
    tmp_path: Path, spread: str, shared: bool
):
    """Its clock made the bursts, not its users."""
    exact = np.cumsum(np.random.default_rng(1).exponential(0.125, 800))
    rows = "".join(f"{int(t // 3 * 3)},ChatGPT,9,9,18,x\n" for t in exact)
    header = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    path = write(tmp_path, header + rows)
    trace = read_trace(path, spread=spread)  # type: ignore[arg-type] # one of Spread
    assert trace.tick_s == 3.0
    assert "its clock has a resolution of 3 s" in trace.notes[0]
    gaps = np.diff(trace.times_s)
    assert (gaps >= 0).all()
    assert bool((gaps == 0).any()) is shared
    if spread == "random":
        # As bursty as what was recorded: the gaps of a Poisson process.
        assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.15)
        again = read_trace(path)
        np.testing.assert_array_equal(again.times_s, trace.times_s)


def test_a_burst_on_a_fine_clock_stays_one(tmp_path: Path):
    """Requests of one instant among others of all instants came together."""
    rows = "".join(f"{t},9,9\n" for t in (0.0, 0.0, 0.0, 1.234, 2.345, 3.001))
    trace = read_trace(write(tmp_path, OWN + rows))
    assert (trace.tick_s, trace.notes) == (None, ())
    assert trace.times_s.tolist() == [0.0, 0.0, 0.0, 1.234, 2.345, 3.001]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", first(1, ["own", "azure", "burstgpt", "mooncake"]))
def test_a_large_trace_is_the_same_by_columns_and_line_by_line(
    tmp_path: Path, kind: str, packed: bool
):
    """Two ways of reading must not be two opinions."""
    rng = np.random.default_rng(2)
    times = np.cumsum(rng.exponential(0.2, 5000))
    lengths = rng.integers(1, 4000, (5000, 2))
    lengths[7] = (12, 0)  # failed
    if kind == "mooncake":
        lines = [
            json.dumps(
                {"timestamp": int(1000 * t), "input_length": int(a), "output_length": int(b)}
                | {"hash_ids": [int(a), 7]}
            )
            for t, (a, b) in zip(times, lengths, strict=True)
        ]
    elif kind == "azure":
        day = datetime(2023, 11, 16, 18, tzinfo=UTC)
        dates = (str(day + timedelta(seconds=float(t)))[:-6] for t in times)
        lines = [
            AZURE.strip(),
            *(f"{d},{a},{b}" for d, (a, b) in zip(dates, lengths, strict=True)),
        ]
    elif kind == "burstgpt":
        lines = [BURST.strip()]
        lines += [
            f"{t:.3f},s,1,{'GPT-4' if a % 2 else 'ChatGPT'},{a},{b},{a + b},x"
            for t, (a, b) in zip(times, lengths, strict=True)
        ]
    else:
        lines = [OWN.strip()]
        lines += [f"{t:.6f},{a},{b}" for t, (a, b) in zip(times, lengths, strict=True)]
    text = "\n".join(lines) + "\n"
    path = tmp_path / ("t.csv.gz" if packed else "t.csv")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    fast = read_trace(path)
    # One line that only the exact way reads makes it read all of them.
    slow = read_trace(
        write(tmp_path, text + "\n\n" + lines[-1].replace(",", " ,", 1) + "\n", "s.csv")
    )
    assert len(fast.times_s) == 4999
    np.testing.assert_allclose(fast.times_s, slow.times_s[: len(fast.times_s)], atol=2e-6)
    np.testing.assert_array_equal(fast.prompt_tokens, slow.prompt_tokens[:-1])
    assert fast.dropped == 1
    if kind == "burstgpt":
        assert fast.models == slow.models[:-1]
    if kind == "mooncake":
        assert fast.blocks is not None
        assert fast.starts is not None
        assert fast.blocks[fast.starts[3] : fast.starts[4]].tolist() == [fast.prompt_tokens[3], 7]


@pytest.mark.parametrize("fault", ["cut", "damaged", "no text"])
@pytest.mark.parametrize("rows", [100, 6000])
def test_a_file_that_ends_early_or_is_damaged_is_told_in_one_line(
    tmp_path: Path, fault: str, rows: int
):
    """A download that broke off is found out only far down."""
    text = OWN.encode() + b"".join(b"%d,%d,9\n" % (row, row * row % 97 + 1) for row in range(rows))
    if fault == "no text":
        text += b"\xff\xfe,1,1\n"
    packed = bytearray(gzip.compress(text))
    if fault == "cut":
        packed = packed[: len(packed) // 2]
    elif fault == "damaged":
        packed[-6] ^= 0xFF  # of the checksum, which is read last
    path = tmp_path / "t.csv.gz"
    path.write_bytes(packed)
    with pytest.raises(SpecError, match=r"t\.csv\.gz: expected a request trace \(text in UTF-8\)"):
        read_trace(path)


def test_a_fault_far_down_a_large_trace_is_named_with_its_line(tmp_path: Path):
    """The fast way tells that something is wrong, the exact one what and where."""
    rows = [f"{t},1,1\n" for t in range(6000)]
    rows[4321] = "4321,x,1\n"
    with pytest.raises(SpecError, match="line 4323: input_tokens: expected a whole number"):
        read_trace(write(tmp_path, OWN + "".join(rows)))


SERVEGEN = "timestamp,input_tokens,output_tokens\n"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("1790000000.25", "1790000001.75"),
        ("1790000000250", "1790000001750"),
        ("1790000000250000", "1790000001750000"),
        ("1790000000250000000", "1790000001750000000"),
        ("2026-09-21T14:13:20.25Z", "2026-09-21T16:13:21.75+02:00"),
        ("2026-09-21 14:13:20.25", "2026-09-21 14:13:21.75"),
    ],
)
@pytest.mark.parametrize("header", [SERVEGEN, OWN, AZURE])
def test_times_since_1970_say_their_unit_and_dates_may_stand_for_them(
    tmp_path: Path, header: str, first: str, second: str
):
    """Gateways export what their clocks show; milliseconds were read as seconds, in silence."""
    trace = read_trace(write(tmp_path, f"{header}{first},5,6\n{second},7,8\n"))
    np.testing.assert_allclose(trace.times_s, [0.0, 1.5], atol=1e-6)


@pytest.mark.parametrize(
    ("first", "unit", "end_s", "note"),
    [
        (999_999_000, None, 3.0, None),
        (1_000_000_000, None, 3.0, "unit: s"),  # was read as 3000 s, in silence
        (1_490_000_000, None, 3.0, "unit: s"),
        (1_790_000_000, None, 3000.0, "unit: ms"),  # as a gateway's clock shows now
        (1_790_000_000, "s", 3000.0, None),
        (1_790_000_000, "ms", 3.0, None),
        (1_790_000_000.5, None, 3000.0, "unit: ms"),  # milliseconds would be whole
        (1_790_000_000_000, None, 3.0, None),
        (1_790_000_000_000_000, None, 0.003, "unit: ms"),
    ],
)
def test_a_guessed_unit_of_milliseconds_is_told(
    tmp_path: Path, first: float, unit: Any, end_s: float, note: str | None
):
    """A long trace in milliseconds shows from its 12th day on what seconds since 1970 are; which
    of both is likely depends on the year that these would be of.
    """
    row = '{{"timestamp": {}, "input_length": 5, "output_length": 6}}\n'
    text = row.format(first) + row.format(first + 3000)
    trace = read_trace(write(tmp_path, text, "t.jsonl"), unit=unit)
    np.testing.assert_allclose(trace.times_s, [0.0, end_s], atol=1e-6)
    told = [line for line in trace.notes if "taken for" in line]
    assert [note in line for line in told] == ([True] if note else [])


@pytest.mark.parametrize(
    ("zones", "is_told"),
    [
        (("", "", ""), False),
        (("Z", "+02:00", "+0200"), False),
        (("Z", "", "+02:00"), True),
    ],
)
@pytest.mark.parametrize("rows", [1, 1000])
def test_dates_without_a_zone_among_others_are_told(
    tmp_path: Path, rows: int, zones: tuple[str, ...], is_told: bool
):
    """A clock of New York beside one of UTC is hours off, and was so in silence."""
    text = AZURE + "".join(
        f"2026-09-21 {14 + 2 * zone.startswith('+')}:{place:02d}:00.{row:03d}{zone},5,6\n"
        for place, zone in enumerate(zones)
        for row in range(rows)
    )
    trace = read_trace(write(tmp_path, text))
    np.testing.assert_allclose(trace.times_s[::rows], [0.0, 60.0, 120.0], atol=1e-6)
    told = [line for line in trace.notes if "UTC" in line]
    assert [f" {rows:,} of its {3 * rows:,} dates" in line for line in told] == [True] * is_told


@pytest.mark.parametrize("rows", [3, 6000])
@pytest.mark.parametrize("mark", [";", "\t"])
def test_traces_have_the_separators_of_spreadsheets_and_may_be_packed_under_any_name(
    tmp_path: Path, mark: str, rows: int
):
    """Half of the world has a comma in its numbers."""
    lines = "".join(f"{second},{second + 1},7\n" for second in range(rows))
    path = write(tmp_path, (SERVEGEN + lines).replace(",", mark))
    trace = read_trace(path)
    assert (len(trace.times_s), trace.prompt_tokens[2]) == (rows, 3)
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert len(read_trace(path).times_s) == rows
