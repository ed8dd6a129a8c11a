"""The verbs of the API over a store: get, list, create, update, patch, delete, and the subresources
of objects.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from twin.kube.apiserver import errors
from twin.kube.apiserver.admission import lawful, typed
from twin.kube.apiserver.autoscalers import to_v1, to_v2
from twin.kube.apiserver.labels import matcher
from twin.kube.apiserver.listwatch import list_objects
from twin.kube.apiserver.managedfields import Writer, applied, first_owned, owned
from twin.kube.apiserver.objects import Json, at_path, name_of
from twin.kube.apiserver.patches import json_patch, merge_patch, strategic_merge
from twin.kube.apiserver.request import Target, WriteOptions, parsed_json, parsed_yaml
from twin.kube.apiserver.resources import (
    AUTOSCALERS,
    AUTOSCALERS_V1,
    EVENTS,
    NAMESPACES,
    PODS,
    Resource,
)
from twin.kube.apiserver.schema import resource_schema
from twin.kube.apiserver.storage import Commits

SCALE = Resource(plural="scales", kind="Scale", group="autoscaling")


PROPAGATIONS = ("Foreground", "Background", "Orphan")


def to_scale(obj: Json) -> Json:
    """Return the Scale of *obj*; spec.replicas is absent at zero, as in the real one."""
    metadata = obj["metadata"]
    replicas = at_path(obj, "spec.replicas") or 0
    labels = at_path(obj, "spec.selector.matchLabels") or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": SCALE.kind,
        "apiVersion": SCALE.api_version,
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": {"replicas": replicas} if replicas else {},
        "status": {
            "replicas": at_path(obj, "status.replicas") or 0,
            "selector": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        },
    }


def from_scale(obj: Json, scale: Json) -> Json:
    """Return *obj* with the replicas of *scale*."""
    replicas = at_path(scale, "spec.replicas") or 0
    metadata = {key: value for key, value in obj["metadata"].items() if key != "resourceVersion"}
    return {**obj, "metadata": metadata, "spec": {**obj["spec"], "replicas": replicas}}


EVENTS_MAX = 1000
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCHES = ("application/apply-patch+yaml", "application/apply-patch+cbor")
PATCHES = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCHES[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a request that succeeds returns; warnings go into headers."""

    body: Json
    code: int = 200
    warnings: tuple[str, ...] = ()


def _kept(target: Target) -> Target:
    """Return *target* in the version in which autoscalers are kept."""
    return replace(target, resource=AUTOSCALERS)


def _in_v1(answer: Answer) -> Answer:
    """Return the answer about autoscalers in their older version."""
    body = answer.body
    if "items" in body:
        items = [to_v1(item) for item in body["items"]]
        shown = {**body, "apiVersion": AUTOSCALERS_V1.api_version, "items": items}
        return replace(answer, body=shown)
    return replace(answer, body=to_v1(body))


