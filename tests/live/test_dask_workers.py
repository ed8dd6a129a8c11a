"""Runs on a Dask cluster, with a real scheduler and workers in processes of their own: the same
numbers as on this machine, whatever happens to a worker.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest

from experiments.config import SAMPLE_DATA, RunConfig
from experiments.executor import LocalProcesses
from experiments.grid import SweepConfig
from experiments.sweep import sweep_to_directory
from experiments.sweep_rows import TIMINGS
from inferno.cli.main import main
from inferno.executors import make_executor
from tests.experiments.sweep_work import fail_on_seed_two, refuse
from tests.live.dask_cluster import DaskCluster, dask_cluster
from tests.live.dask_work import kill_the_worker_once
from twin.spec import SpecError

pytest.importorskip("distributed", reason="runs on a Dask cluster need the extra `dask`")

BASE = RunConfig(data=SAMPLE_DATA / "small", hours=0.05, interval_s=20.0, policy="static")
FEW = SweepConfig(base=BASE, seeds=4)

SCENARIO = """\
load:
  - Server: Premium-llama_13b
    Trace: {file: ../traces/two.csv, rate: trace, tokens: trace}
  - shape: {kind: burst, factor: 3, start_s: 60, length_s: 30}
"""
TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2024-05-10 00:00:{second:02d}.000000,{100 + second},{20 + second}\n" for second in range(40)
)
POLICY = """\
from dataclasses import dataclass

from loop.policies.static import StaticPolicy


@dataclass(frozen=True)
class Mine(StaticPolicy):
    pass
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[DaskCluster]:
    """Give a scheduler and two workers, started elsewhere than the tests."""
    with dask_cluster(tmp_path_factory.mktemp("dask"), workers=2, code=repository) as one:
        yield one


def lines_of(results: Path) -> str:
    """Return a table as its file has it, without what the machine's speed put there."""
    return pd.read_csv(results, dtype=str).drop(columns=[*TIMINGS]).to_csv()


def test_a_sweep_gives_the_same_table_on_a_cluster_with_files_that_only_the_client_has(
    cluster: DaskCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data, a scenario with a trace, and a policy of one's own, by paths that mean nothing to the
    workers.
    """
    shutil.copytree(SAMPLE_DATA / "small", tmp_path / "mine")
    for name, text in (
        ("scenarios/two.yaml", SCENARIO),
        ("traces/two.csv", TRACE),
        ("mine.py", POLICY),
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    words = ["sweep", "--data", "mine", "--scenario", "scenarios/two.yaml", "--policy"]
    words += ["static,mine.py", "--hours", "0.05", "--seeds", "2", "--quiet"]
    assert main([*words, "--jobs", "1", "--out", "here"]) == 0
    there = ["--executor", "dask", "--scheduler", cluster.address, "--out", "there"]
    assert main([*words, *there]) == 0
    assert lines_of(Path("there/results.csv")) == lines_of(Path("here/results.csv"))


def test_a_policy_that_is_an_object_of_a_module_of_ones_own_reaches_the_workers(
    cluster: DaskCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither they nor the scheduler could import it."""
    package = tmp_path / "of_mine"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "policy.py").write_text(POLICY)
    monkeypatch.syspath_prepend(tmp_path)
    policy = import_module("of_mine.policy").Mine()
    there = make_executor(jobs=None, scheduler=cluster.address)
    grid = SweepConfig(base=replace(BASE, policy=policy), seeds=2)
    found = sweep_to_directory(grid, tmp_path / "out", executor=there).results
    assert found["error"].tolist() == ["", ""]


def test_a_failing_run_is_reported_as_on_this_machine(cluster: DaskCluster, tmp_path: Path) -> None:
    """Its row carries the error, a file the traceback of the worker; a resume makes that one."""
    there = make_executor(jobs=None, scheduler=cluster.address)
    outcome = sweep_to_directory(FEW, tmp_path, executor=there, work=fail_on_seed_two)
    assert outcome.results["error"].tolist() == [
        "",
        "ZeroDivisionError: a bug of two lines",
        "",
        "",
    ]
    assert "sweep_work.py" in outcome.failures[0].read_text()
    assert sweep_to_directory(FEW, tmp_path, executor=there, resume=True).reused == 3


