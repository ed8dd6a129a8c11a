"""Capacity from nodes: GPUs that can be planned with are those of living nodes that nobody else
holds.
"""

from __future__ import annotations

import pytest

from loop.backends.kube.gpus import gpu_limit
from loop.backends.kube.nodes import Tenant, known_type, read_capacity, without_growth
from loop.backends.kube.scheduling import obstacle
from loop.types import SharedGpus
from tests.loop.kube_objects import Json, alive, node, pod, read, server

TYPES = ("A100", "H100", "L4", "L40S", "MI300X", "4xA100")


def capacity(
    *nodes: Json, ours: tuple[Json, ...] = (), others: tuple[Json, ...] = ()
) -> dict[str, tuple[int, int]]:
    """Return (total, used) by type."""
    tenants = [Tenant(name="s1", pods=alive(*ours))] if ours else []
    found = read_capacity(nodes, tenants=tenants, others=alive(*others), types=TYPES)
    return {kind: (view.total, view.used) for kind, view in found.by_type.items()}


def test_gpus_of_living_nodes_are_added_up_by_type() -> None:
    """The optimizer knows types, not nodes."""
    assert capacity(node("a"), node("b", gpus=4), node("b", gpus=4), node("c", product="L4")) == {
        "H100": (12, 0),
        "L4": (8, 0),
    }


def test_gpus_that_our_pods_hold_are_used_and_still_ours_to_plan_with() -> None:
    """Those of starting and draining pods too; one without a node holds none."""
    pods = tuple(
        pod(phase, phase=phase, gpus=2) for phase in ("ready", "starting", "draining", "pending")
    )
    assert capacity(node(), ours=pods) == {"H100": (8, 6)}


def test_gpus_that_others_hold_are_not_there() -> None:
    """To plan with them would leave pods pending for ever."""
    assert capacity(node(), ours=(pod("a", gpus=1),), others=(pod("x", of="batch", gpus=3),)) == {
        "H100": (5, 1)
    }


def test_a_dead_node_has_no_gpus_and_a_closed_one_those_that_our_pods_hold() -> None:
    """Pods on a cordoned node go on; new ones do not come."""
    assert capacity(node(ready="Unknown")) == {}
    assert capacity(node(closed=True), ours=(pod("a", gpus=2),)) == {"H100": (2, 2)}
    leaving = node()
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert capacity(leaving, ours=(pod("a", gpus=2),)) == {"H100": (2, 2)}


def test_nodes_without_gpus_do_not_count() -> None:
    """Most nodes have none."""
    assert capacity(node(gpus=0)) == {}


@pytest.mark.parametrize(
    ("product", "kind"),
    [
        ("A100", "A100"),
        ("NVIDIA-A100-SXM4-80GB", "A100"),
        ("NVIDIA-H100-80GB-HBM3", "H100"),
        ("NVIDIA-L40S", "L40S"),
        ("nvidia-l4", "L4"),
        ("AMD_Instinct_MI300X_OAM", "MI300X"),
        ("NVIDIA-T4", "NVIDIA-T4"),
    ],
)
def test_a_product_is_of_the_type_that_is_a_word_of_its_name(product: str, kind: str) -> None:
    """L4 is not L40S, and what the data do not know stays what it is."""
    assert known_type(product, TYPES) == kind


def test_a_type_that_the_data_do_not_know_is_told() -> None:
    """Its GPUs would lie idle, and nobody would know why."""
    found = read_capacity([node(product="NVIDIA-T4")], tenants=(), others=(), types=TYPES)
    assert found.warnings == ("nodes: the data know no accelerator of type NVIDIA-T4",)


def of_node(node: Json, **spec: object) -> Json:
    """Return *node* with these fields of its specification."""
    return {**node, "spec": {**node["spec"], **spec}}


def labelled(node: Json, **labels: str) -> Json:
    """Return *node* with further labels; a dot and a slash are _D_ and _S_ in their names."""
    more = {key.replace("_D_", ".").replace("_S_", "/"): text for key, text in labels.items()}
    meta = node["metadata"]
    return {**node, "metadata": {**meta, "labels": {**meta["labels"], **more}}}


