"""Where compiled code is kept between processes, and whether there is a compiler."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import gettempdir

import twin

# Whatever the compiled engine is made from.
_ROOT = Path(twin.__file__).parent
SOURCES = tuple(
    path
    for pattern in (
        "engine/compiled/*.py",
        "engine/telemetry.py",
        "engine/latency.py",
        "request.py",
    )
    for path in sorted(_ROOT.glob(pattern))
)


def installed() -> bool:
    """Tell whether there is a compiler."""
    return find_spec("numba") is not None


@cache
def broken() -> str:
    """Return in a line why the compiler that is installed cannot be loaded, nothing if it can:
    loading it takes a second.
    """
    try:
        import_module("numba")
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())
    return ""


def cache_directories(sources: Sequence[Path] = SOURCES) -> Iterator[Path]:
    """Yield the directories of the code that *sources*, this Python and this Numba make; code is
    looked for in all of them, and kept in the first that can be written. They may not be there.

    The first is below $NUMBA_CACHE_DIR, or $XDG_CACHE_HOME, or ~/.cache, the second below the
    directory of temporary files.
    """
    key = _key(tuple(sources))
    own = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    with suppress(RuntimeError):  # a user without a home, as in a container
        yield (Path(own) if own else Path.home() / ".cache") / "inferno-twin" / key
    with suppress(FileNotFoundError):  # no directory for such files
        yield Path(gettempdir()) / f"inferno-twin-{os.getuid()}" / key


@lru_cache
def _key(sources: tuple[Path, ...]) -> str:
    # Once: whoever asks for code asks.
    total = hashlib.sha256(f"{sys.version} {version('numba')}".encode())
    for path in (*sources, Path(__file__).with_name("machine_code.py")):
        total.update(path.read_bytes())
    return total.hexdigest()[:16]
