"""Who else scales a server: autoscalers by name, and when the loop steps back."""

from __future__ import annotations

import pytest

from loop.backends.kube.read import Server, Servers, assign
from loop.backends.kube.rivals import (
    QUIET_S,
    REVERSALS_MAX,
    Contest,
    Rivals,
    read_autoscalers,
    rival_notes,
    taken_over_notes,
)
from tests.loop.kube_objects import Json, alive, pod, read


def autoscaler(
    name: str = "hpa",
    *,
    target: str = "dep1",
    kind: str = "Deployment",
    owners: tuple[Json, ...] = (),
) -> Json:
    """Return a HorizontalPodAutoscaler."""
    return {
        "metadata": {"name": name, "namespace": "infer", "ownerReferences": owners},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": kind, "name": target}},
    }


def test_an_autoscaler_that_targets_a_server_is_named() -> None:
    """By what people made: a ScaledObject makes the HorizontalPodAutoscaler behind it."""
    keda = autoscaler("keda-hpa-x", owners=({"kind": "ScaledObject", "name": "x"},))
    told: list[str] = []
    objects = [
        autoscaler(),
        keda,
        autoscaler("b", target="other"),
        autoscaler("c", kind="StatefulSet"),
        {"metadata": {"name": "odd", "namespace": "infer"}},
    ]
    lines = rival_notes([read()], read_autoscalers(objects, told=told))
    assert [line.split(" scales")[0] for line in lines] == [
        "s1: HorizontalPodAutoscaler infer/hpa",
        "s1: ScaledObject infer/x",
    ]
    assert len(told) == 1


def test_what_has_made_a_deployment_and_what_scales_that_are_named() -> None:
    """Operators of inference servers make Deployments, set their replicas anew whenever they look,
    and have autoscalers that target their own objects.
    """
    owner = {"kind": "VLLMRuntime", "name": "chat", "controller": True}
    one = read(metadata={"ownerReferences": [{"kind": "App", "name": "x"}, owner]})
    found = [autoscaler(target="chat", kind="VLLMRuntime"), autoscaler("b", target="chat")]
    maker, scaled = rival_notes([one], read_autoscalers(found, told=[]))
    assert maker.startswith("s1: VLLMRuntime infer/chat has made it, and may undo what is asked")
    assert scaled.startswith("s1: HorizontalPodAutoscaler infer/hpa scales it too")


def test_a_template_that_another_controller_has_taken_over_is_told() -> None:
    """A Rollout that refers to a Deployment scales it to zero: its server had no load, and nobody
    said where that was.
    """
    of_it = {"kind": "ReplicaSet", "name": "dep1-6c8b", "controller": True}
    theirs = pod("x")
    theirs["metadata"] |= {"labels": {"app": "dep1"}, "ownerReferences": [of_it]}
    other = pod("y", of="else")
    other["metadata"] |= {"labels": {"app": "else"}, "ownerReferences": [of_it]}
    mine, unowned = assign([read(replicas=0)], alive(theirs, other))
    assert not mine
    servers = {"s1": Server(deployment=read(replicas=0), pods=())}
    (line,) = taken_over_notes(Servers(by_name=servers, unowned=tuple(unowned)))
    assert line.startswith("s1: it has no pods, and those that its selector matches are of another")
    busy = {"s1": Server(deployment=read(), pods=alive(pod("z")))}
    assert taken_over_notes(Servers(by_name=busy, unowned=tuple(unowned))) == []


@pytest.mark.parametrize(
    ("annotations", "line"),
    [
        ({}, "s1: ScaledObject infer/x scales it too"),
        ({"autoscaling.keda.sh/paused": "false"}, "s1: ScaledObject infer/x scales it too"),
        ({"autoscaling.keda.sh/paused": "true"}, "s1: ScaledObject infer/x is paused"),
        ({"autoscaling.keda.sh/paused-replicas": "0"}, "s1: ScaledObject infer/x is paused"),
    ],
)
def test_a_scaled_object_is_named_once_and_known_when_it_is_paused(
    annotations: dict[str, str], line: str
) -> None:
    """A paused one has no HorizontalPodAutoscaler, and undoes everything when it goes on."""
    one = {
        "kind": "ScaledObject",
        "metadata": {"name": "x", "namespace": "infer", "annotations": annotations},
        "spec": {"scaleTargetRef": {"name": "dep1"}},
    }
    objects = [one]
    if "scales" in line:
        objects.append(autoscaler("keda-hpa-x", owners=({"kind": "ScaledObject", "name": "x"},)))
    (found,) = rival_notes([read()], read_autoscalers(objects, told=[]))
    assert found.startswith(line)


