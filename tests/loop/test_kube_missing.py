"""Replicas that do not come: what is said of them, when, and when the plan goes on without them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from loop.backends.kube.missing import ending_note, is_told, missing_line, missing_of, unmade
from loop.backends.kube.nodes import RETRY, Shortages
from loop.backends.kube.trouble import trouble_of
from loop.types import Missing
from tests.loop.kube_objects import Json, date, pod, server

NO_NODE = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."


def waiting(reason: str, message: str = "", **container: Any) -> Json:
    """Return the status of a pod whose container waits."""
    state = {"waiting": {"reason": reason, "message": message}}
    return {
        "conditions": [{"type": "PodScheduled", "status": "True"}],
        "containerStatuses": [{"name": "vllm", "state": state, "ready": False, **container}],
    }


def unscheduled(since_s: float = 0.0, **fields: Any) -> Json:
    """Return the status of a pod that no node takes."""
    scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    ready = {"type": "Ready", "status": "False", "lastTransitionTime": date(since_s)}
    return {"phase": "Pending", "conditions": [{**scheduled, "message": NO_NODE}, ready], **fields}


def waits(name: str, since_s: float = 0.0) -> Json:
    """Return a pod that no node takes."""
    return {**pod(name, phase="pending"), "status": unscheduled(since_s)}


SCHEDULED: Json = {"conditions": [{"type": "PodScheduled", "status": "True"}]}


def ended(where: str, name: str, **how: Any) -> Json:
    """Return the status of a pod one of whose containers has ended."""
    return {**SCHEDULED, where: [{"name": name, "state": {"terminated": how}}]}


def unready(status: str, reason: str, message: str) -> Json:
    """Return the status of a pod whose condition says why it is not ready."""
    ready = {"type": "Ready", "status": status, "reason": reason, "message": message}
    container = {"name": "vllm", "state": {"running": {}}, "ready": True}
    return {"conditions": [*SCHEDULED["conditions"], ready], "containerStatuses": [container]}


def probed(*, began: str, unready_since: str) -> Json:
    """Return the status of a pod whose container runs and is not ready."""
    ready = {"type": "Ready", "status": "False", "lastTransitionTime": unready_since}
    running = {"name": "vllm", "state": {"running": {"startedAt": began}}, "started": True}
    return {"conditions": [*SCHEDULED["conditions"], ready], "containerStatuses": [running]}


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (unscheduled(), "unschedulable", f"Unschedulable: {NO_NODE}"),
        ({}, "not-scheduled", "not scheduled"),
        (
            waiting("ImagePullBackOff", 'Back-off pulling "x"'),
            "image",
            'ImagePullBackOff: Back-off pulling "x"',
        ),
        (waiting("ErrImagePull"), "image", "ErrImagePull"),
        (waiting("ImageInspectError"), "image", "ImageInspectError"),
        (waiting("RegistryUnavailable"), "image", "RegistryUnavailable"),
        (waiting("SignatureValidationFailed", "no"), "image", "SignatureValidationFailed: no"),
        (waiting("PostStartHookError"), "crash", "PostStartHookError"),
        (waiting("VolumeNotYet", "pvc"), "starting", "VolumeNotYet: pvc"),
        (waiting("CreateContainerConfigError"), "crash", "CreateContainerConfigError"),
        (
            waiting(
                "CrashLoopBackOff",
                lastState={"terminated": {"reason": "OOMKilled", "exitCode": 137}},
            ),
            "crash",
            "CrashLoopBackOff: it ended with OOMKilled (exit code 137)",
        ),
        (waiting("ContainerCreating"), "starting", "its containers start"),
        (
            {
                "conditions": [{"type": "PodScheduled", "status": "True"}],
                "containerStatuses": [{"name": "vllm", "state": {"running": {}}, "started": True}],
            },
            "probe",
            "the readiness probe of container vllm has not succeeded",
        ),
        (
            probed(began="2026-01-01T00:00:00Z", unready_since="2026-01-01T02:00:00Z"),
            "unready",
            "they were ready, and the readiness probe of container vllm fails",
        ),
        (
            probed(began="2026-01-01T02:00:00Z", unready_since="2026-01-01T00:00:00Z"),
            "probe",
            "the readiness probe of container vllm has not succeeded",
        ),
        (
            ended("containerStatuses", "vllm", reason="OOMKilled", exitCode=137),
            "crash",
            "container vllm: it ended with OOMKilled (exit code 137)",
        ),
        (
            ended("initContainerStatuses", "fetch", reason="Error", exitCode=1),
            "crash",
            "container fetch: it ended with Error (exit code 1)",
        ),
        (
            ended("initContainerStatuses", "fetch", reason="Completed", exitCode=0),
            "starting",
            "its containers start",
        ),
        (
            {**SCHEDULED, "initContainerStatuses": [{"name": "fetch", "state": {"running": {}}}]},
            "starting",
            "its init container fetch runs",
        ),
        (
            unready("False", "ReadinessGatesNotReady", "gate x/y is False"),
            "probe",
            "ReadinessGatesNotReady: gate x/y is False",
        ),
        (unready("Unknown", "NodeStatusUnknown", "lost"), "node", "NodeStatusUnknown: lost"),
    ],
)
def test_why_a_pod_is_not_ready_is_read_from_its_status(status: Json, kind: str, text: str) -> None:
    """An operator must not have to ask kubectl pod by pod."""
    trouble = trouble_of(status)
    assert trouble is not None
    assert (trouble.kind, trouble.text) == (kind, text)


def test_the_line_says_how_many_for_how_long_and_why() -> None:
    """In the words of the scheduler."""
    one = server(pod("a"), waits("b", 5.0), waits("c", 10.0), replicas=3)
    missing = missing_of(one, now_s=100.0, give_up_s=600.0)
    assert missing is not None
    assert missing_line(missing) == f"2 of 3 not ready for 95 s: Unschedulable: {NO_NODE}"
    assert missing.given_up == 0
    later = missing_of(one, now_s=700.0, give_up_s=600.0)
    assert later is not None
    assert later.given_up == 2


def test_nothing_is_missing_where_all_are_ready() -> None:
    """Pods that a rolling change makes beside them are none of those wanted."""
    one = server(pod("a"), pod("b"), pod("c", phase="starting"), replicas=2)
    assert missing_of(one, now_s=0.0, give_up_s=600.0) is None


def test_a_quota_is_told_in_its_own_words_and_given_up_as_others_are() -> None:
    """There is no pod to ask, and the plan must not wait for ever for those that are refused."""
    failure = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreate",
        "message": "exceeded quota",
        "lastTransitionTime": "1970-01-01T00:01:40Z",
    }
    one = server(pod("a"), pod("b", phase="starting"), replicas=4, status={"conditions": [failure]})
    missing = missing_of(one, now_s=130.0, give_up_s=600.0)
    assert missing is not None
    assert is_told(missing)
    assert missing_line(missing) == "3 of 4 not ready for 30 s: FailedCreate: exceeded quota"
    later = missing_of(one, now_s=710.0, give_up_s=600.0)
    assert later is not None
    assert later.given_up >= 2


@pytest.mark.parametrize(
    ("since_s", "told", "given_up"), [(None, False, 0), (880.0, False, 0), (300.0, True, 2)]
)
def test_pods_that_nobody_has_made_for_long_are_told(
    since_s: float | None, told: bool, given_up: int
) -> None:
    """The cluster makes them within a moment, or says why not; or nobody there acts."""
    one = server(pod("a"), pod("b", phase="draining"), replicas=3)
    assert unmade(one)
    missing = missing_of(one, now_s=900.0, give_up_s=600.0, unmade_since_s=since_s)
    assert missing is not None
    assert (missing.kind, missing.count, is_told(missing)) == ("not-yet", 2, told)
    assert missing.given_up == given_up


@pytest.mark.parametrize(
    ("kind", "waited_s", "told"),
    [
        ("unschedulable", 10.0, False),
        ("unschedulable", 40.0, True),
        ("starting", 40.0, False),
        ("starting", 301.0, True),
        # Who was ready does not load a model, and is sorely missed.
        ("unready", 10.0, False),
        ("unready", 40.0, True),
    ],
)
def test_what_passes_by_itself_is_not_told(kind: Any, waited_s: float, told: bool) -> None:
    """A model loads for minutes; a warning each time would hide the others."""
    missing = Missing(count=1, wanted=2, waited_s=waited_s, kind=kind, text="x")
    assert is_told(missing) == told


def test_of_a_type_that_pods_wait_for_in_vain_there_is_no_more_than_is_held() -> None:
    """For a while, also when the plan asks for fewer: it would else ask again and again."""
    shortages = Shortages(give_up_s=600.0)
    waiting_now = [server(pod("a"), waits("b"), replicas=2)]
    content = [server(pod("a"), replicas=1)]

    def look(servers: list[Any], now_s: float) -> dict[str, int]:
        return shortages.look(
            servers, types={"H100": "H100"}, gpus={("llama_8b", "H100"): 2}, now_s=now_s
        )

    assert look(waiting_now, 599.0) == {}
    assert look(waiting_now, 600.0) == {"H100": 2}
    assert look(content, 660.0) == {"H100": 2}
    assert look(content, 600.0 + RETRY * 600.0) == {}


@pytest.mark.parametrize(
    ("reason", "message", "short"),
    [
        ("Unschedulable", "0/4 nodes are available: 4 Insufficient nvidia.com/gpu.", True),
        ("Unschedulable", "0/4 nodes are available: 2 Insufficient cpu, 2 Insufficient nvidia.com/"
         "gpu. preemption: 0/4 nodes are available: 4 No preemption victims found.", True),
        ("Unschedulable", "0/4 nodes are available: 4 cannot allocate all claims.", True),
        # Devices of other makers, and parts of them, whatever they are called.
        ("Unschedulable", "0/2 nodes are available: 2 ExclusiveDeviceAllocateConflict.", True),
        ("Unschedulable", "0/2 nodes are available: 1 Insufficient cpu, 1 NodeInsufficientDevice.",
         True),
        *(("Unschedulable", f"0/2 nodes are available: 2 Insufficient {resource}.", True)
          for resource in ("nvidia.com/gpumem", "aws.amazon.com/neuroncore", "example.com/npu",
                           "huawei.com/Ascend910B3")),
        *(("Unschedulable", f"0/2 nodes are available: 2 Insufficient {resource}.", False)
          for resource in ("ephemeral-storage", "hugepages-2Mi", "vpc.amazonaws.com/efa",
                           "nvidia.com/rdma_shared", "pods")),
        # The nodes that have GPUs may have been taken away as a whole.
        ("Unschedulable", "0/4 nodes are available: 4 node(s) didn't match Pod's node "
         "affinity/selector.", True),
        ("Unschedulable", "", True),
        ("Unschedulable", "0/4 nodes are available: pod has unbound immediate "
         "PersistentVolumeClaims.", False),
        ("Unschedulable", "0/4 nodes are available: 1 Insufficient memory, 3 Insufficient cpu.",
         False),
        ("Unschedulable", "0/4 nodes are available: 4 Insufficient rdma/hca.", False),
        ("Unschedulable", "0/4 nodes are available: 4 node(s) didn't have free ports for the "
         "requested pod ports.", False),
        ("Unschedulable", "0/4 nodes are available: 4 node(s) didn't match pod anti-affinity "
         "rules.", False),
        ("SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates", False),
    ],
)  # fmt: skip
def test_who_waits_for_something_else_leaves_the_gpus_to_others(
    reason: str, message: str, short: bool
) -> None:
    """A pod whose disk does not come says nothing about GPUs: all servers of its type were kept
    from growing for half an hour.
    """
    late = waits("b")
    late["status"]["conditions"][0] |= {"reason": reason, "message": message}
    most = Shortages(give_up_s=600.0).look(
        [server(pod("a"), late, replicas=2)],
        types={"H100": "H100"},
        gpus={("llama_8b", "H100"): 2},
        now_s=600.0,
    )
    assert most == ({"H100": 2} if short else {})


def test_a_pod_that_nobody_lists_any_more_is_short_of_nothing() -> None:
    """It may have started long since: what was seen before would hold all other namespaces."""
    shortages = Shortages(give_up_s=600.0)
    seen_before = [server(pod("a"), waits("b"), replicas=2)]

    def look(now_s: float, *, unlisted: Collection[str]) -> dict[str, int]:
        return shortages.look(
            seen_before,
            types={"H100": "H100"},
            gpus={("llama_8b", "H100"): 2},
            now_s=now_s,
            unlisted=unlisted,
        )

    space = seen_before[0].deployment.namespace
    assert look(600.0, unlisted=[space]) == {}
    assert look(660.0, unlisted=[]) == {"H100": 2}
    # What was found while it was listed counts for its time, and no longer.
    assert look(1200.0, unlisted=[space]) == {"H100": 2}
    assert look(660.0 + RETRY * 600.0, unlisted=[space]) == {}


def test_pods_that_should_have_ended_are_told() -> None:
    """Six held their GPUs for two hours, and new ones waited for these."""
    stuck = [pod(name, phase="draining", since_s=-7200.0) for name in "abcd"]
    note = ending_note(server(pod("z"), *stuck), now_s=0.0)
    assert note.startswith("s1: 4 pods should have ended and have not (dep1-")
    assert ", …): is the node lost, or does a finalizer keep it?" in note
    soon = pod("a", phase="draining", since_s=-240.0)
    assert ending_note(server(pod("z"), soon), now_s=0.0) == ""


def test_pods_that_end_within_their_grace_period_are_not_told() -> None:
    """Long answers may take half an hour to end, and such a pod was told of after five minutes."""
    ends = pod("a", phase="draining")
    ends["metadata"] |= {"deletionTimestamp": date(1800.0), "deletionGracePeriodSeconds": 1800}
    assert ending_note(server(pod("z"), ends), now_s=2000.0) == ""
    assert ending_note(server(pod("z"), ends), now_s=2200.0)
