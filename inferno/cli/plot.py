"""`inferno plot`: the figures of a run or a sweep again."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from inferno.cli.command import EXIT_OK, Command
from inferno.cli.runs import print_paths

TEXT = """\
Draw the figures of a run or a sweep again, from the records that it wrote.

  inferno plot out/grid --svg
"""


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="what sim or sweep wrote")
    parser.add_argument("--svg", action="store_true", help="write SVG files beside the PNG ones")


def _run(options: Namespace) -> int:
    from experiments.plots import plot_directory

    print_paths(plot_directory(options.directory, svg=options.svg))
    return EXIT_OK


COMMAND = Command(
    name="plot",
    summary="draw the figures of a run or a sweep again from its records",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
