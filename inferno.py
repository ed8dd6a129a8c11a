"""The `inferno` command: it parses, wires the live world, says where things went, and turns errors into exit codes."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NoReturn, TextIO

import simpy

from experiments.cli import add_commands as add_experiments
from experiments.cli import add_policy_options
from experiments.config import RunConfig
from experiments.run import start_world
from experiments.sources import read_sources
from loop.analysis_lines import analyze_lines
from loop.backends.sim import SimBackend, SimWorld
from loop.clocks import MonotonicClock
from loop.controller import Controller, ControllerSettings
from loop.data import DataSource
from loop.drivers import LiveDriver, ThreadInbox
from loop.errors import LoopError
from loop.optimizer_json import optimize_json
from loop.records import record_text
from loop.services.cli import add_commands as add_services
from loop.services.controller_app import create_controller_app
from loop.services.controller_metrics import ControllerMetrics
from loop.services.serving import listen, serve
from loop.settings import read_settings
from loop.types import CycleRecord
from twin.datafile import parse_json
from twin.fit import fit_file
from twin.fit_report import fit_json, fit_text
from twin.spec import SpecError

EXIT_OK, EXIT_FAILURE, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130

Command = Callable[[argparse.Namespace], int]
AddCommand = Callable[..., argparse.ArgumentParser]

EXAMPLES = """\
examples:
  inferno sim --scenario disturbed --alpha 0.5 --period 60 --out out/one
  inferno sweep --alpha 0.1,0.3,0.5 --period 30,60,120 --seeds 3 --out out/grid
  inferno plot out/grid
  inferno controller 60 false --backend sim --speed 20     then: curl http://localhost:3300/invoke
  inferno optimize system.json --solver exact

Each command explains itself: inferno COMMAND --help
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 success, 1 failure, 2 bad input (one clear line), 130 interrupted."""
    options = _parser().parse_args(arguments)
    command: Command = options.run_command
    try:
        return command(options)
    except SpecError as error:
        print(f"inferno {options.command}: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except LoopError as error:
        print(f"inferno {options.command}: {error}", file=sys.stderr)
        return EXIT_FAILURE
    except BrokenPipeError:
        # The reader of our output went away (| head): not an error, but Python must not complain at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except KeyboardInterrupt:
        print(f"inferno {options.command}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line: its usage is a --help away."""

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2."""
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="inferno",
        description="Try an autoscaling policy for LLM servers on a digital twin, then run the same loop live.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add = partial(_add, commands)
    add_experiments(add)
    for add_one in (_add_optimize, _add_analyze, _add_fit, _add_controller):
        add_one(add)
    add_services(add)
    return parser


def _add(
    commands: argparse._SubParsersAction[_Parser], name: str, run: Command, summary: str, text: str = ""
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=text or summary,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run_command=run)
    return parser


# --- optimize, analyze, fit: the parts of the loop and of the twin by themselves ------------------------------------


def _add_optimize(add: AddCommand) -> None:
    parser = add(
        "optimize",
        _optimize,
        "one allocation for one system",
        """\\
Read {"system": {...}} (the message of POST /optimizeOne) and print the allocation as JSON: which accelerator, how many
replicas and what batch size each server gets, why, and who cannot be served.

  inferno optimize system.json
  inferno optimize --solver greedy --compat system.json      as the Go optimizer answers
  cat system.json | inferno optimize -
""",
    )
    parser.add_argument("file", metavar="FILE", help="JSON file, - for standard input")
    parser.add_argument("--solver", choices=("greedy", "exact"), default=None, help="default exact")
    parser.add_argument("--compat", action="store_true", help="size and choose as the Go optimizer does")
    parser.add_argument("--compat-early", action="store_true", help="as the Go optimizer of mid 2025 did")
    parser.add_argument("--objective", choices=("value", "cost"), default="value", help="least value or least cost")
    parser.add_argument("--time-limit", type=float, metavar="S", help="give the best found after so many seconds")


def _add_analyze(add: AddCommand) -> None:
    parser = add(
        "analyze",
        _analyze,
        "queue figures or sizes of one replica, a JSON line each",
        """\\
