"""docs/data.md against the readers: the fields that it names are read, the defaults that it gives
are in force.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from experiments.world import build_cluster_spec
from loop.schema.reading import read_system
from tests.loop.data_files import files, write
from twin.spec import LatencyModel, SpecError

# A value that is not the default, for every field of twin-data.json.
OTHER: dict[str, dict[str, Any]] = {
    "engines": {
        "kvTokens": 4096,
        "blockSize": 32,
        "maxNumBatchedTokens": 2048,
        "admission": "full_prompt",
        "prefixShare": 0.5,
        "tokensPerStep": 2.5,
        "engine": "twin.engine.replica:Replica",
        "kvCache": "twin.engine.kv_cache:counted",
        "startUp": {"meanS": 90, "cv": 0.1},
        "perfParms": {"alpha": 7, "beta": 0.03, "gamma": 0.001, "a": 1, "w": 5, "p": 1.5}
        | {"expertsMs": 2, "expertsIdle": 0.75, "attention": 3e-5, "sequenceMs": 0.02},
    },
    "servers": {
        "queueMax": 9,
        "router": "random",
        "prefixShare": 0.5,
        "tokenDistribution": "gamma",
        "tokenCv": 0.7,
        "arrivals": "twin.arrivals:Renewal",
        "arrivalCv": 2,
        "crashRatePerHour": 1,
        "crashPolicy": "fail",
        "maxBatchChange": "rolling",
    },
    "world": {
        "scrapeIntervalS": 5,
        "windowS": 30,
        "actuationDelay": {"meanS": 1, "cv": 0.1},
        "schedulingDelay": {"meanS": 1, "cv": 0.1},
        "drainTimeoutS": 60,
    },
}
# What the table says in words, as it stands in the data.
WORDS = {
    "unlimited, said once": "None",
    "no bound": "None",
    "no bound (live: 2,000)": "None",
    "never": "None",
    "that of the engine": "None",
    "60, 0": "Delay(mean_s=60.0, cv=0.0)",
    "0, 0": "Delay(mean_s=0.0, cv=0.0)",
    "that of `model-data.json`": str(LatencyModel(alpha_ms=6.5, beta_ms=0.02, gamma_ms=5e-05)),
}
FIELDS = {
    "perfParms": "latency_model",
    "crashRatePerHour": "crash_rate_per_h",
    "tokenDistribution": "token_distribution",
    "kvTokens": "kv_tokens",
}


@pytest.fixture(scope="module")
def text(repository: Path) -> str:
    """Return the page."""
    return (repository / "docs" / "data.md").read_text()


def rows(text: str, heading: str) -> dict[str, str]:
    """Return the default of each field in the table after the line that begins with *heading*."""
    part = text[text.index(f"\n{heading}") :]
    found: dict[str, str] = {}
    for line in part[part.index("|---|") :].splitlines()[1:]:
        if not line.startswith("|"):
            break
        first, _, default = (cell.strip() for cell in line.strip("|").split("|"))
        for group in re.findall(r"`([^`]+)`", first):
            found[re.sub(r"\{.*\}", "", group)] = default
    return found


def documented(text: str) -> dict[str, dict[str, str]]:
    """Return the fields of twin-data.json and their defaults; rows are named by model, acc and
    name.
    """
    tables = {part: rows(text, f"`{part}`") for part in OTHER}
    shared = tables["servers"].pop("tokenDistribution"), tables["servers"].pop("tokenCv")
    distribution, cv = shared[0].split(", ")
    tables["servers"] |= {"tokenDistribution": distribution, "tokenCv": cv}
    return {
        part: {key: default for key, default in table.items() if default}
        for part, table in tables.items()
    }


def world_of(directory: Path, twin: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """Return engine, server and world of a small system with this twin-data.json, and the notes."""
    write(directory, {**files(), "twin-data.json": twin})
    spec, notes = build_cluster_spec(read_system(directory), directory)
    return {
        "engines": spec.engines["small", "H100"],
        "servers": spec.servers[0],
        "world": spec.world,
    }, notes


def snake(key: str) -> str:
    """Return the name of a field in the data."""
    return FIELDS.get(key, re.sub(r"(?<!^)([A-Z])", r"_\1", key).lower())


def test_every_field_of_the_twin_file_is_documented_and_read(text: str, tmp_path: Path) -> None:
    """A field that the page forgets is not found, one that the reader forgets does nothing."""
    assert {part: set(table) for part, table in documented(text).items()} == {
        part: set(values) for part, values in OTHER.items()
    }
    pairs = [{"model": "small", "acc": acc, **OTHER["engines"]} for acc in ("H100", "2xH100")]
    twin = {
        "engines": pairs,
        "servers": [{"name": "a", **OTHER["servers"]}],
        "world": OTHER["world"],
    }
    changed, notes = world_of(tmp_path, twin)
    plain, _ = world_of(tmp_path, {})
    assert notes == ()
    for part, values in OTHER.items():
        for key in values:
            assert getattr(changed[part], snake(key)) != getattr(plain[part], snake(key)), key


def test_the_documented_defaults_are_in_force(text: str, tmp_path: Path) -> None:
    """The page is where a user looks for what a run assumed."""
    plain, _ = world_of(tmp_path, {})
    for part, table in documented(text).items():
        for key, default in table.items():
            value = getattr(plain[part], snake(key))
            said = WORDS.get(default, default.strip("`"))
            assert said in {str(value), f"{value:g}" if isinstance(value, float) else ""}, key


def test_the_example_runs(text: str, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first thing that a reader tries."""
    block = re.search(
        r"(?:^ {4}.*\n|^\n)+", text[text.index("## From Python") :].split("\n", 2)[2], re.MULTILINE
    )
    assert block is not None
    monkeypatch.chdir(repository)
    names: dict[str, Any] = {"Path": Path}
    exec("\n".join(line[4:] for line in block.group().splitlines()), names)
    assert len(names["spec"].servers) == len(names["system"].servers) == 4
    assert names["notes"] == ()


def test_the_quoted_error_is_the_one_that_comes(text: str, tmp_path: Path) -> None:
    """The page shows what an error looks like; it must look so."""
    quoted = re.search(r"`data/(server-data\.json: [^`]+)`", text)
    assert quoted is not None
    objects = files()
    server = objects["server-data.json"]["servers"][0]
    objects["server-data.json"]["servers"] = [
        {**server, "name": f"vllm-00{n}"} for n in range(1, 4)
    ]
    objects["server-data.json"]["servers"].append(
        {**server, "name": "vllm-004", "maxBatchSize": -1}
    )
    with pytest.raises(SpecError, match=f"/{re.escape(quoted.group(1))}$"):
        read_system(write(tmp_path, objects))
