"""The cycles of a run as lines of JSON, packed in memory or in a file: unpacked they would be most
of what a run has in memory.
"""

from __future__ import annotations

import json
import zlib
from abc import abstractmethod
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, overload
from weakref import finalize

from experiments.scores.changes import Desired, add_desired, note_desired
from loop.actuator import planned
from loop.record_texts import RecordTexts
from loop.types import CycleRecord
from twin.datafile import parse_json

_QUICK = 1  # a tenth of the size, for a hundredth of what a cycle costs
_TOGETHER = 16


class CycleLines(Sequence[Mapping[str, Any]]):
    """The lines of loop.records of every cycle, in order; each is unpacked when it is asked for.

    desired is what was wanted of each server before the first cycle and after each, failed how many
    cycles failed.
    """

    def __init__(self) -> None:
        self.desired: dict[str, list[Desired]] = {}
        self.failed = 0
        self._write = RecordTexts()

    def add(self, record: CycleRecord) -> None:
        """Append the line of *record*."""
        seen = record.seen.servers if record.seen is not None else {}
        planned_of = planned(record.seen, record.changes) if record.seen is not None else {}
        for name, one in planned_of.items():
            view = seen[name]
            note_desired(
                self.desired,
                name,
                t_s=record.now_s,
                before=(view.accelerator, view.wanted),
                after=(one.accelerator, one.replicas) if record.applied else None,
            )
        self.failed += bool(record.error)
        self._keep(self._write.parts(record, planned_of))

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
    """In memory, so many together: what is told of a server is often what the line before told."""

    def __init__(self) -> None:
        super().__init__()
        self._packed: list[_Block] = []
        self._open: list[Sequence[str]] = []
        self._unpacked: tuple[int, list[bytes]] = (-1, [])

    def _keep(self, parts: Sequence[str]) -> None:
        self._open.append(parts)
        if len(self._open) == _TOGETHER:
            self._packed.append(_Block.of(self._open))
            self._open = []

    def _text(self, place: int) -> bytes:
        block, inside = divmod(place, _TOGETHER)
        if block == len(self._packed):
            return "".join(self._open[inside]).encode()
        if self._unpacked[0] != block:
            self._unpacked = block, self._packed[block].lines()
        return self._unpacked[1][inside]

    def __len__(self) -> int:
        return _TOGETHER * len(self._packed) + len(self._open)


class _Block(NamedTuple):
    """Lines that were packed together: each part once, where these end, and which a line has."""

    packed: bytes
    ends: array[int]
    lines_of: tuple[array[int], ...]

    @classmethod
    def of(cls, lines: Sequence[Sequence[str]]) -> Self:
        """Pack *lines*, which are in parts."""
        places: dict[str, int] = {}
        found = tuple(
            array("I", [places.setdefault(part, len(places)) for part in line]) for line in lines
        )
        parts = [part.encode() for part in places]
        ends = array("I", accumulate(map(len, parts)))
        return cls(zlib.compress(b"".join(parts), _QUICK), ends, found)

    def lines(self) -> list[bytes]:
        """Return the lines."""
        text = zlib.decompress(self.packed)
        parts = [text[begin:end] for begin, end in pairwise((0, *self.ends))]
        return [b"".join([parts[place] for place in line]) for line in self.lines_of]


class FileOfLines(CycleLines):
    """In a file at *path*, a line each; it is made anew unless *mode* says otherwise."""

    def __init__(self, path: Path, *, mode: Literal["w+b", "rb"] = "w+b") -> None:
        super().__init__()
        self._file = path.open(mode)
        finalize(self, self._file.close)
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


class WrittenLines(FileOfLines):
    """In the file of a finished run at *path*. Raise OSError if it cannot be read, SpecError for a
    line that is none.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, mode="rb")
        for number, text in enumerate(self._file, start=1):
            line = parse_json(text.decode(), source=f"{path.name}: cycle {number}")
            add_desired(self.desired, line)
            self.failed += bool(line["error"])
            self._begins.append(self._begins[-1] + len(text.rstrip(b"\n")) + 1)
