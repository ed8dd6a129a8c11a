"""The contract of a Kubernetes API, third part: refusals, dry runs, statuses, and access."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from kubernetes import client

from tests.live.kube_cluster import (
    ClusterUnderTest,
    deployment,
    eventually,
    refused,
    service_token,
    settle,
)

COUNTS = (("limits", "2"), ("requests", "1"))
NAME = {"fieldPath": "metadata.name"}


class Refusing:
    """Questions about what is refused, and what changes nothing."""

    # -- what is refused

    @pytest.mark.parametrize("replicas", [-1, "three", 1.5, True, [], {}])
    @pytest.mark.parametrize("kind", ["merge", "strategic"])
    def test_impossible_replicas_are_refused(
        self, cluster: ClusterUnderTest, name: str, replicas: Any, kind: str
    ) -> None:
        """By the object and by its scale; nothing is changed."""
        cluster.create(deployment(name))
        assert cluster.patch(name, {"spec": {"replicas": replicas}}, kind=kind).status_code in (
            400,
            422,
        )
        assert cluster.patch(name, {"spec": {"replicas": replicas}}, part="/scale").status_code in (
            400,
            422,
        )
        assert cluster.read(name)["spec"]["replicas"] == 0

    @pytest.mark.parametrize("value", ["a b", "a/b", "-a", "a_", "x" * 64, "ä"])
    def test_invalid_label_values_are_422(
        self, cluster: ClusterUnderTest, name: str, value: str
    ) -> None:
        """And the patch that holds one changes nothing."""
        cluster.create(deployment(name))
        patch = {"metadata": {"labels": {"x": value}}, "spec": {"minReadySeconds": 5}}
        refused(cluster.patch(name, patch), 422, "Invalid")
        assert cluster.read(name)["spec"].get("minReadySeconds") is None

    @pytest.mark.parametrize("value", [8, 1.5, True])
    def test_a_label_that_is_no_text_is_refused(
        self, cluster: ClusterUnderTest, name: str, value: Any
    ) -> None:
        """maxbatchsize: 8 instead of "8" is the classic: 400 in an object, 422 in any patch."""
        body = deployment(name)
        body["metadata"]["labels"]["x"] = value
        refused(cluster.http.post(cluster.deployments, json=body), 400, "BadRequest")
        cluster.create(deployment(name))
        for kind in ("strategic", "merge"):
            patch = {"metadata": {"labels": {"x": value}}}
            refused(cluster.patch(name, patch, kind=kind), 422, "Invalid")

    @pytest.mark.parametrize("bad", ["Upper", "under_score", "-dash", "x" * 254, "a..b"])
    def test_impossible_names_are_422(self, cluster: ClusterUnderTest, bad: str) -> None:
        """Names become parts of host names."""
        refused(cluster.http.post(cluster.deployments, json=deployment(bad)), 422, "Invalid")

    @pytest.mark.parametrize(
        ("container", "field"),
        [
            (
                {"resources": {"limits": {"example.com/chip": "1500m"}}},
                "resources.limits[example.com/chip]",
            ),
            ({"resources": {"requests": {"example.com/chip": "1"}}}, "resources.limits"),
            (
                {"resources": {kind: {"example.com/chip": n} for kind, n in COUNTS}},
                "resources.requests",
            ),
            (
                {"env": [{"name": "A", "value": "1", "valueFrom": {"fieldRef": NAME}}]},
                "env[0].valueFrom",
            ),
        ],
    )
    def test_what_no_container_can_have_is_422(
        self, cluster: ClusterUnderTest, name: str, container: Any, field: str
    ) -> None:
        """Devices are whole, as many as asked for; a variable has one value."""
        body = deployment(name)
        body["spec"]["template"]["spec"]["containers"][0] |= container
        status = refused(cluster.http.post(cluster.deployments, json=body), 422, "Invalid")
        place = f"spec.template.spec.containers[0].{field}"
        assert place in {each["field"] for each in status["details"]["causes"]}

    @pytest.mark.parametrize(
        "query",
        [
            {"resourceVersionMatch": "Exact"},
            {"resourceVersion": "1", "resourceVersionMatch": "Roughly"},
            {"resourceVersion": "0", "resourceVersionMatch": "Exact"},
            {"watch": "true", "sendInitialEvents": "true"},
            {"watch": "true", "resourceVersion": "1", "resourceVersionMatch": "NotOlderThan"},
        ],
    )
    def test_options_of_a_list_that_do_not_go_together_are_422(
        self, cluster: ClusterUnderTest, query: dict[str, str]
    ) -> None:
        """A client that is wrong about versions must hear of it."""
        refused(cluster.list(**query, timeoutSeconds="1"), 422, "Invalid")

    def test_a_version_that_is_not_there_yet_is_504(self, cluster: ClusterUnderTest) -> None:
        """Clients that come from another server wait and ask again."""
        version = str(int(cluster.list().json()["metadata"]["resourceVersion"]) + 10**9)
        answer = cluster.list(resourceVersion=version, resourceVersionMatch="NotOlderThan")
        status = refused(answer, 504, "Timeout")
        assert status["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"

    def test_a_deletion_of_no_known_kind_is_422(self, cluster: ClusterUnderTest, name: str) -> None:
        """And deletes nothing."""
        cluster.create(deployment(name))
        path, body = f"{cluster.deployments}/{name}", {"propagationPolicy": "Sideways"}
        refused(cluster.http.request("DELETE", path, json=body), 422, "Invalid")
        cluster.read(name)

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

    def test_unknown_fields_are_dropped_unless_strict(
        self, cluster: ClusterUnderTest, name: str
    ) -> None:
        """A misspelt field does nothing, in silence or almost."""
        body = deployment(name, replica=3)
        strict = cluster.http.post(
            cluster.deployments, json=body, params={"fieldValidation": "Strict"}
        )
        refused(strict, 400, "BadRequest")
        assert "replica" in strict.json()["message"]
        assert "replica" not in cluster.create(body)["spec"]
        assert cluster.patch(
            name, {"spec": {"bogus": 1}}, fieldValidation="Strict"
        ).status_code in (400, 422)
        ignored = cluster.patch(name, {"spec": {"bogus": 1}}, fieldValidation="Ignore")
        assert (ignored.status_code, "warning" in ignored.headers) == (200, False)
        warned = cluster.patch(name, {"spec": {"bogus": 1}}, fieldValidation="Warn")
        assert "bogus" in warned.headers["warning"]

    # -- dry runs and status

    def test_a_dry_run_changes_nothing(self, cluster: ClusterUnderTest, name: str) -> None:
        """It answers as if, for create, patch, put and delete."""
        dry = {"dryRun": "All"}
        made = cluster.http.post(cluster.deployments, json=deployment(name), params=dry)
        assert (made.status_code, made.json()["spec"]["revisionHistoryLimit"]) == (201, 10)
        refused(cluster.http.get(f"{cluster.deployments}/{name}"), 404, "NotFound")
        cluster.create(deployment(name))
        before = settle(cluster, name)
        patched = cluster.patch(name, {"spec": {"minReadySeconds": 7}}, dryRun="All")
        assert patched.json()["spec"]["minReadySeconds"] == 7
        path = f"{cluster.deployments}/{name}"
        assert (
            cluster.http.put(path, json=deployment(name, minReadySeconds=7), params=dry).status_code
            == 200
        )
        assert cluster.http.delete(path, params=dry).status_code == 200
        assert cluster.read(name)["spec"] == before["spec"]

    def test_a_bad_dry_run_is_refused(self, cluster: ClusterUnderTest, name: str) -> None:
        """A client that misspells it must not get a real change."""
        answer = cluster.http.post(
            cluster.deployments, json=deployment(name), params={"dryRun": "all"}
        )
        assert answer.status_code in (400, 422)
        refused(cluster.http.get(f"{cluster.deployments}/{name}"), 404, "NotFound")

    def test_the_status_is_written_by_its_subresource_only(
        self, cluster: ClusterUnderTest, name: str
    ) -> None:
        """A patch of the object cannot fake readiness, one of the status cannot scale."""
        cluster.create(deployment(name))
        condition = {"type": "Contract", "status": "True"}
        ignored = cluster.patch(
            name, {"status": {"conditions": [condition]}}, kind="strategic"
        ).json()
        assert "Contract" not in [
            each["type"] for each in ignored.get("status", {}).get("conditions", [])
        ]
        settle(cluster, name)
        body = {"status": {"conditions": [condition]}, "spec": {"replicas": 5}}
        found = cluster.patch(name, body, kind="strategic", part="/status").json()
        assert "Contract" in [each["type"] for each in found["status"]["conditions"]]
        assert found["spec"]["replicas"] == 0
        read = cluster.http.get(f"{cluster.deployments}/{name}/status").json()
        assert read["kind"] == "Deployment"

    # -- access

    def test_a_wrong_token_is_401(self, cluster: ClusterUnderTest) -> None:
        """Also if a client without a token may do something."""
        headers = {"Authorization": f"Bearer {uuid4().hex}"}
        refused(cluster.anonymous.get(cluster.deployments, headers=headers), 401, "Unauthorized")

    def test_what_is_not_allowed_is_403(self, cluster: ClusterUnderTest, name: str) -> None:
        """A ServiceAccount without roles may do nothing."""
        headers = {"Authorization": f"Bearer {service_token(cluster, name)}"}
        status = refused(
            cluster.anonymous.get(cluster.deployments, headers=headers), 403, "Forbidden"
        )
        assert name in status["message"]

    def test_a_role_of_a_namespace_does_not_reach_across(
        self, cluster: ClusterUnderTest, name: str
    ) -> None:
        """A client may list in its namespace, but not across all: list per namespace."""
        headers = {"Authorization": f"Bearer {service_token(cluster, name)}"}
        rbac = client.RbacAuthorizationV1Api(cluster.api)
        rules = [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list"]}]
        rbac.create_namespaced_role(cluster.namespace, {"metadata": {"name": name}, "rules": rules})
        subject = {"kind": "ServiceAccount", "name": name, "namespace": cluster.namespace}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
        binding = {"metadata": {"name": name}, "subjects": [subject], "roleRef": role}
        rbac.create_namespaced_role_binding(cluster.namespace, binding)
        eventually(
            lambda: cluster.anonymous.get(cluster.deployments, headers=headers).status_code == 200,
            "the role",
        )
        refused(
            cluster.anonymous.get("/apis/apps/v1/deployments", headers=headers), 403, "Forbidden"
        )
        refused(
            cluster.anonymous.post(cluster.deployments, json=deployment(name), headers=headers),
            403,
            "Forbidden",
        )
        refused(
            cluster.anonymous.get(f"{cluster.deployments}/{name}", headers=headers),
            403,
            "Forbidden",
        )
