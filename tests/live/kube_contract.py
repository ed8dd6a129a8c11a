"""What a Kubernetes API answers, question by question: for the twin's API always, for a real server where there is one.

A subclass gives a fixture `cluster` (ClusterUnderTest). Everything happens in a namespace of its own; what is asked is
what documentation and spec say of a real API server, no more: messages, for instance, are left alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException

Json = dict[str, Any]
DEADLINE_S = 30.0
PATCH_TYPES = {
    "strategic": "application/strategic-merge-patch+json",
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}


@dataclass(frozen=True, kw_only=True)
class ClusterUnderTest:
    """A cluster that may be tried out: the official client and a raw one, both as an administrator, and a namespace."""

    api: client.ApiClient
    http: httpx.Client
    namespace: str

    @property
    def apps(self) -> client.AppsV1Api:
        """Return the client of Deployments and ReplicaSets."""
        return client.AppsV1Api(self.api)

    @property
    def core(self) -> client.CoreV1Api:
        """Return the client of Pods, Namespaces and the like."""
        return client.CoreV1Api(self.api)

    @property
    def deployments(self) -> str:
        """Return the path of the Deployments of the namespace."""
        return f"/apis/apps/v1/namespaces/{self.namespace}/deployments"

    def create(self, body: Json) -> Json:
        """Create a Deployment."""
        answer = self.http.post(self.deployments, json=body)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def read(self, name: str) -> Json:
        """Return a Deployment."""
        answer = self.http.get(f"{self.deployments}/{name}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def patch(self, name: str, body: Any, *, kind: str = "merge", part: str = "", **query: str) -> httpx.Response:
        """Patch a Deployment or a part of it."""
        path = f"{self.deployments}/{name}{part}"
        headers = {"Content-Type": PATCH_TYPES[kind]}
        return self.http.patch(path, content=json.dumps(body), headers=headers, params=query)

    def list(self, **query: str) -> httpx.Response:
        """List the Deployments of the namespace."""
        return self.http.get(self.deployments, params=query)


def deployment(name: str, *, labels: Json | None = None, replicas: int | None = 0, **spec: Any) -> Json:
    """Return a Deployment that asks for nothing that a cluster might not have."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": {"contract": name, **(labels or {})}},
        "spec": {
            **({} if replicas is None else {"replicas": replicas}),
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "main", "image": "registry.k8s.io/pause:3.10"}]},
            },
            **spec,
        },
    }


def names(answer: httpx.Response) -> list[str]:
    """Return the names in a list."""
    assert answer.status_code == 200, answer.text
    return [item["metadata"]["name"] for item in answer.json()["items"]]


def refused(answer: httpx.Response, code: int, reason: str) -> Json:
    """Check that *answer* is a Status of *code* and *reason*, and return it."""
    status = answer.json()
    found = (answer.status_code, status.get("kind"), status.get("status"), status.get("code"), status.get("reason"))
    assert found == (code, "Status", "Failure", code, reason), answer.text
    return dict(status)