def test_slices_and_shares_of_gpus_are_types_of_their_own() -> None:
    """56 slices of a seventh are no 56 GPUs; the optimizer would ask for pods that never start."""
    nodes = (
        node("a", product="NVIDIA-H100-80GB-HBM3"),
        node("b", product="NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", gpus=56),
        node("c", product="NVIDIA-H100-80GB-HBM3-SHARED", gpus=32),
        labelled(node("d", product="NVIDIA-L4", gpus=4), nvidia_D_com_S_gpu_D_replicas="4"),
    )
    assert capacity(*nodes) == {
        "H100": (8, 0),
        "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb": (56, 0),
        "NVIDIA-H100-80GB-HBM3-SHARED": (32, 0),
        "NVIDIA-L4-SHARED": (4, 0),
    }


@pytest.mark.parametrize(
    ("product", "memory_gb", "kind"),
    [
        ("NVIDIA-A100-SXM4-80GB", None, "A100-80GB"),
        ("NVIDIA-A100-SXM4-40GB", None, "A100-40GB"),
        ("NVIDIA-A100-PCIE", 80, "A100-80GB"),
        ("NVIDIA-A100-PCIE", 40, "A100-40GB"),
        ("NVIDIA-A30", 24, "NVIDIA-A30"),
    ],
)
def test_variants_of_a_product_are_told_apart_by_their_memory(
    product: str, memory_gb: int | None, kind: str
) -> None:
    """A model that needs 80 GB does not fit the half."""
    assert known_type(product, ("A100-40GB", "A100-80GB"), memory_gb=memory_gb) == kind


@pytest.mark.parametrize(
    ("operator", "value", "fits"),
    [
        ("Gt", "900", True),
        ("Gt", "950", False),
        ("Lt", "1000", True),
        ("Lt", "x", False),
        ("Ge", "900", False),
    ],
)
def test_tolerations_may_compare_numbers(operator: str, value: str, *, fits: bool) -> None:
    """Since Kubernetes 1.35: a node whose taint they tolerate gave its server no GPUs."""
    taint = {"key": "sla", "value": "950", "effect": "NoSchedule"}
    template = {"tolerations": [{"key": "sla", "operator": operator, "value": value}]}
    one = of_node(node(), taints=[taint])
    assert (obstacle(template, one) == "") is fits


@pytest.mark.parametrize(("term", "fits"), [({}, False), ({"matchExpressions": []}, False)])
def test_an_affinity_that_asks_for_nothing_matches_no_node(term: Json, *, fits: bool) -> None:
    """The scheduler reads it so: such pods wait for ever, and GPUs were planned for them."""
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    assert (obstacle({"affinity": {"nodeAffinity": required}}, node()) == "") is fits


TAINT = {"key": "dedicated", "value": "training", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("template", "fits"),
    [
        ({}, False),
        ({"tolerations": [{"key": "dedicated", "operator": "Exists"}]}, True),
        ({"tolerations": [{"operator": "Exists"}]}, True),
        ({"tolerations": [{"key": "dedicated", "value": "training"}]}, True),
        ({"tolerations": [{"key": "dedicated", "value": "serving"}]}, False),
        ({"tolerations": [{"key": "dedicated", "value": "training", "effect": "x"}]}, False),
    ],
)
def test_a_tainted_node_counts_for_those_who_tolerate_it(template: Json, fits: bool) -> None:
    """And it is said once whose GPUs are left out, and why."""
    found = read_capacity(
        [of_node(node(), taints=[TAINT])],
        tenants=[Tenant(name="s", pod_spec=template)],
        others=(),
        types=TYPES,
    )
    assert found.by_type["H100"].total == (8 if fits else 0)
    line = (
        "nodes: 8 H100 of node-1 do not count: no server's pods can be put there "
        "(taint dedicated=training:NoSchedule)"
    )
    assert found.notes == (() if fits else (line,))


def test_a_taint_of_the_gpu_resource_keeps_no_pod_off_that_asks_for_it() -> None:
    """The API server adds the toleration by itself, if it is set to; pods show whether it is."""
    taint = {"key": "nvidia.com/gpu", "effect": "NoSchedule"}
    nodes = [of_node(node(), taints=[taint]), node("b", gpus=1)]

    def total(*tolerations: Json) -> int:
        made = pod(node="b", gpus=1)
        made["spec"]["tolerations"] = list(tolerations)
        tenants = [Tenant(name="s", pods=alive(made))]
        return read_capacity(nodes, tenants=tenants, others=(), types=TYPES).by_type["H100"].total

    others = {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}
    assert total() == 9
    assert total(others, {"key": "nvidia.com/gpu", "operator": "Exists"}) == 9
    assert total(others) == 1


