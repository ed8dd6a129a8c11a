"""A sweep gives the same numbers however it is run, keeps what is finished, and survives what
fails.
"""

from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from experiments import RunConfig, SweepConfig, run, sweep
from experiments.checked_parquet import read_checked, write_checked
from experiments.config import SAMPLE_DATA
from experiments.executor import LocalProcesses
from experiments.figures import SCREEN, Form
from experiments.sweep import plan, sweep_to_directory
from experiments.sweep_rows import TIMINGS, load_rows, save_row
from inferno.cli.plot import plot_directory
from tests.experiments.sweep_work import InterruptAfter, fail_on_seed_two, refuse
from twin.spec import SpecError

pytestmark = pytest.mark.slow

BASE = RunConfig(data=SAMPLE_DATA / "small", scenario="disturbed", hours=0.05, interval_s=20.0)
GRID = SweepConfig(
    base=BASE, policies=("slo", "static"), alphas=(0.1, 0.5), periods_s=(30.0, 60.0), seeds=2
)
FEW = SweepConfig(base=BASE, seeds=3)
ONE_PROCESS = LocalProcesses(jobs=1)


@pytest.fixture(scope="module")
def printed() -> io.StringIO:
    """Return what the grid prints."""
    return io.StringIO()


@pytest.fixture(scope="module")
def swept(
    printed: io.StringIO, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pd.DataFrame, Path]:
    """Run the grid once, on one process."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    console = Console(file=printed, width=80)
    return sweep(GRID, out, executor=ONE_PROCESS, console=console), out


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path]:
    """Run three seeds once, on one process; who alters the files does so in a copy."""
    out = tmp_path_factory.mktemp("few") / "out"
    return sweep(FEW, out, executor=ONE_PROCESS), out


def numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table without what the machine's speed put there."""
    return frame.drop(columns=[*TIMINGS])


def test_the_grid_is_every_combination_times_the_seeds_in_order() -> None:
    """Cells lie together, seeds innermost: --seeds N means seed … seed + N − 1."""
    runs = SweepConfig(base=replace(BASE, seed=5), alphas=(0.1, 0.5), seeds=2).runs()
    assert [(config.disturbance_alpha, config.seed) for config in runs] == [
        (0.1, 5),
        (0.1, 6),
        (0.5, 5),
        (0.5, 6),
    ]
    assert len(GRID.runs()) == 16


@pytest.mark.parametrize(
    ("bad", "line"),
    [
        ({"seeds": 0}, "seeds: expected a whole number >= 1, found 0"),
        ({"seeds": 10**11}, "seeds: expected at most 100000, found 100000000000"),
        ({"alphas": (0.1, 0.1)}, "alpha: expected every value once, found 0.1 twice"),
    ],
)
def test_a_bad_grid_is_one_clear_line(bad: dict[str, object], line: str) -> None:
    """Twice the same value would count its seeds twice and narrow the interval."""
    with pytest.raises(SpecError, match=line):
        SweepConfig(base=BASE, **bad)  # type: ignore[arg-type]


def test_a_sweep_gives_the_same_numbers_on_one_and_on_two_processes(
    swept: tuple[pd.DataFrame, Path], tmp_path: Path
) -> None:
    """Nothing may depend on which process a run lands on, or after which other."""
    pd.testing.assert_frame_equal(
        numbers(sweep(GRID, tmp_path, executor=LocalProcesses(jobs=2))), numbers(swept[0])
    )


def test_a_row_is_the_summary_of_its_run(swept: tuple[pd.DataFrame, Path]) -> None:
    """The table adds nothing and loses nothing on the way."""
    results, _ = swept
    row = results[
        (results["policy"] == "slo") & (results["alpha"] == 0.5) & (results["period_s"] == 30.0)
    ].iloc[1]
    result = run(replace(BASE, policy="slo", disturbance_alpha=0.5, period_s=30.0, seed=2))
    assert row["run_id"] == result.run_id
    for name, value in result.summary.items():
        if not isinstance(value, dict):
            assert row[name] == pytest.approx(value, rel=0, abs=0), name


