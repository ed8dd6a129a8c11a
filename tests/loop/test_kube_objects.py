"""Objects of a list are read from their texts as from the parsed list, and once while they do not
change.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from loop.backends.kube.objects import parsed, texts_of
from loop.backends.kube.read import Memory, read_servers
from tests.loop.kube_objects import EPOCH_S, deployment, pod

STRANGE: Sequence[Any] = [None, 1, "a", [], {}, {"metadata": 1}, {"metadata": {"name": "b"}}]


def texts(objects: Sequence[Any]) -> list[Any]:
    """Return the texts of *objects* as a list has them; skip where nothing can cut it."""
    pytest.importorskip("msgspec")
    found = texts_of(json.dumps({"kind": "List", "items": objects}, indent=1).encode())
    assert found is not None
    return [*found]


def test_texts_are_read_as_parsed_objects_are() -> None:
    """With msgspec and without it the loop sees the same cluster."""
    deployments = [deployment("a"), *STRANGE, deployment("b", labels={"inferno.server.name": "s2"})]
    pods = [pod("p", of="a"), *STRANGE, pod("q", of="b", phase="starting")]
    told = read_servers(deployments, pods, epoch_s=EPOCH_S)
    assert len(told.by_name) == 2
    memory = Memory()
    for _ in range(2):
        assert memory.namespaces(texts(deployments)) == ["infer"]
        read = read_servers(texts(deployments), texts(pods), epoch_s=EPOCH_S, memory=memory)
        assert read == told


def test_only_what_has_changed_is_read_again() -> None:
    """A cluster of a thousand Deployments is mostly as it was a cycle before."""
    memory = Memory()

    def read(*pods: Any, epoch_s: float = EPOCH_S) -> Sequence[Any]:
        found = read_servers(texts([deployment("a")]), texts(pods), epoch_s=epoch_s, memory=memory)
        return found.by_name["s1"].pods

    one, other = read(pod("p", of="a"), pod("q", of="a"))
    again, changed = read(pod("p", of="a"), pod("q", of="a", phase="starting"))
    assert again is one
    assert (changed.phase, other.phase) == ("starting", "ready")
    (later,) = read(pod("p", of="a"), epoch_s=EPOCH_S + 5.0)
    assert later.created_s == one.created_s - 5.0
    # What has gone in between is not kept.
    read()
    (anew,) = read(pod("p", of="a"), epoch_s=EPOCH_S + 5.0)
    assert anew == later
    assert anew is not later


@pytest.mark.parametrize("answer", [b"", b"{", b"[]", b"null", b'{"items": null}', b'{"items": 1}'])
def test_what_is_no_list_is_not_cut(answer: bytes) -> None:
    """Whoever asked says what is wrong with it, as without msgspec."""
    assert texts_of(answer) is None


def test_a_text_that_is_nested_too_deeply_is_no_object() -> None:
    """One strange object is told of, and stops nobody."""
    with pytest.raises(ValueError, match="too deep"):
        parsed(b"[" * 100_000)
    assert texts_of(b'{"items": ' + b"[" * 100_000) is None