class Rest:
    """The verbs. *commits* writes; all checks happen before, so what fails has changed nothing."""

    def __init__(self, commits: Commits) -> None:
        self._commits = commits
        self._store = commits.store
        self._events: deque[tuple[str, str]] = deque()

    # -- reading

    def get(self, target: Target) -> Answer:
        """Return an object, its status or its scale."""
        if target.resource is AUTOSCALERS_V1:
            return _in_v1(self.get(_kept(target)))
        obj = self._existing(target)
        return Answer(body=to_scale(obj) if target.subresource == "scale" else obj)

    def list(self, target: Target, query: Mapping[str, str]) -> Answer:
        """Return the objects that *query* selects."""
        if target.resource is AUTOSCALERS_V1:
            return _in_v1(self.list(_kept(target), query))
        return Answer(body=list_objects(self._store, target.resource, target.namespace, query))

    # -- writing

    def create(
        self, target: Target, body: Any, options: WriteOptions, *, operation: str = "Update"
    ) -> Answer:
        """Create an object; *operation* is how its fields are owned."""
        resource = target.resource
        admitted = typed(resource, body, validation=options.validation)
        if resource is AUTOSCALERS_V1:
            made = self.create(_kept(target), to_v2(admitted.obj), options, operation=operation)
            return _in_v1(made)
        obj = self._placed(admitted.obj, target)
        metadata = obj["metadata"]
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = self._commits.free_name(metadata["generateName"])
        if metadata.get("resourceVersion"):
            raise errors.bad_request("resourceVersion should not be set on objects to be created")
        if resource.namespaced:
            self._check_namespace(resource, metadata)
        config = {key: value for key, value in obj.items() if key != "status"}
        obj = lawful(resource, config, old=None)
        if resource is NAMESPACES:
            obj["status"] = {"phase": "Active"}
        if self._store.get(resource, target.namespace, name_of(obj)) is not None:
            raise errors.already_exists(resource, name_of(obj))
        writer = Writer(manager=options.manager, operation=operation)
        # An Apply owns the fields that it names, a create all that there are, defaults included.
        owned_by_writer = config if operation == "Apply" else obj
        obj = first_owned(
            obj, owned_by_writer, resource_schema(resource), writer=writer, now=self._commits.now()
        )
        kept = self._commits.create(resource, obj, dry=options.dry)
        if resource is EVENTS and not options.dry:
            self._forget_events((metadata["namespace"], metadata["name"]))
        return Answer(body=kept, code=201, warnings=admitted.warnings)

    def update(self, target: Target, body: Any, options: WriteOptions) -> Answer:
        """Replace an object, its status, or the scale of it."""
        if target.resource is AUTOSCALERS_V1:
            whole = typed(target.resource, body, validation=options.validation)
            return _in_v1(self.update(_kept(target), to_v2(whole.obj), options))
        old = self._existing(target)
        if target.subresource == "scale":
            scale = typed(SCALE, body, validation=options.validation)
            return self._rescaled(target, old, scale.obj, options, scale.warnings)
        admitted = typed(target.resource, body, validation=options.validation)
        return self._changed(
            target, old, self._placed(admitted.obj, target), options, admitted.warnings
        )

    def patch(
        self, target: Target, body: bytes, options: WriteOptions, *, media_type: str
    ) -> Answer:
        """Patch an object, its status, or the scale of it."""
        resource = SCALE if target.subresource == "scale" else target.resource
        accepted = [kind for kind in PATCHES if kind != STRATEGIC_PATCH or not resource.schemaless]
        if media_type in APPLY_PATCHES[:1]:
            return self._apply(target, parsed_yaml(body), options)
        if media_type not in accepted:
            raise errors.unsupported_media_type(media_type, accepted)
        old = self._existing(target)
        shown = to_scale(old) if resource is SCALE else old
        new = _patched(shown, parsed_json(body), media_type, resource)
        admitted = typed(resource, new, validation=options.validation, mistyped_is_invalid=True)
        if resource is SCALE:
            return self._rescaled(target, old, admitted.obj, options, admitted.warnings)
        self._check_identity(resource, old, admitted.obj, patched=True)
        return self._changed(
            target, old, self._placed(admitted.obj, target), options, admitted.warnings
        )

    def delete(
        self, target: Target, body: Any, query: Mapping[str, str], options: WriteOptions
    ) -> Answer:
        """Delete an object: at once, or, where it has to come to an end first, by and by."""
        if target.resource is AUTOSCALERS_V1:
            return self.delete(_kept(target), body, query, options)
        obj = self._existing(target)
        delete_options = {**dict(query), **(body if isinstance(body, dict) else {})}
        preconditions = delete_options.get("preconditions") or {}
        for field in ("uid", "resourceVersion"):
            meant, found = preconditions.get(field), obj["metadata"][field]
            if meant and meant != found:
                why = (
                    f"Precondition failed: {field} in precondition: {meant}, in object meta: "
                    f"{found}"
                )
                raise errors.conflict(target.resource, name_of(obj), why)
        policy = delete_options.get("propagationPolicy")
        if policy not in (None, "", *PROPAGATIONS):
            raise errors.unprocessable(
                'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: '
                f'"{policy}": supported values: '
                + ", ".join(f'"{one}"' for one in (*PROPAGATIONS, "nil"))
            )
        if policy == "Orphan" or delete_options.get("orphanDependents") in (
            True,
            "true",
        ):
            raise errors.bad_request(
                "propagationPolicy: this server does not orphan, it deletes what an object owns"
            )
        dry = options.dry or delete_options.get("dryRun") == ["All"]
        return Answer(body=self._deleted(target.resource, obj, delete_options, dry=dry))

    def delete_all(self, target: Target, query: Mapping[str, str], options: WriteOptions) -> Answer:
        """Delete the objects that *query* selects; return them."""
        resource = target.resource
        matches = matcher(
            resource, labels=query.get("labelSelector", ""), fields=query.get("fieldSelector", "")
        )
        chosen = [obj for obj in self._store.items(resource, target.namespace) if matches(obj)]
        for obj in chosen:
            self._deleted(resource, obj, {}, dry=options.dry)
        return Answer(
            body={
                "kind": f"{resource.kind}List",
                "apiVersion": resource.api_version,
                "metadata": {"resourceVersion": str(self._store.version)},
                "items": chosen,
            }
        )

    # -- inside

    def _forget_events(self, latest: tuple[str, str]) -> None:
        """Remove the oldest events of clients if there are too many; a real server forgets them
        after an hour.
        """
        self._events.append(latest)
        while len(self._events) > EVENTS_MAX:
            old = self._store.get(EVENTS, *self._events.popleft())
            if old is not None:
                self._commits.remove(EVENTS, old)

    def _existing(self, target: Target) -> Json:
        obj = self._store.get(target.resource, target.namespace, target.name)
        if obj is None:
            raise errors.not_found(target.resource, target.name)
        return obj

    def _placed(self, obj: Json, target: Target) -> Json:
        """Return *obj* with the namespace and the name of its path. Raise ApiError 400 where it
        says others.
        """
        metadata = dict(obj["metadata"])
        for field, there in (("namespace", target.namespace), ("name", target.name)):
            said = metadata.get(field)
            if there and said and said != there:
                shown = "name" if field == "name" else "namespace"
                raise errors.bad_request(
                    f"the {shown} of the provided object ({said}) does not match the {shown} sent "
                    "on the request"
                    f" ({there})"
                )
            if there:
                metadata[field] = there
        if not target.resource.namespaced:
            metadata.pop("namespace", None)
        return {**obj, "metadata": metadata}

    def _check_namespace(self, resource: Resource, metadata: Json) -> None:
        space = self._store.get(NAMESPACES, "", metadata.get("namespace", ""))
        if space is None:
            raise errors.not_found(NAMESPACES, metadata.get("namespace", ""))
        if "deletionTimestamp" in space["metadata"]:
            why = (
                f"unable to create new content in namespace {name_of(space)} because it is being "
                "terminated"
            )
            raise errors.forbidden(resource, metadata.get("name", ""), why)

    def _changed(
        self,
        target: Target,
        old: Json,
        new: Json,
        options: WriteOptions,
        warnings: tuple[str, ...] = (),
    ) -> Answer:
        """Store *new* for *old* as far as the path allows: the object without its status, or its
        status alone.
        """
        resource = target.resource
        self._check_identity(resource, old, new)
        status = {} if "status" not in old else {"status": old["status"]}
        if target.subresource == "status":
            status = {} if "status" not in new else {"status": new["status"]}
            new = old
        obj = {key: value for key, value in new.items() if key != "status"} | status
        obj = lawful(resource, obj, old=old)
        if obj["metadata"].get("managedFields") != old["metadata"].get("managedFields"):
            obj["metadata"]["managedFields"] = old["metadata"].get("managedFields") or []
        writer = Writer(manager=options.manager, subresource=target.subresource)
        new = owned(old, obj, resource_schema(resource), writer=writer, now=self._commits.now())
        return Answer(
            body=self._commits.change(resource, old, new, dry=options.dry), warnings=warnings
        )

    def _check_identity(
        self, resource: Resource, old: Json, new: Json, *, patched: bool = False
    ) -> None:
        """Raise ApiError 409 if *new* is meant for another version or another object than *old*.

        A uid that came by a patch is no precondition, but a field that must not change: 422.
        """
        said, there = new["metadata"].get("resourceVersion"), old["metadata"]["resourceVersion"]
        if said and said != there:
            raise errors.conflict(resource, name_of(old))
        said, there = new["metadata"].get("uid"), old["metadata"]["uid"]
        if said and said != there:
            if patched:
                why = f'Invalid value: "{said}": field is immutable'
                cause = errors.Cause("FieldValueInvalid", why, "metadata.uid")
                raise errors.invalid(resource, name_of(old), [cause])
            why = f"Precondition failed: UID in precondition: {said}, UID in object meta: {there}"
            raise errors.conflict(resource, name_of(old), why)

    def _rescaled(
        self,
        target: Target,
        old: Json,
        scale: Json,
        options: WriteOptions,
        warnings: tuple[str, ...],
    ) -> Answer:
        self._check_identity(target.resource, old, scale)
        answer = self._changed(target, old, from_scale(old, scale), options, warnings)
        return Answer(body=to_scale(answer.body), warnings=warnings)

    def _apply(self, target: Target, config: Any, options: WriteOptions) -> Answer:
        resource = target.resource
        if not options.named:
            raise errors.unprocessable(
                'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required '
                "for apply patch"
            )
        admitted = typed(resource, config, validation=options.validation)
        obj = self._placed(admitted.obj, target)
        if obj["metadata"].pop("managedFields", None):
            raise errors.bad_request("metadata.managedFields must be nil")
        writer = Writer(manager=options.manager, operation="Apply", subresource=target.subresource)
        old = self._store.get(resource, target.namespace, target.name)
        schema = resource_schema(resource)
        if old is None:
            if obj["metadata"].get("resourceVersion"):
                raise errors.not_found(resource, target.name)
            return self.create(target, obj, options, operation="Apply")
        self._check_identity(resource, old, obj, patched=True)
        new = applied(old, obj, schema, writer=writer, force=options.force, now=self._commits.now())
        part = {"status": new.get("status", {})} if target.subresource == "status" else {}
        kept = {"status": old["status"]} if "status" in old else {}
        new = {key: value for key, value in new.items() if key != "status"} | (part or kept)
        new = lawful(resource, new, old=old)
        return Answer(
            body=self._commits.change(resource, old, new, dry=options.dry),
            warnings=admitted.warnings,
        )

    def _deleted(
        self, resource: Resource, obj: Json, delete_options: Mapping[str, Any], *, dry: bool
    ) -> Json:
        if resource is PODS:
            grace_s = delete_options.get("gracePeriodSeconds")
            grace_s = (
                at_path(obj, "spec.terminationGracePeriodSeconds")
                if grace_s is None
                else int(grace_s)
            )
            if grace_s == 0 and not dry:
                self._commits.mark_deleted(resource, obj, grace_s=0)
            return self._commits.mark_deleted(resource, obj, grace_s=grace_s, dry=dry)
        if resource is NAMESPACES:
            marked = self._commits.mark_deleted(resource, obj, dry=dry)
            return (
                marked if dry else self._commits.status(resource, marked, {"phase": "Terminating"})
            )
        if obj["metadata"].get("finalizers"):
            return self._commits.mark_deleted(resource, obj, dry=dry)
        if not dry:
            self._commits.remove(resource, obj)
        details = {"name": name_of(obj), "kind": resource.plural, "uid": obj["metadata"]["uid"]}
        if resource.group:
            details["group"] = resource.group
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "details": details,
        }


def _patched(obj: Json, patch: Any, media_type: str, resource: Resource) -> Any:
    if media_type == JSON_PATCH:
        return json_patch(obj, patch)
    if not isinstance(patch, dict):
        raise errors.bad_request(
            f"a patch of type {media_type} is an object, found {type(patch).__name__}"
        )
    if media_type == MERGE_PATCH:
        return merge_patch(obj, patch)
    return strategic_merge(obj, patch, resource_schema(resource))
