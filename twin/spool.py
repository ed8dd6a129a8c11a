"""Rows of many servers in a file, by server: what a run would else keep in memory until its end."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from io import RawIOBase
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
        write_whole(self._file, rows)
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
            read_whole(self._file, rows)
            yield rows


def write_whole(file: RawIOBase, array: Rows) -> None:
    """Write all of *array*. Raise OSError if that cannot be: a file without a buffer takes what
    there is room for, and says nothing of the rest.
    """
    rest = _bytes(array)
    while rest:
        rest = rest[file.write(rest) or 0 :]


def read_whole(file: RawIOBase, array: Rows) -> None:
    """Read all of *array*. Raise OSError if there is less."""
    rest = _bytes(array)
    while rest:
        count = file.readinto(rest)
        if not count:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rest = rest[count:]


def _bytes(array: Rows) -> memoryview:
    return array.data.cast("B") if array.nbytes else memoryview(b"")
