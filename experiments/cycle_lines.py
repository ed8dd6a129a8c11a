"""The cycles of a run as lines of JSON, packed in memory or in a file: unpacked they would be most
of what a run has in memory.
"""

from __future__ import annotations

import json
import zlib
from abc import abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, overload
from weakref import finalize

from experiments.scores.changes import Desired, add_desired, begin_desired
from experiments.scores.cuts import Cuts, add_cuts, note_cut
from loop.actuator import planned
from loop.record_texts import RecordTexts
from loop.types import Change, CycleRecord, Decision, Snapshot, known_older
from twin.datafile import parse_json

_QUICK = 1  # a tenth of the size, for a hundredth of what a cycle costs
# So much text is packed at once [characters], or so many times what the first line has (of many
# servers that is megabytes), or so many lines: of a loop that looks every second most lines tell
# what the one before told.
_SIZE_MAX, _TIMES_FIRST, _LINES_MAX = 1 << 19, 2, 256


class CycleLines(Sequence[Mapping[str, Any]]):
    """The lines of loop.records of every cycle, in order; each is unpacked when it is asked for.

    desired is what was wanted of each server before the first cycle and after each, cuts when what
    was decided was cut by the GPUs that there are, failed how many
    cycles had an error, stopped how many of them did not go through, and stop why the first of
    these did not.
    """

    def __init__(self) -> None:
        self.desired: dict[str, list[Desired]] = {}
        self.cuts: Cuts = {}
        self._cut: tuple[Decision | None, dict[str, Change]] = None, {}  # of what cuts were noted
        self.failed = self.stopped = 0
        self.stop = ""
        self._write = RecordTexts()
        self._planned: tuple[Snapshot | None, tuple[Change, ...], dict[str, Change]] = None, (), {}
        # The histories of the servers that are planned, and what each is to have.
        self._wanted: list[tuple[list[Desired], str, int, int]] = []

    def add(self, record: CycleRecord) -> None:
        """Append the line of *record*."""
        planned_of = self._planned_of(record)
        if record.applied and planned_of:
            now_s = record.now_s
            for desired, accelerator, replicas, max_batch in self._wanted:
                desired.append(Desired(now_s, accelerator, replicas, max_batch))
        self._note_cuts(record, planned_of)
        self.failed += bool(record.error)
        if record.failed:
            self.stopped += 1
            self.stop = self.stop or record.error
        self._keep(self._write.parts(record, planned_of))

    def _note_cuts(self, record: CycleRecord, planned_of: dict[str, Change]) -> None:
        decision, planned_before = self._cut
        if record.decision is decision and planned_of is planned_before:
            return
        self._cut = record.decision, planned_of
        targets = record.decision.targets if record.decision else {}
        for name in planned_of:
            target = targets.get(name)
            is_cut = target is not None and target.why.kind == "capacity"
            note_cut(self.cuts, name, t_s=record.now_s, is_cut=is_cut)

    def _planned_of(self, record: CycleRecord) -> dict[str, Change]:
        """Return what is planned: what was before, if nothing is new but that servers are older."""
        seen, (before, changes, found) = record.seen, self._planned
        if seen is None:
            return {}
        same = before is not None and known_older(seen.servers, before.servers)
        if not same or record.changes is not changes:
            found = planned(seen, record.changes)
            self._planned = seen, record.changes, found
            for name, view in seen.servers.items():
                if name not in self.desired:
                    begin_desired(self.desired, name, view.accelerator, view.wanted)
            self._wanted = [
                (self.desired[name], one.accelerator, one.replicas, one.max_batch)
                for name, one in found.items()
            ]
        return found

    def texts(self) -> Iterator[str]:
        """Yield each line as text, without its end."""
        return (self._text(place).decode() for place in range(len(self)))

    @abstractmethod
    def _keep(self, parts: Sequence[str]) -> None: ...

    @abstractmethod
    def _text(self, place: int) -> bytes: ...

    @overload
    def __getitem__(self, place: int) -> Mapping[str, Any]: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Mapping[str, Any]]: ...

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return [json.loads(self._text(one)) for one in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        return json.loads(self._text(place % len(self)))


class PackedLines(CycleLines):
    """In memory, many together: what is told of a server is often what the line before told."""

    def __init__(self) -> None:
        super().__init__()
        self._packed: list[_Block] = []
        self._begins = [0]  # of the packed blocks, and of the open one
        self._open = _OpenBlock()
        self._unpacked: tuple[int, list[bytes]] = (-1, [])  # a block, and its parts

    def _keep(self, parts: Sequence[str]) -> None:
        self._open.add(parts)
        if self._open.is_full():
            self._packed.append(self._open.packed())
            self._begins.append(len(self))
            self._open = _OpenBlock()

    def _text(self, place: int) -> bytes:
        block = bisect_right(self._begins, place) - 1
        inside = place - self._begins[block]
        if block == len(self._packed):
            return self._open.line(inside)
        if self._unpacked[0] != block:
            self._unpacked = block, self._packed[block].parts()
        parts = self._unpacked[1]
        return b"".join([parts[one] for one in self._packed[block].lines_of[inside]])

    def __len__(self) -> int:
        return self._begins[-1] + len(self._open)


class _Places(dict[str, int]):
    """The places of parts by themselves, in order: one that is new comes last."""

    def __missing__(self, part: str) -> int:
        self[part] = place = len(self)
        return place


class _OpenBlock:
    """Lines that are to be packed together: the place of each part, and which a line has."""

    def __init__(self) -> None:
        self._places = _Places()
        self._lines: list[array[int]] = []
        self._size = self._size_of_first = 0

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, parts: Sequence[str]) -> None:
        """Append a line."""
        places = self._places
        known = len(places)
        self._lines.append(array("I", map(places.__getitem__, parts)))
        self._size += sum(map(len, islice(reversed(places), len(places) - known)))
        self._size_of_first = self._size_of_first or self._size

    def is_full(self) -> bool:
        """Tell whether it is to be packed."""
        size_max = max(_SIZE_MAX, _TIMES_FIRST * self._size_of_first)
        return self._size >= size_max or len(self._lines) >= _LINES_MAX

    def line(self, place: int) -> bytes:
        """Return a line."""
        parts = list(self._places)
        return "".join([parts[one] for one in self._lines[place]]).encode()

    def packed(self) -> _Block:
        """Pack the lines."""
        parts = [part.encode() for part in self._places]
        ends = array("I", accumulate(map(len, parts)))
        return _Block(zlib.compress(b"".join(parts), _QUICK), ends, tuple(self._lines))


