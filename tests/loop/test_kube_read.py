"""From lists of objects to servers: whose pod is whose, in which phase, and what is said of what is
odd.
"""

from __future__ import annotations

import pytest

from loop.backends.kube import labels as names
from loop.backends.kube.gpus import engine_containers
from loop.backends.kube.read import (
    Servers,
    read_deployment,
    read_pod,
    read_servers,
)
from loop.backends.kube.scheduling import selects
from loop.signals.models import matched_model
from tests.loop.kube_objects import EPOCH_S, Json, alive, date, deployment, pod, read


def servers(*deployments: Json, pods: tuple[Json, ...] = ()) -> Servers:
    """Return the servers that these objects make."""
    return read_servers(deployments, pods, epoch_s=EPOCH_S)


def test_a_deployment_says_what_its_labels_say() -> None:
    """These are the names of the walk-through."""
    one = read(labels={names.LOAD_RPM: "30"})
    assert (one.server, one.model, one.service_class) == ("s1", "llama_8b", "Premium")
    assert (one.accelerator, one.max_batch, one.wanted) == ("H100", 64, 2)
    assert one.load is not None
    assert one.load.rate_rpm == 30.0
    assert one.problem == ""


def test_what_no_label_says_has_a_rule() -> None:
    """The name is the Deployment's, the class Free; accelerator and batch are simply not known."""
    one = read(without=(names.NAME, names.CLASS, names.ACCELERATOR, names.MAX_BATCH))
    assert (one.server, one.service_class, one.accelerator, one.max_batch) == (
        "dep1",
        "Free",
        "",
        0,
    )


@pytest.mark.parametrize(("told", "wanted"), [(0, 0), (3, 3), (None, 1)])
def test_replicas_that_are_not_told_are_one_and_zero_is_zero(told: int | None, wanted: int) -> None:
    """Absent is the API's default of one; 0 is falsy in Python and must not become it."""
    assert read(replicas=told).wanted == wanted


def test_fields_that_are_absent_or_null_are_empty() -> None:
    """A server leaves out what is zero: labels, annotations, the whole status."""
    obj = deployment()
    obj["metadata"] |= {"annotations": None, "managedFields": None}
    del obj["status"]
    (found,) = servers(obj).by_name.values()
    assert (found.deployment.observed, found.deployment.settled, found.pods) == (0, False, ())


def test_a_status_behind_the_specification_is_not_settled() -> None:
    """For a moment after a patch the status is of the time before."""
    assert read().settled
    assert not read(status={"observedGeneration": 2}).settled


@pytest.mark.parametrize("phase", ["ready", "starting", "pending", "draining"])
def test_pods_are_counted_by_the_phase_they_are_in(phase: str) -> None:
    """Starting ones hold GPUs already; those that end do so still."""
    (found,) = servers(deployment(), pods=(pod("a", phase=phase),)).by_name.values()
    assert [one.phase for one in found.pods] == [phase]


def test_a_pod_is_in_its_phase_since_the_condition_says() -> None:
    """A policy asks how long a replica starts already; a pod that ends names the end of its grace
    period instead.
    """
    ready, going = alive(
        pod("a", since_s=-90.0, created_s=-200.0), pod("b", phase="draining", since_s=-10.0)
    )
    assert (ready.since_s, ready.created_s) == (-90.0, -200.0)
    assert going.since_s == -10.0


def test_finished_pods_are_no_pods() -> None:
    """An evicted pod stays listed for days."""
    assert read_pod(pod("a", phase="finished"), epoch_s=EPOCH_S) is None


def test_a_model_id_of_a_whole_page_is_not_used_and_told() -> None:
    """It would stand in every record and metric."""
    long = read_deployment(deployment(annotations={names.MODEL_ID: "x" * 262144}))
    assert long.model == "llama_8b"
    assert long.problem.endswith("expected at most 253 characters, found 262144")


def test_pods_of_deployments_with_similar_names_are_not_mixed_up() -> None:
    """dep1 is the beginning of dep1-canary; only the ReplicaSet's name tells."""
    both = (deployment(), deployment("dep1-canary", labels={names.NAME: "s2"}))
    found = servers(
        *both, pods=(pod("a"), pod("b", of="dep1-canary"), pod("c", of="dep1-canary"))
    ).by_name
    assert {name: len(one.pods) for name, one in found.items()} == {"s1": 1, "s2": 2}


