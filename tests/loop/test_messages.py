"""What services say to each other: nothing is lost between ours, and what others read of it is what
they expect.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop.actuator import plan
from loop.errors import SpecError
from loop.schema.messages import (
    Absent,
    KubeResource,
    UpdateRequest,
    collect_message,
    decided,
    read_collected,
    read_snapshot,
    snapshot_json,
    update_message,
)
from loop.schema.parsing import read
from loop.testing.fakes import change, pod_view, server_view
from loop.types import CapacityView, Load, PodView, ServerView, Snapshot, one_pool

PLACES = {"s1": KubeResource(uid="u-1", namespace="infer", name="premium")}


def snapshot(*views: ServerView, **fields: Any) -> Snapshot:
    """Return a snapshot of *views*."""
    return Snapshot(now_s=12.5, servers={view.name: view for view in views}, **fields)


def request_of(body: object) -> UpdateRequest:
    """Return *body* as an actuator reads it."""
    return read(UpdateRequest, body, source="body")


def sent(message: object) -> Any:
    """Return *message* as its reader gets it."""
    return json.loads(json.dumps(message, allow_nan=False))


figures = st.floats(min_value=0.0, max_value=1e9)
counts = st.integers(min_value=0, max_value=10_000)
loads = st.none() | st.builds(Load, rate_rpm=figures, in_tokens=figures, out_tokens=figures)
pods = st.builds(
    PodView,
    name=st.text(min_size=1, max_size=9),
    phase=st.sampled_from(["pending", "starting", "ready", "draining"]),
    since_s=figures,
    created_s=figures,
    accelerator=st.sampled_from(["H100", ""]),
    max_batch=counts,
    running=counts,
    waiting=counts,
    kv_usage=st.floats(0.0, 1.0),
)
views = st.builds(
    server_view,
    name=st.sampled_from(["s1", "s2", "s3"]),
    model=st.just("llama_8b"),
    service_class=st.sampled_from(["Premium", "Free"]),
    accelerator=st.sampled_from(["H100", "2xA100", ""]),
    max_batch=counts,
    wanted=counts,
    ready=counts,
    starting=counts,
    load=loads,
    completions_rpm=st.none() | figures,
    ttft_ms=st.none() | figures,
    itl_ms=st.none() | figures,
    backlog=counts,
    reporting=st.none() | counts,
    replicas_min=counts,
    replicas_max=st.none() | counts,
    unknown_gauges=st.lists(st.sampled_from(["running", "kv_usage"]), max_size=2).map(tuple),
    pods=st.lists(pods, max_size=2).map(tuple),
)
snapshots = st.builds(
    lambda seen, capacity, warnings: snapshot(
        *seen,
        capacity=capacity and {"H100": CapacityView(type="H100", total=8, used=3)},
        warnings=tuple(warnings),
    ),
    st.lists(views, max_size=3, unique_by=lambda view: view.name),
    st.sampled_from([True, None]),
    st.lists(st.text(max_size=20), max_size=2),
)


@pytest.mark.slow
@given(snapshots)
def test_what_our_collector_sends_is_to_ours_all_that_was_seen(seen: Snapshot) -> None:
    """A policy must decide the same whether it looks itself or asks a collector."""
    collected = read_collected(sent(collect_message(seen, seen, PLACES)), now_s=0.0)
    assert collected.snapshot == seen
    assert collected.places.keys() == seen.servers.keys()


@pytest.mark.slow
@given(snapshots)
def test_what_we_send_is_read_by_types_of_the_existing_components(seen: Snapshot) -> None:
    """Go gives up a whole message for one 3.5 where it wants an int, and for a NaN."""
    message = sent(collect_message(seen, seen, PLACES))
    update = sent(update_message(seen, [], PLACES))
    allocations = [*update["allocations"].values()]
    for server in message["servers"]:
        assert all(
            type(server[key]) is int for key in ("minNumReplicas", "maxBatchSize", "maxQueueSize")
        )
        allocations += [server["currentAlloc"], server["desiredAlloc"]]
    for allocation in allocations:
        assert type(allocation["numReplicas"]) is int
        assert type(allocation["maxBatch"]) is int
        assert (
            type(allocation["load"]["avgInTokens"])
            is type(allocation["load"]["avgOutTokens"])
            is int
        )
        assert type(allocation["load"]["avgLength"]) is int


def test_a_server_of_an_existing_collector_is_seen_with_the_replicas_it_counts() -> None:
    """It knows one kind of replicas, and its zeros of latencies and throughput are not measured
    ones.
    """
    row = {
        "name": "vllm-001",
        "class": "",
        "model": "llama_13b",
        "currentAlloc": {
            "accelerator": "MI250",
            "numReplicas": 3,
            "maxBatch": 8,
            "itlAverage": 0,
            "load": {"arrivalRate": 30, "throughput": 0, "avgInTokens": 128, "avgOutTokens": 2048},
        },
    }
    answer = {
        "servers": [row],
        "kube-resources": {"vllm-001": {"uid": "u", "name": "d", "space": "infer"}},
    }
    collected = read_collected(answer, now_s=7.0)
    assert collected.snapshot == Snapshot(
        now_s=7.0,
        servers={
            "vllm-001": ServerView(
                name="vllm-001",
                model="llama_13b",
                service_class="Free",
                pools=one_pool(accelerator="MI250", replicas=3, max_batch=8),
                ready=3,
                load=Load(rate_rpm=30.0, in_tokens=128.0, out_tokens=2048.0),
            )
        },
    )
    assert collected.places == {"vllm-001": KubeResource(uid="u", namespace="infer", name="d")}


def test_a_load_that_nobody_knows_is_told_as_a_server_to_be_held() -> None:
    """An existing optimizer takes no load for none: it would end the server."""
    seen = snapshot(server_view("s1", load=None, wanted=3), server_view("s2", load=None, wanted=0))
    rows = {row["name"]: row for row in collect_message(seen, seen, PLACES)["servers"]}
    assert rows.keys() == {"s1"}
    held = {key: rows["s1"][key] for key in ("keepAccelerator", "minNumReplicas", "maxBatchSize")}
    assert held == {"keepAccelerator": True, "minNumReplicas": 3, "maxBatchSize": 64}
    assert rows["s1"]["currentAlloc"]["load"]["arrivalRate"] == 0


def test_others_are_told_the_load_estimated_and_ours_the_load_seen() -> None:
    """Ours rule on gaps themselves, with what they remember; others cannot, and get the ruling."""
    seen = snapshot(server_view("s1", ready=2, reporting=1))
    ruled = snapshot(
        server_view("s1", load=Load(rate_rpm=240.0, in_tokens=512.0, out_tokens=256.0))
    )
    message = sent(collect_message(seen, ruled, PLACES))
    assert message["servers"][0]["currentAlloc"]["load"]["arrivalRate"] == 240
    assert read_collected(message, now_s=0.0).snapshot == seen


@pytest.mark.parametrize("figure", [math.nan, math.inf])
def test_figures_that_are_no_numbers_are_left_out(figure: float) -> None:
    """JSON has no words for them; and nobody knows a load of NaN requests."""
    load = Load(rate_rpm=figure, in_tokens=1.0, out_tokens=1.0)
    seen = snapshot(server_view("s1", load=load, kv_usage=figure, ttft_ms=figure))
    read = read_snapshot(sent(snapshot_json(seen)))
    assert read.servers["s1"] == server_view("s1", load=None)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ([], "answer: expected an object {…}, found []"),
        ({"servers": [{"name": ""}]}, "answer: servers[0]: name: expected a text, found ''"),
        (
            {"servers": [{"name": "s", "currentAlloc": {"numReplicas": -1}}]},
            "servers[0] 's': currentAlloc.numReplicas: expected a whole number >= 0, found -1",
        ),
        (
            {"servers": [], "snapshot": {"servers": {}}},
            "snapshot: now_s: expected a value, found nothing",
        ),
    ],
)
def test_an_answer_that_makes_no_sense_is_told_in_one_line(answer: object, line: str) -> None:
    """The cycle is recorded with it."""
    with pytest.raises(SpecError) as caught:
        read_collected(answer, now_s=0.0)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_update_names_every_server_and_tells_who_is_held() -> None:
    """Existing actuators end whom a message does not name; ours must not write back what somebody
    changed meanwhile.
    """
    seen = snapshot(server_view("s1"), server_view("s2"))
    asked = change(accelerator="2xA100", replicas=5, max_batch=48)
    body = sent(update_message(seen, [asked], PLACES))
    rows = {
        name: (row["accelerator"], row["numReplicas"], row["maxBatch"])
        for name, row in body["allocations"].items()
    }
    assert rows == {"s1": ("2xA100", 5, 48), "s2": ("H100", 2, 64)}
    assert [row["held"] for row in body["allocations"].values()] == [False, True]
    assert body["kube-resources"]["s1"] == {"uid": "u-1", "name": "premium", "space": "infer"}


@pytest.mark.costly
@given(snapshots, st.data())
def test_what_an_update_asks_for_is_what_was_decided(seen: Snapshot, data: st.DataObject) -> None:
    """Between controller and actuator nothing may be lost, nor anything asked for that nobody
    decided.
    """
    names = data.draw(
        st.lists(st.sampled_from(sorted(seen.servers)), unique=True)
        if seen.servers
        else st.just([])
    )
    changes = tuple(
        change(name, accelerator="L40S", replicas=1 + number, max_batch=7)
        for number, name in enumerate(names)
    )
    request = request_of(sent(update_message(seen, changes, PLACES)))
    free = snapshot(
        *(
            server_view(name, wanted=99, accelerator="other", max_batch=view.max_batch)
            for name, view in seen.servers.items()
        )
    )
    asked = plan(decided(request, free, absent="zero"), free)
    assert sorted(asked, key=lambda each: each.server) == sorted(
        changes, key=lambda each: each.server
    )


@pytest.mark.parametrize(
    ("absent", "resources", "ended"),
    [
        ("hold", {"s1": {}, "s2": {}}, set()),
        ("zero", {"s1": {}, "s2": {}}, {"s2"}),
        ("zero", {"s1": {}}, set()),
        ("zero", {}, {"s2", "s3"}),
    ],
)
def test_who_is_absent_is_held_or_ended_as_is_set(
    absent: Absent, resources: dict[str, Any], ended: set[str]
) -> None:
    """zero is what the existing one does; who came after the message was made is not meant by
    it.
    """
    seen = snapshot(*(server_view(name) for name in ("s1", "s2", "s3")))
    request = request_of(
        {
            "allocations": {"s1": {"accelerator": "H100", "numReplicas": 2}},
            "kube-resources": resources,
        },
    )
    changes = plan(decided(request, seen, absent=absent), seen)
    assert {each.server for each in changes} == ended
    assert all(
        (each.replicas, each.accelerator, each.max_batch) == (0, "H100", 64) for each in changes
    )


def test_no_accelerator_means_no_replicas_and_keeps_the_labels() -> None:
    """So the existing optimizer answers to no load; the next decision still knows what it had."""
    seen = snapshot(server_view("s1"))
    request = request_of(
        {"allocations": {"s1": {"accelerator": "", "numReplicas": 3, "maxBatch": 0}}}
    )
    (asked,) = plan(decided(request, seen, absent="hold"), seen)
    assert (asked.accelerator, asked.replicas, asked.max_batch) == ("H100", 0, 64)


def test_each_pod_that_reports_is_a_replica_for_a_tuner() -> None:
    """Its own rate and latencies, at the batch in force in it: one that does not report would teach
    a tuner zeros.
    """
    pods = [
        PodView(
            name=name,
            phase="ready",
            since_s=0.0,
            created_s=0.0,
            accelerator="H100",
            max_batch=48,
            running=running,
            rate_rpm=rate_rpm,
            completions_rpm=rate_rpm,
            ttft_ms=90.0,
            itl_ms=11.0,
        )
        for name, running, rate_rpm in (("a", 3, 70.0), ("b", 5, 50.0), ("c", 0, None))
    ]
    view = server_view(pods=tuple(pods))
    seen = Snapshot(now_s=0.0, servers={"s1": view})
    answer = collect_message(seen, seen, {})
    rows = {row["name"]: row for row in answer["replicas"]}
    assert list(rows) == ["s1/a", "s1/b"]
    now = rows["s1/a"]["currentAlloc"]
    assert (now["accelerator"], now["numReplicas"], now["maxBatch"]) == ("H100", 1, 48)
    assert (now["avgConcurrency"], now["itlAverage"], now["ttftAverage"]) == (3, 11, 90)
    assert (now["load"]["arrivalRate"], now["load"]["throughput"]) == (70, 70)
    assert (now["load"]["avgInTokens"], now["load"]["avgOutTokens"]) == (512, 256)
    assert (rows["s1/a"]["class"], rows["s1/a"]["model"]) == ("Premium", "llama_8b")
    assert answer["servers"][0]["currentAlloc"]["avgConcurrency"] == 4


def test_a_server_of_unknown_load_has_no_replicas_for_a_tuner() -> None:
    """Nobody knows the tokens of its requests."""
    seen = Snapshot(now_s=0.0, servers={"s1": server_view(load=None)})
    answer = collect_message(seen, seen, {})
    assert answer["replicas"] == []
    assert "avgConcurrency" not in answer["servers"][0]["currentAlloc"]


def test_how_many_run_in_a_pod_that_does_not_tell_is_not_said() -> None:
    """A tuner would learn latencies of a batch of none."""
    told = pod_view("a", running=3, rate_rpm=70.0, completions_rpm=70.0)
    blind = replace(told, name="b", running=0, unknown_gauges=("running",))
    seen = Snapshot(now_s=0.0, servers={"s1": server_view(pods=(told, blind))})
    answer = collect_message(seen, seen, {})
    assert answer["servers"][0]["currentAlloc"]["avgConcurrency"] == 3
    rows = {row["name"]: row["currentAlloc"] for row in answer["replicas"]}
    assert rows["s1/a"]["avgConcurrency"] == 3
    assert "avgConcurrency" not in rows["s1/b"]