Read JSON lines with alpha, beta, gamma, avgIn, avgOut, maxBatch, maxQueue, maxNumTokens and either rate [req/s]
(analysed) or targets {ttft, itl, tps} (sized); print one JSON line each. A malformed line is answered with an error and
does not stop the stream; the exit code is then 2.

  echo '{"alpha":6.49,"beta":0.0219,"gamma":4.96e-5,"avgIn":512,"avgOut":256,"maxBatch":64,"rate":2}' | inferno analyze
""",
    )
    parser.add_argument("file", nargs="?", default="-", metavar="FILE", help="JSON lines (default: standard input)")


def _add_fit(add: AddCommand) -> None:
    parser = add(
        "fit",
        _fit,
        "alpha, beta, gamma of an engine from a log of its requests",
        """\\
Fit the iteration law alpha + beta·(tokens computed) + gamma·(KV tokens read) by replaying the log
on the twin's replica.
FILE has the columns queued_s, input_tokens, output_tokens, first_token_s and last_token_s.

  inferno fit requests.csv --kv-tokens 41408 --max-batch 256 --token-budget 2048
""",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="CSV, one request a row")
    parser.add_argument("--kv-tokens", type=int, help="KV capacity of the replica in tokens (default: never short)")
    parser.add_argument("--max-batch", type=int, default=256, help="most requests in a batch (default 256)")
    parser.add_argument("--token-budget", type=int, default=8192, help="most tokens in an iteration (default 8192)")
    parser.add_argument("--block-size", type=int, default=16, help="tokens in a KV block (default 16)")
    parser.add_argument(
        "--admission",
        choices=("full_prompt", "chunk"),
        default="full_prompt",
        help="what must fit to be admitted: the whole prompt (vLLM since 0.19, default) or its first chunk",
    )
    parser.add_argument("--rows", type=int, help="fit the first ROWS requests and score the law on the later ones too")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _optimize(options: argparse.Namespace) -> int:
    answer = optimize_json(
        parse_json(_read(options.file), source=options.file),
        source=options.file,
        solver=options.solver,
        compat=options.compat,
        compat_early=options.compat_early,
        objective=options.objective,
        time_limit_s=options.time_limit,
    )
    print(json.dumps(answer, indent=2, allow_nan=False))
    return EXIT_OK


def _analyze(options: argparse.Namespace) -> int:
    malformed = 0
    for answer in analyze_lines(_lines(options.file)):
        print(answer.text, flush=True)
        malformed += answer.malformed
    return EXIT_BAD_INPUT if malformed else EXIT_OK


def _fit(options: argparse.Namespace) -> int:
    result = fit_file(
        options.file,
        kv_tokens=options.kv_tokens,
        max_batch=options.max_batch,
        token_budget=options.token_budget,
        block_size=options.block_size,
        admission=options.admission,
        rows=None if options.rows is None else slice(0, options.rows),
    )
    print(json.dumps(fit_json(result), indent=2, allow_nan=False) if options.json else fit_text(result))
    return EXIT_OK


def _read(name: str) -> str:
    if name == "-":
        return sys.stdin.read()
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise SpecError(f"{name}: expected a readable text file, found {reason}") from None


def _lines(name: str) -> Iterator[str]:
    """Yield the lines of a file, or of standard input as they come."""
    yield from sys.stdin if name == "-" else _read(name).splitlines()


# --- controller: the live loop ----------------------------------------------------------------------------------------


def _add_controller(add: AddCommand) -> None:
    parser = add(
        "controller",
        _controller,
        "the loop, live; serves /invoke",
        """\\
Run the control loop every PERIOD seconds and whenever /invoke is called (PERIOD 0: only then). With --backend sim the
servers are the twin, in wall-clock time or faster.

  inferno controller 60 false --backend sim --speed 20
  curl http://localhost:3300/invoke
  curl -X POST -d '{"mode": "advise"}' http://localhost:3300/invoke      decide and explain, change nothing
