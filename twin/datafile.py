"""Reading of JSON data files: keys in any case, errors of one line that name the place, unknown
keys told. The same lines are told of messages (loop/schema/parsing.py).
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from twin.magnitudes import LARGEST_FIGURE
from twin.spec import SpecError

Choice = TypeVar("Choice", bound=str)

CLOSE = 0.65  # how alike two words must be for one to be taken for a slip of the other
LONGEST_FOUND = 60  # characters of a wrong value that an error line repeats
_HALVES = ("\\ud", "\\uD")  # what an escape of one begins with, or of a whole pair
LONGEST_LIST = 200  # of names, as those of columns


class Entry:
    """One JSON object and its place. Every look-up marks its key as known; what stays unmarked is
    told by `warnings`.

    Keys match in any case; null counts as absent.
    """

    __slots__ = (
        "_children",
        "_entry",
        "_fields",
        "_keys",
        "_known",
        "_prefix",
        "source",
    )

    def __init__(self, obj: object, *, source: str, entry: str = "", prefix: str = "") -> None:
        self.source = source
        self._entry = entry
        self._prefix = prefix
        self._known: dict[str, str] = {}  # in lower case: as it is spelled
        self._children: list[Entry] = []
        if not isinstance(obj, Mapping):
            raise self._wrong(prefix.rstrip("."), expected="an object {…}", found=obj)
        self._fields = {str(key).lower(): value for key, value in obj.items()}
        self._keys = {str(key).lower(): str(key) for key in obj}

    @property
    def place(self) -> str:
        """Return "file: entry", for a message about the entry as a whole."""
        return ": ".join(part for part in (self.source, self._entry) if part)

    def fail(self, key: str, *, expected: str, found: object) -> SpecError:
        """Return the error to raise for the field *key* of this entry."""
        return self._wrong(self._prefix + key, expected=expected, found=found)

    def has(self, key: str) -> bool:
        """Tell whether *key* is there and not null."""
        return self._get(key) is not None

    def ignore(self, *keys: str) -> None:
        """Mark *keys* as known: they may be there and mean nothing here."""
        self._known.update((key.lower(), key) for key in keys)

    def text(self, key: str, *, default: str | None = None) -> str:
        """Return a text that is not empty; *default* where it is absent or empty."""
        value = self._get(key)
        if isinstance(value, str) and value:
            return value
        if value in (None, "") and default is not None:
            return default
        raise self.fail(key, expected="a text", found=value)

    def choice(self, key: str, choices: Sequence[Choice], *, default: Choice) -> Choice:
        """Return one of *choices*, in its own spelling."""
        value = self._get(key)
        if value is None:
            return default
        for choice in choices:
            if isinstance(value, str) and value.lower() == choice.lower():
                return choice
        raise self.fail(key, expected="one of " + ", ".join(choices), found=value)

    def words(self, key: str) -> tuple[str, ...]:
        """Return a list of texts, none where it is absent; a text alone is a list of one."""
        value = self._get(key)
        found = [value] if isinstance(value, str) else [] if value is None else value
        if not isinstance(found, list) or not all(isinstance(word, str) and word for word in found):
            raise self.fail(key, expected="a list of texts", found=value)
        return tuple(found)

    def flag(self, key: str, *, default: bool = False) -> bool:
        """Return true or false."""
        value = self._get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fail(key, expected="true or false", found=value)
        return value

    def number(
        self,
        key: str,
        *,
        at_least: float | None = None,
        above: float | None = None,
        at_most: float | None = None,
        default: float | None = None,
    ) -> float:
        """Return a finite number within its bounds; *default* None means that it must be given."""
        expected = "a number" + _bounds(at_least=at_least, above=above, at_most=at_most)
        value = self._figure(key, expected=expected, default=default)
        if _outside(value, at_least=at_least, above=above, at_most=at_most):
            raise self.fail(key, expected=expected, found=self._get(key))
        if abs(value) > LARGEST_FIGURE:
            raise self.fail(key, expected=f"at most {LARGEST_FIGURE:g}", found=self._get(key))
        return value

    def whole(
        self,
        key: str,
        *,
        at_least: int | None = None,
        at_most: int | None = None,
        default: int | None = None,
    ) -> int:
        """Return a whole number within its bounds (8 and 8.0 are both whole)."""
        expected = "a whole number" + _bounds(at_least=at_least, above=None, at_most=at_most)
        value = self._figure(key, expected=expected, default=default)
        within = not _outside(value, at_least=at_least, above=None, at_most=at_most)
        if not (value.is_integer() and within):
            raise self.fail(key, expected=expected, found=self._get(key))
        if abs(value) > LARGEST_FIGURE:
            raise self.fail(key, expected=f"at most {LARGEST_FIGURE:g}", found=self._get(key))
        return int(value)

    def child(self, key: str) -> Entry | None:
        """Return the object under *key*, or None where there is none; its fields are named
        "key.field" in errors.
        """
        value = self._get(key)
        if value is None:
            return None
        return self._add(value, entry=self._entry, prefix=f"{self._prefix}{key}.")

    def children(
        self, key: str, *, required: bool = True, label: Sequence[str] = ("name",)
    ) -> list[Entry]:
        """Return the objects of the list under *key*, named "key[3] 'label'" in errors by their
        *label* fields.
        """
        value = self._get(key)
        if value is None and not required:
            return []
        if not isinstance(value, list):
            raise self.fail(key, expected="a list […]", found=value)
        outer = f"{self._entry}: " if self._entry else ""
        return [
            self._add(
                item, entry=f"{outer}{self._prefix}{key}[{index}]{_label(item, label)}", prefix=""
            )
            for index, item in enumerate(value)
        ]

    def warnings(self) -> tuple[str, ...]:
        """Return a line for every key that nothing has asked for, in this entry and below; alike
        rows share a line.
        """
        places: dict[str, list[str]] = {}
        known: dict[str, Iterable[str]] = {}
        for entry in self._walk():
            for lowered, key in entry._keys.items():
                if lowered not in entry._known:
                    places.setdefault(entry._prefix + key, []).append(entry._entry)
                    known.setdefault(entry._prefix + key, entry._known.values())
        return tuple(
            unknown_line(self.source, where, key, known=known[key]) for key, where in places.items()
        )

    def _get(self, key: str) -> Any:
        self._known[key.lower()] = key
        return self._fields.get(key.lower())

    def _figure(self, key: str, *, expected: str, default: float | None) -> float:
        value = self._get(key)
        if value is None and default is not None:
            return float(default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fail(key, expected=expected, found=value)
        try:
            figure = float(value)
        except OverflowError:
            figure = math.inf
        if not math.isfinite(figure):
            raise self.fail(key, expected=expected, found=value)
        return figure

    def _add(self, obj: object, *, entry: str, prefix: str) -> Entry:
        child = Entry(obj, source=self.source, entry=entry, prefix=prefix)
        self._children.append(child)
        return child

    def _walk(self) -> Iterator[Entry]:
        yield self
        for child in self._children:
            yield from child._walk()

    def _wrong(self, field: str, *, expected: str, found: object) -> SpecError:
        line = error_line(self.source, self._entry, field, expected=expected, found=found)
        return SpecError(line)


def error_line(source: str, entry: str, field: str, *, expected: str, found: object) -> str:
    """Return the line of an error: the place of a value, what was expected there and what came."""
    parts = (source, entry, field, f"expected {expected}, found {shown(found)}")
    return ": ".join(part for part in parts if part)


def unknown_line(source: str, entries: Sequence[str], field: str, *, known: Iterable[str]) -> str:
    """Return the line of a key that nobody asks for, in one of *entries* or in several."""
    first = f"{source}: {entries[0]}" if entries[0] else source
    others = f" (and in {len(entries) - 1} more)" if len(entries) > 1 else ""
    meant = did_you_mean(field.rpartition(".")[2], known)
    return f"{first}: unknown key {field!r} is not used{others}{meant}"


def label(names: Iterable[object]) -> str:
    """Return the name of a row of a list, of one part or more, as it stands behind its index."""
    told = " on ".join(str(name)[:LONGEST_FOUND] for name in names if name)
    return f" {told!r}" if told else ""


def did_you_mean(found: object, known: Iterable[str]) -> str:
    """Return "; did you mean X?" if one of *known* is close to *found*, else nothing."""
    close = difflib.get_close_matches(str(found), list(known), n=1, cutoff=CLOSE)
    return f"; did you mean {close[0]}?" if close else ""


def read_json(path: Path) -> Any:
    """Return the value of the JSON file *path*. Raise SpecError with file and line where it cannot
    be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SpecError(f"{path}: expected a file, found none") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"{path}: expected a text file in UTF-8, found {unreadable(error)}"
        ) from None
    return parse_json(text, source=str(path))


