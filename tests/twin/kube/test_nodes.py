"""GPUs on machines, and pods that only are there: the parts of the twin that need no
simulation.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.twin.kube.clients import Client, managed
from twin.kube.nodes import GPUS_MAX, PLAIN_NODE, Machines, gpu_resource
from twin.kube.workload import UnmanagedPods
from twin.magnitudes import SIMULATED_REPLICAS_MAX


@pytest.mark.parametrize(
    ("type_", "resource"),
    [
        ("H100", "nvidia.com/gpu"),
        ("L40S", "nvidia.com/gpu"),
        ("GH200", "nvidia.com/gpu"),
        ("MI300X", "amd.com/gpu"),
        ("mi250", "amd.com/gpu"),
        ("G2", "habana.ai/gaudi"),
    ],
)
def test_gpus_have_the_names_of_their_makers(type_: str, resource: str) -> None:
    """As device plugins call them."""
    assert gpu_resource(type_) == resource


def test_a_pod_goes_to_the_fullest_node_with_room_and_stays_there() -> None:
    """So that large pods find room for long."""
    machines = Machines({"A": 16})
    assert machines.place("p1", type_="A", gpus=3) == "a-1"
    assert machines.place("p2", type_="A", gpus=6) == "a-2"
    assert machines.place("p3", type_="A", gpus=2) == "a-2"
    assert machines.place("p4", type_="A", gpus=5) == "a-1"
    assert machines.place("p1", type_="A", gpus=3) == "a-1"
    machines.release("p2")
    machines.release("p2")
    assert machines.place("p5", type_="A", gpus=4) == "a-2"
    assert machines.place("p6", type_="Z", gpus=1) == ""


@given(
    st.integers(min_value=1, max_value=40),
    st.lists(
        st.tuples(st.integers(min_value=0, max_value=9), st.sampled_from([1, 2, 4, 8])), max_size=60
    ),
)
def test_no_node_holds_more_than_it_has_while_pods_of_one_gpu_fit(
    total: int, script: list[tuple[int, int]]
) -> None:
    """Only pods of several GPUs may be spread over machines, since the simulation counts GPUs by
    type.
    """
    machines = Machines({"A": total})
    held: dict[str, int] = {}
    for number, gpus in script:
        name = f"p{number}"
        if name in held:
            machines.release(name)
            del held[name]
        elif sum(held.values()) + gpus <= total:
            held[name] = gpus
            machines.place(name, type_="A", gpus=gpus)
    nodes = [node for node in machines.by_name.values() if node.type]
    assert sum(node.gpus for node in nodes) == total
    assert max(node.gpus for node in nodes) <= GPUS_MAX
    assert sum(sum(node.pods.values()) for node in nodes) == sum(held.values())
    if set(held.values()) <= {1}:
        assert min(node.free for node in nodes) >= 0
    assert machines.by_name[PLAIN_NODE].pods == {}


@given(
    st.lists(
        st.tuples(st.integers(min_value=0, max_value=6), st.integers(min_value=0, max_value=2)),
        min_size=1,
        max_size=20,
    ),
    st.booleans(),
)
def test_stand_ins_become_what_is_wanted_and_never_fewer_than_needed(
    script: list[tuple[int, int]], blocked: bool
) -> None:
    """Of the wanted revision, and in a rolling change the old ones stay until new ones are
    ready.
    """
    pods = UnmanagedPods("s", blocked=blocked)
    now_s = 0.0
    for replicas, revision in script:
        ready_before = sum(pod.phase == "ready" for pod in pods.pods)
        pods.set_desired(replicas, revision, now_s)
        ready = sum(pod.phase == "ready" for pod in pods.pods)
        assert ready >= min(ready_before, replicas) or blocked
        now_s += 0.7
        pods.step(now_s)
    for _ in range(4):
        now_s += 1.0
        pods.step(now_s)
    replicas, revision = script[-1]
    assert [pod.revision for pod in pods.pods] == [revision] * replicas
    assert {pod.phase for pod in pods.pods} <= {"pending" if blocked else "ready"}
    assert len({pod.name for pod in pods.pods}) == replicas


@pytest.mark.costly
def test_a_slip_of_the_finger_does_not_fill_the_memory() -> None:
    """A real cluster makes pods by and by; here they would all be there at once."""
    client = Client()
    client.apply(managed(replicas=1_000_000_000, labels={"inferno.server.managed": None}))
    client.until(0.5)
    assert client.deployment()["status"]["replicas"] == SIMULATED_REPLICAS_MAX
