"""Every shell block of the pages runs as a script, as somebody would paste it.

A comment before a block says what is different about it:
`<!-- not run: needs docker -->`, or `<!-- run until: TEXT -->` for one that serves until it is
stopped: it has run when it has said TEXT.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = (
    *("README.md", "CONTRIBUTING.md"),
    *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md")),
)
BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>not run|run until): (?P<note>.*?) -->\n)?\n?```sh\n(?P<text>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
NEEDED = ("sample-data", "yamls", "scripts", "docs")
PORTS = {3300, 8001}
LIMIT_S = 400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One shell block, where it stands, and what the comment before it says."""

    place: str
    text: str
    mark: str
    note: str


def blocks(page: str) -> list[Block]:
    """Return the shell blocks of a page."""
    if not (ROOT / page).exists():
        return []
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(
            place=f"{page}:{text.count(chr(10), 0, found.start('text'))}",
            text=found["text"],
            mark=found["mark"] or "",
            note=found["note"] or "",
        )
        for found in BLOCK.finditer(text)
    ]


RUN = {page: run for page in PAGES if (run := [b for b in blocks(page) if b.mark != "not run"])}
NOT_RUN = [block for page in PAGES for block in blocks(page) if block.mark == "not run"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a directory that looks like a checkout."""
    for name in NEEDED:
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_the_blocks_of_a_page_run_in_their_order(page: str, folder: Path) -> None:
    """What does not work when it is pasted is the last that a newcomer reads."""
    for port in PORTS:
        _skip_if_taken(port)
    for block in RUN[page]:
        log = folder / "output.txt"
        with log.open("w") as output, _running(block.text, folder, output.fileno()) as process:
            if block.mark == "run until":
                _await_text(block, process, log)
            else:
                code = process.wait(LIMIT_S)
                assert code == 0, f"{block.place}: exit code {code}\n{log.read_text()[-3000:]}"


@pytest.mark.parametrize("block", NOT_RUN, ids=[block.place for block in NOT_RUN])
def test_a_block_that_cannot_run_here_is_a_script_all_the_same(block: Block) -> None:
    """Its syntax is held; that it was not run is said aloud."""
    checked = subprocess.run(
        ["bash", "-n"], input=block.text, text=True, capture_output=True, check=False
    )
    assert checked.returncode == 0, f"{block.place}: {checked.stderr}"
    pytest.skip(f"{block.place} is not run: {block.note}")


@contextmanager
def _running(script: str, folder: Path, output: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run *script* in a session of its own; nothing of it is left at the end."""
    if "curl" in script and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    ours = ("INFERNO_", "CONTROLLER_", "COLLECTOR_", "ACTUATOR_", "KUBECONFIG", "PYTHONPATH")
    environment = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGKILL)


def _await_text(block: Block, process: subprocess.Popen[bytes], log: Path) -> None:
    end_s = time.monotonic() + LIMIT_S
    while block.note not in log.read_text():
        said = f"\n{log.read_text()[-3000:]}"
        assert process.poll() is None, f"{block.place}: ended by itself{said}"
        assert time.monotonic() < end_s, f"{block.place}: did not say {block.note!r}{said}"
        time.sleep(0.05)


def _skip_if_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            pytest.skip(f"port {port} is taken on this machine")
