"""What users read, in files that a review shows: all help texts, and the line for each bad input.

`make snapshots` writes them anew.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from inferno.cli.main import main

HERE = Path(__file__).parent
SNAPSHOTS = HERE / "snapshots"
BAD_INPUT = HERE / "bad_input"
BAD_COMMANDS = [
    line
    for line in (BAD_INPUT / "commands.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
COMMANDS = (
    *(
        "",
        "sim",
        "sweep",
        "compare",
        "tune",
        "stability",
        "check",
        "study",
        "explain-misses",
        "plot",
        "report",
        "optimize",
        "analyze",
        "fit",
        "model",
        "init",
    ),
    *("controller", "controller --backend kube", "controller --backend http"),
    *("collector", "optimizer", "actuator", "twin", "emulator", "replay", "doctor", "adopt"),
    "completion",
    "import",
    "what-if",
    "drift",
)

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every text the same width, no colours, and no settings of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith(("INFERNO_", "CONTROLLER_", "COLLECTOR_", "ACTUATOR_", "KUBE")):
            monkeypatch.delenv(name)
    for name, value in {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)


def run(arguments: Sequence[str], capsys: Capture) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error of the command."""
    try:
        code = main(list(arguments))
    except SystemExit as end:
        code = int(end.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def compare(name: str, text: str) -> None:
    """Hold *text* to the snapshot *name*, or write it if UPDATE_SNAPSHOTS is set."""
    file = SNAPSHOTS / name
    if os.environ.get("UPDATE_SNAPSHOTS"):
        file.write_text(text, encoding="utf-8")
    known = file.read_text(encoding="utf-8") if file.exists() else ""
    changes = difflib.unified_diff(
        known.splitlines(), text.splitlines(), name, "now", lineterm="", n=1
    )
    assert known == text, "\n".join([*changes, "If this is meant: make snapshots"])


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="other Pythons lay help texts out in other ways"
)
def test_the_help_texts_are_those_that_were_reviewed(capsys: Capture) -> None:
    """A help text is read by every user and, when it changes, by nobody."""
    texts = []
    for command in COMMANDS:
        code, out, err = run([*command.split(), "--help"], capsys)
        assert (code, err) == (0, "")
        lines = "\n".join(line.rstrip() for line in out.rstrip().splitlines())
        texts.append(f"$ {' '.join(['inferno', *command.split(), '--help'])}\n{lines}\n")
    compare("help.txt", "\n\n".join(texts))


def test_the_help_texts_are_those_of_all_commands(capsys: Capture) -> None:
    """A command that is added must be added here."""
    _, out, _ = run(["--help"], capsys)
    named = set(re.findall(r"^ {2,4}([a-z][a-z-]+)  ", out, flags=re.MULTILINE))
    assert named
    assert named <= set(COMMANDS)


def test_the_lines_for_bad_input_are_those_that_were_reviewed(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each is one line, says what was expected and what came, and ends the command with 2."""
    folder = shutil.copytree(BAD_INPUT, tmp_path / "bad_input")
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    lines, wrong = [], []
    for command in BAD_COMMANDS:
        _, *arguments = shlex.split(command)
        code, out, err = run(arguments, capsys)
        lines.append(f"$ {command}\n{out}{err}")
        if (code, out, len(err.splitlines())) != (2, "", 1):
            wrong.append(f"{lines[-1]}exit code {code}")
    assert not wrong, "\n".join(wrong)
    assert sorted(folder.rglob("*")) == before, "something was written"
    compare("bad_input.txt", "\n".join(lines))