def test_the_files_of_a_sweep_hold_its_table(swept: tuple[pd.DataFrame, Path]) -> None:
    """Parquet and CSV alike; every row file can repeat its run."""
    results, out = swept
    pd.testing.assert_frame_equal(pd.read_parquet(out / "results.parquet"), results)
    assert pd.read_csv(out / "results.csv")["attainment"].tolist() == results["attainment"].tolist()
    rows = [json.loads(path.read_text()) for path in (out / "runs").iterdir()]
    assert {row["row"]["run_id"] for row in rows} == set(results["run_id"])
    assert all(row["versions"]["inferno-twin"] and row["config"]["seed"] for row in rows)


def test_policies_of_a_cell_meet_the_same_load(swept: tuple[pd.DataFrame, Path]) -> None:
    """Pairs of equal seeds are what the comparison of policies rests on."""
    results, _ = swept
    offered = results.set_index(["policy", "alpha", "period_s", "seed"])[
        ["requests", "offered_out_tokens"]
    ]
    pd.testing.assert_frame_equal(offered.loc["slo"], offered.loc["static"])


def test_a_resumed_sweep_repeats_nothing(swept: tuple[pd.DataFrame, Path]) -> None:
    """Timings included: the rows are those that were saved."""
    results, out = swept
    again = sweep_to_directory(GRID, out, executor=ONE_PROCESS, resume=True, work=refuse)
    assert again.reused == 16
    pd.testing.assert_frame_equal(again.results, results)


def test_a_changed_grid_reuses_only_the_runs_that_are_the_same(
    swept: tuple[pd.DataFrame, Path], tmp_path: Path
) -> None:
    """Other seeds, settings or data are other runs."""
    shutil.copytree(swept[1], tmp_path / "out")
    wider = SweepConfig(base=BASE, policies=("static",), alphas=(0.1,), periods_s=(30.0,), seeds=3)
    assert (
        sweep_to_directory(wider, tmp_path / "out", executor=ONE_PROCESS, resume=True).reused == 2
    )


def test_an_interrupted_sweep_goes_on_where_it_was(
    few: tuple[pd.DataFrame, Path], tmp_path: Path
) -> None:
    """What was finished is kept; the result is that of a sweep never interrupted."""
    with pytest.raises(KeyboardInterrupt):
        sweep_to_directory(FEW, tmp_path, executor=ONE_PROCESS, work=InterruptAfter(2))
    assert len(list((tmp_path / "runs").glob("*.json"))) == 2
    resumed = sweep_to_directory(FEW, tmp_path, executor=ONE_PROCESS, resume=True)
    assert resumed.reused == 2
    pd.testing.assert_frame_equal(numbers(resumed.results), numbers(few[0]))


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failed_run_is_reported_and_stops_no_other(tmp_path: Path, jobs: int) -> None:
    """Its row carries the error, a file its traceback; the figures show the others; a resume tries
    it again.
    """
    out = io.StringIO()
    outcome = sweep_to_directory(
        FEW,
        tmp_path,
        executor=LocalProcesses(jobs=jobs),
        work=fail_on_seed_two,
        console=Console(file=out, width=200),
    )
    assert outcome.failed == 1
    assert outcome.results["error"].tolist() == ["", "ZeroDivisionError: a bug of two lines", ""]
    assert outcome.results["attainment"].notna().tolist() == [True, False, True]
    assert "sweep_work.py" in outcome.failures[0].read_text()
    assert "failed, ZeroDivisionError: a bug of two lines" in out.getvalue()
    assert (tmp_path / "attainment.png").exists()

    repaired = sweep_to_directory(FEW, tmp_path, executor=ONE_PROCESS, resume=True)
    assert (repaired.reused, repaired.failed) == (2, 0)
    assert list((tmp_path / "failures").iterdir()) == []


def test_a_sweep_in_which_all_fail_still_ends_in_order(tmp_path: Path) -> None:
    """A table of errors and no figures, but no crash over the empty rest."""
    outcome = sweep_to_directory(
        FEW, tmp_path, executor=ONE_PROCESS, work=refuse, console=Console(file=io.StringIO())
    )
    assert outcome.failed == 3
    assert [path.name for path in outcome.paths] == ["results.parquet", "results.csv"]
    again = sweep_to_directory(FEW, tmp_path, executor=ONE_PROCESS, work=refuse, resume=True)
    assert again.failed == 3