class _Block(NamedTuple):
    """Lines that were packed together: each part once, where these end, and which a line has."""

    packed: bytes
    ends: array[int]
    lines_of: tuple[array[int], ...]

    def parts(self) -> list[bytes]:
        """Return the parts. All lines are many times as long: they are made one by one."""
        text = zlib.decompress(self.packed)
        return [text[begin:end] for begin, end in pairwise((0, *self.ends))]


class FileOfLines(CycleLines):
    """In a file at *path*, a line each; it is made anew unless *mode* says otherwise."""

    def __init__(self, path: Path, *, mode: Literal["w+b", "rb"] = "w+b") -> None:
        super().__init__()
        self._file = path.open(mode)
        finalize(self, _close, self._file)
        self._begins = [0]

    def _keep(self, parts: Sequence[str]) -> None:
        text = "".join(parts).encode()
        self._file.write(text + b"\n")
        self._begins.append(self._begins[-1] + len(text) + 1)

    def _text(self, place: int) -> bytes:
        begin, end = self._begins[place : place + 2]
        self._file.seek(begin)
        text = self._file.read(end - begin - 1)
        self._file.seek(0, 2)
        return text

    def flush(self) -> None:
        """Have all that was added in the file."""
        self._file.flush()

    def __len__(self) -> int:
        return len(self._begins) - 1


def _close(file: IO[bytes]) -> None:
    # What has to be in it was flushed; a disk that is full was told of then.
    with suppress(OSError):
        file.close()


class WrittenLines(FileOfLines):
    """In the file of a finished run at *path*. Raise OSError if it cannot be read, SpecError for a
    line that is none.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, mode="rb")
        for number, text in enumerate(self._file, start=1):
            line = parse_json(text.decode(), source=f"{path}: cycle {number}")
            add_desired(self.desired, line)
            add_cuts(self.cuts, line)
            self.failed += bool(line["error"])
            self._begins.append(self._begins[-1] + len(text.rstrip(b"\n")) + 1)
