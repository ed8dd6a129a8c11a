"""`inferno compare`: which policy for a load, at what cost."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from inferno.cli.command import EXIT_FAILURE, EXIT_OK, Command
from inferno.cli.runs import (
    add_result_options,
    add_run_options,
    add_seed_options,
    asked_policies,
    chosen_executor,
    names,
    print_notes,
    print_paths,
    run_grid,
)

if TYPE_CHECKING:
    from experiments.compare import CompareConfig

TEXT = """\
Run policies under the same loads and seeds, and say which one to take: tables
(terminal, CSV, Markdown), differences in pairs, and figures of cost against
attainment and of GPUs over time. clairvoyant and static_peak are bounds: they
know the load. Finished runs are kept: --resume repeats nothing.

  inferno compare --policies slo,hpa,static_peak,clairvoyant --scenario day
  inferno compare --scenario day,ramp,code-trace --seeds 5 --out out/compare
"""

POLICIES = ("slo", "hpa", "static_peak", "clairvoyant")


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    parser.add_argument(
        "--policies",
        type=names,
        action="extend",
        metavar="A,B,…",
        help="policies and bounds, the first is what the others are compared with (default "
        + ",".join(POLICIES)
        + ")",
    )
    add_run_options(parser, many=True, further=True)
    add_seed_options(parser)
    parser.add_argument(
        "--price",
        type=float,
        default=0.01,
        metavar="$",
        help="what a missed request costs, for the clairvoyant, regret and advice (default 0.01)",
    )
    add_result_options(parser, out="out/compare")


def _run(options: Namespace) -> int:
    from experiments.compare import compare
    from experiments.tables import text_console

    outcome = compare(
        _asked(options),
        options.out,
        executor=chosen_executor(options),
        resume=options.resume,
        console=None if options.quiet else text_console(),
    )
    print_notes(outcome.notes, quiet=options.quiet)
    print_paths(outcome.paths)
    if options.quiet:
        for line in outcome.advice:
            print(line)
    return EXIT_FAILURE if outcome.failures else EXIT_OK


def _asked(options: Namespace) -> CompareConfig:
    from experiments.compare import CompareConfig, contenders

    return CompareConfig(
        contenders=contenders(asked_policies(options, POLICIES), options.policy_options),
        loads=run_grid(options),
        price_usd=options.price,
    )


def _check(options: Namespace) -> None:
    from experiments.compare import planned_runs

    asked = _asked(options)
    planned_runs(replace(asked, loads=replace(asked.loads, seeds=1)))


COMMAND = Command(
    name="compare",
    summary="which policy for a load, at what cost",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
    check=_check,
)
