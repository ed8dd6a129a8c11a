"""What if: a system as it is and as it would be, under the same loads and seeds, in pairs."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from experiments.compare import FIRST, RESULTS_CSV, write_results
from experiments.compare.report import save_report
from experiments.compare.rows import Compared, compared_row, planned_policy
from experiments.confidence import Interval, estimate_score, paired_along
from experiments.config import PolicyOption, RunConfig
from experiments.output import require_writable, write_json, write_text
from experiments.own_system.changes import Changes, changed_files
from experiments.own_system.writing import TRACE_YAML
from experiments.scenario import parse_yaml, read_scenario, scenario_path
from experiments.sweep import finish_runs
from experiments.sweep_rows import notes_of, results_frame
from experiments.tables import signed
from loop.schema.reading import read_system
from twin.datafile import read_json
from twin.spec import SpecError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from experiments.executor import Executor

NOW, THEN = "now", "then"
THEN_FOLDER, LOAD_YAML, WHAT_IF_JSON = "then", "load.yaml", "what-if.json"
FIGURES = (
    ("attainment", True),
    ("minute_attainment", True),
    ("minute_attainment_p95", True),
    ("cost_usd_per_h", False),
    ("cost_usd_per_1000_met", False),
    ("gpu_hours", False),
    ("ttft_ms_mean", False),
    ("itl_ms_mean", False),
    ("changes_per_h", False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A system *now*, under its policy, and what is to be otherwise: policy None stays."""

    now: RunConfig
    changes: Changes
    policy: str | None = None
    policy_options: tuple[tuple[str, PolicyOption], ...] = ()
    seeds: int = 3

    @property
    def lines(self) -> list[str]:
        """Return each change in words."""
        found = self.changes.lines
        if self.policy is not None or self.policy_options:
            options = ", ".join(_option(*one) for one in self.policy_options)
            name = self.policy or self.now.policy_name
            found.insert(0, f"policy {name}{f'({options})' if options else ''}")
        return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """The table of the runs, what was written, and lines to say."""

    results: pd.DataFrame
    lines: tuple[str, ...]
    paths: list[Path]
    failures: list[Path]
    notes: tuple[str, ...]


def scenario_of(directory: Path, given: str | None) -> str:
    """Return the load of a system: the one given, else the one that was imported with it."""
    if given is not None:
        return given
    own = directory / TRACE_YAML
    return str(own) if own.is_file() else RunConfig().scenario


def what_if(
    question: Question,
    out: Path,
    *,
    executor: Executor | None,
    resume: bool = False,
    console: Console | None = None,
) -> Answer:
    """Run both systems with every seed; write tables, figures and WHAT_IF_JSON to *out*, and the
    changed system to a folder of it, where it may be run by itself.
    """
    if not question.lines:
        raise SpecError(
            "expected a change (--policy, --gpus, --slo, --load, --start-up), found none"
        )
    if question.seeds < 1:
        raise SpecError(f"seeds: expected a whole number >= 1, found {question.seeds}")
    then = _changed(question, out)
    runs = [
        planned_policy(
            replace(config, seed=config.seed + number), name=name, cell=number, price_cents=1.0
        )
        for number in range(question.seeds)
        for name, config in ((NOW, question.now), (THEN, then))
    ]
    done = finish_runs(
        runs, out, work=compared_row, executor=executor, resume=resume, console=console
    )
    results = _results(runs, done.rows, scenario=Path(question.now.scenario).stem)
    write_results(results, out)
    good = results[results["error"] == ""]
    lines = _lines(question, good, then=then)
    rows = [done.rows[one.run_id] for one in runs]
    for row in rows:
        row["scenario"] = Path(question.now.scenario).stem
    report = save_report(results, out, rows=rows, console=console, told=lines)
    write_json(out / WHAT_IF_JSON, answer_json(question, good))
    return Answer(
        results=results,
        lines=tuple(lines),
        paths=[out / RESULTS_CSV, *report.paths, out / WHAT_IF_JSON],
        failures=done.failures,
        notes=notes_of(runs, done.rows),
    )


