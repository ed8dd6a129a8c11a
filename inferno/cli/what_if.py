"""`inferno what-if`: a system as it is and as it would be, in pairs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from inferno.cli.command import EXIT_FAILURE, EXIT_OK, Command
from inferno.cli.policies import POLICY_HELP, options_of_policy
from inferno.cli.runs import (
    add_policy_options,
    add_result_options,
    chosen_executor,
    print_notes,
    print_paths,
)

TEXT = """\
Try changes of a system on the twin before they are made: another policy, more
or fewer GPUs, other objectives, another load, a faster start. The system as it
is and as it would be meet the same requests, seed by seed; cost and attainment
of both and their differences are told as a table, and written for inferno
report (and as what-if.json). DIR is a data directory, such as inferno import
writes.

  inferno what-if mine --gpus H100=-4 --load x1.5
  inferno what-if mine --policy hpa --slo Premium:ttft=300 --start-up 30
"""


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="the system as it is")
    changes = parser.add_argument_group("changes")
    changes.add_argument("--policy", help=POLICY_HELP + "; default: as it is now")
    add_policy_options(changes)
    changes.add_argument(
        "--gpus",
        action="append",
        default=[],
        metavar="TYPE=N,…",
        help="GPUs of a type: H100=-4, H100=+4, or H100=12 in all",
    )
    changes.add_argument(
        "--slo",
        action="append",
        default=[],
        metavar="CLASS:TARGET=MS",
        help="an objective of a class: Premium:ttft=300,itl=40 (ttft, itl, tps, ttft-p95 …)",
    )
    changes.add_argument("--load", metavar="xF", help="the load so many times: x1.5")
    changes.add_argument(
        "--start-up", metavar="S", help="seconds that a replica takes to start, or a factor: x0.5"
    )
    now = parser.add_argument_group("the system as it is")
    now.add_argument("--now", default="slo", metavar="POLICY", help="its policy (default slo)")
    now.add_argument(
        "--scenario",
        help="its load: a ready scenario or a YAML file (default: DIR/trace.yaml if there is one, "
        "else disturbed)",
    )
    now.add_argument("--hours", type=float, help="simulated hours (default: the scenario's)")
    parser.add_argument("--seed", type=int, default=1, help="the first seed (default 1)")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds (default 3)")
    add_result_options(parser, out="out/what-if")


def _run(options: Namespace) -> int:
    from experiments.config import RunConfig, shipped
    from experiments.own_system.changes import parse_changes
    from experiments.own_system.what_if import Question, scenario_of, what_if
    from experiments.tables import text_console

    then = options.policy or options.now
    directory = shipped(options.directory)
    question = Question(
        now=RunConfig(
            data=directory,
            scenario=scenario_of(directory, options.scenario),
            policy=options.now,
            hours=options.hours,
            seed=options.seed,
        ),
        changes=parse_changes(
            gpus=options.gpus, slo=options.slo, load=options.load, start_up=options.start_up
        ),
        policy=options.policy,
        policy_options=tuple(sorted(options_of_policy(then, options.policy_options).items())),
        seeds=options.seeds,
    )
    answer = what_if(
        question,
        options.out,
        executor=chosen_executor(options),
        resume=options.resume,
        console=None if options.quiet else text_console(),
    )
    print_notes(answer.notes, quiet=options.quiet)
    print_paths(answer.paths)
    if options.quiet:
        print("\n".join(answer.lines))
    return EXIT_FAILURE if answer.failures else EXIT_OK


COMMAND = Command(
    name="what-if",
    summary="what a change of a system would cost and bring",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
