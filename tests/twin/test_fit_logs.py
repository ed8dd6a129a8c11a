"""Claims about the files of load generators: the same requests come out of each, failed ones are
left out and counted, and times in another unit are told.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from tests.parts import first
from tests.twin.mutations import mutated
from twin.fit.logs import (
    left_out,
    other_servers,
    read_logs,
    tokens_per_step,
    with_points_together,
)
from twin.fit.points import operate
from twin.spec import LatencyModel, SpecError

LOGS = Path(__file__).parent / "logs"
START_S = 1_790_000_000.25
# queued, first token, last token [s], tokens in and out.
REQUESTS = [(0.0, 0.5, 1.5, 100, 11), (2.0, 2.25, 2.5, 50, 6), (3.0, 3.5, 3.5, 70, 1)]


def write(tmp_path: Path, name: str, value: object) -> Path:
    """Write *value* as JSON, or as it is if it is text; return the file."""
    path = tmp_path / name
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def vllm() -> dict[str, Any]:
    """Return a result of `vllm bench serve` with one request that failed."""
    return {
        "backend": "vllm",
        "completed": 3,
        "start_times": [*(START_S + row[0] for row in REQUESTS), START_S],
        "ttfts": [*(row[1] - row[0] for row in REQUESTS), 0.0],
        "itls": [[0.25, 0.75], [0.25], [], []],
        "input_lens": [*(row[3] for row in REQUESTS), 9],
        "output_lens": [*(row[4] for row in REQUESTS), 0],
        "errors": ["", "", "", "Server disconnected"],
    }


def guidellm() -> dict[str, Any]:
    """Return a report of GuideLLM with one benchmark, two of whose requests did not end well."""
    successful = [
        {
            "request_start_time": START_S + row[0],
            "first_token_time": START_S + row[1],
            "last_token_time": START_S + row[2],
            "prompt_tokens": row[3],
            "output_tokens": row[4],
        }
        for row in REQUESTS
    ]
    groups = {"successful": successful, "errored": [{}], "incomplete": [{}]}
    return {"benchmarks": [{"requests": groups}]}


def aiperf() -> str:
    """Return the lines of AIPerf: a request of the warm-up, three that count, one that failed."""

    def line(row: tuple[float, float, float, int, int], **others: object) -> str:
        start_ns = round((START_S + row[0]) * 1e9)
        metrics = {
            "time_to_first_token": {"value": (row[1] - row[0]) * 1e3, "unit": "ms"},
            "request_latency": {"value": (row[2] - row[0]) * 1e3, "unit": "ms"},
            "input_sequence_length": {"value": row[3], "unit": "tokens"},
            "output_sequence_length": {"value": row[4], "unit": "tokens"},
        }
        metadata = {"request_start_ns": start_ns, "benchmark_phase": "profiling"} | others
        return json.dumps({"metadata": metadata, "metrics": metrics, "error": None})

    failed = json.dumps(
        {"metadata": {"request_start_ns": 1}, "metrics": {}, "error": {"code": 500}}
    )
    warm_up = line(REQUESTS[0], benchmark_phase="warmup")
    return "\n".join([warm_up, *map(line, REQUESTS), failed]) + "\n"


@pytest.mark.parametrize(
    ("name", "value", "failed"),
    [
        ("vllm.json", vllm(), 1),
        ("guidellm.json", guidellm(), 2),
        ("profile_export.jsonl", aiperf(), 1),
    ],
)
def test_the_requests_of_each_load_generator_are_the_same(
    tmp_path: Path, name: str, value: object, failed: int
) -> None:
    """Whoever has measured a server has one of these files."""
    [rows] = read_logs(write(tmp_path, name, value))
    np.testing.assert_allclose(rows.queued_s, [row[0] for row in REQUESTS], atol=1e-5)
    np.testing.assert_allclose(rows.first_token_s, [row[1] for row in REQUESTS], atol=1e-5)
    np.testing.assert_allclose(rows.last_token_s, [row[2] for row in REQUESTS], atol=1e-5)
    assert rows.input_tokens.tolist() == [row[3] for row in REQUESTS]
    assert rows.output_tokens.tolist() == [row[4] for row in REQUESTS]
    assert (rows.failed, rows.place) == (failed, "request")
    [line] = left_out([rows])
    assert f"{failed} request" in line
    assert "3 remain" in line


def test_logs_of_different_servers_are_told(tmp_path: Path) -> None:
    """`vllm bench sweep serve` puts runs of different options of the server into one list, and they
    made one fit.
    """
    run = vllm() | {"model_id": "llama"}
    sweep = [run | {"max_num_seqs": 32}, run | {"max_num_seqs": 256}]
    logs = read_logs(write(tmp_path, "summary.json", sweep))
    [line] = other_servers(logs)
    assert line.startswith("max_num_seqs: the logs are of different servers (32, 256)")
    assert not [*other_servers(logs[:1])]
    other = read_logs(write(tmp_path, "qwen.json", vllm() | {"model_id": "qwen"}))
    assert any(line.startswith("model_id: ") for line in other_servers([*logs, *other]))


def test_a_run_that_is_repeated_with_its_seed_is_told(tmp_path: Path) -> None:
    """`vllm bench serve` sends the same prompts to a warm cache from the second run on: TTFT was a
    49th, and nothing said so.
    """

    def run(name: str, *, prompts: list[int]) -> Path:
        count = len(prompts)
        columns = {"start_times": [*range(count)], "ttfts": [0.1] * count, "errors": [""] * count}
        more = {"itls": [[0.02]] * count, "input_lens": prompts, "output_lens": [2] * count}
        return write(tmp_path, name, columns | more)

    first = run("c1.json", prompts=[100 + 7 * n for n in range(12)])
    longer = run("c2.json", prompts=[100 + 7 * n for n in range(20)])
    other = run("c4.json", prompts=[101 + 7 * n for n in range(12)])
    alike = run("c8.json", prompts=[512] * 20)
    logs = [rows for path in (first, other, alike, longer, alike) for rows in read_logs(path)]
    [line] = [line for line in left_out(logs) if "same seed" in line]
    assert line.startswith(f"{longer}: its prompts are as long as those of {first}, one by one")


def test_a_csv_leaves_out_what_failed_and_counts_it(tmp_path: Path) -> None:
    """One request in a thousand that broke off must not end a fit."""
    text = "queued_s,first_token_s,last_token_s,input_tokens,output_tokens\n"
    text += "0,1,2,10,5\n1,,,10,0\n2,,5,10,5\n3,4,,10,5\n4,5,6,10,0\n5,6,7,10,\n6,7,8,10,5\n"
    [rows] = read_logs(write(tmp_path, "log.csv", f"{text}7,NaN,nan,10,5\n"))
    assert (len(rows), rows.failed) == (2, 6)
    assert rows.line.tolist() == [2, 8]


def test_a_few_requests_whose_times_cannot_be_are_left_out_and_told(tmp_path: Path) -> None:
    """GuideLLM wrote a first token at 0 where no stream came, and one such request ended the
    fit.
    """
    report = guidellm()
    requests = report["benchmarks"][0]["requests"]["successful"]
    lost = {**requests[0], "first_token_time": 0.0}
    report["benchmarks"][0]["requests"]["successful"] = [lost, *requests * 3]
    [rows] = read_logs(write(tmp_path, "guidellm.json", report))
    assert len(rows) == 9
    [note] = rows.notes
    assert "1 of 10 requests have figures that cannot be" in note
    assert "request 1: first_token_s" in note
    requests[0] = lost  # a third: the file is not what it is taken for
    report["benchmarks"][0]["requests"]["successful"] = requests
    with pytest.raises(SpecError, match="request 1: first_token_s"):
        read_logs(write(tmp_path, "guidellm.json", report))


@pytest.mark.parametrize("name", ["ttfts", "itls", "output_lens"])
def test_a_request_of_which_a_figure_is_no_number_is_left_out(tmp_path: Path, name: str) -> None:
    """Programs that put results together write NaN: one of them ended the fit."""
    document = vllm()
    column = list(document[name])
    column[0] = [*column[0], math.nan] if name == "itls" else math.nan
    [rows] = read_logs(write(tmp_path, "vllm.json", {**document, name: column}))
    assert (len(rows), rows.failed) == (2, 2)


def test_a_log_in_milliseconds_is_told_and_read_with_its_unit(tmp_path: Path) -> None:
    """Read as seconds it would give a latency model 1000 times too slow, and nobody would say."""
    text = "queued_s,first_token_s,last_token_s,input_tokens,output_tokens\n"
    path = write(tmp_path, "log.csv", text + "0,40,900,10,101\n500,560,1500,10,101\n")
    with pytest.raises(SpecError, match=r"/log\.csv: expected times in seconds, found 9 be"):
        read_logs(path)
    [rows] = read_logs(path, time_unit="ms")
    np.testing.assert_allclose(rows.ttft_s, [0.04, 0.06])
    [rows] = read_logs(path, time_unit="s")
    np.testing.assert_allclose(rows.ttft_s, [40.0, 60.0])


def without(document: dict[str, Any], key: str) -> dict[str, Any]:
    """Return *document* without *key*."""
    return {name: value for name, value in document.items() if name != key}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"a": 1}, "found an object with a"),
        ([1], "found a list"),
        ('{"a": ', "expected JSON, found"),
        (without(vllm(), "itls"), "itls: expected one entry a request, found nothing; write"),
        (without(vllm(), "start_times"), "older versions of vLLM do not write it"),
        (vllm() | {"errors": ["x"] * 4}, "expected requests that were answered, found 4 that"),
        (vllm() | {"ttfts": [1.0]}, "ttfts: expected 4 entries, found 1"),
        (vllm() | {"ttfts": [-0.5, 1, 1, 1]}, "request 1: first_token_s: expected > queued_s"),
        ({"benchmarks": []}, "expected requests that were answered, found none"),
        ({"benchmarks": [{}]}, "benchmark 1: expected requests by their outcome"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(tmp_path: Path, value: object, found: str) -> None:
    """The line says which file, what was expected, and how to write it if that is the reason."""
    with pytest.raises(SpecError) as caught:
        read_logs(write(tmp_path, "log.json", value))
    assert str(caught.value).startswith(f"{tmp_path}/log.json: ")
    assert found in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "answered", "failed", "tokens"),
    [
        ("aiperf-0.13.jsonl", 11, 2, (12, 8)),
        ("guidellm-0.8.json", 12, 0, (18, 8)),
        ("perf-analyzer.json", 6, 1, (10, 6)),
        ("vllm-0.33.json", 12, 2, (3, 8)),
    ],
)
def test_what_the_tools_themselves_have_written_is_read(
    name: str, answered: int, failed: int, tokens: tuple[int, int]
) -> None:
    """Made by the tools against a small server that streams a token each 10 ms, texts left out:
    what they write, not what we think they do. Only Perf Analyzer's, whose package holds no
    program, was made here in the format of the tool's tests; GenAI-Perf 0.0.16 reads it.
    """
    [rows] = read_logs(Path(__file__).parent / "logs" / name)
    assert (len(rows), rows.failed) == (answered, failed)
    assert (rows.input_tokens[0], rows.output_tokens[0]) == tokens
    assert (rows.ttft_s > 0.03).all()
    gaps_s = (rows.e2e_s - rows.ttft_s) / (rows.output_tokens - 1)
    assert np.median(gaps_s) == pytest.approx(0.012, abs=0.004)


def test_a_result_of_sglang_is_an_operating_point_whose_failures_are_counted() -> None:
    """Written by sglang 0.5.23 itself, which tells no starts: two of its 20 requests failed, and
    only their own errors say so.
    """
    [rows] = read_logs(LOGS / "sglang-0.5.23.jsonl")
    [point] = rows.points
    assert (point.rate_rps, point.users, rows.failed) == (20.0, None, 2)
    assert (point.input_tokens, point.output_tokens) == (40.0, 8.0)
    assert (rows.e2e_s[0] - rows.ttft_s[0]) / 7 == pytest.approx(0.0094, rel=0.05)
    assert len(point.percentiles) == 12


@pytest.mark.parametrize(
    ("name", "rate_rps", "users"),
    [("aiperf-0.13-summary.json", None, 3), ("aiperf-0.13-summary-rate.json", 30.0, None)],
)
def test_a_summary_of_aiperf_tells_the_load_in_its_phases(
    name: str, rate_rps: float | None, users: int | None
) -> None:
    """Written by AIPerf 0.13 against the small server: three users were read as the rate that was
    answered. In the other four at most sent 30 a second after a warm-up, of which 26 were answered
    and 4 failed.
    """
    [rows] = read_logs(LOGS / name)
    [point] = rows.points
    assert (point.rate_rps, point.users) == (rate_rps, users)
    assert (point.input_tokens, point.output_tokens) == (40.0, 16.0)
    assert rows.failed == 3
    assert 0.03 < rows.ttft_s[0] < rows.e2e_s[0] < 0.3
    assert len(point.percentiles) == 12


def test_a_rate_of_aiperf_that_was_not_kept_up_is_its_limit_on_users(tmp_path: Path) -> None:
    """Four users then, who each ask again at once."""
    document = json.loads((LOGS / "aiperf-0.13-summary-rate.json").read_text(encoding="utf-8"))
    document["request_throughput"]["avg"] = 20.0
    [rows] = read_logs(write(tmp_path, "log.json", document))
    assert (rows.points[0].rate_rps, rows.points[0].users) == (None, 4)


def test_a_summary_of_genai_perf_is_an_operating_point() -> None:
    """Written by GenAI-Perf 0.0.16 itself: its statistics and exporter, over the requests of
    perf-analyzer.json and six more.
    """
    [rows] = read_logs(Path(__file__).parent / "logs" / "genai-perf-0.0.16.json")
    [point] = rows.points
    assert (point.rate_rps, point.users) == (20.0, None)
    assert point.is_even  # as Perf Analyzer sends them unless it is asked for others
    assert (point.input_tokens, point.output_tokens) == (15.5, 7.5)
    assert rows.ttft_s[0] == pytest.approx(0.04275)
    assert rows.e2e_s[0] == pytest.approx(0.120787)
    tails = {(one.latency, one.percent): one.value_s for one in point.percentiles}
    assert tails["itl", 99.0] == pytest.approx(0.01201089)
    assert len(tails) == 12


def means(**others: Any) -> dict[str, Any]:
    """Return a result of `vllm bench serve --save-result` without its requests."""
    return {
        "backend": "vllm",
        "num_prompts": 200,
        "request_rate": "inf",
        "max_concurrency": 16,
        "completed": 198,
        "total_input_tokens": 198 * 1000,
        "total_output_tokens": 198 * 101,
        "request_throughput": 4.2,
        "mean_ttft_ms": 120.0,
        "median_ttft_ms": 100.0,
        "p99_ttft_ms": 400.0,
        "mean_tpot_ms": 20.0,
        "p99_tpot_ms": 26.0,
        "mean_itl_ms": 20.0,
        "p99_itl_ms": 90.0,
    } | others


@pytest.mark.parametrize(
    ("others", "users", "rate", "e2e_s"),
    [
        ({}, 16, None, 2.12),
        ({"request_rate": 4.4}, None, 4.4, 2.12),
        ({"request_rate": 40.0}, 16, None, 2.12),
        ({"request_rate": 4.4, "max_concurrency": None, "mean_e2el_ms": 2000}, None, 4.4, 2.0),
        ({"request_rate": 4.4, "mean_e2e_latency_ms": 2000}, None, 4.4, 2.0),
        ({"input_lens": [1000], "ttfts": [0.1], "itls": [[]], "output_lens": [1]}, 16, None, 2.12),
    ],
)
def test_a_result_without_its_requests_is_an_operating_point(
    tmp_path: Path, others: dict[str, Any], users: int | None, rate: float | None, e2e_s: float
) -> None:
    """As most people save it, and as versions wrote it that did not tell when a request was sent;
    the percentile of gaps is none of requests.
    """
    (rows,) = read_logs(write(tmp_path, "bench.json", means(**others)))
    (point,) = rows.points
    assert (point.users, point.rate_rps) == (users, rate)
    assert (point.input_tokens, point.output_tokens, rows.failed) == (1000, 101, 2)
    assert rows.ttft_s[0] == pytest.approx(0.12)
    assert rows.e2e_s[0] == pytest.approx(e2e_s)
    told = [(one.latency, one.percent, one.value_s) for one in point.percentiles]
    assert told == [("ttft", 50.0, 0.1), ("ttft", 99.0, 0.4), ("itl", 99.0, 0.026)]


@pytest.mark.parametrize("rate", ["inf", float("inf")])
def test_requests_that_all_came_at_once_are_as_many_users_who_ask_once(
    tmp_path: Path, rate: object
) -> None:
    """What both tools do unless something else is asked; it was refused."""
    path = write(tmp_path, "bench.json", means(request_rate=rate, max_concurrency=None))
    [rows] = read_logs(path)
    assert (rows.points[0].users, rows.points[0].requests) == (198, 198)
    with_lengths = without(vllm(), "start_times") | {"request_rate": rate}
    [rows] = read_logs(write(tmp_path, "log.json", with_lengths))
    assert rows.queued_s.tolist() == [0.0] * 3
    assert sorted(rows.input_tokens.tolist()) == [50, 70, 100]


@pytest.mark.parametrize("others", [{"completed": 9000}, {"request_rate": None}])
def test_a_load_that_nobody_can_tell_is_refused(tmp_path: Path, others: dict[str, Any]) -> None:
    """More requests at once than a point is simulated with, or no word of how they were sent."""
    path = write(tmp_path, "bench.json", means(max_concurrency=None, **others))
    with pytest.raises(SpecError, match=r"/bench.json: expected a request_rate or a max_conc"):
        read_logs(path)


def test_the_points_of_several_files_make_one_table() -> None:
    """A sweep is a summary a load, each in its own folder; logs of requests stay apart."""
    logs = Path(__file__).parent / "logs"
    names = ("genai-perf-0.0.16.json", "vllm-0.33.json", "genai-perf-0.0.16.json")
    read = [rows for name in names for rows in read_logs(logs / name)]
    apart, together = with_points_together(read)
    assert len(apart) == 12
    assert not apart.points
    assert len(together) == len(together.points) == 2
    assert together.e2e_s.tolist() == [read[0].e2e_s[0]] * 2


@pytest.mark.parametrize(
    ("config", "load"),
    [
        ({"perf_analyzer": {"stimulus": {"concurrency": 16}}}, (None, 16)),
        ({"loadgen": {"concurrency": 8, "request_rate": None}}, (None, 8)),
        ({"concurrency": None, "request_rate": 4.5}, (4.5, None)),
        ({"analyze": {"sweep_parameters": {"concurrency": {"min": 1, "max": 9}}}}, (3.0, None)),
    ],
)
def test_the_load_of_a_summary_is_what_was_configured(
    tmp_path: Path, config: object, load: tuple[float | None, int | None]
) -> None:
    """GenAI-Perf and AIPerf put it in different places; without one the rate is what was served."""
    metric = {"unit": "ms", "avg": 100.0}
    value = {
        "request_throughput": {"unit": "requests/sec", "avg": 3.0},
        "time_to_first_token": metric,
        "request_latency": {"unit": "ms", "avg": 900.0},
        "input_sequence_length": {"unit": "tokens", "avg": 500.0},
        "output_sequence_length": {"unit": "tokens", "avg": 60.0},
        "input_config": config,
    }
    [rows] = read_logs(write(tmp_path, "summary.json", value))
    assert (rows.points[0].rate_rps, rows.points[0].users) == load


def test_requests_of_perf_analyzer_need_the_tokens_of_their_prompts(tmp_path: Path) -> None:
    """It writes texts; without the tokenizer nobody knows how many tokens they are."""
    source = Path(__file__).parent / "logs" / "perf-analyzer.json"
    text = source.read_text().replace("prompt_tokens", "prompt")
    with pytest.raises(SpecError, match="give the summary beside it instead"):
        read_logs(write(tmp_path, "profile_export.json", json.loads(text)))


LOG = "queued_s,input_tokens,output_tokens,first_token_s,last_token_s\n0,100,20,0.05,0.3\n"


def test_a_log_may_be_gzipped_have_a_mark_at_its_begin_or_other_separators(tmp_path: Path) -> None:
    """As spreadsheets and archives write them."""
    path = tmp_path / "log"
    for content in (
        gzip.compress(LOG.encode(), mtime=0),
        LOG.replace("\n", "\r\n").encode("utf-8-sig"),
        LOG.replace(",", ";").encode(),
        LOG.replace(",", "\t").encode(),
    ):
        path.write_bytes(content)
        [rows] = read_logs(path)
        assert (rows.ttft_s[0], rows.e2e_s[0]) == (0.05, 0.3)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"\n\n", "expected a request log, found an empty file"),
        (
            gzip.compress(LOG.encode(), mtime=0)[:-9],
            "expected a request log (text in UTF-8), found",
        ),
        (LOG.replace("0.3", "1e300").encode(), "line 2: expected times of one clock, found 1e+300"),
        (
            b"concurrency,in_tokens,out_tokens,ttft_ms,itl_ms\n1,100,50,0.02,0.008\n",
            "expected times in milliseconds, found 8e-06 s between two tokens at the median",
        ),
    ],
)
def test_odd_files_are_told_in_one_line(tmp_path: Path, content: bytes, found: str) -> None:
    """An empty or a cut file, a figure that no clock shows, and a table in seconds."""
    path = tmp_path / "log"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        read_logs(path)
    assert found in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_log_in_seconds_is_not_read_as_milliseconds_because_it_was_asked_for(
    tmp_path: Path,
) -> None:
    """12 µs a token is what no server does."""
    path = tmp_path / "log.csv"
    path.write_text(LOG)
    with pytest.raises(SpecError, match=r"expected times in ms, found 1\.32e-05 s between"):
        read_logs(path, time_unit="ms")


def sampled(**others: object) -> dict[str, Any]:
    """Return a report of GuideLLM that keeps three of a hundred requests, with the metrics of all
    of them, as 0.4 wrote it unless it was told otherwise.
    """
    metrics = {
        "request_totals": {"successful": 100, "errored": 2, "incomplete": 1, "total": 103},
        "requests_per_second": {"successful": {"mean": 1.9}},
        "request_latency": {"successful": {"mean": 1.0, "percentiles": {"p50": 0.9, "p01": 0.1}}},
        "prompt_token_count": {"successful": {"mean": 100.0}},
        "output_token_count": {"successful": {"mean": 20.0}},
        "time_to_first_token_ms": {"successful": {"mean": 50.0, "percentiles": {"p95": 80.0}}},
    }
    [benchmark] = guidellm()["benchmarks"]
    return {"benchmarks": [benchmark | {"metrics": metrics} | others]}


@pytest.mark.parametrize(
    ("strategy", "load"),
    [
        ({"type_": "constant", "rate": 2.0}, (2.0, None, True)),
        ({"type_": "poisson", "rate": 2.0}, (2.0, None, False)),
        ({"type_": "concurrent", "streams": 4, "max_concurrency": 4}, (None, 4, False)),
        ({"type_": "throughput", "max_concurrency": 512}, (None, 512, False)),
        ({"type_": "synchronous"}, (None, 1, False)),
        ({}, (1.9, None, False)),
    ],
)
@pytest.mark.parametrize("place", ["config", "args"])
def test_a_report_that_keeps_some_of_its_requests_is_an_operating_point(
    tmp_path: Path, place: str, strategy: dict[str, Any], load: object
) -> None:
    """A replay of the three that are kept would be of a thirtieth of the load."""
    report = sampled(**{place: {"strategy": strategy}})
    [rows] = read_logs(write(tmp_path, "guidellm.json", report))
    [point] = rows.points
    assert (point.rate_rps, point.users, point.is_even) == load
    assert (point.input_tokens, point.output_tokens, rows.failed) == (100, 20, 3)
    assert (rows.ttft_s[0], rows.e2e_s[0]) == pytest.approx((0.05, 1.0))
    told = [(one.latency, one.percent, one.value_s) for one in point.percentiles]
    assert told == [("ttft", 95.0, pytest.approx(0.08)), ("e2e", 50.0, 0.9)]


@pytest.mark.parametrize(
    ("limit", "reached", "load"),
    [(64, 1.9, (2.0, None)), (64, 1.0, (None, 64)), (None, 1.0, (2.0, None))],
)
def test_where_a_rate_was_not_kept_up_the_limit_on_users_set_the_load(
    tmp_path: Path, limit: int | None, reached: float, load: object
) -> None:
    """As in a result of vLLM: half the rate would be an overload taken for a steady state."""
    strategy = {"type_": "constant", "rate": 2.0, "max_concurrency": limit}
    report = sampled(config={"strategy": strategy})
    report["benchmarks"][0]["metrics"]["requests_per_second"]["successful"]["mean"] = reached
    [rows] = read_logs(write(tmp_path, "guidellm.json", report))
    assert (rows.points[0].rate_rps, rows.points[0].users) == load
    told = [line for line in left_out([rows]) if "an overload?" in line]
    assert len(told) == (limit is None)


def places_in(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container in *node* with each of its keys."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from places_in(node[key])


@pytest.mark.costly
@pytest.mark.parametrize(
    "report",
    [
        guidellm(),
        sampled(config={"strategy": {"type_": "constant", "rate": 2.0, "max_concurrency": 9}}),
        sampled(args={"strategy": {"type_": "concurrent", "streams": 4}}),
    ],
)
def test_a_report_with_anything_in_any_place_is_read_or_refused(
    tmp_path: Path, report: dict[str, Any]
) -> None:
    """Several malformed places were tracebacks: a config that is a list, 3 requests in no list."""
    refusals = []
    for holder, key in list(places_in(report)):
        before = holder[key]
        for wrong in ([], [1], "x", "", 3, -1, 0, 10**400, True, None, {}, {"x": 1}):
            holder[key] = wrong
            try:
                read_logs(write(tmp_path, "guidellm.json", report))
            except SpecError as error:
                refusals.append(str(error))
        holder[key] = before
    assert refusals
    assert not any("\n" in line for line in refusals)


def test_a_report_may_hold_no_requests_at_all(tmp_path: Path) -> None:
    """Its means are those of all of them."""
    report = sampled(requests=None, config={"strategy": {"type_": "synchronous"}})
    [rows] = read_logs(write(tmp_path, "guidellm.json", report))
    assert rows.points[0].users == 1


def test_runs_may_stand_in_a_list(tmp_path: Path) -> None:
    """As `jq --slurp` makes it of several files."""
    read = read_logs(write(tmp_path, "all.json", [vllm(), vllm()]))
    assert [len(rows) for rows in read] == [3, 3]
    assert len(read_logs(write(tmp_path, "all.json", [guidellm(), guidellm()]))) == 2
    lines = [json.loads(line) for line in aiperf().splitlines()]
    assert [len(rows) for rows in read_logs(write(tmp_path, "all.json", lines))] == [3]


def test_a_run_of_aiperf_may_go_on_past_any_instant(tmp_path: Path) -> None:
    """Nanoseconds were cut to those of a stretch of 28 hours, and what came after its end was
    before what came before it.
    """
    lines = [json.loads(line) for line in aiperf().splitlines()]
    for line, start_s in zip(lines[1:4], (99_999.0, 100_000.0, 100_001.5), strict=True):
        line["metadata"]["request_start_ns"] = 1_790_000 * 10**12 + round(start_s * 1e9)
    text = "\n".join(map(json.dumps, lines))
    [rows] = read_logs(write(tmp_path, "profile_export.jsonl", text))
    assert rows.queued_s.tolist() == pytest.approx([0.0, 1.0, 2.5])


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"time_to_first_token": 250.0}, "time_to_first_token: expected a value with its unit"),
        ({"input_sequence_length": 7}, "input_sequence_length: expected a value with its unit"),
    ],
)
def test_metrics_of_another_form_are_told(
    tmp_path: Path, change: dict[str, object], found: str
) -> None:
    """Plain numbers have no unit."""
    line = json.loads(aiperf().splitlines()[1])
    line["metrics"] |= change
    with pytest.raises(SpecError, match=rf"/log.jsonl: request 1: {found}, found an? "):
        read_logs(write(tmp_path, "log.jsonl", json.dumps(line)))


def test_a_record_without_its_start_is_told(tmp_path: Path) -> None:
    """Nobody knows what ran beside it."""
    line = json.loads(aiperf().splitlines()[1])
    del line["metadata"]["request_start_ns"]
    with pytest.raises(SpecError, match=r"request 1: expected its start in whole nanoseconds"):
        read_logs(write(tmp_path, "log.jsonl", json.dumps(line)))


def test_answers_that_came_at_once_are_told(tmp_path: Path) -> None:
    """Without streaming there are no times of tokens; the unit is not what is wrong."""
    with pytest.raises(SpecError, match=r"found all of an answer at once: write .* streaming on"):
        read_logs(write(tmp_path, "log.json", vllm() | {"itls": [[]] * 4}))


@pytest.mark.parametrize("mark", [";", "\t", '","'])
def test_a_table_of_points_has_the_separators_of_a_log(tmp_path: Path, mark: str) -> None:
    """Spreadsheets write them as they like."""
    table = ["rate_rps,in_tokens,out_tokens,ttft_ms,itl_ms", "1,100,50,30,8", "2,100,50,31,9"]
    lines = [line.replace(",", mark) for line in table]
    text = "\r\n".join(f'"{line}"' if '"' in mark else line for line in lines)
    [rows] = read_logs(write(tmp_path, "points.csv", text))
    assert [point.rate_rps for point in rows.points] == [1.0, 2.0]


@pytest.mark.parametrize("name", first(1, sorted(path.name for path in LOGS.glob("*.json*"))))
def test_whatever_is_wrong_in_a_log_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    """Logs are cut, merged and edited; 40 of them in which values are others, or gone."""
    text = (LOGS / name).read_text(encoding="utf-8")
    is_lines = name.endswith(".jsonl")
    document = [json.loads(line) for line in text.splitlines()] if is_lines else json.loads(text)
    rng = Random(name)
    for _ in range(40):
        wrong = mutated(document, rng)
        path = write(tmp_path, name, "\n".join(map(json.dumps, wrong)) if is_lines else wrong)
        logs, told = [], ""
        try:
            logs = read_logs(path)
        except SpecError as error:
            told = str(error)
        assert "\n" not in told
        for rows in logs:
            assert np.isfinite([rows.queued_s, rows.first_token_s, rows.last_token_s]).all()
            assert (rows.first_token_s >= rows.queued_s).all()
            assert (rows.output_tokens >= 1).all()


def guidellm_row() -> dict[str, Any]:
    """Return the first row of a table of GuideLLM."""
    table = json.loads((LOGS / "guidellm-0.3-table.json").read_text(encoding="utf-8"))
    return {**table[0], "Name": "GuideLLM"}


def summary_of(config: dict[str, object]) -> dict[str, object]:
    """Return a summary of GenAI-Perf for what was asked for by *config*."""
    return {
        "time_to_first_token": {"unit": "ms", "avg": 100.0},
        "request_latency": {"unit": "ms", "avg": 900.0},
        "output_sequence_length": {"avg": 60.0},
        "input_sequence_length": {"avg": 500.0},
        "input_config": config,
    }


def huge_figures() -> dict[str, tuple[object, str]]:
    """Return logs with a number beyond any float, by what they are, and where it stands."""
    aiperf_line = json.loads(aiperf().splitlines()[1])
    aiperf_line["metadata"]["request_start_ns"] = 10**400
    later = json.loads(aiperf().splitlines()[2])
    reply = {"response": json.dumps({"choices": [{"delta": {"content": "a"}}]})}
    sent = {
        "timestamp": 1,
        "request_inputs": {"input_ids": [1, 2]},
        "response_timestamps": [10**9, 10**400],
        "response_outputs": [reply, reply],
    }
    means: dict[str, object] = {
        "completed": 10,
        "total_input_tokens": 100,
        "total_output_tokens": 100,
    }
    means |= {"duration": 5.0, "mean_ttft_ms": 10.0, "mean_tpot_ms": 10.0, "mean_e2el_ms": 100.0}
    return {
        "AIPerf": (f"{json.dumps(later)}\n{json.dumps(aiperf_line)}", "request 2: nanoseconds"),
        "perf_analyzer": (
            {"experiments": [{"requests": [sent]}]},
            "experiment 1: request 1: nanoseconds",
        ),
        "bench serve": (means | {"request_rate": 10**400}, "request_rate"),
        "bench serve, users": (means | {"max_concurrency": 10**400}, "max_concurrency"),
        "table of GuideLLM": (
            [guidellm_row() | {"Successful Requests": 10**400}],
            "GuideLLM: Successful Requests",
        ),
        "GenAI-Perf": (summary_of({"concurrency": 1e400}), "input_config: concurrency"),
    }


@pytest.mark.parametrize("kind", huge_figures())
def test_a_number_beyond_all_bounds_is_told_in_one_line(tmp_path: Path, kind: str) -> None:
    """They ended in a traceback."""
    log, place = huge_figures()[kind]
    with pytest.raises(SpecError, match=rf"/log.json: {place}: expected a number, found '"):
        read_logs(write(tmp_path, "log.json", log))


def test_a_percentile_beyond_all_bounds_is_left_out(tmp_path: Path) -> None:
    """It ended in a traceback."""
    row = guidellm_row()
    [name] = [one for one in row if one.startswith("Successful Request latency [")]
    row[name] = str([10**400] * 11)
    [rows] = read_logs(write(tmp_path, "table.json", [row]))
    assert {one.latency for one in rows.points[0].percentiles} == {"ttft"}


@pytest.mark.parametrize("header", [list(guidellm_row()), ["rate_rps", "ttft_ms", "e2e_ms"]])
def test_a_table_with_a_field_beyond_all_bounds_is_told_in_one_line(
    tmp_path: Path, header: list[str]
) -> None:
    """It ended in a traceback of the reader of CSV."""
    text = f"{','.join(header)}\n{'x' * 200_000}\n"
    with pytest.raises(SpecError, match=r"/table.csv: line \d: expected CSV, found field larger"):
        read_logs(write(tmp_path, "table.csv", text))


def test_gaps_that_no_generator_can_make_are_a_burst(tmp_path: Path) -> None:
    """All gaps were 0, and the times of the requests no numbers."""
    config = {"request_rate": 2.0, "arrival_pattern": "gamma", "arrival_smoothness": 1e-9}
    [rows] = read_logs(write(tmp_path, "profile.json", summary_of(config)))
    steady = operate(
        rows.points[0],
        latency_model=LatencyModel(alpha_ms=10.0, beta_ms=0.1, gamma_ms=1e-4),
        max_batch=16,
        token_budget=2048,
        requests=50,
    )
    assert 0.0 < steady.ttft_s < steady.e2e_s < math.inf


def test_fewer_than_one_user_are_one(tmp_path: Path) -> None:
    """A stage of 0.4 users was one without any, and its simulation a traceback."""
    stage: dict[str, object] = {"load_summary": {"concurrency": 0.4}, "failures": {"count": 0}}
    means = {"request_latency": {"mean": 2.0}, "time_to_first_token": {"mean": 0.2}}
    counted = {"count": 10, "prompt_len": {"mean": 100.0}, "output_len": {"mean": 50.0}}
    stage["successes"] = {"latency": means, **counted}
    for document in (stage, summary_of({"concurrency": 0.4})):
        [rows] = read_logs(write(tmp_path, "log.json", document))
        assert rows.points[0].users == 1


def test_a_log_that_holds_its_requests_twice_is_told(tmp_path: Path) -> None:
    """Its fit was called good, with half of beta and gamma: each request was replayed beside its
    copy. Those of a batch that come at once may be alike.
    """
    header = "queued_s,input_tokens,output_tokens,first_token_s,last_token_s"
    lines = [f"{place},100,20,{place}.1,{place}.5" for place in range(20)]
    path = tmp_path / "log.csv"

    def said(rows: list[str]) -> list[str]:
        path.write_text("\n".join([header, *rows]) + "\n")
        return list(left_out(read_logs(path)))

    assert said(lines) == []
    [told] = said([*lines, *lines])
    assert told.startswith(f"{path}: 20 of 40 requests are like another in every figure")
    assert said([lines[0]] * 20) == []


def test_a_table_of_one_token_answers_needs_no_time_between_two(tmp_path: Path) -> None:
    """There is none; a zero, or nothing, was refused or counted as a failure."""
    path = tmp_path / "table.csv"
    header = "concurrency,in_tokens,out_tokens,ttft_ms,itl_ms,itl_ms_p99"
    path.write_text(f"{header}\n1,128,1,20,0.0,0\n4,128,1,30,,\n4,128,2,30,,\n")
    [rows] = read_logs(path)
    assert (len(rows), rows.failed) == (2, 1)
    assert rows.e2e_s.tolist() == rows.ttft_s.tolist() == [0.02, 0.03]
    assert not any(point.percentiles for point in rows.points)


def test_a_stage_of_inference_perf_is_an_operating_point() -> None:
    """As its authors have published one. Its times per token are half of what they were, as each
    piece was counted twice: they are left alone.
    """
    [rows] = read_logs(LOGS / "inference-perf-2025-stage.json")
    [point] = rows.points
    assert point.rate_rps == pytest.approx(11.0, abs=0.01)
    assert (point.users, point.requests, rows.failed) == (None, 660, 0)
    assert point.input_tokens == pytest.approx(213.2, abs=0.1)
    assert rows.ttft_s[0] == pytest.approx(0.07228, abs=1e-5)
    assert (rows.e2e_s[0] - rows.ttft_s[0]) / 205.3 == pytest.approx(0.0242, abs=1e-4)
    assert {one.latency for one in point.percentiles} == {"ttft", "e2e"}


def test_a_client_of_inference_perf_that_did_not_keep_up_is_told(tmp_path: Path) -> None:
    """Of 129.8 requests/s that were asked for 39.3 were sent: its workers waited for answers."""
    stage = json.loads((LOGS / "inference-perf-2025-stage.json").read_text(encoding="utf-8"))
    stage["load_summary"] |= {"requested_rate": 129.78, "achieved_rate": 39.342}
    [rows] = read_logs(write(tmp_path, "stage.json", stage))
    assert rows.points[0].rate_rps == 39.342
    assert any("39.3 requests/s were sent where 130 were asked for" in one for one in rows.notes)


def test_a_stage_of_inference_perf_with_users_has_their_number() -> None:
    """Written by inference-perf 0.7, which tells a rate besides; one of twelve failed."""
    [rows] = read_logs(LOGS / "inference-perf-0.7-stage.json")
    [point] = rows.points
    assert (point.rate_rps, point.users, point.requests, rows.failed) == (None, 4, 11, 1)


def test_requests_of_inference_perf_are_read_one_by_one() -> None:
    """Written by inference-perf 0.7: tokens as the server has counted them, where it told."""
    [rows] = read_logs(LOGS / "inference-perf-0.7-requests.json")
    assert (len(rows), rows.failed, rows.place) == (11, 1, "request")
    assert rows.ttft_s[0] == pytest.approx(0.04235, abs=1e-5)
    assert rows.input_tokens[:2].tolist() == [117, 76]
    assert rows.output_tokens[0] == 7


def test_requests_of_an_older_inference_perf_are_read_too(tmp_path: Path) -> None:
    """Until 0.5 what is of the answer stood in the info itself."""
    times = [10.5 + 0.02 * place for place in range(6)]
    info = {"input_tokens": 90, "output_tokens": 6, "output_token_times": times}
    request = {"start_time": 10.0, "end_time": 10.7, "request": "{}", "response": None}
    [rows] = read_logs(write(tmp_path, "log.json", [request | {"info": info, "error": None}]))
    assert (rows.input_tokens[0], rows.output_tokens[0]) == (90, 6)
    assert rows.ttft_s[0] == pytest.approx(0.5)


def test_a_summary_over_all_stages_is_refused(tmp_path: Path) -> None:
    """Of several loads there is no mean that a server had."""
    stage = json.loads((LOGS / "inference-perf-2025-stage.json").read_text(encoding="utf-8"))
    stage["load_summary"] = {"count": 660}
    with pytest.raises(SpecError, match="expected a requested_rate or a concurrency"):
        read_logs(write(tmp_path, "summary.json", stage))


def test_a_summary_of_llmperf_is_an_operating_point(tmp_path: Path) -> None:
    """Its inter-token latency is that of all tokens, the first as well: E2E is what counts."""
    quantiles = {f"results_ttft_s_quantiles_p{each}": 0.5 for each in (25, 50, 90, 99)}
    document = quantiles | {
        "version": "2023-08-31",
        "mean_input_tokens": 550,
        "num_concurrent_requests": 5,
        "results_ttft_s_mean": 0.58,
        "results_inter_token_latency_s_mean": 0.0134,
        "results_end_to_end_latency_s_mean": 2.32,
        "results_number_input_tokens_mean": 550.0,
        "results_number_output_tokens_mean": 172.4,
        "results_number_errors": 2,
        "results_num_completed_requests": 150,
    }
    [rows] = read_logs(write(tmp_path, "summary.json", document))
    [point] = rows.points
    assert (point.users, point.requests, rows.failed) == (5, 150, 2)
    assert (rows.ttft_s[0], rows.e2e_s[0]) == (0.58, 2.32)
    assert [one.percent for one in point.percentiles] == [50.0, 90.0, 99.0]
    # Times of a load of such prompts were negative.
    document["results_number_input_tokens_mean"] = 1e308
    with pytest.raises(SpecError, match=r"tokens of a prompt: expected 0\.\.1000000000, found 1e"):
        read_logs(write(tmp_path, "summary.json", document))


def test_tokens_of_a_step_are_those_that_the_file_tells(tmp_path: Path) -> None:
    """vLLM and SGLang tell how many tokens a step of speculative decoding made: without that the
    steps of an engine were three times too short.
    """
    names = ("spec_decode_acceptance_length", "accept_length")
    logs = [
        rows
        for place, name in enumerate(names)
        for rows in read_logs(write(tmp_path, "log.json", means() | {name: 3.0 + 0.2 * place}))
    ]
    assert tokens_per_step(logs) == pytest.approx(3.1)
    assert tokens_per_step(read_logs(write(tmp_path, "log.json", means()))) == 1.0
    other = read_logs(write(tmp_path, "log.json", means() | {"accept_length": 1.8}))
    with pytest.raises(SpecError, match=r"found 1\.8 to 3\.2: fit them apart"):
        tokens_per_step([*logs, *other])


def test_how_requests_follow_each_other_is_what_the_file_tells(tmp_path: Path) -> None:
    """vLLM and AIPerf send bursts or even gaps if they are asked to: both were read as random."""
    at_a_rate = means(request_rate=4.0, max_concurrency=None)
    [rows] = read_logs(write(tmp_path, "log.json", at_a_rate | {"burstiness": 0.2}))
    assert (rows.points[0].burstiness, rows.points[0].is_even) == (0.2, False)
    with pytest.raises(SpecError, match=r"burstiness: expected a number > 0, found 0"):
        read_logs(write(tmp_path, "log.json", at_a_rate | {"burstiness": 0.0}))
    document = json.loads((LOGS / "aiperf-0.13-summary-rate.json").read_text(encoding="utf-8"))
    phase = document["input_config"]["phases"][1]
    for others, wanted in (
        ({"type": "poisson"}, (False, 1.0)),
        ({"type": "gamma", "smoothness": 3.0}, (False, 3.0)),
        ({"type": "constant"}, (True, 1.0)),
    ):
        phase.update(others)
        [rows] = read_logs(write(tmp_path, "log.json", document))
        assert (rows.points[0].is_even, rows.points[0].burstiness) == wanted


def test_the_means_of_a_ramp_are_refused(tmp_path: Path) -> None:
    """They are of no rate; the one that is told besides was taken for it."""
    ramp = {"ramp_up_strategy": "linear", "ramp_up_start_rps": 1, "ramp_up_end_rps": 9}
    with pytest.raises(SpecError, match="expected a steady load, found a ramp"):
        read_logs(write(tmp_path, "log.json", means(request_rate=4.0, max_concurrency=None) | ramp))


def test_a_mean_in_flight_is_no_number_of_users(tmp_path: Path) -> None:
    """GuideLLM's tables have 8.57 where 2.6 requests/s were sent: nine users ask otherwise."""
    text = "concurrency,in_tokens,out_tokens,ttft_ms,itl_ms\n16.0,264,121,80,27\n8.57,264,121,78,27"
    with pytest.raises(
        SpecError, match=r"line 3: concurrency: expected a whole number .* rate_rps"
    ):
        read_logs(write(tmp_path, "points.csv", text))


