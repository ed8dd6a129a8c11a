"""The engine of `inferno optimize`: a message in, the words of the wire out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loop.errors import SpecError
from loop.optimizer.rules.go_2025 import GO_2025
from loop.optimizer.rules.go_today import GO_TODAY
from loop.schema.optimizer_json import optimize_json

SYSTEM: dict[str, Any] = {
    "acceleratorData": {
        "accelerators": [
            {"name": "H100", "type": "H100", "multiplicity": 1, "cost": 300.0},
            {"name": "A100", "type": "A100", "multiplicity": 1, "cost": 180.0},
        ]
    },
    "modelData": {
        "models": [
            {
                "name": "m",
                "acc": name,
                "accCount": 1,
                "maxBatchSize": 64,
                "atTokens": 256,
                "perfParms": {"alpha": alpha, "beta": 0.03, "gamma": 5e-5},
            }
            for name, alpha in (("H100", 6.5), ("A100", 11.0))
        ]
    },
    "serviceClassData": {
        "serviceClasses": [
            {
                "name": "Premium",
                "priority": 1,
                "modelTargets": [{"model": "m", "slo-itl": 20.0, "slo-ttft": 800.0}],
            }
        ]
    },
    "serverData": {
        "servers": [
            {
                "name": "s",
                "class": "Premium",
                "model": "m",
                "currentAlloc": {
                    "load": {
                        "arrivalRate": 900,
                        "throughput": 850,
                        "avgInTokens": 512,
                        "avgOutTokens": 256,
                    }
                },
            }
        ]
    },
    "optimizerData": {"optimizer": {"unlimited": False}},
    "capacityData": {"count": [{"type": "H100", "count": 4}, {"type": "A100", "count": 4}]},
}


def changed(**parts: Any) -> dict[str, Any]:
    """Return the message with other parts."""
    return {"system": {**SYSTEM, **parts}}


def test_the_answer_has_the_words_of_the_wire() -> None:
    """What the existing controller and actuator read; the load is echoed as it came."""
    answer = optimize_json(changed(), rules=GO_TODAY)
    assert answer.keys() == {"allocations", "unallocated", "totalCost"}
    found = answer["allocations"]["s"]
    assert found.keys() == {
        "accelerator",
        "numReplicas",
        "maxBatch",
        "cost",
        "itlAverage",
        "ttftAverage",
        "load",
    }
    assert found["load"] == {
        "arrivalRate": 900.0,
        "throughput": 850.0,
        "avgInTokens": 512,
        "avgOutTokens": 256,
    }
    assert answer["totalCost"] == found["cost"]
    json.dumps(answer, allow_nan=False)


@pytest.mark.parametrize("objective", ["slo-ttft", "slo-itl"])
def test_a_target_of_next_to_nothing_is_out_of_reach(objective: str) -> None:
    """A warning of NumPy stood before the answer."""
    targets = [{"model": "m", objective: 1e-308}]
    classes = [{"name": "Premium", "priority": 1, "modelTargets": targets}]
    answer = optimize_json(changed(serviceClassData={"serviceClasses": classes}), rules=GO_TODAY)
    assert answer["allocations"] == {}


def test_outside_compat_the_answer_explains_itself() -> None:
    """Reasons and figures beside every allocation, and how far the whole may be from the best."""
    answer = optimize_json(changed())
    found = answer["allocations"]["s"]
    assert found["reason"]
    assert found["details"]["binding"]
    assert (answer["gap"], answer["optimal"]) == (0.0, True)
    assert optimize_json(changed(), solver="greedy")["gap"] is None
    json.dumps(answer, allow_nan=False)


def test_several_accelerators_are_parts_with_their_totals() -> None:
    """In compat too: it is the only mode of the original's integer program that its answer lost."""
    message = changed(
        optimizerData={"optimizer": {"heterogeneous": True}},
        capacityData={"count": [{"type": "H100", "count": 2}, {"type": "A100", "count": 9}]},
        serverData={
            "servers": [
                {
                    "name": "s",
                    "class": "Premium",
                    "model": "m",
                    "currentAlloc": {
                        "load": {"arrivalRate": 6000, "avgInTokens": 512, "avgOutTokens": 256}
                    },
                }
            ]
        },
    )
    found = optimize_json(message, rules=GO_TODAY)["allocations"]["s"]
    assert {part["accelerator"] for part in found["parts"]} == {"H100", "A100"}
    assert found["numReplicas"] == sum(part["numReplicas"] for part in found["parts"])
    assert found["cost"] == pytest.approx(sum(part["cost"] for part in found["parts"]))
    assert found["value"] == pytest.approx(1.1 * found["cost"])


def test_a_wait_without_bound_is_null() -> None:
    """JSON has no infinity, and a large number would be read as a latency."""
    message = changed(
        optimizerData={"optimizer": {"saturationPolicy": "PriorityExhaustive"}},
        capacityData={"count": [{"type": "H100", "count": 1}]},
        serverData={
            "servers": [
                {
                    "name": "s",
                    "class": "Premium",
                    "model": "m",
                    "currentAlloc": {
                        "load": {"arrivalRate": 90000, "avgInTokens": 512, "avgOutTokens": 256}
                    },
                }
            ]
        },
    )
    assert optimize_json(message)["allocations"]["s"]["ttftAverage"] is None


