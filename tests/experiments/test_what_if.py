"""Claims about what-if: changes go into files of their own, both systems meet the same requests,
and the answer is a table, a page and JSON.
"""

from __future__ import annotations

import gzip
import json
import re
import shlex
from base64 import b64decode
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.config import SAMPLE_DATA, RunConfig
from experiments.own_system.changes import changed_files, parse_changes
from experiments.own_system.what_if import scaled_scenario, scenario_of
from experiments.scenario import SCENARIOS, parse_scenario
from inferno.cli.main import main
from twin.spec import SpecError

SMALL = SAMPLE_DATA / "small"
FILES = {path.name: json.loads(path.read_text()) for path in SMALL.glob("*.json")}
Capture = pytest.CaptureFixture[str]


def changed(**options: Any) -> dict[str, Any]:
    return changed_files(FILES, parse_changes(**options), pairs=[("m", "H100")])


def count(files: dict[str, Any], kind: str) -> int:
    return next(row["count"] for row in files["capacity-data.json"]["count"] if row["type"] == kind)


@pytest.mark.parametrize(
    ("text", "left"), [("H100=-4", 6), ("H100=+2", 12), ("H100=3", 3), ("L40S=1,H100=-10", 0)]
)
def test_gpus_are_taken_and_added(text: str, left: int) -> None:
    """By so many, or to so many."""
    assert count(changed(gpus=[text]), "H100") == left
    assert count(FILES, "H100") == 10, "the system as it is stays"


def test_objectives_of_a_class_change_for_all_its_models() -> None:
    """Those that were not set before too."""
    files = changed(slo=["Premium:ttft=300,ttft-p95=900", "Free:itl=50"])
    classes = {row["name"]: row for row in files["serviceclass-data.json"]["serviceClasses"]}
    for entry in classes["Premium"]["modelTargets"]:
        assert (entry["slo-ttft"], entry["slo-ttft-p95"], entry["slo-itl"]) == (300, 900, 30)
    assert classes["Free"]["modelTargets"][0]["slo-itl"] == 50
    assert classes["Bronze"] == FILES["serviceclass-data.json"]["serviceClasses"][1]


def test_every_engine_starts_as_is_said() -> None:
    """Those of which the files say nothing too: their default is 60 s."""
    rows = changed(start_up="30")["twin-data.json"]["engines"]
    assert {row["startUp"]["meanS"] for row in rows} == {30.0}
    assert rows[0]["startUp"]["cv"] == 0.15
    halved = changed(start_up="x0.5")["twin-data.json"]["engines"]
    assert halved[0]["startUp"]["meanS"] == pytest.approx(35.5)
    assert halved[-1] == {"model": "m", "acc": "H100", "startUp": {"meanS": 30.0}}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gpus": ["H100"]}, "gpus: expected TYPE=-4, TYPE=+4 or TYPE=4, found 'H100'"),
        ({"gpus": ["H10=-1"]}, "gpus: expected one of L40S, H100, MI250, found 'H10'; did you"),
        (
            {"gpus": ["H100=-11"]},
            "gpus: H100: expected to take away at most the 10 that there are, found -11",
        ),
        ({"slo": ["Premium:tft=3"]}, "slo: expected CLASS:TARGET=MS"),
        ({"slo": ["Premium:ttft=0"]}, "slo: expected a number > 0"),
        ({"slo": ["premium:ttft=1"]}, "slo: expected one of Premium, Bronze, Free, found"),
        ({"load": "1.5"}, "load: expected a factor such as x1.5, found '1.5'"),
        ({"load": "xnan"}, "load: expected a number > 0"),
        ({"start_up": "-3"}, "start-up: expected a number > 0"),
    ],
)
def test_a_change_that_makes_no_sense_is_one_line(options: dict[str, Any], said: str) -> None:
    """Before anything is simulated."""
    with pytest.raises(SpecError) as told:
        changed(**options)
    assert str(told.value).startswith(said)


