"""`inferno report`: one HTML page of runs, sweeps, comparisons and records."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from inferno.cli.command import EXIT_OK, Command
from inferno.cli.runs import print_paths, working

TEXT = """\
Write one HTML page of runs, sweeps, comparisons, and records of a live loop
(ours or the Go loop's). It needs no network: the drawing code is in it. Runs
and records stand side by side, with the reason of each decision on hover.

  inferno report out/ramp
  inferno report out/slo out/hpa --out two.html
  inferno report records.jsonl --title "Tuesday, 14:00"
"""


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    parser.add_argument(
        "directories",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="what sim, sweep, compare, tune, stability or study wrote, or a file of records",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("report.html"),
        metavar="FILE",
        help="the page (default report.html); it replaces only a page of its own",
    )
    parser.add_argument("--title", default="", help="its heading (default: the directories)")


def _run(options: Namespace) -> int:
    with working("reading and drawing", quiet=options.quiet):
        from inferno.web.report import write_report

        write_report(options.directories, options.out, title=options.title)
    print_paths([options.out])
    return EXIT_OK


COMMAND = Command(
    name="report",
    summary="one HTML page of runs, sweeps, comparisons and records",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