def test_a_pod_without_a_replica_set_belongs_to_whoever_selects_it() -> None:
    """Adopted pods, and API servers that keep no owners."""
    lone = pod("a")
    lone["metadata"]["ownerReferences"] = []
    found = servers(deployment(), pods=(lone,))
    assert len(found.by_name["s1"].pods) == 1


@pytest.mark.parametrize("kind", ["StatefulSet", "ReplicaSet", "LeaderWorkerSet"])
def test_a_pod_of_another_controller_is_not_ours_whatever_its_labels(kind: str) -> None:
    """A Deployment that moves to a StatefulSet or a Rollout has pods of both for a while, of the
    same labels: those of the other were counted, and the Deployment was grown for them.
    """
    moved = pod("a")
    moved["metadata"]["labels"].pop("pod-template-hash")
    moved["metadata"]["labels"]["rollouts-pod-template-hash"] = "abcdef1234"
    moved["metadata"]["ownerReferences"] = [{"kind": kind, "name": "dep1-abcdef1234"}]
    for controls, pods in ((True, 0), (False, 1)):
        moved["metadata"]["ownerReferences"][0]["controller"] = controls
        found = servers(deployment(), pods=(moved,))
        assert len(found.by_name["s1"].pods) == pods
        assert len(found.unowned) == 1 - pods


def test_pods_in_another_namespace_and_of_nobody_are_unowned() -> None:
    """They hold GPUs all the same."""
    found = servers(deployment(), pods=(pod("a", namespace="other"), pod("b", of="redis")))
    assert found.by_name["s1"].pods == ()
    assert len(found.unowned) == 2


def test_a_name_that_two_deployments_claim_stays_with_the_older_one() -> None:
    """A copied manifest must not take a server over, nor have the two fight for it."""
    young = deployment("copy", metadata={"creationTimestamp": date(-10)})
    found = servers(young, deployment())
    assert found.by_name["s1"].deployment.name == "dep1"
    assert found.warnings == ("infer/copy: left alone: infer/dep1 has its name s1 already",)


def test_one_name_in_two_namespaces_makes_two_servers() -> None:
    """Every team that deploys one chart twice has this; the short name is for when it is alone."""
    prod, stage = deployment(namespace="prod"), deployment(namespace="stage")
    pods = (pod("a", namespace="prod"), pod("b", namespace="stage"))
    found = servers(prod, stage, pods=pods)
    assert found.warnings == ()
    assert {name: len(one.pods) for name, one in found.by_name.items()} == {
        "prod/s1": 1,
        "stage/s1": 1,
    }
    assert [one.name for one in found.by_name.values()] == ["prod/s1", "stage/s1"]
    assert list(servers(prod).by_name) == ["s1"]


def test_a_model_may_have_a_name_that_no_label_can_hold() -> None:
    """Names of models have slashes."""
    named = deployment(annotations={names.MODEL_ID: "meta-llama/Llama-3.1-8B"})
    assert servers(named).by_name["s1"].deployment.model == "meta-llama/Llama-3.1-8B"
    # What fits is no less known as a label: nothing says that it is not read.
    named = deployment(labels={names.MODEL_ID: "Llama-3.1-8B", names.MODEL: ""})
    found = servers(named).by_name["s1"].deployment
    assert (found.model, found.unread) == ("Llama-3.1-8B", ())


def test_what_is_wrong_with_one_server_is_told_and_keeps_no_other_out() -> None:
    """A typing error in one manifest must not stop the loop."""
    odd = deployment("dep2", labels={names.NAME: "s2", names.MAX_BATCH: "many"})
    nameless = deployment("dep3", labels={names.NAME: "s3", names.MODEL: ""})
    found = servers(deployment(), odd, nameless)
    assert set(found.by_name) == {"s1", "s2", "s3"}
    assert found.warnings == (
        "s2: label inferno.server.allocation.maxbatchsize: expected a whole number, found 'many'",
    )


