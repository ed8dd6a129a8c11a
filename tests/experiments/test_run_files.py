"""The files of a run: complete, strict, enough to draw it again, and damage is told in a line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import RunConfig, run, write_run
from experiments.config import SAMPLE_DATA, config_from_json
from experiments.figures import SCREEN, Form
from experiments.run import RunResult
from experiments.run_files import read_run, run_to_directory
from inferno.cli.plot import plot_directory
from twin.spec import SpecError

CONFIG = RunConfig(
    data=SAMPLE_DATA / "small", scenario="disturbed", hours=0.05, period_s=30.0, interval_s=20.0
)
FILES = {
    "cycles.jsonl",
    "requests.parquet",
    "pods.parquet",
    "summary.json",
    "run.json",
    "timeline.png",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, Path]:
    """Run once and write it."""
    out = tmp_path_factory.mktemp("run") / "out"
    result, paths = run_to_directory(CONFIG, out)
    assert {path.name for path in paths} == FILES
    return result, out


def refuse(name: str) -> float:
    """Stop at what strict JSON does not know."""
    raise AssertionError(f"{name} is not JSON")


@pytest.mark.costly
def test_all_files_are_there_and_nothing_else(written: tuple[RunResult, Path]) -> None:
    """No scratch stays behind."""
    _, out = written
    assert {path.name for path in out.iterdir()} == FILES
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.costly
def test_json_files_are_strict_and_repeat_the_result(written: tuple[RunResult, Path]) -> None:
    """NaN would stop most readers; run.json alone leads to the same run."""
    result, out = written
    summary = json.loads((out / "summary.json").read_text(), parse_constant=refuse)
    assert summary == result.summary
    about = json.loads((out / "run.json").read_text(), parse_constant=refuse)
    assert config_from_json(about["config"]) == result.config
    assert (about["seed"], about["run_id"]) == (1, result.run_id)
    assert about["versions"]["inferno-twin"]
    cycles = [
        json.loads(line, parse_constant=refuse)
        for line in (out / "cycles.jsonl").read_text().splitlines()
    ]
    assert cycles == list(result.cycles)


def test_the_table_of_requests_has_names_and_every_request(written: tuple[RunResult, Path]) -> None:
    """Whoever opens it in pandas should need no code book."""
    result, out = written
    frame = pd.read_parquet(out / "requests.parquet")
    assert len(frame) == result.requests["id"].size
    assert set(frame["server"]) == set(result.names)
    assert set(frame["outcome"]) == {"finished", "unfinished"}
    by_hand = (frame["outcome"] == "finished") & (frame["arrival_s"] >= result.window.start_s)
    assert int(by_hand.sum()) == result.summary["finished"]


@pytest.mark.parametrize("rows", [None, 0])
def test_requests_are_read_as_they_were_in_any_groups(
    written: tuple[RunResult, Path], tmp_path: Path, rows: int | None
) -> None:
    """A day of a large system has hundreds of groups of rows; a run may have no request at all."""
    result, out = written
    for path in out.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    frame = pd.read_parquet(out / "requests.parquet").iloc[:rows]
    frame.to_parquet(tmp_path / "requests.parquet", index=False, row_group_size=7)
    found = read_run(tmp_path).requests
    assert set(found) > {"server", "outcome", "arrival_s"}
    for name in found:
        np.testing.assert_array_equal(found[name], result.requests[name][:rows])


@pytest.mark.slow
def test_figures_are_drawn_again_from_the_files_alone_to_the_last_byte(
    written: tuple[RunResult, Path],
) -> None:
    """Records, not memory, are what a figure shows; equal records give equal files."""
    _, out = written
    before = (out / "timeline.png").read_bytes()
    (out / "timeline.png").unlink()
    assert [path.name for path in plot_directory(out, SCREEN)] == ["timeline.png"]
    assert (out / "timeline.png").read_bytes() == before
    assert [path.name for path in plot_directory(out, Form(svg=True))] == [
        "timeline.png",
        "timeline.svg",
    ]
    (out / "timeline.svg").unlink()


@pytest.mark.slow
def test_a_result_in_memory_can_be_written_later(
    written: tuple[RunResult, Path], tmp_path: Path
) -> None:
    """The notebook runs first and decides then what to keep."""
    _, out = written
    write_run(run(CONFIG), tmp_path / "again")
    assert (tmp_path / "again" / "summary.json").read_bytes() == (out / "summary.json").read_bytes()


def test_a_run_is_written_where_a_name_is_no_text(
    written: tuple[RunResult, Path], tmp_path: Path
) -> None:
    """Arrow opens no such file, which showed at the end of a run, and all of it was lost."""
    result, _ = written
    out = tmp_path / os.fsdecode(b"out\xff")
    write_run(result, out)
    read = read_run(out).requests["arrival_s"]
    assert len(read) == len(result.requests["arrival_s"])


@pytest.mark.parametrize("name", ["requests.parquet", "cycles.jsonl", "run.json", "summary.json"])
@pytest.mark.parametrize("content", [b"", b'{"half', None])
def test_a_missing_or_damaged_file_is_told_in_a_line(
    written: tuple[RunResult, Path], tmp_path: Path, name: str, content: bytes | None
) -> None:
    """Which file, and that it is the file."""
    _, out = written
    for path in out.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(
        SpecError, match="found none of them" if (name, content) == ("run.json", None) else name
    ) as told:
        plot_directory(tmp_path, SCREEN)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("summary.json", '"offered_rpm": ', '"offered_rpm": [], "was": '),
        ("run.json", '"slo_ttft_ms": ', '"slo_ttft_ms": "abc", "was": '),
        ("run.json", '"duration_s": ', '"duration_s": 1e300, "was": '),
    ],
)
def test_figures_that_somebody_edited_are_told_in_a_line(
    written: tuple[RunResult, Path], tmp_path: Path, name: str, old: str, new: str
) -> None:
    """A page ended in a traceback, and a length of ages took all memory."""
    _, out = written
    for path in out.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    text = (tmp_path / name).read_text()
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new, 1))
    with pytest.raises(SpecError, match="expected the files of one run as this version writes"):
        read_run(tmp_path)


def test_bad_input_leaves_no_directory(tmp_path: Path) -> None:
    """Nothing half is written."""
    with pytest.raises(SpecError):
        run_to_directory(RunConfig(data=tmp_path / "nowhere"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
