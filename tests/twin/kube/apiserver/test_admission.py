"""What may become an object: types, unknown fields, rules of the kinds; and what a path and a query
ask for.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.twin.kube.clients import Client, managed
from twin.kube.apiserver.admission import typed
from twin.kube.apiserver.errors import ApiError
from twin.kube.apiserver.printers import forms
from twin.kube.apiserver.request import target_of, truth, verb_of, write_options
from twin.kube.apiserver.resources import DEPLOYMENTS, POD_MONITORS, Resource
from twin.kube.apiserver.server import Call

POD = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}


def refused(resource: Resource, body: Any, **options: Any) -> ApiError:
    """Return why *body* is not one of *resource*."""
    with pytest.raises(ApiError) as error:
        typed(resource, body, validation="Warn", **options)
    return error.value


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"spec": {"replicas": "2"}}, "spec.replicas: expected integer"),
        ({"spec": {"replicas": True}}, "spec.replicas: expected integer"),
        ({"spec": {"paused": 1}}, "spec.paused: expected boolean"),
        ({"spec": []}, "spec: expected object"),
        ({"metadata": {"labels": {"a": 8}}}, "metadata.labels.a: expected string"),
        ({"metadata": {"finalizers": "x"}}, "metadata.finalizers: expected array"),
        ({"metadata": {"finalizers": [None]}}, "metadata.finalizers[0]: expected a value"),
        (
            {"spec": {"template": {"spec": {"containers": [{"name": 1}]}}}},
            "spec.template.spec.containers[0].name",
        ),
        (
            {
                "spec": {
                    "template": {"spec": {"containers": [{"resources": {"limits": {"cpu": []}}}]}}
                }
            },
            "limits.cpu",
        ),
    ],
)
def test_a_value_of_a_wrong_type_is_named_with_its_place(body: Any, place: str) -> None:
    """400 in an object, 422 in what a patch makes of one."""
    assert place in str(refused(DEPLOYMENTS, body))
    assert refused(DEPLOYMENTS, body).code == 400
    assert refused(DEPLOYMENTS, body, mistyped_is_invalid=True).code == 422


@pytest.mark.parametrize(
    "body", [None, [], "text", {"kind": "Pod"}, {"apiVersion": "v2"}, {"metadata": []}]
)
def test_what_is_no_such_object_is_refused(body: Any) -> None:
    """Kind and version have to be those of the path, where they are given."""
    assert refused(DEPLOYMENTS, body).code == 400


def test_unknown_fields_are_told_of_as_asked() -> None:
    """They are dropped all the same."""
    body = {
        "spec": {"replicaz": 1, "template": {"spec": {"containers": [{"name": "c", "img": "x"}]}}}
    }
    for validation, told in (("Ignore", 0), ("Warn", 2)):
        admitted = typed(DEPLOYMENTS, body, validation=validation)
        assert len(admitted.warnings) == told
        assert admitted.obj["spec"] == {"template": {"spec": {"containers": [{"name": "c"}]}}}
    with pytest.raises(ApiError) as error:
        typed(DEPLOYMENTS, body, validation="Strict")
    assert 'unknown field "spec.replicaz"' in str(error.value)
    assert 'unknown field "spec.template.spec.containers[0].img"' in str(error.value)


def test_nulls_are_as_good_as_absent_and_quantities_become_text() -> None:
    """kubectl sends creationTimestamp: null, people write cpu: 2."""
    limits = {"cpu": 2, "memory": "1Gi", "x": 0.5}
    body = {
        "metadata": {"creationTimestamp": None, "labels": {"a": None}},
        "spec": {
            "template": {"spec": {"containers": [{"name": "c", "resources": {"limits": limits}}]}}
        },
    }
    obj = typed(DEPLOYMENTS, body, validation="Strict").obj
    assert obj["metadata"] == {"labels": {"a": ""}}
    found = obj["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert found == {"cpu": "2", "memory": "1Gi", "x": "0.5"}


def test_custom_kinds_keep_what_they_are_given_but_their_metadata_is_checked() -> None:
    """A PodMonitor has a schema that nobody here knows."""
    body = {
        "metadata": {"name": "m"},
        "spec": {"podMetricsEndpoints": [{"port": "http"}], "anything": 1},
    }
    assert typed(POD_MONITORS, body, validation="Strict").obj["spec"] == body["spec"]
    assert refused(POD_MONITORS, {"metadata": {"labels": {"a": 1}}}).code == 400


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("pods", {"metadata": {"name": "p"}, "spec": {"containers": []}}, "spec.containers"),
        (
            "pods",
            {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "C", "image": "i"}]}},
            "spec.containers[0].name",
        ),
        (
            "pods",
            {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}},
            "spec.containers[0].image",
        ),
        (
            "configmaps",
            {"metadata": {"name": "c", "annotations": {"a b": "x"}}},
            "metadata.annotations",
        ),
        ("configmaps", {"metadata": {"name": "c", "labels": {"/a": "x"}}}, "metadata.labels"),
        ("configmaps", {"metadata": {}}, "metadata.name"),
        ("services", {"metadata": {"name": "s"}, "spec": {}}, "spec.ports"),
        (
            "services",
            {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 0}]}},
            "spec.ports[0].port",
        ),
        (
            "services",
            {"metadata": {"name": "a.b"}, "spec": {"ports": [{"port": 80}]}},
            "metadata.name",
        ),
    ],
)
def test_rules_of_a_kind_name_the_field(path: str, body: Any, field: str) -> None:
    """422, with a cause that a program can read."""
    client = Client()
    with pytest.raises(ApiError) as error:
        client.ask("POST", f"/api/v1/namespaces/infer/{path}", body)
    assert (error.value.code, error.value.reason) == (422, "Invalid")
    assert field in [cause["field"] for cause in error.value.details["causes"]]


def test_rules_of_workloads_hold_on_creation_and_change() -> None:
    """A mount without its volume, a bad strategy, negative figures, the same container twice."""
    client = Client()
    client.apply(managed())
    container = {"name": "a", "image": "i", "volumeMounts": [{"name": "gone", "mountPath": "/x"}]}
    path = "/apis/apps/v1/namespaces/infer/deployments"
    for change in (
        {"minReadySeconds": -1},
        {"strategy": {"type": "Hope"}},
        {"template": {"spec": {"containers": [container]}}},
        {"template": {"spec": {"containers": [{"name": "a", "image": "i"}] * 2}}},
        {"selector": {"matchLabels": {"app": "else"}}},
        {"template": {"metadata": {"labels": {"app": "else"}}}},
        {"selector": None},
        {"template": None},
    ):
        code = client.refusal(
            "PATCH", f"{path}/dep", {"spec": change}, media_type="application/merge-patch+json"
        )
        assert code == (422, "Invalid"), change


def test_a_pod_can_be_relabelled_but_not_made_over() -> None:
    """What runs cannot be changed but for its image."""
    client = Client()
    client.ask("POST", "/api/v1/namespaces/infer/pods", POD)
    path, merge = "/api/v1/namespaces/infer/pods/p", {"media_type": "application/merge-patch+json"}
    assert client.ask("PATCH", path, {"metadata": {"labels": {"a": "1"}}}, **merge)["metadata"][
        "labels"
    ] == {"a": "1"}
    command = {"spec": {"containers": [{"name": "c", "image": "i:1", "command": ["x"]}]}}
    assert client.refusal("PATCH", path, command, **merge) == (422, "Invalid")


def test_a_role_binding_cannot_be_pointed_elsewhere() -> None:
    """It is deleted and made anew."""
    client = Client()
    path = "/apis/rbac.authorization.k8s.io/v1/namespaces/infer/rolebindings"
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}
    client.ask("POST", path, {"metadata": {"name": "b:x"}, "roleRef": role})
    change = {"roleRef": role | {"name": "s"}}
    refused_ = client.refusal(
        "PATCH", f"{path}/b:x", change, media_type="application/merge-patch+json"
    )
    assert refused_ == (422, "Invalid")


# -- paths and queries


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/api/v1/pods", ("pods", "", "", "")),
        ("/api/v1/namespaces", ("namespaces", "", "", "")),
        ("/api/v1/namespaces/a", ("namespaces", "", "a", "")),
        ("/api/v1/namespaces/a/status", ("namespaces", "", "a", "status")),
        ("/api/v1/namespaces/a/pods", ("pods", "a", "", "")),
        ("/api/v1/namespaces/a/pods/b/log", ("pods", "a", "b", "log")),
        ("/apis/apps/v1/namespaces/a/deployments/b/scale", ("deployments", "a", "b", "scale")),
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles/x", ("clusterroles", "", "x", "")),
    ],
)
def test_paths_name_resource_namespace_name_and_subresource(
    path: str, found: tuple[str, ...]
) -> None:
    """All forms that there are."""
    target = target_of(path)
    assert (target.resource.plural, target.namespace, target.name, target.subresource) == found


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/",
            "/api",
            "/api/v2/pods",
            "/apis/apps/v1",
            "/api/v1/pods/x",
            "/api/v1/namespaces/a/nodes",
        ),
        *(
            "/apis/apps/v1/pods",
            "/api/v1/namespaces/a/pods/b/shell",
            "/api/v1/namespaces/a/configmaps/b/status",
        ),
    ],
)
def test_other_paths_lead_nowhere(path: str) -> None:
    """404, as for anything that a server does not have."""
    with pytest.raises(ApiError) as error:
        target_of(path)
    assert error.value.code == 404


@pytest.mark.parametrize(
    ("method", "path", "query", "verb"),
    [
        ("GET", "/api/v1/pods", {}, "list"),
        ("GET", "/api/v1/pods", {"watch": "1"}, "watch"),
        ("HEAD", "/api/v1/nodes/a", {}, "get"),
        ("GET", "/api/v1/nodes/a", {"watch": "true"}, "watch"),
        ("DELETE", "/api/v1/namespaces/a/pods", {}, "deletecollection"),
        ("DELETE", "/api/v1/namespaces/a/pods/b", {}, "delete"),
        ("PATCH", "/api/v1/namespaces/a/pods/b", {}, "patch"),
        ("POST", "/api/v1/namespaces/a/pods/b/eviction", {}, "create"),
        ("PUT", "/api/v1/namespaces/a/pods", {}, ""),
        ("POST", "/api/v1/namespaces/a/pods/b", {}, ""),
        ("DELETE", "/apis/apps/v1/namespaces/a/deployments/b/scale", {}, ""),
        ("GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {}, ""),
    ],
)
def test_methods_are_verbs_or_not_allowed(
    method: str, path: str, query: dict[str, str], verb: str
) -> None:
    """Rules of access speak of verbs."""
    if verb:
        assert verb_of(method, target_of(path), query) == verb
        return
    with pytest.raises(ApiError) as error:
        verb_of(method, target_of(path), query)
    assert error.value.code == 405


@pytest.mark.parametrize("query", [{"dryRun": "yes"}, {"fieldValidation": "Hard"}])
def test_options_that_make_no_sense_are_refused(query: dict[str, str]) -> None:
    """A client that misspells dryRun must not change anything."""
    with pytest.raises(ApiError) as error:
        write_options(query, agent="kubectl/v1")
    assert error.value.code == 400


def test_a_writer_is_called_as_it_says_or_after_its_program() -> None:
    """managedFields name the client that changed a Deployment."""
    assert write_options({"fieldManager": "me"}, agent="kubectl/v1").manager == "me"
    assert write_options({}, agent="OpenAPI-Generator/36.0.0/python").manager == "OpenAPI-Generator"
    assert write_options({}, agent="").manager == "unknown"
    assert [truth(text) for text in ("true", "1", "True", "false", "0", "")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]


def test_an_answer_in_a_form_that_nobody_reads_is_406() -> None:
    """The server speaks JSON; a client that cannot read the answer has changed nothing."""
    assert forms("application/vnd.kubernetes.protobuf,application/json").kind == ""
    assert forms("application/json;as=Table;v=v1;g=meta.k8s.io,application/json").kind == "Table"
    assert forms("application/json;as=Chart,application/json").kind == ""
    with pytest.raises(ApiError) as error:
        forms("text/html")
    assert error.value.code == 406
    client = Client()
    headers, path = {"accept": "text/html"}, "/apis/apps/v1/namespaces/infer/deployments"
    body = json.dumps(managed()).encode()
    with pytest.raises(ApiError) as error:
        client.twin.server.answer(
            Call(method="POST", path=path, query={}, headers=headers, body=body)
        )
    assert error.value.code == 406
    assert client.ask("GET", path)["items"] == []
