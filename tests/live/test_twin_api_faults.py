"""Faults that clients of the twin meet over real HTTP; and how it stops, fails, and answers what is
no API call.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from typing import Any

import httpx
import pytest
import urllib3
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from tests.live.served import allowed_s
from tests.live.twin_served import DEADLINE_S, ServedTwin, serving_twin
from twin.kube.apiserver.auth import ANONYMOUS, Identity, Rule
from twin.kube.apiserver.server import BODY_BYTES_MAX
from twin.kube.faults import Fault, Match

SPACES = "/api/v1/namespaces"
PATCHES = Match(verbs=("patch",), resources=("deployments",))


def deployment() -> dict[str, Any]:
    """Return a Deployment of the default namespace."""
    template = {
        "metadata": {"labels": {"app": "d"}},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]},
    }
    spec = {"replicas": 0, "selector": {"matchLabels": {"app": "d"}}, "template": template}
    return {"metadata": {"name": "d"}, "spec": spec}


def scale(apps: client.AppsV1Api, replicas: int) -> Any:
    """Ask for *replicas* by a patch."""
    return apps.patch_namespaced_deployment(
        "d", "default", {"spec": {"replicas": replicas}}, _request_timeout=(5, 5)
    )


def wanted(apps: client.AppsV1Api) -> int:
    """Return how many replicas are asked for."""
    return int(apps.read_namespaced_deployment("d", "default").spec.replicas)


@pytest.mark.parametrize("status", [409, 422, 429, 500, 503])
def test_errors_come_as_often_as_asked_and_nothing_is_done(status: int) -> None:
    """The reason is the one that goes with the code."""
    fault = Fault(kind="error", match=PATCHES, status=status, count=2, retry_after_s=1)
    with serving_twin(faults=[fault]) as twin, twin.api() as api:
        apps = client.AppsV1Api(api)
        apps.create_namespaced_deployment("default", deployment())
        for _ in range(2):
            with pytest.raises(ApiException) as error:
                scale(apps, 3)
            assert (error.value.status, json.loads(error.value.body)["code"]) == (status, status)
            assert error.value.headers["Retry-After"] == "1"
            assert wanted(apps) == 0
        assert scale(apps, 3).spec.replicas == 3


def test_a_delay_makes_a_client_time_out_while_others_are_served() -> None:
    """A slow answer to one must not stop the world."""
    with (
        serving_twin(faults=[Fault(kind="delay", match=PATCHES, delay_s=DEADLINE_S)]) as twin,
        twin.api() as api,
    ):
        apps = client.AppsV1Api(api)
        apps.create_namespaced_deployment("default", deployment())
        with pytest.raises(urllib3.exceptions.HTTPError):
            apps.patch_namespaced_deployment(
                "d", "default", {"spec": {"replicas": 3}}, _request_timeout=(1, 0.2)
            )
        assert wanted(apps) == 0


@pytest.mark.parametrize(("after", "replicas"), [(False, 0), (True, 3)])
def test_a_connection_is_cut_before_or_after_the_deed(after: bool, replicas: int) -> None:
    """The client sees the same, and must not estimate that nothing happened."""
    with (
        serving_twin(faults=[Fault(kind="drop", match=PATCHES, after=after, count=1)]) as twin,
        twin.api() as api,
    ):
        apps = client.AppsV1Api(api)
        apps.create_namespaced_deployment("default", deployment())
        with pytest.raises(urllib3.exceptions.HTTPError):
            scale(apps, 3)
        assert wanted(apps) == replicas


def test_faults_are_switched_on_and_off_by_an_administrator() -> None:
    """So a walk-through can show them."""
    tokens = {
        "root": Identity(user="root", groups=("system:masters",)),
        "user": Identity(user="user", rules=(Rule(verbs=("*",)),)),
    }
    with serving_twin(tokens=tokens, anonymous=ANONYMOUS) as twin:

        def ask(method: str, path: str, *, token: str, body: str = "") -> httpx.Response:
            return twin.http.request(
                method, path, content=body, headers={"Authorization": f"Bearer {token}"}
            )

        body = (
            "faults: [{kind: error, status: 503, verbs: [list], resources: [namespaces], count: 1}]"
        )
        assert ask("PUT", "/twin/faults", token="user", body=body).status_code == 403
        assert ask("PUT", "/twin/faults", token="wrong", body=body).status_code == 401
        assert ask("PUT", "/twin/faults", token="root", body=body).status_code == 200
        assert [ask("GET", SPACES, token="user").status_code for _ in range(2)] == [503, 200]
        (shown,) = ask("GET", "/twin/faults", token="root").json()["faults"]
        assert (shown["matched"], shown["suffered"]) == (2, 1)
        assert (
            ask("PUT", "/twin/faults", token="root", body="faults: [{kind: x}]").status_code == 400
        )


def test_the_twin_stops_within_a_second_also_while_somebody_watches(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A watch lasts for half an hour; its end is a normal one."""
    ended = threading.Event()

    def watch(twin: ServedTwin) -> None:
        url = f"{twin.url}{SPACES}"
        with httpx.stream(
            "GET", url, params={"watch": "true"}, timeout=DEADLINE_S, trust_env=False
        ) as answer:
            for _ in answer.iter_lines():
                began.set()
        ended.set()

    began = threading.Event()
    with caplog.at_level(logging.ERROR), serving_twin() as twin:
        thread = threading.Thread(target=watch, args=(twin,), daemon=True)
        thread.start()
        assert began.wait(DEADLINE_S)
        assert twin.stop() < allowed_s(1.0)
        thread.join(DEADLINE_S)
    assert ended.is_set()
    assert [record.message for record in caplog.records] == []


def test_a_world_that_breaks_says_so_to_everybody(caplog: pytest.LogCaptureFixture) -> None:
    """A twin that stands still and goes on answering would look like a quiet cluster."""

    class BrokenClock:
        broken = False

        def now_s(self) -> float:
            if self.broken:
                raise RuntimeError("the clock is broken")
            return 0.0

    clock = BrokenClock()
    with caplog.at_level(logging.CRITICAL), serving_twin(clock=clock.now_s) as twin:
        assert twin.http.get("/healthz").status_code == 200
        clock.broken = True
        end_s = time.monotonic() + DEADLINE_S
        while (answer := twin.http.get("/readyz")).status_code == 200:
            assert time.monotonic() < end_s
            time.sleep(0.01)
        assert (
            answer.json()["message"] == "the world has stopped: RuntimeError: the clock is broken"
        )


def test_a_body_that_is_too_large_is_413() -> None:
    """As a real server has it."""
    with serving_twin() as twin:
        answer = twin.http.post(SPACES, content=b" " * (BODY_BYTES_MAX + 1))
    assert (answer.status_code, answer.json()["reason"]) == (413, "RequestEntityTooLarge")


def test_pages_for_prometheus_need_no_token() -> None:
    """A scraper has none; they tell nothing but figures."""
    with serving_twin(anonymous=ANONYMOUS) as twin:
        for path, start in (("/metrics", ""), ("/sd/pods", "[")):
            answer = httpx.get(f"{twin.url}{path}", trust_env=False)
            assert (answer.status_code, answer.text[: len(start)]) == (200, start)
        assert httpx.get(f"{twin.url}{SPACES}", trust_env=False).status_code == 403