def test_pods_that_may_not_share_a_node_have_the_gpus_of_one_pod_there() -> None:
    """More would stay pending: a rule keeps them apart, or a port of the node."""
    own = {"labelSelector": {"matchLabels": {"app": "dep1"}}}
    hostname = {**own, "topologyKey": "kubernetes.io/hostname"}
    zone = {**own, "topologyKey": "topology.kubernetes.io/zone"}

    def apart(*terms: Json, **container: object) -> bool:
        rule = {"requiredDuringSchedulingIgnoredDuringExecution": list(terms)}
        spec = {"affinity": {"podAntiAffinity": rule}, "containers": [{"name": "c", **container}]}
        return read(
            spec={"template": {"metadata": {"labels": {"app": "dep1"}}, "spec": spec}}
        ).apart

    assert apart(hostname)
    assert apart({**hostname, "labelSelector": {}})  # all pods
    assert apart(ports=[{"containerPort": 80, "hostPort": 80}])
    assert not apart(zone, ports=[{"containerPort": 80}])
    tenants = [
        Tenant(name="s", pods=alive(pod(node="a", gpus=2)), gpus=2, alone=True),
        Tenant(name="t"),
    ]
    nodes = [node("a"), node("b"), node("c", gpus=1)]
    found = read_capacity(nodes, tenants=tenants, others=(), types=TYPES)
    assert found.by_type["H100"].total == 17
    assert found.reachable == {"s": {"H100": 5}}


def test_a_cordoned_node_is_told() -> None:
    """Whoever drains one wants to see that the loop has seen it."""
    nodes = [node("a", closed=True), node("b")]
    found = read_capacity(nodes, tenants=[Tenant(name="s")], others=(), types=TYPES)
    line = (
        "nodes: 8 H100 of a do not count, but for those that managed pods hold: it is cordoned, or "
        "being deleted"
    )
    assert (found.by_type["H100"].total, found.notes) == (8, (line,))
    bound = Tenant(name="s", pod_spec={"nodeName": "a"})
    (note,) = read_capacity([node("b")], tenants=[bound], others=(), types=TYPES).notes
    assert note.endswith("no server's pods can be put there (node name a)")


