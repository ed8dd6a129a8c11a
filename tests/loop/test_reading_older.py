"""loop.schema.reading on files from before 2025-09: one length a request, no gamma, flat service
classes, slo-ttw.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loop.schema.reading import parse_system, read_system
from loop.spec import SloTarget
from loop.types import Load
from tests.loop.data_files import files, write
from twin.spec import SpecError

FLAT = [
    {"name": "Premium", "model": "small", "priority": 1, "slo-itl": 40, "slo-ttw": 500},
    {"name": "Premium", "model": "large", "priority": 1, "slo-itl": 80, "slo-ttw": 500},
    {"name": "Free", "model": "small", "priority": 3, "slo-tps": 2000},
]


def older() -> dict[str, dict[str, Any]]:
    """Return the minimal system as it was written in the middle of 2025."""
    objects = files()
    for row in objects["model-data.json"]["models"]:
        del row["perfParms"]
        row |= {"alpha": 20.5, "beta": 0.4}
    objects["serviceclass-data.json"] = {"serviceClasses": FLAT}
    for row in objects["server-data.json"]["servers"]:
        row["currentAlloc"]["load"] = {
            "arrivalRate": 30,
            "avgLength": 2048,
            "arrivalCOV": 1.5,
            "serviceCOV": 1.5,
        }
    return objects


def test_an_older_system_is_read(tmp_path: Path) -> None:
    """Users keep their files: what means the same today is read as such."""
    data = read_system(write(tmp_path, older()))
    perf = data.perf["small", "H100"]
    assert (perf.alpha_ms, perf.beta_ms, perf.gamma_ms) == (20.5, 0.4, 0.0)
    assert data.servers["a"].current.load == Load(rate_rpm=30, in_tokens=0, out_tokens=2048)
    assert {name: entry.priority for name, entry in data.classes.items()} == {
        "Premium": 1,
        "Free": 3,
    }
    assert set(data.classes["Premium"].targets) == {"small", "large"}


def test_a_waiting_time_target_also_bounds_the_time_to_first_token(tmp_path: Path) -> None:
    """Waiting is a part of it: dropping the older target would leave the class without any for its
    first token.
    """
    data = read_system(write(tmp_path, older()))
    assert data.target(service_class="Premium", model="small") == SloTarget(
        model="small", slo_itl_ms=40, slo_ttft_ms=500, slo_ttw_ms=500
    )
    objects = files()
    objects["serviceclass-data.json"]["serviceClasses"][0]["modelTargets"][0]["slo-ttw"] = 100
    target = read_system(write(tmp_path, objects)).target(service_class="Premium", model="small")
    assert target is not None
    assert (target.slo_ttft_ms, target.slo_ttw_ms) == (500, 100)


def test_a_length_under_its_label_name_is_read_too(tmp_path: Path) -> None:
    """The label of Deployments is inferno.server.load.numtokens."""
    objects = files()
    objects["server-data.json"]["servers"][0]["currentAlloc"]["load"] = {
        "arrivalRate": 30,
        "numTokens": 1024,
    }
    data = read_system(write(tmp_path, objects))
    assert data.servers["a"].current.load == Load(rate_rpm=30, in_tokens=0, out_tokens=1024)


def test_older_variation_figures_are_told_not_to_count(tmp_path: Path) -> None:
    """They changed nothing in the older optimizer either, but a user may think that they do."""
    warnings: list[str] = []
    read_system(write(tmp_path, older()), warn=warnings.append)
    place = f"{tmp_path / 'server-data.json'}: servers[0] 'a'"
    assert [line for line in warnings if "COV" in line] == [
        f"{place}: unknown key 'currentAlloc.load.arrivalCOV' is not used (and in 1 more)",
        f"{place}: unknown key 'currentAlloc.load.serviceCOV' is not used (and in 1 more)",
    ]


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (FLAT[0], "model: expected a model that the class has no row for yet, found 'small'"),
        (
            {**FLAT[0], "model": "medium", "priority": 2},
            "priority: expected 1 as in the rows before, found 2",
        ),
    ],
)
def test_flat_rows_that_disagree_are_refused(
    row: dict[str, Any], line: str, tmp_path: Path
) -> None:
    """Of two rows for one class and model, or two priorities, one must be wrong."""
    objects = older()
    objects["serviceclass-data.json"]["serviceClasses"] = [*FLAT, row]
    with pytest.raises(SpecError) as error:
        read_system(write(tmp_path, objects))
    place = f"{tmp_path / 'serviceclass-data.json'}: serviceClasses[3] 'Premium'"
    assert str(error.value) == f"{place}: {line}"


def _systems(shared: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in ("open-optimizer-1.json", "open-optimizer-2.json", "open-early-v0.1.0.json"):
        for case in json.loads((shared / "golden" / name).read_text())["cases"]:
            yield case["id"], case["system"]
    for name in ("open-e2e-control-loop-early.json", "open-e2e-control-loop-late.json"):
        for step in json.loads((shared / "golden" / name).read_text()):
            if str(step[0]).startswith("optimizer POST"):
                yield name, step[2]["system"]
    for steps in json.loads((shared / "golden" / "open-rest-transcript.json").read_text()).values():
        for step in steps if isinstance(steps, list) else ():
            if step["path"] == "/optimizeOne" and isinstance(step["body"], dict):
                yield step["path"], step["body"].get("system", {})


@pytest.mark.slow
def test_every_recorded_system_of_the_existing_tools_is_read(shared: Path) -> None:
    """We stand in for those tools: what they were seen to take, we take, odd data included."""
    count = 0
    for name, system in _systems(shared):
        data = parse_system({"system": system}, source=name, level="go")
        rows = system.get("serverData", {}).get("servers", [])
        assert list(data.servers) == [row["name"] for row in rows], name
        for row in rows:
            load = row["currentAlloc"]["load"]
            read = data.servers[row["name"]].current.load
            assert read is not None
            assert read.rate_rpm == load["arrivalRate"]
            keys = {key.lower(): value for key, value in load.items()}
            assert read.out_tokens == keys.get("avgouttokens", keys.get("avglength"))
        count += 1
    assert count > 150
