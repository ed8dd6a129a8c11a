"""The file of a controller's records: whole lines, whatever the disk does."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from inferno.cli.controller import Records
from loop.errors import SpecError
from loop.types import CycleRecord


def record(cycle: int) -> CycleRecord:
    """Return the record of a cycle in which nothing happened."""
    return CycleRecord(
        cycle=cycle,
        now_s=60.0 * cycle,
        ts="",
        trigger="period",
        mode="act",
        backend="sim",
        policy="slo",
    )


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond *size* bytes, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_record_that_does_not_fit_leaves_no_part_of_itself(tmp_path: Path) -> None:
    """Half a line would spoil the one after it too."""
    path = tmp_path / "cycles.jsonl"
    with Records(path) as records:
        records.add(record(1))
        with (
            files_of_at_most(path.stat().st_size + 10),
            pytest.raises(OSError, match=r"too large|No space"),
        ):
            records.add(record(2))
        records.add(record(3))
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["cycle"] for line in lines] == [1, 3]


def test_a_full_disk_is_an_error_at_each_record_and_none_at_the_end() -> None:
    """The driver makes a warning of it; a service that is told to stop succeeds all the same."""
    with Records(Path("/dev/full")) as records:
        for cycle in (1, 2):
            with pytest.raises(OSError, match=r"No space left on device: .*/dev/full"):
                records.add(record(cycle))


def test_records_are_added_to_those_there_are(tmp_path: Path) -> None:
    """A controller that is started again must not erase what it did before."""
    path = tmp_path / "cycles.jsonl"
    for cycle in (1, 2):
        with Records(path) as records:
            records.add(record(cycle))
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2
    with pytest.raises(SpecError, match="expected a file that can be written, found"):
        Records(tmp_path)


def test_two_controllers_do_not_add_to_one_file(tmp_path: Path) -> None:
    """Their cycles would stand in turns, and be read as those of one. Who comes after the first has
    ended goes on where that was, and a device is everybody's.
    """
    path = tmp_path / "cycles.jsonl"
    with Records(path) as records:
        records.add(record(1))
        with pytest.raises(SpecError, match=f"^{path}: expected a file that no other process"):
            Records(path)
        assert len(path.read_text(encoding="utf-8").splitlines()) == 1
    with Records(path) as records:
        records.add(record(2))
    with Records(Path("/dev/null")), Records(Path("/dev/null")):
        pass
