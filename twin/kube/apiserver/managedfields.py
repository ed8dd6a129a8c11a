"""Server-side apply: the owners of fields (managedFields), their conflicts, and the merge."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from twin.kube.apiserver.errors import apply_conflict, bad_request
from twin.kube.apiserver.objects import Json
from twin.kube.apiserver.schema import child, items, map_keys, resolved

Path = tuple[str, ...]
Leaves = dict[Path, Any]
"""Values by path. Steps are those of fieldsV1: f:<field>, k:<keys of an item of a list>, v:<item of
a set>.
"""

UNOWNED = {
    ("f:metadata", f"f:{field}")
    for field in (
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "generation",
        "managedFields",
        "name",
        "namespace",
        "resourceVersion",
        "selfLink",
        "uid",
    )
} | {("f:apiVersion",), ("f:kind",)}
_KEY_DEFAULTS = {"protocol": "TCP"}  # of what is applied, defaults are not yet filled in
_ITEM = object()  # the value of a path that only says that an item is there


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """A manager of fields: its name, whether it applies or updates, and the subresource."""

    manager: str
    operation: str = "Update"
    subresource: str = ""


def leaves(obj: Json, schema: Json | None) -> Leaves:
    """Return the fields of *obj* that can have an owner."""
    return {
        path: value
        for path, value in _walk(obj, schema, ())
        if path[:2] not in UNOWNED and path not in UNOWNED
    }


def _walk(value: Any, schema: Json | None, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _walk(inner, child(schema, key), (*path, f"f:{key}"))
    elif isinstance(value, list) and value and map_keys(schema):
        for item in value:
            step = (*path, _item_step(item, map_keys(schema)))
            yield step, _ITEM
            yield from _walk(item, items(schema), step)
    elif isinstance(value, list) and _is_set(schema):
        yield from (((*path, f"v:{json.dumps(item)}"), item) for item in value)
    else:
        yield path, value


def _item_step(item: Json, keys: tuple[str, ...]) -> str:
    named = {key: item.get(key, _KEY_DEFAULTS.get(key)) for key in keys}
    return "k:" + json.dumps(named, separators=(",", ":"), sort_keys=True)


def _is_set(schema: Json | None) -> bool:
    return resolved(schema).get("x-kubernetes-list-type") == "set"


# -- managedFields


def _to_fields(paths: set[Path]) -> Json:
    tree: Json = {}
    for path in sorted(paths):
        place = tree
        for step in path:
            place = place.setdefault(step, {})
        if path[-1].startswith("k:"):
            place["."] = {}
    return tree


def _from_fields(tree: Mapping[str, Any], path: Path = ()) -> Iterator[Path]:
    for step, inner in tree.items():
        if step == ".":
            yield path
        elif inner:
            yield from _from_fields(inner, (*path, step))
        else:
            yield (*path, step)


def owners(obj: Json) -> dict[Writer, set[Path]]:
    """Return the fields of *obj* by owner."""
    return {
        Writer(
            manager=entry["manager"],
            operation=entry["operation"],
            subresource=entry.get("subresource", ""),
        ): set(_from_fields(entry.get("fieldsV1") or {}))
        for entry in obj["metadata"].get("managedFields") or ()
    }


def first_owned(obj: Json, part: Json, schema: Json | None, *, writer: Writer, now: str) -> Json:
    """Return a new *obj* with managedFields by which *writer* owns the fields of *part* of it."""
    return _with_owners(None, obj, {writer: set(leaves(part, schema))}, now=now)


def owned(old: Json, new: Json, schema: Json | None, *, writer: Writer, now: str) -> Json:
    """Return *new* with managedFields that give what *writer* changed since *old* to it, and take
    it from others.
    """
    before, after = leaves(old, schema), leaves(new, schema)
    missing = object()
    changed = {path for path, value in after.items() if before.get(path, missing) != value}
    held = {owner: (paths - changed) & after.keys() for owner, paths in owners(old).items()}
    held[writer] = held.get(writer, set()) | changed
    return _with_owners(old, new, held, now=now)


def _with_owners(
    old: Json | None, new: Json, held: Mapping[Writer, set[Path]], *, now: str
) -> Json:
    known = owners(old) if old else {}
    entries_before = (old["metadata"].get("managedFields") or ()) if old else ()
    times = {
        owner: entry.get("time", now) for owner, entry in zip(known, entries_before, strict=True)
    }
    entries = [
        {
            "manager": owner.manager,
            "operation": owner.operation,
            "apiVersion": new["apiVersion"],
            **_time(owner, times[owner] if known.get(owner) == paths else now),
            "fieldsType": "FieldsV1",
            "fieldsV1": _to_fields(paths),
            **({"subresource": owner.subresource} if owner.subresource else {}),
        }
        for owner, paths in held.items()
        if paths
    ]
    return {**new, "metadata": {**new["metadata"], "managedFields": entries}}


def _time(owner: Writer, time: str) -> Json:
    # The handler of the scale subresource of a real API server loses the time.
    return {} if owner.subresource == "scale" else {"time": time}


# -- apply


def applied(
    old: Json, config: Json, schema: Json | None, *, writer: Writer, force: bool, now: str
) -> Json:
    """Return *old* with *config* applied by *writer*, with its owners.

    What *writer* applied before and does not name any more goes, unless it has another owner. Raise
    ApiError 409 if *config* would change a field of another owner and *force* is not set.
    """
    applied_now, there, held = leaves(config, schema), leaves(old, schema), owners(old)
    others = {owner: paths for owner, paths in held.items() if owner != writer}
    lost = [
        (owner, path)
        for owner, paths in others.items()
        for path in sorted(paths & applied_now.keys())
        if applied_now[path] is not _ITEM and there.get(path) != applied_now[path]
    ]
    if lost and not force:
        raise apply_conflict([(_shown(owner), _field(path)) for owner, path in lost])
    kept = set[Path]().union(*others.values()) if others else set[Path]()
    result = merged(old, config, schema)
    # An item of a list goes as a whole, before its fields: without its key it could not be found.
    for path in sorted(held.get(writer, set()) - applied_now.keys() - kept, key=len):
        if not any(other[: len(path)] == path for other in kept):
            result = _without(result, path, schema)
    taken = {path for _, path in lost}
    held = {owner: paths - taken for owner, paths in others.items()} | {writer: set(applied_now)}
    return _with_owners(old, result, held, now=now)


def merged(old: Any, new: Any, schema: Json | None) -> Any:
    """Return *old* with *new* laid over it: maps by key, lists of keyed items by their keys, sets
    as unions.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        return {
            **old,
            **{key: merged(old.get(key), value, child(schema, key)) for key, value in new.items()},
        }
    if isinstance(old, list) and isinstance(new, list) and map_keys(schema):
        keys = map_keys(schema)
        for item in new:
            if not isinstance(item, dict) or keys[0] not in item:
                raise bad_request(f"an item of a list needs its key {keys[0]}, found {item!r}")
        there = {_item_step(item, keys): item for item in old}
        for item in new:
            step = _item_step(item, keys)
            there[step] = merged(there.get(step), item, items(schema))
        return list(there.values())
    if isinstance(old, list) and isinstance(new, list) and _is_set(schema):
        return [*old, *(item for item in new if item not in old)]
    return new


