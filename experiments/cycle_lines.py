"""The cycles of a run as lines of JSON, kept packed: the records of a day would be most of what a
run has in memory.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

from loop.records import record_text
from loop.types import CycleRecord

_QUICK = 1  # a tenth of the size, for a hundredth of what a cycle costs


class CycleLines(Sequence[Mapping[str, Any]]):
    """The lines of loop.records of every cycle, in order; each is unpacked when it is asked for."""

    def __init__(self) -> None:
        self._packed: list[bytes] = []

    def add(self, record: CycleRecord) -> None:
        """Append the line of *record*."""
        self._packed.append(zlib.compress(record_text(record).encode(), _QUICK))

    def texts(self) -> Iterator[str]:
        """Yield each line as text, without its end."""
        for packed in self._packed:
            yield zlib.decompress(packed).decode()

    def __len__(self) -> int:
        return len(self._packed)

    @overload
    def __getitem__(self, place: int) -> Mapping[str, Any]: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Mapping[str, Any]]: ...

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return [json.loads(zlib.decompress(packed)) for packed in self._packed[place]]
        return json.loads(zlib.decompress(self._packed[place]))
