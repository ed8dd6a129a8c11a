"""The `inferno` command: it finds the subcommand, runs it, and turns errors into exit codes."""

from __future__ import annotations

import atexit
import errno
import os
import signal
import sys
import threading
import time
import traceback
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from inferno.cli.command import (
    EXIT_BAD_INPUT,
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    Command,
)
from inferno.cli.plain_signs import show_plainly

# Each in a module of its name, which is imported when its name is asked for.
NAMES = (
    "sim",
    "sweep",
    "compare",
    "explain-misses",
    "tune",
    "stability",
    "check",
    "study",
    "plot",
    "report",
    "optimize",
    "analyze",
    "fit",
    "model",
    "init",
    "controller",
    "collector",
    "optimizer",
    "actuator",
    "emulator",
    "twin",
    "replay",
    "doctor",
    "adopt",
    "import",
    "what-if",
    "drift",
    "completion",
)
# Modules that cannot have the name of their command: that is a word of the language.
MODULES = {"import": "import_system"}

USAGE = "usage: inferno [--help] [--version] COMMAND ..."
ABOUT = """\
Try an autoscaling policy for LLM servers on a digital twin, then run the same
loop live.
"""
EXAMPLES = """\
examples:
  inferno sim --scenario disturbed --alpha 0.5 --period 60 --out out/one
  inferno sweep --alpha 0.1,0.3,0.5 --period 30,60,120 --seeds 3 --out out/grid
  inferno plot out/grid
  inferno controller 60 false --backend sim --speed 20
  curl http://localhost:3300/invoke                 a cycle of that loop, now
  inferno optimize system.json --solver exact

Each command explains itself: inferno COMMAND --help
"""

AT_ONCE_S = 0.5  # signals within it are one
# What an installation puts beside the package of the command; the names are common ones.
PACKAGES = ("twin", "loop", "emulator", "experiments")


def program() -> NoReturn:
    """Be the installed command: run what the arguments say, and end the program."""
    try:
        _hear_of_sigterm()
        show_plainly((sys.stdout, sys.stderr))
        code = main()
    except BrokenPipeError:
        code = _unread()
    except KeyboardInterrupt as error:  # before a command runs; commands tell of their own
        print("inferno: interrupted", file=sys.stderr)
        code = _code_of(error)
    except OSError as error:  # where the help goes; commands tell of their own
        with suppress(OSError):
            print(f"inferno: {_of_system(error)}", file=sys.stderr)
        code = EXIT_FAILURE
    end_program(code)


def _hear_of_sigterm() -> None:
    """Let SIGTERM interrupt this program as Ctrl-C does, and a later one end it: what is finished
    is told of, and process 1 of a container would not hear of it at all.
    """

    def interrupt(number: int, _frame: object) -> NoReturn:
        first_s = time.monotonic()

        def end(number: int, _frame: object) -> None:
            # timeout(1) sends it to the program, and to the program as one of a group.
            if time.monotonic() > first_s + AT_ONCE_S:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)

        signal.signal(number, end)
        raise KeyboardInterrupt(number)

    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, interrupt)


def _code_of(error: KeyboardInterrupt) -> int:
    """Return the exit code of an interrupt: that of Ctrl-C, or as shells tell it of a signal."""
    return 128 + error.args[0] if error.args else EXIT_INTERRUPTED


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 success, 1 failure, 2 bad input (one clear line),
    130 interrupted (143 by SIGTERM).
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if taken := _taken_name():
        print(f"inferno: {taken}", file=sys.stderr)
        return EXIT_FAILURE
    if not words or words[0] in ("-h", "--help"):
        print(help_text(), end="", file=sys.stdout if words else sys.stderr)
        return EXIT_OK if words else EXIT_BAD_INPUT
    if words[0] == "--version":
        print(_version())
        return EXIT_OK
    if words[0] not in NAMES:
        print(f"inferno: {_unknown(words[0])} (see inferno --help)", file=sys.stderr)
        return EXIT_BAD_INPUT
    command, options = parse(words)
    return _run(command, options)


def parse(words: Sequence[str]) -> tuple[Command, Namespace]:
    """Return the command that *words* name, and its options. Leave with exit code 2 if they make no
    sense.
    """
    command = find_command(words[0])
    return command, command.parse(words[1:])


def module_of(name: str) -> str:
    """Return the module of the command *name*."""
    return MODULES.get(name, name.replace("-", "_"))


