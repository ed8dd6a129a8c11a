"""Claims about experiments.scores.misses: a miss goes to its first cause, and the points add up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.columns import Window
from experiments.config import SAMPLE_DATA, RunConfig
from experiments.demand import Choice, Demand
from experiments.explain import explain_run, misses_of_directory
from experiments.run_files import run_to_directory
from experiments.scores.cuts import Cuts, add_cuts
from experiments.scores.misses import CAUSES, Misses, explain_misses
from inferno.cli.main import main
from loop.spec import SloTarget
from tests.experiments.request_rows import columns, finished
from tests.experiments.two_servers import write_two_servers
from twin.spec import SpecError

TARGET = SloTarget(model="m", slo_ttft_ms=1000.0)
WINDOW = Window(start_s=0.0, end_s=100.0)
A = Choice(
    accelerator="A",
    type="A",
    gpus=1,
    max_batch=8,
    rate_rps=1.0,
    cost_cents_per_h=100.0,
    lead_s=30.0,
    drain_s=5.0,
)
NAN = float("nan")


def pods(*lives: tuple[float, float, float]) -> dict[str, Any]:
    """Return pods that were asked for, got their GPUs and were ready at these instants."""
    asked, granted, ready = (np.array(part, dtype=float) for part in zip(*lives, strict=True))
    never = np.full(len(lives), NAN)
    return {
        "server": np.zeros(len(lives), dtype=np.int16),
        "accelerator": np.array(["A"] * len(lives), dtype=object),
        "asked_s": asked,
        "granted_s": granted,
        "ready_s": ready,
        "draining_s": never,
        "released_s": never,
    }


def explained(
    work_rps: list[float],
    lives: dict[str, Any],
    *,
    missed_at: float,
    choices: tuple[Choice, ...] = (A,),
    kind: str = "slo-ttft",
    fixed_ms: float = 10.0,
) -> Misses:
    """Return why one request was missed, in ten slots of ten seconds."""
    work = np.array(work_rps)
    one = Demand(server="a", slot_s=10.0, arrivals=work * 10, work_rps=work, choices=choices)
    late = finished(0, missed_at, ttft_s=5.0, itl_s=0.01, out=10)
    good = finished(0, 1.0, ttft_s=0.1, itl_s=0.01, out=10)
    cuts: Cuts = {}
    add_cuts(cuts, {"t_s": 5.0, "servers": [{"name": "a", "reasonKind": kind}]})
    return explain_misses(
        columns([late, good]),
        lives,
        cuts,
        [one],
        targets=[TARGET],
        shortest_ttft_ms={"a": (fixed_ms, 0.0)},
        window=WINDOW,
    )


ONE = (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("cause", "work", "lives", "missed_at"),
    [
        ("pods start", [2.0] * 10, [ONE, (20.0, 22.0, 80.0)], 45.0),
        ("no GPUs", [2.0] * 10, [ONE, (20.0, NAN, NAN)], 45.0),
        ("not yet known", [2.0] * 10, [ONE], 45.0),
        ("not yet known", [2.0] * 10, [ONE, (60.0, 62.0, 90.0)], 45.0),
        ("queue left over", [3.0] * 3 + [0.5] * 7, [ONE], 45.0),
        ("tail", [0.5] * 10, [ONE], 45.0),
    ],
)
def test_a_miss_goes_to_its_first_cause(
    cause: str, work: list[float], lives: list[tuple[float, float, float]], missed_at: float
) -> None:
    """Each of them has another remedy."""
    found = explained(work, pods(*lives), missed_at=missed_at)
    assert dict(zip(CAUSES, found.counts[0].tolist(), strict=True))[cause] == 1
    assert found.counts.sum() == 1
    assert found.attainment == 0.5
    assert found.points.sum() == pytest.approx(50.0)


def test_what_nothing_can_meet_is_infeasible() -> None:
    """A server without a fitting accelerator, and a prompt that no accelerator reads in time."""
    unfit = explained([0.5] * 10, pods(ONE), missed_at=45.0, choices=())
    long = explained([0.5] * 10, pods(ONE), missed_at=45.0, fixed_ms=2000.0)
    for found in (unfit, long):
        assert found.counts[0, CAUSES.index("infeasible")] == 1


def test_a_policy_that_gave_up_for_want_of_gpus_is_not_blamed() -> None:
    """It asks for no more than there are, so no pod is pending."""
    found = explained([2.0] * 10, pods(ONE), missed_at=45.0, kind="capacity")
    assert found.counts[0, CAUSES.index("no GPUs")] == 1


def test_many_runs_are_not_one(tmp_path: Path) -> None:
    """A comparison holds many: it is said where its misses are shown."""
    (tmp_path / "runs").mkdir()
    with pytest.raises(SpecError, match=r"expected one run .*found many; inferno report"):
        explain_run(tmp_path, counterfactuals=False, jobs=None, console=None)


def test_a_run_is_explained_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run names its data, its scenario and its policy as they were called where it was made; from
    elsewhere a report had no reasons, and a policy of one's own was wanted, which decides nothing
    any more.
    """
    made, elsewhere = tmp_path / "made", tmp_path / "elsewhere"
    for folder in (made / "mine", elsewhere):
        folder.mkdir(parents=True)
    write_two_servers(made / "mine")
    shutil.copy(SAMPLE_DATA / "scenarios" / "steady.yaml", made / "mine" / "load.yaml")
    own = made / "own.py"
    own.write_text("from loop.policies.hpa import HpaPolicy\n\n\nclass Own(HpaPolicy):\n    pass\n")
    monkeypatch.chdir(made)
    asked = RunConfig(data=Path("mine"), scenario="mine/load.yaml", policy="own.py:Own", hours=0.02)
    run_to_directory(asked, Path("out/run"))
    _, there = misses_of_directory(Path("out/run"))
    monkeypatch.chdir(elsewhere)
    own.unlink()
    _, here = misses_of_directory(Path("../made/out/run"))
    assert here.names == there.names
    assert here.points.tolist() == there.points.tolist()


@pytest.mark.parametrize(
    ("part", "value", "line"),
    [
        ("config", {"data": "mine"}, "run.json: config: expected what inferno sim wrote, found"),
        ("scored", [], "run.json: scored: expected start_s and end_s within the run, found []"),
        ("scored", {"start_s": 0, "end_s": 1e300}, "within the run, found {"),
    ],
)
def test_a_damaged_run_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str, value: object, line: str
) -> None:
    """It was a traceback, or took the memory of the machine."""
    run_to_directory(RunConfig(data=SAMPLE_DATA / "small", hours=1e-9), tmp_path)
    file = tmp_path / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {part: value}))
    assert main(["explain-misses", str(tmp_path)]) == 2
    assert line in capsys.readouterr().err


def test_without_requests_nobody_knows_the_attainment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was told as 100 %."""
    run_to_directory(RunConfig(data=SAMPLE_DATA / "small", hours=1e-9), tmp_path)
    assert main(["explain-misses", str(tmp_path)]) == 0
    assert "attainment not known: no requests" in capsys.readouterr().out
