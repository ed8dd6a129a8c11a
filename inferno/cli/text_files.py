"""Files that a command reads as text; - is standard input."""

from __future__ import annotations

import sys
from pathlib import Path

from twin.datafile import unreadable
from twin.spec import SpecError


def read_text(name: str) -> str:
    """Return the text of the file *name*. Raise SpecError, one line, if it cannot be read."""
    if name == "-":
        return sys.stdin.read()
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"{name}: expected a readable text file, found {unreadable(error)}"
        ) from None
