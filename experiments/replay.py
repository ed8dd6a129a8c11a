"""What a policy would have decided over the cycles of a recording (`cycles.jsonl` of a run, or the
--records of a controller or of the Go loop), beside what was decided then.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.dates import date_of
from loop.backends.replay import replay
from loop.records import record_line
from twin.datafile import parse_json, shown, unreadable
from twin.spec import SpecError

if TYPE_CHECKING:
    from loop.ports import Policy
    from loop.spec import SystemData

Line = Mapping[str, Any]
_EXPECTED = {str: "a text", float: "a number", int: "a whole number >= 0", list: "a list […]"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A cycle as it was recorded, and as the policy would have decided: lines of the same form."""

    recorded: Line
    decided: Line

    @property
    def differences(self) -> list[tuple[Line, Line]]:
        """Return the rows of the servers that would have been given something else: recorded, and
        decided.
        """
        decided = {row["name"]: row for row in self.decided["servers"]}
        pairs = [(row, decided[row["name"]]) for row in self.recorded["servers"]]
        return [(before, now) for before, now in pairs if _given(before) != _given(now)]


def read_recording(path: Path) -> list[Line]:
    """Return the lines of *path*, a recording of ours or of the Go loop. Raise SpecError, one line,
    if they are not those of one run.
    """
    lines = list(read_cycles(path))
    for number, line in enumerate(lines, start=1):
        _check_decided(line, f"{path}: cycle {number}")
    for number, (before, line) in enumerate(pairwise(lines), start=2):
        if line["t_s"] < before["t_s"]:
            raise SpecError(
                f"{path}: cycle {number}: expected a time after that of the cycle before "
                f"({before['t_s']:g} s), found {line['t_s']:g} s: replay one run at a time"
            )
    return lines


def _check_decided(line: Line, place: str) -> None:
    """Raise SpecError unless *line* tells when it was decided, and what, which is compared."""
    _require(line, "ts", str, place)
    _require(line, "t_s", float, place)
    _require(line, "cycle", int, place)
    if line.get("totalCost") is not None:
        _require(line, "totalCost", float, place)
    _require(line, "servers", list, place)
    for row in line["servers"]:
        if not isinstance(row, Mapping):
            raise SpecError(f"{place}: servers: expected objects {{…}}, found {shown(row)}")
        whose = f"{place}: {shown(row.get('name'))}"
        _require(row, "accelerator", str, whose)
        for name in ("replicas", "maxBatch"):
            _require(row, name, int, whose)


def _require(told: Line, name: str, kind: type, place: str) -> None:
    value = told.get(name)
    kinds = (int, float) if kind is float else (kind,)
    fits = isinstance(value, kinds) and not isinstance(value, bool)
    if not fits or (kind is int and (value or 0) < 0):
        raise SpecError(f"{place}: {name}: expected {_EXPECTED[kind]}, found {shown(value)}")


def read_cycles(path: Path) -> Iterator[Line]:
    """Yield the lines of *path*, a recording of ours or of the Go loop, as they are read: of one
    run, or of a loop that was started several times. Raise SpecError, one line, if there is
    something else in it.

    A last line that has no end yet is left out: a loop is writing it, or was stopped while it did.
    """
    lines = _parsed(path)
    first = next(lines, None)
    if first is None:
        return
    whole = chain([first], lines)
    if isinstance(first, dict) and is_go_record(first):
        yield from from_go(whole, source=str(path))
        return
    for number, line in enumerate(whole, start=1):
        if not isinstance(line, dict) or "t_s" not in line:
            raise SpecError(
                f"{path}: cycle {number}: expected the record of a cycle, found "
                f"{json.dumps(line, ensure_ascii=False, separators=(',', ':'))[:60]!r}"
            )
        yield line


def _parsed(path: Path) -> Iterator[Any]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, text in enumerate(file, start=1):
                if number > 1 and not text.endswith("\n") and not _is_json(text):
                    return
                yield parse_json(text, source=f"{path}: cycle {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"{path}: expected a readable text file, found {unreadable(error)}"
        ) from None