""",
    )
    parser.add_argument("period", nargs="?", metavar="PERIOD", help="seconds between cycles (default 60)")
    parser.add_argument(
        "dynamic", nargs="?", metavar="DYNAMIC", help="true: read all data files each cycle (default false)"
    )
    parser.add_argument("--backend", choices=("sim",), default="sim", help="which world (default sim)")
    parser.add_argument("--mode", choices=("act", "advise"), default="act", help="advise: decide, change nothing")
    parser.add_argument("--speed", type=float, default=1.0, help="simulated seconds per second (default 1)")
    parser.add_argument("--data", help="data directory ($INFERNO_DATA_PATH, else sample-data/large)")
    parser.add_argument("--scenario", default="disturbed", help="the load of the simulated world (default disturbed)")
    parser.add_argument("--alpha", type=float, help="disturbance, 0 to 1")
    parser.add_argument("--interval", type=float, help="seconds between disturbances")
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulated world (default 1)")
    parser.add_argument("--policy", default="slo", help="what decides (default slo)")
    parser.add_argument("--metrics", choices=("measured", "labels"), default="measured", help="what the loop sees")
    parser.add_argument("--host", help="address to listen on ($CONTROLLER_HOST, else localhost)")
    parser.add_argument("--port", help="port to listen on ($CONTROLLER_PORT, else 3300)")
    parser.add_argument("--records", type=Path, metavar="FILE", help="append each record to FILE as a JSON line")
    add_policy_options(parser)


def _controller(options: argparse.Namespace) -> int:
    settings = read_settings(
        arguments={
            "period_s": options.period,
            "dynamic": options.dynamic,
            "controller_host": options.host,
            "controller_port": options.port,
            "data_path": options.data,
        }
    )
    if not (math.isfinite(options.speed) and options.speed > 0):
        raise SpecError(f"speed: expected a number > 0, found {options.speed}")
    given = {"data": settings.data_path, "seed": options.seed, "scenario": options.scenario, "policy": options.policy}
    sources = read_sources(
        RunConfig(
            **{name: value for name, value in given.items() if value is not None},
            disturbance_alpha=options.alpha,
            interval_s=options.interval,
            policy_options=tuple(sorted(options.policy_options)),
        )
    )
    env = simpy.Environment()
    cluster, feeder = start_world(env, sources, until_s=None)
    controller = Controller(
        backend=SimBackend(cluster, metrics=options.metrics, set_points=feeder.set_points),
        policy=sources.policy,
        data=DataSource(sources.config.data, dynamic=settings.dynamic),
        clock=MonotonicClock(),
        settings=ControllerSettings(mode=options.mode),
    )
    with ExitStack() as stack:
        sockets = listen(settings.controller_host, settings.controller_port)
        metrics = ControllerMetrics()
        records = stack.enter_context(_open_records(options.records)) if options.records else None
        inbox = ThreadInbox()
        driver = LiveDriver(
            controller,
            period_s=settings.period_s,
            clock=MonotonicClock(speed=options.speed),
            inbox=inbox,
            speed=options.speed,
            advance=SimWorld(env).advance,
            on_record=partial(_report, metrics=metrics, records=records),
        )
        port = sockets[0].getsockname()[1]
        every = f"every {settings.period_s:g} s" if settings.period_s else "on /invoke only"
        print(
            f"inferno controller: cycles {every}; http://{settings.controller_host}:{port}/invoke",
            file=sys.stderr,
            flush=True,
        )
        serve(create_controller_app(driver, inbox, metrics=metrics), sockets, on_stop=driver.stop)
    return EXIT_OK


def _report(record: CycleRecord, *, metrics: ControllerMetrics, records: TextIO | None) -> None:
    """Count the cycle, say in one line what it did, and keep its record where the user wants it."""
    metrics.observe(record)
    changes = ", ".join(f"{change.server} {change.replicas}x{change.accelerator}" for change in record.changes)
    what = record.error or changes or "no change"
    print(f"cycle {record.cycle} ({record.trigger}) at {record.now_s:.0f} s: {what}", file=sys.stderr, flush=True)
    if records:
        print(record_text(record), file=records, flush=True)


def _open_records(path: Path) -> TextIO:
    try:
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{path}: expected a file that can be written, found {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
