"""What a result was made with: versions of this package and of those that its figures depend on,
and the commit.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

PACKAGE = "inferno-twin"
_FIGURES_DEPEND_ON = ("numpy", "scipy", "simpy", "pandas", "pyarrow")
PACKAGES = ("inferno", "twin", "loop", "emulator", "experiments")
_ROOT = Path(__file__).resolve().parent.parent


def package_version() -> str:
    """Return the version of this package."""
    return version(PACKAGE)


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return a hash of the code of this package as it was when it was first asked for: a process
    that lives long may run other code than its files hold by now.
    """
    total = hashlib.sha256()
    for name in PACKAGES:
        for file in sorted((_ROOT / name).rglob("*.py")):
            content = file.read_bytes()
            total.update(f"{file.relative_to(_ROOT)} {len(content)} ".encode() + content)
    return total.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions that stand beside a result."""
    return {
        PACKAGE: package_version(),
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