@pytest.mark.parametrize("name", sorted(path.stem for path in SCENARIOS.glob("*.yaml")))
def test_every_ready_scenario_can_be_scaled(name: str, tmp_path: Path) -> None:
    """Its files are found from anywhere, and whom no rule selects is scaled too."""
    scenario = parse_scenario(scaled_scenario(name, 1.5), name=name, source="t", base=tmp_path)
    assert [rule.scale for rule in scenario.load][-1] == 1.5
    assert all(rule.scale == 1.5 for rule in scenario.load)


def test_the_load_of_a_system_is_the_one_imported_with_it(tmp_path: Path) -> None:
    """If there is one, and nobody says another."""
    assert scenario_of(tmp_path, None) == RunConfig().scenario
    (tmp_path / "trace.yaml").write_text("alpha: 0\n")
    assert scenario_of(tmp_path, None) == str(tmp_path / "trace.yaml")
    assert scenario_of(tmp_path, "day") == "day"


@pytest.mark.slow
def test_both_systems_meet_the_same_requests_and_the_answer_is_written(
    tmp_path: Path, capsys: Capture
) -> None:
    """A table, what-if.json, and a directory that inferno report shows."""
    out = tmp_path / "out"
    words = ["what-if", str(SMALL), "--scenario", "steady", "--hours", "0.3", "--seeds", "2"]
    assert (
        main([*words, "--policy", "static", "--load", "x1.5", "--jobs", "1", "--out", str(out)])
        == 0
    )
    said = capsys.readouterr().out
    assert "then − now" in said
    cost = r"it would cost (the same|\d+\.\d\d \$/h (more|less))"
    assert re.search(cost + " and change the share", said)
    results = pd.read_csv(out / "results.csv")
    assert results["policy"].tolist() == ["now", "then"] * 2
    assert results["seed"].tolist() == [1, 1, 2, 2]
    offered = results.set_index(["policy", "seed"])["offered_rpm"]
    for seed in (1, 2):
        assert offered["then", seed] == pytest.approx(1.5 * offered["now", seed], rel=0.03)
    answer = json.loads((out / "what-if.json").read_text())
    assert answer["changes"] == ["policy static", "load x1.5"]
    figures = answer["figures"]["attainment"]
    assert figures["difference"]["mean"] == pytest.approx(
        figures["then"]["mean"] - figures["now"]["mean"], abs=1e-9
    )
    (line,) = re.findall("the changed system alone: inferno (.*)", said)
    assert main([*shlex.split(line), "--out", str(tmp_path / "alone"), "--quiet"]) == 0
    alone = json.loads((tmp_path / "alone" / "summary.json").read_text())
    first = results[results["policy"] == "then"].iloc[0]
    for name in ("attainment", "cost_usd_per_h"):
        assert first[name] == pytest.approx(alone[name], rel=1e-9), "what is said is that run"
    assert main(["report", str(out), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    (data,) = re.findall(r'<script type="application/octet-stream" id="data">(.*?)</script>', page)
    assert b"it would cost" in gzip.decompress(b64decode(data))


@pytest.mark.costly
def test_the_command_of_a_policy_with_a_flag_and_a_none_can_be_run(
    tmp_path: Path, capsys: Capture
) -> None:
    """It named them True and None, which --set refuses."""
    words = ["what-if", str(SMALL), "--scenario", "steady", "--hours", "0.02", "--seeds", "1"]
    words += ["--policy", "hpa", "--set", "behavior=true", "--set", "max_replicas=null"]
    words += ["--set", "metric=running", "--set", "target=0.5"]
    assert main([*words, "--jobs", "1", "--out", str(tmp_path / "out")]) == 0
    (line,) = re.findall("the changed system alone: inferno (.*)", capsys.readouterr().out)
    for option in ("behavior=true", "max_replicas=null", "metric=running", "target=0.5"):
        assert f"--set {option}" in line
    assert main([*shlex.split(line), "--out", str(tmp_path / "alone"), "--quiet"]) == 0


def test_without_a_change_there_is_nothing_to_answer(tmp_path: Path, capsys: Capture) -> None:
    """One line, exit code 2."""
    assert main(["what-if", str(SMALL), "--out", str(tmp_path / "out")]) == 2
    assert "inferno what-if: expected a change" in capsys.readouterr().err
