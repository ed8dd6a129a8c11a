"""The contract of a Kubernetes API, second part: patches of every type, scales, versions and
generations.
"""

from __future__ import annotations

import json
from uuid import uuid4

from tests.live.kube_cluster import ClusterUnderTest, deployment, refused, settle


class Changing:
    """Questions about patches, scales and versions."""

    # -- patches

    def test_a_strategic_merge_knows_containers_by_name(
        self, cluster: ClusterUnderTest, name: str
    ) -> None:
        """A patch of one container leaves the others, and the rest of itself, alone."""
        body = deployment(name)
        body["spec"]["template"]["spec"]["containers"].append(
            {"name": "side", "image": "registry.k8s.io/pause:3.9"}
        )
        cluster.create(body)
        containers = [{"name": "main", "args": ["--max-num-seqs=8"]}]
        answer = cluster.patch(
            name, {"spec": {"template": {"spec": {"containers": containers}}}}, kind="strategic"
        )
        found = answer.json()["spec"]["template"]["spec"]["containers"]
        assert [(each["name"], each.get("args")) for each in found] == [
            ("main", ["--max-num-seqs=8"]),
            ("side", None),
        ]
        assert found[0]["image"] == "registry.k8s.io/pause:3.10"

    def test_the_client_sends_strategic_merges_and_none_deletes(
        self, cluster: ClusterUnderTest, name: str
    ) -> None:
        """A dict as body of the official client."""
        cluster.create(deployment(name, labels={"a": "1", "b": "2"}))
        body = {"metadata": {"labels": {"a": None, "c": "3"}}}
        found = cluster.apps.patch_namespaced_deployment(name, cluster.namespace, body)
        assert found.metadata.labels == {"contract": name, "b": "2", "c": "3"}

    def test_a_merge_patch_deletes_by_null_and_replaces_lists(
        self, cluster: ClusterUnderTest, name: str
    ) -> None:
        """RFC 7386."""
        body = deployment(name, labels={"a": "1"})
        body["spec"]["template"]["spec"]["containers"].append(
            {"name": "side", "image": "registry.k8s.io/pause:3.9"}
        )
        cluster.create(body)
        containers = [{"name": "only", "image": "registry.k8s.io/pause:3.9"}]
        patch = {
            "metadata": {"labels": {"a": None}},
            "spec": {"template": {"spec": {"containers": containers}}},
        }
        found = cluster.patch(name, patch).json()
        assert "a" not in found["metadata"]["labels"]
        assert [each["name"] for each in found["spec"]["template"]["spec"]["containers"]] == [
            "only"
        ]

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
        assert answer.json()["metadata"]["labels"] == {
            "contract": name,
            "example.com/x": "2",
            "new": "3",
        }

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

    def test_server_side_apply_creates_and_changes(
        self, cluster: ClusterUnderTest, name: str
    ) -> None:
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
        managers = {
            (each["manager"], each["operation"]) for each in found["metadata"]["managedFields"]
        }
        assert {("contract", "Apply"), ("somebody", "Update")} <= managers

    def test_who_applies_what_is_there_already_owns_it_too(
        self, cluster: ClusterUnderTest, name: str
    ) -> None:
        """Nothing of the object changes but its owners; the same once more changes nothing."""
        cluster.create(deployment(name))
        settle(cluster, name)
        versions = []
        for _ in range(2):
            answer = cluster.patch(name, deployment(name), kind="apply", fieldManager="second")
            assert answer.status_code == 200, answer.text
            found = answer.json()["metadata"]
            versions.append(found["resourceVersion"])
            assert ("second", "Apply") in {
                (each["manager"], each["operation"]) for each in found["managedFields"]
            }
        assert versions[0] == versions[1]

    def test_server_side_apply_gives_up_what_it_no_longer_names(
        self, cluster: ClusterUnderTest, name: str
    ) -> None:
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
        status = refused(
            cluster.patch(name, body, kind="apply", fieldManager="two"), 409, "Conflict"
        )
        assert [each["field"] for each in status["details"]["causes"]] == [".spec.minReadySeconds"]
        forced = cluster.patch(name, body, kind="apply", fieldManager="two", force="true")
        assert forced.json()["spec"]["minReadySeconds"] == 2

    def test_server_side_apply_needs_a_manager(self, cluster: ClusterUnderTest, name: str) -> None:
        """Nobody can own fields without a name."""
        refused(cluster.patch(name, deployment(name), kind="apply"), 422, "Invalid")

    def test_a_wrong_content_type_is_415(self, cluster: ClusterUnderTest, name: str) -> None:
        """application/json says nothing about how to merge."""
        cluster.create(deployment(name))
        headers = {"Content-Type": "application/json"}
        answer = cluster.http.patch(f"{cluster.deployments}/{name}", content="{}", headers=headers)
        refused(answer, 415, "UnsupportedMediaType")

    def test_a_patch_of_nothing_is_404(self, cluster: ClusterUnderTest, name: str) -> None:
        """A patch creates nothing."""
        refused(cluster.patch(name, {"spec": {"replicas": 1}}), 404, "NotFound")

    # -- scale

    def test_scale_is_read_and_patched(self, cluster: ClusterUnderTest, name: str) -> None:
        """It is a door to spec.replicas with a lock of its own."""
        cluster.create(deployment(name, replicas=1))
        scale = cluster.http.get(f"{cluster.deployments}/{name}/scale").json()
        assert (scale["kind"], scale["apiVersion"], scale["spec"]) == (
            "Scale",
            "autoscaling/v1",
            {"replicas": 1},
        )
        assert scale["status"]["selector"] == f"app={name}"
        answer = cluster.patch(name, {"spec": {"replicas": 2}}, part="/scale")
        assert (answer.status_code, answer.json()["spec"]) == (200, {"replicas": 2})
        assert cluster.read(name)["spec"]["replicas"] == 2

    def test_scale_to_zero_leaves_the_figure_out(
        self, cluster: ClusterUnderTest, name: str
    ) -> None:
        """The official client then has None, not 0."""
        cluster.create(deployment(name, replicas=1))
        body = {"spec": {"replicas": 0}}
        scale = cluster.apps.patch_namespaced_deployment_scale(name, cluster.namespace, body)
        assert scale.spec.replicas is None
        assert cluster.read(name)["spec"]["replicas"] == 0

    def test_who_scaled_is_known_but_not_when(self, cluster: ClusterUnderTest, name: str) -> None:
        """The managed fields of the scale subresource carry no time, all others do."""
        cluster.create(deployment(name, replicas=1))
        cluster.patch(name, {"spec": {"replicas": 2}}, part="/scale", fieldManager="scaler")
        cluster.patch(name, {"metadata": {"labels": {"a": "b"}}}, fieldManager="labeller")
        found = {
            each["manager"]: (each.get("subresource"), "time" in each)
            for each in cluster.read(name)["metadata"]["managedFields"]
        }
        assert found["scaler"] == ("scale", False)
        assert found["labeller"] == (None, True)

    def test_a_stateful_set_is_scaled_like_a_deployment(
        self, cluster: ClusterUnderTest, name: str
    ) -> None:
        """Autoscalers know nothing of it but its scale."""
        body = {**deployment(name), "kind": "StatefulSet"}
        path = f"/apis/apps/v1/namespaces/{cluster.namespace}/statefulsets"
        made = cluster.http.post(path, json=body)
        assert made.status_code == 201, made.text
        spec = made.json()["spec"]
        assert (spec["podManagementPolicy"], spec["updateStrategy"]["type"]) == (
            "OrderedReady",
            "RollingUpdate",
        )
        headers = {"Content-Type": "application/merge-patch+json"}
        patch = json.dumps({"spec": {"replicas": 2}})
        scale = cluster.http.patch(f"{path}/{name}/scale", content=patch, headers=headers).json()
        assert (scale["kind"], scale["spec"]) == ("Scale", {"replicas": 2})
        assert scale["status"]["selector"] == f"app={name}"
        assert cluster.http.get(f"{path}/{name}").json()["spec"]["replicas"] == 2
        patch = json.dumps({"spec": {"podManagementPolicy": "Parallel"}})
        fixed = cluster.http.patch(f"{path}/{name}", content=patch, headers=headers)
        refused(fixed, 422, "Invalid")
        assert cluster.http.delete(f"{path}/{name}").status_code == 200

    def test_an_autoscaler_is_kept_and_checked(self, cluster: ClusterUnderTest, name: str) -> None:
        """A loop looks for one that targets its Deployments."""
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
        spec = {"scaleTargetRef": target, "maxReplicas": 3}
        metadata = {"name": name, "labels": {"contract": name}}
        path = f"/apis/autoscaling/v2/namespaces/{cluster.namespace}/horizontalpodautoscalers"
        made = cluster.http.post(path, json={"metadata": metadata, "spec": spec})
        assert made.status_code == 201, made.text
        assert made.json()["spec"]["minReplicas"] == 1
        listed = cluster.http.get(path, params={"labelSelector": f"contract={name}"}).json()
        assert [each["spec"]["scaleTargetRef"] for each in listed["items"]] == [target]
        headers = {"Content-Type": "application/strategic-merge-patch+json"}
        for patch, code in (({"maxReplicas": 5}, 200), ({"maxReplicas": 0}, 422)):
            content = json.dumps({"spec": patch})
            answer = cluster.http.patch(f"{path}/{name}", content=content, headers=headers)
            assert answer.status_code == code, answer.text
        assert cluster.http.get(f"{path}/{name}").json()["spec"]["maxReplicas"] == 5
        assert cluster.http.delete(f"{path}/{name}").status_code == 200

    def test_scale_is_replaced(self, cluster: ClusterUnderTest, name: str) -> None:
        """PUT, as autoscalers do, with the version that was read."""
        cluster.create(deployment(name))
        settle(cluster, name)
        path = f"{cluster.deployments}/{name}/scale"
        scale = cluster.http.get(path).json()
        scale["spec"]["replicas"] = 1
        assert cluster.http.put(path, json=scale).json()["spec"]["replicas"] == 1
        stale = scale | {"metadata": scale["metadata"] | {"resourceVersion": "1"}}
        refused(cluster.http.put(path, json=stale), 409, "Conflict")

    # -- versions

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
        assert (found["metadata"]["labels"], found["spec"]["minReadySeconds"]) == (
            {"contract": name},
            4,
        )

    def test_another_uid_is_refused(self, cluster: ClusterUnderTest, name: str) -> None:
        """An object that was deleted and made again is not the one that was meant.

        To a PUT the uid is a precondition, to a patch a field that may not change.
        """
        cluster.create(deployment(name))
        body = deployment(name, minReadySeconds=9)
        body["metadata"]["uid"] = str(uuid4())
        path = f"{cluster.deployments}/{name}"
        refused(cluster.http.put(path, json=body), 409, "Conflict")
        patch = {"metadata": {"uid": str(uuid4())}, "spec": {"minReadySeconds": 9}}
        for kind in ("merge", "strategic"):
            refused(cluster.patch(name, patch, kind=kind), 422, "Invalid")
        patch["metadata"]["resourceVersion"] = "1"
        refused(cluster.patch(name, patch), 409, "Conflict")
        assert cluster.read(name)["spec"].get("minReadySeconds") is None

    def test_the_version_moves_on_a_change_and_not_on_a_no_op(
        self, cluster: ClusterUnderTest, name: str
    ) -> None:
        """Otherwise every cycle would wake every watcher."""
        cluster.create(deployment(name))
        cluster.patch(name, {"spec": {"minReadySeconds": 1}})
        settle(cluster, name)
        first = cluster.read(name)["metadata"]["resourceVersion"]
        cluster.patch(name, {"spec": {"minReadySeconds": 1}})
        assert cluster.read(name)["metadata"]["resourceVersion"] == first
        cluster.patch(name, {"metadata": {"labels": {"x": "1"}}})
        assert int(cluster.read(name)["metadata"]["resourceVersion"]) > int(first)

    def test_the_generation_moves_on_the_spec_only(
        self, cluster: ClusterUnderTest, name: str
    ) -> None:
        """A status belongs to the present spec if observedGeneration equals the generation."""
        cluster.create(deployment(name))
        labelled = cluster.patch(name, {"metadata": {"labels": {"x": "1"}}}).json()
        assert labelled["metadata"]["generation"] == 1
        changed = cluster.patch(name, {"spec": {"minReadySeconds": 1}}).json()
        assert changed["metadata"]["generation"] == 2

    def test_the_status_catches_up_with_the_generation(
        self, cluster: ClusterUnderTest, name: str
    ) -> None:
        """After a patch the status is stale for a moment; then observedGeneration says that it is
        not.
        """
        cluster.create(deployment(name))
        cluster.patch(name, {"spec": {"minReadySeconds": 1}})
        assert settle(cluster, name)["status"]["observedGeneration"] == 2
