"""Claims about inferno check, tune, stability and study: the questions beside a comparison."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from experiments.config import SAMPLE_DATA, RunConfig
from experiments.executor import LocalProcesses
from experiments.grid import SweepConfig
from experiments.lags import PARTS, REMOVABLE, lag_budget
from experiments.regressions import Allowance, regressions
from experiments.stability import stability
from experiments.tune import GRIDS, TuneConfig, candidates, tune
from inferno.cli.main import main
from inferno.cli.study import read_study
from loop.policies import make_policy
from twin.spec import SpecError

pytestmark = pytest.mark.costly

TARGETS = "hpa.target=0.5,0.6"
SHORT = RunConfig(data=SAMPLE_DATA / "small", scenario="step", hours=0.05, seed=3)


def results(**given: tuple[float, float]) -> pd.DataFrame:
    """Return results of two seeds, each policy with its attainment and cost."""
    return pd.DataFrame(
        [
            {
                "scenario": "day",
                "policy": policy,
                "seed": seed,
                "attainment": share,
                "cost_usd_per_h": cost,
            }
            for policy, (share, cost) in given.items()
            for seed in (1, 2)
        ]
    )


@pytest.mark.parametrize(
    ("now", "code"),
    [
        ({"slo": (0.99, 90.0)}, 0),
        ({"slo": (0.987, 90.5)}, 0),
        ({"slo": (0.98, 90.0)}, 1),
        ({"slo": (0.99, 92.0)}, 1),
        ({"hpa": (0.99, 90.0)}, 1),
    ],
)
def test_check_ends_with_1_if_something_got_worse(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    now: dict[str, tuple[float, float]],
    code: int,
) -> None:
    """Attainment lost, cost added, or a policy that is not there: a pull request stops."""
    results(slo=(0.99, 90.0)).to_csv(tmp_path / "stored.csv", index=False)
    results(**now).to_csv(tmp_path / "results.csv", index=False)
    words = ["check", str(tmp_path), "--against", str(tmp_path / "stored.csv")]
    assert main(words) == code
    assert ("WORSE" in capsys.readouterr().out) == bool(code)


def test_an_improvement_is_no_regression() -> None:
    """More attainment at less cost is what pull requests are for."""
    found = regressions(results(slo=(1.0, 80.0)), results(slo=(0.9, 100.0)), allowance=Allowance())
    assert [one.worse for one in found] == [""]
    assert found[0].points == pytest.approx(10.0)
    assert found[0].cost == pytest.approx(-0.2)


def test_runs_of_a_sweep_are_checked_each_against_its_own() -> None:
    """Each alpha was paired with every other, and a loss at one of them made up for by another."""
    calm = results(slo=(0.99, 90.0)).assign(alpha=0.0)
    stored = pd.concat([calm, calm.assign(alpha=0.3, attainment=0.9)])
    (same,) = regressions(stored, stored, allowance=Allowance())
    assert (same.worse, same.pairs) == ("", 4)
    (less,) = regressions(stored.iloc[:3], stored, allowance=Allowance())
    assert less.worse == "1 of 4 runs are missing or failed"


def test_what_is_not_known_any_more_is_worse() -> None:
    """A comparison in which nothing arrives would pass, and so would an empty file."""
    before = results(slo=(0.99, 90.0))
    (found,) = regressions(before.assign(attainment=None), before, allowance=Allowance())
    assert found.worse == "attainment not known"
    (idle,) = regressions(
        before.assign(attainment=None), before.assign(attainment=None), allowance=Allowance()
    )
    assert idle.worse == ""


def test_one_seed_that_is_not_known_any_more_is_worse() -> None:
    """The mean of the others was compared with that of all, and passed."""
    before = results(slo=(0.99, 90.0)).assign(attainment=[0.99, 0.5])
    (found,) = regressions(before.assign(attainment=[0.99, None]), before, allowance=Allowance())
    assert found.worse == "attainment not known"
    # What only one seed knew before is compared with that seed.
    (found,) = regressions(before, before.assign(attainment=[None, 0.6]), allowance=Allowance())
    assert found.worse == "-10.00 points"


def test_runs_under_another_load_are_no_pairs() -> None:
    """Three stored hours passed beside half an hour of now, as the same scenario and seed."""
    now = results(slo=(0.99, 90.0)).assign(hours=0.5, alpha=0.1, period_s=30.0)
    for axis, other in (("hours", 3.0), ("alpha", 0.5)):
        (found,) = regressions(now, now.assign(**{axis: other}), allowance=Allowance())
        now_told = f"{axis} {now[axis][0]}, stored {other}"
        assert found.worse == f"2 of 2 runs are missing or failed ({now_told})"
    # Another period of the policy is what a change may bring.
    (found,) = regressions(now, now.assign(period_s=60.0), allowance=Allowance())
    assert found.worse == ""


@pytest.mark.parametrize(
    ("column", "value", "line"),
    [
        ("attainment", 97.0, "attainment: expected shares of 0 to 1, found 97"),
        (
            "cost_usd_per_h",
            float("inf"),
            "cost_usd_per_h: expected dollars of 0 to 1e12, found inf",
        ),
        ("attainment", "good", "attainment: expected a number, found 'good'"),
        ("seed", "one", "seed: expected a number, found 'one'"),
        ("error", "broke", "stored results: expected runs that finished, found none"),
        ("seed", 1, "expected every run once, found slo under day, seed 1, twice"),
    ],
)
def test_check_tells_results_that_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], column: str, value: object, line: str
) -> None:
    """Edited by hand, or two files as one: "-2 of 2 runs are missing" was said of it."""
    good = results(slo=(0.99, 90.0))
    good.to_csv(tmp_path / "results.csv", index=False)
    first = good[column][0] if column in good else value
    good.assign(**{column: [first, value]}).to_csv(tmp_path / "stored.csv", index=False)
    assert main(["check", str(tmp_path), "--against", str(tmp_path / "stored.csv")]) == 2
    assert line in capsys.readouterr().err


def test_check_tells_that_all_runs_failed_before_they_had_a_walk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names that are empty in one of the files were a traceback about its types."""
    stored = results(slo=(0.99, 90.0)).assign(scenario="7", walk="plain", error="")
    stored.to_csv(tmp_path / "stored.csv", index=False)
    both = pd.concat([stored, stored.assign(scenario="day")])
    both.assign(walk=None, error="broke").to_csv(tmp_path / "results.csv", index=False)
    assert main(["check", str(tmp_path), "--against", str(tmp_path / "stored.csv")]) == 1
    assert "WORSE: 2 of 2 runs are missing or failed" in capsys.readouterr().out
    # A name that looks like a number is a name in both.
    both.to_csv(tmp_path / "results.csv", index=False)
    assert main(["check", str(tmp_path), "--against", str(tmp_path / "stored.csv")]) == 0


