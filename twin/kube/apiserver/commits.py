"""How an object gets into the store: identity, times, generation, and no new version where nothing
changed.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from twin.kube.apiserver.dates import Dates
from twin.kube.apiserver.objects import Json
from twin.kube.apiserver.resources import DEPLOYMENTS, NAMESPACES, PODS, Resource
from twin.kube.apiserver.store import Store

_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # no vowels, so that no word comes out
_SYSTEM = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "uid",
)


def suffix(text: str, *, length: int = 5) -> str:
    """Return letters and digits that follow from *text*, as generated names end."""
    number = int.from_bytes(sha256(text.encode()).digest()[:16], "big")
    letters = ""
    for _ in range(length):
        number, rest = divmod(number, len(_LETTERS))
        letters += _LETTERS[rest]
    return letters


class Commits:
    """Writes to *store*. Identities follow from *seed* and their order.

    With dry=True nothing is stored, and the object is returned as it would have been.
    """

    def __init__(self, store: Store, *, dates: Dates, seed: str = "") -> None:
        self.store = store
        self.dates = dates
        self._seed = seed
        self._made = 0

    def now(self) -> str:
        """Return the date."""
        return self.dates.text()

    def create(self, resource: Resource, obj: Json, *, dry: bool = False) -> Json:
        """Store a new object, whose name is free."""
        self._made += 1
        identity = f"{self._seed}/{self._made}"
        metadata: Json = {
            key: value
            for key, value in obj["metadata"].items()
            if key not in (*_SYSTEM, "selfLink")
        }
        metadata["uid"] = str(uuid5(NAMESPACE_OID, identity))
        metadata["creationTimestamp"] = self.now()
        if resource.generations:
            metadata["generation"] = 1
        return self._put(resource, {**obj, "metadata": metadata}, dry=dry)

    def free_name(self, prefix: str) -> str:
        """Return a generated name that begins with *prefix*."""
        return prefix + suffix(f"{self._seed}/{prefix}/{self._made + 1}")

    def change(self, resource: Resource, old: Json, new: Json, *, dry: bool = False) -> Json:
        """Store *new* in the place of *old*, or return *old* where nothing but its list of owners
        would change.
        """
        before = old["metadata"]
        metadata: Json = {
            key: value
            for key, value in new["metadata"].items()
            if key not in (*_SYSTEM, "selfLink")
        }
        metadata |= {key: before[key] for key in (*_SYSTEM, "resourceVersion") if key in before}
        new = {**new, "metadata": metadata}
        if _bare(new) == _bare(old):
            return old
        if resource.generations and _meant_anew(resource, old, new):
            metadata["generation"] = before.get("generation", 0) + 1
        if (
            "deletionTimestamp" in metadata
            and not metadata.get("finalizers")
            and resource not in (PODS, NAMESPACES)
        ):
            return new if dry else self.store.remove(resource, self._put(resource, new, dry=False))
        return self._put(resource, new, dry=dry)

    def status(
        self, resource: Resource, old: Json, status: Json, *, annotations: Json | None = None
    ) -> Json:
        """Store *old* with *status*, and with *annotations* of the controller's own, which are no
        wish of anybody.
        """
        metadata = old["metadata"]
        if annotations:
            metadata = {
                **metadata,
                "annotations": {**(metadata.get("annotations") or {}), **annotations},
            }
        new = {**old, "metadata": metadata, "status": status}
        return old if _bare(new) == _bare(old) else self._put(resource, new, dry=False)

    def mark_deleted(
        self, resource: Resource, obj: Json, *, grace_s: int | None = None, dry: bool = False
    ) -> Json:
        """Let *obj* be about to go: whoever has something to finish with it removes it then."""
        if "deletionTimestamp" in obj["metadata"]:
            return obj
        # The date says when patience ends, not when it was asked for.
        metadata = {**obj["metadata"], "deletionTimestamp": self.dates.text(after_s=grace_s or 0)}
        if grace_s is not None:
            metadata["deletionGracePeriodSeconds"] = grace_s
        if resource.generations:
            metadata["generation"] = metadata.get("generation", 0) + 1
        return self._put(resource, {**obj, "metadata": metadata}, dry=dry)

    def remove(self, resource: Resource, obj: Json) -> Json:
        """Take *obj* out of the store."""
        return self.store.remove(resource, obj)

    def _put(self, resource: Resource, obj: Json, *, dry: bool) -> Json:
        return obj if dry else self.store.put(resource, obj)


def _bare(obj: Json) -> Json:
    return {
        **obj,
        "metadata": {
            key: value for key, value in obj["metadata"].items() if key != "managedFields"
        },
    }


def _meant_anew(resource: Resource, old: Json, new: Json) -> bool:
    """Tell whether what is wished changed. A real API server counts the annotations of a Deployment
    as a wish too.
    """

    def wish(obj: Json) -> Any:
        spec = obj.get("spec")
        return (spec, obj["metadata"].get("annotations") or {}) if resource is DEPLOYMENTS else spec

    return bool(wish(old) != wish(new))
