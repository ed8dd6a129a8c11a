"""The overlays of `yamls/`, and their components put together, as kubectl builds them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from inferno.cli import main as inferno
from loop.settings import SOURCES, read_settings
from tests.cluster_files import MODELS, YAMLS, Object, documents, kustomized, objects, problems
from tests.live.kubectl_program import find_kubectl
from tests.test_manifests import CONTAINERS, rights, variables

pytestmark = pytest.mark.costly

Objects = dict[tuple[str, str], Object]
OVERLAYS = sorted(path.name for path in (YAMLS / "overlays").iterdir())
# The largest sums, in the order of their lists; of the sources of load there is one.
SUMS = [
    ("namespaced", source, "token", *last)
    for source in ("prometheus", "prometheus-operator", "openshift")
    for last in ((), ("export",))
]
SPLIT = [
    ("namespaced", "openshift", "token", "split"),
    ("prometheus-operator", "split", "split-everywhere"),
]
READING = {"get", "list"}
PORTS = {"collector": 3301, "actuator": 3303}


@pytest.fixture(scope="module", autouse=True)
def kubectl() -> str:
    """Skip, saying so, where there is no kubectl to build with."""
    return find_kubectl()


def overlay(name: str) -> Objects:
    """Return the objects of an overlay."""
    return kustomized(YAMLS / "overlays" / name)


def pod_of(found: Objects) -> Object:
    """Return the pod of the loop."""
    pod: Object = found["Deployment", "inferno"]["spec"]["template"]["spec"]
    return pod


def pods_of(found: Objects) -> list[Object]:
    """Return all pods of Deployments."""
    return [
        one["spec"]["template"]["spec"] for (kind, _), one in found.items() if kind == "Deployment"
    ]


def container(found: Objects, name: str) -> Object:
    """Return a container of the loop."""
    (one,) = (each for pod in pods_of(found) for each in pod["containers"] if each["name"] == name)
    return dict(one)


def check(found: Objects) -> None:
    """Check what holds of every way to install the loop."""
    for obj in found.values():
        if (obj["apiVersion"], obj["kind"]) in MODELS:
            assert problems(obj) == []
    known = {variable for variable, _, _ in SOURCES.values()}
    for pod, one in [(each, one) for each in pods_of(found) for one in each["containers"]]:
        mounted = {volume["name"] for volume in pod["volumes"]}
        assert one["image"] == "inferno-loop:latest"
        assert variables(one).keys() <= known
        read_settings(variables(one))
        assert inferno.parse(one["command"][1:])[0].name == one["name"]
        assert {mount["name"] for mount in one["volumeMounts"]} <= mounted
    for kind, name in found:
        if kind.endswith("RoleBinding") and name == "inferno":
            role = found[kind, name]["roleRef"]
            assert (role["kind"], role["name"]) in found


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_overlay_is_built_and_holds_a_whole_loop(name: str) -> None:
    """`kubectl apply -k` stops at the first object that makes no sense, with half of them made."""
    found = overlay(name)
    assert found.keys() >= {("Deployment", "inferno"), ("NetworkPolicy", "inferno")}
    check(found)


@pytest.mark.slow
def test_components_can_be_put_together(tmp_path: Path) -> None:
    """Few clusters are like one overlay: a token and one namespace, say."""
    for index, chosen in enumerate(SUMS):
        found = together(chosen, tmp_path / str(index))
        check(found)
        names = [each["name"] for each in pod_of(found)["containers"]]
        assert ("actuator" in names) is ("export" not in chosen)
        assert "ClusterRole" not in {kind for kind, _ in found}
        if "prometheus" not in chosen:
            (endpoint,) = found["PodMonitor", "inferno"]["spec"]["podMetricsEndpoints"]
            assert endpoint["authorization"]["credentials"]["name"] == "inferno-token"
        if "export" in chosen:
            assert verbs(found) <= READING


def together(chosen: Sequence[str], folder: Path) -> Objects:
    """Return the objects of the base with the *chosen* components; *folder* is to be made."""
    folder.mkdir()
    up = Path(os.path.relpath(YAMLS, folder))
    text = {
        "resources": [str(up / "deploy")],
        "components": [str(up / "components" / name) for name in chosen],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(text))
    return kustomized(folder)


@pytest.mark.slow
@pytest.mark.parametrize("chosen", SPLIT, ids=" ".join)
def test_collector_and_actuator_can_have_accounts_of_their_own(
    chosen: tuple[str, ...], tmp_path: Path
) -> None:
    """With what the components before made of their containers; nothing has the rights of both, and
    rights in the whole cluster have to be asked for.
    """
    found = together(chosen, tmp_path / "split")
    check(found)
    assert [one["name"] for one in pod_of(found)["containers"]] == ["controller", "optimizer"]
    assert "api-access" not in {volume["name"] for volume in pod_of(found)["volumes"]}
    everywhere = "split-everywhere" in chosen
    kind = "ClusterRole" if everywhere else "Role"
    spaces = {None} if everywhere else {"infer"}
    for name in ("collector", "actuator"):
        one, own = container(found, name), f"inferno-{name}"
        assert one["ports"] == [{"name": "http", "containerPort": PORTS[name]}]
        assert found["Service", own]["spec"]["ports"][0]["port"] == PORTS[name]
        told = read_settings(variables(one))
        assert told.service_token_path == Path("/etc/inferno-token/token")
        assert (told.service_name, told.namespaces) == (own, tuple(spaces - {None}))
        (subject,) = found[f"{kind}Binding", own]["subjects"]
        account = found["Deployment", own]["spec"]["template"]["spec"]["serviceAccountName"]
        assert (subject["name"], account) == (own, own)
        assert {found[kind, own]["metadata"].get("namespace")} == spaces
    roles = {name for each, name in found if each.endswith("Role") and name != "inferno-pause"}
    assert roles - {"inferno-load-emulator"} == {"inferno-collector", "inferno-actuator"}
    (pausing,) = found["RoleBinding", "inferno-pause"]["subjects"]
    assert pausing["name"] == "inferno-actuator"
    collector = read_settings(variables(container(found, "collector")))
    assert collector.prometheus_url
    if "openshift" in chosen:
        (viewer,) = found["ClusterRoleBinding", "inferno-monitoring-view"]["subjects"]
        assert viewer["name"] == "inferno-collector"


def test_the_split_overlay_lets_only_the_controller_reach_collector_and_actuator() -> None:
    """Whoever reaches the actuator can end every server."""
    found = overlay("split")
    told = read_settings(variables(container(found, "controller")))
    assert (told.collector_host, told.actuator_host) == ("inferno-collector", "inferno-actuator")
    for name in ("collector", "actuator"):
        (rule,) = found["NetworkPolicy", f"inferno-{name}"]["spec"]["ingress"]
        assert rule["from"] == [{"podSelector": {"matchLabels": {"app": "inferno"}}}]
        assert rule["ports"] == [{"protocol": "TCP", "port": PORTS[name]}]
    assert reached(found) == set()
    assert found["Deployment", "inferno-actuator"]["spec"]["strategy"] == {"type": "Recreate"}


def verbs(found: Objects) -> set[str]:
    """Return what the loop may do with anything but its own ConfigMap."""
    return {
        verb
        for (kind, name), one in found.items()
        if kind.endswith("Role") and name == "inferno"
        for _, _, verb in rights(one["rules"])
    }


def test_the_base_is_what_the_walk_through_applies() -> None:
    """`kubectl apply -k yamls/deploy`."""
    found = kustomized(YAMLS / "deploy")
    assert found.keys() >= {("Deployment", "inferno"), ("ClusterRole", "inferno")}
    check(found)


def test_the_namespaced_overlay_has_no_rights_in_the_cluster() -> None:
    """For those who may not make a ClusterRole; the loop then watches that namespace only."""
    found = overlay("namespaced")
    assert not [kind for kind, _ in found if kind.startswith("Cluster")]
    assert found["Role", "inferno"]["metadata"]["namespace"] == "infer"
    whole = rights(objects(YAMLS / "deploy")["ClusterRole", "inferno"]["rules"])
    assert rights(found["Role", "inferno"]["rules"]) == whole - {("", "nodes", "list")}
    for name in ("collector", "actuator"):
        assert variables(container(found, name))["WATCH_NAMESPACE"] == "infer"


def test_the_token_overlay_gives_all_services_the_same_file() -> None:
    """One that was forgotten would be open, or shut out."""
    found = overlay("token")
    mount = {"name": "service-token", "mountPath": "/etc/inferno-token", "readOnly": True}
    for name in CONTAINERS:
        one = container(found, name)
        assert variables(one)["INFERNO_SERVICE_TOKEN_PATH"] == "/etc/inferno-token/token"
        assert mount in one["volumeMounts"]


def test_the_operator_overlay_scrapes_asks_and_alerts() -> None:
    """Rules and monitors without the operator's label are read by nobody."""
    found = overlay("prometheus-operator")
    for kind in ("PodMonitor", "PrometheusRule"):
        labels = found[kind, "inferno"]["metadata"]["labels"]
        assert labels == {"release": "kube-prometheus-stack"}
    collector = container(found, "collector")
    assert inferno.parse(collector["command"][1:])[1].metrics == "prometheus"
    asked = variables(collector)["INFERNO_PROMETHEUS_URL"]
    assert asked == "http://prometheus-operated.monitoring:9090"
    assert reached(found) == {("monitoring", 9090)}


