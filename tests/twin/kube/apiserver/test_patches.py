"""Patches: JSON patches, merge patches, strategic merges with their directives, and server-side
apply.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.kube.apiserver.errors import ApiError
from twin.kube.apiserver.managedfields import Writer, applied, first_owned, leaves, owned, owners
from twin.kube.apiserver.patches import json_patch, merge_patch, strategic_merge
from twin.kube.apiserver.schema import schema_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("abc", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abc/~", max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text("abc/~", max_size=2), JSON, max_size=3)
DEPLOYMENT = schema_of("apps/v1", "Deployment")


# -- merge patches: the cases of RFC 7386


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patches_do_what_their_rfc_says(target: Any, patch: Any, result: Any) -> None:
    """Its appendix."""
    before = copy.deepcopy(target)
    assert merge_patch(target, patch) == result
    assert target == before


# -- JSON patches


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": 1}, [{"op": "add", "path": "/b", "value": [1]}], {"a": 1, "b": [1]}),
        ({"a": [1, 3]}, [{"op": "add", "path": "/a/1", "value": 2}], {"a": [1, 2, 3]}),
        ({"a": [1]}, [{"op": "add", "path": "/a/-", "value": 2}], {"a": [1, 2]}),
        ({"a": 1}, [{"op": "add", "path": "", "value": {"b": 1}}], {"b": 1}),
        ({"a": 1, "b": 2}, [{"op": "remove", "path": "/a"}], {"b": 2}),
        ({"a": [1, 2]}, [{"op": "remove", "path": "/a/0"}], {"a": [2]}),
        (
            {"a/b": 1, "m~n": 2},
            [{"op": "replace", "path": "/a~1b", "value": 3}],
            {"a/b": 3, "m~n": 2},
        ),
        ({"m~n": 2}, [{"op": "test", "path": "/m~0n", "value": 2}], {"m~n": 2}),
        ({"a": {"b": 1}}, [{"op": "move", "from": "/a/b", "path": "/c"}], {"a": {}, "c": 1}),
        ({"a": [1]}, [{"op": "copy", "from": "/a", "path": "/b"}], {"a": [1], "b": [1]}),
        ({"a": [1, 2]}, [{"op": "replace", "path": "/a/1", "value": 9}], {"a": [1, 9]}),
    ],
)
def test_json_patches_do_what_their_rfc_says(target: Any, patch: Any, result: Any) -> None:
    """Each operation, on maps and lists."""
    before = copy.deepcopy(target)
    assert json_patch(target, patch) == result
    assert target == before


@pytest.mark.parametrize(
    ("patch", "code"),
    [
        ({"op": "add"}, 400),
        ([1], 400),
        ([{"op": "fly", "path": "/a"}], 400),
        ([{"op": "add", "path": "/a"}], 400),
        ([{"op": "add", "path": "a", "value": 1}], 400),
        ([{"op": "move", "path": "/a"}], 400),
        ([{"op": "test", "path": "/a", "value": 2}], 422),
        ([{"op": "test", "path": "/a", "value": True}], 422),
        ([{"op": "test", "path": "/gone", "value": None}], 422),
        ([{"op": "remove", "path": "/gone"}], 422),
        ([{"op": "replace", "path": "/gone", "value": 1}], 422),
        ([{"op": "add", "path": "/gone/x", "value": 1}], 422),
        ([{"op": "add", "path": "/l/5", "value": 1}], 422),
        ([{"op": "add", "path": "/a/b", "value": 1}], 422),
        ([{"op": "copy", "from": "/gone", "path": "/b"}], 422),
    ],
)
def test_json_patches_that_cannot_be_done_are_refused(patch: Any, code: int) -> None:
    """400 for what is no patch, 422 for what this object does not allow; true is not 1."""
    with pytest.raises(ApiError) as error:
        json_patch({"a": 1, "l": [1]}, patch)
    assert error.value.code == code


@given(OBJECTS, OBJECTS)
def test_replacing_the_whole_gives_the_whole(target: Any, value: Any) -> None:
    """And a test of it then holds."""
    patch = [
        {"op": "replace", "path": "", "value": value},
        {"op": "test", "path": "", "value": value},
    ]
    assert json_patch(target, patch) == value


# -- strategic merges


def pod_patch(containers: list[Any], **more: Any) -> Any:
    """Return a patch of the pod template of a Deployment."""
    return {"spec": {"template": {"spec": {"containers": containers, **more}}}}


def containers_of(obj: Any) -> Any:
    """Return the containers of a Deployment."""
    return obj["spec"]["template"]["spec"]["containers"]


BASE = pod_patch(
    [
        {
            "name": "a",
            "image": "a:1",
            "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}],
        },
        {"name": "b", "image": "b:1"},
    ]
)


def test_a_strategic_merge_merges_inner_lists_by_their_keys_too() -> None:
    """env by name, inside containers by name."""
    patch = pod_patch(
        [{"name": "a", "env": [{"name": "Y", "value": "3"}, {"name": "Z", "value": "4"}]}]
    )
    merged = strategic_merge(BASE, patch, DEPLOYMENT)
    assert containers_of(merged)[0]["env"] == [
        {"name": "X", "value": "1"},
        {"name": "Y", "value": "3"},
        {"name": "Z", "value": "4"},
    ]
    assert containers_of(BASE)[0]["env"][1]["value"] == "2"


def test_directives_delete_and_replace() -> None:
    """$patch in an item and in a map."""
    gone = strategic_merge(BASE, pod_patch([{"name": "b", "$patch": "delete"}]), DEPLOYMENT)
    assert [each["name"] for each in containers_of(gone)] == ["a"]
    other = strategic_merge(
        BASE, pod_patch([{"name": "c", "image": "c:1"}, {"$patch": "replace"}]), DEPLOYMENT
    )
    assert containers_of(other) == [{"name": "c", "image": "c:1"}]
    strategy = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    patch = {"spec": {"strategy": {"type": "Recreate", "$retainKeys": ["type"]}}}
    assert strategic_merge(strategy, patch, DEPLOYMENT)["spec"]["strategy"] == {"type": "Recreate"}
    replaced = strategic_merge(
        {"metadata": {"labels": {"a": "1"}}}, {"metadata": {"$patch": "replace"}}, DEPLOYMENT
    )
    assert replaced == {"metadata": {}}


def test_an_order_that_is_asked_for_is_kept() -> None:
    """kubectl apply sends it with every list of containers."""
    patch = pod_patch([{"name": "c", "image": "c:1"}])
    patch["spec"]["template"]["spec"]["$setElementOrder/containers"] = [
        {"name": "c"},
        {"name": "b"},
        {"name": "a"},
    ]
    assert [each["name"] for each in containers_of(strategic_merge(BASE, patch, DEPLOYMENT))] == [
        "c",
        "b",
        "a",
    ]


def test_plain_lists_are_replaced_and_sets_are_united() -> None:
    """args are a list, finalizers a set; items of a set are deleted by a directive."""
    merged = strategic_merge(
        pod_patch([{"name": "a", "args": ["1", "2"]}]),
        pod_patch([{"name": "a", "args": ["3"]}]),
        DEPLOYMENT,
    )
    assert containers_of(merged) == [{"name": "a", "args": ["3"]}]
    metadata = {"metadata": {"finalizers": ["x", "y"]}}
    united = strategic_merge(metadata, {"metadata": {"finalizers": ["y", "z"]}}, DEPLOYMENT)
    assert united["metadata"]["finalizers"] == ["x", "y", "z"]
    less = strategic_merge(
        metadata, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["x"]}}, DEPLOYMENT
    )
    assert less["metadata"]["finalizers"] == ["y"]


@pytest.mark.parametrize("items", [[{"image": "x"}], ["text"], [1]])
def test_items_without_their_key_are_refused(items: list[Any]) -> None:
    """Nobody can tell which is meant."""
    with pytest.raises(ApiError) as error:
        strategic_merge(BASE, pod_patch(items), DEPLOYMENT)
    assert error.value.code == 400


# -- server-side apply

ONE, TWO = Writer(manager="one", operation="Apply"), Writer(manager="two", operation="Apply")


def created(config: Any, writer: Writer = ONE) -> Any:
    """Return the object that *writer* made by applying *config*."""
    whole = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, **config}
    return first_owned(whole, whole, DEPLOYMENT, writer=writer, now="t")


def config(containers: list[Any], **metadata: Any) -> Any:
    """Return what to apply."""
    return {"metadata": {"name": "d", **metadata}, **pod_patch(containers)}


def test_what_two_apply_apart_is_together() -> None:
    """Each owns its own container."""
    obj = created(config([{"name": "a", "image": "a:1"}]))
    obj = applied(
        obj, config([{"name": "b", "image": "b:1"}]), DEPLOYMENT, writer=TWO, force=False, now="t"
    )
    assert [each["name"] for each in containers_of(obj)] == ["a", "b"]
    obj = applied(obj, {"metadata": {"name": "d"}}, DEPLOYMENT, writer=TWO, force=False, now="t")
    assert containers_of(obj) == [{"name": "a", "image": "a:1"}]
    assert set(owners(obj)) == {ONE}


def test_an_update_takes_over_what_it_changes_and_only_that() -> None:
    """A later apply of the old value is then a conflict."""
    obj = created(config([{"name": "a", "image": "a:1"}], labels={"x": "1"}))
    changed = copy.deepcopy(obj)
    containers_of(changed)[0]["image"] = "a:2"
    writer = Writer(manager="edit")
    obj = owned(obj, changed, DEPLOYMENT, writer=writer, now="t")
    assert [path[-1] for path in owners(obj)[writer]] == ["f:image"]
    assert ("f:metadata", "f:labels", "f:x") in owners(obj)[ONE]
    with pytest.raises(ApiError) as error:
        applied(
            obj,
            config([{"name": "a", "image": "a:1"}]),
            DEPLOYMENT,
            writer=ONE,
            force=False,
            now="t",
        )
    assert "edit" in str(error.value)
    assert 'containers[name="a"].image' in str(error.value)


def test_an_item_stays_while_somebody_else_owns_a_part_of_it() -> None:
    """A manager that gives up a container must not take away what another one set in it."""
    obj = created(config([{"name": "a", "image": "a:1"}]))
    obj = applied(
        obj, config([{"name": "a", "args": ["x"]}]), DEPLOYMENT, writer=TWO, force=False, now="t"
    )
    obj = applied(obj, {"metadata": {"name": "d"}}, DEPLOYMENT, writer=ONE, force=False, now="t")
    assert containers_of(obj) == [{"name": "a", "args": ["x"]}]


def test_the_same_value_is_shared_without_a_conflict() -> None:
    """And stays when one of the two lets go of it."""
    obj = created(config([], labels={"x": "1"}))
    obj = applied(obj, config([], labels={"x": "1"}), DEPLOYMENT, writer=TWO, force=False, now="t")
    obj = applied(obj, config([]), DEPLOYMENT, writer=ONE, force=False, now="t")
    assert obj["metadata"]["labels"] == {"x": "1"}
    obj = applied(obj, config([]), DEPLOYMENT, writer=TWO, force=False, now="t")
    assert "labels" not in obj["metadata"]


def test_ports_are_the_same_whether_the_default_protocol_is_named_or_not() -> None:
    """The stored object has defaults, what is applied has not."""
    part = config([{"name": "a", "ports": [{"containerPort": 80}]}])
    whole = config([{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP"}]}])
    obj = first_owned({"apiVersion": "apps/v1", **whole}, part, DEPLOYMENT, writer=ONE, now="t")
    again = config([{"name": "a", "ports": [{"containerPort": 80, "name": "http"}]}])
    obj = applied(obj, again, DEPLOYMENT, writer=ONE, force=False, now="t")
    assert containers_of(obj)[0]["ports"] == [
        {"containerPort": 80, "protocol": "TCP", "name": "http"}
    ]


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.sampled_from(["1", "2"]), min_size=1))
def test_managed_fields_say_what_they_were_made_of(labels: dict[str, str]) -> None:
    """They survive the way into fieldsV1 and back."""
    obj = created(
        config(
            [{"name": "a", "image": "i", "ports": [{"containerPort": 1}]}],
            labels=labels,
            finalizers=["f"],
        )
    )
    assert owners(obj)[ONE] == set(leaves(obj, DEPLOYMENT))
