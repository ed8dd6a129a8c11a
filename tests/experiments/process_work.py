"""Functions for spawned processes to work on: they must live in a module that a new interpreter can
import.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def square(value: int) -> int:
    """Return the square, or fail on 3 as a run may."""
    if value == 3:
        raise ValueError("three is\nnot liked")
    return value * value


def square_or_die(value: int) -> int:
    """Return the square; 3 kills the whole process, as the kernel does when memory is short."""
    if value == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return value * value


def hears_interrupts(_: None) -> bool:
    """Tell whether Ctrl-C reaches this process."""
    return signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def beat(directory: str) -> None:
    """Write a sign of life into a file of this process, again and again, for two minutes at
    most.
    """
    path = Path(directory, str(os.getpid()))
    for count in range(2400):
        path.write_text(str(count))
        time.sleep(0.05)