def test_the_openshift_overlay_takes_the_user_and_the_monitoring_of_the_cluster() -> None:
    """A fixed user is refused by restricted-v2; its DNS and its querier have ports of their own."""
    found = overlay("openshift")
    security = pod_of(found)["securityContext"]
    assert security == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    told = read_settings(variables(container(found, "collector")))
    assert told.prometheus_url == "https://thanos-querier.openshift-monitoring.svc:9091"
    mounts = {
        mount["mountPath"]: mount["name"] for mount in container(found, "collector")["volumeMounts"]
    }
    for path in (told.prometheus_token_path, told.prometheus_ca_path):
        assert str(Path(str(path)).parent) in mounts
    assert reached(found) == {("openshift-monitoring", 9091)}
    assert ("UDP", 5353) in {
        (port["protocol"], port["port"])
        for rule in found["NetworkPolicy", "inferno"]["spec"]["egress"]
        for port in rule["ports"]
    }


def reached(found: Objects) -> set[tuple[str, int]]:
    """Return the namespaces and ports that the loop may reach by name."""
    return {
        (to["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], port["port"])
        for rule in found["NetworkPolicy", "inferno"]["spec"]["egress"]
        for to in rule.get("to", ())
        if "namespaceSelector" in to
        for port in rule["ports"]
    }


def test_the_export_overlay_can_change_nothing() -> None:
    """Another autoscaler acts: the loop needs neither an actuator nor a right to patch."""
    found = overlay("export")
    names = [each["name"] for each in pod_of(found)["containers"]]
    assert names == ["controller", "collector", "optimizer"]
    assert inferno.parse(container(found, "controller")["command"][1:])[1].mode == "export"
    assert verbs(found) == READING


def autoscalers() -> list[Any]:
    """Return the autoscalers of the sample workload, with their file."""
    return [
        pytest.param(obj, id=f"{name} {obj['metadata']['name']}")
        for name in ("hpa", "keda")
        for obj in documents(YAMLS / "autoscalers" / f"{name}.yaml")
    ]


@pytest.mark.parametrize("obj", autoscalers())
def test_autoscalers_follow_the_metric_of_their_own_server(obj: Object) -> None:
    """One that is copied and not changed everywhere scales by the load of another."""
    told = objects(YAMLS / "workload")["Deployment", obj["spec"]["scaleTargetRef"]["name"]]
    server = told["metadata"]["labels"]["inferno.server.name"]
    assert obj["metadata"]["name"] == told["metadata"]["name"]
    assert obj["metadata"]["namespace"] == told["metadata"]["namespace"]
    text = yaml.safe_dump(obj)
    assert "inferno_desired_replicas" in text
    assert [part for part in ("vllm-001", "vllm-002", "vllm-003") if part in text] == [server]


def test_the_page_shows_the_first_autoscaler_of_each_file() -> None:
    """Two copies come apart."""
    page = (YAMLS.parent / "docs" / "export.md").read_text(encoding="utf-8")
    for name in ("hpa", "keda"):
        text = (YAMLS / "autoscalers" / f"{name}.yaml").read_text(encoding="utf-8")
        first = text[text.index("apiVersion:") :].partition("---\n")[0]
        assert f"```yaml\n{first}```" in page


def test_the_kustomization_of_the_page_is_built(tmp_path: Path) -> None:
    """People begin with a copy of it."""
    page = (YAMLS.parent / "docs" / "install.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    real = os.path.relpath(YAMLS.parent, tmp_path)
    (tmp_path / "kustomization.yaml").write_text(
        text.replace("inferno-twin/yamls", f"{real}/yamls")
    )
    found = kustomized(tmp_path)
    assert {one["image"] for one in pod_of(found)["containers"]} == {"REGISTRY/inferno-loop:0.1.0"}
    assert inferno.parse(container(found, "controller")["command"][1:])[1].mode == "advise"


def test_the_page_names_every_overlay() -> None:
    """What no page names is not found."""
    page = (YAMLS.parent / "docs" / "install.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE)
    assert sorted(rows) == OVERLAYS