def _changed(question: Question, out: Path) -> RunConfig:
    """Return the system as it would be, which is written to a folder of *out*."""
    now = question.now
    folder = out / THEN_FOLDER
    require_writable(folder)
    system = read_system(now.data, warn=_drop)
    files = {path.name: read_json(path) for path in sorted(now.data.glob("*-data.json"))}
    for name, content in changed_files(files, question.changes, pairs=list(system.perf)).items():
        write_text(folder / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    scenario = now.scenario
    if question.changes.load != 1.0:
        scenario = str(folder / LOAD_YAML)
        write_text(folder / LOAD_YAML, scaled_scenario(now.scenario, question.changes.load))
    return replace(
        now,
        data=folder,
        scenario=scenario,
        policy=question.policy or now.policy,
        policy_options=question.policy_options or now.policy_options,
    )


def scaled_scenario(scenario: str, factor: float) -> str:
    """Return the text of *scenario* with a load *factor* times as high; the files that it names
    stay where they are.
    """
    read_scenario(scenario)  # says what is wrong with it
    path = scenario_path(scenario)
    document: dict[str, Any] = parse_yaml(path.read_text(encoding="utf-8-sig"), source=str(path))
    rules = list(document.get("load") or [])
    for rule in rules:
        for key in ("trace", "rates"):
            if key in rule:
                rule[key] = {**rule[key], "file": str((path.parent / rule[key]["file"]).resolve())}
        if "users" in rule:
            rule["users"] = max(round(rule["users"] * factor), 1)
        else:
            rule["scale"] = rule.get("scale", 1.0) * factor
    # Whom no rule selects; where all are selected already it is never asked.
    document["load"] = [*rules, {"scale": factor}]
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return text


def _results(
    runs: Sequence[Compared], rows: Mapping[str, Mapping[str, Any]], *, scenario: str
) -> pd.DataFrame:
    results = results_frame(runs, {key: dict(row) for key, row in rows.items()})
    # One load, whatever file says it: rows are told apart by now and then.
    results["scenario"] = scenario
    for name in FIRST:
        if name not in results:
            results[name] = None
    rest = [name for name in results.columns if name not in FIRST]
    return results[[*FIRST, *rest]]


def answer_json(question: Question, good: pd.DataFrame) -> dict[str, Any]:
    """Return the answer for programs and pages: each figure now, then, and its difference in pairs,
    with the ends of 95 % intervals.
    """
    figures = {}
    for name, is_share in FIGURES:
        if name not in good or good[name].isna().all():
            continue
        figures[name] = {
            **{
                side: _interval(estimate_score(_of(good, side, name), share=is_share))
                for side in (NOW, THEN)
            },
            "difference": _interval(
                paired_along(good, name, axis="policy", first=NOW, second=THEN)
            ),
        }
    return {
        "data": str(question.now.data),
        "scenario": question.now.scenario,
        "policy": question.now.policy_name,
        "seeds": question.seeds,
        "changes": question.lines,
        "figures": figures,
    }


def _of(good: pd.DataFrame, side: str, name: str) -> Any:
    return good[good["policy"] == side][name].to_numpy(dtype=float)


def _interval(found: Interval) -> dict[str, float | None]:
    def plain(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {"mean": plain(found.mean), "low": plain(found.low), "high": plain(found.high)}


def _lines(question: Question, good: pd.DataFrame, *, then: RunConfig) -> list[str]:
    lines = [f"{NOW}: {question.now.data}, {question.now.policy_name}"]
    lines.append(f"{THEN}: {'; '.join(question.lines)}")
    sides = {side: good[good["policy"] == side] for side in (NOW, THEN)}
    if not any(side.empty for side in sides.values()):
        cost, share = (
            paired_along(good, name, axis="policy", first=NOW, second=THEN).mean
            for name in ("cost_usd_per_h", "attainment")
        )
        more = f"{abs(cost):,.2f} $/h {'more' if cost > 0.0 else 'less'}"
        line = f"it would cost {'the same' if abs(cost) < 0.005 else more}"
        if math.isfinite(share):
            points = signed(100.0 * share, "+.1f")
            line += f" and change the share of requests within target by {points} points"
        lines.append(line)
    lines.append(f"the changed system alone: {_command(then)}")
    return lines


def _command(config: RunConfig) -> str:
    """Return the command that repeats the first run of *config*."""
    words = ["inferno", "sim", "--data", str(config.data), "--scenario", config.scenario]
    words += ["--policy", config.policy_name]
    for option in config.policy_options:
        words += ["--set", _option(*option)]
    given = {
        "alpha": config.disturbance_alpha,
        "interval": config.interval_s,
        "period": config.period_s,
        "hours": config.hours,
        "walk": config.walk,
        "theta": config.theta,
        "truth": config.truth,
        "metrics": config.metrics if config.metrics != RunConfig().metrics else None,
        "budget-usd-per-h": config.budget_usd_per_h,
        "seed": config.seed,
    }
    for name, told in given.items():
        words += [] if told is None else [f"--{name}", str(told)]
    return shlex.join([*words, *["--dynamic"] * config.dynamic])


def _option(name: str, value: PolicyOption) -> str:
    """Return an option of a policy as --set takes it."""
    return f"{name}={value if isinstance(value, str) else json.dumps(value)}"


def _drop(_note: str) -> None:
    """Take a note that the reading of the sources repeats."""
