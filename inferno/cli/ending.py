"""How the program ends if threads are still at work."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn


def end_program(code: int) -> NoReturn:
    """End the program with exit code *code*, whatever daemon threads are doing.

    A thread that wakes while the interpreter is being taken down is ended by pthread_exit in the
    midst of C code, and that can abort the whole program (seen: exit code 134 in one of five
    stops during a request to an API server that was away). So if there are such threads, the
    interpreter is not taken down: what must be done at exit is done, and the program is gone.
    """
    if not any(thread.daemon for thread in threading.enumerate()):
        sys.exit(code)
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.main_thread():
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, or its reader has gone away
            stream.flush()
    os._exit(code)