@pytest.mark.parametrize(
    ("told", "model"),
    [
        (["llama_8b"], "llama_8b"),
        (["meta-llama/Llama_8B"], "llama_8b"),
        (["qwen_14b"], "Qwen/qwen_14b"),
        (["mistral"], ""),
        (["llama_8b", "an-adapter"], "llama_8b"),
        (["meta-llama/Llama_8B", "Qwen/qwen_14b"], "Qwen/qwen_14b"),
        (["llama_8b", "Qwen/qwen_14b"], ""),
        ([], ""),
    ],
)
def test_a_model_is_known_by_what_its_engine_calls_it(told: list[str], model: str) -> None:
    """With or without the organisation; adapters have names that the data do not know."""
    assert matched_model(told, {"llama_8b", "Qwen/qwen_14b"}) == model


def test_a_model_is_what_its_engine_calls_it_where_no_data_are() -> None:
    """A collector has none: who asks it may."""
    assert matched_model(["Qwen/Qwen2"], ()) == "Qwen/Qwen2"


@pytest.mark.parametrize(
    ("selector", "fits"),
    [
        ({"matchLabels": {"app": "x"}}, True),
        ({"matchLabels": {"app": "y"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["x", "z"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["x"]}]}, False),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}, True),
        (
            {
                "matchLabels": {"app": "x"},
                "matchExpressions": [{"key": "tier", "operator": "Exists"}],
            },
            False,
        ),
        ({}, False),
    ],
)
def test_selectors_select_as_the_api_says(selector: Json, fits: bool) -> None:
    """An empty selector of a Deployment is refused by the API; here it must not claim every pod."""
    assert selects(selector, {"app": "x"}) == fits


def test_ports_of_metrics_are_the_annotated_the_named_or_the_first_of_each_container() -> None:
    """As Prometheus is usually told; 8000 is vLLM's. Each container with GPUs or claims is an
    engine, also one that goes on beside the others (a sidecar): half of the load was not read.
    """
    ports = [{"containerPort": 9000}, {"name": "metrics", "containerPort": 9090}]
    named = pod("a", spec={"containers": [{"name": "c", "ports": ports}]})
    annotated = pod(
        "b", metadata={"annotations": {"prometheus.io/port": "7", "prometheus.io/path": "/m"}}
    )
    bare = pod("c", spec={"containers": [{"name": "c"}]})
    first = [{"containerPort": 15001}, {"containerPort": 15006}]
    behind = pod(
        "d",
        spec={"containers": [{"name": "proxy", "ports": first}, {"name": "c", "ports": ports[:1]}]},
    )
    gpu = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    second = {"name": "s", "restartPolicy": "Always", "ports": first, **gpu}
    loader = {"name": "loader", "ports": [{"containerPort": 1, "name": "http"}]}
    two = pod(
        "e",
        spec={
            "containers": [{"name": "c", "ports": ports, **gpu}],
            "initContainers": [loader, second],
        },
    )
    # Probes tell which port speaks HTTP, and none at all is UDP.
    several = [
        {"containerPort": 5557, "name": "zmq"},
        {"containerPort": 4, "protocol": "UDP"},
        {"containerPort": 7000, "name": "openai"},
    ]
    probe = {"httpGet": {"port": "openai", "path": "/health"}}
    probed = {"name": "c", "ports": several, "readinessProbe": probe}
    probes = pod("f", spec={"containers": [probed]})
    datagrams = pod("g", spec={"containers": [{"name": "c", "ports": several[1:]}]})
    claim = {"resources": {"claims": [{"name": "gpu"}]}}
    claiming = [{"name": f"v{k}", "ports": ports[:1], **claim} for k in range(2)]
    claiming[1]["ports"] = first[1:]
    proxy = {"name": "proxy", "ports": first[:1]}
    claims = pod("h", spec={"containers": [proxy, *claiming]})
    script = {"command": ["sh", "-c"], "args": ["exec /usr/bin/trtllm-serve /models/m"]}
    tensorrt = pod("i", spec={"containers": [{"name": "c", "ports": ports[:1], **script}]})
    every = alive(named, annotated, bare, behind, two, probes, datagrams, claims, tensorrt)
    found = [(one.metrics_ports, one.metrics_path) for one in every]
    assert found == [
        ((9090,), "/metrics"),
        ((7,), "/m"),
        ((8000,), "/metrics"),
        ((15001, 9000), "/metrics"),
        ((9090, 15001), "/metrics"),
        ((7000,), "/metrics"),
        ((7000,), "/metrics"),
        ((9000, 15006), "/metrics"),
        ((9000,), "/prometheus/metrics"),
    ]


