"""Requests from memory or from a file, whole or in parts: the same figures to the last bit."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from experiments import RunConfig
from experiments.columns import MINUTE_S, Columns, Window
from experiments.config import SAMPLE_DATA
from experiments.requests import MemoryRequests, Requests, SpooledRequests
from experiments.row_details import details_of
from experiments.run import simulate, simulate_for_figures
from experiments.scores import score_requests
from experiments.scores.minutes import minute_table
from experiments.sources import read_sources
from loop.spec import SloTarget
from tests.parts import first
from twin.request import ROW, Outcome, Request, RequestLog
from twin.spool import Spool, read_whole, write_whole

SERVERS, MINUTES, REQUESTS = 4, 40, 1500
END_S = MINUTES * MINUTE_S - 17.0
WINDOW = Window(start_s=130.0, end_s=END_S)
TARGETS = (
    SloTarget(model="m", slo_ttft_ms=900.0, slo_itl_ms=60.0, slo_tps=100.0),
    None,
    SloTarget(model="m", slo_ttft_ms=900.0),
    SloTarget(model="m", slo_itl_ms=40.0),
)
NAMES = tuple("abcd")


def logged(log: RequestLog, seed: int) -> dict[int, dict[int, int]]:
    """Write requests into *log* as a run would: in the order in which they end, those in flight at
    last. Return the tokens made of these, by server and number.
    """
    rng = np.random.default_rng(seed)
    ends: list[tuple[float, Request, Outcome]] = []
    made: dict[int, dict[int, int]] = {}
    for server, count in enumerate((REQUESTS, 0, REQUESTS // 3, 7)):
        for number, arrival_s in enumerate(np.sort(rng.uniform(0.0, END_S, count)).tolist()):
            request = Request(
                id=number,
                prompt_tokens=int(rng.integers(1, 90)),
                output_tokens=int(rng.integers(1, 90)),
                arrival_s=arrival_s,
            )
            request.server_index = server
            fate = rng.choice(["finished", "finished", "finished", "rejected", "failed", "stuck"])
            request.first_token_s = arrival_s + rng.exponential(0.8)
            end_s = request.first_token_s + rng.exponential(0.05) * (request.output_tokens - 1)
            if fate == "rejected":
                request.first_token_s, end_s = float("nan"), arrival_s
            request.last_token_s = end_s
            outcome = {"rejected": Outcome.REJECTED, "failed": Outcome.FAILED}.get(fate)
            if end_s > END_S or (fate == "stuck" and arrival_s > END_S - 400.0):
                request.generated = int(rng.integers(0, request.output_tokens))
                if request.first_token_s > END_S:
                    request.first_token_s = float("nan")
                made.setdefault(server, {})[number] = request.generated
                outcome, end_s = Outcome.UNFINISHED, END_S
            ends.append((end_s, request, outcome or Outcome.FINISHED))
    for end_s, request, outcome in sorted(ends, key=lambda one: one[0]):
        if outcome == Outcome.FINISHED:
            log.add_finished(request, end_s)
        elif outcome == Outcome.REJECTED:
            log.add_rejected(request, end_s, "queue_full")
        elif outcome == Outcome.FAILED:
            log.add_failed(request, end_s, "crashed")
        else:
            log.add_unfinished(request)
        # As if this was much: parts of a spool are of a few rows here.
        if request.id % 50 == 49:
            log.settle(all_rows=True)
    log.settle(all_rows=True)
    return made


def test_nothing_in_a_file_is_nothing(tmp_path: Path) -> None:
    """A night without a request, or a run of a blink, ends as any other."""
    spool = Spool(tmp_path, ROW)
    RequestLog(spool).settle(all_rows=True)
    assert spool.count(0) == 0
    assert list(spool.parts(0)) == []


def test_rows_that_a_disk_has_no_room_for_are_an_error(tmp_path: Path) -> None:
    """The system writes what fits and says nothing of the rest: percentiles were of what stood in
    memory before.
    """
    rows, (soft, hard) = np.ones(100), resource.getrlimit(resource.RLIMIT_FSIZE)
    with tempfile.TemporaryFile(dir=tmp_path, buffering=0) as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                write_whole(file, rows)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert file.seek(0, os.SEEK_END) == 500
        file.seek(0)
        with pytest.raises(OSError, match="Input/output error"):
            read_whole(file, rows)


@pytest.fixture(params=first(1, range(3)), ids=lambda seed: f"seed {seed}")
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Columns, SpooledRequests]:
    """Return the same requests as columns in memory, and in a file in parts of some 100."""
    spool = Spool(tmp_path, ROW)
    made = logged(RequestLog(spool), request.param)
    spooled = SpooledRequests(
        spool,
        servers=SERVERS,
        made={
            server: (np.array(list(tokens)), np.array(list(tokens.values())))
            for server, tokens in made.items()
        },
        directory=tmp_path,
        block_rows=100,
    )
    log = RequestLog()
    logged(log, request.param)
    columns, _ = log.hand_over()
    generated = np.where(columns["outcome"] == Outcome.FINISHED, columns["output_tokens"], 0)
    for row in np.flatnonzero(columns["outcome"] == Outcome.UNFINISHED).tolist():
        generated[row] = made[int(columns["server"][row])][int(columns["id"][row])]
    return {**columns, "generated": generated}, spooled


def test_a_file_gives_back_what_was_written_in_order(
    both: tuple[Columns, SpooledRequests],
) -> None:
    """By server and number, whatever the order of the ends."""
    columns, spooled = both
    assert list(spooled) == list(columns)
    assert spooled.rows == len(columns["id"])
    for name, column in columns.items():
        assert spooled[name].dtype == column.dtype
        assert spooled[name].tobytes() == column.tobytes(), name


def test_a_large_server_comes_in_whole_minutes(both: tuple[Columns, SpooledRequests]) -> None:
    """No minute is in two parts, else its mean would be the mean of neither."""
    columns, spooled = both
    for requests in (MemoryRequests(columns, block_rows=100), spooled):
        first, *_ = requests.blocks(SERVERS)
        parts = [part["arrival_s"] // MINUTE_S for part in first.parts()]
        assert not first.whole
        assert len(parts) > 5
        assert all(one[-1] < other[0] for one, other in pairwise(parts))


@pytest.mark.costly
def test_parts_give_the_scores_and_the_minutes_of_the_whole(
    both: tuple[Columns, SpooledRequests], tmp_path: Path
) -> None:
    """Sums of floats included, and nothing is left in the directory."""
    columns, spooled = both
    kinds: Mapping[str, Requests] = {
        "whole": MemoryRequests(columns),
        "parts": MemoryRequests(columns, block_rows=100),
        "file": spooled,
    }
    scores = {
        name: str(score_requests(kind, names=NAMES, targets=TARGETS, window=WINDOW))
        for name, kind in kinds.items()
    }
    assert scores["parts"] == scores["whole"]
    assert scores["file"] == scores["whole"]
    whole, parts, file = (minute_table(kind, TARGETS, WINDOW) for kind in kinds.values())
    for item in fields(whole):
        expected = getattr(whole, item.name).tobytes()
        assert getattr(parts, item.name).tobytes() == expected, item.name
        assert getattr(file, item.name).tobytes() == expected, item.name
    assert list(tmp_path.iterdir()) == []


def test_a_long_run_of_a_table_keeps_its_requests_in_a_file() -> None:
    """A comparison of a day took a gigabyte a process; its rows must not differ for it."""
    config = RunConfig(data=SAMPLE_DATA / "small", scenario="disturbed", hours=0.05, engine="plain")
    sources = read_sources(config)
    inside = simulate(sources)
    outside = simulate_for_figures(sources, long_requests=0.0)
    assert isinstance(simulate_for_figures(sources).requests, MemoryRequests)
    assert isinstance(outside.requests, SpooledRequests)
    assert outside.summary == inside.summary
    assert details_of(sources, outside) == details_of(sources, inside)
