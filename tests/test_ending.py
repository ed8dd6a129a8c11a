"""How the program ends: with its code, its output and what is registered for the exit, whatever
its threads are doing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from inferno.cli.main import main

BUSY = """
import atexit, socket, threading
from inferno.cli.main import end_program

def work():
    while True:
        with socket.create_server(("127.0.0.1", 0)) as there:
            socket.create_connection(there.getsockname()).close()

atexit.register(print, "at exit")
for _ in range({threads}):
    threading.Thread(target=work, daemon=True).start()
print("output")
end_program(3)
"""


@pytest.mark.costly
def test_threads_at_work_change_neither_the_exit_code_nor_the_output(repository: Path) -> None:
    """A thread that wakes while the interpreter is taken down can abort the program."""
    for threads in (0, 4, 4, 4):
        ended = subprocess.run(
            [sys.executable, "-c", BUSY.format(threads=threads)],
            cwd=repository,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (ended.returncode, ended.stdout.split("\n")) == (3, ["output", "at exit", ""])


SLOW = """
import os, signal, sys, threading
from inferno.cli.main import end_program
from loop.services.serving import end_well_on_signals

end_well_on_signals()

class Late:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

kept = [Late()]
kept.append(kept)
end_program(0)
"""


@pytest.mark.costly
def test_a_second_signal_does_not_make_a_failure_of_a_good_end(repository: Path) -> None:
    """Process groups get it twice, and while Python takes itself down it has its old effect."""
    ended = subprocess.run([sys.executable, "-c", SLOW], cwd=repository, timeout=30, check=False)
    assert ended.returncode == 0


@pytest.mark.parametrize("words", [["--help"], ["sim", "--help"], ["adopt", "--help"]])
def test_output_that_cannot_be_written_is_a_failure_and_a_line(
    words: list[str], repository: Path
) -> None:
    """A full disk must not look like success."""
    command = [sys.executable, "-m", "inferno.cli.main", *words]
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            command, cwd=repository, stdout=full, stderr=subprocess.PIPE, timeout=30, check=False
        )
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [b"inferno: No space left on device"]


def test_help_whose_reader_goes_away_is_no_failure(repository: Path) -> None:
    """`inferno sim --help | head -1` has shown what was wanted."""
    command = f"{sys.executable} -m inferno.cli.main sim --help"
    read, written = os.pipe()
    os.close(read)
    ended = subprocess.run(
        command.split(),
        cwd=repository,
        stdout=written,
        stderr=subprocess.PIPE,
        timeout=30,
        check=False,
    )
    os.close(written)
    assert (ended.returncode, ended.stderr) == (0, b"")


STOPS = '''
"""Is interrupted as it decides."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Stops:
    name: str = "stops"
    tick_s: float = 30.0

    def start(self):
        return 0

    def decide(self, snapshot, data, state):
        raise KeyboardInterrupt
'''


def test_who_interrupts_a_sweep_is_told_how_it_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After an hour of runs that is the first question."""
    (tmp_path / "stops.py").write_text(STOPS)
    words = [
        "--data",
        "sample-data/small",
        "--policy",
        str(tmp_path / "stops.py"),
        "--hours",
        "0.02",
    ]
    sweep = ["sweep", *words, "--jobs", "1", "--out", str(tmp_path / "out"), "--quiet"]
    given = {"data": words[1], "policy": words[3], "hours": words[5]}
    parts = {"parts": [{"name": "a", "run": "sim", "with": given}]}
    (tmp_path / "study.yaml").write_text(json.dumps(parts))
    study = ["study", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out"), "--quiet"]
    of_study = "part a ended with code 130; what is finished is kept: --resume goes on"
    for command, told in (
        (study, f"inferno sim: interrupted\ninferno study: {of_study}\n"),
        (sweep, "inferno sweep: interrupted; what is finished is kept: --resume goes on\n"),
        (["sim", *words, "--out", str(tmp_path / "one")], "inferno sim: interrupted\n"),
    ):
        assert main(command) == 130
        assert capsys.readouterr().err.endswith(told)


def test_sigterm_interrupts_a_command_with_a_line(repository: Path) -> None:
    """Schedulers and `docker stop` send it: nothing was said, and process 1 of a container did not
    hear of it.
    """
    command = [sys.executable, "-m", "inferno.cli.main", "optimize", "-"]
    with subprocess.Popen(
        command, cwd=repository, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        process.stdin.write("{" * 70_000)  # more than a pipe holds: it has begun to read
        process.stdin.flush()
        process.terminate()
        _, told = process.communicate(timeout=30)
    assert (process.returncode, told) == (143, "inferno optimize: interrupted\n")


TWICE = """
import os, signal
from inferno.cli.main import _hear_of_sigterm

_hear_of_sigterm()
for _ in range(2):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt:
        print("interrupted")
print("told")
"""


def test_a_sigterm_that_comes_twice_at_once_is_one(repository: Path) -> None:
    """`timeout` sends it to its program and to its group: what was to be told was lost."""
    ended = subprocess.run(
        [sys.executable, "-c", TWICE],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "interrupted\ntold\n")
