"""What the commands optimize and optimizer share: how to size and to choose."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loop.optimizer.rules import Rules
    from loop.optimizer.solvers.deadline import TimeLimit


def add_solver_options(parser: ArgumentParser) -> None:
    """Add the options that say how the optimizer sizes and chooses."""
    parser.add_argument(
        "--solver",
        choices=("greedy", "exact"),
        help="how to choose (default exact; greedy with --compat)",
    )
    parser.add_argument(
        "--compat", action="store_true", help="size, choose and answer as the Go optimizer does"
    )
    parser.add_argument(
        "--compat-early", action="store_true", help="as the Go optimizer of mid 2025 did"
    )
    parser.add_argument(
        "--objective",
        choices=("value", "cost"),
        default="value",
        help="what to make least: the value, which counts changes too (default), or the cost",
    )
    parser.add_argument(
        "--time-limit",
        type=float,
        metavar="S",
        help="give the best answer found after so many CPU seconds of choosing",
    )


def time_limit_of(options: Namespace) -> TimeLimit | None:
    """Return the limit that --time-limit sets. Raise SpecError if it is none."""
    if options.time_limit is None:
        return None
    if not options.time_limit > 0:
        from twin.spec import SpecError

        raise SpecError(f"time-limit: expected a number of seconds > 0, found {options.time_limit}")
    from loop.optimizer.solvers.deadline import TimeLimit

    # Of this thread: a service answers several questions at once.
    return TimeLimit(options.time_limit, time.thread_time)


def rules_of(options: Namespace) -> Rules:
    """Return the rules that --compat or --compat-early picks, else ours."""
    from loop.optimizer.rules.go_2025 import GO_2025
    from loop.optimizer.rules.go_today import GO_TODAY
    from loop.optimizer.rules.ours import OURS

    return GO_2025 if options.compat_early else GO_TODAY if options.compat else OURS
