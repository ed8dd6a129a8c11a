"""Reading of scenario files (YAML), with one-line errors that name the place. Their form is in
docs/load.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from itertools import accumulate, pairwise
from operator import mul
from pathlib import Path
from typing import Any, get_args

import yaml

from emulator.rates import Rates
from emulator.shapes import (
    Curve,
    Phase,
    burst,
    constant,
    diurnal,
    duration_s,
    phases_curve,
    ramp,
    steps,
)
from emulator.trace import Offset, Origin, Replay
from emulator.walk import WalkKind
from experiments.config import HOURS_MAX, SAMPLE_DATA, SHORTEST_S, shipped
from experiments.rates_file import read_rates
from experiments.scenario_rules import (
    EVERY_TYPE,
    CapacityEvent,
    CapacityRule,
    LoadRule,
    Scenario,
    capacity_events,
    node_failures,
    server_loads,
)
from twin.arrivals import ARRIVAL_PROCESSES
from twin.datafile import Entry, did_you_mean, unreadable
from twin.kube.apiserver.bounded_yaml import BoundedLoader
from twin.registry import named_in
from twin.spec import SpecError
from twin.traces import Spread, TraceUnit, read_trace
from twin.traces.formats import KIND, NAMES, reads_traces

__all__ = [
    "SCENARIOS",
    "read_scenario",
    "known_scenarios",
    "parse_scenario",
    "Scenario",
    "LoadRule",
    "CapacityRule",
    "CapacityEvent",
    "server_loads",
    "capacity_events",
    "node_failures",
]

# Beyond this a factor is a slip of the pen, and the arrivals of one interval would fill the memory.
FACTOR_MAX = 1000.0
USERS_MAX = 100_000
TURNS_MAX = 10_000
EVERY_MIN_S = 0.1
COMPRESSION_MIN, COMPRESSION_MAX = 1e-3, 86_400.0  # a day in three years, and in a second
PART_MAX = 1000.0  # times the GPUs that there are

UNITS: tuple[TraceUnit, ...] = ("s", "ms", "us", "ns")
SCENARIOS = SAMPLE_DATA / "scenarios"
OTHER_NAMES = {"diurnal": "day"}


def read_scenario(name_or_path: str | Path, *, folder: Path = SCENARIOS) -> Scenario:
    """Read the scenario NAME of *folder* (NAME.yaml), else the file at that path. Raise SpecError,
    one line.
    """
    path = scenario_path(name_or_path, folder=folder)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"{path}: expected a text file in UTF-8, found {unreadable(error)}"
        ) from None
    return parse_scenario(text, name=path.stem, source=str(path), base=path.parent)


def scenario_path(name_or_path: str | Path, *, folder: Path = SCENARIOS) -> Path:
    """Return the file of a scenario, see `read_scenario`. Raise SpecError if there is none."""
    path = folder / f"{OTHER_NAMES.get(str(name_or_path), name_or_path)}.yaml"
    if not path.is_file():
        path = shipped(Path(name_or_path))
    if not path.is_file():
        known = ", ".join(known_scenarios(folder)) or "none"
        raise SpecError(
            f"scenario: expected one of {known}, or the path of a file, found "
            f"{str(name_or_path)!r}{did_you_mean(name_or_path, known_scenarios(folder))}"
        )
    return path


def known_scenarios(folder: Path = SCENARIOS) -> tuple[str, ...]:
    """Return the names that read_scenario knows, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))


def parse_scenario(text: str, *, name: str, source: str, base: Path) -> Scenario:
    """Return the scenario of a YAML text. *source* names it in errors; paths in it start at
    *base*.
    """
    obj = parse_yaml(text, source=source)
    entry = Entry(obj, source=source)
    defaults = Scenario(name=name)
    walk = entry.child("walk")
    load = tuple(_load_rule(row, base) for row in entry.children("load", required=False))
    scenario = Scenario(
        name=entry.text("name", default=name),
        description=entry.text("description", default=""),
        disturbance_alpha=entry.number(
            "alpha", at_least=0, at_most=1, default=defaults.disturbance_alpha
        ),
        interval_s=entry.number("interval_s", at_least=SHORTEST_S, default=defaults.interval_s),
        hours=entry.number("hours", above=0, at_most=HOURS_MAX, default=defaults.hours),
        warm_up_s=entry.number("warm_up_s", at_least=0) if entry.has("warm_up_s") else None,
        walk=walk.choice("kind", get_args(WalkKind), default=defaults.walk)
        if walk
        else defaults.walk,
        theta=walk.number("theta", at_least=0, at_most=1, default=defaults.theta)
        if walk
        else defaults.theta,
        load=load,
        capacity=tuple(
            _capacity_rule(row, part_max=PART_MAX)
            for row in entry.children("capacity", required=False)
        ),
        failures=tuple(
            _capacity_rule(row, part_max=1.0) for row in entry.children("failures", required=False)
        ),
    )
    # A data file may carry keys of other tools; a scenario is ours alone, so an unknown key is a
    # slip of the pen.
    for line in entry.warnings():
        raise SpecError(line)
    return replace(scenario, digest=_digest(obj, load))


