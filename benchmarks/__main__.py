"""Run the benchmarks, print one JSON line a figure, and say what moved since baseline.json.

Each benchmark is a process of its own that is ended with its children when its time is over.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.baseline import compare, update
from benchmarks.yardstick import relative, yardstick_s

# Generous: the longest takes a minute alone, and ten when eight others want the same cores.
LIMIT_S = 900.0

Figure = dict[str, Any]


def main(arguments: list[str]) -> int:
    """Run what is chosen. Return 1 if a benchmark failed or had to be ended; what moved is no
    failure.
    """
    options = _options(arguments)
    if options.here:
        for figure in _measured(options.here):
            print(json.dumps(figure), flush=True)
        return 0
    failed, figures = [], []
    for name in sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py")):
        if not options.words or any(word in name for word in options.words):
            command = [sys.executable, "-m", "benchmarks", "--here", name]
            error = run_one(command, figures, limit_s=options.limit_s)
            failed += [f"{name}: {error}"] if error else []
    for line in failed:
        print(line, file=sys.stderr)
    if options.write:
        print(update(figures))
    else:
        print("\n".join(compare(figures)))
    return 1 if failed else 0


def run_one(command: list[str], figures: list[Figure], *, limit_s: float) -> str:
    """Run *command*, print its lines and append them to *figures*. Return what was wrong with it,
    or nothing. Neither it nor a child of it is left after *limit_s*.
    """
    # A session of its own, so that its children can be ended with it.
    with subprocess.Popen(  # noqa: S603 our own module
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            out, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            return f"ended, for it took longer than {limit_s:g} s"
        finally:
            with suppress(ProcessLookupError):  # everybody of its session has ended
                os.killpg(process.pid, signal.SIGKILL)
    for line in out.splitlines():
        print(line, flush=True)
        figures.append(json.loads(line))
    return f"failed with exit status {process.returncode}" if process.returncode else ""


def _measured(name: str) -> Iterator[Figure]:
    """Yield the figures of a benchmark, each with its size relative to the yardstick.

    The yardstick is measured beside it, before and after: a processor changes its speed.
    """
    before_s = yardstick_s()
    figures = list(importlib.import_module(f"benchmarks.{name}").figures())
    one_s = min(before_s, yardstick_s())
    for figure in figures:
        yield {**figure, "relative": relative(figure["value"], figure["unit"], one_s)}


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("words", nargs="*", help="run only benchmarks whose name has one of these")
    parser.add_argument("--write", action="store_true", help="make the figures the new baseline")
    parser.add_argument(
        "--limit-s", type=float, default=LIMIT_S, help="seconds until a benchmark is ended"
    )
    parser.add_argument("--here", metavar="NAME", help="run one benchmark in this process")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
