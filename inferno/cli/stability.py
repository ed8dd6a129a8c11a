"""`inferno stability`: how restless a policy is."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from inferno.cli.command import EXIT_FAILURE, EXIT_OK, Command
from inferno.cli.policies import swept_options
from inferno.cli.runs import add_run_options, numbers, print_paths, run_config

TEXT = """\
Reversals, overshoot and attainment of policies over disturbance × period ×
start-up. The load is a step unless a scenario is given; overshoot is measured
after the last jump of a load.

  inferno stability --policy slo,hpa --alpha 0,0.1 --period 15,60 --start-up 1,2
"""


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    add_run_options(parser, many=True)
    parser.add_argument(
        "--start-up",
        type=numbers,
        default=(0.5, 1.0, 2.0),
        metavar="X,…",
        help="factors on the start-up times of the data (default 0.5,1,2)",
    )
    parser.add_argument("--seed", type=int, help="the first seed (default 1)")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds (default 1)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/stability"),
        metavar="DIR",
        help="where to write (default out/stability)",
    )
    parser.add_argument("--jobs", type=int, help="processes (default: one a core)")
    parser.add_argument(
        "--resume", action="store_true", help="reuse the finished runs of --out that are valid"
    )


def _run(options: Namespace) -> int:
    from rich.console import Console

    from experiments.grid import SweepConfig
    from experiments.stability import stability

    grid = SweepConfig(
        base=run_config(options),
        scenarios=options.scenario or ("step",),
        policies=tuple(options.policy or ()),
        options=swept_options(options.policy_options),
        alphas=options.alpha or (),
        intervals_s=options.interval or (),
        periods_s=options.period or (),
        seeds=options.seeds,
    )
    _, paths, failures = stability(
        grid,
        options.start_up,
        options.out,
        jobs=options.jobs,
        resume=options.resume,
        console=None if options.quiet else Console(),
    )
    print_paths(paths)
    return EXIT_FAILURE if failures else EXIT_OK


COMMAND = Command(
    name="stability",
    summary="reversals and overshoot over disturbance, period and start-up",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
