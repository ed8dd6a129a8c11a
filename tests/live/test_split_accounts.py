"""Collector and actuator with accounts of their own (the overlay `split`): what each may do is what
it asks of the API server.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster_files import YAMLS, kustomized
from tests.conftest import ROOT
from tests.live.kube_worlds import cluster_spec, fault, manifest
from tests.live.kubectl_program import find_kubectl
from tests.live.twin_served import DEADLINE_S, ServedTwin, serving_twin
from tests.test_manifests import Object, rights, variables
from twin.kube.apiserver.auth import ADMIN, Identity
from twin.kube.faults import Fault, Faults
from twin.kube.files import write_kubeconfig

pytestmark = pytest.mark.costly

RBAC = "/apis/rbac.authorization.k8s.io/v1"
DEPLOYMENTS = "/apis/apps/v1/namespaces/infer/deployments"
NAMESPACES = ("inferno", "infer")
ADMINISTRATOR = {"Authorization": "Bearer admin"}


class Listening(Faults):
    """The faults of a twin, which note what is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: set[tuple[str, str]] = set()

    def __bool__(self) -> bool:
        """Tell that each request has to be shown."""
        return True

    def for_request(
        self, now_s: float, *, verb: str, thing: str, namespace: str, name: str, path: str
    ) -> list[Fault]:
        """Note it."""
        parts = path.split("/")
        if thing:
            self.heard.add((thing, verb))
        elif verb == "get" and parts[1] == "apis" and len(parts) > 4:
            # Of a kind that this cluster does not have.
            self.heard.add((parts[-1], "list"))
        return super().for_request(
            now_s, verb=verb, thing=thing, namespace=namespace, name=name, path=path
        )


@pytest.fixture(scope="module")
def split() -> dict[tuple[str, str], Object]:
    """Return the objects of the overlay."""
    find_kubectl()
    return kustomized(YAMLS / "overlays" / "split")


def accounts() -> dict[str, Identity]:
    """Return who comes with which token: each account by the name of its service."""
    users = {
        name: Identity(user=f"system:serviceaccount:inferno:inferno-{name}")
        for name in ("collector", "actuator")
    }
    return {"admin": ADMIN, **users}


def prepared(twin: ServedTwin, found: dict[tuple[str, str], Object], *bodies: Any) -> None:
    """Make the namespaces, the rights of the overlay, and Deployments."""

    def post(path: str, body: Any) -> None:
        twin.http.post(path, json=body, headers=ADMINISTRATOR).raise_for_status()

    for name in NAMESPACES:
        post("/api/v1/namespaces", {"metadata": {"name": name}})
    data = {"metadata": {"name": "inferno-dynamic-data"}, "data": {"capacity-data.json": "{}"}}
    post("/api/v1/namespaces/inferno/configmaps", data)
    for (kind, _), one in found.items():
        if one["apiVersion"].startswith("rbac"):
            space = one["metadata"].get("namespace")
            where = f"{RBAC}/namespaces/{space}" if space else RBAC
            post(f"{where}/{kind.lower()}s", one)
    for body in bodies:
        post(DEPLOYMENTS, body)


def container(found: dict[tuple[str, str], Object], name: str) -> Object:
    """Return the only container of a Deployment of the overlay."""
    pod = found["Deployment", f"inferno-{name}"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == f"inferno-{name}"
    (one,) = pod["containers"]
    assert one["name"] == name
    return dict(one)


@contextmanager
def running(container: Object, twin: ServedTwin, folder: Path) -> Iterator[httpx.Client]:
    """Run the command of *container* as its account, and give a client of it."""
    name = container["name"]
    config, token, log = folder / f"{name}.config", folder / "token", folder / f"{name}.log"
    write_kubeconfig(config, twin.url, token=name)
    token.write_text("a-token-of-tests")
    # What stands for fields and mounts of the pod is of this machine instead.
    own = {
        "KUBECONFIG": str(config),
        "INFERNO_SERVICE_TOKEN_PATH": str(token),
        f"{name.upper()}_PORT": "0",
        "POD_IP": "127.0.0.1",
    }
    environ = {**os.environ, **variables(container), **own}
    words = [sys.executable, "-m", *container["command"]]
    with (
        log.open("wb") as errors,
        subprocess.Popen(words, cwd=ROOT, stderr=errors, env=environ) as process,
    ):
        try:
            end_s = time.monotonic() + DEADLINE_S
            while not (found := re.search(r"http://0.0.0.0:(\d+)", log.read_text("utf-8"))):
                assert process.poll() is None, log.read_text("utf-8")
                assert time.monotonic() < end_s
                time.sleep(0.05)
            headers = {"Authorization": f"Bearer {token.read_text()}"}
            with httpx.Client(
                base_url=f"http://127.0.0.1:{found[1]}",
                headers=headers,
                timeout=DEADLINE_S,
                trust_env=False,
            ) as http:
                yield http
        finally:
            process.terminate()


def granted(found: dict[tuple[str, str], Object], *roles: tuple[str, str]) -> set[tuple[str, str]]:
    """Return (resource, verb) of *roles*."""
    return {
        (resource, verb) for role in roles for _, resource, verb in rights(found[role]["rules"])
    }


def test_the_collector_asks_for_all_that_its_account_may_do(
    split: dict[tuple[str, str], Object], tmp_path: Path
) -> None:
    """A right that nobody uses is one that somebody else may."""
    listening = Listening()
    with serving_twin(cluster_spec(), tokens=accounts(), listening=listening) as twin:
        prepared(twin, split, manifest())
        listening.heard.clear()
        with running(container(split, "collector"), twin, tmp_path) as http:
            told = http.get("/collect", headers={"Host": "inferno-collector:3301"}).json()
            assert http.get("/metrics").status_code == 200
        log = (tmp_path / "collector.log").read_text("utf-8")
    assert [row["name"] for row in told["servers"]] == ["s1"]
    assert "cannot" not in log
    assert listening.heard == granted(split, ("ClusterRole", "inferno-collector"))


def test_the_actuator_asks_for_all_that_its_account_may_do(
    split: dict[tuple[str, str], Object], tmp_path: Path
) -> None:
    """A patch whose answer is lost is why it gets a Deployment. What a cluster does not have (KEDA,
    LeaderWorkerSets, Argo Rollouts) it asks for, too.
    """
    listening = Listening()
    wanted = {"accelerator": "H100", "numReplicas": 3, "maxBatch": 64}
    with serving_twin(cluster_spec(), tokens=accounts(), listening=listening) as twin:
        prepared(twin, split, manifest())
        listening.heard.clear()
        listening.all = [fault("drop", "patch", after=True, count=1)]
        with running(container(split, "actuator"), twin, tmp_path) as http:
            named = {"Host": "inferno-actuator:3303"}  # as the controller calls it
            answer = http.post("/update", json={"allocations": {"s1": wanted}}, headers=named)
            assert answer.status_code == 200, answer.text
        log = (tmp_path / "actuator.log").read_text("utf-8")
        heard = set(listening.heard)
        made = twin.http.get(DEPLOYMENTS + "/dep1", headers=ADMINISTRATOR).json()
    assert made["spec"]["replicas"] == 3
    assert "cannot" not in log
    may = granted(split, ("ClusterRole", "inferno-actuator"), ("Role", "inferno-pause"))
    assert heard == may
