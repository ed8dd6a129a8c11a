"""The commands sim, sweep and plot: arguments in, progress while they work, tables and paths at the
end.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.config import RunConfig
from experiments.grid import SweepConfig
from experiments.plots import plot_directory
from experiments.progress import run_with_progress
from experiments.sweep import sweep_to_directory
from experiments.tables import print_table, run_table
from loop.policies import policy_names
from loop.settings import read_settings

EXIT_OK, EXIT_FAILURE = 0, 1

AddCommand = Callable[..., argparse.ArgumentParser]


def add_commands(add: AddCommand) -> None:
    """Add the commands of this package; *add*(name, run, summary, text) makes a parser for one."""
    _add_sim(add)
    _add_sweep(add)
    _add_plot(add)


def _add_sim(add: AddCommand) -> None:
    parser = add(
        "sim",
        _sim,
        "one run on the twin",
        """\
Simulate servers, load and control loop for some hours, in virtual time, and write the records, the scores and the
replica timeline.

  inferno sim                                              the walk-through's emulator on sample-data/large, one hour
  inferno sim --scenario ramp --policy static --out out/static
  inferno sim --data sample-data/small --scenario steady --hours 0.5 --seed 7
""",
    )
    _run_options(parser, many=False)
    parser.add_argument(
        "--seed", type=int, default=1, help="everything random follows from it (default 1)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/sim"), help="where to write (default out/sim)"
    )


def _add_sweep(add: AddCommand) -> None:
    parser = add(
        "sweep",
        _sweep,
        "a grid of runs times seeds, on all cores",
        """\
Run every combination of the values given (separated by commas) for each seed. Finished runs are kept: a sweep that was
interrupted goes on with --resume and repeats nothing.

  inferno sweep --alpha 0.1,0.3,0.5 --period 30,60,120 --seeds 3 --out out/grid
  inferno sweep --policy slo,static --scenario ramp --seeds 5 --out out/policies --resume
""",
    )
    _run_options(parser, many=True)
    parser.add_argument("--seed", type=int, default=1, help="the first seed (default 1)")
    parser.add_argument(
        "--seeds", type=int, default=1, help="how many seeds: seed, seed + 1 … (default 1)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/sweep"), help="where to write (default out/sweep)"
    )
    parser.add_argument(
        "--jobs", type=int, default=None, help="processes (default: as many as cores)"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="reuse the finished runs of --out that are still valid",
    )


def _run_options(parser: argparse.ArgumentParser, *, many: bool) -> None:
    """Add what sim and sweep share; where a sweep takes a grid the values are separated by
    commas.
    """
    numbers = _numbers if many else float
    words = _words if many else str
    several = " (or several: a,b)" if many else ""
    parser.add_argument(
        "--data", type=Path, default=None, help="data ($INFERNO_DATA_PATH, else sample-data/large)"
    )
    parser.add_argument(
        "--scenario",
        type=words,
        help=f"a name in sample-data/scenarios or a file (default disturbed){several}",
    )
    parser.add_argument(
        "--policy", type=words, help=f"{', '.join(policy_names())} (default slo){several}"
    )
    parser.add_argument(
        "--alpha",
        type=numbers,
        help=f"disturbance, 0 to 1 (default 0.5, or the scenario's){several}",
    )
    parser.add_argument(
        "--interval", type=numbers, help=f"seconds between disturbances (default 60){several}"
    )
    parser.add_argument(
        "--period", type=numbers, help=f"seconds between control cycles (default 60){several}"
    )
    parser.add_argument("--hours", type=float, default=1.0, help="simulated hours (default 1)")
    parser.add_argument(
        "--metrics", choices=("measured", "labels"), default="measured", help="what the loop sees"
    )
    parser.add_argument(
        "--walk", choices=("plain", "reverting"), help="how it moves (default: the scenario's)"
    )
    parser.add_argument("--theta", type=float, help="pull of the reverting walk (default 0.2)")
    parser.add_argument(
        "--truth",
        type=Path,
        help="like twin-data.json: where the world differs from what is estimated",
    )
    parser.add_argument(
        "--dynamic", action="store_true", help="read the static data files again at every cycle"
    )
    add_policy_options(parser)


def add_policy_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        dest="policy_options",
        type=policy_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the policy, as in --set headroom=0.2 --set solver=greedy",
    )


def _add_plot(add: AddCommand) -> None:
    parser = add("plot", _plot, "draw the figures of a run or a sweep again from its records")
    parser.add_argument("directory", type=Path, metavar="DIR", help="what sim or sweep wrote")


def _run_config(options: argparse.Namespace, **given: Any) -> RunConfig:
    """Return the configuration of one run; what the user did not give is left to the scenario and
    the policy.
    """
    data = options.data or read_settings().data_path
    arguments = {
        "data": data,
        "hours": options.hours,
        "seed": options.seed,
        "metrics": options.metrics,
        "walk": options.walk,
        "theta": options.theta,
        "truth": options.truth,
        "dynamic": options.dynamic,
        "policy_options": tuple(sorted(options.policy_options)),
        **given,
    }
    return RunConfig(**{name: value for name, value in arguments.items() if value is not None})


def _sim(options: argparse.Namespace) -> int:
    config = _run_config(
        options,
        scenario=options.scenario,
        policy=options.policy,
        disturbance_alpha=options.alpha,
        interval_s=options.interval,
        period_s=options.period,
    )
    console = Console()
    result, paths = run_with_progress(config, options.out, console=console)
    print_table(console, run_table(result.summary))
    _print_paths(console, paths)
    return EXIT_OK


def _sweep(options: argparse.Namespace) -> int:
    grid = SweepConfig(
        base=_run_config(options),
        scenarios=options.scenario or (),
        policies=options.policy or (),
        alphas=options.alpha or (),
        intervals_s=options.interval or (),
        periods_s=options.period or (),
        seeds=options.seeds,
    )
    console = Console()
    outcome = sweep_to_directory(
        grid, options.out, jobs=options.jobs, resume=options.resume, console=console
    )
    _print_paths(console, outcome.paths)
    return EXIT_FAILURE if outcome.failed else EXIT_OK


def _plot(options: argparse.Namespace) -> int:
    _print_paths(Console(), plot_directory(options.directory))
    return EXIT_OK


def _print_paths(console: Console, paths: Sequence[Path]) -> None:
    for path in paths:
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in _words(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected numbers separated by commas, found {text!r}"
        ) from None


def policy_option(text: str) -> tuple[str, float | str | bool]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, found {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
