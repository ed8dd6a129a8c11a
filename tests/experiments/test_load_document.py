"""Claims about docs/load.md: its examples run, and its tables name what exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from emulator.walk import WalkKind
from experiments.scenario import Scenario, known_scenarios, parse_scenario
from twin.arrivals import ArrivalFactory
from twin.testing.arrivals import ArrivalProcessContract


@pytest.fixture(scope="module")
def text(repository: Path) -> str:
    """Return the document."""
    return (repository / "docs" / "load.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_python_example_runs(text: str, capsys: pytest.CaptureFixture[str]):
    """Readers copy it."""
    exec(blocks(text, "python")[1], {})
    assert len(capsys.readouterr().out.splitlines()) == 10


class TestTheProcessOfOnesOwn(ArrivalProcessContract):
    """Readers begin with the process of the page."""

    @pytest.fixture
    def factory(self, text: str) -> ArrivalFactory:
        """Return it as it stands there."""
        names: dict[str, Any] = {}
        exec(blocks(text, "python")[0], names)
        return names["Pairs"]


def test_the_yaml_examples_are_scenarios(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Every shape, the phases and the trace rules are read as they stand."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.py").write_text(blocks(text, "python")[0])
    (tmp_path / "gateway.csv").write_text("at,tokens_in,tokens_out\n0,1,1\n1000,1,1\n")
    (tmp_path / "hour.csv").write_text("arrival_s,input_tokens,output_tokens\n0,1,1\n1,1,1\n")
    rows = "0,s,1,GPT-4,1,1,2,API log\n5,s,1,GPT-4,1,1,2,API log\n"
    header = (
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total "
        "tokens,Log Type\n"
    )
    (tmp_path / "burst.csv").write_text(header + rows)
    rates = "server,t_s,rate_rpm,in_tokens,out_tokens\ns,0,1,1,1\ns,60,1,1,1\n"
    (tmp_path / "load.csv").write_text(rates)
    shapes, traces, measured, own = blocks(text, "yaml")
    for rules in (traces, measured, own):
        parse_scenario(rules, name="doc", source="load.md", base=tmp_path)
    lines = [line for line in shapes.splitlines() if line]
    assert len(lines) == 5
    for rule in lines:
        scenario = parse_scenario(
            yaml.safe_dump({"load": [yaml.safe_load(rule)]}),
            name="doc",
            source="load.md",
            base=tmp_path,
        )
        assert len(scenario.load[0].curve.knots) > 1


def test_the_table_of_ready_scenarios_is_complete(text: str):
    """A scenario that nobody finds is not there."""
    section = text.split("## Ready scenarios")[1].split("\n## ", maxsplit=1)[0]
    assert sorted(re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE)) == list(
        known_scenarios()
    )


def test_the_defaults_in_the_table_are_those_of_the_code(text: str):
    """alpha 0.5, interval 60, one hour, plain walk."""
    values = dict(
        re.findall(r"^\| `(alpha|interval_s|hours|walk)` \| `?(.*?)`? \|", text, re.MULTILINE)
    )
    default = Scenario(name="x")
    kind: WalkKind = default.walk
    assert yaml.safe_load(values["walk"]) == {"kind": kind, "theta": default.theta}
    assert [float(values[key]) for key in ("alpha", "interval_s", "hours")] == [
        default.disturbance_alpha,
        default.interval_s,
        default.hours,
    ]
