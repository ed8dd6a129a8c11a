"""The question for a whole system and its answer: what an optimizer of either era reads, and what
it said.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from loop.errors import SpecError
from loop.schema.messages import server_spec
from loop.schema.optimizer_messages import Era, optimize_message, read_optimized, server_row
from loop.schema.reading import parse_system
from loop.spec import Allocation, ServerData, SystemData
from loop.testing.fakes import server_view, system
from loop.types import Why


@pytest.mark.parametrize("era", ["today", "early"])
def test_the_question_says_all_that_the_data_do(era: Era) -> None:
    """What is lost here, a service would decide without."""
    view = server_view()
    assert view.load is not None
    ours = {
        "launch_ms": 1.0,
        "weights_ms": 4.0,
        "p": 1.5,
        "experts_ms": 3.0,
        "experts_idle": 0.75,
        "attention": 3.5e-5,
        "sequence_ms": 0.02,
        "scheduling": "async",
        "overhead_ms": 14.0,
    }
    data = system(
        perf={key: replace(row, kv_tokens=9000, **ours) for key, row in system().perf.items()}
    )
    message = optimize_message(
        data, [server_spec(view, view.load, cost_cents_per_h=800.0)], era=era
    )
    read = parse_system(message, source="body")
    current = Allocation(
        accelerator="H100", replicas=2, max_batch=64, cost_cents_per_h=800.0, load=view.load
    )
    server = ServerData(name="s1", model="llama_8b", service_class="Premium", current=current)
    assert plain(read) == plain(replace(data, servers={"s1": server}))


def test_what_a_server_may_be_given_goes_to_a_service_and_comes_from_a_collector() -> None:
    """Else a service would choose GPUs that its pods do not ask for, or cannot be put on."""
    view = server_view(gpus_per_replica=2, gpus_reachable={"H100": 0, "A100": 4})
    assert view.load is not None
    current = Allocation(accelerator="H100", replicas=2, max_batch=64, load=view.load)
    server = ServerData(
        name="s1",
        model="llama_8b",
        current=current,
        gpus_per_replica=2,
        types=frozenset({"A100"}),
    )
    for row in (server_row(server, with_cost=False), server_spec(view, view.load)):
        assert (row["gpusPerReplica"], row["acceleratorTypes"]) == (2, ["A100"])
        read = parse_system(optimize_message(system(), [row], era="today"), source="body")
        found = read.servers["s1"]
        assert (found.gpus_per_replica, found.types) == (2, frozenset({"A100"}))
    plain_row = server_row(replace(server, gpus_per_replica=None, types=None), with_cost=False)
    assert not {"gpusPerReplica", "acceleratorTypes", "heldTokens"} & plain_row.keys()
    full_row = server_row(replace(server, held_tokens=4321.5), with_cost=False)
    read = parse_system(optimize_message(system(), [full_row], era="today"), source="body")
    assert read.servers["s1"].held_tokens == 4321.5


def test_an_empty_accelerator_in_an_answer_means_no_replicas() -> None:
    """The existing optimizer says so of a server without load."""
    answer = {"allocations": {"s1": {"accelerator": "", "numReplicas": 3, "maxBatch": 0}}}
    assert read_optimized(answer).allocations["s1"].replicas == 0


def plain(data: SystemData) -> SystemData:
    """Return *data* with whole gigabytes, as the message has them."""
    units = {
        name: replace(
            unit,
            memory_gb=round(unit.memory_gb),
            memory_bandwidth_gbps=round(unit.memory_bandwidth_gbps),
        )
        for name, unit in data.accelerators.items()
    }
    return replace(data, accelerators=units)


def test_classes_of_mid_2025_are_a_row_a_model() -> None:
    """An optimizer of then reads no nested targets, and would find no objective at all."""
    rows = optimize_message(system(), [], era="early")["system"]["serviceClassData"][
        "serviceClasses"
    ]
    assert [(row["name"], row["model"], row["slo-itl"]) for row in rows] == [
        ("Premium", "llama_8b", 12.0),
        ("Premium", "qwen_14b", 12.0),
        ("Free", "llama_8b", 25.0),
        ("Free", "qwen_14b", 25.0),
    ]


def test_an_answer_becomes_assignments_and_reasons() -> None:
    """Ours tells why; the record of the cycle shows it."""
    solution = read_optimized(
        {
            "allocations": {
                "s1": {
                    "accelerator": "H100",
                    "numReplicas": 3,
                    "maxBatch": 40,
                    "cost": 840,
                    "itlAverage": 11.5,
                    "ttftAverage": None,
                    "reason": "ITL binds",
                    "reasonKind": "slo-itl",
                    "details": {"binding": "itl"},
                }
            },
            "unallocated": {"s2": "no H100 left"},
            "unallocatedKinds": {"s2": "capacity"},
        }
    )
    found = solution.allocations["s1"]
    assert (found.accelerator, found.replicas, found.max_batch) == ("H100", 3, 40)
    assert (found.cost_cents_per_h, found.itl_ms, found.ttft_ms) == (840.0, 11.5, None)
    assert found.why == Why(kind="slo-itl", text="ITL binds", details={"binding": "itl"})
    assert solution.unserved == {"s2": Why(kind="capacity", text="no H100 left")}


def test_an_early_answer_predicts_a_wait_and_no_time_to_first_token() -> None:
    """A TTFT of 0 ms in the record would be a lie."""
    row = {
        "accelerator": "H100",
        "numReplicas": 1,
        "maxBatch": 8,
        "itlAverage": 9.0,
        "waitAverage": 140.5,
    }
    found = read_optimized({"allocations": {"s1": row}}).allocations["s1"]
    assert (found.itl_ms, found.ttft_ms, found.why.details) == (
        9.0,
        None,
        {"waitAverage": 140.5},
    )


@pytest.mark.parametrize("answer", [None, [], {}, {"allocations": {"s1": {"numReplicas": "3"}}}])
def test_an_answer_that_makes_no_sense_is_refused(answer: object) -> None:
    """Half a decision must not be acted on."""
    with pytest.raises(SpecError, match="answer: "):
        read_optimized(answer)


def test_what_an_optimizer_notes_is_read() -> None:
    """Existing ones note nothing, and what others write is bounded."""
    assert read_optimized({"allocations": {}}).note == ""
    assert read_optimized({"allocations": {}, "note": "out of time"}).note == "out of time"
    assert len(read_optimized({"allocations": {}, "note": "x" * 10_000}).note) < 1000