def test_a_table_of_guidellm_is_operating_points(tmp_path: Path) -> None:
    """As GuideLLM 0.3 wrote one, in CSV or in JSON: nobody else tells these figures of a sweep."""
    table = json.loads((LOGS / "guidellm-0.3-table.json").read_text(encoding="utf-8"))
    header = list(table[0])
    with (tmp_path / "benchmarks.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, header, restval="")
        writer.writeheader()
        writer.writerows(table)
    for path in (LOGS / "guidellm-0.3-table.json", tmp_path / "benchmarks.csv"):
        one, many = read_logs(path)
        assert (one.points[0].users, one.points[0].requests, one.failed) == (1, 812, 1)
        assert one.ttft_s[0] == pytest.approx(0.01375, abs=1e-5)
        assert {each.percent for each in one.points[0].percentiles} == {90.0, 95.0, 99.0}
        [point] = many.points
        assert (point.users, point.is_even, point.duration_s) == (None, True, table[1]["Duration"])
        assert point.rate_rps == pytest.approx(201.2, abs=0.1)


def test_as_much_as_went_is_as_many_users_as_were_in_flight(tmp_path: Path) -> None:
    """GuideLLM's step of full throughput was read as random arrivals at the rate it reached."""
    [row, _] = json.loads((LOGS / "guidellm-0.3-table.json").read_text(encoding="utf-8"))
    row |= {"Args": json.dumps({"strategy": {"type_": "throughput", "max_concurrency": None}})}
    row |= {"Successful Request concurrency mean": 509.66}
    [rows] = read_logs(write(tmp_path, "table.json", [row]))
    assert (rows.points[0].rate_rps, rows.points[0].users) == (None, 510)


def test_a_step_of_guidellm_is_as_long_as_it_was(tmp_path: Path) -> None:
    """GuideLLM 0.5 tells when it began to count: of a minute's step a full server was simulated."""
    times = {"request_start_time": 100.0, "measure_start_time": 106.0, "measure_end_time": 154.0}
    strategy = {"config": {"strategy": {"type_": "constant", "rate": 2.0}}}
    for others, wanted in (
        ({}, (6.0, 54.0)),
        ({"measure_start_time": None}, (0.0, None)),
        ({"measure_end_time": 1.0}, (0.0, None)),
    ):
        report = sampled(**strategy, scheduler_metrics=times | others)
        [rows] = read_logs(write(tmp_path, "guidellm.json", report))
        assert (rows.points[0].settle_s, rows.points[0].duration_s) == wanted
