"""Results appear whole or not at all, and an output that cannot be written is told before the
work.
"""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from experiments.output import require_writable, whole_directory, whole_file, write_text
from twin.spec import SpecError


class BrokenError(Exception):
    """A failure in the middle of the work."""


def write_and_break(out: Path) -> None:
    """Fail after a file was written."""
    with whole_directory(out) as scratch:
        (scratch / "a").write_text("new")
        raise BrokenError


def test_a_new_directory_appears_only_when_the_work_is_done(tmp_path: Path) -> None:
    """Whoever watches the directory must never meet half a run."""
    out = tmp_path / "deep" / "run"
    with whole_directory(out) as scratch:
        (scratch / "a").write_text("1")
        assert not out.exists()
    assert [path.name for path in out.iterdir()] == ["a"]
    assert [path.name for path in out.parent.iterdir()] == ["run"]


def test_an_existing_directory_keeps_its_files_when_the_work_fails(tmp_path: Path) -> None:
    """A second run into the same place that fails leaves the first."""
    (tmp_path / "a").write_text("old")
    with pytest.raises(BrokenError):
        write_and_break(tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]
    with whole_directory(tmp_path) as scratch:
        (scratch / "a").write_text("new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "new")]


def test_a_failed_work_leaves_no_new_directory(tmp_path: Path) -> None:
    """Not even an empty one."""
    with pytest.raises(BrokenError):
        write_and_break(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_names_no_file_is_told_of_the_one_it_was_for(tmp_path: Path) -> None:
    """On a full disk: which of several it is, nobody could tell."""
    for target, writing in ((tmp_path / "run", whole_directory), (tmp_path / "a", whole_file)):
        with pytest.raises(OSError, match="No space left") as told, writing(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        assert told.value.filename == str(target)


def test_a_second_writer_of_the_same_place_is_refused_at_once(tmp_path: Path) -> None:
    """It would work for an hour, and then find the place taken."""
    for out in (tmp_path / "run", tmp_path):
        with whole_directory(out) as scratch:
            (scratch / "a").write_text("1")
            with pytest.raises(SpecError, match="another process is writing it now"):
                write_and_break(out)
        assert (out / "a").read_text() == "1"


def test_what_a_killed_writer_left_goes_with_the_next_one(tmp_path: Path) -> None:
    """Half a run of a process that is no more is of no use to anybody."""
    left = tmp_path / ".run.part-abc"
    left.mkdir()
    (left / "a").write_text("half")
    with whole_directory(tmp_path / "run") as scratch:
        (scratch / "a").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_output_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    """A file is in the way: told at the start, not after an hour of simulation."""
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SpecError, match="expected a directory that can be written") as told:
            write_and_break(out)
        assert "\n" not in str(told.value)
        with pytest.raises(SpecError, match="expected a directory that can be written"):
            require_writable(out)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """No part file stays behind."""
    write_text(tmp_path / "a.json", "1")
    write_text(tmp_path / "a.json", "2")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "2")]


def test_what_is_no_text_is_written_escaped(tmp_path: Path) -> None:
    """The name of a file in another encoding, in a report of an hour of runs."""
    write_text(tmp_path / "a", "gr\udcc3\udcb6 ö")
    assert (tmp_path / "a").read_text(encoding="utf-8") == r"gr\udcc3\udcb6 ö"
