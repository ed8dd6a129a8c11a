"""What a policy would have decided over the cycles of a recording (`cycles.jsonl` of a run, or the
--records of a controller), beside what was decided then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.go_records import from_go, is_go_record
from loop.backends.replay import replay
from loop.records import record_line
from twin.datafile import parse_json
from twin.spec import SpecError

if TYPE_CHECKING:
    from loop.ports import Policy
    from loop.spec import SystemData

Line = Mapping[str, Any]


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
    lines = read_cycles(path)
    for number, (before, line) in enumerate(pairwise(lines), start=2):
        if line["t_s"] < before["t_s"]:
            raise SpecError(
                f"{path.name}: cycle {number}: expected a time after that of the cycle before "
                f"({before['t_s']:g} s), found {line['t_s']:g} s: replay one run at a time"
            )
    return lines


def read_cycles(path: Path) -> list[Line]:
    """Return the lines of *path*, a recording of ours or of the Go loop: of one run, or of a loop
    that was started several times. Raise SpecError, one line, if there is something else in it.

    A last line that has no end yet is left out: a loop is writing it, or was stopped while it did.
    """
    try:
        texts = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise SpecError(f"{path}: expected a readable text file, found {reason}") from None
    if len(texts) > 1 and not texts[-1].endswith("\n") and not _is_json(texts[-1]):
        texts.pop()
    read = [
        parse_json(text, source=f"{path.name}: cycle {number}")
        for number, text in enumerate(texts, start=1)
    ]
    if read and all(isinstance(line, dict) and is_go_record(line) for line in read):
        read = list(from_go(read, source=path.name))
    for number, line in enumerate(read, start=1):
        if not isinstance(line, dict) or "t_s" not in line:
            raise SpecError(
                f"{path.name}: cycle {number}: expected the record of a cycle, found "
                f"{texts[number - 1].rstrip()[:60]!r}"
            )
    return read


def continued(lines: Sequence[Line]) -> list[Line]:
    """Return *lines* of a loop that may have been started again on one axis of time: after a start
    its time goes on from the wall clock, and the line says so under "restarted".
    """
    found: list[Line] = []
    moved_s = 0.0
    for before, line in zip([None, *lines], lines, strict=False):
        again = before is not None and line["t_s"] < before["t_s"]
        if before is not None and again:
            passed_s = _wall_s(line) - _wall_s(before)
            moved_s += before["t_s"] - line["t_s"] + max(passed_s, 0.0)
        told = {"restarted": True} if again else {}
        found.append({**line, "t_s": line["t_s"] + moved_s, **told} if moved_s else line)
    return found


def _wall_s(line: Line) -> float:
    """Return the wall clock of *line* [s], 0 if it tells none."""
    try:
        return datetime.fromisoformat(line["ts"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return 0.0


def _is_json(text: str) -> bool:
    try:
        parse_json(text, source="")
    except SpecError:
        return False
    return True


def replayed(lines: Sequence[Line], policy: Policy, data: SystemData) -> Iterator[Replayed]:
    """Yield the cycles of *lines* in which servers were seen, see `loop.backends.replay.replay`."""
    rest = iter(lines)
    for record in replay(lines, policy, data):
        same = (record.ts, record.cycle)
        recorded = next(line for line in rest if (line["ts"], line["cycle"]) == same)
        yield Replayed(recorded=recorded, decided=record_line(record))


def mean_costs(cycles: Sequence[Replayed]) -> tuple[float, float]:
    """Return the mean cost of what was given in a cycle, and of what would have been [cents/h]."""
    recorded = sum(cycle.recorded["totalCost"] or 0.0 for cycle in cycles)
    decided = sum(cycle.decided["totalCost"] or 0.0 for cycle in cycles)
    return recorded / len(cycles), decided / len(cycles)


def _given(row: Line) -> tuple[str, int, int]:
    return row["accelerator"], row["replicas"], row["maxBatch"]
