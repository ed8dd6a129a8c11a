"""`inferno optimize`: a system in, an allocation out, as JSON."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from inferno.cli.command import EXIT_OK, Command
from inferno.cli.solver_options import add_solver_options, rules_of, time_limit_of

TEXT = """\
Read {"system": {...}} (the message of POST /optimizeOne) and print the
allocation as JSON: which accelerator, how many replicas and what batch size
each server gets, why, and which servers cannot be served.

  inferno optimize system.json
  inferno optimize --solver greedy --compat system.json
  cat system.json | inferno optimize -
"""


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    parser.add_argument("file", metavar="FILE", help="JSON file, - for standard input")
    add_solver_options(parser)


def _run(options: Namespace) -> int:
    from inferno.cli.runs import print_notes
    from inferno.cli.text_files import read_text
    from loop.schema.optimizer_json import optimize_json
    from twin.datafile import parse_json

    notes: list[str] = []
    answer = optimize_json(
        parse_json(read_text(options.file), source=options.file),
        source=options.file,
        solver=options.solver,
        rules=rules_of(options),
        objective=options.objective,
        time_limit=time_limit_of(options),
        warn=notes.append,
    )
    print_notes(notes, quiet=options.quiet)
    print(json.dumps(answer, indent=2, allow_nan=False))
    return EXIT_OK


COMMAND = Command(
    name="optimize",
    summary="one allocation for one system",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
