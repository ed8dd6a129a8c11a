"""The overlays of `yamls/`, applied by kubectl to a cluster: the twin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.live.kubectl_program import Kubectl, find_kubectl
from tests.live.twin_served import ServedTwin, serving_twin
from tests.test_manifests import YAMLS
from tests.test_overlays import OVERLAYS
from twin.kube.cluster import TOKEN
from twin.kube.files import write_kubeconfig

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


@contextmanager
def cluster(home: Path) -> Iterator[tuple[ServedTwin, Kubectl]]:
    """Serve a twin in which nothing is but the namespace of the workload."""
    program = find_kubectl()
    with serving_twin(speed=20.0) as twin:
        write_kubeconfig(home / "config", twin.url, token=TOKEN)
        kubectl = Kubectl(program, home)
        kubectl("apply", "-f", str(YAMLS / "workload" / "ns.yaml"))
        yield twin, kubectl


def may(twin: ServedTwin, token: str, verb: str) -> bool:
    """Tell whether who has *token* may do *verb* to the Deployments of the workload. Over plain
    HTTP kubectl would send no token.
    """
    what = {"verb": verb, "group": "apps", "resource": "deployments", "namespace": "infer"}
    headers = {"Authorization": f"Bearer {token}"}
    body = {"spec": {"resourceAttributes": what}}
    return bool(twin.http.post(REVIEWS, json=body, headers=headers).json()["status"]["allowed"])


@pytest.mark.slow
@pytest.mark.parametrize("name", OVERLAYS)
def test_a_cluster_takes_every_object_of_an_overlay(name: str, tmp_path: Path) -> None:
    """Checked by the server, field by field; the account of the loop has the rights that are meant:
    with --mode export it may read, and change nothing.
    """
    folder = str(YAMLS / "overlays" / name)
    with cluster(tmp_path) as (twin, kubectl):
        made = kubectl("apply", "-k", folder).splitlines()
        assert made
        assert {line.rsplit(" ", 1)[1] for line in made} == {"created"}
        again = kubectl("apply", "-k", folder).splitlines()
        assert {line.rsplit(" ", 1)[1] for line in again} == {"unchanged"}
        kubectl("rollout", "status", "deploy/inferno", "-n", "inferno", "--timeout=30s")
        token = kubectl("create", "token", "inferno", "-n", "inferno").strip()
        allowed = [verb for verb in ("list", "patch", "delete") if may(twin, token, verb)]
        assert allowed == (["list"] if name == "export" else ["list", "patch"])


@pytest.mark.slow
def test_a_cluster_takes_the_autoscalers_of_the_workload(tmp_path: Path) -> None:
    """For a loop in export mode; each finds its Deployment."""
    with cluster(tmp_path) as (_, kubectl):
        kubectl("apply", "-f", str(YAMLS / "workload"))
        for name, kind in (("hpa", "horizontalpodautoscaler"), ("keda", "scaledobject")):
            file = YAMLS / "autoscalers" / f"{name}.yaml"
            kubectl("apply", "-f", str(file))
            for obj in yaml.safe_load_all(file.read_text(encoding="utf-8")):
                target = obj["metadata"]["name"]
                assert kubectl("get", kind, target, "-n", "infer", "-o", "name")
                assert kubectl("get", "deployment", target, "-n", "infer", "-o", "name")