def test_what_is_finished_needs_no_cluster(tmp_path: Path) -> None:
    """A sweep that is resumed only to draw its figures must not fail for want of workers."""
    sweep_to_directory(FEW, tmp_path, executor=LocalProcesses(jobs=1))
    nowhere = make_executor(jobs=None, scheduler="tcp://127.0.0.1:9")
    assert sweep_to_directory(FEW, tmp_path, executor=nowhere, resume=True, work=refuse).reused == 4


def test_a_study_hands_the_cluster_to_its_parts(cluster: DaskCluster, tmp_path: Path) -> None:
    """Comparisons too, whose bound needs the rows of the others."""
    study = tmp_path / "study.yaml"
    study.write_text(
        "parts: [{run: compare, with: {policies: [static, clairvoyant], hours: 0.05, "
        f"data: {SAMPLE_DATA / 'small'}}}}}]\n"
    )
    words = ["study", str(study), "--quiet", "--out"]
    assert main([*words, str(tmp_path / "here")]) == 0
    there = ["--executor", "dask", "--scheduler", cluster.address]
    assert main([*words, str(tmp_path / "there"), *there]) == 0
    here, table = (tmp_path / name / "compare" / "results.csv" for name in ("here", "there"))
    assert lines_of(table) == lines_of(here)


def test_a_worker_with_other_code_is_refused_in_one_line(tmp_path: Path, repository: Path) -> None:
    """Alone, that is an error at once; beside others, these do the work."""
    other = tmp_path / "other"
    for name in ("inferno", "twin", "loop", "emulator", "experiments"):
        shutil.copytree(repository / name, other / name)
    with (other / "twin" / "__init__.py").open("a") as file:
        file.write("# changed\n")
    told: list[str] = []
    with dask_cluster(tmp_path, workers=1, code=other) as cluster:
        there = make_executor(jobs=None, scheduler=cluster.address, tell=told.append)
        await_workers(cluster, 1)
        with pytest.raises(SpecError, match="expected workers that run this code") as error:
            sweep_to_directory(FEW, tmp_path / "out", executor=there)
        assert "\n" not in str(error.value)
        cluster.start_worker(repository)
        await_workers(cluster, 2)
        assert sweep_to_directory(FEW, tmp_path / "out", executor=there).failed == 0
    assert len(told) == 2, told
    assert all("is refused: expected code" in line for line in told)


def test_the_runs_of_a_worker_that_is_killed_are_made_by_another(
    cluster: DaskCluster, tmp_path: Path
) -> None:
    """It dies in the midst of a run; the table is as if nothing had been."""
    told: list[str] = []
    await_workers(cluster, 2)
    there = make_executor(jobs=None, scheduler=cluster.address, tell=told.append)
    out = tmp_path / "out"
    outcome = sweep_to_directory(FEW, out, executor=there, work=kill_the_worker_once)
    assert cluster.mark.exists()
    assert outcome.failed == 0
    assert [line.partition(" is ")[2] for line in told] == ["gone: another one makes its run again"]
    sweep_to_directory(FEW, tmp_path / "local", executor=LocalProcesses(jobs=1))
    assert lines_of(out / "results.csv") == lines_of(tmp_path / "local" / "results.csv")


def test_no_scheduler_is_one_line(tmp_path: Path) -> None:
    """Before anything is simulated."""
    there = replace(make_executor(jobs=None, scheduler="tcp://127.0.0.1:9"), answer_timeout_s=0.5)
    with pytest.raises(SpecError, match="expected a Dask scheduler that answers at") as error:
        sweep_to_directory(FEW, tmp_path, executor=there, work=refuse)
    assert "\n" not in str(error.value)


def await_workers(cluster: DaskCluster, count: int) -> None:
    """Wait until *count* workers have joined."""
    from distributed import Client

    with Client(cluster.address, set_as_default=False) as client:
        client.wait_for_workers(count, timeout=60)