def _digest(obj: Any, rules: tuple[LoadRule, ...]) -> str:
    total = hashlib.sha256(json.dumps(obj, sort_keys=True, default=str).encode())
    for trace in (rule.replay.trace for rule in rules if rule.replay):
        columns = (trace.times_s, trace.prompt_tokens, trace.output_tokens)
        for column in (*columns, trace.blocks, trace.talks):
            total.update(b"" if column is None else column.tobytes())
    for rates in (rule.rates for rule in rules if rule.rates):
        for server, of_server in rates.items():
            total.update(server.encode())
            for figures in (of_server.times_s, of_server.rates_rpm):
                total.update(figures.tobytes())
            for figures in (of_server.in_tokens, of_server.out_tokens):
                total.update(figures.tobytes())
    return total.hexdigest()


def _load_rule(row: Entry, base: Path) -> LoadRule:
    if row.has("shape") and row.has("phases"):
        raise row.fail("phases", expected="a shape or phases, not both", found=["shape", "phases"])
    for key in ("shape", "phases", "trace", "users", "arrivals", "arrival_cv"):
        if row.has("rates") and row.has(key):
            raise row.fail(key, expected="rates alone", found=["rates", key])
    users = row.whole("users", at_least=1, at_most=USERS_MAX) if row.has("users") else None
    for key in ("shape", "phases", "trace", "scale", "arrivals", "arrival_cv"):
        if users is not None and row.has(key):
            raise row.fail(key, expected="users or a rate, not both", found=["users", key])
    if users is None and row.has("turns"):
        raise row.fail("turns", expected="users, who have them", found=["turns"])
    if row.has("trace") and row.has("arrivals"):
        expected = "a trace or a process of arrivals, not both"
        raise row.fail("arrivals", expected=expected, found=["trace", "arrivals"])
    return LoadRule(
        place=row.place,
        server=row.text("server", default=""),
        service_class=row.text("class", default=""),
        model=row.text("model", default=""),
        curve=_curve(row),
        replay=_replay(row, base),
        scale=row.number("scale", at_least=0, at_most=FACTOR_MAX, default=1.0),
        in_tokens_scale=row.number("in_tokens_scale", above=0, at_most=FACTOR_MAX, default=1.0),
        out_tokens_scale=row.number("out_tokens_scale", above=0, at_most=FACTOR_MAX, default=1.0),
        arrivals=named_in(
            row, "arrivals", kind="arrival process", known=ARRIVAL_PROCESSES, default=""
        )
        or None,
        arrival_cv=row.number("arrival_cv", at_least=0, at_most=100)
        if row.has("arrival_cv")
        else None,
        users=users,
        think_s=row.number("think_s", at_least=0, default=0.0),
        turns=row.whole("turns", at_least=1, at_most=TURNS_MAX, default=1),
        rates=_rates(row, base),
    )


def _rates(row: Entry, base: Path) -> Mapping[str, Rates] | None:
    entry = row.child("rates")
    if entry is None:
        return None
    return read_rates(base / entry.text("file"), repeat=entry.flag("repeat", default=True))


def _curve(row: Entry) -> Curve:
    if row.has("phases"):
        return _phases(row)
    shape = row.child("shape")
    if shape is None:
        return constant()
    kind = shape.text("kind")
    if kind not in _SHAPES:
        raise shape.fail("kind", expected="one of " + ", ".join(_SHAPES), found=kind)
    return _SHAPES[kind](shape)


def _ramp(shape: Entry) -> Curve:
    return ramp(
        factor=_factor(shape),
        start_s=shape.number("start_s", at_least=0, default=0.0),
        up_s=shape.number("up_s", at_least=0),
        hold_s=shape.number("hold_s", at_least=0, default=0.0),
        down_s=shape.number("down_s", at_least=0),
    )


def _steps(shape: Entry) -> Curve:
    levels = [(row.number("t_s", at_least=0), _factor(row)) for row in shape.children("levels")]
    if not levels or any(before >= after for (before, _), (after, _) in pairwise(levels)):
        raise shape.fail(
            "levels", expected="at least one, with ascending t_s", found=[t_s for t_s, _ in levels]
        )
    return steps(levels)


