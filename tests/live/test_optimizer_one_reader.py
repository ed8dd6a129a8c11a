"""`inferno optimize` and POST /optimizeOne read one body alike, however odd: the same answer, or
the same refusal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from inferno.cli import main as inferno
from loop.optimizer.rules import OptimizerSettings, Rules
from loop.optimizer.rules.go_2025 import GO_2025
from loop.optimizer.rules.go_today import GO_TODAY
from loop.optimizer.rules.ours import OURS
from loop.services.optimizer_app import make_optimizer_app
from tests.live.optimizer_bodies import body, server
from tests.live.optimizer_served import serving

Capture = pytest.CaptureFixture[str]
Change = Callable[[dict[str, Any]], None]


def at(place: str, value: Any) -> Change:
    """Return what puts *value* at a place below the system, "a/0/b"; ... takes it away."""

    def change(system: dict[str, Any]) -> None:
        here: Any = system
        *path, last = [int(part) if part.isdigit() else part for part in place.split("/")]
        for part in path:
            here = here[part]
        if value is ...:
            del here[last]
        else:
            here[last] = value

    return change


SERVER = "serverData/servers/0"
LOAD = f"{SERVER}/currentAlloc/load"
ROW = "modelData/models/0"
CLASS = "serviceClassData/serviceClasses/0"
FLAT = [{"name": "Premium", "model": "m", "priority": 1, "slo-itl": 80, "slo-ttw": 1000}]

CHANGES: dict[str, Change] = {
    "nothing": at(f"{SERVER}/name", "s1"),
    "no accelerators": at("acceleratorData", ...),
    "null for models": at("modelData", None),
    "no cost": at("acceleratorData/accelerators/0/cost", ...),
    "no name": at(f"{SERVER}/name", ...),
    "empty name": at(f"{SERVER}/name", ""),
    "a number for a name": at(f"{SERVER}/name", 7),
    "no load": at(LOAD, ...),
    "null load": at(LOAD, None),
    "a list for a load": at(LOAD, []),
    "a text for a rate": at(f"{LOAD}/arrivalRate", "60"),
    "true for a rate": at(f"{LOAD}/arrivalRate", True),
    "a negative rate": at(f"{LOAD}/arrivalRate", -1),
    "a rate that is no number": at(f"{LOAD}/arrivalRate", float("nan")),
    "an infinite rate": at(f"{LOAD}/arrivalRate", float("inf")),
    "a rate of many digits": at(f"{LOAD}/arrivalRate", 10**400),
    "a rate beyond all measure": at(f"{LOAD}/arrivalRate", 1e13),
    "a whole batch with a point": at(f"{ROW}/maxBatchSize", 64.0),
    "half a batch": at(f"{ROW}/maxBatchSize", 64.5),
    "a negative batch": at(f"{ROW}/maxBatchSize", -64),
    "no batch": at(f"{ROW}/maxBatchSize", 0),
    "a huge batch": at(f"{SERVER}/maxBatchSize", 10**9),
    "a batch out of all bounds": at(f"{SERVER}/maxBatchSize", 10**12),
    "negative least replicas": at(f"{SERVER}/minNumReplicas", -3),
    "a text for least replicas": at(f"{SERVER}/minNumReplicas", "3"),
    "a text for a flag": at(f"{SERVER}/keepAccelerator", "yes"),
    "a negative count": at("capacityData/count/0/count", -4),
    "a count in words": at("capacityData/count/0/count", "four"),
    "an object for a list": at("capacityData/count", {"type": "A100", "count": 4}),
    "null in a list": at("serverData/servers", [None]),
    "a priority out of range": at(f"{CLASS}/priority", 250),
    "no priority": at(f"{CLASS}/priority", ...),
    "accelerators of no units": at("acceleratorData/accelerators/0/multiplicity", 0),
    "no accelerators for a replica": at(f"{ROW}/accCount", 0),
    "another policy": at("optimizerData/optimizer/saturationPolicy", "Fair"),
    "a policy in small letters": at("optimizerData/optimizer/saturationPolicy", "roundrobin"),
    "a number for a policy": at("optimizerData/optimizer/saturationPolicy", 1),
    "flags without a wrapper": at("optimizerData", {"unlimited": True}),
    "an unknown key": at(f"{SERVER}/colour", "red"),
    "an unknown class": at(f"{SERVER}/class", "Gold"),
    "an unknown model": at(f"{SERVER}/model", "large"),
    "older length": at(LOAD, {"arrivalRate": 60, "avgLength": 512, "arrivalCOV": 1.5}),
    "length of a label": at(LOAD, {"arrivalRate": 60, "numTokens": 512}),
    "a text for an older length": at(LOAD, {"arrivalRate": 60, "avgLength": "long"}),
    "older latency models": at(ROW, {"name": "m", "acc": "A100", "alpha": 20, "beta": 0.4}),
    "older classes": at("serviceClassData/serviceClasses", FLAT),
    "classes of both forms": lambda system: system["serviceClassData"]["serviceClasses"].extend(
        [FLAT[0], {**FLAT[0], "priority": 5, "slo-itl": 70}]
    ),
    "the same server twice": lambda system: system["serverData"]["servers"].append(
        server(rpm=900.0)
    ),
    "the same class twice": lambda system: system["serviceClassData"]["serviceClasses"].append(
        {"name": "Premium", "priority": 3, "modelTargets": []}
    ),
    "the same row twice": lambda system: system["modelData"]["models"].append(
        {**system["modelData"]["models"][0], "maxBatchSize": 8}
    ),
}


def shouted(value: Any) -> Any:
    """Return *value* with its keys in capitals."""
    if isinstance(value, dict):
        return {key.upper(): shouted(each) for key, each in value.items()}
    return [shouted(each) for each in value] if isinstance(value, list) else value


def bodies() -> dict[str, bytes]:
    """Return odd bodies by what is odd in them."""
    plain = json.dumps(body())
    found = {
        "a list": b"[]",
        "null": b"null",
        "an empty object": b"{}",
        "an empty system": b'{"system": {}}',
        "a null system": b'{"system": null}',
        "no system but a text": b'{"system": "all"}',
        "no wrapper": json.dumps(body()["system"]).encode(),
        "keys in capitals": json.dumps(shouted(body())).encode(),
        "a mark before it": b"\xef\xbb\xbf" + plain.encode(),
        "no text": b"\xff\xfe\x00",
        "cut": plain[:-10].encode(),
        "a figure beyond floats": plain.replace("60.0", "1e400").encode(),
        "a key twice": plain.replace('"priority"', '"name": "Gold", "priority"', 1).encode(),
        "a key twice, in two cases": plain.replace('"name"', '"NAME": "x", "name"', 1).encode(),
        "nested too deep": b"[" * 100_000,
    }
    for name, change in CHANGES.items():
        asked = body(server("s1"))
        change(asked["system"])
        found[name] = json.dumps(asked).encode()
    return found


ODD = bodies()
RULES: dict[str, tuple[Rules, list[str]]] = {
    "compat": (GO_TODAY, ["--compat", "--solver", "greedy"]),
    "compat-early": (GO_2025, ["--compat-early", "--solver", "greedy"]),
    "ours": (OURS, ["--solver", "greedy"]),
}
Ask = Callable[[bytes], httpx.Response]


@pytest.fixture(scope="module")
def ask() -> Iterator[dict[str, Ask]]:
    """Return what asks the service, by its rules."""
    with ExitStack() as stack:
        clients = {
            name: stack.enter_context(
                serving(
                    make_optimizer_app(settings=OptimizerSettings(solver="greedy", rules=rules))
                )
            )
            for name, (rules, _) in RULES.items()
        }
        yield {name: partial(_post, client, "/optimizeOne") for name, client in clients.items()}


def _post(client: httpx.Client, path: str, content: bytes) -> httpx.Response:
    return client.post(path, content=content)


def command(rules: str, content: bytes, tmp_path: Path, capsys: Capture) -> tuple[Any, str]:
    """Return what the command answers to a file of that content, or the line that refuses it."""
    path = tmp_path / "body.json"
    path.write_bytes(content)
    code = inferno.main(["optimize", *RULES[rules][1], str(path)])
    out, err = capsys.readouterr()
    if code == 0:
        return json.loads(out), ""
    assert code == 2, err
    assert err.count("\n") == 1, err
    line = err.strip().removeprefix("inferno optimize: ").replace(str(path), "body")
    return None, line.replace("a readable text file", "JSON")


def same_answer(answer: httpx.Response, found: Any) -> None:
    """Check that the service answers what the command *found*."""
    assert answer.status_code in {200, 404}, answer.text
    if answer.status_code == 200:
        assert answer.json()["allocations"] == found["allocations"]
    else:
        # The existing service gives nobody anything where one gets nothing.
        names = answer.json()["message"].partition("[")[2].rstrip("]").split(", ")
        assert names == sorted(found["unallocated"])


@pytest.mark.parametrize("rules", ["compat", "compat-early"])
@pytest.mark.parametrize("case", ODD)
def test_by_the_rules_of_go_an_odd_body_is_read_alike(
    ask: dict[str, Ask], rules: str, case: str, tmp_path: Path, capsys: Capture
) -> None:
    """Who tries a message with the command must get from the service what he saw."""
    found, refusal = command(rules, ODD[case], tmp_path, capsys)
    answer = ask[rules](ODD[case])
    if refusal:
        assert answer.status_code == 400, answer.text
        # Of a body that it cannot read the existing service says nothing.
        assert not answer.content or answer.json() == {"message": refusal}
    else:
        same_answer(answer, found)


@pytest.mark.parametrize("case", ODD)
def test_by_ours_the_command_may_refuse_more_and_answers_nothing_else(
    ask: dict[str, Ask], case: str, tmp_path: Path, capsys: Capture
) -> None:
    """It asks of a message what it asks of the data files. One bad row must not stop the others of
    a controller's message, so that the service asks less.
    """
    found, refusal = command("ours", ODD[case], tmp_path, capsys)
    answer = ask["ours"](ODD[case])
    if not refusal:
        same_answer(answer, found)
    elif answer.status_code == 400:
        place = answer.json()["message"].partition(": expected ")[0]
        assert refusal.startswith(place), (refusal, answer.text)


def test_the_odd_bodies_are_taken_and_refused_in_fair_shares(ask: dict[str, Ask]) -> None:
    """A test of refusals only, or of answers only, would show half of it."""
    refused = [case for case, content in ODD.items() if ask["compat"](content).status_code == 400]
    assert len(ODD) / 4 < len(refused) < 3 * len(ODD) / 4
