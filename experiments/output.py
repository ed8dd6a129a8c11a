"""Where results are written: whole files or none, into a directory known to be writable before the
work starts.
"""

from __future__ import annotations

import fcntl
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twin.spec import SpecError

if TYPE_CHECKING:
    import pandas as pd

# In so many bytes a file shows whose it is.
MARKED_WITHIN = 65_536


@contextmanager
def whole_directory(out: Path) -> Iterator[Path]:
    """Give a scratch directory whose files come to stand in *out* when the block succeeds; else
    leave *out* as it was.

    A new *out* appears in one rename; in an existing one each file is replaced whole. Raise
    SpecError at once where it cannot be written, or another process writes it.
    """
    exists = out.is_dir()
    with _writing(out):
        parent = out if exists else out.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        if out.exists() and not exists:
            raise NotADirectoryError(0, "a file of that name")
        scratch, lock = _own_scratch(parent, out)
    try:
        with _named(out):
            yield scratch
        with _writing(out):
            _move(scratch, out, exists=exists)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(lock)


def _own_scratch(parent: Path, out: Path) -> tuple[Path, int]:
    """Return a scratch directory for *out* in *parent* and the lock that says that its writer
    lives. Those that dead writers left go; raise SpecError where one lives.
    """
    prefix = f".{out.name}.part-"
    turn = os.open(parent, os.O_RDONLY)  # one writer at a time looks who else there is
    try:
        with suppress(OSError):  # some file systems have no locks for directories
            fcntl.flock(turn, fcntl.LOCK_EX)
        for path in (out.absolute().parent, out):
            for left in path.glob(f"{glob.escape(prefix)}*/"):
                writer_lives = _writer_lives(left)
                if writer_lives:
                    raise SpecError(f"{out}: another process is writing it now")
                if writer_lives is False:
                    shutil.rmtree(left, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = os.open(scratch, os.O_RDONLY)
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
    finally:
        os.close(turn)
    return scratch, lock


def _writer_lives(scratch: Path) -> bool | None:
    """Tell whether the writer of *scratch* lives, whose lock goes when it does; None if the file
    system does not tell.
    """
    lock = os.open(scratch, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(lock)
    return False


def _move(scratch: Path, out: Path, *, exists: bool) -> None:
    scratch.chmod(0o755)  # mkdtemp made it private
    if not exists:
        scratch.rename(out)
        return
    for path in sorted(scratch.iterdir()):
        path.replace(out / path.name)


def require_writable(out: Path) -> None:
    """Make the directory *out*, and write and remove a file in it. Raise SpecError where that
    fails.
    """
    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass


def require_replaceable(target: Path, *, mark: bytes, what: str) -> None:
    """Raise SpecError where *target* is there and does not begin as *what* this program wrote, by
    the *mark* in its beginning: a slip of the pen must not take somebody's data.
    """
    if target.is_dir():
        raise SpecError(f"{target}: expected a file to write, found a directory")
    if not target.exists():
        return
    try:
        with target.open("rb") as file:
            begin = file.read(MARKED_WITHIN)
    except OSError as error:
        raise SpecError(
            f"{target}: expected a file that can be written, found {error.strerror or error}"
        ) from None
    if begin and mark not in begin:
        raise SpecError(f"{target}: expected no file or {what}, found another file")


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        above = (one for one in (out, *out.parents) if one.exists() and not one.is_dir())
        taken = next(above, None)
        found = error.strerror or error if taken is None else f"{taken}, which is a file"
        raise SpecError(f"{out}: expected a directory that can be written, found {found}") from None


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Give a path beside *target* to write to; it becomes *target* when the block succeeds."""
    part = target.with_name(f".{target.name}.part-{os.getpid()}")
    try:
        with _named(target):
            yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _named(target: Path) -> Iterator[None]:
    """Have errors that name no file (a write to one that is open, on a full disk) name *target*."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(target)
        raise


def write_text(target: Path, text: str) -> None:
    """Write the whole file or none. What is no text in it (names of files in another encoding) is
    escaped.
    """
    with whole_file(target) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_csv(target: Path, table: pd.DataFrame) -> None:
    """Write the rows of *table*, whole or not at all, without their numbers."""
    with whole_file(target) as part:
        table.to_csv(part, index=False, lineterminator="\n")


def write_json(target: Path, value: Any) -> None:
    """Write *value* as readable JSON, whole or not at all; NaN is a mistake of the caller."""
    write_text(target, json.dumps(value, indent=2, allow_nan=False) + "\n")
