"""`inferno tune`: options of policies from training seeds, scored on others."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from inferno.cli.command import EXIT_FAILURE, EXIT_OK, Command
from inferno.cli.runs import (
    add_result_options,
    add_run_options,
    asked_policies,
    chosen_executor,
    names,
    print_notes,
    print_paths,
    run_grid,
)

if TYPE_CHECKING:
    from experiments.tune import TuneConfig

TEXT = """\
Try options of each policy on training seeds, the same number of runs for every
policy, take those with the least cost + price × misses, and compare the
policies as shipped and tuned on seeds that they were not tuned on.

  inferno tune --policies slo,hpa --scenario day --train-seeds 2 --seeds 3
  inferno tune --policies hpa --set hpa.target=0.5,0.6,0.75 --scenario ramp
"""

POLICIES = ("slo", "hpa")


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    parser.add_argument(
        "--policies",
        type=names,
        action="extend",
        metavar="A,B,…",
        help="policies to tune, and bounds to show (default slo,hpa)",
    )
    add_run_options(parser, many=True, further=True)
    parser.add_argument("--seed", type=int, help="the first training seed (default 1)")
    parser.add_argument(
        "--train-seeds", type=int, default=2, help="how many seeds to tune on (default 2)"
    )
    parser.add_argument(
        "--seeds", type=int, default=2, help="how many seeds after them to score on (default 2)"
    )
    parser.add_argument(
        "--budget",
        type=int,
        default=5,
        help="settings that each policy may try on each load and training seed (default 5)",
    )
    parser.add_argument(
        "--price",
        type=float,
        default=0.01,
        metavar="$",
        help="what a missed request costs (default 0.01)",
    )
    add_result_options(parser, out="out/tune")


def _run(options: Namespace) -> int:
    from experiments.tables import text_console
    from experiments.tune import TUNED, tune

    outcome, chosen = tune(
        _asked(options),
        options.out,
        executor=chosen_executor(options),
        resume=options.resume,
        console=None if options.quiet else text_console(),
    )
    for policy, settings in chosen.items():
        if settings:
            print(f"{policy} tuned: {', '.join(f'{name}={settings[name]}' for name in settings)}")
    print_notes(outcome.notes, quiet=options.quiet)
    print_paths([options.out / TUNED, *outcome.paths])
    return EXIT_FAILURE if outcome.failures else EXIT_OK


def _asked(options: Namespace) -> TuneConfig:
    from experiments.tune import TuneConfig

    return TuneConfig(
        policies=asked_policies(options, POLICIES),
        loads=run_grid(options),
        options=tuple(options.policy_options),
        train_seeds=options.train_seeds,
        budget=options.budget,
        price_usd=options.price,
    )


def _check(options: Namespace) -> None:
    from experiments.tune import training_runs

    training_runs(replace(_asked(options), train_seeds=1))


COMMAND = Command(
    name="tune",
    summary="options of policies from training seeds, scored on others",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
    check=_check,
)