def find_command(name: str) -> Command:
    """Return the command *name*, one of NAMES."""
    command = import_module(f"inferno.cli.{module_of(name)}").COMMAND
    assert isinstance(command, Command)
    return command


def help_text() -> str:
    """Return what `inferno --help` says."""
    commands = [find_command(name) for name in NAMES]
    width = max(len(name) for name in NAMES) + 2
    rows = [f"  {command.name:{width}}{command.summary}" for command in commands]
    rows += [
        "",
        "options:",
        f"  {'-h, --help':{width}}  show this text",
        f"  {'--version':{width}}  show the version",
    ]
    return "\n".join([USAGE, "", ABOUT, "commands:", *rows, "", EXAMPLES])


def _run(command: Command, options: Namespace) -> int:
    # Known only here: what they belong to is not needed for a help text.
    from loop.errors import LoopError, SpecError

    try:
        return command.run(options)
    except (SpecError, LoopError) as error:
        if options.verbose:
            traceback.print_exc()
        print(f"inferno {command.name}: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT if isinstance(error, SpecError) else EXIT_FAILURE
    except BrokenPipeError:
        return _unread()
    except KeyboardInterrupt as error:
        print(f"inferno {command.name}: interrupted{_kept(options)}", file=sys.stderr)
        return _code_of(error)
    except (OSError, UnicodeError, RecursionError, MemoryError) as error:
        if options.verbose:
            traceback.print_exc()
        # A disk that is full, bytes that are no text, data nested or grown beyond all measure.
        if isinstance(error, OSError):
            text = _of_system(error)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                text += _kept(options)
        else:
            more = " ".join(str(error).split()) or "no more than that is known"
            text = f"{type(error).__name__}: {more}"
        print(f"inferno {command.name}: {text}", file=sys.stderr)
        return EXIT_FAILURE


def _kept(options: Namespace) -> str:
    """Return what to tell of a command that ends before its time, if it can go on."""
    return "; what is finished is kept: --resume goes on" if "resume" in options else ""


def _unread() -> int:
    """Return the exit code where the reader of our output went away (| head): not an error, but
    Python must not complain at exit either.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_OK


def _of_system(error: OSError) -> str:
    """Return what the system says, and of which file, in its words and not in Python's."""
    said = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return f"{error.filename}: {said}" if error.filename else said


def _unknown(word: str) -> str:
    from twin.datafile import did_you_mean

    if word.startswith("-"):
        return f"unrecognized arguments: {word}{did_you_mean(word, ('--help', '--version'))}"
    return f"expected a command, found {word[:60]!r}{did_you_mean(word, NAMES)}"


def _version() -> str:
    from importlib.metadata import version

    return f"inferno-twin {version('inferno-twin')}"


def _taken_name() -> str:
    """Return one line if another distribution's package stands where one of ours should, else
    nothing.
    """
    home = Path(__file__).resolve().parent.parent.parent
    for name in PACKAGES:
        spec = find_spec(name)
        origin = spec.origin if spec else None
        if origin is None or Path(origin).resolve().parent.parent != home:
            places = list(spec.submodule_search_locations or ()) if spec else []
            found = origin or next(iter(places), "nothing")
            return (
                f"expected the package {name!r} of inferno-twin in {home}, found {found}; install "
                "inferno-twin with pipx or in a virtual environment of its own"
            )
    return ""


def end_program(code: int) -> NoReturn:
    """End the program with exit code *code*, whatever daemon threads are doing.

    What must be done at exit is done, and the program is gone. To take the interpreter down would
    cost a service up to a second, in which a second SIGTERM ends it with a failure; and a thread
    that wakes meanwhile is ended by pthread_exit in the midst of C code, which can abort the
    program (seen: exit code 134 in one of five stops during a request to an API server that was
    away).
    """
    others = [one for one in threading.enumerate() if one is not threading.main_thread()]
    if others and not any(one.daemon for one in others):
        sys.exit(code)  # they may have to be told, and Python knows of whom
    for thread in others:
        if not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            pass  # its reader has gone away
        except OSError as error:
            code = code or EXIT_FAILURE
            with suppress(OSError, ValueError):
                print(f"inferno: {stream.name}: {_of_system(error)}", file=sys.stderr)
        except ValueError:
            pass  # it is closed
    os._exit(code)


if __name__ == "__main__":
    program()
