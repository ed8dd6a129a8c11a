"""`inferno plot`: the figures of a run, a sweep, a comparison or a stability question again."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inferno.cli.command import EXIT_OK, Command
from inferno.cli.runs import add_form_options, chosen_form, print_paths, working

if TYPE_CHECKING:
    from experiments.figures import Form

TEXT = """\
Draw the figures of a run, a sweep, a comparison or of inferno stability again,
from the records that it wrote; with --width for a page: letters are then as
large as its text, and what does not fit beside stands below.

  inferno plot out/grid --svg
  inferno plot out/compare --width 3.3 --svg
"""


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    parser.add_argument(
        "directory", type=Path, metavar="DIR", help="what sim, sweep, compare or stability wrote"
    )
    add_form_options(parser)


def _run(options: Namespace) -> int:
    with working("drawing", quiet=options.quiet):
        paths = plot_directory(options.directory, chosen_form(options))
    print_paths(paths)
    return EXIT_OK


def plot_directory(directory: Path, form: Form) -> list[Path]:
    """Draw the figures of what was written into *directory*, and return their paths.

    Raise SpecError where there is nothing, or a file of it is missing or damaged.
    """
    from experiments.compare.files import plot_comparison
    from experiments.compare.report import DIFFERENCES_CSV
    from experiments.run_files import RUN, plot_run
    from experiments.stability_figure import plot_stability
    from experiments.sweep import RESULTS_CSV, RESULTS_PARQUET, plot_sweep
    from twin.spec import SpecError

    if (directory / RESULTS_PARQUET).exists():
        return plot_sweep(directory, form)
    if (directory / DIFFERENCES_CSV).exists():
        return plot_comparison(directory, form)
    if (directory / RUN).exists():
        return plot_run(directory, form)
    if (directory / RESULTS_CSV).exists():
        return plot_stability(directory, form)
    raise SpecError(
        f"{directory}: expected {RUN} (of a run), {RESULTS_PARQUET} (of a sweep), "
        f"{DIFFERENCES_CSV} (of a comparison) or {RESULTS_CSV} (of stability), found none of them"
    )


COMMAND = Command(
    name="plot",
    summary="draw the figures of a run, sweep or comparison anew",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
