"""The whole way of a user, with the commands as processes: apply, emulate, scale up and down,
/invoke, clean up.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from loop.backends.kube import labels as names

DEADLINE_S = 120.0  # a real cluster pulls images
STOP_S = 10.0  # far less than the 30 s after which a cluster kills
NAME = "premium-llama-13b"
STEP_UP = 3  # far less than the load needs


@dataclass(frozen=True, kw_only=True)
class Target:
    """A cluster to work on, by its kubeconfig, and a namespace of our own in it."""

    kubeconfig: Path
    namespace: str
    apps: client.AppsV1Api
    core: client.CoreV1Api
    repository: Path
    folder: Path

    def labels(self) -> dict[str, str]:
        """Return the labels of the server."""
        return dict(self.apps.read_namespaced_deployment(NAME, self.namespace).metadata.labels)

    def label(self, **load: str) -> None:
        """Set load labels: rpm, intokens, outtokens."""
        body = {
            "metadata": {
                "labels": {f"inferno.server.load.{key}": value for key, value in load.items()}
            }
        }
        self.apps.patch_namespaced_deployment(NAME, self.namespace, body)

    def replicas(self) -> int:
        """Return how many replicas the server is asked to have."""
        return self.apps.read_namespaced_deployment(NAME, self.namespace).spec.replicas or 0

    def ready(self) -> int:
        """Return how many of them serve."""
        return self.apps.read_namespaced_deployment(NAME, self.namespace).status.ready_replicas or 0

    def pods(self) -> int:
        """Return how many pods there are of the server."""
        return len(
            self.core.list_namespaced_pod(self.namespace, label_selector=f"app={NAME}").items
        )

    def arguments(self, *words: str) -> list[str]:
        """Return a command of ours for this namespace of this cluster."""
        where = ["--namespace", self.namespace, "--kubeconfig", str(self.kubeconfig)]
        return [sys.executable, "-m", "inferno", *words, *where]


@contextmanager
def process(command: Sequence[str], *, cwd: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run *command* with its stderr in *log*; it is gone at the end."""
    with log.open("wb") as file:
        running = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=file)
    try:
        yield running
    finally:
        running.kill()
        running.wait(DEADLINE_S)


def ends_well(running: subprocess.Popen[bytes]) -> bool:
    """Tell it to stop, as a cluster does; it has succeeded then, within a few seconds."""
    running.send_signal(signal.SIGTERM)
    return running.wait(STOP_S) == 0


def eventually(happened: Callable[[], object], what: str) -> None:
    """Wait until *happened*, at most until the deadline."""
    end_s = time.monotonic() + DEADLINE_S
    while not happened():
        assert time.monotonic() < end_s, f"waited in vain: {what}"
        time.sleep(0.05)


def address(log: Path) -> str:
    """Return the address that a service says it listens at."""
    eventually(
        lambda: re.search(r"http://[^\s\";/]+", log.read_text()), f"{log.name} names its address"
    )
    found = re.search(r"http://[^\s\";/]+", log.read_text())
    assert found
    return found[0]


@contextmanager
def twin_kubeconfig(repository: Path, folder: Path) -> Iterator[Path]:
    """Serve the twin as a cluster; give its kubeconfig."""
    kubeconfig, log = folder / "kubeconfig", folder / "twin.log"
    words = ["twin", "serve", "--data", "sample-data/large", "--port", "0", "--speed", "20"]
    command = [sys.executable, "-m", "inferno", *words, "--kubeconfig", str(kubeconfig)]
    with process(command, cwd=repository, log=log) as twin:
        address(log)
        yield kubeconfig
        assert ends_well(twin)


@pytest.fixture(params=["twin", "real"])
def target(request: pytest.FixtureRequest, repository: Path, tmp_path: Path) -> Iterator[Target]:
    """Give each cluster with a namespace that is deleted at the end; skip the real one where none
    is named.
    """
    if request.param == "twin":
        with twin_kubeconfig(repository, tmp_path) as kubeconfig:
            yield from prepared(kubeconfig, repository, tmp_path)
    elif path := os.environ.get("KUBECONFIG_CONTRACT"):
        yield from prepared(Path(path), repository, tmp_path)
    else:
        pytest.skip("KUBECONFIG_CONTRACT names no real cluster")


