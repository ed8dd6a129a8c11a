"""The actuator as a service: it asks for what differs, leaves alone who is held or absent, and says
what went wrong.
"""

from __future__ import annotations

from typing import Any

import pytest

from loop.actors import Owner
from loop.errors import BackendError, SpecError
from loop.schema.messages import Absent
from loop.services.actuator_app import make_actuator_app
from loop.testing.fakes import FakeBackend, change, server_view
from loop.types import Why
from tests.live.world_served import serving_world

RESOURCES = {
    name: {"uid": f"u-{name}", "name": name, "space": "infer"} for name in ("s1", "s2", "gone")
}


def world() -> FakeBackend:
    """Return a world of two servers, each with 2 replicas on H100."""
    return FakeBackend([server_view("s1"), server_view("s2")])


def body(**allocations: dict[str, Any]) -> dict[str, Any]:
    """Return a message as an existing controller sends it."""
    return {"allocations": allocations, "kube-resources": RESOURCES}


def test_it_asks_for_what_differs_and_says_done() -> None:
    """What is there already needs no patch; the answer is that of the existing one."""
    behind = world()
    with serving_world(behind) as services:
        answer = services.actuator.post(
            "/update",
            json=body(
                s1={
                    "accelerator": "2xA100",
                    "numReplicas": 3,
                    "maxBatch": 19,
                    "load": {"arrivalRate": 30},
                },
                s2={"accelerator": "H100", "numReplicas": 2, "maxBatch": 64},
            ),
        )
    assert (answer.status_code, answer.json()) == (200, "Done")
    assert behind.applied == [
        (change(accelerator="2xA100", replicas=3, max_batch=19, why=Why(kind="remote")),)
    ]


def test_asking_again_asks_for_nothing() -> None:
    """A controller that lost the answer repeats itself."""
    behind = world()
    message = body(s1={"accelerator": "H100", "numReplicas": 5, "maxBatch": 64})
    with serving_world(behind) as services:
        for _ in range(2):
            assert services.actuator.post("/update", json=message).status_code == 200
    assert len(behind.applied) == 1


@pytest.mark.parametrize(("absent", "replicas"), [("hold", 2), ("zero", 0)])
def test_a_server_without_an_allocation_is_held_unless_told_otherwise(
    absent: Absent, replicas: int
) -> None:
    """The existing one ends it: an optimizer that forgot a server would end that server."""
    behind = world()
    with serving_world(behind, absent=absent) as services:
        services.actuator.post(
            "/update", json=body(s1={"accelerator": "H100", "numReplicas": 3, "maxBatch": 64})
        )
    assert (behind.views["s1"].wanted, behind.views["s2"].wanted) == (3, replicas)
    assert (behind.views["s2"].accelerator, behind.views["s2"].max_batch) == ("H100", 64)


def test_a_server_that_is_gone_stops_nobody() -> None:
    """Somebody may delete a Deployment between two messages."""
    behind = world()
    one = {"accelerator": "H100", "numReplicas": 4, "maxBatch": 64}
    with serving_world(behind) as services:
        assert services.actuator.post("/update", json=body(gone=one, s1=one)).status_code == 200
    assert behind.views["s1"].wanted == 4


def test_bounds_of_a_server_win_over_what_is_asked_for() -> None:
    """An annotation says never below; whoever asks."""
    behind = FakeBackend([server_view("s1", replicas_min=1, replicas_max=6)])
    with serving_world(behind) as services:
        for replicas in (0, 9):
            services.actuator.post(
                "/update",
                json=body(s1={"accelerator": "H100", "numReplicas": replicas, "maxBatch": 64}),
            )
    assert [changes[0].replicas for changes in behind.applied] == [1, 6]


def test_our_controller_may_ask_for_one_and_the_others_are_named_and_held() -> None:
    """Somebody scaled s2 by hand after we looked: our message must not scale it back."""
    behind = world()
    with serving_world(behind) as services:
        services.backend.observe()
        behind.views["s2"] = server_view("s2", wanted=7)
        services.backend.apply([change(replicas=1)])
    assert behind.views["s2"].wanted == 7
    assert behind.applied == [(change(replicas=1),)]


def test_a_server_without_an_accelerator_is_held_through_the_services_too() -> None:
    """An empty accelerator ends a server in these messages, but not one that is marked as held."""
    behind = FakeBackend(
        [server_view("s1", accelerator="", wanted=3, load=None), server_view("s2")]
    )
    with serving_world(behind) as services:
        services.backend.observe()
        services.backend.apply([change("s2", replicas=5)])
        assert (behind.views["s1"].wanted, behind.views["s2"].wanted) == (3, 5)
        message = body(s1={"accelerator": "", "numReplicas": 3, "maxBatch": 0})
        assert services.actuator.post("/update", json=message).status_code == 200
    assert behind.views["s1"].wanted == 0


@pytest.mark.parametrize("phase", ["observe", "apply"])
def test_a_world_that_fails_is_told_and_the_controller_records_it(phase: str) -> None:
    """Any status but 200 ends the cycle of an existing controller too."""
    behind = world()
    with serving_world(behind) as services:
        services.backend.observe()
        behind.failing = {phase}
        asked = change(replicas=1)
        with pytest.raises(
            BackendError, match=r"actuator http://.*/update: 503 the world"
        ) as caught:
            services.backend.apply([asked])
    assert caught.value.phase == "apply"
    assert behind.views["s1"].wanted == 2


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{}", "body: allocations: expected an object {…}, found nothing"),
        ('{"allocations": null}', "body: allocations: expected an object {…}, found nothing"),
        ("", "body: expected JSON, found nothing"),
        ("[1", "body: line 1: expected JSON, found a fault in column 3 (Expecting"),
        (
            '{"allocations": {"s1": {"numReplicas": -1}}}',
            "body: allocations.s1.numReplicas: expected a whole number >= 0, found -1",
        ),
        (
            '{"allocations": {"s1": {"numReplicas": 1.5}}}',
            "body: allocations.s1.numReplicas: expected a whole number >= 0, found 1.5",
        ),
        (
            '{"allocations": {"s1": {"numReplicas": 1e99}}}',
            "body: allocations.s1.numReplicas: expected a whole number >= 0, found 1e+99",
        ),
    ],
)
def test_a_body_that_makes_no_sense_asks_for_nothing(text: str, line: str) -> None:
    """Above all, nothing said must not be taken for nothing wanted."""
    behind = world()
    with serving_world(behind, absent="zero") as services:
        answer = services.actuator.post("/update", content=text)
    assert answer.status_code == 400
    assert line in answer.json()["message"]
    assert behind.applied == []


def test_other_verbs_and_paths_are_refused_in_one_line() -> None:
    """A probe of a wrong address must not look like a success."""
    with serving_world(world()) as services:
        assert services.actuator.get("/update").json() == {
            "message": "GET /update: Method Not Allowed"
        }
        assert services.actuator.post("/collect").status_code == 404


def test_another_word_for_the_absent_is_refused_at_the_start() -> None:
    """A typo must not decide what becomes of servers."""
    with pytest.raises(SpecError, match="absent: expected hold or zero, found 'delete'"):
        make_actuator_app(world(), Owner(), absent="delete")  # type: ignore[arg-type] # as a command would