def test_every_policy_has_the_same_budget() -> None:
    """A grid of twenty settings may not win by twenty tries."""
    asked = TuneConfig(
        policies=("slo", "hpa"),
        options=(("hpa.target", (0.5, 0.6, 0.75)), ("hpa.tolerance", (0.05, 0.1))),
        budget=3,
    )
    assert len(candidates(asked, "hpa")) == len(candidates(asked, "slo")) == 3
    names = [one.name for one in candidates(asked, "hpa")]
    assert names[0] == "hpa(target=0.5, tolerance=0.05)"
    assert names[-1] == "hpa(target=0.75, tolerance=0.1)"
    for policy, (option, values) in GRIDS.items():
        usual = candidates(TuneConfig(policies=(policy,)), policy)
        assert len(usual) == 5, policy
        for value in values:
            make_policy(policy, **{option: value})


def test_tuned_policies_are_scored_on_seeds_that_they_were_not_tuned_on(tmp_path: Path) -> None:
    """What was found on seed 3 is told of seed 4, beside what is shipped."""
    asked = TuneConfig(
        policies=("slo",),
        loads=SweepConfig(base=SHORT),
        options=(("slo.headroom", (0.0, 0.5)),),
        train_seeds=1,
        budget=2,
    )
    found, chosen = tune(asked, tmp_path, executor=LocalProcesses(jobs=1))
    assert set(found.results["seed"]) == {4}
    scored = [name for name in found.results["policy"] if "start-up" not in name]
    assert scored == ["slo", "slo tuned"]
    assert chosen["slo"]["headroom"] in (0.0, 0.5)
    assert (tmp_path / "tuned.json").exists()


def test_a_setting_that_brings_nothing_leaves_what_is_shipped(tmp_path: Path) -> None:
    """On a calm seed all targets come to the same, and the lowest of them was taken."""
    asked = TuneConfig(
        policies=("static_peak",),
        loads=SweepConfig(base=replace(SHORT, hours=0.02)),
        options=(("static_peak.peak", (0.1, 2.0, 0.2)),),
        train_seeds=1,
    )
    _, chosen = tune(asked, tmp_path, executor=LocalProcesses(jobs=1))
    assert chosen == {"static_peak": {"peak": 2.0}}


def test_stability_has_a_row_for_each_start_up(tmp_path: Path) -> None:
    """Pods that start at once overshoot less than pods that take their time."""
    found = stability(
        SweepConfig(base=SHORT), (0.0, 3.0), tmp_path, executor=LocalProcesses(jobs=1)
    )
    table = found.results
    assert found.failures == []
    assert list(table["start_up"]) == [0.0, 3.0]
    assert {"attainment", "reversals_per_h", "overshoot"} <= set(table.columns)
    assert all(path.exists() for path in found.paths)