def _burst(shape: Entry) -> Curve:
    start_s = shape.number("start_s", at_least=0)
    length_s = shape.number("length_s", above=0)
    end_s = start_s + length_s
    least_s = max(end_s, EVERY_MIN_S)
    every_s = shape.number("every_s", at_least=least_s) if shape.has("every_s") else None
    return burst(factor=_factor(shape), start_s=start_s, length_s=length_s, every_s=every_s)


def _diurnal(shape: Entry) -> Curve:
    low = shape.number("low", at_least=0)
    return diurnal(
        low=low,
        high=shape.number("high", at_least=low, at_most=FACTOR_MAX),
        peak_hour=shape.number("peak_hour", at_least=0, at_most=24),
        start_hour=shape.number("start_hour", at_least=0, at_most=24, default=0.0),
        compression=shape.number(
            "compression", at_least=COMPRESSION_MIN, at_most=COMPRESSION_MAX, default=1.0
        ),
    )


def _factor(entry: Entry) -> float:
    return entry.number("factor", at_least=0, at_most=FACTOR_MAX)


def _constant(_: Entry) -> Curve:
    return constant()


_SHAPES: Mapping[str, Callable[[Entry], Curve]] = {
    "constant": _constant,
    "ramp": _ramp,
    "steps": _steps,
    "burst": _burst,
    "diurnal": _diurnal,
}


def _phases(row: Entry) -> Curve:
    rows = row.children("phases")
    phases = [_phase(phase) for phase in rows]
    if not phases:
        raise row.fail("phases", expected="at least one phase", found=[])
    if max(accumulate((phase.ratio for phase in phases), mul)) > FACTOR_MAX:
        ratios = [phase.ratio for phase in phases]
        raise row.fail(
            "phases", expected=f"ratios whose product stays <= {FACTOR_MAX:g}", found=ratios
        )
    for phase, entry in zip(phases[:-1], rows[:-1], strict=True):
        if phase.duration_s is None:
            raise entry.fail(
                "duration", expected="a duration > 0 (only the last phase may be endless)", found=0
            )
    return phases_curve(phases)


def _phase(row: Entry) -> Phase:
    """Read one phase; a duration of 0, or none, is an endless one, as it is for the existing
    emulator.
    """
    if row.has("duration_s") or not row.has("duration"):
        seconds: float | None = row.number("duration_s", at_least=0, default=0.0)
    else:
        text = row.text("duration")
        seconds = duration_s(text)
        if seconds is None:
            raise row.fail("duration", expected='a duration such as "1h30m" or "90s"', found=text)
    return Phase(duration_s=seconds or None, ratio=row.number("ratio", above=0, default=1.0))


def _replay(row: Entry, base: Path) -> Replay | None:
    entry = row.child("trace")
    if entry is None:
        return None
    trace = read_trace(
        base / entry.text("file"),
        named_in(
            entry,
            "format",
            kind=KIND,
            known=dict.fromkeys(NAMES),
            default="",
            fits=reads_traces,
        )
        or None,
        model=entry.text("model") if entry.has("model") else None,
        unit=entry.choice("unit", UNITS, default="s") if entry.has("unit") else None,
        spread=entry.choice("spread", get_args(Spread), default="random"),
    )
    return Replay(
        trace=trace,
        rate=entry.choice("rate", get_args(Origin), default="trace"),
        tokens=entry.choice("tokens", get_args(Origin), default="trace"),
        repeat=entry.flag("repeat", default=True),
        offset=entry.choice("offset", get_args(Offset), default="none"),
    )


def _capacity_rule(row: Entry, *, part_max: float) -> CapacityRule:
    amounts = [key for key in ("gpus", "cards", "part") if row.has(key)]  # cards: of old, for gpus
    if len(amounts) != 1:
        raise row.fail("gpus", expected="either gpus or part", found=" and ".join(amounts) or None)
    (amount,) = amounts
    if row.has("largest") and row.has("type"):
        raise row.fail("largest", expected="a type or largest, not both", found="both")
    return CapacityRule(
        place=row.place,
        t_s=row.number("t_s", at_least=0),
        type=row.text("type", default=EVERY_TYPE),
        largest=row.whole("largest", at_least=1) if row.has("largest") else None,
        gpus=None if amount == "part" else row.whole(amount, at_least=0),
        part=row.number("part", at_least=0, at_most=part_max) if amount == "part" else None,
    )


class _UniqueKeys(BoundedLoader):
    """YAML, in which a key given twice is an error instead of the last one winning in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 (PyYAML's signature)
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value!r} is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def parse_yaml(text: str, *, source: str) -> Any:
    """Return a scenario as it stands there. Raise SpecError, one line, for what is no YAML."""
    try:
        return yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SpecError(f"{source}: line {line}: expected YAML ({error.problem})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"{source}: expected YAML ({' '.join(str(error).split())})") from None
