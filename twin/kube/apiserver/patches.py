"""JSON patches (RFC 6902), merge patches (RFC 7386) and strategic merge patches: pure functions."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from twin.kube.apiserver.errors import bad_request, unprocessable
from twin.kube.apiserver.objects import Json
from twin.kube.apiserver.schema import child, items, resolved

OPERATIONS_MAX = 10_000
_REJECTED = "the server rejected our request due to an error in our request"


def merge_patch(target: Any, patch: Any) -> Any:
    """Return *target* with *patch* laid over it: null deletes, objects merge, all else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def json_patch(target: Json, operations: Any) -> Json:
    """Return *target* after all *operations*. Raise ApiError 400 for what is no patch, 422 where
    one cannot be done.
    """
    if not isinstance(operations, list) or not all(
        isinstance(operation, dict) for operation in operations
    ):
        raise bad_request("a JSON patch is a list of operations")
    if len(operations) > OPERATIONS_MAX:
        raise bad_request(
            f"a JSON patch may have {OPERATIONS_MAX} operations, found {len(operations)}"
        )
    holder = {"": copy.deepcopy(target)}
    for operation in operations:
        _operate(holder, operation)
    result: Json = holder[""]
    return result


def _operate(holder: Json, operation: Json) -> None:
    verb, path = operation.get("op"), _pointer(operation, "path")
    if verb in ("add", "replace", "test") and "value" not in operation:
        raise bad_request(f"JSON patch: {verb} needs a value")
    if verb == "test":
        if not _same(_read(holder, path), operation["value"]):
            raise unprocessable(f"{_REJECTED}: testing value {operation['path']} failed")
    elif verb == "add":
        _add(holder, path, copy.deepcopy(operation["value"]))
    elif verb == "replace":
        _read(holder, path)
        _remove(holder, path)
        _add(holder, path, copy.deepcopy(operation["value"]))
    elif verb == "remove":
        _remove(holder, path)
    elif verb in ("move", "copy"):
        source = _pointer(operation, "from")
        value = copy.deepcopy(_read(holder, source))
        if verb == "move":
            _remove(holder, source)
        _add(holder, path, value)
    else:
        raise bad_request(f"JSON patch: unexpected kind of operation: {verb!r}")


def _pointer(operation: Json, field: str) -> list[str]:
    text = operation.get(field)
    if not isinstance(text, str) or (text and not text.startswith("/")):
        raise bad_request(f"JSON patch: {field} must be a JSON pointer, got {text!r}")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")]


def _step(place: Any, part: str) -> Any:
    if isinstance(place, dict) and part in place:
        return place[part]
    if isinstance(place, list) and part.isdecimal() and int(part) < len(place):
        return place[int(part)]
    raise unprocessable(f"{_REJECTED}: missing path at {part!r}")


def _read(holder: Json, path: list[str]) -> Any:
    place: Any = holder
    for part in path:
        place = _step(place, part)
    return place


def _add(holder: Json, path: list[str], value: Any) -> None:
    place, last = _read(holder, path[:-1]), path[-1]
    if isinstance(place, dict):
        place[last] = value
    elif isinstance(place, list) and last == "-":
        place.append(value)
    elif isinstance(place, list) and last.isdecimal() and int(last) <= len(place):
        place.insert(int(last), value)
    else:
        raise unprocessable(f"{_REJECTED}: cannot add at {last!r}")


def _remove(holder: Json, path: list[str]) -> None:
    place, last = _read(holder, path[:-1]), path[-1]
    _step(place, last)
    if isinstance(place, list):
        del place[int(last)]
    else:
        del place[last]


