"""`inferno sim`: one run on the twin."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inferno.cli.command import EXIT_OK, Command
from inferno.cli.policies import options_of_policy
from inferno.cli.runs import add_run_options, print_notes, print_paths, run_config

if TYPE_CHECKING:
    from experiments.config import RunConfig

TEXT = """\
Simulate servers, load and control loop for some hours, in virtual time, and
write the records, the scores and the replica timeline.

  inferno sim                                      27 servers, one hour
  inferno sim --scenario ramp --policy static --out out/static
  inferno sim --data sample-data/small --hours 0.5 --seed 7
"""


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    add_run_options(parser, many=False)
    parser.add_argument("--seed", type=int, help="everything random follows from it (default 1)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/sim"),
        metavar="DIR",
        help="where to write (default out/sim)",
    )


def _run(options: Namespace) -> int:
    from twin.garbage import rarely_collected

    # What is imported and drawn is a twentieth slower else.
    with rarely_collected(last=True):
        return _run_once(options)


def _run_once(options: Namespace) -> int:
    from experiments.progress import run_with_progress
    from experiments.tables import print_table, run_table, text_console

    console = text_console(quiet=options.quiet)
    result, paths = run_with_progress(_config(options), options.out, console=console)
    print_notes(result.notes, quiet=options.quiet)
    if not options.quiet:
        print_table(console, run_table(result.summary))
    if options.verbose:
        print(f"run {result.run_id}, seed {result.config.seed}, {_speed(result.timings)}")
    print_paths(paths)
    return EXIT_OK


def _config(options: Namespace) -> RunConfig:
    return run_config(
        options,
        scenario=options.scenario,
        policy=options.policy,
        policy_options=tuple(
            sorted(options_of_policy(options.policy or "slo", options.policy_options).items())
        ),
        disturbance_alpha=options.alpha,
        interval_s=options.interval,
        period_s=options.period,
    )


def _check(options: Namespace) -> None:
    from experiments.sources import read_sources

    read_sources(_config(options))


def _speed(timings: dict[str, float]) -> str:
    return f"{timings['cpu_s']:.1f} CPU-s, {timings['requests_per_cpu_s']:,.0f} requests per CPU-s"


COMMAND = Command(
    name="sim",
    summary="one run on the twin",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
    check=_check,
)
