"""The cycles of a run as lines of JSON, packed in memory or in a file: unpacked they would be most
of what a run has in memory.
"""

from __future__ import annotations

import json
import zlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload
from weakref import finalize

from experiments.scores.changes import Desired, add_desired
from loop.records import line_and_text
from loop.types import CycleRecord
from twin.datafile import parse_json

_QUICK = 1  # a tenth of the size, for a hundredth of what a cycle costs


class CycleLines(Sequence[Mapping[str, Any]]):
    """The lines of loop.records of every cycle, in order; each is unpacked when it is asked for.

    desired is what was wanted of each server before the first cycle and after each, failed how many
    cycles failed.
    """

    def __init__(self) -> None:
        self.desired: dict[str, list[Desired]] = {}
        self.failed = 0

    def add(self, record: CycleRecord) -> None:
        """Append the line of *record*."""
        line, text = line_and_text(record)
        add_desired(self.desired, line)
        self.failed += bool(line["error"])
        self._keep(text.encode())

    def texts(self) -> Iterator[str]:
        """Yield each line as text, without its end."""
        return (self._text(place).decode() for place in range(len(self)))

    @abstractmethod
    def _keep(self, text: bytes) -> None: ...

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
    """In memory."""

    def __init__(self) -> None:
        super().__init__()
        self._packed: list[bytes] = []

    def _keep(self, text: bytes) -> None:
        self._packed.append(zlib.compress(text, _QUICK))

    def _text(self, place: int) -> bytes:
        return zlib.decompress(self._packed[place])

    def __len__(self) -> int:
        return len(self._packed)


class FileOfLines(CycleLines):
    """In a file at *path*, a line each; it is made anew unless *mode* says otherwise."""

    def __init__(self, path: Path, *, mode: Literal["w+b", "rb"] = "w+b") -> None:
        super().__init__()
        self._file = path.open(mode)
        finalize(self, self._file.close)
        self._begins = [0]

    def _keep(self, text: bytes) -> None:
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
