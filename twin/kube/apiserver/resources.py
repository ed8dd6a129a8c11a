"""The table of what the API serves: groups, kinds, names, verbs, and what sets one kind apart from
another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, kw_only=True, eq=False)
class Resource:
    """One resource of one API version.

    generations: whether a change of spec counts in metadata.generation. fields: what a
    fieldSelector may name besides metadata.name and metadata.namespace. schemaless kinds (custom
    ones) keep whatever they are given.
    """

    plural: str
    kind: str
    group: str = ""
    version: str = "v1"
    singular: str = ""
    short: tuple[str, ...] = ()
    namespaced: bool = True
    verbs: tuple[str, ...] = ALL_VERBS
    subresources: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    generations: bool = False
    schemaless: bool = False

    @cached_property
    def api_version(self) -> str:
        """Return what an object of this resource has as apiVersion."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @cached_property
    def qualified(self) -> str:
        """Return the plural as messages name it: deployments.apps."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


_RBAC = "rbac.authorization.k8s.io"
_POD_FIELDS = (
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "status.phase",
    "status.podIP",
)
_INVOLVED = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion")
_EVENT_FIELDS = (*(f"involvedObject.{part}" for part in _INVOLVED), "reason", "type", "source")

NAMESPACES = Resource(
    plural="namespaces",
    kind="Namespace",
    short=("ns",),
    namespaced=False,
    subresources=("status",),
    fields=("status.phase",),
)
NODES = Resource(
    plural="nodes", kind="Node", short=("no",), namespaced=False, subresources=("status",)
)
PODS = Resource(
    plural="pods",
    kind="Pod",
    short=("po",),
    subresources=("status", "log", "proxy", "eviction"),
    categories=("all",),
    fields=_POD_FIELDS,
)
CONFIG_MAPS = Resource(plural="configmaps", kind="ConfigMap", short=("cm",))
SECRETS = Resource(plural="secrets", kind="Secret", fields=("type",))
SERVICES = Resource(
    plural="services", kind="Service", short=("svc",), subresources=("status",), categories=("all",)
)
SERVICE_ACCOUNTS = Resource(
    plural="serviceaccounts", kind="ServiceAccount", short=("sa",), subresources=("token",)
)
EVENTS = Resource(plural="events", kind="Event", short=("ev",), fields=_EVENT_FIELDS)
DEPLOYMENTS = Resource(
    plural="deployments",
    kind="Deployment",
    group="apps",
    short=("deploy",),
    subresources=("scale", "status"),
    categories=("all",),
    generations=True,
)
REPLICA_SETS = Resource(
    plural="replicasets",
    kind="ReplicaSet",
    group="apps",
    short=("rs",),
    subresources=("scale", "status"),
    categories=("all",),
    generations=True,
)
STATEFUL_SETS = Resource(
    plural="statefulsets",
    kind="StatefulSet",
    group="apps",
    short=("sts",),
    subresources=("scale", "status"),
    categories=("all",),
    generations=True,
)
AUTOSCALERS = Resource(
    plural="horizontalpodautoscalers",
    kind="HorizontalPodAutoscaler",
    group="autoscaling",
    version="v2",
    short=("hpa",),
    subresources=("status",),
    categories=("all",),
)
# The same objects in their older version: `autoscalers.py` translates.
AUTOSCALERS_V1 = Resource(
    plural="horizontalpodautoscalers",
    kind="HorizontalPodAutoscaler",
    group="autoscaling",
    verbs=("create", "delete", "get", "list", "update"),
)
LEASES = Resource(plural="leases", kind="Lease", group="coordination.k8s.io")
NETWORK_POLICIES = Resource(
    plural="networkpolicies",
    kind="NetworkPolicy",
    group="networking.k8s.io",
    short=("netpol",),
    generations=True,
    singular="networkpolicy",
)
DISRUPTION_BUDGETS = Resource(
    plural="poddisruptionbudgets",
    kind="PodDisruptionBudget",
    group="policy",
    short=("pdb",),
    generations=True,
    subresources=("status",),
)
ROLES = Resource(plural="roles", kind="Role", group=_RBAC)
ROLE_BINDINGS = Resource(plural="rolebindings", kind="RoleBinding", group=_RBAC)
CLUSTER_ROLES = Resource(plural="clusterroles", kind="ClusterRole", group=_RBAC, namespaced=False)
CLUSTER_ROLE_BINDINGS = Resource(
    plural="clusterrolebindings", kind="ClusterRoleBinding", group=_RBAC, namespaced=False
)
POD_MONITORS = Resource(
    plural="podmonitors",
    kind="PodMonitor",
    group="monitoring.coreos.com",
    short=("pmon",),
    generations=True,
    schemaless=True,
)
PROMETHEUS_RULES = Resource(
    plural="prometheusrules",
    kind="PrometheusRule",
    group="monitoring.coreos.com",
    short=("promrule",),
    generations=True,
    schemaless=True,
)
SCALED_OBJECTS = Resource(
    plural="scaledobjects",
    kind="ScaledObject",
    group="keda.sh",
    version="v1alpha1",
    short=("so",),
    generations=True,
    schemaless=True,
)
ACCESS_REVIEWS = Resource(
    plural="selfsubjectaccessreviews",
    kind="SelfSubjectAccessReview",
    group="authorization.k8s.io",
    namespaced=False,
    verbs=("create",),
)

RESOURCES = (
    NAMESPACES,
    NODES,
    PODS,
    CONFIG_MAPS,
    SECRETS,
    SERVICES,
    SERVICE_ACCOUNTS,
    EVENTS,
    DEPLOYMENTS,
    REPLICA_SETS,
    STATEFUL_SETS,
    AUTOSCALERS,
    AUTOSCALERS_V1,
    LEASES,
    NETWORK_POLICIES,
    DISRUPTION_BUDGETS,
    ROLES,
    ROLE_BINDINGS,
    CLUSTER_ROLES,
    CLUSTER_ROLE_BINDINGS,
    POD_MONITORS,
    PROMETHEUS_RULES,
    SCALED_OBJECTS,
    ACCESS_REVIEWS,
)


def find(group: str, version: str, plural: str) -> Resource | None:
    """Return the resource of that name, None where there is none."""
    return _BY_PATH.get((group, version, plural))


def of_kind(api_version: str, kind: str) -> Resource | None:
    """Return the resource whose objects have this apiVersion and kind, None where there is none."""
    return _BY_KIND.get((api_version, kind))


def group_versions(
    resources: Iterable[Resource] = RESOURCES,
) -> dict[tuple[str, str], list[Resource]]:
    """Return the resources by (group, version), the core group first."""
    found: dict[tuple[str, str], list[Resource]] = {}
    for resource in resources:
        found.setdefault((resource.group, resource.version), []).append(resource)
    return found


_BY_PATH = {(resource.group, resource.version, resource.plural): resource for resource in RESOURCES}
_BY_KIND = {(resource.api_version, resource.kind): resource for resource in RESOURCES}