class KubeContract:
    """The questions. Each test makes what it needs under a name of its own."""

    @pytest.fixture
    def name(self) -> str:
        """Return a name that nothing else has."""
        return f"c-{uuid4().hex[:10]}"

    # -- create and get ------------------------------------------------------------------------------------------------

    def test_create_then_get(self, cluster: ClusterUnderTest, name: str) -> None:
        """What was stored is what is read, by the official client too."""
        made = cluster.apps.create_namespaced_deployment(cluster.namespace, deployment(name))
        read = cluster.apps.read_namespaced_deployment(name, cluster.namespace)
        assert (read.metadata.name, read.metadata.uid) == (name, made.metadata.uid)
        assert read.spec.template.spec.containers[0].name == "main"

    def test_metadata_is_filled(self, cluster: ClusterUnderTest, name: str) -> None:
        """Controllers rely on identity, version, generation and age."""
        metadata = cluster.create(deployment(name))["metadata"]
        assert metadata["uid"]
        assert int(metadata["resourceVersion"]) > 0
        assert metadata["generation"] == 1
        assert metadata["creationTimestamp"].endswith("Z")
        assert metadata["namespace"] == cluster.namespace

    def test_defaults_are_filled(self, cluster: ClusterUnderTest, name: str) -> None:
        """Who reads spec.replicas of an object that does not say finds one."""
        spec = cluster.create(deployment(name, replicas=None))["spec"]
        cluster.http.delete(f"{cluster.deployments}/{name}")
        assert (spec["replicas"], spec["revisionHistoryLimit"], spec["progressDeadlineSeconds"]) == (1, 10, 600)
        assert spec["strategy"] == {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
        }
        pod = spec["template"]["spec"]
        assert (pod["restartPolicy"], pod["dnsPolicy"]) == ("Always", "ClusterFirst")
        assert pod["containers"][0]["imagePullPolicy"] == "IfNotPresent"

    def test_generate_name(self, cluster: ClusterUnderTest, name: str) -> None:
        """Events and pods are named so."""
        body = deployment(name)
        body["metadata"] = {"generateName": f"{name}-"}
        made = cluster.create(body)["metadata"]["name"]
        assert made.startswith(f"{name}-")
        assert len(made) > len(name) + 1

    def test_absent_is_404(self, cluster: ClusterUnderTest, name: str) -> None:
        """The reason is what clients look at."""
        status = refused(cluster.http.get(f"{cluster.deployments}/{name}"), 404, "NotFound")
        assert status["details"] == {"name": name, "group": "apps", "kind": "deployments"}
        with pytest.raises(ApiException) as error:
            cluster.apps.read_namespaced_deployment(name, cluster.namespace)
        assert error.value.status == 404

    def test_create_twice_is_409(self, cluster: ClusterUnderTest, name: str) -> None:
        """AlreadyExists tells it apart from a lost race."""
        cluster.create(deployment(name))
        refused(cluster.http.post(cluster.deployments, json=deployment(name)), 409, "AlreadyExists")

    def test_create_in_no_namespace_is_404(self, cluster: ClusterUnderTest, name: str) -> None:
        """A namespace has to be made first."""
        path = f"/apis/apps/v1/namespaces/{name}/deployments"
        assert (
            refused(cluster.http.post(path, json=deployment(name)), 404, "NotFound")["details"]["kind"] == "namespaces"
        )

    def test_another_kind_is_400(self, cluster: ClusterUnderTest, name: str) -> None:
        """A body has to be of the kind of its path."""
        body = deployment(name) | {"kind": "Pod", "apiVersion": "v1"}
        refused(cluster.http.post(cluster.deployments, json=body), 400, "BadRequest")

    def test_another_namespace_is_400(self, cluster: ClusterUnderTest, name: str) -> None:
        """A body has to be of the namespace of its path."""
        body = deployment(name)
        body["metadata"]["namespace"] = "elsewhere"
        refused(cluster.http.post(cluster.deployments, json=body), 400, "BadRequest")

    def test_malformed_json_is_400(self, cluster: ClusterUnderTest) -> None:
        """And nothing is created."""
        headers = {"Content-Type": "application/json"}
        refused(cluster.http.post(cluster.deployments, content="{", headers=headers), 400, "BadRequest")

    def test_an_unknown_path_is_404(self, cluster: ClusterUnderTest) -> None:
        """An older server does not know every resource."""
        assert cluster.http.get("/apis/apps/v1/spaceships").status_code == 404
        assert cluster.http.get("/apis/nobody.example/v1/things").status_code == 404

    # -- list ----------------------------------------------------------------------------------------------------------

    def test_list_has_kind_and_version(self, cluster: ClusterUnderTest, name: str) -> None:
        """A watch starts from the version of a list."""
        cluster.create(deployment(name))
        body = cluster.list().json()
        assert (body["kind"], body["apiVersion"]) == ("DeploymentList", "apps/v1")
        assert int(body["metadata"]["resourceVersion"]) > 0
        assert name in [item["metadata"]["name"] for item in body["items"]]

    @pytest.mark.parametrize(
        ("selector", "chosen"),
        [
            ("tier=a", "a"),
            ("tier==a", "a"),
            ("tier!=a", "bc"),
            ("tier in (a, b)", "ab"),
            ("tier notin (a,b)", "c"),
            ("tier", "ab"),
            ("!tier", "c"),
            ("tier,tier!=a", "b"),
            ("tier=a,tier=b", ""),
        ],
    )
    def test_label_selectors(self, cluster: ClusterUnderTest, name: str, selector: str, chosen: str) -> None:
        """A loop lists its servers by label: who ignores the selector manages everything there is."""
        for letter in "abc":
            labels = {"group": name} | ({"tier": letter} if letter != "c" else {})
            cluster.create(deployment(f"{name}-{letter}", labels=labels))
        found = cluster.list(labelSelector=f"group={name},{selector}")
        assert [found.removeprefix(f"{name}-") for found in names(found)] == list(chosen)

    @pytest.mark.parametrize("selector", ["a b", "=x", "a in x", "a in (x", "a,,b", "-a=b", "a=b c", "a=_"])
    def test_a_bad_label_selector_is_400(self, cluster: ClusterUnderTest, selector: str) -> None:
        """A selector that cannot be read must not select everything."""
        refused(cluster.list(labelSelector=selector), 400, "BadRequest")

    def test_all_namespaces(self, cluster: ClusterUnderTest, name: str) -> None:
        """Without a namespace in the path the list is of all."""
        cluster.create(deployment(name))
        found = cluster.http.get("/apis/apps/v1/deployments", params={"labelSelector": f"contract={name}"})
        assert names(found) == [name]
        assert found.json()["items"][0]["metadata"]["namespace"] == cluster.namespace

    def test_a_field_selector_on_the_name(self, cluster: ClusterUnderTest, name: str) -> None:
        """kubectl waits for one object so."""
        cluster.create(deployment(f"{name}-1"))
        cluster.create(deployment(f"{name}-2"))
        assert names(cluster.list(fieldSelector=f"metadata.name={name}-2")) == [f"{name}-2"]
        others = names(cluster.list(fieldSelector=f"metadata.name!={name}-2"))
        assert f"{name}-1" in others
        assert f"{name}-2" not in others

    def test_a_field_that_cannot_be_selected_is_400(self, cluster: ClusterUnderTest) -> None:
        """Only few fields are indexed."""
        refused(cluster.list(fieldSelector="spec.replicas=1"), 400, "BadRequest")

    def test_pages(self, cluster: ClusterUnderTest, name: str) -> None:
        """limit and continue give everything once, and as it was at the first page."""
        for number in range(5):
            cluster.create(deployment(f"{name}-{number}", labels={"group": name}))
        query = {"labelSelector": f"group={name}", "limit": "2"}
        first = cluster.list(**query).json()
        assert len(first["items"]) == 2
        cluster.create(deployment(f"{name}-3x", labels={"group": name}))
        second = cluster.list(**query, **{"continue": first["metadata"]["continue"]}).json()
        third = cluster.list(**query, **{"continue": second["metadata"]["continue"]}).json()
        items = [*first["items"], *second["items"], *third["items"]]
        assert [item["metadata"]["name"] for item in items] == [f"{name}-{number}" for number in range(5)]
        assert not third["metadata"].get("continue")
        assert first["metadata"]["resourceVersion"] == third["metadata"]["resourceVersion"]

    def test_a_bad_continue_token_is_400(self, cluster: ClusterUnderTest) -> None:
        """It must not begin again from the start."""
        refused(cluster.list(limit="1", **{"continue": "nonsense"}), 400, "BadRequest")

    # -- patches -------------------------------------------------------------------------------------------------------

    def test_a_strategic_merge_knows_containers_by_name(self, cluster: ClusterUnderTest, name: str) -> None:
        """A patch of one container leaves the others, and the rest of itself, alone."""
        body = deployment(name)
        body["spec"]["template"]["spec"]["containers"].append({"name": "side", "image": "registry.k8s.io/pause:3.9"})
        cluster.create(body)
        containers = [{"name": "main", "args": ["--max-num-seqs=8"]}]
        answer = cluster.patch(name, {"spec": {"template": {"spec": {"containers": containers}}}}, kind="strategic")
        found = answer.json()["spec"]["template"]["spec"]["containers"]
        assert [(each["name"], each.get("args")) for each in found] == [("main", ["--max-num-seqs=8"]), ("side", None)]
        assert found[0]["image"] == "registry.k8s.io/pause:3.10"

    def test_the_client_sends_strategic_merges_and_none_deletes(self, cluster: ClusterUnderTest, name: str) -> None:
        """A dict as body of the official client."""
        cluster.create(deployment(name, labels={"a": "1", "b": "2"}))
        body = {"metadata": {"labels": {"a": None, "c": "3"}}}
        found = cluster.apps.patch_namespaced_deployment(name, cluster.namespace, body)
        assert found.metadata.labels == {"contract": name, "b": "2", "c": "3"}

    def test_a_merge_patch_deletes_by_null_and_replaces_lists(self, cluster: ClusterUnderTest, name: str) -> None:
        """RFC 7386."""
        body = deployment(name, labels={"a": "1"})
        body["spec"]["template"]["spec"]["containers"].append({"name": "side", "image": "registry.k8s.io/pause:3.9"})
        cluster.create(body)
        containers = [{"name": "only", "image": "registry.k8s.io/pause:3.9"}]
        patch = {"metadata": {"labels": {"a": None}}, "spec": {"template": {"spec": {"containers": containers}}}}
        found = cluster.patch(name, patch).json()
        assert "a" not in found["metadata"]["labels"]
        assert [each["name"] for each in found["spec"]["template"]["spec"]["containers"]] == ["only"]

    def test_a_json_patch_replaces(self, cluster: ClusterUnderTest, name: str) -> None:
        """RFC 6902; a key with a slash is written ~1."""
        cluster.create(deployment(name, labels={"example.com/x": "1"}))
        patch = [
            {"op": "test", "path": "/spec/replicas", "value": 0},
            {"op": "replace", "path": "/metadata/labels/example.com~1x", "value": "2"},
            {"op": "add", "path": "/metadata/labels/new", "value": "3"},
        ]
        answer = cluster.patch(name, patch, kind="json")
        assert answer.status_code == 200, answer.text
        assert answer.json()["metadata"]["labels"] == {"contract": name, "example.com/x": "2", "new": "3"}

    def test_a_json_patch_whose_test_fails_is_422_and_changes_nothing(
        self, cluster: ClusterUnderTest, name: str
    ) -> None:
        """A patch is all or nothing."""
        before = cluster.create(deployment(name))
        patch = [
            {"op": "add", "path": "/metadata/labels/new", "value": "3"},
            {"op": "test", "path": "/spec/replicas", "value": 7},
        ]
        refused(cluster.patch(name, patch, kind="json"), 422, "Invalid")
        assert cluster.read(name)["metadata"]["labels"] == before["metadata"]["labels"]

    def test_server_side_apply_creates_and_changes(self, cluster: ClusterUnderTest, name: str) -> None:
        """The same body twice: created, then there already; what others set stays."""
        body = deployment(name)
        created = cluster.patch(name, body, kind="apply", fieldManager="contract")
        assert created.status_code == 201, created.text
        cluster.patch(name, {"metadata": {"labels": {"other": "1"}}}, fieldManager="somebody")
        body["spec"]["minReadySeconds"] = 3
        changed = cluster.patch(name, body, kind="apply", fieldManager="contract")
        assert changed.status_code == 200, changed.text
        found = changed.json()
        assert (found["spec"]["minReadySeconds"], found["metadata"]["labels"]["other"]) == (3, "1")
        managers = {(each["manager"], each["operation"]) for each in found["metadata"]["managedFields"]}
        assert {("contract", "Apply"), ("somebody", "Update")} <= managers

    def test_server_side_apply_gives_up_what_it_no_longer_names(self, cluster: ClusterUnderTest, name: str) -> None:
        """That is what it is for."""
        body = deployment(name, labels={"gone": "1"})
        cluster.patch(name, body, kind="apply", fieldManager="contract")
        del body["metadata"]["labels"]["gone"]
        found = cluster.patch(name, body, kind="apply", fieldManager="contract").json()
        assert found["metadata"]["labels"] == {"contract": name}

    def test_server_side_apply_conflicts_with_another_owner_unless_forced(
        self, cluster: ClusterUnderTest, name: str
    ) -> None:
        """Two controllers that both set replicas have to notice each other."""
        body = deployment(name, replicas=0, minReadySeconds=1)
        cluster.patch(name, body, kind="apply", fieldManager="one")
        body["spec"]["minReadySeconds"] = 2
        status = refused(cluster.patch(name, body, kind="apply", fieldManager="two"), 409, "Conflict")
        assert [each["field"] for each in status["details"]["causes"]] == [".spec.minReadySeconds"]
        forced = cluster.patch(name, body, kind="apply", fieldManager="two", force="true")
        assert forced.json()["spec"]["minReadySeconds"] == 2

    def test_server_side_apply_needs_a_manager(self, cluster: ClusterUnderTest, name: str) -> None:
        """Nobody can own fields without a name."""
        refused(cluster.patch(name, deployment(name), kind="apply"), 400, "BadRequest")

    def test_a_wrong_content_type_is_415(self, cluster: ClusterUnderTest, name: str) -> None:
        """application/json says nothing about how to merge."""
        cluster.create(deployment(name))
        headers = {"Content-Type": "application/json"}
        answer = cluster.http.patch(f"{cluster.deployments}/{name}", content="{}", headers=headers)
        refused(answer, 415, "UnsupportedMediaType")

    def test_a_patch_of_nothing_is_404(self, cluster: ClusterUnderTest, name: str) -> None:
        """A patch creates nothing."""
        refused(cluster.patch(name, {"spec": {"replicas": 1}}), 404, "NotFound")

    # -- scale ---------------------------------------------------------------------------------------------------------

    def test_scale_is_read_and_patched(self, cluster: ClusterUnderTest, name: str) -> None:
        """It is a door to spec.replicas with a lock of its own."""
        cluster.create(deployment(name, replicas=1))
        scale = cluster.http.get(f"{cluster.deployments}/{name}/scale").json()
        assert (scale["kind"], scale["apiVersion"], scale["spec"]) == ("Scale", "autoscaling/v1", {"replicas": 1})
        assert scale["status"]["selector"] == f"app={name}"
        answer = cluster.patch(name, {"spec": {"replicas": 2}}, part="/scale")
        assert (answer.status_code, answer.json()["spec"]) == (200, {"replicas": 2})
        assert cluster.read(name)["spec"]["replicas"] == 2

    def test_scale_to_zero_leaves_the_figure_out(self, cluster: ClusterUnderTest, name: str) -> None:
        """The official client then has None, not 0."""
        cluster.create(deployment(name, replicas=1))
        body = {"spec": {"replicas": 0}}
        scale = cluster.apps.patch_namespaced_deployment_scale(name, cluster.namespace, body)
        assert scale.spec.replicas is None
        assert cluster.read(name)["spec"]["replicas"] == 0

    def test_scale_is_replaced(self, cluster: ClusterUnderTest, name: str) -> None:
        """PUT, as autoscalers do, with the version that was read."""
        cluster.create(deployment(name))
        _settle(cluster, name)
        path = f"{cluster.deployments}/{name}/scale"
        scale = cluster.http.get(path).json()
        scale["spec"]["replicas"] = 1
        assert cluster.http.put(path, json=scale).json()["spec"]["replicas"] == 1
        stale = scale | {"metadata": scale["metadata"] | {"resourceVersion": "1"}}
        refused(cluster.http.put(path, json=stale), 409, "Conflict")

    # -- versions ------------------------------------------------------------------------------------------------------

    def test_a_stale_version_is_409(self, cluster: ClusterUnderTest, name: str) -> None:
        """On PUT and on PATCH, and then nothing is changed."""
        body = cluster.create(deployment(name))
        stale = body["metadata"]["resourceVersion"]
        cluster.patch(name, {"metadata": {"labels": {"x": "1"}}})
        body["spec"]["minReadySeconds"] = 9
        refused(cluster.http.put(f"{cluster.deployments}/{name}", json=body), 409, "Conflict")
        patch = {"metadata": {"resourceVersion": stale}, "spec": {"minReadySeconds": 9}}
        refused(cluster.patch(name, patch), 409, "Conflict")
        refused(cluster.patch(name, patch, kind="strategic"), 409, "Conflict")
        assert cluster.read(name)["spec"].get("minReadySeconds") is None

    def test_put_replaces(self, cluster: ClusterUnderTest, name: str) -> None:
        """What is not named any more is gone."""
        cluster.create(deployment(name, labels={"x": "1"}))
        body = deployment(name, minReadySeconds=4)
        answer = cluster.http.put(f"{cluster.deployments}/{name}", json=body)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert (found["metadata"]["labels"], found["spec"]["minReadySeconds"]) == ({"contract": name}, 4)

    def test_another_uid_is_409(self, cluster: ClusterUnderTest, name: str) -> None:
        """An object that was deleted and made again is not the one that was meant."""
        cluster.create(deployment(name))
        patch = {"metadata": {"uid": str(uuid4())}, "spec": {"minReadySeconds": 9}}
        refused(cluster.patch(name, patch), 409, "Conflict")

    def test_the_version_moves_on_a_change_and_not_on_a_no_op(self, cluster: ClusterUnderTest, name: str) -> None:
        """Otherwise every cycle would wake every watcher."""
        cluster.create(deployment(name))
        cluster.patch(name, {"spec": {"minReadySeconds": 1}})
        _settle(cluster, name)
        first = cluster.read(name)["metadata"]["resourceVersion"]
        cluster.patch(name, {"spec": {"minReadySeconds": 1}})
        assert cluster.read(name)["metadata"]["resourceVersion"] == first
        cluster.patch(name, {"metadata": {"labels": {"x": "1"}}})
        assert int(cluster.read(name)["metadata"]["resourceVersion"]) > int(first)

    def test_the_generation_moves_on_the_spec_only(self, cluster: ClusterUnderTest, name: str) -> None:
        """observedGeneration is compared with it to tell whether a status is about the present wish."""
        cluster.create(deployment(name))
        labelled = cluster.patch(name, {"metadata": {"labels": {"x": "1"}}}).json()
        assert labelled["metadata"]["generation"] == 1
        changed = cluster.patch(name, {"spec": {"minReadySeconds": 1}}).json()
        assert changed["metadata"]["generation"] == 2

    def test_the_status_catches_up_with_the_generation(self, cluster: ClusterUnderTest, name: str) -> None:
        """After a patch the status is stale for a moment; then observedGeneration says that it is not."""
        cluster.create(deployment(name))
        cluster.patch(name, {"spec": {"minReadySeconds": 1}})
        assert _settle(cluster, name)["status"]["observedGeneration"] == 2

    # -- what is refused -----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("replicas", [-1, "three", 1.5, True, [], {}])
    @pytest.mark.parametrize("kind", ["merge", "strategic"])
    def test_impossible_replicas_are_refused(
        self, cluster: ClusterUnderTest, name: str, replicas: Any, kind: str
    ) -> None:
        """By the object and by its scale; nothing is changed."""
        cluster.create(deployment(name))
        assert cluster.patch(name, {"spec": {"replicas": replicas}}, kind=kind).status_code in (400, 422)
        assert cluster.patch(name, {"spec": {"replicas": replicas}}, part="/scale").status_code in (400, 422)
        assert cluster.read(name)["spec"]["replicas"] == 0

    @pytest.mark.parametrize("value", ["a b", "a/b", "-a", "a_", "x" * 64, "ä"])
    def test_invalid_label_values_are_422(self, cluster: ClusterUnderTest, name: str, value: str) -> None:
        """And the patch that holds one changes nothing."""
        cluster.create(deployment(name))
        patch = {"metadata": {"labels": {"x": value}}, "spec": {"minReadySeconds": 5}}
        refused(cluster.patch(name, patch), 422, "Invalid")
        assert cluster.read(name)["spec"].get("minReadySeconds") is None

    @pytest.mark.parametrize("value", [8, 1.5, True])
    def test_a_label_that_is_no_text_is_400(self, cluster: ClusterUnderTest, name: str, value: Any) -> None:
        """maxbatchsize: 8 instead of "8" is the classic."""
        body = deployment(name)
        body["metadata"]["labels"]["x"] = value
        refused(cluster.http.post(cluster.deployments, json=body), 400, "BadRequest")
        cluster.create(deployment(name))
        refused(cluster.patch(name, {"metadata": {"labels": {"x": value}}}, kind="strategic"), 400, "BadRequest")

    @pytest.mark.parametrize("bad", ["Upper", "under_score", "-dash", "x" * 254, "a..b"])
    def test_impossible_names_are_422(self, cluster: ClusterUnderTest, bad: str) -> None:
        """Names become parts of host names."""
        refused(cluster.http.post(cluster.deployments, json=deployment(bad)), 422, "Invalid")

    def test_what_is_missing_is_named(self, cluster: ClusterUnderTest, name: str) -> None:
        """Causes say which field is wrong."""
        body = deployment(name)
        body["spec"]["template"]["spec"]["containers"] = []
        del body["spec"]["template"]["metadata"]["labels"]["app"]
        status = refused(cluster.http.post(cluster.deployments, json=body), 422, "Invalid")
        fields = {each["field"] for each in status["details"]["causes"]}
        assert {"spec.template.spec.containers", "spec.template.metadata.labels"} <= fields

    def test_a_selector_cannot_be_changed(self, cluster: ClusterUnderTest, name: str) -> None:
        """Pods would lose their owner."""
        cluster.create(deployment(name))
        patch = {
            "spec": {
                "selector": {"matchLabels": {"app": name, "b": "1"}},
                "template": {"metadata": {"labels": {"app": name, "b": "1"}}},
            }
        }
        refused(cluster.patch(name, patch), 422, "Invalid")

    def test_unknown_fields_are_dropped_unless_strict(self, cluster: ClusterUnderTest, name: str) -> None:
        """A misspelt field does nothing, in silence or almost."""
        body = deployment(name, replica=3)
        strict = cluster.http.post(cluster.deployments, json=body, params={"fieldValidation": "Strict"})
        refused(strict, 400, "BadRequest")
        assert "replica" in strict.json()["message"]
        assert "replica" not in cluster.create(body)["spec"]
        assert cluster.patch(name, {"spec": {"bogus": 1}}, fieldValidation="Strict").status_code in (400, 422)
        ignored = cluster.patch(name, {"spec": {"bogus": 1}}, fieldValidation="Ignore")
        assert (ignored.status_code, "warning" in ignored.headers) == (200, False)
        warned = cluster.patch(name, {"spec": {"bogus": 1}}, fieldValidation="Warn")
        assert "bogus" in warned.headers["warning"]

    # -- dry runs and status -------------------------------------------------------------------------------------------

    def test_a_dry_run_changes_nothing(self, cluster: ClusterUnderTest, name: str) -> None:
        """It answers as if, for create, patch, put and delete."""
        dry = {"dryRun": "All"}
        made = cluster.http.post(cluster.deployments, json=deployment(name), params=dry)
        assert (made.status_code, made.json()["spec"]["revisionHistoryLimit"]) == (201, 10)
        refused(cluster.http.get(f"{cluster.deployments}/{name}"), 404, "NotFound")
        cluster.create(deployment(name))
        before = _settle(cluster, name)
        patched = cluster.patch(name, {"spec": {"minReadySeconds": 7}}, dryRun="All")
        assert patched.json()["spec"]["minReadySeconds"] == 7
        path = f"{cluster.deployments}/{name}"
        assert cluster.http.put(path, json=deployment(name, minReadySeconds=7), params=dry).status_code == 200
        assert cluster.http.delete(path, params=dry).status_code == 200
        assert cluster.read(name)["spec"] == before["spec"]

    def test_a_bad_dry_run_is_refused(self, cluster: ClusterUnderTest, name: str) -> None:
        """Who misspells it must not get a real change."""
        answer = cluster.http.post(cluster.deployments, json=deployment(name), params={"dryRun": "all"})
        assert answer.status_code in (400, 422)
        refused(cluster.http.get(f"{cluster.deployments}/{name}"), 404, "NotFound")

    def test_the_status_is_written_by_its_subresource_only(self, cluster: ClusterUnderTest, name: str) -> None:
        """Who patches the object cannot fake readiness, who patches the status cannot scale."""
        cluster.create(deployment(name))
        condition = {"type": "Contract", "status": "True"}
        ignored = cluster.patch(name, {"status": {"conditions": [condition]}}, kind="strategic").json()
        assert "Contract" not in [each["type"] for each in ignored.get("status", {}).get("conditions", [])]
        _settle(cluster, name)
        body = {"status": {"conditions": [condition]}, "spec": {"replicas": 5}}
        found = cluster.patch(name, body, kind="strategic", part="/status").json()
        assert "Contract" in [each["type"] for each in found["status"]["conditions"]]
        assert found["spec"]["replicas"] == 0
        read = cluster.http.get(f"{cluster.deployments}/{name}/status").json()
        assert read["kind"] == "Deployment"

    # -- watches -------------------------------------------------------------------------------------------------------

    def test_a_watch_goes_on_from_a_list(self, cluster: ClusterUnderTest, name: str) -> None:
        """Every change after the list, in order, and none before."""
        cluster.create(deployment(f"{name}-old", labels={"group": name}))
        _settle(cluster, f"{name}-old")
        version = cluster.list(labelSelector=f"group={name}").json()["metadata"]["resourceVersion"]
        cluster.create(deployment(f"{name}-new", labels={"group": name}))
        cluster.create(deployment(f"{name}-other"))
        cluster.http.delete(f"{cluster.deployments}/{name}-new")
        events = list(_watch(cluster, until="DELETED", labelSelector=f"group={name}", resourceVersion=version))
        assert [type_ for type_, _ in events][:1] == ["ADDED"]
        assert {obj["metadata"]["name"] for _, obj in events} == {f"{name}-new"}
        versions = [int(obj["metadata"]["resourceVersion"]) for _, obj in events]
        assert versions == sorted(versions)

    def test_a_change_out_of_the_selection_arrives_as_deleted(self, cluster: ClusterUnderTest, name: str) -> None:
        """And one into it as added: a managed server may stop to be one."""
        cluster.create(deployment(name, labels={"group": name}))
        _settle(cluster, name)
        version = cluster.list().json()["metadata"]["resourceVersion"]
        cluster.patch(name, {"metadata": {"labels": {"group": "else"}}})
        cluster.patch(name, {"metadata": {"labels": {"group": name, "back": "1"}}})
        cluster.http.delete(f"{cluster.deployments}/{name}")
        events = _watch(cluster, labelSelector=f"group={name}", resourceVersion=version)
        assert [next(events)[0] for _ in range(2)] == ["DELETED", "ADDED"]

    def test_a_watch_of_one_object_by_field_selector(self, cluster: ClusterUnderTest, name: str) -> None:
        """kubectl rollout status does so."""
        cluster.create(deployment(name))
        _settle(cluster, name)
        version = cluster.list().json()["metadata"]["resourceVersion"]
        cluster.create(deployment(f"{name}-2"))
        cluster.patch(name, {"metadata": {"labels": {"x": "1"}}})
        events = _watch(cluster, fieldSelector=f"metadata.name={name}", resourceVersion=version)
        type_, obj = next(events)
        assert (type_, obj["metadata"]["name"], obj["metadata"]["labels"]["x"]) == ("MODIFIED", name, "1")

    def test_a_watch_without_a_version_begins_with_what_there_is(self, cluster: ClusterUnderTest, name: str) -> None:
        """As made-up ADDED events."""
        cluster.create(deployment(name))
        type_, obj = next(_watch(cluster, fieldSelector=f"metadata.name={name}"))
        assert (type_, obj["metadata"]["name"]) == ("ADDED", name)

    def test_a_watch_ends_at_its_timeout(self, cluster: ClusterUnderTest, name: str) -> None:
        """timeoutSeconds is the only way to end one without cutting the connection."""
        begin_s = time.monotonic()
        assert list(_watch(cluster, labelSelector=f"group={name}", timeoutSeconds="1")) == []
        assert 0.5 < time.monotonic() - begin_s < DEADLINE_S

    def test_a_watch_from_a_compacted_version_is_410(self, cluster: ClusterUnderTest) -> None:
        """Gone: list again. It may be the answer or the first event of a stream."""
        query = {"watch": "true", "resourceVersion": "1", "timeoutSeconds": "5"}
        with cluster.http.stream("GET", cluster.deployments, params=query) as answer:
            if answer.status_code == 200:
                event = json.loads(next(answer.iter_lines()))
                assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
                assert event["object"]["reason"] in ("Expired", "Gone")
            else:
                assert answer.status_code == 410
        stream = watch.Watch().stream(
            cluster.apps.list_namespaced_deployment, cluster.namespace, resource_version="1", timeout_seconds=5
        )
        with pytest.raises(ApiException) as error:
            next(stream)
        assert error.value.status == 410

    # -- delete --------------------------------------------------------------------------------------------------------

    def test_delete_then_404(self, cluster: ClusterUnderTest, name: str) -> None:
        """The answer is a Status, and a second delete finds nothing."""
        made = cluster.create(deployment(name))
        path = f"{cluster.deployments}/{name}"
        answer = cluster.http.delete(path)
        assert (answer.status_code, answer.json()["status"]) == (200, "Success")
        assert answer.json()["details"]["uid"] == made["metadata"]["uid"]
        refused(cluster.http.get(path), 404, "NotFound")
        refused(cluster.http.delete(path), 404, "NotFound")

    def test_delete_keeps_preconditions(self, cluster: ClusterUnderTest, name: str) -> None:
        """Only the object that was meant."""
        cluster.create(deployment(name))
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": str(uuid4())}}
        answer = cluster.http.request("DELETE", f"{cluster.deployments}/{name}", json=body)
        refused(answer, 409, "Conflict")

    def test_a_collection_is_deleted_by_selector(self, cluster: ClusterUnderTest, name: str) -> None:
        """And only what is selected."""
        for letter in "ab":
            cluster.create(deployment(f"{name}-{letter}", labels={"group": name, "tier": letter}))
        answer = cluster.http.delete(cluster.deployments, params={"labelSelector": f"group={name},tier=a"})
        assert answer.status_code == 200, answer.text
        assert names(cluster.list(labelSelector=f"group={name}")) == [f"{name}-b"]

    def test_a_method_that_makes_no_sense_is_405(self, cluster: ClusterUnderTest) -> None:
        """A collection cannot be replaced."""
        refused(cluster.http.put(cluster.deployments, json={}), 405, "MethodNotAllowed")

    # -- pods and others -----------------------------------------------------------------------------------------------

    def test_pods_are_listed_and_labelled(self, cluster: ClusterUnderTest, name: str) -> None:
        """Labels of a Deployment do not reach its pods, so somebody may label pods."""
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {
                "containers": [{"name": "main", "image": "registry.k8s.io/pause:3.10"}],
                "terminationGracePeriodSeconds": 0,
            },
        }
        cluster.core.create_namespaced_pod(cluster.namespace, pod)
        listed = cluster.core.list_namespaced_pod(cluster.namespace, label_selector=f"app={name}")
        assert [each.metadata.name for each in listed.items] == [name]
        cluster.core.patch_namespaced_pod(name, cluster.namespace, {"metadata": {"labels": {"x": "1"}}})
        found = cluster.core.list_namespaced_pod(
            cluster.namespace, label_selector="x=1", field_selector=f"metadata.name={name}"
        )
        assert [each.metadata.name for each in found.items] == [name]
        cluster.core.delete_namespaced_pod(name, cluster.namespace, grace_period_seconds=0)

    def test_a_deployment_makes_a_replica_set_of_its_own(self, cluster: ClusterUnderTest, name: str) -> None:
        """Owned by it and named after it: that is how pods are brought back to their Deployment."""
        made = cluster.create(deployment(name))
        path = f"/apis/apps/v1/namespaces/{cluster.namespace}/replicasets"
        found = _eventually(
            lambda: cluster.http.get(path, params={"labelSelector": f"app={name}"}).json()["items"], "a ReplicaSet"
        )
        metadata = found[0]["metadata"]
        assert metadata["name"] == f"{name}-{metadata['labels']['pod-template-hash']}"
        assert metadata["ownerReferences"][0]["uid"] == made["metadata"]["uid"]

    def test_a_lease_is_taken_over_once(self, cluster: ClusterUnderTest, name: str) -> None:
        """Two candidates replace the same version: one wins, the other gets a conflict."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{cluster.namespace}/leases"
        spec = {"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000001Z"}
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec}
        lease = cluster.http.post(path, json=body).json()
        assert lease["spec"]["renewTime"] == "2026-01-01T00:00:00.000001Z"
        mine, theirs = (lease | {"spec": spec | {"holderIdentity": who}} for who in "bc")
        assert cluster.http.put(f"{path}/{name}", json=mine).status_code == 200
        refused(cluster.http.put(f"{path}/{name}", json=theirs), 409, "Conflict")

    def test_a_config_map_keeps_its_data(self, cluster: ClusterUnderTest, name: str) -> None:
        """Data files come into the cluster so."""
        data = {"capacity-data.json": '{"count": []}'}
        cluster.core.create_namespaced_config_map(cluster.namespace, {"metadata": {"name": name}, "data": data})
        assert cluster.core.read_namespaced_config_map(name, cluster.namespace).data == data

    # -- who may -------------------------------------------------------------------------------------------------------

    def test_a_wrong_token_is_401(self, cluster: ClusterUnderTest) -> None:
        """Also where who sends none may do something."""
        headers = {"Authorization": f"Bearer {uuid4().hex}"}
        refused(cluster.http.get(cluster.deployments, headers=headers), 401, "Unauthorized")

    def test_what_is_not_allowed_is_403(self, cluster: ClusterUnderTest, name: str) -> None:
        """A ServiceAccount without roles may do nothing."""
        headers = {"Authorization": f"Bearer {_service_token(cluster, name)}"}
        status = refused(cluster.http.get(cluster.deployments, headers=headers), 403, "Forbidden")
        assert name in status["message"]

    def test_a_role_of_a_namespace_does_not_reach_across(self, cluster: ClusterUnderTest, name: str) -> None:
        """Who may list in its namespace may not list them all: list per namespace."""
        headers = {"Authorization": f"Bearer {_service_token(cluster, name)}"}
        rbac = client.RbacAuthorizationV1Api(cluster.api)
        rules = [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list"]}]
        rbac.create_namespaced_role(cluster.namespace, {"metadata": {"name": name}, "rules": rules})
        subject = {"kind": "ServiceAccount", "name": name, "namespace": cluster.namespace}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
        binding = {"metadata": {"name": name}, "subjects": [subject], "roleRef": role}
        rbac.create_namespaced_role_binding(cluster.namespace, binding)
        _eventually(lambda: cluster.http.get(cluster.deployments, headers=headers).status_code == 200, "the role")
        refused(cluster.http.get("/apis/apps/v1/deployments", headers=headers), 403, "Forbidden")
        refused(cluster.http.post(cluster.deployments, json=deployment(name), headers=headers), 403, "Forbidden")
        refused(cluster.http.get(f"{cluster.deployments}/{name}", headers=headers), 403, "Forbidden")


def _settle(cluster: ClusterUnderTest, name: str) -> Json:
    """Wait until the controllers have taken note of a Deployment and write nothing more of it; return it."""

    def settled() -> Json | None:
        found = cluster.read(name)
        status = found.get("status", {})
        known = status.get("observedGeneration", 0) >= found["metadata"]["generation"]
        done = "Progressing" in [each["type"] for each in status.get("conditions", [])]
        time.sleep(0.1)
        return found if known and done and cluster.read(name) == found else None

    return dict(_eventually(settled, f"the status of {name}"))


def _eventually(attempt: Any, what: str) -> Any:
    end_s = time.monotonic() + DEADLINE_S
    while not (found := attempt()):
        assert time.monotonic() < end_s, f"waited {DEADLINE_S:g} s in vain: {what}"
        time.sleep(0.05)
    return found


def _watch(cluster: ClusterUnderTest, *, until: str = "", **query: str) -> Iterator[tuple[str, Json]]:
    """Yield the events of a watch until it ends, or until one of type *until* has come."""
    query = {"watch": "true", "timeoutSeconds": "10", **query}
    with cluster.http.stream("GET", cluster.deployments, params=query) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            event = json.loads(line)
            yield event["type"], event["object"]
            if event["type"] == until:
                return


def _service_token(cluster: ClusterUnderTest, name: str) -> str:
    """Make a ServiceAccount; return a token of it."""
    cluster.core.create_namespaced_service_account(cluster.namespace, {"metadata": {"name": name}})
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": 600, "audiences": []},
    }
    path = f"/api/v1/namespaces/{cluster.namespace}/serviceaccounts/{name}/token"
    answer = cluster.http.post(path, json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["status"]["token"])
