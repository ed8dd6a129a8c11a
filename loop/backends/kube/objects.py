"""Objects as an API server lists them: what was made of one is kept as long as it does not change.

Of a large cluster little changes from cycle to cycle. So a list is cut into the texts of its
objects, and only a text that did not stand in the list before is parsed and read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Generic, TypeVar

try:
    import msgspec
except ImportError:  # an extra
    msgspec = None

Json = Mapping[str, Any]
Object = Json | bytes  # parsed, or its text
Made = TypeVar("Made")
_CONTINUE = re.compile(rb'"continue":\s*"([^"]+)"')


def texts_of(answer: bytes) -> list[bytes] | None:
    """Return the texts of the items of a list; None where it cannot be cut (it is none, is nested
    too deeply, or msgspec is not installed): then it has to be parsed as a whole.
    """
    if msgspec is None:
        return None
    try:
        return [bytes(item) for item in _LIST.decode(answer).items]
    except (msgspec.MsgspecError, RecursionError):
        return None


def continue_of(answer: bytes) -> str:
    """Return what asks for the rest of a list, "" if this is all of it.

    It stands beside the items, before or behind them; they are not parsed for it.
    """
    begin, end = answer.find(b'"items"'), answer.rfind(b"]")
    beside = answer if begin < 0 else answer[:begin] + answer[max(begin, end) :]
    match = _CONTINUE.search(beside)
    return match[1].decode() if match else ""


def parsed(obj: Object) -> Json:
    """Return an object as parsed. Raise ValueError where its text is no JSON."""
    if not isinstance(obj, bytes):
        return obj
    try:
        told: Json = json.loads(obj)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return told


class Remembered(Generic[Made]):
    """What was made of the objects of the latest list."""

    def __init__(self) -> None:
        self._made: dict[bytes, Made] = {}
        self._how: object = None

    def reader(self, make: Callable[[Json], Made], *, how: object = None) -> Callable[..., Made]:
        """Return what makes the same of each object of one list as *make* does. What was made
        before is of use if *how*, what it depends on besides, is as it was.
        """
        before = self._made if how == self._how else {}
        self._how, self._made = how, (now := {})

        def read(obj: Object) -> Made:
            if not isinstance(obj, bytes):
                return make(obj)
            key = sha256(obj).digest()
            made = before[key] if key in before else make(parsed(obj))
            now[key] = made
            return made

        return read


if msgspec is not None:
    _LIST = msgspec.json.Decoder(msgspec.defstruct("List", [("items", list[msgspec.Raw])]))
