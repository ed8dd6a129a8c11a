"""The lines of successive records as text, in parts: what is told of a server that is as it was is
not written anew, and is the same part.
"""

from __future__ import annotations

import math
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from loop.json_text import is_plain
from loop.records import Line, allocated, head, model_row, server_row, tail, text_of
from loop.types import AGES as FIELDS
from loop.types import ages_of, known_older, only_older

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from loop.spec import SystemData
    from loop.types import Change, CycleRecord, ServerView, Snapshot, Target, Why

# The ages of a view by its field, in the order in which they stand in a row.
AGES = dict(zip(FIELDS, ("percentilesAgeS", "loadAgeS", "sampleAgeS"), strict=True))
_ages = attrgetter(*AGES)
_PARTS = 2 * len(AGES) + 1  # of a row
# No word of a line is this one, or they are written one by one.
_BETWEEN = "\x1e"


class _Told(NamedTuple):
    """What a row tells of a server."""

    view: ServerView
    estimated: ServerView | None
    data: SystemData | None
    target: Target | None
    unserved: Why | None
    desired: Change

    def is_as(self, other: _Told) -> bool:
        """Tell whether the rows differ in ages only. What is carried from cycle to cycle is the
        same object; equal ones may be written in another way.
        """
        return (
            self.target is other.target
            and self.data is other.data
            and self.unserved is other.unserved
            and self.desired.pools == other.desired.pools
            and only_older(self.view, other.view)
            and _estimate(self.estimated) == _estimate(other.estimated)
        )


def _estimate(view: ServerView | None) -> tuple[object, str] | None:
    return None if view is None else (view.load, view.load_source)


class _Written:
    """The texts of a server, each with a comma before it: its row, in parts without the ages
    between, and its latency model (none: nothing is known of data).
    """

    __slots__ = ("models", "parts", "told")

    def __init__(self, told: _Told, row: str, models: list[str]) -> None:
        self.told, self.parts, self.models = told, _without_ages("," + row), models

    def aged(self, view: ServerView) -> list[str]:
        """Return the parts of the row with the ages that *view* has."""
        found = [""] * _PARTS
        found[::2] = self.parts
        found[1::2] = map(_text_of_age, _ages(view))
        return found


@lru_cache(maxsize=64, typed=True)  # servers that were sampled together are as old
def _text_of_age(age_s: float | None) -> str:
    if type(age_s) is float and math.isfinite(age_s):
        return repr(age_s)
    return "null" if age_s is None else text_of({"": age_s})[4:-1]


def _without_ages(row: str) -> tuple[str, ...]:
    """Return what stands before, between and behind the ages. Within a word there are no quotes."""
    parts = []
    for name in AGES.values():
        before, key, row = row.partition(f'"{name}":')
        parts.append(before + key)
        row = row[row.index(",") :]
    return (*parts, row)


class _Rows(NamedTuple):
    """The rows of a line in parts, with their ages, and what they tell."""

    record: CycleRecord
    desired: Mapping[str, Change]
    parts: list[str]
    models: list[str]

    def is_as(self, record: CycleRecord, desired: Mapping[str, Change]) -> bool:
        """Tell whether the rows of *record* are said to differ in ages only."""
        last = self.record
        return (
            desired is self.desired
            and record.decision is last.decision
            and record.data is last.data
            and _is_older(record.seen, last.seen)
            and _is_older(record.estimated, last.estimated)
        )

    def aged(self, record: CycleRecord) -> _Rows:
        """Return those of *record*, which are as these but for the ages."""
        assert record.seen is not None, "it is older than these"
        parts, ages = self.parts.copy(), ages_of(record.seen.servers)
        for place, of_all in enumerate(zip(*ages, strict=True)):
            parts[2 * place + 1 :: _PARTS] = map(_text_of_age, of_all)
        return self._replace(record=record, parts=parts)


def _is_older(now: Snapshot | None, before: Snapshot | None) -> bool:
    if now is None or before is None:
        return False
    return known_older(now.servers, before.servers)


class RecordTexts:
    """Writes the records of one loop, one after the other."""

    def __init__(self) -> None:
        self._known: dict[str, _Written] = {}
        self._taken: dict[str, int] = {}
        self._rows: _Rows | None = None

    def parts(self, record: CycleRecord, desired: Mapping[str, Change]) -> list[str]:
        """Return the text of *record*, as loop.records has it, in parts; *desired* is what is
        planned of its servers.
        """
        last = self._rows
        if last is not None and last.is_as(record, desired):
            rows = last.aged(record)
        else:
            rows = self._rows_of(record, desired)
        self._rows = rows
        before, behind = _texts([head(record), tail(record, self._taken)])
        return [
            before[:-1] + ',"servers":[',
            *rows.parts,
            '],"internals":[',
            *rows.models,
            "]," + behind[1:],
        ]

    def _rows_of(self, record: CycleRecord, desired: Mapping[str, Change]) -> _Rows:
        told = _told(record, desired)
        if self._write(told):
            self._taken = allocated(record, desired)
        known = self._known
        rows = (known[name].aged(one.view) for name, one in told.items())
        models = (known[name].models for name in told)
        return _Rows(record, desired, _joined(rows), _joined(models))

    def _write(self, told: Mapping[str, _Told]) -> bool:
        """Write anew what is *told* of the servers that are not as they were; tell whether any is,
        or one has gone.
        """
        before = self._known
        new = {
            name: one
            for name, one in told.items()
            if name not in before or not one.is_as(before[name].told)
        }
        rows = _texts(
            [
                server_row(
                    one.view,
                    one.estimated,
                    one.data,
                    target=one.target,
                    unserved=one.unserved,
                    desired=one.desired,
                )
                for one in new.values()
            ]
        )
        models = _texts(
            [
                model_row(one.data, one.view, one.target, one.desired)
                for one in new.values()
                if one.data is not None
            ]
        )
        each = iter(models)
        for (name, one), row in zip(new.items(), rows, strict=True):
            before[name] = _Written(one, row, [] if one.data is None else ["," + next(each)])
        gone = before.keys() - told.keys()
        for name in gone:
            del before[name]
        return bool(new or gone)


def _told(record: CycleRecord, desired: Mapping[str, Change]) -> dict[str, _Told]:
    if record.seen is None:
        return {}
    estimated = record.estimated.servers if record.estimated else {}
    targets = record.decision.targets if record.decision else {}
    unserved = record.decision.unserved if record.decision else {}
    return {
        name: _Told(
            view,
            estimated.get(name),
            record.data,
            targets.get(name),
            unserved.get(name),
            desired[name],
        )
        for name, view in record.seen.servers.items()
    }


def _texts(rows: Sequence[Line]) -> list[str]:
    """Return each of *rows* as text: to write all at once takes less than one by one."""
    if not rows:
        return []
    plain = all(is_plain(row.get("details")) for row in rows)
    between: list[Any] = [_BETWEEN] * (2 * len(rows))
    between[::2] = rows
    text = text_of({"": between}, plain=plain)
    found = text[5 : -len(_CUT) - 1].split(_CUT)
    if len(found) == len(rows):
        return found
    return [text_of(row, plain=is_plain(row.get("details"))) for row in rows]


_CUT = f',"\\u{ord(_BETWEEN):04x}",'


def _joined(rows: Iterator[list[str]]) -> list[str]:
    """Return the parts of all rows, each of which begins with a comma, but the first."""
    found = [part for row in rows for part in row]
    found[:1] = [part[1:] for part in found[:1]]
    return found
