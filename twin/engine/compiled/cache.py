"""Where compiled code is kept between processes, and whether there is a compiler."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from functools import lru_cache
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


def cache_directory(sources: Sequence[Path] = SOURCES) -> Path:
    """Return the directory of the code that *sources*, this Python and this Numba make.

    It is below $NUMBA_CACHE_DIR, or $XDG_CACHE_HOME, or ~/.cache; one that cannot be written below
    is passed over for the directory of temporary files.
    """
    own = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    base = Path(own) if own else Path.home() / ".cache"
    directory = base / "inferno-twin" / _key(tuple(sources))
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        directory = Path(gettempdir()) / f"inferno-twin-{os.getuid()}" / directory.name
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return directory


@lru_cache
def _key(sources: tuple[Path, ...]) -> str:
    # Once: whoever asks for code asks.
    total = hashlib.sha256(f"{sys.version} {version('numba')}".encode())
    for path in (*sources, Path(__file__).with_name("machine_code.py")):
        total.update(path.read_bytes())
    return total.hexdigest()[:16]
