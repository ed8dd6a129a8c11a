"""How the program ends: with its code, its output and what is registered for the exit, whatever
its threads are doing.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
