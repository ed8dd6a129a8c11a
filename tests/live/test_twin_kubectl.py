"""Plain kubectl against the twin: each command that people type, with the real program, where there
is one.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.live.kubectl_program import Kubectl, find_kubectl
from tests.live.twin_served import DEADLINE_S, SPEC, serving_twin
from twin.kube.cluster import TOKEN
from twin.kube.files import write_kubeconfig


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    """Serve a twin in which a start-up takes a quarter of a second, with a namespace and a
    Deployment.
    """
    program, home = find_kubectl(), tmp_path_factory.mktemp("home")
    with serving_twin(SPEC, speed=20.0) as twin:
        write_kubeconfig(home / "config", twin.url, token=TOKEN)
        found = Kubectl(program, home)
        found("apply", "-f", "-", text=yaml.safe_dump(NAMESPACE))
        found("apply", "-f", "-", text=manifest("dep"))
        found("wait", "--for=condition=available", "deploy/dep", "-n", "infer", "--timeout=30s")
        yield found


NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "infer"}}


def manifest(name: str, *, replicas: int = 2, rpm: int = 60, namespace: str = "infer") -> str:
    """Return the YAML of a managed Deployment."""
    labels = {
        "inferno.server.managed": "true",
        "inferno.server.name": name,
        "inferno.server.model": "m",
        "inferno.server.class": "Premium",
        "inferno.server.allocation.accelerator": "A",
        "inferno.server.allocation.maxbatchsize": "8",
        "inferno.server.load.rpm": str(rpm),
        "inferno.server.load.outtokens": "10",
    }
    ports = [{"containerPort": 8000, "name": "http"}]
    return yaml.safe_dump(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {"containers": [{"name": "vllm", "image": "vllm:1", "ports": ports}]},
                },
            },
        }
    )


def table(text: str) -> tuple[str, list[list[str]]]:
    """Return heading and rows of what kubectl printed."""
    heading, *lines = text.strip().splitlines()
    return re.sub(r" +", " ", heading).strip(), [line.split() for line in lines]


def test_get_prints_the_columns_that_people_know(kubectl: Kubectl) -> None:
    """READY, UP-TO-DATE and AGE come from the server."""
    heading, rows = table(kubectl("get", "deployments", "-n", "infer"))
    assert heading == "NAME READY UP-TO-DATE AVAILABLE AGE"
    assert ["dep", "2/2", "2", "2"] in [row[:4] for row in rows]
    heading, rows = table(kubectl("get", "pods", "-n", "infer", "-l", "app=dep"))
    assert heading == "NAME READY STATUS RESTARTS AGE"
    assert [row[1:4] for row in rows] == [["1/1", "Running", "0"]] * 2
    heading, rows = table(kubectl("get", "pods", "-n", "infer", "-l", "app=dep", "-o", "wide"))
    assert "NODE" in heading
    assert {row[6] for row in rows} <= {"a-1", "a-2"}
    assert "dep" in kubectl("get", "deploy", "-A", "--no-headers")
    heading, rows = table(kubectl("get", "nodes"))
    assert (heading, rows[0][:2]) == ("NAME STATUS ROLES AGE VERSION", ["a-1", "Ready"])


def test_get_all_lists_what_belongs_together(kubectl: Kubectl) -> None:
    """Categories come from discovery."""
    text = kubectl("get", "all", "-n", "infer")
    assert all(f"{kind}/dep" in text for kind in ("pod", "deployment.apps", "replicaset.apps"))


def test_get_gives_json_yaml_and_single_fields(kubectl: Kubectl) -> None:
    """As scripts use it: the walk-through finds a pod by jsonpath."""
    name = kubectl(
        "get", "pod", "-l", "app=dep", "-n", "infer", "-o", "jsonpath={.items[0].metadata.name}"
    )
    assert name.startswith("dep-")
    assert (
        json.loads(kubectl("get", "deploy", "dep", "-n", "infer", "-o", "json"))["kind"]
        == "Deployment"
    )
    assert "kind: Deployment" in kubectl("get", "deploy", "dep", "-n", "infer", "-o", "yaml")
    listed = kubectl(
        "get",
        "deploy",
        "-n",
        "infer",
        "-o",
        "custom-columns=N:.metadata.name",
        "--sort-by=.metadata.name",
    )
    assert "dep" in listed


def test_apply_creates_then_finds_nothing_to_do_then_changes(kubectl: Kubectl) -> None:
    """Client-side, with validation by the server: created, unchanged, configured."""
    words = ("apply", "-f", "-")
    assert "created" in kubectl(*words, text=manifest("applied"))
    assert "unchanged" in kubectl(*words, text=manifest("applied"))
    assert "configured" in kubectl(*words, text=manifest("applied", replicas=1, rpm=90))
    found = json.loads(kubectl("get", "deploy", "applied", "-n", "infer", "-o", "json"))
    assert (found["spec"]["replicas"], found["metadata"]["labels"]["inferno.server.load.rpm"]) == (
        1,
        "90",
    )
    diff = kubectl.run("diff", "-f", "-", text=manifest("applied", replicas=5))
    assert diff.returncode == 1
    assert "+  replicas: 5" in diff.stdout
    kubectl("delete", "-f", "-", text=manifest("applied"))


def test_apply_refuses_what_is_misspelt(kubectl: Kubectl) -> None:
    """--validate is on by default, and the server has to say that it can."""
    done = kubectl.run("apply", "-f", "-", text=manifest("wrong").replace("replicas:", "replicaz:"))
    assert done.returncode == 1
    assert 'unknown field "spec.replicaz"' in done.stderr


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("dump", [json.dumps, yaml.safe_dump])
def test_apply_takes_a_list(kubectl: Kubectl, dump: Callable[[Any], str], side: str) -> None:
    """kubectl checks the items of a List itself, by /openapi/v2; what is misspelt is refused."""
    words = ("apply", "-f", "-", *(["--server-side"] if side == "server" else []))
    items = [yaml.safe_load(manifest(name)) for name in ("first", "second")]
    text = dump({"apiVersion": "v1", "kind": "List", "items": items})
    done = kubectl(*words, text=text)
    assert [line.split()[0] for line in done.splitlines()] == [
        "deployment.apps/first",
        "deployment.apps/second",
    ]
    again = kubectl(*words, text=text)
    assert again.count("unchanged" if side == "client" else "serverside-applied") == 2
    wrong = kubectl.run(*words, text=text.replace("replicas", "replicaz"))
    assert wrong.returncode == 1
    assert 'unknown field "spec.replicaz"' in wrong.stderr or ".spec.replicaz" in wrong.stderr
    kubectl("delete", "deploy", "first", "second", "-n", "infer")


def test_stateful_sets_and_autoscalers_are_kept_shown_and_scaled(kubectl: Kubectl) -> None:
    """They have no pods and no controller here, but tools that look for them find them."""
    body = yaml.safe_load(manifest("state", replicas=1)) | {"kind": "StatefulSet"}
    kubectl("apply", "-f", "-", text=yaml.safe_dump(body))
    kubectl("scale", "statefulset", "state", "-n", "infer", "--replicas=3")
    assert kubectl("get", "sts", "state", "-n", "infer").splitlines()[1].split()[:2] == [
        "state",
        "0/3",
    ]
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "dep"}
    hpa = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "dep", "namespace": "infer"},
        "spec": {"scaleTargetRef": target, "maxReplicas": 4},
    }
    kubectl("apply", "-f", "-", text=yaml.safe_dump(hpa))
    head, row = kubectl("get", "hpa", "dep", "-n", "infer").splitlines()
    assert head.split() == ["NAME", "REFERENCE", "TARGETS", "MINPODS", "MAXPODS", "REPLICAS", "AGE"]
    assert row.split()[:2] == ["dep", "Deployment/dep"]
    assert row.split()[-4:-1] == ["1", "4", "0"]
    kubectl("patch", "hpa", "dep", "-n", "infer", "-p", '{"spec": {"maxReplicas": 5}}')
    with kubectl.start("get", "hpa", "-w", "-n", "infer", "-o", "name") as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline().strip() == "horizontalpodautoscaler.autoscaling/dep"
        watching.kill()
    kubectl("delete", "hpa/dep", "sts/state", "-n", "infer")


def test_autoscale_makes_an_autoscaler_by_its_older_version(kubectl: Kubectl) -> None:
    """`kubectl autoscale` knows autoscaling/v1 only; what reads the object asks for v2."""
    kubectl("apply", "-f", "-", text=manifest("scaled"))
    words = ("autoscale", "deployment", "scaled", "-n", "infer")
    kubectl(*words, "--min=2", "--max=6", "--cpu-percent=70")
    spec = json.loads(kubectl("get", "hpa", "scaled", "-n", "infer", "-o", "json"))["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 6)
    assert spec["scaleTargetRef"]["name"] == "scaled"
    assert spec["metrics"][0]["resource"]["target"]["averageUtilization"] == 70
    old = json.loads(
        kubectl(
            "get", "horizontalpodautoscalers.v1.autoscaling", "scaled", "-n", "infer", "-o", "json"
        )
    )
    assert old["apiVersion"] == "autoscaling/v1"
    assert old["spec"]["targetCPUUtilizationPercentage"] == 70
    again = kubectl.run(*words, "--max=6")
    assert again.returncode == 1
    assert "already exists" in again.stderr
    kubectl(
        "delete",
        "horizontalpodautoscalers.v1.autoscaling/scaled",
        "deployment/scaled",
        "-n",
        "infer",
    )


def test_server_side_apply_works_and_reports_conflicts(kubectl: Kubectl) -> None:
    """With another manager, and with force."""
    words = ("apply", "--server-side", "-f", "-")
    kubectl(*words, "--field-manager=one", text=manifest("owned"))
    done = kubectl.run(*words, "--field-manager=two", text=manifest("owned", replicas=1))
    assert done.returncode == 1
    assert ".spec.replicas" in done.stderr
    kubectl(*words, "--field-manager=two", "--force-conflicts", text=manifest("owned", replicas=1))
    kubectl("delete", "deploy", "owned", "-n", "infer")


def test_scale_patch_label_and_annotate(kubectl: Kubectl) -> None:
    """The ways in which people change a server by hand."""
    kubectl("apply", "-f", "-", text=manifest("hand"))
    kubectl("scale", "deploy/hand", "--replicas=3", "-n", "infer")
    kubectl("patch", "deploy", "hand", "-n", "infer", "-p", '{"metadata":{"labels":{"a":"1"}}}')
    patch = '[{"op":"replace","path":"/metadata/labels/a","value":"2"}]'
    kubectl("patch", "deploy", "hand", "-n", "infer", "--type=json", "-p", patch)
    kubectl("label", "deploy", "hand", "-n", "infer", "inferno.server.load.rpm=30", "--overwrite")
    kubectl("annotate", "deploy", "hand", "-n", "infer", "inferno.server.replicas.max=4")
    found = json.loads(kubectl("get", "deploy", "hand", "-n", "infer", "-o", "json"))
    assert found["spec"]["replicas"] == 3
    assert (
        found["metadata"]["labels"]["a"],
        found["metadata"]["labels"]["inferno.server.load.rpm"],
    ) == ("2", "30")
    bad = kubectl.run("label", "deploy", "hand", "-n", "infer", "a=b c", "--overwrite")
    assert bad.returncode == 1
    kubectl("delete", "deploy", "hand", "-n", "infer")


def test_describe_tells_of_replica_sets_and_events(kubectl: Kubectl) -> None:
    """It asks for both by selectors."""
    text = kubectl("describe", "deploy", "dep", "-n", "infer")
    assert re.search(r"NewReplicaSet: +dep-\w+ \(2/2 replicas created\)", text)
    assert "ScalingReplicaSet" in text
    assert "2 desired | 2 updated | 2 total | 2 available | 0 unavailable" in text
    text = kubectl("describe", "pods", "-l", "app=dep", "-n", "infer")
    assert "Scheduled" in text
    assert re.search(r"Controlled By: +ReplicaSet/dep-", text)
    text = kubectl("describe", "node", "a-1")
    assert re.search(r"nvidia.com/gpu +\d+ +\d+", text)


def test_rollout_status_waits_for_new_pods(kubectl: Kubectl) -> None:
    """restart, status, history, undo."""
    kubectl("apply", "-f", "-", text=manifest("roll", replicas=1))
    kubectl("rollout", "status", "deploy/roll", "-n", "infer", "--timeout=30s")
    kubectl("set", "image", "deploy/roll", "vllm=vllm:2", "-n", "infer")
    text = kubectl("rollout", "status", "deploy/roll", "-n", "infer", "--timeout=30s")
    assert "successfully rolled out" in text
    assert re.search(
        r"^2 ", kubectl("rollout", "history", "deploy/roll", "-n", "infer"), re.MULTILINE
    )
    kubectl("rollout", "undo", "deploy/roll", "-n", "infer")
    kubectl("rollout", "status", "deploy/roll", "-n", "infer", "--timeout=30s")
    image = "jsonpath={.items[0].spec.containers[0].image}"
    assert kubectl("get", "pods", "-l", "app=roll", "-n", "infer", "-o", image) == "vllm:1"
    kubectl("rollout", "restart", "deploy/roll", "-n", "infer")
    kubectl("rollout", "status", "deploy/roll", "-n", "infer", "--timeout=30s")
    kubectl("delete", "deploy", "roll", "-n", "infer")


def test_get_w_prints_changes_as_they_come(kubectl: Kubectl) -> None:
    """`kubectl get pods -w` is what people look at while a loop works."""
    watching = kubectl.start("get", "pods", "-n", "infer", "-w", "-l", "app=seen")
    try:
        kubectl("apply", "-f", "-", text=manifest("seen", replicas=1))
        seen, end_s = "", time.monotonic() + DEADLINE_S
        assert watching.stdout is not None
        while not re.search(r"1/1 +Running", seen):
            assert time.monotonic() < end_s, seen
            seen += watching.stdout.readline()
        assert re.search(r"0/1 +(Pending|ContainerCreating|Running)", seen)
    finally:
        watching.kill()
        watching.communicate()
    kubectl("delete", "deploy", "seen", "-n", "infer")


def test_delete_waits_until_the_object_is_gone(kubectl: Kubectl) -> None:
    """A namespace with everything in it, too."""
    kubectl("create", "namespace", "short")
    kubectl("apply", "-f", "-", text=manifest("dep", namespace="short"))
    kubectl("wait", "--for=condition=available", "deploy/dep", "-n", "short", "--timeout=30s")
    kubectl("delete", "namespace", "short", "--timeout=50s")
    assert "short" not in kubectl("get", "ns", "-o", "name")
    assert kubectl.run("get", "pods", "-n", "short", "-o", "name").stdout == ""


def test_a_deleted_pod_is_replaced(kubectl: Kubectl) -> None:
    """By hand, and waited for."""
    kubectl("apply", "-f", "-", text=manifest("lost", replicas=1))
    kubectl("rollout", "status", "deploy/lost", "-n", "infer", "--timeout=30s")
    before = kubectl("get", "pods", "-l", "app=lost", "-n", "infer", "-o", "name").strip()
    kubectl("delete", before, "-n", "infer", "--timeout=30s")
    after = kubectl("get", "pods", "-l", "app=lost", "-n", "infer", "-o", "name").strip()
    assert after not in ("", before)
    kubectl("delete", "deploy", "lost", "-n", "infer")


def test_create_makes_what_the_walk_through_makes(kubectl: Kubectl, tmp_path: Path) -> None:
    """ConfigMaps from files, accounts, roles and tokens; kubectl sends these in protobuf."""
    (tmp_path / "capacity-data.json").write_text('{"count": []}', encoding="utf-8")
    kubectl(
        "create",
        "configmap",
        "data",
        "-n",
        "infer",
        f"--from-file={tmp_path / 'capacity-data.json'}",
    )
    data = json.loads(kubectl("get", "configmap", "data", "-n", "infer", "-o", "json"))["data"]
    assert data == {"capacity-data.json": '{"count": []}'}
    kubectl("create", "serviceaccount", "bob", "-n", "infer")
    kubectl(
        "create", "role", "reader", "-n", "infer", "--verb=get,list", "--resource=deployments.apps"
    )
    kubectl(
        "create",
        "rolebinding",
        "reader",
        "-n",
        "infer",
        "--role=reader",
        "--serviceaccount=infer:bob",
    )
    assert len(kubectl("create", "token", "bob", "-n", "infer").strip()) > 20
    kubectl("create", "secret", "generic", "keys", "-n", "infer", "--from-literal=a=b")
    assert kubectl("auth", "can-i", "list", "pods").strip() == "yes"


def test_create_and_run_make_workloads(kubectl: Kubectl) -> None:
    """kubectl sends these as protobuf: what is in them comes whole."""
    kubectl("create", "namespace", "made")
    made = ("-n", "made")
    kubectl(
        *(*made, "create", "deployment", "web", "--image=v", "--replicas=0", "--port=80"),
        *("--", "serve", "m", "--max-num-seqs=8"),
    )
    (web,) = json.loads(kubectl(*made, "get", "deployments", "-o", "json"))["items"]
    (container,) = web["spec"]["template"]["spec"]["containers"]
    assert (web["spec"]["replicas"], "paused" in web["spec"]) == (0, False)
    assert (container["image"], container["command"]) == ("v", ["serve", "m", "--max-num-seqs=8"])
    assert container["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    kubectl(*made, "expose", "deployment", "web", "--port=80", "--target-port=http")
    kubectl(*made, "create", "pdb", "web", "--selector=app=web", "--min-available=50%")
    kubectl(*made, "run", "one", "--image=v", "--restart=Never")
    found = json.loads(kubectl(*made, "get", "svc,pdb,pods", "-o", "json"))["items"]
    specs = {each["kind"]: each["spec"] for each in found}
    assert specs["Service"]["ports"][0]["targetPort"] == "http"
    assert specs["PodDisruptionBudget"]["minAvailable"] == "50%"
    assert specs["Pod"]["restartPolicy"] == "Never"


def test_raw_paths_logs_and_events(kubectl: Kubectl) -> None:
    """get --raw gives any path; a pod's metrics through the proxy too."""
    assert json.loads(kubectl("get", "--raw", "/version"))["major"] == "1"
    pod = kubectl(
        "get", "pod", "-l", "app=dep", "-n", "infer", "-o", "jsonpath={.items[0].metadata.name}"
    )
    metrics = kubectl("get", "--raw", f"/api/v1/namespaces/infer/pods/{pod}:8000/proxy/metrics")
    assert "vllm:num_requests_running" in metrics
    assert "simulated" in kubectl("logs", pod, "-n", "infer")
    assert "SuccessfulCreate" in kubectl("get", "events", "-n", "infer")
    assert "replicas <integer>" in kubectl("explain", "deployment.spec.replicas")
    assert "deployments" in kubectl("api-resources")


def test_what_is_not_there_is_said_in_the_words_of_kubectl(kubectl: Kubectl) -> None:
    """Scripts look for them."""
    done = kubectl.run("get", "deploy", "nobody", "-n", "infer")
    assert (done.returncode, done.stderr.strip()) == (
        1,
        'Error from server (NotFound): deployments.apps "nobody" not found',
    )
    done = kubectl.run("create", "namespace", "infer")
    assert (
        done.stderr.strip()
        == 'Error from server (AlreadyExists): namespaces "infer" already exists'
    )
