"""The overlays of `yamls/`, applied by kubectl to a cluster: the twin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live.kubectl_program import Kubectl, find_kubectl
from tests.live.twin_served import ServedTwin, serving_twin
from tests.test_manifests import YAMLS
from tests.test_overlays import OVERLAYS
from twin.kube.cluster import TOKEN
from twin.kube.files import write_kubeconfig

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServedTwin, Kubectl]]:
    """Serve a twin in which nothing is but the sample workload."""
    program, home = find_kubectl(), tmp_path_factory.mktemp("home")
    with serving_twin(speed=20.0) as twin:
        write_kubeconfig(home / "config", twin.url, token=TOKEN)
        kubectl = Kubectl(program, home)
        workload = YAMLS / "workload"
        kubectl("apply", "-f", str(workload / "ns.yaml"), "-f", str(workload))
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
def test_a_cluster_takes_every_object_of_an_overlay(
    name: str, cluster: tuple[ServedTwin, Kubectl]
) -> None:
    """Checked by the server, field by field; the account of the loop has the rights that are meant:
    with --mode export, and as a collector by itself, it may read, and change nothing.
    """
    twin, kubectl = cluster
    made = kubectl("apply", "-k", str(YAMLS / "overlays" / name)).splitlines()
    assert "deployment.apps/inferno" in {line.split()[0] for line in made}
    assert {line.rsplit(" ", 1)[1] for line in made} <= {"created", "configured", "unchanged"}
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    account = "inferno-collector" if name == "split" else "inferno"
    path = f"/api/v1/namespaces/inferno/serviceaccounts/{account}/token"
    token = twin.http.post(path, json=body).json()["status"]["token"]
    allowed = [verb for verb in ("list", "patch", "delete") if may(twin, token, verb)]
    assert allowed == (["list"] if name in ("export", "split") else ["list", "patch"])


@pytest.mark.slow
def test_a_cluster_takes_the_autoscalers_of_the_workload(
    cluster: tuple[ServedTwin, Kubectl],
) -> None:
    """For a loop in export mode; each finds its Deployment."""
    _, kubectl = cluster
    kubectl("apply", "-f", str(YAMLS / "autoscalers"))
    deployments = kubectl("get", "deployment", "-n", "infer", "-o", "name")
    for kind in ("horizontalpodautoscaler.autoscaling", "scaledobject.keda.sh"):
        found = kubectl("get", kind, "-n", "infer", "-o", "name").split()
        assert len(found) == 3
        assert {name.split("/")[1] for name in found} <= {
            name.split("/")[1] for name in deployments.split()
        }