def undo(rivals: Rivals, times: int, *, every_s: float = 60.0, begin_s: float = 0.0) -> float:
    """Let somebody else change back so often what the loop asks for; return when last."""
    now_s = begin_s
    for _ in range(times):
        rivals.asked("s1")
        now_s += every_s
        rivals.changed("s1", by="kube-controller-manager", now_s=now_s)
    return now_s


def test_the_loop_steps_back_after_the_third_reversal_in_a_row_until_it_is_quiet() -> None:
    """Two that undo each other restart pods for ever, and neither is right."""
    rivals = Rivals()
    now_s = undo(rivals, REVERSALS_MAX - 1)
    assert rivals.hold("s1", now_s=now_s) is None
    now_s = undo(rivals, 1, begin_s=now_s)
    hold = rivals.hold("s1", now_s=now_s + 30.0)
    assert hold is not None
    assert hold.kind == "rival"
    assert "kube-controller-manager has changed it back 3 times in a row" in hold.text
    assert rivals.hold("s2", now_s=now_s) is None
    # It goes on scaling: not quiet yet.
    rivals.changed("s1", by="kube-controller-manager", now_s=now_s + QUIET_S - 1.0)
    assert rivals.hold("s1", now_s=now_s + QUIET_S) is not None
    assert rivals.hold("s1", now_s=now_s + 2 * QUIET_S) is None
    rivals.asked("s1")
    rivals.changed("s1", by="x", now_s=now_s + 2 * QUIET_S)
    assert rivals.hold("s1", now_s=now_s + 2 * QUIET_S) is None


@pytest.mark.parametrize("times", [3, 10])
def test_changes_of_others_alone_are_no_contest(times: int) -> None:
    """A person who tries three values undoes nothing of the loop's but once."""
    rivals = Rivals()
    rivals.asked("s1")
    for number in range(times):
        rivals.changed("s1", by="kubectl-scale", now_s=10.0 * number)
    assert rivals.hold("s1", now_s=10.0 * times) is None


def test_reversals_that_are_far_apart_are_not_in_a_row() -> None:
    """A person who sets another value every hour is right to."""
    rivals = Rivals()
    now_s = undo(rivals, 9, every_s=QUIET_S + 1.0)
    assert rivals.hold("s1", now_s=now_s) is None


def test_a_loop_that_has_just_begun_goes_on_counting() -> None:
    """What was undone is noted on the Deployment when it is asked for once more."""
    rivals = Rivals()
    before = Contest(undone=REVERSALS_MAX - 1, last_s=-QUIET_S / 2.0)
    rivals.begin("s1", before)
    rivals.changed("s1", by="x", now_s=1.0, status="asked at noon")
    assert rivals.hold("s1", now_s=1.0) is not None
    rivals.begin("s1", before)
    assert rivals.contest("s1").undone == REVERSALS_MAX
    # One that was long ago is no contest any more, and one change is undone once.
    rivals.begin("s2", before)
    for now_s in (QUIET_S, 700.0, 800.0, 900.0):
        rivals.changed("s2", by="x", now_s=now_s, status="asked at noon")
    assert rivals.hold("s2", now_s=900.0) is None
    assert rivals.contest("s2").undone == 1


def test_a_contest_on_what_is_gone_is_remembered_as_long_as_it_counts() -> None:
    """Who deletes a Deployment and makes it anew may take longer than from one look to the next."""
    rivals = Rivals()
    now_s = undo(rivals, REVERSALS_MAX - 1)
    rivals.forget([], now_s=now_s + 1.0)
    now_s = undo(rivals, 1, begin_s=now_s)
    assert rivals.hold("s1", now_s=now_s) is not None
    rivals.forget([], now_s=now_s + QUIET_S)
    assert rivals.contest("s1") == Contest()


def test_who_stands_by_counts_what_others_of_the_loop_asked() -> None:
    """It does not begin the contest anew when it takes over."""
    rivals = Rivals()
    for number in range(REVERSALS_MAX):
        rivals.changed("s1", by="x", now_s=60.0 * number, status=f"asked {number}")
    assert rivals.hold("s1", now_s=60.0 * REVERSALS_MAX) is not None
