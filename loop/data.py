"""Where a cycle gets its data: the files of a directory (static or dynamic mode), or a system that
never changes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from loop.schema.reading import CAPACITY, read_capacity, read_system
from twin.spec import SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from loop.spec import SystemData


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReading:
    """What one cycle may know. error is one line, empty when all files were well; then the last
    good data stand in.

    warnings are the lines that the reading before did not have already.
    """

    system: SystemData
    warnings: tuple[str, ...] = ()
    error: str = ""


class Data(Protocol):
    """What the controller asks at the start of every cycle."""

    def load(self) -> DataReading:
        """Return the data of this cycle. Only the first call may raise SpecError."""
        ...


class FixedData:
    """A system that never changes: of a message, of a test, of files at the start of a run. The
    *warnings* are told once.
    """

    def __init__(self, system: SystemData, *, warnings: tuple[str, ...] = ()) -> None:
        self._first: DataReading | None = DataReading(system=system, warnings=warnings)
        self._later = DataReading(system=system)

    def load(self) -> DataReading:
        """Return the system."""
        first, self._first = self._first, None
        return first or self._later


class DataSource:
    """The data files of a directory: static mode reads all but the capacity once, dynamic mode
    reads all each cycle.
    """

    def __init__(self, directory: Path, *, dynamic: bool) -> None:
        self._directory = directory
        self._capacity_file = str(directory / CAPACITY)
        self._dynamic = dynamic
        self._static: SystemData | None = None
        self._capacity: Mapping[str, int] = {}
        # The file of the capacity as it was read last: its text, what it says, and its warnings.
        self._last: tuple[bytes, Mapping[str, int], list[str]] | None = None
        self._made: tuple[SystemData, Mapping[str, int], SystemData] | None = None
        self._lines: list[str] = []
        self._told: frozenset[str] = frozenset()

    def static(self) -> SystemData:
        """Return all but the fresh capacity: from the files in dynamic mode or at first, else as
        read before.
        """
        if self._static is None or self._dynamic:
            self._static = read_system(self._directory, warn=self._lines.append)
            self._capacity = self._static.capacity
        return self._static

    def capacity(self) -> Mapping[str, int]:
        """Return the GPUs per accelerator type, from the file. It is looked at each cycle, and read
        if it is not what it was.
        """
        text = _bytes_of(self._capacity_file)
        if self._last is None or self._last[0] != text:
            self._last = None
            lines: list[str] = []
            try:
                self._capacity = read_capacity(self._directory, warn=lines.append)
            finally:
                self._lines += lines
            if text is not None:
                self._last = text, self._capacity, lines
        else:
            _, self._capacity, lines = self._last
            self._lines += lines
        return self._capacity

    def load(self) -> DataReading:
        """Return the data of this cycle. The first call may raise SpecError; a later one keeps the
        last good data.

        The static files and the capacity fail apart: a broken model file does not hide a node that
        is gone.
        """
        self._lines.clear()
        if self._static is None:
            system, error = self.static(), ""
        else:
            system, error = self._static, ""
            try:
                system = self.static()
            except SpecError as problem:
                error = str(problem)
            try:
                self.capacity()
            except SpecError as problem:
                # In dynamic mode read_system has met the same error already.
                error = error or str(problem)
        lines = frozenset(self._lines)
        fresh = tuple(line for line in dict.fromkeys(self._lines) if line not in self._told)
        self._told = lines if not error else self._told | lines
        return DataReading(system=self._with_capacity(system), warnings=fresh, error=error)

    def _with_capacity(self, system: SystemData) -> SystemData:
        """Return *system* with the capacity as it was read: the same object, while both are, by
        which others tell that nothing has changed.
        """
        made = self._made
        if made is None or made[0] is not system or made[1] is not self._capacity:
            whole = replace(system, capacity=self._capacity)
            made = self._made = system, self._capacity, whole
        return made[2]


def _bytes_of(path: str) -> bytes | None:
    """Return what is in *path*, None if it cannot be read: whoever reads it as data says why."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123, a third of pathlib's time
            return file.read()
    except OSError:
        return None
