"""The contract of a Kubernetes API, fourth part: watches, deletions, pods and other kinds."""

from __future__ import annotations

import json
import time
from uuid import uuid4

import pytest
from kubernetes import watch
from kubernetes.client.exceptions import ApiException

from tests.live.kube_cluster import (
    DEADLINE_S,
    ClusterUnderTest,
    deployment,
    events_of,
    eventually,
    names,
    refused,
    settle,
)


class Watching:
    """Questions about watches, ends, and what else lives in a cluster."""

    # -- watches

    def test_a_watch_goes_on_from_a_list(self, cluster: ClusterUnderTest, name: str) -> None:
        """Every change after the list, in order, and none before."""
        cluster.create(deployment(f"{name}-old", labels={"group": name}))
        settle(cluster, f"{name}-old")
        version = cluster.list(labelSelector=f"group={name}").json()["metadata"]["resourceVersion"]
        cluster.create(deployment(f"{name}-new", labels={"group": name}))
        cluster.create(deployment(f"{name}-other"))
        cluster.http.delete(f"{cluster.deployments}/{name}-new")
        events = list(
            events_of(
                cluster, until="DELETED", labelSelector=f"group={name}", resourceVersion=version
            )
        )
        assert [type_ for type_, _ in events][:1] == ["ADDED"]
        assert {obj["metadata"]["name"] for _, obj in events} == {f"{name}-new"}
        versions = [int(obj["metadata"]["resourceVersion"]) for _, obj in events]
        assert versions == sorted(versions)

    def test_a_change_out_of_the_selection_arrives_as_deleted(
        self, cluster: ClusterUnderTest, name: str
    ) -> None:
        """And one into it as added: a managed server may stop to be one."""
        cluster.create(deployment(name, labels={"group": name}))
        settle(cluster, name)
        version = cluster.list().json()["metadata"]["resourceVersion"]
        cluster.patch(name, {"metadata": {"labels": {"group": "else"}}})
        cluster.patch(name, {"metadata": {"labels": {"group": name, "back": "1"}}})
        cluster.http.delete(f"{cluster.deployments}/{name}")
        events = events_of(cluster, labelSelector=f"group={name}", resourceVersion=version)
        assert [next(events)[0] for _ in range(2)] == ["DELETED", "ADDED"]

    def test_a_watch_of_one_object_by_field_selector(
        self, cluster: ClusterUnderTest, name: str
    ) -> None:
        """kubectl rollout status does so."""
        cluster.create(deployment(name))
        settle(cluster, name)
        version = cluster.list().json()["metadata"]["resourceVersion"]
        cluster.create(deployment(f"{name}-2"))
        cluster.patch(name, {"metadata": {"labels": {"x": "1"}}})
        events = events_of(cluster, fieldSelector=f"metadata.name={name}", resourceVersion=version)
        type_, obj = next(events)
        assert (type_, obj["metadata"]["name"], obj["metadata"]["labels"]["x"]) == (
            "MODIFIED",
            name,
            "1",
        )

    def test_a_watch_without_a_version_begins_with_what_there_is(
        self, cluster: ClusterUnderTest, name: str
    ) -> None:
        """As made-up ADDED events."""
        cluster.create(deployment(name))
        type_, obj = next(events_of(cluster, fieldSelector=f"metadata.name={name}"))
        assert (type_, obj["metadata"]["name"]) == ("ADDED", name)

    def test_a_watch_ends_at_its_timeout(self, cluster: ClusterUnderTest, name: str) -> None:
        """timeoutSeconds is the only way to end one without cutting the connection."""
        begin_s = time.monotonic()
        assert list(events_of(cluster, labelSelector=f"group={name}", timeoutSeconds="1")) == []
        assert 0.5 < time.monotonic() - begin_s < DEADLINE_S

    def test_a_watch_from_a_compacted_version_is_410(self, cluster: ClusterUnderTest) -> None:
        """Gone: list again. It may be the answer or the first event of a stream."""
        if not cluster.compacted:
            pytest.skip("nobody can make a real server compact its history through its API")
        query = {"watch": "true", "resourceVersion": "1", "timeoutSeconds": "5"}
        with cluster.http.stream("GET", cluster.deployments, params=query) as answer:
            if answer.status_code == 200:
                event = json.loads(next(answer.iter_lines()))
                assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
                assert event["object"]["reason"] in ("Expired", "Gone")
            else:
                assert answer.status_code == 410
        stream = watch.Watch().stream(
            cluster.apps.list_namespaced_deployment,
            cluster.namespace,
            resource_version="1",
            timeout_seconds=5,
        )
        with pytest.raises(ApiException) as error:
            next(stream)
        assert error.value.status == 410

    # -- delete

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

    def test_a_collection_is_deleted_by_selector(
        self, cluster: ClusterUnderTest, name: str
    ) -> None:
        """And only what is selected."""
        for letter in "ab":
            cluster.create(deployment(f"{name}-{letter}", labels={"group": name, "tier": letter}))
        answer = cluster.http.delete(
            cluster.deployments, params={"labelSelector": f"group={name},tier=a"}
        )
        assert answer.status_code == 200, answer.text
        assert names(cluster.list(labelSelector=f"group={name}")) == [f"{name}-b"]

    def test_a_method_that_makes_no_sense_is_405(self, cluster: ClusterUnderTest) -> None:
        """A collection cannot be replaced."""
        refused(cluster.http.put(cluster.deployments, json={}), 405, "MethodNotAllowed")

    # -- pods and others

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
        cluster.core.patch_namespaced_pod(
            name, cluster.namespace, {"metadata": {"labels": {"x": "1"}}}
        )
        found = cluster.core.list_namespaced_pod(
            cluster.namespace, label_selector="x=1", field_selector=f"metadata.name={name}"
        )
        assert [each.metadata.name for each in found.items] == [name]
        cluster.core.delete_namespaced_pod(name, cluster.namespace, grace_period_seconds=0)

    def test_a_deployment_makes_a_replica_set_of_its_own(
        self, cluster: ClusterUnderTest, name: str
    ) -> None:
        """Owned by it and named after it: that is how pods are brought back to their Deployment."""
        made = cluster.create(deployment(name))
        path = f"/apis/apps/v1/namespaces/{cluster.namespace}/replicasets"
        found = eventually(
            lambda: cluster.http.get(path, params={"labelSelector": f"app={name}"}).json()["items"],
            "a ReplicaSet",
        )
        metadata = found[0]["metadata"]
        assert metadata["name"] == f"{name}-{metadata['labels']['pod-template-hash']}"
        assert metadata["ownerReferences"][0]["uid"] == made["metadata"]["uid"]

    def test_a_lease_is_taken_over_once(self, cluster: ClusterUnderTest, name: str) -> None:
        """Two candidates replace the same version: one wins, the other gets a conflict."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{cluster.namespace}/leases"
        spec = {
            "holderIdentity": "a",
            "leaseDurationSeconds": 15,
            "renewTime": "2026-01-01T00:00:00.000001Z",
        }
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name},
            "spec": spec,
        }
        lease = cluster.http.post(path, json=body).json()
        assert lease["spec"]["renewTime"] == "2026-01-01T00:00:00.000001Z"
        mine, theirs = (lease | {"spec": spec | {"holderIdentity": who}} for who in "bc")
        assert cluster.http.put(f"{path}/{name}", json=mine).status_code == 200
        refused(cluster.http.put(f"{path}/{name}", json=theirs), 409, "Conflict")

    def test_a_config_map_keeps_its_data(self, cluster: ClusterUnderTest, name: str) -> None:
        """Data files come into the cluster so."""
        data = {"capacity-data.json": '{"count": []}'}
        cluster.core.create_namespaced_config_map(
            cluster.namespace, {"metadata": {"name": name}, "data": data}
        )
        assert cluster.core.read_namespaced_config_map(name, cluster.namespace).data == data
