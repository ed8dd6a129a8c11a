"""The commands optimize and analyze: a system or replicas in, allocations or figures out, as
JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from loop.errors import SpecError
from loop.schema.analysis_lines import analyze_lines
from loop.schema.optimizer_json import optimize_json
from twin.datafile import parse_json

EXIT_OK, EXIT_BAD_INPUT = 0, 2

AddCommand = Callable[..., argparse.ArgumentParser]


def add_commands(add: AddCommand) -> None:
    """Add these commands; *add*(name, run, summary, text) makes a parser for one."""
    _add_optimize(add)
    _add_analyze(add)


def _add_optimize(add: AddCommand) -> None:
    parser = add(
        "optimize",
        _optimize,
        "one allocation for one system",
        """\\
Read {"system": {...}} (the message of POST /optimizeOne) and print the allocation as JSON: which accelerator, how many
replicas and what batch size each server gets, why, and who cannot be served.

  inferno optimize system.json
  inferno optimize --solver greedy --compat system.json      as the Go optimizer answers
  cat system.json | inferno optimize -
""",
    )
    parser.add_argument("file", metavar="FILE", help="JSON file, - for standard input")
    parser.add_argument("--solver", choices=("greedy", "exact"), default=None, help="default exact")
    parser.add_argument(
        "--compat", action="store_true", help="size and choose as the Go optimizer does"
    )
    parser.add_argument(
        "--compat-early", action="store_true", help="as the Go optimizer of mid 2025 did"
    )
    parser.add_argument(
        "--objective", choices=("value", "cost"), default="value", help="least value or least cost"
    )
    parser.add_argument(
        "--time-limit", type=float, metavar="S", help="give the best found after so many seconds"
    )


def _add_analyze(add: AddCommand) -> None:
    parser = add(
        "analyze",
        _analyze,
        "queue figures or sizes of one replica, a JSON line each",
        """\\
Read JSON lines with alpha, beta, gamma, avgIn, avgOut, maxBatch, maxQueue, maxNumTokens and either rate [req/s]
(analysed) or targets {ttft, itl, tps} (sized); print one JSON line each. A malformed line is answered with an error and
does not stop the stream; the exit code is then 2.

  echo '{"alpha":6.49,"beta":0.0219,"gamma":4.96e-5,"avgIn":512,"avgOut":256,"maxBatch":64,"rate":2}' | inferno analyze
""",
    )
    parser.add_argument(
        "file", nargs="?", default="-", metavar="FILE", help="JSON lines (default: standard input)"
    )


def _optimize(options: argparse.Namespace) -> int:
    answer = optimize_json(
        parse_json(_read(options.file), source=options.file),
        source=options.file,
        solver=options.solver,
        compat=options.compat,
        compat_early=options.compat_early,
        objective=options.objective,
        time_limit_s=options.time_limit,
    )
    print(json.dumps(answer, indent=2, allow_nan=False))
    return EXIT_OK


def _analyze(options: argparse.Namespace) -> int:
    malformed = 0
    for answer in analyze_lines(_lines(options.file)):
        print(answer.text, flush=True)
        malformed += answer.malformed
    return EXIT_BAD_INPUT if malformed else EXIT_OK


def _read(name: str) -> str:
    if name == "-":
        return sys.stdin.read()
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise SpecError(f"{name}: expected a readable text file, found {reason}") from None


def _lines(name: str) -> Iterator[str]:
    """Yield the lines of a file, or of standard input as they come."""
    yield from sys.stdin if name == "-" else _read(name).splitlines()