def continued(lines: Iterable[Line]) -> Iterator[Line]:
    """Yield *lines* of a loop that may have been started again on one axis of time: after a start
    its time goes on from the wall clock, and the line says so under "restarted".
    """
    moved_s = 0.0
    before: Line | None = None
    for line in lines:
        again = before is not None and line["t_s"] < before["t_s"]
        if before is not None and again:
            passed_s = _wall_s(line) - _wall_s(before)
            moved_s += before["t_s"] - line["t_s"] + max(passed_s, 0.0)
        told = {"restarted": True} if again else {}
        yield {**line, "t_s": line["t_s"] + moved_s, **told} if moved_s else line
        before = line


def _wall_s(line: Line) -> float:
    """Return the wall clock of *line* [s], 0 if it tells none."""
    try:
        return date_of(line["ts"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return 0.0


def _is_json(text: str) -> bool:
    try:
        parse_json(text, source="")
    except SpecError:
        return False
    return True


def replayed(
    lines: Sequence[Line], policy: Policy, data: SystemData, *, source: str = "recording"
) -> Iterator[Replayed]:
    """Yield the cycles of *lines* in which servers were seen, see `loop.backends.replay.replay`.
    *source* is where an error says that they are from.
    """
    rest = iter(lines)
    try:
        for record in replay(lines, policy, data):
            same = (record.ts, record.cycle)
            recorded = next(line for line in rest if (line["ts"], line["cycle"]) == same)
            yield Replayed(recorded=recorded, decided=record_line(record))
    except SpecError as error:
        raise SpecError(f"{source}: {error}") from None


def options_recorded(lines: Iterable[Line], *, policy: str) -> dict[str, Any]:
    """Return the options that *lines* tell of *policy*: those of the first line that tells any."""
    told = (line.get("policyOptions") for line in lines if line.get("policy") == policy)
    return dict(next((options for options in told if isinstance(options, Mapping)), {}))


def mean_costs(cycles: Sequence[Replayed]) -> tuple[float, float]:
    """Return the mean cost of what was given in a cycle, and of what would have been [cents/h]."""
    recorded = sum(cycle.recorded.get("totalCost") or 0.0 for cycle in cycles)
    decided = sum(cycle.decided["totalCost"] or 0.0 for cycle in cycles)
    return recorded / len(cycles), decided / len(cycles)


def _given(row: Line) -> tuple[str, int, int]:
    return row["accelerator"], row["replicas"], row["maxBatch"]


def is_go_record(line: Mapping[str, Any]) -> bool:
    """Tell whether *line* is a record of the Go loop: it has no time of the run."""
    return "t_s" not in line and {"ts", "cycle", "servers"} <= set(line)


def from_go(lines: Iterable[Mapping[str, Any]], *, source: str) -> Iterator[dict[str, Any]]:
    """Yield *lines* of the Go loop as lines of loop.records.

    What a server has in a cycle is what the cycle before gave it (in the first, what it was given
    itself), and counts as ready: the Go loop records no pods. Raise SpecError for a line that is
    none.
    """
    given: dict[str, Mapping[str, Any]] = {}
    first: datetime | None = None
    for number, line in enumerate(lines, start=1):
        try:
            at = date_of(line["ts"])
            first = first or at
            rows = [_row(row, given.get(row["name"], row)) for row in line["servers"]]
            found = {
                "ts": line["ts"],
                "t_s": (at - first).total_seconds(),
                "cycle": line["cycle"],
                "applied": True,
                "error": "",
                "failedPhase": "",
                "servers": rows,
                "internals": line.get("internals") or [],
                "capacity": [
                    {
                        "type": row["type"],
                        "available": row["available"],
                        "used": row.get("allocated", 0),
                        "seen": True,
                    }
                    for row in line.get("capacity") or []
                ],
                "totalCost": line.get("totalCost"),
                "timing": line.get("timing") or {},
            }
        except (KeyError, TypeError, ValueError) as problem:
            raise SpecError(
                f"{source}: cycle {number}: expected a record of the Go loop, found one that is "
                f"wrong in {str(problem)[:60]}"
            ) from None
        yield found
        given |= {row["name"]: row for row in line["servers"]}


def _row(row: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **dict.fromkeys(("throughput", "avgInTok", "avgOutTok", "itl", "ttft", "outputTps")),
        **dict.fromkeys(("starting", "pending", "draining", "running", "waiting", "backlog"), 0),
        "kvUsage": 0.0,
        "reporting": None,
        "class": "Free",
        "rpm": None,
        **row,
        "currentAccelerator": before["accelerator"],
        "currentMaxBatch": before.get("maxBatch", 0),
        "wanted": before["replicas"],
        "ready": before["replicas"],
    }