def parse_json(text: str, *, source: str) -> Any:
    """Return the value of a JSON text. Raise SpecError with *source* (and line) where it is
    malformed.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs) or not _distinct(tuple(found)):
            key = _repeated([key for key, _ in pairs])
            raise SpecError(
                f"{source}: expected every key once, found {key!r} twice in {shown(found)}"
            )
        return found

    try:
        return without_halves(
            json.loads(text.removeprefix("\ufeff"), object_pairs_hook=unique), text
        )
    except json.JSONDecodeError as error:
        if not text.strip("\ufeff \t\r\n"):
            raise SpecError(f"{source}: expected JSON, found nothing") from None
        raise SpecError(
            f"{source}: line {error.lineno}: expected JSON, found a fault in column {error.colno} "
            f"({error.msg})"
        ) from None
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{source}: expected JSON, found {unreadable(error)}") from None


def without_halves(value: Any, text: str) -> Any:
    """Return *value*, what the JSON *text* says. Raise ValueError where a text in it has half of a
    pair of surrogates: JSON can name it, but nobody could write it down again.
    """
    if any(half in text for half in _HALVES):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("half of a pair of surrogates, which is no text") from None
    return value


@lru_cache(maxsize=256)  # a text has many objects and few sets of keys
def _distinct(keys: tuple[str, ...]) -> bool:
    """Tell whether no two *keys* are one in another case."""
    return len({key.lower() for key in keys}) == len(keys)


def _repeated(keys: Sequence[str]) -> str:
    """Return the first of *keys* that was there before, in any case."""
    lowered = [key.lower() for key in keys]
    return next(key for index, key in enumerate(keys) if key.lower() in lowered[:index])


def read_entry(path: Path) -> Entry:
    """Return the one object of the JSON file *path*."""
    return Entry(read_json(path), source=str(path))


def _bounds(*, at_least: float | None, above: float | None, at_most: float | None) -> str:
    bounds = []
    if at_least is not None:
        bounds.append(f">= {at_least:g}")
    if above is not None:
        bounds.append(f"> {above:g}")
    if at_most is not None:
        bounds.append(f"<= {at_most:g}")
    return " " + " and ".join(bounds) if bounds else ""


def _outside(
    value: float, *, at_least: float | None, above: float | None, at_most: float | None
) -> bool:
    return (
        (at_least is not None and value < at_least)
        or (above is not None and value <= above)
        or (at_most is not None and value > at_most)
    )


def shown(value: object) -> str:
    """Return *value* as an error line repeats it: short."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        text = repr(value[:LONGEST_FOUND])
        # A character that cannot be printed takes up to ten.
        return text if len(text) <= LONGEST_FOUND + 2 else text[:LONGEST_FOUND] + "…"
    if isinstance(value, tuple):
        return repr(" on ".join(str(part) for part in value))  # a model on an accelerator
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = type(value).__name__
    return text if len(text) <= LONGEST_FOUND else text[:LONGEST_FOUND] + "…"


def _label(item: object, keys: Sequence[str]) -> str:
    if not isinstance(item, Mapping):
        return ""
    lowered = {str(key).lower(): value for key, value in item.items()}
    return label(lowered.get(key) for key in keys)


def listed(names: Iterable[str]) -> str:
    """Return *names* as an error line repeats them: short."""
    text = ", ".join(names)
    return text if len(text) <= LONGEST_LIST else text[:LONGEST_LIST] + "…"


def unreadable(error: Exception) -> str:
    """Return what an error line says was found in place of a text."""
    if isinstance(error, UnicodeDecodeError):
        return "bytes that are not UTF-8"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, RecursionError):
        return "lists and objects in thousands of others"
    mark = getattr(error, "problem_mark", None)  # PyYAML's
    if mark is not None:
        return f"a fault in line {mark.line + 1} ({getattr(error, 'problem', None)})"
    if "int_max_str_digits" in str(error):
        return "a number of thousands of digits"
    return " ".join(str(error).split()) or type(error).__name__
