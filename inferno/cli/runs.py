"""What sim, sweep and the questions over runs share: their options, and the configuration of a run
that follows from them.

An option that a scenario may set has no default here: what is not given is the scenario's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inferno.cli.policies import (
    FURTHER_HELP,
    POLICY_HELP,
    OnePolicy,
    Option,
    add_budget_option,
    policy_option,
)

if TYPE_CHECKING:
    from argparse import _ActionsContainer as Options

    from experiments.config import RunConfig
    from experiments.executor import Executor
    from experiments.figures import Form
    from experiments.grid import SweepConfig


END_LINE = "\r\x1b[K"  # takes a line off a terminal


def add_run_options(
    parser: argparse.ArgumentParser,
    *,
    many: bool,
    scenario: str = "disturbed",
    further: bool = False,
) -> None:
    """Add the options; if *many*, a grid of values separated by commas is taken where that makes
    sense. *scenario* is the default load. *further*: policies are named by --policies.
    """
    figures = numbers if many else float
    words = names if many else str
    more = "extend" if many else "store"  # as those that commas separate
    several = "; or several: a,b" if many else ""
    parser.add_argument(
        "--data",
        type=Path,
        help="data directory ($INFERNO_DATA_PATH, else the sample system of 27 servers)",
    )
    parser.add_argument(
        "--scenario",
        type=words,
        action=more,
        help=f"the load: a ready scenario or a YAML file (default {scenario}{several})",
    )
    parser.add_argument(
        "--policy",
        type=words,
        action="extend" if many else OnePolicy,
        help=(FURTHER_HELP if further else POLICY_HELP) + several,
    )
    parser.add_argument(
        "--alpha",
        type=figures,
        action=more,
        help=f"disturbance of the load, 0 to 1 (default: the scenario's{several})",
    )
    parser.add_argument(
        "--interval",
        type=figures,
        action=more,
        metavar="S",
        help=f"seconds between disturbances (default: the scenario's{several})",
    )
    parser.add_argument(
        "--period",
        type=figures,
        action=more,
        metavar="S",
        help=f"seconds between control cycles (default: the policy's own, else 60{several})",
    )
    parser.add_argument("--hours", type=float, help="simulated hours (default: the scenario's)")
    _add_world_options(parser)
    add_budget_option(parser)
    add_policy_options(parser)


def asked_policies(options: argparse.Namespace, shipped: tuple[str, ...]) -> tuple[str, ...]:
    """Return what --policies and --policy ask for, *shipped* if neither is given."""
    if options.policies is None and options.policy is None:
        return shipped
    return (*(options.policies or ()), *(options.policy or ()))


def add_seed_options(parser: Options) -> None:
    """Add the seeds of runs that are repeated."""
    parser.add_argument("--seed", type=int, help="the first seed (default 1)")
    parser.add_argument(
        "--seeds", type=int, default=1, help="how many seeds: seed, seed + 1 … (default 1)"
    )


def add_result_options(parser: Options, *, out: str, jobs: bool = True) -> None:
    """Add where the results of many runs go, on how many processes these run, and what is reused
    of those that are there.
    """
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(out),
        metavar="DIR",
        help=f"where to write (default {out})",
    )
    if jobs:
        parser.add_argument("--jobs", type=int, help="processes (default: one a core)")
    parser.add_argument(
        "--executor",
        choices=("local", "dask"),
        default="local",
        help="what makes the runs, with the same results: processes of this machine (default), or "
        "the workers of a Dask cluster, by the extra dask",
    )
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="the scheduler of the Dask cluster, as in tcp://HOST:8786",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="reuse the finished runs of --out that are still valid",
    )


def chosen_executor(options: argparse.Namespace) -> Executor:
    """Return what makes the runs. Raise SpecError, one line, if it cannot be had."""

    from inferno.executors import make_executor

    def tell(line: str) -> None:
        print_notes([line], quiet=options.quiet)

    return make_executor(jobs=options.jobs, scheduler=chosen_scheduler(options), tell=tell)


def chosen_scheduler(options: argparse.Namespace) -> str | None:
    """Return the address of the Dask scheduler that was asked for, None for local processes."""
    from twin.spec import SpecError

    if options.executor == "local":
        if options.scheduler is not None:
            raise SpecError("scheduler: expected --executor dask beside it, found local")
        return None
    if not options.scheduler:
        raise SpecError("scheduler: expected an address, as in --scheduler tcp://HOST:8786")
    return str(options.scheduler)


def add_form_options(parser: Options) -> None:
    """Add what a figure that is drawn from files is for."""
    parser.add_argument("--svg", action="store_true", help="write SVG files beside the PNG ones")
    parser.add_argument(
        "--width",
        type=float,
        metavar="IN",
        help="inches of the page or column they are for (default: for a screen)",
    )


def chosen_form(options: argparse.Namespace) -> Form:
    """Return what the figures are for. Raise SpecError for a width that no page has."""
    from experiments.figures import Form

    return Form(svg=options.svg, width_in=options.width)


def add_data_option(parser: Options) -> None:
    """Add the data directory of a command that is live."""
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="data directory ($INFERNO_DATA_PATH, else the sample system of 27 servers)",
    )


def _add_world_options(parser: argparse.ArgumentParser) -> None:
    """Add what one value of is enough for."""
    parser.add_argument(
        "--metrics",
        choices=("measured", "labels"),
        help="what the loop sees: what a scraper would measure (default), or labels of the load",
    )
    parser.add_argument(
        "--walk",
        choices=("plain", "reverting"),
        help="how the disturbance moves (default: the scenario's)",
    )
    parser.add_argument(
        "--theta",
        type=float,
        help="pull of the reverting walk to its nominal, 0 to 1 (default: the scenario's)",
    )
    parser.add_argument(
        "--truth",
        type=Path,
        metavar="FILE",
        help="like twin-data.json: what the world does other than the optimizer estimates",
    )
    parser.add_argument(
        "--dynamic", action="store_true", help="read the static data files again at every cycle"
    )
    parser.add_argument(
        "--engine",
        choices=("auto", "plain", "fast"),
        help="what serves the requests, with the same results: fast is compiled and needs the "
        "extra fast; auto takes it where it is installed and pays (default)",
    )


def add_policy_options(parser: Options) -> None:
    """Add the option that sets options of a policy."""
    parser.add_argument(
        "--set",
        dest="policy_options",
        type=policy_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the policy, as in --set headroom=0.2; of one of several, and with "
        "several values where runs are swept, as in --set hpa.target=0.6,0.75",
    )
    parser.add_argument(
        "--prefix-cache-trust",
        dest="policy_options",
        type=_prefix_cache_trust,
        action="append",
        default=[],
        metavar="X",
        help="how much of the measured share of cached prompt tokens sizing relies on, 0 to 1 "
        "(default 0: a new pod begins with an empty cache)",
    )


def run_config(options: argparse.Namespace, **given: Any) -> RunConfig:
    """Return the configuration of one run; what the user did not give is left to the scenario and
    the policy.
    """
    from experiments.config import RunConfig, shipped
    from loop.settings import read_settings

    data = options.data or read_settings().data_path
    arguments = {
        "data": shipped(data) if data else None,
        "hours": options.hours,
        "seed": options.seed,
        "metrics": options.metrics,
        "walk": options.walk,
        "theta": options.theta,
        "truth": options.truth,
        "engine": options.engine,
        "dynamic": options.dynamic,
        "budget_usd_per_h": options.budget_usd_per_h,
        **given,
    }
    return RunConfig(**{name: value for name, value in arguments.items() if value is not None})


def run_grid(options: argparse.Namespace, /, **given: Any) -> SweepConfig:
    """Return the grid of runs that options with several values name; *given* are further fields of
    it, or such in their place.
    """
    from experiments.grid import SweepConfig

    fields: dict[str, Any] = {
        "base": run_config(options),
        "scenarios": tuple(options.scenario or ()),
        "alphas": tuple(options.alpha or ()),
        "intervals_s": tuple(options.interval or ()),
        "periods_s": tuple(options.period or ()),
        "seeds": options.seeds,
    }
    return SweepConfig(**(fields | given))


def print_paths(paths: Iterable[Path]) -> None:
    """Say what was written, a line each."""
    for path in paths:
        print(f"wrote {path}")


@contextmanager
def working(what: str, *, quiet: bool = False) -> Iterator[None]:
    """Say on a terminal *what* takes its time, until it is done."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    print(f"{what} …", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print(END_LINE, end="", file=sys.stderr, flush=True)


def print_notes(lines: Iterable[str], *, quiet: bool) -> None:
    """Say on stderr what the data leave open, each line once."""
    if not quiet:
        for line in dict.fromkeys(lines):
            print(f"note: {line}", file=sys.stderr, flush=True)


def _prefix_cache_trust(text: str) -> Option:
    return "prefix_cache_trust", (float(text),)


def names(text: str) -> tuple[str, ...]:
    """Return the words of *text*, which commas separate. Raise ArgumentTypeError for an empty
    one.
    """
    found = tuple(word.strip() for word in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"expected words separated by commas, found {text!r}")
    return found


def numbers(text: str) -> tuple[float, ...]:
    """Return the numbers of *text*, which commas separate. Raise ArgumentTypeError for others."""
    try:
        return tuple(float(word) for word in names(text))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(
            f"expected numbers separated by commas, found {text!r}"
        ) from None
