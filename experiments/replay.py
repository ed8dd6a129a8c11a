"""What a policy would have decided over the cycles of a recording: `cycles.jsonl` of a run, or the
--records of a controller.

It sees what was seen then, whatever it decides: its answer to one cycle does not change the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loop.backends.replay import ReplayBackend
from loop.clocks import MonotonicClock
from loop.controller import Controller, ControllerSettings
from loop.records import record_line, snapshot_of
from twin.datafile import parse_json
from twin.spec import SpecError

if TYPE_CHECKING:
    from loop.data import Data
    from loop.ports import Policy
    from loop.types import Snapshot

Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A cycle of a recording: its line, and what was seen in it."""

    line: Line
    seen: Snapshot


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
        return [(before, now) for before, now in pairs if given(before) != given(now)]


def given(row: Line) -> tuple[str, int, int]:
    """Return what *row*, of one server, gives it: accelerator, replicas, max batch."""
    return row["accelerator"], row["replicas"], row["maxBatch"]


def read_recording(path: Path) -> tuple[list[Recorded], int]:
    """Return the cycles of *path* in which the servers were seen, and how many others there are.

    Raise SpecError, one line, for a file that is not a recording.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise SpecError(f"{path}: expected a readable text file, found {reason}") from None
    read = [
        _recorded(text, place=f"{path}: cycle {at}") for at, text in enumerate(lines, 1) if text
    ]
    seen = [cycle for cycle in read if cycle is not None]
    if not seen:
        raise SpecError(f"{path}: expected cycles in which servers were seen, found none")
    return seen, len(read) - len(seen)


def replay(recording: Iterable[Recorded], *, policy: Policy, data: Data) -> Iterator[Replayed]:
    """Yield, cycle by cycle, what *policy* would have decided with *data*. Raise SpecError for data
    that no controller would start with.
    """
    cycles = list(recording)
    backend = ReplayBackend(cycle.seen for cycle in cycles)
    controller = Controller(
        backend=backend,
        policy=policy,
        data=data,
        clock=MonotonicClock(),
        settings=ControllerSettings(mode="advise"),
    )
    for cycle in cycles:
        backend.advance(cycle.seen.now_s)
        record = controller.cycle(cycle.seen.now_s, trigger=cycle.line["trigger"])
        same = {"ts": cycle.line["ts"], "cycle": cycle.line["cycle"]}
        yield Replayed(recorded=cycle.line, decided={**record_line(record), **same})


def mean_costs(cycles: Sequence[Replayed]) -> tuple[float, float]:
    """Return the mean cost of what was given in a cycle, and of what would have been [cents/h]."""
    recorded = sum(cycle.recorded["totalCost"] or 0.0 for cycle in cycles)
    decided = sum(cycle.decided["totalCost"] or 0.0 for cycle in cycles)
    return recorded / len(cycles), decided / len(cycles)


def _recorded(text: str, *, place: str) -> Recorded | None:
    """Return the cycle of one line, or None if nothing was seen in it."""
    line = parse_json(text, source=place)
    try:
        if not line["servers"]:
            return None
        for key in ("ts", "cycle", "trigger", "totalCost"):
            line[key]
        for row in line["servers"]:
            given(row)
        return Recorded(line=line, seen=snapshot_of(line))
    except (KeyError, TypeError, AttributeError) as error:
        raise SpecError(f"{place}: expected a cycle as it was recorded, found {error!r}") from None
