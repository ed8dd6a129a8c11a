"""The wire form of a cycle: the names that others read, strict JSON, and what a recording can be
read back to.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from loop.actuator import planned
from loop.controller import Controller
from loop.data import FixedData
from loop.policies import make_policy
from loop.record_texts import RecordTexts
from loop.records import record_line, record_text, snapshot_of
from loop.testing.fakes import FakeBackend, ManualClock, server_view, system
from loop.types import Change, CycleRecord, Decision, Load, Target, Why, one_pool


def cycle(backend: FakeBackend) -> CycleRecord:
    """Return the record of one cycle that keeps everything as it is."""
    loop = Controller(
        backend=backend,
        policy=make_policy("static"),
        data=FixedData(system()),
        clock=ManualClock(step_s=0.01),
    )
    return loop.cycle(60.0)


def decided(record: CycleRecord) -> CycleRecord:
    """Return *record* with a decision of five (limited to four) replicas on 2xA100 for s1."""
    target = Target(
        server="s1",
        pools=one_pool(accelerator="2xA100", replicas=5, max_batch=32),
        itl_ms=9.5,
        ttft_ms=120.0,
        rho=0.7,
        why=Why(
            kind="slo-itl",
            text="itl binds",
            details={
                "rateMaxRpm": np.float64(31.5),
                "tried": np.int64(3),
                "runnerUp": None,
                "margin": math.inf,
            },
        ),
    )
    pools = one_pool(accelerator="2xA100", replicas=4, max_batch=32)
    change = Change(server="s1", pools=pools, why=target.why)
    return replace(
        record,
        decision=Decision(
            targets={"s1": target}, unserved={"s2": Why(kind="capacity", text="no H100 left")}
        ),
        changes=(change,),
    )


def test_the_names_that_others_read_are_all_there() -> None:
    """Plots, the walk-through's readers and other components go by these; add fields freely, rename
    none.
    """
    line = record_line(cycle(FakeBackend([server_view()])))
    assert {
        "ts",
        "t_s",
        "cycle",
        "servers",
        "internals",
        "capacity",
        "totalCost",
        "timing",
    } <= line.keys()
    assert {"backend", "policy", "mode", "error", "warnings"} <= line.keys()
    assert set(line["timing"]) == {"collectMs", "optimizeMs", "actuateMs", "totalMs"}
    assert {"type", "allocated", "available"} <= line["capacity"][0].keys()
    server = line["servers"][0].keys()
    assert {
        "name",
        "class",
        "model",
        "rpm",
        "throughput",
        "avgInTok",
        "avgOutTok",
        "itl",
        "ttft",
    } <= server
    assert {"sloItl", "sloTtft", "accelerator", "replicas", "maxBatch", "cost"} <= server
    assert {"ready", "starting", "pending", "draining", "reason"} <= server


def test_replicas_max_batch_and_cost_are_the_decision_just_taken() -> None:
    """What was observed stands beside it under names of its own: they belong to the decision
    before.
    """
    line = record_line(decided(cycle(FakeBackend([server_view(), server_view("s2")]))))
    first, second = line["servers"]
    assert (first["accelerator"], first["replicas"], first["maxBatch"], first["cost"]) == (
        "2xA100",
        4,
        32,
        2000.0,
    )
    assert (first["currentAccelerator"], first["wanted"], first["currentMaxBatch"]) == (
        "H100",
        2,
        64,
    )
    assert (first["policyReplicas"], first["held"], first["reason"]) == (5, False, "itl binds")
    assert (second["replicas"], second["held"], second["unserved"]) == (2, True, "no H100 left")
    assert (first["reasonKind"], second["reasonKind"]) == ("slo-itl", "")


def test_capacity_counts_the_gpus_of_the_decision() -> None:
    """A replica of a unit of two GPUs holds two; available is what there is, not what is left."""
    line = record_line(
        decided(cycle(FakeBackend([server_view()], capacity={"A100": 16, "H100": 4})))
    )
    rows = {
        row["type"]: (row["allocated"], row["available"], row["seen"]) for row in line["capacity"]
    }
    assert rows == {"A100": (8, 16, True), "H100": (0, 4, True)}


def test_capacity_comes_from_the_data_where_the_world_does_not_know_it() -> None:
    """A cluster does not tell how many accelerators it could have."""
    line = record_line(cycle(FakeBackend([server_view()])))
    rows = {
        row["type"]: (row["allocated"], row["available"], row["seen"]) for row in line["capacity"]
    }
    assert rows == {"H100": (2, 8, False), "A100": (0, 8, False)}


def test_internals_hold_the_latency_model_of_where_the_server_is_to_run() -> None:
    """Who asks why looks here first."""
    (row,) = record_line(decided(cycle(FakeBackend([server_view()]))))["internals"]
    assert (row["accelerator"], row["alpha"], row["beta"], row["gamma"]) == (
        "2xA100",
        8.1,
        0.03,
        6e-5,
    )
    assert row["details"] == {"rateMaxRpm": 31.5, "tried": 3, "runnerUp": None, "margin": None}


def test_what_is_not_known_is_null_and_never_a_nan() -> None:
    """NaN is no JSON: strict readers refuse the whole line."""
    view = server_view(
        load=None, itl_ms=math.nan, ttft_ms=None, model="unknown_model", service_class="Nobody"
    )
    text = record_text(cycle(FakeBackend([view])))
    server = json.loads(text, parse_constant=pytest.fail)["servers"][0]
    for name in (
        "rpm",
        "avgInTok",
        "avgOutTok",
        "itl",
        "ttft",
        "sloItl",
        "sloTtft",
        "throughput",
        "cost",
    ):
        assert server[name] is None, name


def test_a_line_is_one_line() -> None:
    """Records are JSON lines: a traceback with its line ends must not break them."""
    record = replace(cycle(FakeBackend([server_view()])), traceback="one\ntwo\n", error="ä")
    assert "\n" not in record_text(record)


def test_a_failed_cycle_has_a_line_too() -> None:
    """Skipped cycles are recorded with their reason, under the same names."""
    backend = FakeBackend([server_view(accelerator="2xA100", max_batch=16)])
    backend.failing.add("observe")
    line = record_line(cycle(backend))
    assert (line["failedPhase"], line["servers"], line["applied"]) == ("observe", [], False)
    assert "does not answer" in line["error"]


def test_a_recording_can_be_observed_again() -> None:
    """Replay asks other policies what they would have done: they need what was seen, unknown
    figures included.
    """
    busy = server_view(
        completions_rpm=110.0,
        itl_ms=9.0,
        ttft_ms=80.0,
        output_tps=470.0,
        running=9,
        waiting=2,
        backlog=3,
        kv_usage=0.4,
    )
    dark = server_view("s2", load=None, ready=1, starting=1, pending=2, draining=1, reporting=0)
    fresh = server_view("s3", load=Load(rate_rpm=6.0, in_tokens=10.0, out_tokens=0.0))
    blind = server_view("s4", waiting=0, unknown_gauges=("running", "kv_usage"))
    record = cycle(FakeBackend([busy, dark, fresh, blind], capacity={"H100": 8}))
    line = json.loads(record_text(record))
    gauges = [line["servers"][-1][key] for key in ("running", "waiting", "backlog", "kvUsage")]
    assert gauges == [None, 0, 0, None]
    assert record.seen is not None
    # FakeBackend's time stands still at 0: the line has the time of the cycle.
    assert snapshot_of(line) == replace(record.seen, now_s=60.0)


def test_lines_of_which_only_the_ages_change_are_as_if_written_anew() -> None:
    """Of a server that is as it was only the ages are written: no figure may be that of before."""
    texts = RecordTexts()
    first = decided(cycle(FakeBackend([server_view(), server_view("s2", load=None)])))
    assert first.seen is not None
    assert first.decision is not None
    odd = replace(
        first.decision.targets["s1"], why=Why(kind="batch", details={"a": ["\x1e", 1e-7]})
    )
    views, targets = dict(first.seen.servers), dict(first.decision.targets)
    kept = 0
    steps: list[tuple[str, dict[str, Any]]] = [
        ("s1", {}),
        ("s1", {"load_age_s": 3.0, "sample_age_s": 1e-7, "percentiles_age_s": 2}),
        ("s2", {"load_age_s": math.nan, "kv_usage": 0.25}),
        ("s1", {"running": 4, "load_age_s": 4.5}),
        ("s2", {"load": Load(rate_rpm=1.0, in_tokens=2.0, out_tokens=3.0)}),
        ("s1", {"replicas_min": 3}),
        ("s2", {}),
    ]
    for step, (name, fields) in enumerate(steps):
        views[name] = replace(views[name], **fields)
        if step == 5:
            targets["s1"] = odd
        if step == 6:
            del views["s1"]
        decision = replace(first.decision, targets=dict(targets))
        seen = replace(first.seen, servers=dict(views), now_s=float(step))
        changes = first.changes if "s1" in views else ()
        record = replace(
            first, seen=seen, estimated=seen, decision=decision, cycle=step, changes=changes
        )
        parts = texts.parts(record, planned(seen, changes))
        assert "".join(parts) == record_text(record)
        kept += len(parts) > 7
    assert kept >= 3, "some row was only made older"
    failed = replace(first, seen=None, estimated=None, data=None, decision=None, changes=())
    assert "".join(texts.parts(failed, {})) == record_text(failed)
