"""`inferno stability`: how restless a policy is."""

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
    numbers,
    print_notes,
    print_paths,
    run_grid,
)

if TYPE_CHECKING:
    from experiments.grid import SweepConfig

TEXT = """\
Reversals, overshoot and attainment of policies over disturbance × period ×
start-up. The load is a step unless a scenario is given; overshoot is measured
after the last jump of a load. With --lags also where the seconds of the answer
to that jump go (scrape, tick, window, GPUs, start-up), and what each costs.

  inferno stability --policy slo,hpa --alpha 0,0.1 --period 15,60 --start-up 1,2
  inferno stability --policy slo,hpa --start-up 1 --lags
"""


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    add_run_options(parser, many=True, scenario="step")
    parser.add_argument(
        "--start-up",
        type=numbers,
        default=(0.5, 1.0, 2.0),
        metavar="X,…",
        help="factors on the start-up times of the data (default 0.5,1,2)",
    )
    parser.add_argument(
        "--lags",
        action="store_true",
        help="also the lag budget: each run again without one part of the lag",
    )
    add_seed_options(parser)
    add_result_options(parser, out="out/stability")


def _run(options: Namespace) -> int:
    from experiments.lags import lag_budget
    from experiments.stability import stability
    from experiments.tables import text_console

    grid = _grid(options)
    console = None if options.quiet else text_console()
    executor = chosen_executor(options)
    found = stability(
        grid,
        options.start_up,
        options.out,
        executor=executor,
        resume=options.resume,
        console=console,
    )
    parts = [found]
    if options.lags:
        parts.append(
            lag_budget(grid, options.out, executor=executor, resume=options.resume, console=console)
        )
    print_notes((note for part in parts for note in part.notes), quiet=options.quiet)
    print_paths(path for part in parts for path in part.paths)
    return EXIT_FAILURE if any(part.failures for part in parts) else EXIT_OK


def _grid(options: Namespace) -> SweepConfig:
    return run_grid(
        options,
        scenarios=tuple(options.scenario or ("step",)),
        policies=tuple(options.policy or ()),
        options=swept_options(options.policy_options),
    )


def _check(options: Namespace) -> None:
    from experiments.stability import planned_runs

    planned_runs(replace(_grid(options), seeds=1), options.start_up)


COMMAND = Command(
    name="stability",
    summary="reversals and overshoot over disturbance, period and start-up",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
    check=_check,
)
