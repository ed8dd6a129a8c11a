"""JSON patches (RFC 6902) and merge patches (RFC 7386): pure functions from one value to the
next.
"""

from __future__ import annotations

import copy
from typing import Any

from twin.kube.apiserver.errors import bad_request, unprocessable
from twin.kube.apiserver.objects import Json

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
