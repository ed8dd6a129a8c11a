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
    print_paths(plot_directory(options.directory, svg=options.svg))
    return EXIT_OK


def plot_directory(directory: Path, *, svg: bool = False) -> list[Path]:
    """Draw the figures of the run or the sweep that was written into *directory*, and return their
    paths; with *svg* as SVG, too.

    Raise SpecError where there is neither, or a file of it is missing or damaged.
    """
    from experiments.run_files import RUN, plot_run
    from experiments.sweep import RESULTS_PARQUET, plot_sweep
    from twin.spec import SpecError

    if (directory / RESULTS_PARQUET).exists():
        return plot_sweep(directory, svg=svg)
    if (directory / RUN).exists():
        return plot_run(directory, svg=svg)
    raise SpecError(
        f"{directory}: expected {RESULTS_PARQUET} (of a sweep) or {RUN} (of a run), found neither"
    )


COMMAND = Command(
    name="plot",
    summary="draw the figures of a run or a sweep again from its records",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
