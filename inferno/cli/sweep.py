"""`inferno sweep`: a grid of runs times seeds."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from inferno.cli.command import EXIT_FAILURE, EXIT_OK, Command
from inferno.cli.policies import swept_options
from inferno.cli.runs import (
    add_result_options,
    add_run_options,
    add_seed_options,
    chosen_executor,
    print_notes,
    print_paths,
    run_grid,
)

if TYPE_CHECKING:
    from experiments.grid import SweepConfig

TEXT = """\
Run every combination of the values given (separated by commas) for each seed.
Finished runs are kept: a sweep that was interrupted goes on with --resume and
repeats nothing.

  inferno sweep --alpha 0.1,0.3,0.5 --period 30,60,120 --seeds 3 --out out/grid
  inferno sweep --policy slo,static --scenario ramp --seeds 5 --resume
  inferno sweep --policy slo --policy hpa --set hpa.target=0.6,0.75
"""


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    add_run_options(parser, many=True)
    add_seed_options(parser)
    add_result_options(parser, out="out/sweep")


def _run(options: Namespace) -> int:
    from experiments.sweep import sweep_to_directory
    from experiments.tables import text_console

    outcome = sweep_to_directory(
        _grid(options),
        options.out,
        executor=chosen_executor(options),
        resume=options.resume,
        console=None if options.quiet else text_console(),
    )
    print_notes(outcome.notes, quiet=options.quiet)
    print_paths(outcome.paths)
    return EXIT_FAILURE if outcome.failed else EXIT_OK


def _grid(options: Namespace) -> SweepConfig:
    return run_grid(
        options,
        policies=tuple(options.policy or ()),
        options=swept_options(options.policy_options),
    )


def _check(options: Namespace) -> None:
    from experiments.sweep import plan

    plan(replace(_grid(options), seeds=1))


COMMAND = Command(
    name="sweep",
    summary="a grid of runs times seeds, on all cores",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
    check=_check,
)
