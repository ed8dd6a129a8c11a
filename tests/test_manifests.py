"""The manifests: what a cluster would refuse, rights beyond what is needed, and the names of the
walk-through.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from inferno.cli import main as inferno
from loop.backends.kube import labels
from loop.schema.reading import read_system
from loop.settings import SOURCES, read_settings
from tests.cluster_files import YAMLS, Object, documents, objects, problems

# What the client has no models of: kustomizations, rules, and kinds of operators.
FOREIGN = ("kustomization", "podmonitor", "rules", "prometheusrule", "keda")
FILES = sorted(path for path in YAMLS.rglob("*.yaml") if path.stem not in FOREIGN)
CONTAINERS = ("controller", "collector", "optimizer", "actuator")


def loop() -> Object:
    """Return the pod of the loop."""
    pod: Object = objects(YAMLS / "deploy")["Deployment", "inferno"]["spec"]["template"]["spec"]
    return pod


def containers() -> dict[str, Object]:
    """Return the containers of the loop."""
    return {one["name"]: one for one in loop()["containers"]}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(YAMLS)))
def test_every_object_fits_the_models_of_the_client(file: Path) -> None:
    """An API server drops a misspelt field in silence, and refuses a number where it wants text."""
    found = documents(file)
    assert found
    for obj in found:
        assert problems(obj) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"replica": 3}, "Deployment.spec.replica: no such field"),
        ({"replicas": "3"}, "Deployment.spec.replicas: expected int, found '3'"),
        ({"replicas": True}, "Deployment.spec.replicas: expected int, found True"),
        (
            {"selector": {"matchLabels": {"app": 1}}},
            "Deployment.spec.selector.matchLabels.app: expected str, found 1",
        ),
        ({"selector": []}, "Deployment.spec.selector: expected V1LabelSelector, found []"),
    ],
)
def test_the_check_itself_finds_what_is_wrong(change: dict[str, Any], line: str) -> None:
    """A check that finds nothing in anything would pass all."""
    (obj,) = documents(YAMLS / "workload" / "dep1.yaml")
    wrong = deepcopy(obj)
    wrong["spec"] |= change
    assert line in problems(wrong)


def test_the_check_itself_misses_what_is_required() -> None:
    """A container without a name is refused."""
    (obj,) = documents(YAMLS / "workload" / "dep1.yaml")
    del obj["spec"]["template"]["spec"]["containers"][0]["name"]
    assert any("name" in line for line in problems(obj))


def test_the_names_of_the_walk_through_are_there() -> None:
    """People and scripts type them."""
    deploy, workload = objects(YAMLS / "deploy"), objects(YAMLS / "workload")
    assert {path.name for path in (YAMLS / "workload").iterdir()} >= {
        "ns.yaml",
        *(f"dep{n}.yaml" for n in range(1, 5)),
    }
    assert {path.name for path in (YAMLS / "deploy").iterdir()} >= {
        "ns.yaml",
        "deploy-loop.yaml",
        "load-emulator.yaml",
    }
    assert ("Namespace", "infer") in workload
    in_loop = {
        (one["kind"], one["metadata"]["name"])
        for one in documents(YAMLS / "deploy" / "deploy-loop.yaml")
    }
    named = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Deployment", "Service")
    assert in_loop >= {(kind, "inferno") for kind in named}
    assert ("Namespace", "inferno") in deploy
    assert tuple(containers()) == CONTAINERS
    assert deploy["Deployment", "inferno"]["spec"]["template"]["metadata"]["labels"] == {
        "app": "inferno"
    }
    assert deploy["Service", "inferno"]["spec"]["ports"] == [
        {"name": "http", "port": 80, "targetPort": 3300}
    ]
    assert deploy["Pod", "load-emulator"]["metadata"]["namespace"] == "inferno"


def test_the_first_server_is_that_of_the_walk_through() -> None:
    """Its labels are shown there."""
    told = objects(YAMLS / "workload")["Deployment", "premium-llama-13b"]["metadata"]["labels"]
    expected = {
        labels.MANAGED: "true",
        labels.NAME: "vllm-001",
        labels.MODEL: "llama_13b",
        labels.CLASS: "Premium",
        labels.ACCELERATOR: "MI250",
        labels.MAX_BATCH: "8",
        labels.LOAD_RPM: "30",
    }
    assert expected.items() <= told.items()


def test_every_server_of_the_workload_can_be_served_by_the_large_sample(repository: Path) -> None:
    """A model without a latency model, or a class without a target, would be held for ever."""
    data = read_system(repository / "sample-data" / "large")
    names = set()
    for (kind, _), one in objects(YAMLS / "workload").items():
        if kind == "Deployment":
            told = one["metadata"]["labels"]
            names.add(told[labels.NAME])
            model, accelerator = told[labels.MODEL], told[labels.ACCELERATOR]
            assert (
                data.target(service_class=told.get(labels.CLASS, labels.CLASS_DEFAULT), model=model)
                is not None
            )
            assert accelerator == "" or (model, accelerator) in data.perf
            load, problem = labels.load_of(told)
            assert (load is not None, problem) == (True, "")
            assert all(labels.value_problem(value) == "" for value in told.values())
    assert names == {"vllm-001", "vllm-002", "vllm-003", "vllm-004"}


def test_the_variables_of_the_containers_are_ones_that_the_program_reads() -> None:
    """A misspelt variable is a default in silence."""
    known = {variable for variable, _, _ in SOURCES.values()}
    for container in [
        *loop()["containers"],
        *objects(YAMLS / "deploy")["Pod", "load-emulator"]["spec"]["containers"],
    ]:
        environ = variables(container)
        assert environ.keys() <= known
        read_settings(environ)


def test_the_commands_of_the_containers_are_ones_that_there_are() -> None:
    """A flag that was renamed shows only when a pod does not start."""
    emulator = objects(YAMLS / "deploy")["Pod", "load-emulator"]["spec"]["containers"][0]
    for container in [*loop()["containers"], emulator]:
        program, *arguments = container["command"]
        assert (program, inferno.parse(arguments)[0].name) == ("inferno", container["name"])
    _, told = inferno.parse(containers()["controller"]["command"][1:])
    assert told.backend == "http"


def test_the_services_find_each_other_and_only_the_controller_listens_to_the_outside() -> None:
    """The actuator can end every server of the cluster: nobody but the controller may reach it."""
    environ = variables(containers()["controller"])
    told = read_settings(environ)
    assert (told.service_name, told.pod_namespace, told.pod_ip) == (
        objects(YAMLS / "deploy")["Service", "inferno"]["metadata"]["name"],
        "metadata.namespace",
        "status.podIP",
    )
    assert (told.controller_host, told.controller_port) == ("0.0.0.0", 3300)
    assert {told.collector_host, told.optimizer_host, told.actuator_host} == {"localhost"}
    ports = {
        "collector": told.collector_port,
        "optimizer": told.optimizer_port,
        "actuator": told.actuator_port,
    }
    for name, port in ports.items():
        own = read_settings(variables(containers()[name]))
        assert (getattr(own, f"{name}_host"), getattr(own, f"{name}_port")) == ("localhost", port)
        assert (
            f"localhost:{port}/healthz"
            in containers()[name]["livenessProbe"]["exec"]["command"][-1]
        )
        assert "ports" not in containers()[name]


def test_only_who_asks_the_api_server_gets_a_token_for_it() -> None:
    """The controller is reached from outside: it must not hold a key."""
    pod = loop()
    assert pod["automountServiceAccountToken"] is False
    holders = {
        name
        for name, one in containers().items()
        if any(mount["name"] == "api-access" for mount in one["volumeMounts"])
    }
    assert holders == {"collector", "actuator"}


@pytest.mark.parametrize("pod", ["loop", "emulator", "dep1"])
def test_pods_may_do_no_more_than_they_need(pod: str) -> None:
    """Not root, a root file system to read only, no capabilities, bounds on what they take: the
    restricted standard.
    """
    spec = {
        "loop": loop(),
        "emulator": objects(YAMLS / "deploy")["Pod", "load-emulator"]["spec"],
        "dep1": objects(YAMLS / "workload")["Deployment", "premium-llama-13b"]["spec"]["template"][
            "spec"
        ],
    }[pod]
    for container in spec["containers"]:
        security = {**spec.get("securityContext", {}), **container["securityContext"]}
        assert security["runAsNonRoot"] is True
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert security["runAsUser"] > 0
        assert container["resources"].keys() == {"requests", "limits"}
        assert all(set(each) == {"cpu", "memory"} for each in container["resources"].values())


def test_every_service_is_probed_and_ends_in_time() -> None:
    """A loop that hangs is restarted; a data error must not restart it (that is readiness)."""
    assert loop()["terminationGracePeriodSeconds"] >= 2
    for container in loop()["containers"]:
        for kind, path in (
            ("startupProbe", "/healthz"),
            ("livenessProbe", "/healthz"),
            ("readinessProbe", "/readyz"),
        ):
            assert path in yaml.safe_dump(container[kind])


def test_two_loops_never_act_at_once() -> None:
    """A rolling update would start the new one beside the old one."""
    spec = objects(YAMLS / "deploy")["Deployment", "inferno"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def rights(rules: list[Object]) -> set[tuple[str, str, str]]:
    """Return (group, resource, verb) of *rules*."""
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_loop_has_the_rights_that_its_backend_uses_and_no_others() -> None:
    """No secrets, no pods to create, nothing to delete, no stars."""
    role = objects(YAMLS / "deploy")["ClusterRole", "inferno"]
    assert rights(role["rules"]) == {
        ("apps", "deployments", "get"),
        ("apps", "deployments", "list"),
        ("apps", "deployments", "patch"),
        ("", "pods", "list"),
        ("", "nodes", "list"),
        ("", "events", "create"),
        ("autoscaling", "horizontalpodautoscalers", "list"),
        ("keda.sh", "scaledobjects", "list"),
        ("policy", "poddisruptionbudgets", "list"),
        ("apps", "statefulsets", "list"),
        ("leaderworkerset.x-k8s.io", "leaderworkersets", "list"),
        ("argoproj.io", "rollouts", "list"),
    }
    emulator = objects(YAMLS / "deploy")["ClusterRole", "inferno-load-emulator"]
    assert rights(emulator["rules"]) == {
        ("apps", "deployments", "list"),
        ("apps", "deployments", "patch"),
    }


@pytest.mark.parametrize(
    ("folder", "binding"),
    [
        ("deploy", ("ClusterRoleBinding", "inferno")),
        ("components/namespaced", ("RoleBinding", "inferno")),
    ],
)
def test_bindings_bind_what_there_is_to_the_account_of_the_pod(
    folder: str, binding: tuple[str, str]
) -> None:
    """A binding to a name that is not there is no error, and gives nothing."""
    found = objects(YAMLS / "deploy") | objects(YAMLS / folder)
    bound = found[binding]
    assert (bound["roleRef"]["kind"], bound["roleRef"]["name"]) in found
    (subject,) = bound["subjects"]
    assert subject == {
        "kind": "ServiceAccount",
        "name": loop()["serviceAccountName"],
        "namespace": "inferno",
    }


def test_what_selects_the_pod_selects_this_one() -> None:
    """Service, policy and monitor find it by its label and the name of its port."""
    found = objects(YAMLS / "deploy")
    pod_labels = {"app": "inferno"}
    assert found["Service", "inferno"]["spec"]["selector"] == pod_labels
    assert found["NetworkPolicy", "inferno"]["spec"]["podSelector"] == {"matchLabels": pod_labels}
    monitor = objects(YAMLS / "prometheus")["PodMonitor", "inferno"]["spec"]
    assert monitor["selector"] == {"matchLabels": pod_labels}
    (port,) = containers()["controller"]["ports"]
    assert (port["name"], port["containerPort"]) == (
        monitor["podMetricsEndpoints"][0]["port"],
        3300,
    )
    (rule,) = found["NetworkPolicy", "inferno"]["spec"]["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 3300}]


def variables(container: Object) -> dict[str, str]:
    """Return its variables; one that is a field of the pod has the path of that field as value."""
    return {
        each["name"]: each["value"]
        if "value" in each
        else each["valueFrom"]["fieldRef"]["fieldPath"]
        for each in container.get("env", [])
    }
