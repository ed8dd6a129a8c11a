"""Where results are written: whole files or none, into a directory known to be writable before the
work starts.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twin.spec import SpecError


@contextmanager
def whole_directory(out: Path) -> Iterator[Path]:
    """Give a scratch directory whose files come to stand in *out* when the block succeeds; else
    leave *out* as it was.

    A new *out* appears in one rename; in an existing one each file is replaced whole. Raise
    SpecError at once where it cannot be written.
    """
    exists = out.is_dir()
    with _writing(out):
        parent = out if exists else out.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        if out.exists() and not exists:
            raise NotADirectoryError(0, "a file of that name")
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.part-", dir=parent))
    try:
        yield scratch
        with _writing(out):
            _move(scratch, out, exists=exists)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


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


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SpecError(
            f"{out}: expected a directory that can be written, found {error.strerror or error}"
        ) from None


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Give a path beside *target* to write to; it becomes *target* when the block succeeds."""
    part = target.with_name(f".{target.name}.part-{os.getpid()}")
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Write the whole file or none."""
    with whole_file(target) as part:
        part.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write *value* as readable JSON, whole or not at all; NaN is a mistake of the caller."""
    write_text(target, json.dumps(value, indent=2, allow_nan=False) + "\n")