def test_a_wrong_message_is_one_line() -> None:
    """Strict by default; in compat as lenient as the original, which answers that it cannot serve
    the server.
    """
    message = changed(modelData={"models": []})
    with pytest.raises(SpecError, match="model"):
        optimize_json(message)
    assert optimize_json(message, rules=GO_TODAY)["unallocated"] == {
        "s": "no perf data of model 'm' on any accelerator"
    }


def test_an_early_message_has_a_wait_in_place_of_the_first_token() -> None:
    """The words of mid 2025."""
    message = {
        "system": {
            **SYSTEM,
            "modelData": {
                "models": [
                    {
                        "name": "m",
                        "acc": "A100",
                        "alpha": 11.0,
                        "beta": 0.3,
                        "maxBatchSize": 32,
                        "atTokens": 512,
                    }
                ]
            },
            "serviceClassData": {
                "serviceClasses": [
                    {
                        "name": "Premium",
                        "model": "m",
                        "priority": 1,
                        "slo-itl": 40.0,
                        "slo-ttw": 500.0,
                    }
                ]
            },
            "serverData": {
                "servers": [
                    {
                        "name": "s",
                        "class": "Premium",
                        "model": "m",
                        "currentAlloc": {
                            "load": {"arrivalRate": 60, "avgLength": 512, "arrivalCOV": 1.5}
                        },
                    },
                    {"name": "idle", "class": "Premium", "model": "m", "currentAlloc": {}},
                ]
            },
        }
    }
    answer = optimize_json(message, rules=GO_2025)
    found = answer["allocations"]["s"]
    assert (found["accelerator"], found["numReplicas"], found["maxBatch"]) == ("A100", 1, 32)
    assert found["itlAverage"] <= 40.0
    assert found["waitAverage"] <= 500.0 / 2.99
    assert found["load"]["avgLength"] == 512
    assert list(answer["unallocated"]) == ["idle"]


def test_an_answer_has_no_more_replicas_than_a_server_may_have() -> None:
    """Ten replicas were the answer to a system that allows one."""
    system = json.loads(json.dumps(SYSTEM))
    system["serverData"]["servers"][0]["maxNumReplicas"] = 1
    system["serverData"]["servers"][0]["currentAlloc"]["load"]["arrivalRate"] = 9000
    system["optimizerData"] = {"optimizer": {"unlimited": True}}
    answer = optimize_json({"system": system})
    found = answer["allocations"]["s"]
    assert (found["numReplicas"], found["itlAverage"], found["ttftAverage"]) == (1, None, None)
    assert found["reason"].startswith("maxNumReplicas: 1 of ")
    assert answer["totalCost"] == found["cost"] <= 300.0


def test_a_bounded_server_takes_no_more_gpus_than_it_may_have() -> None:
    """It got nothing where ten GPUs were missing of which it may have one, and where they were not
    missing, others went without.
    """
    system = json.loads(json.dumps(SYSTEM))
    bounded = system["serverData"]["servers"][0]
    other = json.loads(json.dumps(bounded)) | {"name": "t"}
    system["serverData"]["servers"].append(other)
    bounded["maxNumReplicas"] = 1
    bounded["currentAlloc"]["load"]["arrivalRate"] = 9000
    other["currentAlloc"]["load"]["arrivalRate"] = 2000
    system["capacityData"] = {"count": [{"type": "H100", "count": 4}]}
    answer = optimize_json({"system": system})
    found = {name: one["numReplicas"] for name, one in answer["allocations"].items()}
    assert found == {"s": 1, "t": 3}
    assert answer["allocations"]["s"]["reason"].startswith("maxNumReplicas: 1 of 10 replicas; 1 × ")
    assert answer["totalCost"] == 1200.0


@pytest.mark.parametrize("most", [3, 9])
def test_a_bound_cuts_parts_and_what_each_costs(most: int) -> None:
    """Eight replicas of one accelerator and two of another ended in a traceback."""
    system = json.loads(json.dumps(SYSTEM))
    system["serverData"]["servers"][0]["maxNumReplicas"] = most
    system["serverData"]["servers"][0]["currentAlloc"]["load"]["arrivalRate"] = 7500
    system["capacityData"]["count"][0]["count"] = 3
    system["capacityData"]["count"][1]["count"] = 9
    system["optimizerData"] = {"optimizer": {"heterogeneous": True}}
    found = optimize_json({"system": system})["allocations"]["s"]
    cost = {"A100": 180.0, "H100": 300.0}
    parts = [(part["accelerator"], part["numReplicas"]) for part in found["parts"]]
    assert parts == ([("A100", 3)] if most == 3 else [("A100", 8), ("H100", 1)])
    assert [part["cost"] for part in found["parts"]] == [n * cost[name] for name, n in parts]
    assert found["numReplicas"] == most
    assert found["cost"] == sum(n * cost[name] for name, n in parts)