def _same(one: Any, other: Any) -> bool:
    """Tell whether two JSON values are equal; true is not 1 in JSON."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            _same(value, other[key]) for key, value in one.items()
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


_ORDER, _DELETE_FROM, _RETAIN, _DIRECTIVE = (
    "$setElementOrder/",
    "$deleteFromPrimitiveList/",
    "$retainKeys",
    "$patch",
)


def strategic_merge(target: Any, patch: Json, schema: Json | None) -> Json:
    """Return *target*, whose schema is *schema*, with *patch* laid over it.

    Directives: $patch (replace, delete, merge), $retainKeys, $setElementOrder/<list>,
    $deleteFromPrimitiveList/<list>. Raise ApiError 400 where the patch does not fit them.
    """
    if patch.get(_DIRECTIVE) == "replace":
        return {key: value for key, value in patch.items() if key != _DIRECTIVE}
    if patch.get(_DIRECTIVE) == "delete":
        return {}
    result: Json = dict(target) if isinstance(target, dict) else {}
    if _RETAIN in patch:
        result = {key: value for key, value in result.items() if key in patch[_RETAIN]}
    for key, value in patch.items():
        if key.startswith(_DELETE_FROM):
            name = key.removeprefix(_DELETE_FROM)
            result[name] = [item for item in result.get(name) or () if item not in value]
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        if value is None:
            result.pop(key, None)
        else:
            order = patch.get(_ORDER + key)
            result[key] = _merged(result.get(key), value, child(schema, key), order)
    for key, order in patch.items():
        name = key.removeprefix(_ORDER)
        if key.startswith(_ORDER) and name not in patch and isinstance(result.get(name), list):
            result[name] = _ordered(result[name], order, _merge_key(child(schema, name)))
    return result


def _merged(old: Any, value: Any, schema: Json, order: Sequence[Any] | None) -> Any:
    if isinstance(value, dict):
        if _kind(schema) not in ("object", ""):
            raise bad_request("cannot merge a map into what is none")
        return strategic_merge(old, value, schema)
    if not isinstance(value, list):
        return value
    if "merge" not in _strategies(schema):
        return [_plain(item) for item in value]
    key = _merge_key(schema)
    if key is None:
        old = old or []
        merged = [*old, *(item for item in value if item not in old)]
    else:
        merged = _merged_items(old or [], value, schema, key)
    return merged if order is None else _ordered(merged, order, key)


def _merged_items(old: list[Json], patch: list[Any], schema: Json, key: str) -> list[Json]:
    if any(not isinstance(item, dict) for item in patch):
        raise bad_request(f"a list that is merged by {key} holds objects only")
    if any(item.get(_DIRECTIVE) == "replace" for item in patch):
        return [item for item in patch if _DIRECTIVE not in item]
    result = list(old)
    for item in patch:
        if key not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {key}")
        place = next((n for n, there in enumerate(result) if there.get(key) == item[key]), None)
        if item.get(_DIRECTIVE) == "delete":
            result = [there for there in result if there.get(key) != item[key]]
        elif place is None:
            result.append(
                strategic_merge(
                    {}, {k: v for k, v in item.items() if k != _DIRECTIVE}, items(schema)
                )
            )
        else:
            result[place] = strategic_merge(result[place], item, items(schema))
    return [{k: v for k, v in item.items() if k != _DIRECTIVE} for item in result]


def _ordered(merged: list[Any], order: Sequence[Any], key: str | None) -> list[Any]:
    """Put the items that *order* names into its order; the others keep their places before or
    after.
    """

    def identity(item: Any) -> Any:
        return item.get(key) if key is not None and isinstance(item, dict) else item

    ranks = {identity(item): rank for rank, item in enumerate(order)}
    named = iter(
        sorted(
            (item for item in merged if identity(item) in ranks),
            key=lambda item: ranks[identity(item)],
        )
    )
    return [next(named) if identity(item) in ranks else item for item in merged]


def _plain(value: Any) -> Any:
    """Return *value* without directives and nulls: what it is where there is nothing to merge it
    with.
    """
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if not k.startswith("$") and v is not None}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _strategies(schema: Json) -> list[str]:
    return str(schema.get("x-kubernetes-patch-strategy", "")).split(",")


def _merge_key(schema: Json) -> str | None:
    return schema.get("x-kubernetes-patch-merge-key")


def _kind(schema: Json) -> str:
    return str(resolved(schema).get("type", ""))
