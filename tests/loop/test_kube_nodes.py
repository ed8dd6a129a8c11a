"""Capacity from nodes: GPUs that can be planned with are those of living nodes that nobody else
holds.
"""

from __future__ import annotations

import pytest

from loop.backends.kube.nodes import known_type, read_capacity
from tests.loop.kube_objects import Json, alive, node, pod

TYPES = ("A100", "H100", "L4", "L40S", "MI300X", "4xA100")


def capacity(
    *nodes: Json, ours: tuple[Json, ...] = (), others: tuple[Json, ...] = ()
) -> dict[str, tuple[int, int]]:
    """Return (total, used) by type."""
    found = read_capacity(nodes, ours=alive(*ours), others=alive(*others), types=TYPES)
    return {kind: (view.total, view.used) for kind, view in found.by_type.items()}


def test_cards_of_living_nodes_are_added_up_by_type() -> None:
    """The optimizer knows types, not nodes."""
    assert capacity(node("a"), node("b", gpus=4), node("c", product="NVIDIA-L4")) == {
        "H100": (12, 0),
        "L4": (8, 0),
    }


def test_cards_that_our_pods_hold_are_used_and_still_ours_to_plan_with() -> None:
    """Those of starting and draining pods too; one without a node holds none."""
    pods = tuple(
        pod(phase, phase=phase, gpus=2) for phase in ("ready", "starting", "draining", "pending")
    )
    assert capacity(node(), ours=pods) == {"H100": (8, 6)}


def test_cards_that_others_hold_are_not_there() -> None:
    """To plan with them would leave pods pending for ever."""
    assert capacity(node(), ours=(pod("a", gpus=1),), others=(pod("x", of="batch", gpus=3),)) == {
        "H100": (5, 1)
    }


def test_a_dead_node_has_no_cards_and_a_closed_one_those_that_our_pods_hold() -> None:
    """Pods on a cordoned node go on; new ones do not come."""
    assert capacity(node(ready="Unknown")) == {}
    assert capacity(node(closed=True), ours=(pod("a", gpus=2),)) == {"H100": (2, 2)}


def test_nodes_without_cards_do_not_count() -> None:
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
    found = read_capacity([node(product="NVIDIA-T4")], ours=(), others=(), types=TYPES)
    assert found.warnings == ("nodes: the data know no accelerator of type NVIDIA-T4",)
