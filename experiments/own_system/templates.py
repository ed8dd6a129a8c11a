"""Which pod templates of a Deployment ran the same engine, by its ReplicaSets: after a restart, or
another batch size, the latencies of before are those of now. Or the same model on the same GPUs: by
another version of the engine latencies drift. Pure.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from experiments.own_system.cluster import loaded_model
from loop.backends.kube import labels as names
from loop.backends.kube.arguments import batch_of, changed, with_changes
from loop.backends.kube.gpus import gpu_limits, side_by_side
from loop.signals.pods import stem_of

Json = Mapping[str, Any]

# What of a pod template says where and as what its engine runs. Probes and times of grace are
# nothing that an engine sees, nor are sidecars that share no files with it.
_OF_POD = ("nodeSelector", "affinity", "runtimeClassName", "resourceClaims", "volumes")
_OF_ENGINE = ("name", "image", "command", "args", "env", "envFrom", "resources", "volumeMounts")
_OF_ANY_VERSION = ("name", "resources", "volumeMounts")
_OF_HELPER = tuple(key for key in _OF_ENGINE if key != "resources")
# What is read from elsewhere, and which variables of it are no settings.
_ELSEWHERE = ("configMap", "secret")
_CREDENTIAL = re.compile("TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_OF_NOBODY = frozenset(
    {"kubectl.kubernetes.io/restartedAt", "pod-template-hash", names.MAX_BATCH, names.STATUS}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """What the names of pods begin with, and what those of the newest template of the same engine
    do, by namespace; and by the latter the largest batch size that any of them had.
    """

    stems: Mapping[str, Mapping[str, str]]
    batches: Mapping[tuple[str, str], int]


def alike(replica_sets: Iterable[Json], *, of: Callable[[Json], str]) -> Alike:
    """Return which of *replica_sets* made pods that are the same *of* what counts: `engine`, or
    `model_and_gpus`.
    """
    found: dict[tuple[str, str, str], list[Json]] = defaultdict(list)
    for one in replica_sets:
        meta = one["metadata"]
        controllers = [ref for ref in meta.get("ownerReferences") or () if ref.get("controller")]
        for owner in controllers[:1]:
            found[str(meta.get("namespace") or ""), str(owner.get("name")), of(one)].append(one)
    stems: dict[str, dict[str, str]] = defaultdict(dict)
    batches: dict[tuple[str, str], int] = {}
    for (namespace, _, _), sets in found.items():
        # Kubernetes makes one ReplicaSet of a template: what tells two apart is elsewhere then.
        wholes = {_text(_without_marks(one, but=("pod-template-hash",))) for one in sets}
        if len(wholes) < len(sets):
            continue
        newest = stem_of(max(sets, key=_begun)["metadata"]["name"])
        for one in sets:
            stems[namespace][stem_of(one["metadata"]["name"])] = newest
        told = [batch_of(_engines(one)) for one in sets]
        batches[namespace, newest] = max((batch for _, batch in filter(None, told)), default=0)
    return Alike(stems=stems, batches=batches)


def _begun(replica_set: Json) -> tuple[int, str]:
    meta = replica_set["metadata"]
    revision = (meta.get("annotations") or {}).get("deployment.kubernetes.io/revision", "")
    number = int(revision) if str(revision).isdecimal() else 0
    return number, str(meta.get("creationTimestamp") or "")


def model_and_gpus(replica_set: Json) -> str:
    """Return which model pods of the template of *replica_set* load, however clients call it, and
    what says on which GPUs; all of the engine if no command line says the model.
    """
    engines = _engines(replica_set)
    model = loaded_model(engines)
    if not model:
        return engine(replica_set)
    return _described(
        replica_set,
        engines=[{key: one[key] for key in _OF_ANY_VERSION if key in one} for one in engines],
        model=model,
    )


def engine(replica_set: Json) -> str:
    """Return what an engine of the template of *replica_set* is, but for its batch size."""
    engines = _engines(replica_set)
    if told := batch_of(engines):
        try:
            patch = changed(engines, told[0], 1, container="")
        except ValueError:  # a variable that others set, say
            patch = {}
        engines = [
            with_changes(one, patch) if patch and one.get("name") == patch.get("name") else one
            for one in engines
        ]
    return _described(
        replica_set,
        engines=[{key: one[key] for key in _OF_ENGINE if key in one} for one in engines],
    )


def _described(replica_set: Json, *, engines: list[Json], model: str = "") -> str:
    spec = _spec(replica_set)
    helpers = _helpers(spec, _engines(replica_set))
    text = _text(
        {
            "metadata": _without_marks(replica_set, but=_OF_NOBODY)["metadata"],
            "pod": {key: spec[key] for key in _OF_POD if key in spec},
            "engines": engines,
            "helpers": [{key: one[key] for key in _OF_HELPER if key in one} for one in helpers],
            "model": model,
        }
    )
    # With a restart such an engine may have read other settings.
    if _reads_elsewhere(spec):
        text += str(replica_set["metadata"]["name"])
    return text


def _engines(replica_set: Json) -> list[Json]:
    """Return the containers that ask for GPUs, all if none does."""
    containers = side_by_side(_spec(replica_set))
    return [one for one in containers if gpu_limits([one])] or containers


def _helpers(spec: Json, engines: list[Json]) -> list[Json]:
    """Return the containers that may fetch what *engines* run: all that come before them, and those
    beside them that have a volume in common with them, or see their processes.
    """
    beside = side_by_side(spec)
    before = [one for one in spec.get("initContainers") or () if one not in beside]
    volumes = {name for one in engines for name in _volumes(one)}
    seen = spec.get("shareProcessNamespace")
    return before + [
        one for one in beside if one not in engines and (seen or volumes & _volumes(one))
    ]


def _volumes(container: Json) -> set[str]:
    return {str(one.get("name")) for one in container.get("volumeMounts") or ()}


def _reads_elsewhere(value: object) -> bool:
    """Tell whether a part of a template takes settings from a ConfigMap or a Secret."""
    if isinstance(value, list):
        return any(map(_reads_elsewhere, value))
    if not isinstance(value, Mapping):
        return False
    if "valueFrom" in value and _CREDENTIAL.search(str(value.get("name"))):
        return False
    return any(key.startswith(_ELSEWHERE) or _reads_elsewhere(of) for key, of in value.items())


def _without_marks(replica_set: Json, *, but: Iterable[str]) -> dict[str, Any]:
    """Return the template of *replica_set* without those labels and annotations."""
    template = _template(replica_set)
    meta = template.get("metadata") or {}
    kept = {
        kind: {key: value for key, value in (meta.get(kind) or {}).items() if key not in but}
        for kind in ("labels", "annotations")
    }
    return {"metadata": kept, "spec": _spec(replica_set)}


def _template(replica_set: Json) -> Json:
    template: Json = (replica_set.get("spec") or {}).get("template") or {}
    return template


def _spec(replica_set: Json) -> Json:
    spec: Json = _template(replica_set).get("spec") or {}
    return spec


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)