@pytest.mark.parametrize("damage", ["cut", "altered", "other", "emptied"])
def test_a_damaged_row_is_told_in_a_line_before_anything_runs(
    few: tuple[pd.DataFrame, Path], tmp_path: Path, damage: str
) -> None:
    """Silently repeating it would hide a failing disk; silently using it would falsify the
    table.
    """
    shutil.copytree(few[1], tmp_path, dirs_exist_ok=True)
    path = sorted((tmp_path / "runs").glob("*.json"))[1]
    text = path.read_text()
    content = {
        "cut": text[: len(text) // 2],
        "altered": text.replace('"finished": ', '"finished": 1'),
        "other": "[1, 2]",
        "emptied": "",
    }
    path.write_text(content[damage])
    with pytest.raises(SpecError, match=path.name) as told:
        sweep_to_directory(FEW, tmp_path, executor=ONE_PROCESS, resume=True, work=refuse)
    assert "\n" not in str(told.value)
    assert str(tmp_path / "runs") in str(told.value)
    assert "delete it to repeat its run" in str(told.value)


def test_a_damaged_table_is_told_in_a_line(few: tuple[pd.DataFrame, Path], tmp_path: Path) -> None:
    """On resume, where it is about to be written anew, and to plot, which needs it."""
    shutil.copytree(few[1], tmp_path, dirs_exist_ok=True)
    (tmp_path / "results.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(SpecError, match=r"results\.parquet"):
        sweep_to_directory(FEW, tmp_path, executor=ONE_PROCESS, resume=True)
    with pytest.raises(SpecError, match=r"results\.parquet"):
        plot_directory(tmp_path, SCREEN)


def test_results_of_another_version_are_told_in_a_line(
    few: tuple[pd.DataFrame, Path], tmp_path: Path
) -> None:
    """What it did not write yet was a traceback, as tables were made of all that had run."""
    shutil.copytree(few[1], tmp_path, dirs_exist_ok=True)
    table, rows, planned = tmp_path / "results.parquet", tmp_path / "runs", plan(FEW)[0]
    row = load_rows(rows, [planned])[planned.run_id]
    save_row(rows, planned, {name: row[name] for name in row if name != "offered_rpm"})
    with pytest.raises(SpecError, match="found no offered_rpm; delete it to repeat its run"):
        load_rows(rows, [planned])
    write_checked(read_checked(table).drop(columns="offered_rpm"), table)
    with pytest.raises(SpecError, match="found no offered_rpm; delete it and repeat the sweep"):
        plot_directory(tmp_path, SCREEN)


def test_an_output_that_cannot_be_written_is_told_before_anything_runs(tmp_path: Path) -> None:
    """A file stands where the directory should be."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SpecError, match="expected a directory that can be written"):
        sweep_to_directory(FEW, tmp_path / "file", executor=ONE_PROCESS, work=refuse)


def test_figures_are_drawn_again_from_the_table_alone_to_the_last_byte(
    swept: tuple[pd.DataFrame, Path],
) -> None:
    """Both maps, and cost against attainment; as SVG if that is asked for."""
    _, out = swept
    stems = ("attainment", "cost", "cost-attainment")
    names = [f"{stem}.png" for stem in stems]
    before = {name: (out / name).read_bytes() for name in names}
    for name in names:
        (out / name).unlink()
    assert sorted(path.name for path in plot_directory(out, SCREEN)) == sorted(names)
    assert {name: (out / name).read_bytes() for name in names} == before
    again = {path.name for path in plot_directory(out, Form(svg=True))}
    assert again == {*names, *(f"{stem}.svg" for stem in stems)}


def test_the_printed_table_says_what_was_offered_and_how_fast(
    swept: tuple[pd.DataFrame, Path], printed: io.StringIO
) -> None:
    """Plain lines off a terminal, then the table with intervals, offered load and requests per CPU
    second.
    """
    results, text = swept[0], printed.getvalue()
    calm = results[results["alpha"] == 0.1]
    assert "16/16 disturbed" in text
    assert f"{calm['offered_rpm'].mean():,.0f}" in text
    assert "reqs/" in text
    assert re.search(r"slo +0.1 +30 +[0-9.]+ \[[0-9.]+, [0-9.]+\]", text)
    assert "difference from slo, in pairs of equal seeds" in text
    assert "…" not in text


def test_the_plan_of_a_sweep_checks_every_run(tmp_path: Path) -> None:
    """The last bad policy of a list must not be found after an hour."""
    with pytest.raises(SpecError, match="oracle"):
        plan(SweepConfig(base=BASE, policies=("static", "oracle")))
    with pytest.raises(SpecError, match="jobs"):
        sweep(FEW, tmp_path, executor=LocalProcesses(jobs=0))
