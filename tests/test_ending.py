"""How the program ends: with its code, its output and what is registered for the exit, whatever
its threads are doing.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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


def test_output_that_cannot_be_written_is_a_failure_and_a_line(repository: Path) -> None:
    """A full disk must not look like success."""
    command = [sys.executable, "-m", "inferno.cli.main", "--help"]
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            command, cwd=repository, stdout=full, stderr=subprocess.PIPE, timeout=30, check=False
        )
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [b"inferno: No space left on device"]
