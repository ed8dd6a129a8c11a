"""`inferno check`: has a policy got worse since stored results?"""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from inferno.cli.command import EXIT_FAILURE, EXIT_OK, Command

TEXT = """\
Compare the results of a comparison with stored ones, in pairs of equal loads
and seeds, and exit 1 if a policy lost more attainment or costs more than is
allowed, or is missing: for pull requests.

  inferno compare --data mine --policies slo --seeds 3 --out out/now
  inferno check out/now --against stored/results.csv
"""


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    parser.add_argument("results", type=Path, metavar="DIR", help="what inferno compare wrote")
    parser.add_argument(
        "--against",
        type=Path,
        required=True,
        metavar="FILE",
        help="the stored results: results.csv of a comparison, or its directory",
    )
    parser.add_argument(
        "--points",
        type=float,
        default=0.5,
        help="points of attainment that may be lost (default 0.5)",
    )
    parser.add_argument(
        "--cost", type=float, default=1.0, help="%% of cost that may be added (default 1)"
    )


def _run(options: Namespace) -> int:
    from experiments.regressions import Allowance, read_results, regressions
    from twin.spec import SpecError

    for name in ("points", "cost"):
        if not 0.0 <= getattr(options, name) <= 100.0:
            raise SpecError(f"{name}: expected 0 to 100, found {getattr(options, name):g}")
    found = regressions(
        read_results(options.results),
        read_results(options.against),
        allowance=Allowance(points=options.points, cost=options.cost / 100.0),
    )
    if not found:
        raise SpecError(f"{options.against}: expected runs that finished, found none")
    for one in found:
        figures = f"{one.points:+6.2f} points {100 * one.cost:+6.1f} % of cost"
        if math.isnan(one.points):
            figures = " " * len(figures)
        verdict = f"WORSE: {one.worse}" if one.worse else "ok"
        print(f"{one.scenario:14}{one.policy:20}{one.pairs:3} pairs {figures}  {verdict}")
    return EXIT_FAILURE if any(one.worse for one in found) else EXIT_OK


COMMAND = Command(
    name="check",
    summary="exit 1 if a policy got worse since stored results",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