def test_the_lag_budget_says_where_the_seconds_go(tmp_path: Path) -> None:
    """The parts are those of one pod, so each is what the world says: at most a scrape and a cycle,
    the start-up of the data, and none where a run is made without it.
    """
    scenario = tmp_path / "step.yaml"
    scenario.write_text(
        "alpha: 0\nload:\n  - shape: {kind: steps, levels: [{t_s: 200, factor: 3}]}\n"
    )
    base = RunConfig(
        data=SHORT.data, scenario=str(scenario), policy="hpa", hours=0.2, period_s=20.0
    )
    found = lag_budget(SweepConfig(base=base), tmp_path / "out", executor=LocalProcesses(jobs=1))
    assert found.failures == []
    assert all(path.exists() for path in found.paths)
    rows = found.results.set_index("without")
    assert list(rows.index) == ["", *REMOVABLE]
    seconds = rows[[f"{part} [s]" for part in PARTS]].astype(float)
    assert (seconds >= 0.0).all().all()
    # The step comes 10 s before a scrape, at which no cycle falls.
    assert seconds.loc["", "scrape [s]"] == pytest.approx(10.0)
    assert seconds.loc["", "tick [s]"] == pytest.approx(10.0)
    assert 40.0 < seconds.loc["", "start-up [s]"] < 110.0
    assert seconds.loc["start-up", "start-up [s]"] < 10.0
    assert seconds.loc["scrape", "scrape [s]"] == pytest.approx(1.0)
    assert seconds.loc["tick", "tick [s]"] <= 5.0


def test_a_study_is_a_list_of_commands(tmp_path: Path) -> None:
    """Its options are those of the commands, lists and all."""
    path = tmp_path / "study.yaml"
    path.write_text(
        "parts:\n"
        "  - {name: days, run: compare, with: {policies: [slo, hpa], seeds: 2,"
        " set: {hpa.target: [0.5, 0.6]}}}\n"
        "  - {run: stability, with: {start_up: [1, 2], dynamic: true}}\n"
    )
    words = ["--policies", "slo,hpa", "--seeds", "2", "--set", "hpa.target=0.5,0.6"]
    assert read_study(path) == [
        ("days", "compare", words),
        ("stability", "stability", ["--start-up", "1,2", "--dynamic"]),
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("{hpa.behavior: true}", ["hpa.behavior=true"]),
        ("{hpa.max_replicas: null, hpa.target: [0.5, 0.6]}", ["hpa.max_replicas=null", TARGETS]),
        ("[hpa.target=0.5, slo.headroom=0.1]", ["hpa.target=0.5", "slo.headroom=0.1"]),
        ("hpa.target=0.5", ["hpa.target=0.5"]),
    ],
)
def test_options_of_policies_in_a_study_are_what_the_command_takes(
    tmp_path: Path, options: str, words: list[str]
) -> None:
    """A true of YAML was "expected true or false, found 'True'"; a list was one option's values."""
    path = tmp_path / "study.yaml"
    path.write_text(f"parts: [{{run: compare, with: {{set: {options}}}}}]\n")
    ((_, _, found),) = read_study(path)
    assert found == [word for option in words for word in ("--set", option)]


def test_a_wrong_option_of_a_later_part_is_told_before_the_first_one_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A study runs for hours."""
    study = tmp_path / "study.yaml"
    study.write_text(
        "parts:\n  - {name: a, run: sim, with: {hours: 0.02}}\n"
        "  - {name: b, run: compare, with: {polices: [hpa]}}\n"
    )
    with pytest.raises(SystemExit, match="2"):
        main(["study", str(study), "--out", str(tmp_path / "out"), "--quiet"])
    assert "did you mean --policies?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "options", "line"),
    [
        ("sim", "policy: hpa, set: {target: -1}", "policy hpa: target: expected"),
        ("sweep", "alpha: [0.1, 7]", "alpha: expected a number within [0, 1], found 7.0"),
        ("compare", "scenario: tsunami", "scenario: expected one of burst, "),
        ("tune", "policies: [hpa, nobody]", "policy: expected one of aibrix, "),
        ("stability", "start_up: -1", "start-up: expected factors of 0 to 1000, found -1"),
    ],
)
def test_a_wrong_value_of_a_later_part_is_told_before_the_first_one_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, options: str, line: str
) -> None:
    """It was when that part began."""
    study = tmp_path / "study.yaml"
    study.write_text(
        f"parts:\n  - {{name: a, run: sim, with: {{hours: 0.02, data: {SAMPLE_DATA / 'small'}}}}}\n"
        f"  - {{name: b, run: {command}, with: {{data: {SAMPLE_DATA / 'small'}, {options}}}}}\n"
    )
    assert main(["study", str(study), "--out", str(tmp_path / "out"), "--quiet"]) == 2
    assert f"inferno study: {study}: part b: {line}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("parts: []", "expected parts"),
        ("parts: [{run: conquer}]", "run: expected one of sim, sweep, compare"),
        ("parts: [{run: sim, name: a/b}]", "a plain name"),
        ("parts: [{run: sim, speed: 9}]", "expected name, run and with"),
        ("parts: [{run: sim}, {run: sim}]", "every name once, found sim twice"),
        ("parts: [", "expected a study in YAML"),
        ("parts: [{run: sim, with: {help: true}}]", "with: expected no help"),
    ],
)
def test_a_wrong_study_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    """Before its first part has run for an hour."""
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=line):
        read_study(path)
