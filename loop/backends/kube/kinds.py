"""The kinds of objects that the loop lists, and by which methods the official client does. Names
only: the client itself is known to client.py alone.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """How the official client lists objects of a kind: the methods of its class *group* for
    *of_one* namespace and *of_all*, and what they take *before* and *behind* the namespace.
    """

    group: str
    of_one: str
    of_all: str
    before: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()


def _custom(group: str, version: str, plural: str) -> Kind:
    """Return how objects are listed that the official client does not know."""
    return Kind(
        "CustomObjectsApi",
        "list_namespaced_custom_object",
        "list_cluster_custom_object",
        before=(group, version),
        behind=(plural,),
    )


KINDS = {
    "deployments": Kind(
        "AppsV1Api", "list_namespaced_deployment", "list_deployment_for_all_namespaces"
    ),
    "replicasets": Kind(
        "AppsV1Api", "list_namespaced_replica_set", "list_replica_set_for_all_namespaces"
    ),
    "pods": Kind("CoreV1Api", "list_namespaced_pod", "list_pod_for_all_namespaces"),
    "nodes": Kind("CoreV1Api", "", "list_node"),
    "horizontalpodautoscalers": Kind(
        "AutoscalingV2Api",
        "list_namespaced_horizontal_pod_autoscaler",
        "list_horizontal_pod_autoscaler_for_all_namespaces",
    ),
    "poddisruptionbudgets": Kind(
        "PolicyV1Api",
        "list_namespaced_pod_disruption_budget",
        "list_pod_disruption_budget_for_all_namespaces",
    ),
    "scaledobjects": _custom("keda.sh", "v1alpha1", "scaledobjects"),
    "statefulsets": Kind(
        "AppsV1Api", "list_namespaced_stateful_set", "list_stateful_set_for_all_namespaces"
    ),
    "leaderworkersets": _custom("leaderworkerset.x-k8s.io", "v1", "leaderworkersets"),
    "rollouts": _custom("argoproj.io", "v1alpha1", "rollouts"),
}
# What also makes pods of engines, and is no Deployment.
OTHER_KINDS = {
    "statefulsets": "StatefulSet",
    "leaderworkersets": "LeaderWorkerSet",
    "rollouts": "Rollout",
}
