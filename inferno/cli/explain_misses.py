"""`inferno explain-misses`: why requests of a run were missed."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from inferno.cli.command import EXIT_OK, Command
from inferno.cli.runs import add_form_options, chosen_form, print_notes, print_paths

TEXT = """\
Attribute every missed request of a run to its first cause, in points of
attainment: no GPUs, pods that start, a load that was not yet known, a queue
left over, the tail, targets that nothing meets. With --counterfactuals the run
is made again without start-up, with perfect measuring and with GPUs without
end, which says what each is worth.

  inferno sim --scenario ramp --out out/ramp
  inferno explain-misses out/ramp --counterfactuals
  inferno explain-misses out/ramp --width 3.3 --svg
"""


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="what inferno sim wrote")
    parser.add_argument(
        "--counterfactuals", action="store_true", help="run it again three times, as said above"
    )
    parser.add_argument("--jobs", type=int, help="processes for these (default 1)")
    add_form_options(parser)


def _run(options: Namespace) -> int:
    from experiments.explain import explain_run
    from experiments.tables import text_console

    found = explain_run(
        options.directory,
        counterfactuals=options.counterfactuals,
        jobs=options.jobs,
        form=chosen_form(options),
        console=None if options.quiet else text_console(),
    )
    print_notes(found.notes, quiet=options.quiet)
    print_paths(found.paths)
    return EXIT_OK


COMMAND = Command(
    name="explain-misses",
    summary="why requests of a run were missed, by first cause",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
