"""The labels by which a Deployment becomes managed, and what of them its pods tell."""

from __future__ import annotations

from typing import Any

import pytest

from loop.backends.kube import labels as names
from loop.backends.kube.adoption import Adoption, adoption
from loop.errors import SpecError
from loop.testing.fakes import system
from tests.loop.kube_objects import Json, alive, deployment, node, pod, read

BARE = (names.MANAGED, names.NAME, names.MODEL, names.CLASS, names.ACCELERATOR, names.MAX_BATCH)


def adopted(
    *, gpus: int = 2, args: list[str] | None = None, nodes: list[Json] | None = None, **asked: str
) -> Adoption:
    """Return what is written to a bare Deployment whose pods ask for *gpus* GPUs, on *nodes*."""
    container: dict[str, Any] = {"name": "vllm", "args": args or []}
    container["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}}
    template = {"template": {"spec": {"containers": [container]}}}
    words = {"model": "llama_8b", "service_class": "Premium", "accelerator": "", **asked}
    return adoption(
        read(without=BARE, spec=template),
        system(),
        pods=alive(pod("a", gpus=gpus)),
        nodes=[node(product="NVIDIA-A100-SXM4-80GB")] if nodes is None else nodes,
        **words,
    )


def test_the_accelerator_is_that_of_the_node_and_of_the_gpus_of_a_pod() -> None:
    """Two A100s are one accelerator of the data."""
    assert adopted().labels == {
        names.MANAGED: "true",
        names.MODEL: "llama_8b",
        names.CLASS: "Premium",
        names.ACCELERATOR: "2xA100",
    }
    assert adopted(gpus=1, nodes=[node(product="H100")]).labels[names.ACCELERATOR] == "H100"


def test_a_model_with_its_organisation_is_the_one_that_the_data_call_shorter() -> None:
    """So engines and their users call it."""
    found = adopted(model="an-org/Llama_8B")
    assert found.annotations == {names.MODEL_ID: "an-org/Llama_8B"}
    assert found.labels[names.ACCELERATOR] == "2xA100"


def test_the_batch_is_the_argument_of_the_engine() -> None:
    """Left out, the loop would plan with another batch than the one in force."""
    found = adopted(args=["--max-num-seqs", "48"])
    assert found.labels[names.MAX_BATCH] == "48"
    assert any(names.APPLY_MAX_BATCH in line for line in found.notes)
    assert any("--max-num-seqs" in line for line in adopted().notes)


def test_a_model_with_a_slash_becomes_an_annotation() -> None:
    """No label can hold it."""
    data = system()
    perf = {("org/llama", name): one for (model, name), one in data.perf.items()}
    found = adoption(
        read(),
        system(perf=perf),
        model="org/llama",
        service_class="Premium",
        accelerator="H100",
        pods=(),
        nodes=(),
    )
    assert found.annotations == {names.MODEL_ID: "org/llama"}
    assert names.MODEL not in found.labels


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"model": "llama_9b"}, "model 'llama_9b' is not in the data"),
        ({"service_class": "Gold"}, "class 'Gold' is not in the data"),
        ({"accelerator": "L4"}, "no latency model on 'L4'"),
        ({"nodes": []}, "none runs on a node with GPUs"),
        ({"nodes": [node(product="L4")]}, "its pods run on L4"),
        ({"gpus": 4}, "its pods run on A100, 4 GPUs a pod, of which the data know none"),
    ],
)
def test_what_the_data_do_not_know_is_refused_in_one_line(asked: Any, line: str) -> None:
    """A server with such labels would be held for ever."""
    with pytest.raises(SpecError, match=f"^infer/dep1: .*{line}") as error:
        adopted(**asked)
    assert "\n" not in str(error.value)


def test_pods_of_two_types_do_not_tell_their_accelerator() -> None:
    """A rolling change, or a selector that fits both."""
    pods = alive(pod("a"), pod("b", node="node-2"))
    nodes = [node(product="H100"), node("node-2", product="NVIDIA-A100-SXM4-80GB")]
    with pytest.raises(SpecError, match="they run on A100, H100"):
        adoption(
            read(),
            system(),
            model="llama_8b",
            service_class="Premium",
            accelerator="",
            pods=pods,
            nodes=nodes,
        )


def test_labels_of_before_are_no_reason_to_refuse() -> None:
    """Whoever corrects a label runs it again."""
    wrong = read(labels={names.MODEL: "llama_9b", names.ACCELERATOR: "L4"})
    found = adoption(
        wrong,
        system(),
        model="llama_8b",
        service_class="Free",
        accelerator="H100",
        pods=(),
        nodes=(),
    )
    assert found.labels[names.MODEL] == "llama_8b"
    assert deployment()["metadata"]["labels"][names.MANAGED] == found.labels[names.MANAGED]
