"""The contract of a Kubernetes API, first part: what is created is read and listed as it should
be.
"""

from __future__ import annotations

import pytest
from kubernetes.client.exceptions import ApiException

from tests.live.kube_cluster import ClusterUnderTest, deployment, names, refused


class Reading:
    """Questions about creating, reading and listing."""

    # -- create and get

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
        """A client that reads spec.replicas of an object without one finds 1."""
        spec = cluster.create(deployment(name, replicas=None))["spec"]
        cluster.http.delete(f"{cluster.deployments}/{name}")
        assert (
            spec["replicas"],
            spec["revisionHistoryLimit"],
            spec["progressDeadlineSeconds"],
        ) == (1, 10, 600)
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
            refused(cluster.http.post(path, json=deployment(name)), 404, "NotFound")["details"][
                "kind"
            ]
            == "namespaces"
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
        refused(
            cluster.http.post(cluster.deployments, content="{", headers=headers), 400, "BadRequest"
        )

    def test_an_unknown_path_is_404(self, cluster: ClusterUnderTest) -> None:
        """An older server does not know every resource."""
        assert cluster.http.get("/apis/apps/v1/spaceships").status_code == 404
        assert cluster.http.get("/apis/nobody.example/v1/things").status_code == 404

    # -- list

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
    def test_label_selectors(
        self, cluster: ClusterUnderTest, name: str, selector: str, chosen: str
    ) -> None:
        """A loop lists its servers by label; without the selector it would manage everything."""
        for letter in "abc":
            labels = {"group": name} | ({"tier": letter} if letter != "c" else {})
            cluster.create(deployment(f"{name}-{letter}", labels=labels))
        found = cluster.list(labelSelector=f"group={name},{selector}")
        assert [found.removeprefix(f"{name}-") for found in names(found)] == list(chosen)

    @pytest.mark.parametrize(
        "selector", ["a b", "=x", "a in x", "a in (x", "a,,b", "-a=b", "a=b c", "a=_"]
    )
    def test_a_bad_label_selector_is_400(self, cluster: ClusterUnderTest, selector: str) -> None:
        """A selector that cannot be read must not select everything."""
        refused(cluster.list(labelSelector=selector), 400, "BadRequest")

    def test_all_namespaces(self, cluster: ClusterUnderTest, name: str) -> None:
        """Without a namespace in the path the list is of all."""
        cluster.create(deployment(name))
        found = cluster.http.get(
            "/apis/apps/v1/deployments", params={"labelSelector": f"contract={name}"}
        )
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
        assert [item["metadata"]["name"] for item in items] == [
            f"{name}-{number}" for number in range(5)
        ]
        assert not third["metadata"].get("continue")
        assert first["metadata"]["resourceVersion"] == third["metadata"]["resourceVersion"]

    def test_a_bad_continue_token_is_400(self, cluster: ClusterUnderTest) -> None:
        """It must not begin again from the start."""
        refused(cluster.list(limit="1", **{"continue": "nonsense"}), 400, "BadRequest")
