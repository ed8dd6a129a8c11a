"""What a result was made with: versions of this package and of those that its figures depend on,
and the commit.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

_PACKAGE = "inferno-twin"
_FIGURES_DEPEND_ON = ("numpy", "scipy", "simpy", "pandas", "pyarrow")
_ROOT = Path(__file__).resolve().parent.parent


def package_version() -> str:
    """Return the version of this package."""
    return version(_PACKAGE)


def versions() -> dict[str, str]:
    """Return the versions that stand beside a result."""
    return {
        _PACKAGE: package_version(),
        "python": platform.python_version(),
        **{name: version(name) for name in _FIGURES_DEPEND_ON},
    }


def commit() -> str | None:
    """Return the git commit of the checkout that runs, with "-dirty" where it was changed; None
    outside a checkout.
    """
    git = shutil.which("git")
    # Looking only here keeps out a foreign repository around an installed package.
    if git is None or not (_ROOT / ".git").exists():
        return None
    command = [
        git,
        "-C",
        str(_ROOT),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty",
        "--exclude",
        "*",
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 -- a fixed command
    return answer.stdout.strip() or None