def _without(value: Any, path: Path, schema: Json | None) -> Any:
    """Return *value* without what is at *path*, and without a map that thereby becomes empty."""
    step, rest = path[0], path[1:]
    if step.startswith("f:") and isinstance(value, dict):
        key = step.removeprefix("f:")
        if key not in value:
            return value
        inner = _without(value[key], rest, child(schema, key)) if rest else None
        return {k: v for k, v in value.items() if k != key} | (
            {key: inner} if inner not in (None, {}, []) else {}
        )
    if isinstance(value, list) and step.startswith("k:"):
        keys = map_keys(schema)
        if not rest:
            return [item for item in value if _item_step(item, keys) != step]
        inner = items(schema)
        return [
            _without(item, rest, inner) if _item_step(item, keys) == step else item
            for item in value
        ]
    if isinstance(value, list) and step.startswith("v:"):
        return [item for item in value if f"v:{json.dumps(item)}" != step]
    return value


def _shown(owner: Writer) -> str:
    return (
        f"{owner.manager} with subresource {owner.subresource}"
        if owner.subresource
        else owner.manager
    )


def _field(path: Path) -> str:
    text = ""
    for step in path:
        if step.startswith("f:"):
            text += f".{step.removeprefix('f:')}"
        else:
            keys = json.loads(step[2:])
            inner = (
                ",".join(f"{key}={json.dumps(value)}" for key, value in keys.items())
                if step[0] == "k"
                else step[2:]
            )
            text += f"[{inner}]"
    return text