def test_nodes_count_by_selector_and_affinity_but_for_the_selector_that_the_loop_sets() -> None:
    """The loop moves servers by that selector: it must not bind them to where they are."""
    zone = {"key": "zone", "operator": "In", "values": ["b"]}
    required = {"nodeSelectorTerms": [{"matchExpressions": [zone]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    template = {"nodeSelector": {"gpu": "L4"}, "affinity": affinity}
    nodes = [labelled(node("a"), zone="a"), labelled(node("b"), zone="b")]
    found = read_capacity(
        nodes,
        tenants=[Tenant(name="s", pod_spec=template, selector_key="gpu")],
        others=(),
        types=TYPES,
    )
    assert found.by_type["H100"].total == 8
    bound = read_capacity(
        nodes, tenants=[Tenant(name="s", pod_spec=template)], others=(), types=TYPES
    )
    assert bound.by_type["H100"].total == 0


def test_gpus_of_sidecars_are_held_too() -> None:
    """Init containers that go on are beside the others; the rest come and go before them."""
    limits = {"resources": {"limits": {"nvidia.com/gpu": "2"}}}
    beside = pod("x", of="batch", gpus=1)
    beside["spec"]["initContainers"] = [{"name": "s", "restartPolicy": "Always", **limits}]
    before = pod("y", of="batch", gpus=1)
    before["spec"]["initContainers"] = [{"name": "i", **limits}]
    assert capacity(node(), others=(beside,)) == {"H100": (5, 0)}
    assert capacity(node(), others=(before,)) == {"H100": (6, 0)}
    both = pod("z", of="batch", gpus=1)
    both["spec"]["initContainers"] = [
        *beside["spec"]["initContainers"],
        *before["spec"]["initContainers"],
    ]
    assert capacity(node(), others=(both,)) == {"H100": (4, 0)}


@pytest.mark.parametrize("strange", [{}, None, "x", {"metadata": {"name": "n"}, "status": "?"}])
def test_a_strange_node_stops_no_other_and_is_told(strange: Json) -> None:
    """Its GPUs are not counted; those of the others are."""
    found = read_capacity([node("a"), strange], tenants=(), others=(), types=TYPES)
    assert found.by_type["H100"].total == 8
    assert "node without a name: left alone" in " ".join(found.warnings) or "node n" in " ".join(
        found.warnings
    )


MIXED = {
    "nvidia.com/gpu": "4",
    "nvidia.com/mig-1g.10gb": "14",
    "nvidia.com/mig-3g.40gb": "4",
}


def mixed(resources: dict[str, str], **labels: str) -> Json:
    """Return a node with these *resources* and labels besides those of H100."""
    one = labelled(node("m"), **labels)
    return {**one, "status": {**one["status"], "allocatable": resources}}


def tenant(name: str, resource: str = "", **spec: Json) -> Tenant:
    """Return a server whose pods ask for *resource*."""
    return Tenant(name=name, resource=resource, pod_spec=spec)


def test_slices_beside_whole_gpus_are_types_of_their_own() -> None:
    """A GPU that is cut gives a server of whole ones nothing, and slices none to each other."""
    slices = [tenant("a", "nvidia.com/gpu"), tenant("b", "nvidia.com/mig-1g.10gb")]
    named = {"nvidia.com/mig-1g.10gb.product": "NVIDIA-H100-MIG-1g.10gb"}
    nodes = [mixed(MIXED, **named)]
    found = read_capacity(nodes, tenants=slices, others=(), types=TYPES)
    small, large = "NVIDIA-H100-MIG-1g.10gb", "H100-MIG-3g.40gb"
    totals = {kind: view.total for kind, view in found.by_type.items()}
    assert totals == {"H100": 4, small: 14, large: 0}
    assert found.reachable == {
        "a": {"H100": 4, small: 0, large: 0},
        "b": {"H100": 0, small: 14, large: 0},
    }
    assert found.notes == (
        f"nodes: 4 {large} of m do not count: no server's pods can be put there (pods ask for "
        "nvidia.com/gpu, and these are nvidia.com/mig-3g.40gb)",
    )
    theirs = pod("x", of="batch", node="m")
    limits = {"limits": {"nvidia.com/mig-1g.10gb": "5"}}
    theirs["spec"]["containers"][0]["resources"] = limits
    others = alive(theirs)
    less = read_capacity(nodes, tenants=slices, others=others, types=TYPES)
    assert {kind: view.total for kind, view in less.by_type.items()} == {
        "H100": 4,
        small: 9,
        large: 0,
    }


def test_shares_that_have_a_name_of_their_own_are_no_whole_gpus() -> None:
    """The device plugin may rename them."""
    nodes = [mixed({"nvidia.com/gpu.shared": "32"})]
    found = read_capacity(
        nodes, tenants=[tenant("a", "nvidia.com/gpu.shared")], others=(), types=TYPES
    )
    assert {kind: view.total for kind, view in found.by_type.items()} == {"H100-SHARED": 32}


def test_each_server_has_the_gpus_that_its_own_pods_can_be_put_on() -> None:
    """A tainted node is there for whom tolerates it; what a pod holds stays its server's."""
    kept = of_node(node("b"), taints=[TAINT])
    tolerant = tenant("a", tolerations=[{"key": "dedicated", "operator": "Exists"}])
    bound = Tenant(name="b", pods=alive(pod("x", node="b", gpus=2)))
    found = read_capacity([node("a"), kept], tenants=[tolerant, bound], others=(), types=TYPES)
    assert (found.by_type["H100"].total, found.by_type["H100"].used) == (16, 2)
    assert found.reachable == {"b": {"H100": 10}}


def test_gpus_that_only_some_servers_reach_are_known_to_be_shared() -> None:
    """Each of two reaches four: these are the same four."""
    kept = of_node(node("b", gpus=4), taints=[TAINT])
    only_there = {
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "nodeSelector": {"kubernetes.io/hostname": "b"},
    }
    kept["metadata"]["labels"]["kubernetes.io/hostname"] = "b"
    servers = [tenant("a", **only_there), tenant("b", **only_there), tenant("c")]
    found = read_capacity([node("a"), kept], tenants=servers, others=(), types=TYPES)
    assert found.by_type["H100"].total == 12
    assert found.shared == (SharedGpus(type="H100", servers=frozenset("ab"), count=4),)


def test_gpus_that_their_node_keeps_back_are_told() -> None:
    """Capacity that falls without a word looks like a plan gone mad."""
    lost = node("a")
    lost["status"]["capacity"] = {"nvidia.com/gpu": "8"}
    lost["status"]["allocatable"] = {"nvidia.com/gpu": "6"}
    found = read_capacity([lost, node("b", ready="False")], tenants=(), others=(), types=TYPES)
    assert found.by_type["H100"].total == 6
    assert found.notes == (
        "nodes: 2 nvidia.com/gpu of a do not count: they are not allocatable (does the device "
        "plugin run?)",
        "nodes: 8 GPUs of b do not count: it is not ready",
    )


@pytest.mark.parametrize("quantity", ["9" * 26, "many", "-1"])
def test_a_count_of_gpus_that_is_none_is_told(quantity: str) -> None:
    """The node would be one without GPUs, and nobody would know why."""
    odd = mixed({"nvidia.com/gpu": quantity})
    found = read_capacity([odd, node("a")], tenants=(), others=(), types=TYPES)
    assert found.by_type["H100"].total == 8
    assert "nvidia.com/gpu: expected a count, found" in found.warnings[0]


def without_gpus(allocatable: Json) -> Json:
    """Return the node of the pods with this alone to be had."""
    found = node()
    found["status"]["allocatable"] = allocatable
    return found


@pytest.mark.parametrize(
    "nodes",
    [
        [without_gpus({"nvidia.com/gpu": "0"})],  # its device plugin is restarted
        [without_gpus({"cpu": "64"})],  # GPUs by claims
        [node(ready="Unknown")],
        [node(product="")],
        [node(product="NVIDIA-H100-80GB-HBM3-SHARED")],
        [],
        [{"metadata": {"name": "node-1"}, "status": 7}],
    ],
)
@pytest.mark.parametrize("gpus", [2, 0])
def test_gpus_that_our_pods_hold_are_there_whatever_the_nodes_say(
    nodes: list[Json], gpus: int
) -> None:
    """To plan with none would take away what runs: six of six replicas less one under full load."""
    pods = alive(*(pod(name, gpus=gpus) for name in "abc"), pod("d", gpus=gpus, phase="draining"))
    ours = Tenant(name="s", pods=pods, type="H100", replica_gpus=2)
    other = Tenant(name="t", type="H100", resource="nvidia.com/gpu")
    found = read_capacity(nodes, tenants=[ours, other], others=(), types=TYPES)
    assert found.by_type["H100"].total == 6
    assert found.by_type["H100"].used == 6
    assert found.reachable["t"].get("H100", 0) == 0
    note = (
        "nodes: pods of s run on H100 that no node shows (node-1): what they hold counts, and no "
    )
    assert f"{note}more" in found.notes


@pytest.mark.parametrize(
    ("label", "value", "kind"),
    [
        ("cloud.google.com/gke-max-shared-clients-per-gpu", "8", "H100-SHARED"),
        ("cloud.google.com/gke-max-shared-clients-per-gpu", "1", "H100"),
        ("cloud.google.com/gke-gpu-partition-size", "1g.10gb", "H100-MIG-1g.10gb"),
        ("amd.com/gpu.compute-memory-partition", "cpx_nps4", "H100-MIG-cpx_nps4"),
        ("amd.com/gpu.compute-memory-partition", "spx_nps1", "H100"),
    ],
)
def test_clouds_and_vendors_name_shares_and_slices_by_labels_of_their_own(
    label: str, value: str, kind: str
) -> None:
    """64 shares of 8 GPUs, or 56 slices of them, were so many whole ones."""
    one = node(gpus=56)
    one["metadata"]["labels"][label] = value
    assert capacity(one) == {kind: (56, 0)}


@pytest.mark.parametrize("labelled", [False, True])
def test_partitions_that_amd_names_as_resources_are_slices(labelled: bool) -> None:
    """By its strategy "mixed"; 64 partitions of 8 GPUs were no GPUs at all, and pods that ask for
    them asked for none.
    """
    one = node(product="")
    one["metadata"]["labels"] = {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM"}
    if labelled:
        one["metadata"]["labels"]["amd.com/gpu.compute-memory-partition"] = "cpx_nps4"
    one["status"]["allocatable"] = {"amd.com/cpx_nps4": "64"}
    assert capacity(one) == {"AMD_Instinct_MI300X_OAM-MIG-cpx_nps4": (64, 0)}
    one["status"]["allocatable"] = {"amd.com/spx_nps1": "8"}
    one["metadata"]["labels"].pop("amd.com/gpu.compute-memory-partition", None)
    assert capacity(one) == {"MI300X": (8, 0)}
    container = {"name": "c", "resources": {"limits": {"amd.com/cpx_nps4": "2"}}}
    limit = gpu_limit([container])
    assert limit is not None
    assert limit.count == 2


@pytest.mark.parametrize(
    ("resource", "label", "product"),
    [
        ("gpu.intel.com/xe", "gpu.intel.com/product", "Max_1550"),
        ("google.com/tpu", "cloud.google.com/gke-tpu-accelerator", "tpu-v5-lite-podslice"),
        ("aws.amazon.com/neuron", "inferno.accelerator.type", "Inferentia2"),
        ("huawei.com/Ascend910", "inferno.accelerator.type", "Ascend910"),
    ],
)
def test_accelerators_of_other_makers_are_counted(resource: str, label: str, product: str) -> None:
    """A pod that asks for them was taken for one that asks for none."""
    one = node()
    one["metadata"]["labels"] = {label: product}
    one["status"]["allocatable"] = {resource: "4"}
    assert capacity(one) == {product: (4, 0)}


@pytest.mark.parametrize(
    ("resource", "each", "free"),
    [
        ("aws.amazon.com/neuroncore", (32,), 0),
        ("aws.amazon.com/neuroncore", (3, 1), 13),
        ("aws.amazon.com/neurondevice", (4,), 12),
        ("aws.amazon.com/neuron", (4,), 12),
    ],
)
def test_devices_whose_cores_are_held_are_held(
    resource: str, each: tuple[int, ...], free: int
) -> None:
    """A node shows them thrice; a pod of another that had all cores left all devices to plan
    with.
    """
    of_aws = ("neuron", "neuroncore", "neurondevice")
    one = node("node-1")
    one["metadata"]["labels"] = {"inferno.accelerator.type": "H100"}
    one["status"]["allocatable"] = {
        f"aws.amazon.com/{name}": count
        for name, count in zip(of_aws, ("16", "32", "16"), strict=True)
    }
    pods = tuple(pod(f"x{k}", of="batch", gpus=1) for k in range(len(each)))
    for count, holding in zip(each, pods, strict=True):
        holding["spec"]["containers"][0]["resources"] = {"limits": {resource: str(count)}}
    assert capacity(one, others=pods) == {"H100": (free, 0)}
    # What our own pods hold of them is ours to plan with.
    assert capacity(one, ours=pods) == {"H100": (16, 16 - free)}


def test_gpus_that_hami_splits_are_no_whole_ones() -> None:
    """80 shares of 8 GPUs were 80 GPUs: nothing but its own note tells how many there are."""
    split, whole = node(gpus=80), node("b")
    noted = ":".join(f"GPU-{k},10,81559,100,NVIDIA-H100,0,true" for k in range(8))
    for one in (split, whole):
        one["metadata"]["annotations"] = {"hami.io/node-nvidia-register": noted}
    assert capacity(split, whole) == {"H100": (8, 0), "H100-SHARED": (80, 0)}


def test_gpus_that_a_device_plugin_splits_are_no_whole_ones() -> None:
    """Ten pods share a GPU each, and nothing but their number tells so."""
    split = labelled(node(gpus=80), nvidia_D_com_S_gpu_D_count="8")
    whole = labelled(node("b"), nvidia_D_com_S_gpu_D_count="8")
    assert capacity(split, whole) == {"H100": (8, 0), "H100-SHARED": (80, 0)}


@pytest.mark.parametrize(
    ("phase", "key", "line"),
    [
        ("ready", "", "the annotation inferno.server.apply.nodeselector would move them"),
        ("ready", "gpu", "the cluster has not moved them"),
        ("starting", "", None),
    ],
)
def test_pods_that_stay_where_their_label_does_not_say_are_told(
    phase: str, key: str, line: str | None
) -> None:
    """A plan for L4 of pods that stay on H100 for ever."""
    pods = alive(pod("a", gpus=1), pod("b", gpus=1, phase=phase))
    moved = Tenant(name="s", pods=pods, type="L4", selector_key=key)
    right = Tenant(name="t", pods=alive(pod("c", gpus=1)), type="H100")
    nodes = [node(), node("other", product="L4")]
    found = read_capacity(nodes, tenants=[moved, right], others=(), types=TYPES)
    begin = "s: its label says L4, and its pods are on H100: the plan goes by the label; "
    assert found.notes == ((begin + line,) if line else ())


def of_priority(one: Json, priority: int, **fields: str) -> Json:
    """Return the pod *one* as a cluster has it whose class of priority is known."""
    return {**one, "spec": {**one["spec"], "priority": priority, **fields}}


def test_gpus_of_pods_that_give_way_to_ours_are_there_for_ours() -> None:
    """Training on GPUs that nobody needs just now, and pods that keep nodes warm: the scheduler
    ends them for ours. They were taken for gone, and a busy server was told that it cannot grow.
    """
    tenants = [
        Tenant(name="high", pods=alive(of_priority(pod("a", gpus=1), 1000))),
        Tenant(name="low", pods=alive(of_priority(pod("b", of="dep2", gpus=1), 0))),
    ]
    others = alive(
        of_priority(pod("x", of="train", gpus=2), -10),
        of_priority(pod("y", of="train", gpus=3), 500),
        of_priority(pod("z", of="core", gpus=1), 1000),
    )
    found = read_capacity([node()], tenants=tenants, others=others, types=TYPES)
    assert (found.by_type["H100"].total, found.by_type["H100"].used) == (7, 2)
    # Those of both servers, and the first two.
    assert found.reachable == {"low": {"H100": 4}}
    (line,) = found.notes
    assert line == (
        "nodes: 5 H100 of node-1 count though others hold them: their pods have a lower priority, "
        "and give way to those of high, low"
    )


@pytest.mark.parametrize(
    ("ours", "spec", "alone", "total"),
    [
        ((of_priority(pod("a", gpus=1), 1000, priorityClassName="p"),), "p", False, 8),
        ((of_priority(pod("a", gpus=1), 1000, priorityClassName="p"),), "p", True, 8),
        # Admission has filled it in, by namespace or as the class of all who name none.
        ((of_priority(pod("a", gpus=1), 1000, priorityClassName="p"),), None, False, 8),
        # What a class that no pod has yet is worth, nobody tells.
        ((of_priority(pod("a", gpus=1), 1000),), "p", False, 3),
        ((of_priority(pod("a", gpus=1), 1000, preemptionPolicy="Never"),), None, False, 3),
        ((pod("a", gpus=1),), None, False, 3),
        ((), None, False, 3),
    ],
)
def test_nobody_gives_way_to_pods_of_which_that_is_not_known(
    ours: tuple[Json, ...], spec: str | None, alone: bool, total: int
) -> None:
    """In doubt GPUs that others hold are not there."""
    pod_spec = {} if spec is None else {"priorityClassName": spec}
    tenant = Tenant(name="s1", pods=alive(*ours), pod_spec=pod_spec, alone=alone, gpus=1)
    others = alive(of_priority(pod("x", of="train", gpus=5), 0))
    found = read_capacity([node()], tenants=[tenant], others=others, types=TYPES)
    assert found.by_type["H100"].total == total
    assert found.reachable.get("s1", {"H100": total}) == {"H100": 1 if alone else total}
    # A node that takes no pods of ours gives none of theirs.
    closed = read_capacity([node(closed=True)], tenants=[tenant], others=others, types=TYPES)
    assert closed.by_type["H100"].total == len(ours)


def test_without_growth_servers_have_what_their_pods_ask_for() -> None:
    """By data of four GPUs a replica, a server of two replicas of one could have grown to eight."""
    spec = {"containers": [{"name": "vllm", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]}
    one = server(spec={"template": {"metadata": {"labels": {"app": "dep1"}}, "spec": spec}})
    found = without_growth(
        read_capacity([node()], tenants=(), others=(), types=TYPES),
        [one],
        spaces=("other",),
        types={"H100": "H100"},
        gpus={(one.deployment.model, "H100"): 4},
    )
    assert found.most == {"H100": one.deployment.wanted}