GPU = {"resources": {"limits": {"nvidia.com/gpu": 1}}}
SERVE = ["vllm", "serve", "m", "--port", "8001"]


@pytest.mark.parametrize(
    ("second", "asked"),
    [
        ({"command": SERVE}, (8000, 8001)),
        ({"command": ["sh", "-c", "sleep 9 && exec vllm serve m"]}, (8000, 8001)),
        ({"command": ["python3", "-m", "sglang.launch_server"]}, (8000, 8001)),
        ({"image": "vllm/vllm-openai:v0.11.0", "args": ["--model", "m"]}, (8000, 8001)),
        ({"image": "x/llm-d-inference-sim@sha256:0"}, (8000, 8001)),
        ({"command": ["vllm", "bench", "serve"]}, (8000,)),
        ({"command": ["pd-sidecar", "--vllm-port=8000"]}, (8000,)),
        ({"image": "vllm/vllm-openai", "command": ["nginx"]}, (8000,)),
        ({}, (8000,)),
    ],
)
@pytest.mark.parametrize("annotations", [{}, {"prometheus.io/port": "8000"}])
def test_a_second_engine_is_asked_also_where_it_asks_for_no_gpu(
    second: Json, asked: tuple[int, ...], annotations: Json
) -> None:
    """Two engines may share a GPU that one container asks for, and some run on none; one annotation
    names one port. Half of the load was read.
    """
    ports = [{"containerPort": number, "name": f"p{number}"} for number in (8000, 8001)]
    containers = [
        {"name": "one", "ports": ports[:1], **GPU},
        {"name": "two", "ports": ports[1:], **second},
    ]
    spec = {"containers": containers}
    (found,) = alive(pod("a", metadata={"annotations": annotations}, spec=spec))
    assert found.metrics_ports == asked


def test_a_port_that_is_annotated_and_of_no_engine_tells_of_all() -> None:
    """A service mesh merges the pages of a pod at a port of its own."""
    ports = [{"containerPort": number} for number in (8000, 8001)]
    containers = [{"name": f"c{k}", "ports": [port], **GPU} for k, port in enumerate(ports)]
    annotations = {"prometheus.io/port": "15020"}
    spec = {"containers": containers}
    (found,) = alive(pod("a", metadata={"annotations": annotations}, spec=spec))
    assert found.metrics_ports == (15020,)


def test_containers_with_gpus_or_claims_are_known_as_engines() -> None:
    """Two engines with claims were taken for one and its copy."""
    containers = [
        {"name": "limits", "resources": {"limits": {"nvidia.com/gpu": 1}}},
        {"name": "claims", "resources": {"claims": [{"name": "gpu"}]}},
        {"name": "proxy"},
    ]
    assert engine_containers(containers) == {"limits", "claims"}


@pytest.mark.parametrize(
    ("names", "asked"),
    [
        ((None, None), (8000, 8081)),
        (("api", None), (8000, 8081)),
        (("zmq", "api"), (8081,)),
        (("api", "health"), (8000,)),
        (("http", None), (8000,)),
        (("zmq", "http"), (8081,)),
    ],
)
def test_a_port_may_be_for_probes_alone(
    names: tuple[str | None, ...], asked: tuple[int, ...]
) -> None:
    """Metrics were asked for there, and nowhere else: a busy server had none."""
    ports = [
        {"containerPort": number} | ({"name": name} if name else {})
        for number, name in zip((8000, 8081), names, strict=True)
    ]
    probe = {"httpGet": {"port": 8081, "path": "/healthz"}}
    container = {"name": "c", "ports": ports, "livenessProbe": probe}
    assert alive(pod("a", spec={"containers": [container]}))[0].metrics_ports == asked


