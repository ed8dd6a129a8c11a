"""The values that a real API server fills in where an object leaves them out. They may change what
they are given.
"""

from __future__ import annotations

from collections.abc import Callable

from twin.kube.apiserver import resources
from twin.kube.apiserver.objects import Json
from twin.kube.apiserver.resources import Resource


def fill_defaults(resource: Resource, obj: Json) -> Json:
    """Fill the defaults of its kind into *obj* and return it."""
    fill = _FILLERS.get(resource)
    if fill is not None:
        fill(obj)
    return obj


def _set(place: Json, **values: object) -> None:
    for key, value in values.items():
        place.setdefault(key, value)


def _fill_deployment(obj: Json) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, replicas=1, revisionHistoryLimit=10, progressDeadlineSeconds=600)
    strategy = spec.setdefault("strategy", {})
    _set(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        _set(strategy.setdefault("rollingUpdate", {}), maxSurge="25%", maxUnavailable="25%")
    _fill_pod_spec(spec.get("template", {}).get("spec"))


def _fill_replica_set(obj: Json) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, replicas=1)
    _fill_pod_spec(spec.get("template", {}).get("spec"))


def _fill_pod(obj: Json) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, serviceAccountName="default", enableServiceLinks=True)
    _fill_pod_spec(spec)


def _fill_pod_spec(spec: Json | None) -> None:
    if spec is None:
        return
    _set(spec, restartPolicy="Always", terminationGracePeriodSeconds=30, dnsPolicy="ClusterFirst")
    _set(spec, securityContext={}, schedulerName="default-scheduler")
    if "serviceAccountName" in spec:
        _set(spec, serviceAccount=spec["serviceAccountName"])
    for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
        _fill_container(container)
    for volume in spec.get("volumes") or ():
        for source in ("configMap", "secret", "projected"):
            if isinstance(volume.get(source), dict):
                _set(volume[source], defaultMode=0o644)


def _fill_container(container: Json) -> None:
    _set(
        container,
        resources={},
        terminationMessagePath="/dev/termination-log",
        terminationMessagePolicy="File",
    )
    tag = str(container.get("image", "")).rpartition("/")[2].rpartition(":")[2]
    latest = ":" not in str(container.get("image", "")).rpartition("/")[2] or tag == "latest"
    _set(container, imagePullPolicy="Always" if latest else "IfNotPresent")
    for port in container.get("ports") or ():
        _set(port, protocol="TCP")
    # Limits without requests are requests too.
    limits = container["resources"].get("limits")
    if limits:
        container["resources"]["requests"] = {
            **limits,
            **(container["resources"].get("requests") or {}),
        }
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if isinstance(container.get(probe), dict):
            _set(
                container[probe],
                timeoutSeconds=1,
                periodSeconds=10,
                successThreshold=1,
                failureThreshold=3,
            )
            if isinstance(container[probe].get("httpGet"), dict):
                _set(container[probe]["httpGet"], scheme="HTTP")


def _fill_service(obj: Json) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, type="ClusterIP", sessionAffinity="None", internalTrafficPolicy="Cluster")
    for port in spec.get("ports") or ():
        _set(port, protocol="TCP")
        _set(port, targetPort=port.get("port"))


def _fill_namespace(obj: Json) -> None:
    _set(obj.setdefault("spec", {}), finalizers=["kubernetes"])
    obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"].get(
        "name", ""
    )


def _fill_secret(obj: Json) -> None:
    _set(obj, type="Opaque")


_FILLERS: dict[Resource, Callable[[Json], None]] = {
    resources.DEPLOYMENTS: _fill_deployment,
    resources.REPLICA_SETS: _fill_replica_set,
    resources.PODS: _fill_pod,
    resources.SERVICES: _fill_service,
    resources.NAMESPACES: _fill_namespace,
    resources.SECRETS: _fill_secret,
}
