"""Whether a pod may be put on a node: taints, node selectors and required node affinity, as the
scheduler of Kubernetes reads them; pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Json = Mapping[str, Any]

HOSTNAME = "kubernetes.io/hostname"
KEEPS_OFF = ("NoSchedule", "NoExecute")
ORDERED = ("Gt", "Lt")  # operators that compare whole numbers, of taints since Kubernetes 1.35


def obstacle(
    pod_spec: Json, node: Json, *, ignore_labels: Iterable[str] = (), tolerated: Iterable[str] = ()
) -> str:
    """Return why pods of *pod_spec* cannot be put on *node*, or nothing.

    *ignore_labels*: keys of the node selector that do not count (the loop sets them itself).
    *tolerated*: keys of taints that the API server tolerates by itself for pods that ask for the
    resource of that name (ExtendedResourceToleration).
    """
    labels = node["metadata"].get("labels") or {}
    if pod_spec.get("nodeName") not in (None, "", node["metadata"]["name"]):
        return f"node name {pod_spec['nodeName']}"
    for taint in (node.get("spec") or {}).get("taints") or ():
        if taint.get("effect") not in KEEPS_OFF or taint.get("key") in tolerated:
            continue
        if not any(_tolerates(one, taint) for one in pod_spec.get("tolerations") or ()):
            value = f"={taint['value']}" if taint.get("value") else ""
            return f"taint {taint.get('key')}{value}:{taint['effect']}"
    for key, value in (pod_spec.get("nodeSelector") or {}).items():
        if key not in ignore_labels and labels.get(key) != value:
            return f"node selector {key}={value}"
    required = (
        ((pod_spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
            "requiredDuringSchedulingIgnoredDuringExecution"
        )
        or {}
    ).get("nodeSelectorTerms") or ()
    if required and not any(_meets(term, node, labels) for term in required):
        return "required node affinity"
    return ""


def keeps_apart(template: Json) -> bool:
    """Tell whether no two pods of a *template* can be on one node: by a port of the node, or since
    they must not be with their like.
    """
    spec, labels = template.get("spec") or {}, (template.get("metadata") or {}).get("labels") or {}
    ports = [port for one in spec.get("containers") or () for port in one.get("ports") or ()]
    if (spec.get("hostNetwork") and ports) or any(port.get("hostPort") for port in ports):
        return True
    apart = (spec.get("affinity") or {}).get("podAntiAffinity") or {}
    return any(
        term.get("topologyKey") == HOSTNAME
        and (term.get("labelSelector") == {} or selects(term.get("labelSelector") or {}, labels))
        for term in apart.get("requiredDuringSchedulingIgnoredDuringExecution") or ()
    )


def selects(selector: Json, labels: Mapping[str, str]) -> bool:
    """Tell whether a *selector* selects a pod with *labels*. An empty one selects nothing."""
    equal, rules = selector.get("matchLabels") or {}, selector.get("matchExpressions") or ()
    if not equal and not rules:
        return False
    return all(labels.get(key) == value for key, value in equal.items()) and all(
        holds(rule, labels) for rule in rules
    )


def _tolerates(toleration: Json, taint: Json) -> bool:
    effect = toleration.get("effect") or ""
    if effect and effect != taint.get("effect"):
        return False
    key, operator = toleration.get("key") or "", toleration.get("operator") or "Equal"
    if operator == "Exists":
        return not key or key == taint.get("key")
    if operator in ORDERED:
        rule = {"key": key, "operator": operator, "values": [toleration.get("value") or ""]}
        return holds(rule, {taint.get("key") or "": taint.get("value") or ""})
    same_value = (toleration.get("value") or "") == (taint.get("value") or "")
    return bool(key == taint.get("key") and same_value)


def _meets(term: Json, node: Json, labels: Mapping[str, str]) -> bool:
    fields = {"metadata.name": node["metadata"]["name"]}
    if not term.get("matchExpressions") and not term.get("matchFields"):
        return False  # a term that asks for nothing matches nothing
    return all(holds(rule, labels) for rule in term.get("matchExpressions") or ()) and all(
        holds(rule, fields) for rule in term.get("matchFields") or ()
    )


def holds(rule: Json, labels: Mapping[str, str]) -> bool:
    """Tell whether a match expression holds of *labels*; one with an unknown operator does not."""
    value = labels.get(rule.get("key", ""))
    values: list[str] = list(rule.get("values") or ())
    match rule.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case operator if operator in ORDERED:
            try:
                here, bound = int(value or ""), int(values[0])
            except (ValueError, IndexError):
                return False
            return here > bound if operator == "Gt" else here < bound
    return False