@pytest.mark.parametrize(
    ("annotations", "probe", "tls"),
    [
        ({}, {"port": "https", "scheme": "HTTPS"}, True),
        ({}, {"port": 8443, "scheme": "HTTPS"}, True),
        ({}, {"port": 1, "scheme": "HTTPS"}, False),
        ({}, {"port": 8443}, False),
        ({"prometheus.io/scheme": "https"}, {"port": 8443}, True),
        ({"prometheus.io/scheme": "http"}, {"port": 8443, "scheme": "HTTPS"}, False),
    ],
)
def test_a_port_that_speaks_https_is_known_by_its_annotation_or_its_probes(
    annotations: Json, probe: Json, *, tls: bool
) -> None:
    """KServe has vLLM serve so; asked in plain text it tells nothing."""
    ports = [{"name": "https", "containerPort": 8443}]
    container = {"name": "c", "ports": ports, "readinessProbe": {"httpGet": probe}}
    one = pod("a", metadata={"annotations": annotations}, spec={"containers": [container]})
    (found,) = alive(one)
    assert (found.metrics_ports, found.tls_ports == {8443}) == ((8443,), tls)


@pytest.mark.parametrize(
    "strange",
    [
        {},
        {"metadata": None},
        {"metadata": {"name": "odd"}, "spec": {}},
        {"metadata": {"name": 7, "namespace": "infer"}, "spec": {}},
        {"metadata": {"name": "odd", "namespace": "infer"}, "spec": {"replicas": "many"}},
        {"metadata": {"name": "odd", "namespace": "infer"}, "spec": {"replicas": -1}},
        {"metadata": {"name": "odd", "namespace": "infer"}, "spec": {"replicas": 1e300}},
        {"metadata": {"name": "odd", "namespace": "infer", "labels": [1]}, "spec": {}},
        {"metadata": {"name": "odd", "namespace": "infer", "labels": {"a": 1}}, "spec": {}},
        {"metadata": {"name": "odd", "namespace": "infer", "annotations": "x"}, "spec": {}},
        "text",
        None,
        7,
    ],
)
def test_a_strange_object_stops_no_other_and_is_told(strange: object) -> None:
    """One of them in a list ended the cycle for all servers."""
    good = deployment()
    found = servers(good, strange, pods=(pod("a"), strange))  # type: ignore[arg-type]
    assert list(found.by_name) == ["s1"]
    assert [one.name for one in found.by_name["s1"].pods] == [pod("a")["metadata"]["name"]]
    assert any("left alone: it is not as the API describes it" in line for line in found.warnings)
    assert all(len(line) < 200 for line in found.warnings)


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"creationTimestamp": "yesterday"}},
        {"metadata": {"labels": "x"}},
        {"spec": {"containers": "x"}},
        {"metadata": {"annotations": {"prometheus.io/port": 8000}}},
    ],
)
def test_a_strange_pod_stops_no_other_and_is_told(fields: Json) -> None:
    """Its server goes on with the others."""
    found = servers(deployment(), pods=(pod("a"), pod("b", **fields)))
    assert len(found.by_name["s1"].pods) == 1
    assert len(found.warnings) == 1


@pytest.mark.parametrize("port", ["8" * 5000, "\u00b2", "70000", "-1", "0x50"])
def test_a_port_that_is_none_is_not_used(port: str) -> None:
    """The named port of the container, or the usual one, may be right."""
    one = pod("a", metadata={"annotations": {"prometheus.io/port": port}})
    assert alive(one)[0].metrics_ports == (8000,)


@pytest.mark.parametrize(
    ("text", "paused"),
    [("true", True), ("True", True), ("yes", True), ("on", True), ("", False), ("false", False)],
)
def test_whatever_people_write_for_a_pause_is_one(text: str, paused: bool) -> None:
    """Who writes "yes" does not want the loop to go on."""
    one = servers(deployment(annotations={names.PAUSED: text})).by_name["s1"].deployment
    assert one.paused is paused


def test_what_a_list_in_parts_shows_twice_is_there_once() -> None:
    """Its second part may be of a later moment, in which an object has moved behind."""
    found = read_servers([deployment(), deployment()], [pod("a"), pod("a")], epoch_s=EPOCH_S)
    assert len(found.by_name["s1"].pods) == 1
    assert found.warnings == ()


@pytest.mark.parametrize("where", ["labels", "annotations"])
def test_a_label_that_has_the_name_of_an_annotation_is_meant(where: str) -> None:
    """kubectl label … inferno.server.paused=true paused nothing, and nobody was told."""
    one = read_deployment(deployment(**{where: {names.PAUSED: "true", names.APPLY_GPUS: "true"}}))
    assert (one.paused, one.applies_gpus, one.unread) == (True, True, ())
