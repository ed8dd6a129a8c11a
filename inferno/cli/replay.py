"""`inferno replay`: what a policy would have decided over recorded cycles."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inferno.cli.command import EXIT_FAILURE, EXIT_OK, Command
from inferno.cli.policies import POLICY_HELP, OnePolicy, options_of_policy
from inferno.cli.runs import add_policy_options, print_notes, print_paths

if TYPE_CHECKING:
    from experiments.replay import Replayed

TEXT = """\
Show what a policy would have decided in each cycle of a recording: cycles.jsonl
of a run, what a controller wrote to --records, or what the Go loop wrote. It
sees what was seen then, at the speed of the twin and within the bounds that
the recording tells; what it decides in one cycle does not change what is seen
in the next. Options of the policy are those given here, and else those that the
recording tells of the same policy.

  inferno replay out/sim/cycles.jsonl --policy static
  inferno replay records.jsonl --set headroom=0.2 --out replayed.jsonl
"""
_OF_THE_LOOP = ("speed", "stepUp", "stepDown", "budgetUsdPerH", "policyOptions")
SHOWN = 2  # servers that a line of the table names
OWN = b'"backend":"replay"'  # in each of its lines, near the beginning


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    parser.add_argument(
        "cycles", type=Path, metavar="CYCLES", help="JSON lines, one cycle each, or a run's DIR"
    )
    parser.add_argument("--policy", action=OnePolicy, default="slo", help=POLICY_HELP)
    add_policy_options(parser)
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="data directory (default: that of the run; else $INFERNO_DATA_PATH, else the sample "
        "system of 27 servers)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write the decisions to FILE, a JSON line each; it replaces only its own",
    )


def _run(options: Namespace) -> int:
    from experiments.output import require_replaceable, require_writable, write_text
    from experiments.replay import options_recorded, read_recording, replayed
    from loop.errors import SpecError
    from loop.policies import make_policy
    from loop.schema.reading import read_system

    if options.out is not None:
        require_writable(options.out.absolute().parent)
        require_replaceable(options.out, mark=OWN, what="what inferno replay wrote")
    path = options.cycles / "cycles.jsonl" if options.cycles.is_dir() else options.cycles
    given = options_of_policy(options.policy, options.policy_options)
    policy = make_policy(options.policy, **given)
    lines, notes = read_recording(path), list[str]()
    recorded = options_recorded(lines, policy=policy.name)
    if taken := {name: value for name, value in recorded.items() if name not in given}:
        told = ", ".join(f"{name}={value}" for name, value in taken.items())
        told = f"{path}: {policy.name} was run with {told}"
        try:
            policy = make_policy(options.policy, **taken, **given)
            notes.append(f"{told}: so it is here")
        except SpecError as error:
            notes.append(f"{told}, and is run here without: {error}")
    data = read_system(_data(options, path), warn=notes.append)
    cycles = list(replayed(lines, policy, data, source=str(path)))
    if not cycles:
        raise SpecError(f"{path}: expected cycles in which servers were seen, found none")
    if len(cycles) < len(lines):
        notes.append(
            f"{path}: cycles in which no server was seen are left out: {len(lines) - len(cycles)}"
        )
    notes += _not_told(cycles, source=str(path))
    print_notes(notes, quiet=options.quiet)
    if not options.quiet:
        _print(cycles, policy=options.policy)
    if options.out:
        write_text(options.out, "".join(f"{_text(cycle)}\n" for cycle in cycles))
        print_paths([options.out])
    return EXIT_FAILURE if any(cycle.decided["error"] for cycle in cycles) else EXIT_OK


def _data(options: Namespace, path: Path) -> Path:
    """Return the data directory: what the user says, else that of the run beside *path*."""
    from experiments.config import RunConfig, shipped
    from experiments.run_files import RUN, read_about, seen_from
    from loop.settings import read_settings
    from twin.spec import SpecError

    if options.data is not None:
        return shipped(Path(options.data))
    if (path.parent / RUN).exists():
        used = str(read_about(path.parent)["config"].get("data"))
        found = seen_from(path.parent, Path(used))
        if not found.is_dir():
            raise SpecError(
                f"{path.parent}: expected the data of the run in {used}, found no such directory: "
                "say where they are (--data)"
            )
        return found
    return read_settings().data_path or RunConfig().data


def _print(cycles: Sequence[Replayed], *, policy: str) -> None:
    """Print a line for each cycle (costs in $/h), and what it comes to."""
    from experiments.replay import mean_costs

    widths = (10, max(9, len(policy) + 1))
    print(f"{'cycle':>6}{'t [s]':>9}{'recorded':>10}{policy:>{widths[1]}}{'otherwise':>11}  which")
    for cycle in cycles:
        costs = ((line.get("totalCost") or 0.0) / 100.0 for line in (cycle.recorded, cycle.decided))
        figures = "".join(f"{cost:{width}.2f}" for cost, width in zip(costs, widths, strict=True))
        print(
            f"{cycle.recorded['cycle']:6}{cycle.recorded['t_s']:9.0f}{figures}"
            f"{len(cycle.differences):11}  {cycle.decided['error'] or _which(cycle)}".rstrip()
        )
    before, now = (cents / 100.0 for cents in mean_costs(cycles))
    other = sum(len(cycle.differences) for cycle in cycles)
    every = sum(len(cycle.recorded["servers"]) for cycle in cycles)
    print(
        f"{policy} decides otherwise in {other} of {every} cases; mean cost $ {now:.2f} an hour, "
        f"recorded $ {before:.2f}"
    )
    for why, count in _unknown(cycles).most_common():
        print(f"in {count} of {every} cases it knows too little and changes nothing: {why}")


def _not_told(cycles: Sequence[Replayed], *, source: str) -> list[str]:
    """Return what the policy may have known then, and cannot know here."""
    lines = []
    if not any("speed" in cycle.recorded for cycle in cycles):
        lines.append(
            f"{source}: it does not tell the window of its figures, the speed of a twin and the "
            "bounds of the loop: 60 s, 1 and none are taken"
        )
    told = {tuple(str(cycle.recorded.get(name)) for name in _OF_THE_LOOP) for cycle in cycles}
    if any("speed" in cycle.recorded for cycle in cycles) and len(told) > 1:
        lines.append(
            f"{source}: the speed of a twin, the bounds of the loop or the options of its policy "
            "are not the same in all of its lines: those of the first line that tells them are "
            "taken for all"
        )
    keeps, such = "no single pods and no samples between cycles", "full KV caches of some pods"
    if "policyOptions" not in cycles[0].recorded:
        keeps = "no single pods, no samples between cycles and no options"
        such = f"{such}, a headroom"
    alike = all(cycle.recorded.get("policy") == cycle.decided["policy"] for cycle in cycles)
    preempted = any(row.get("preemptions") for one in cycles for row in one.recorded["servers"])
    if preempted or (alike and any(cycle.differences for cycle in cycles)):
        lines.append(
            f"{source}: it keeps {keeps}: what a policy knew of these ({such}) it does not know "
            "here"
        )
    return lines


def _unknown(cycles: Sequence[Replayed]) -> Counter[str]:
    """Return how often *cycles* do not tell what the policy goes by, by what that is."""
    return Counter(
        row["reason"].removeprefix("held; ")
        for cycle in cycles
        for row in cycle.decided["servers"]
        if row["reasonKind"] == "held-unknown"
    )


def _which(cycle: Replayed) -> str:
    """Return which servers would have been given what, the first ones by name."""
    lines = [f"{before['name']} {_change(before, now)}" for before, now in cycle.differences]
    more = len(lines) - SHOWN
    return ", ".join(lines[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    pools = [f"{row['replicas']}x{row['accelerator']}" for row in (before, now)]
    if pools[0] == pools[1]:
        return f"batch {before['maxBatch']} → {now['maxBatch']}"
    return " → ".join(pools)


def _text(cycle: Replayed) -> str:
    return json.dumps(cycle.decided, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


COMMAND = Command(
    name="replay",
    summary="what a policy would have decided over recorded cycles",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
