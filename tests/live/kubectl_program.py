"""kubectl for tests: the program, if there is one, and calls that fail a test if they fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

OLDEST = (1, 27)


def find_kubectl() -> str:
    """Return a kubectl beside the interpreter or on the path; skip where there is none that is new
    enough.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which("kubectl", path=path)
    if found is None:
        pytest.skip("no kubectl beside the interpreter or on the path")
    text = _output([found, "version", "--client"])
    version = re.search(r"v(\d+)\.(\d+)", text)
    if version is None or (int(version[1]), int(version[2])) < OLDEST:
        pytest.skip(f"kubectl is older than {OLDEST[0]}.{OLDEST[1]}: {text.strip()}")
    return found


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60).stdout


class Kubectl:
    """The program, pointed at a twin. Each call gives what it printed, and fails the test where it
    failed.
    """

    def __init__(self, program: str, home: Path) -> None:
        self.program = program
        self.environment = {
            "KUBECONFIG": str(home / "config"),
            "HOME": str(home),
            "PATH": os.environ.get("PATH", ""),
        }

    def run(self, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command, whatever comes of it."""
        return subprocess.run(
            [self.program, *words],
            check=False,
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def __call__(self, *words: str, text: str | None = None) -> str:
        done = self.run(*words, text=text)
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done.stdout

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command that goes on."""
        return subprocess.Popen(
            [self.program, *words],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