def prepared(kubeconfig: Path, repository: Path, folder: Path) -> Iterator[Target]:
    """Make a namespace, and take it away again with all that is in it."""
    settings = client.Configuration()
    config.load_kube_config(config_file=str(kubeconfig), client_configuration=settings)
    namespace = f"inferno-e2e-{uuid4().hex[:6]}"
    with client.ApiClient(settings) as api:
        core = client.CoreV1Api(api)
        core.create_namespace({"metadata": {"name": namespace}})
        try:
            yield Target(
                kubeconfig=kubeconfig,
                namespace=namespace,
                apps=client.AppsV1Api(api),
                core=core,
                repository=repository,
                folder=folder,
            )
        finally:
            core.delete_namespace(namespace)
            eventually(
                lambda: is_gone(lambda: core.read_namespace(namespace)), "the namespace is gone"
            )


def is_gone(read: Callable[[], Any]) -> bool:
    """Tell whether the API server knows of it no more."""
    try:
        read()
    except ApiException as error:
        if error.status == httpx.codes.NOT_FOUND:
            return True
        raise
    return False


def apply_workload(target: Target) -> None:
    """Create the first server of the walk-through, with one replica and little to do."""
    body = yaml.safe_load((target.repository / "yamls" / "workload" / "dep1.yaml").read_text())
    body["metadata"]["namespace"] = target.namespace
    body["spec"]["replicas"] = 1
    target.apps.create_namespaced_deployment(target.namespace, body)
    target.label(rpm="10", intokens="128", outtokens="128")


def emulate_and_restore(target: Target) -> None:
    """Let the emulator move the load, then put it back: it leaves no trace."""
    before = target.labels()
    command = target.arguments("emulator", "1", "0.2")
    with process(command, cwd=target.repository, log=target.folder / "emulator.log") as emulator:
        eventually(
            lambda: target.labels()[names.LOAD_RPM] != before[names.LOAD_RPM], "the load moves"
        )
        assert target.labels()["inferno.server.load.nominal.rpm"] == before[names.LOAD_RPM]
        assert ends_well(emulator)
    restore = target.arguments("emulator", "--restore")
    subprocess.run(
        restore, cwd=target.repository, check=True, capture_output=True, timeout=DEADLINE_S
    )
    assert target.labels() == before


@contextmanager
def controlled(target: Target) -> Iterator[httpx.Client]:
    """Run the controller over the namespace; it ends well when it is told to stop."""
    log = target.folder / "controller.log"
    words = [
        "controller",
        "0",
        "false",
        "--backend",
        "kube",
        "--metrics",
        "labels",
        "--data",
        "sample-data/large",
    ]
    limits = ["--step-up", str(STEP_UP)]
    records = ["--port", "0", "--records", str(target.folder / "records.jsonl")]
    with process(
        target.arguments(*words, *limits, *records), cwd=target.repository, log=log
    ) as controller:
        with httpx.Client(base_url=address(log), timeout=DEADLINE_S, trust_env=False) as http:
            eventually(lambda: http.get("/readyz").status_code == 200, "the controller is ready")
            yield http
        assert ends_well(controller)


def decided(http: httpx.Client, *, mode: str = "") -> tuple[int, int]:
    """Ask for a cycle; return the replicas that it decided for the server, and those that the
    policy wanted.
    """
    answer = http.post("/invoke", json={"mode": mode}) if mode else http.get("/invoke")
    assert answer.status_code == 200, answer.text
    (server,) = answer.json()["servers"]
    return int(server["replicas"]), int(server["policyReplicas"])


@pytest.mark.slow
def test_a_user_goes_all_the_way_from_an_empty_cluster_and_back(target: Target) -> None:
    """Each step has tests of its own; that they fit together is what people see."""
    apply_workload(target)
    emulate_and_restore(target)
    with controlled(target) as http:
        assert decided(http) == (1, 1)
        assert target.replicas() == 1
        target.label(rpm="3000", outtokens="1024")
        many, needed = decided(http, mode="advise")
        assert many == 1 + STEP_UP < needed
        assert target.replicas() == 1
        assert decided(http) == (many, needed)
        assert target.replicas() == many
        eventually(lambda: target.ready() == target.pods() == many, "what was asked for serves")
        target.label(rpm="10", outtokens="128")
        assert decided(http) == (1, 1)
        assert target.replicas() == 1
        eventually(lambda: target.ready() == target.pods() == 1, "what is left serves")
    lines = (target.folder / "records.jsonl").read_text().splitlines()
    assert [json.loads(line)["cycle"] for line in lines] == [1, 2, 3, 4]
    target.apps.delete_namespaced_deployment(NAME, target.namespace)
    eventually(
        lambda: is_gone(lambda: target.apps.read_namespaced_deployment(NAME, target.namespace)),
        "the server is gone",
    )
