"""Rows of many servers in a file, by server: what a run would else keep in memory until its end."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import finalize

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[Any]


class Spool:
    """Rows of *dtype*, which has a field `server`, in a file in *directory* without a name: it is
    gone when nobody has it open, however the process ends.
    """

    def __init__(self, directory: Path, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        # Open as long as somebody has the rows.
        self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115, as it says
        finalize(self, self._file.close)
        self._end = 0
        # By server, where parts of its rows begin, and how many they are.
        self._parts: dict[int, list[tuple[int, int]]] = {}

    def add(self, rows: Rows) -> None:
        """Append *rows*, of any servers."""
        if not len(rows):
            return
        order = np.argsort(rows["server"], kind="stable")
        # An index would take the fields of each row apart, and ten times as long.
        rows = rows.take(order)
        servers, first = np.unique(rows["server"], return_index=True)
        self._file.seek(self._end)
        self._file.write(rows.data)
        ends = [*first[1:].tolist(), len(rows)]
        for server, begin, end in zip(servers.tolist(), first.tolist(), ends, strict=True):
            place = self._end + begin * self._dtype.itemsize
            self._parts.setdefault(server, []).append((place, end - begin))
        self._end += rows.nbytes

    def count(self, server: int) -> int:
        """Return how many rows *server* has."""
        return sum(count for _, count in self._parts.get(server, ()))

    def parts(self, server: int) -> Iterator[Rows]:
        """Yield the rows of *server* as they came."""
        for place, count in self._parts.get(server, ()):
            rows = np.empty(count, self._dtype)
            self._file.seek(place)
            read = self._file.readinto(rows.data.cast("B"))
            assert read == rows.nbytes, f"expected {rows.nbytes} bytes of a spool, got {read}"
            yield rows
