"""What holds for every service, whatever its verbs: probes, metrics, a body that is cut."""

from __future__ import annotations

import re
import socket
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.rules.ours import OURS
from loop.schema.answers import Alive, Collection, CycleLine, Paused, Ready
from loop.services.door import DoorSettings
from loop.services.optimizer_app import make_optimizer_app
from loop.testing.fakes import FakeBackend, server_view
from loop.types import Snapshot
from tests.live.optimizer_bodies import body, server
from tests.live.optimizer_served import DEADLINE_S, eventually
from tests.live.optimizer_served import serving as serving_app
from tests.live.prometheus_server import program
from tests.live.served import serving as serving_controller
from tests.live.world_served import serving_world

VERBS = {
    "controller": ("POST", "/invoke"),
    "collector": ("GET", "/collect"),
    "optimizer": ("POST", "/optimizeOne"),
    "actuator": ("POST", "/update"),
}


class CountedBackend(FakeBackend):
    """A world that counts how often somebody looked at it."""

    observed = 0

    def observe(self) -> Snapshot:
        """Count, and look."""
        self.observed += 1
        return super().observe()


@contextmanager
def serving_one(
    name: str, world: FakeBackend, *, door: DoorSettings | None = None
) -> Iterator[httpx.Client]:
    """Serve the service *name* over *world*."""
    with ExitStack() as stack:
        if name == "controller":
            yield stack.enter_context(serving_controller(world, door=door)).client
        elif name == "optimizer":
            app = make_optimizer_app(settings=OptimizerSettings(rules=OURS), stateful=True)
            yield stack.enter_context(serving_app(app, door=door))
        else:
            yield getattr(stack.enter_context(serving_world(world, door=door)), name)


@pytest.fixture
def world() -> CountedBackend:
    """Return a world that counts what is asked of it."""
    return CountedBackend([server_view()])


@pytest.fixture(params=VERBS)
def service(request: pytest.FixtureRequest, world: CountedBackend) -> Iterator[httpx.Client]:
    """Serve each service in turn."""
    with serving_one(request.param, world) as client:
        yield client


def test_probes_and_metrics_answer(service: httpx.Client) -> None:
    """One scrape configuration and one set of probes fits all."""
    assert service.get("/healthz").json() == {"alive": True}
    assert service.get("/readyz").json()["ready"] is True
    assert service.get("/nowhere").json() == {"message": "GET /nowhere: Not Found"}
    page = service.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    found = [
        (sample.labels["method"], sample.labels["status"], sample.value)
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
        if sample.name == "inferno_requests_total"
    ]
    assert found == [("GET", "404", 1.0)], "probes and scrapes do not count"


@pytest.mark.parametrize("name", VERBS)
def test_promtool_takes_the_page_of_metrics(name: str, world: CountedBackend) -> None:
    """A page with a metric told twice, or of no type, is scraped in part or not at all."""
    tool = program("promtool")
    bodies = {"optimizer": body(server()), "actuator": {"allocations": {}}}
    method, path = VERBS[name]
    with serving_one(name, world) as client:
        assert client.request(method, path, json=bodies.get(name)).status_code == 200
        page = client.get("/metrics").text
    assert "inferno_desired_replicas{" in page
    done = subprocess.run(
        [tool, "check", "metrics"], input=page, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["controller", "actuator"])
def test_a_body_that_is_cut_asks_for_nothing(name: str, world: CountedBackend) -> None:
    """No body at all means a cycle that acts: a broken connection must not mean that."""
    method, path = VERBS[name]
    with serving_one(name, world) as client:
        seen = world.observed
        address = (client.base_url.host, client.base_url.port or 80)
        with socket.create_connection(address, timeout=DEADLINE_S) as cut:
            cut.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n".encode())
            cut.sendall(b"Content-Length: 18\r\n\r\n")
        eventually(lambda: 'status="0"' in client.get("/metrics").text, "it is told as cut")
        assert world.observed == seen
        assert world.applied == []


def test_the_page_of_verbs_loads_nothing_from_elsewhere(service: httpx.Client) -> None:
    """The script of a third party in an operator's browser could do what the operator can."""
    page = service.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "http" not in page.text
    for loaded in re.findall(r"(?:src|href)=\"([^\"]*)\"", page.text):
        assert loaded == "data:," or service.get(f"/{loaded}").status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    (start,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    assert b64encode(sha256(start.encode()).digest()).decode() in policy
    assert service.get("/docs/..%2Fmain.py").status_code == 404


def test_who_opens_a_service_in_a_browser_comes_to_its_verbs(service: httpx.Client) -> None:
    """Its address alone was an error 404, of which a person learns nothing."""
    page = service.get("/", follow_redirects=True)
    assert (page.status_code, page.url.path) == (200, "/docs")
    assert page.text == service.get("/docs").text


def test_every_verb_is_described_with_models(service: httpx.Client) -> None:
    """A client can be generated from it, and the page shows what comes back. Warnings are errors
    here: FastAPI warns of two verbs of one name.
    """
    described = service.get("/openapi.json").json()
    names = []
    for path, methods in described["paths"].items():
        for method, verb in methods.items():
            names.append(verb["operationId"])
            # Verbs of the table of kinds are told by their names, others by what they do.
            named = path.startswith(("/get", "/set", "/add", "/remove", "/apply"))
            assert named or len(verb["summary"].split()) > 2, path
            success = verb["responses"]["200"]
            for kind, content in success.get("content", {}).items():
                assert kind == "application/json"
                assert content["schema"] not in ({}, {"title": "Response"}), (method, path)
            if method == "post" and path in ("/invoke", "/update", "/optimizeOne", "/optimize"):
                assert verb["requestBody"]["content"]["application/json"]["schema"]
    assert len(set(names)) == len(names)
    # Only what differs from policy to policy is of no form: a program that is made from this has
    # a field of nothing else that it cannot read.
    formless = {
        key
        for model in described["components"]["schemas"].values()
        for key, field in (model.get("properties") or {}).items()
        for form in field.get("anyOf", [field])
        if form.get("additionalProperties") is True
    }
    assert formless <= {"details", "snapshot"}


def test_answers_are_as_they_are_described(world: CountedBackend) -> None:
    """A field that is added must be added to its model; one that is not described is refused."""
    with serving_one("controller", world) as client:
        CycleLine.model_validate(client.post("/invoke").json(), strict=True)
        Alive.model_validate(client.get("/healthz").json(), strict=True)
        Ready.model_validate(client.get("/readyz").json(), strict=True)
        Paused.model_validate(client.post("/pause").json(), strict=True)
        world.failing.add("observe")
        failed = client.post("/invoke")
        assert failed.status_code == 503
        CycleLine.model_validate(failed.json(), strict=True)
    world.failing.clear()
    with serving_one("collector", world) as client:
        told = Collection.model_validate(client.get("/collect").json())
        assert [server.name for server in told.servers] == ["s1"]
