"""The Python API: the options of the command as arguments, results as tables.

It is stable: what changes here is announced in CHANGELOG.md one version before. `experiments` is
what lies below, and may change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import pandas as pd

from experiments.compare import CompareConfig, contenders
from experiments.compare import compare as compare_to_directory
from experiments.config import EngineChoice, PolicyOption, RunConfig, shipped
from experiments.grid import SweepConfig
from experiments.run import RunResult, run
from experiments.run_files import pods_frame, requests_frame, write_run
from experiments.sweep import sweep_to_directory
from inferno.executors import make_executor
from twin.spec import SpecError

if TYPE_CHECKING:
    from rich.console import Console

    from loop.ports import Policy

Value = TypeVar("Value")
Some: TypeAlias = Value | Sequence[Value]


@dataclass(frozen=True)
class Simulation:
    """What became of one run. Times are seconds since its start, latencies are in ms."""

    result: RunResult

    def __repr__(self) -> str:
        """Return a line: a notebook shows what a cell ends with."""
        told, of = self.result.summary, self.result.config
        policy = of.policy if isinstance(of.policy, str) else of.policy.name
        return (
            f"Simulation({of.scenario}, {policy}, seed {of.seed}: "
            f"{_share(told['attainment'])}, $ {told['cost_usd_per_h']:.2f} an hour)"
        )

    @property
    def summary(self) -> dict[str, Any]:
        """Return the scores over all servers: attainment [share of requests], cost_cents_per_h,
        ttft_ms_p95, … (docs/experiments.md).
        """
        return {name: value for name, value in self.result.summary.items() if name != "servers"}

    @cached_property
    def servers(self) -> pd.DataFrame:
        """Return the scores of each server, a row each."""
        frame = pd.DataFrame.from_dict(self.result.summary["servers"], orient="index")
        return frame.rename_axis("server")

    @cached_property
    def cycles(self) -> pd.DataFrame:
        """Return what was seen and decided, a row for each cycle and server, with the names of the
        record (docs/loop.md).
        """
        return pd.DataFrame(
            [
                {"t_s": line["t_s"], "cycle": line["cycle"], **row}
                for line in self.result.cycles
                for row in line["servers"]
            ]
        )

    @cached_property
    def requests(self) -> pd.DataFrame:
        """Return every request, a row each: arrival_s, prompt_tokens, outcome, …"""
        return requests_frame(self.result)

    @cached_property
    def pods(self) -> pd.DataFrame:
        """Return every pod that there was, a row each: when it was ready, gone, … [s]."""
        return pods_frame(self.result)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what the data leave open, a line each."""
        return self.result.notes

    def save(self, out: str | PathLike[str]) -> list[Path]:
        """Write the files of `inferno sim` into *out*, and return their paths."""
        return write_run(self.result, Path(out))


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What became of a sweep. results has a row for each run: its settings, the scores of
    `Simulation.summary`, and `error`, empty if it went well.
    """

    results: pd.DataFrame
    notes: tuple[str, ...]
    paths: tuple[Path, ...]

    def __repr__(self) -> str:
        """Return a line: the table is in results."""
        failed = int((self.results["error"] != "").sum())
        return f"Sweep({len(self.results)} runs, {failed} of them failed)"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What became of a comparison. results has a row for each policy, scenario and seed, as
    results.csv has; advice says which policy to take, a line for each load.
    """

    results: pd.DataFrame
    advice: tuple[str, ...]
    notes: tuple[str, ...]
    paths: tuple[Path, ...]

    def __repr__(self) -> str:
        """Return the advice."""
        return "\n".join(self.advice) or "Comparison(no advice: every run failed)"


def simulate(
    *,
    data: str | PathLike[str] | None = None,
    scenario: str | PathLike[str] = "disturbed",
    policy: str | Policy = "slo",
    policy_options: Mapping[str, PolicyOption] | None = None,
    alpha: float | None = None,
    interval: float | None = None,
    period: float | None = None,
    hours: float | None = None,
    seed: int = 1,
    metrics: Literal["measured", "labels"] = "measured",
    walk: Literal["plain", "reverting"] | None = None,
    theta: float | None = None,
    truth: str | PathLike[str] | None = None,
    dynamic: bool = False,
    engine: EngineChoice = "auto",
    budget_usd_per_h: float | None = None,
) -> Simulation:
    """Simulate one run, as `inferno sim` does; the arguments are its options.

    data: a directory of data files (None: the sample system of 27 servers). scenario: the name of a
    ready one or a file. alpha: disturbance, 0 to 1; interval: seconds between disturbances; period:
    seconds between control cycles; hours: simulated hours; theta: pull of the reverting walk, 0 to
    1. What is None is the scenario's, and the period the policy's. policy: a name, module:Class,
    FILE.py, or an object. policy_options: what --set sets. engine: what serves the requests, with
    the same results.

    Raise twin.spec.SpecError, one line, for bad input.
    """
    return Simulation(
        run(
            _config(
                data,
                policy_options,
                truth,
                scenario=str(scenario),
                policy=policy,
                disturbance_alpha=alpha,
                interval_s=interval,
                period_s=period,
                hours=hours,
                seed=seed,
                metrics=metrics,
                walk=walk,
                theta=theta,
                dynamic=dynamic,
                engine=engine,
                budget_usd_per_h=budget_usd_per_h,
            )
        )
    )


def sweep(
    *,
    data: str | PathLike[str] | None = None,
    scenario: Some[str] = "disturbed",
    policy: Some[str | Policy] = "slo",
    policy_options: Mapping[str, Some[PolicyOption]] | None = None,
    alpha: Some[float] | None = None,
    interval: Some[float] | None = None,
    period: Some[float] | None = None,
    hours: float | None = None,
    seed: int = 1,
    seeds: int = 1,
    metrics: Literal["measured", "labels"] = "measured",
    walk: Literal["plain", "reverting"] | None = None,
    theta: float | None = None,
    truth: str | PathLike[str] | None = None,
    dynamic: bool = False,
    engine: EngineChoice = "auto",
    budget_usd_per_h: float | None = None,
    out: str | PathLike[str] | None = None,
    jobs: int | None = None,
    scheduler: str | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Sweep:
    """Run every combination of the values given for each of *seeds* seeds, as `inferno sweep` does.

    The arguments are those of `simulate`; scenario, policy, alpha, interval and period may be
    several, and so may the values of policy_options, whose names may say whose they are
    ("hpa.target"). out: where the table, the figures and the finished runs are written (None:
    nowhere); with resume its finished runs are not repeated. jobs: processes (None: one a core; 1
    uses this process). scheduler: the address of a Dask scheduler whose workers make the runs
    instead. Progress and tables go to *console* (None: nowhere).

    A script that sweeps on several processes needs `if __name__ == "__main__":`. Raise
    twin.spec.SpecError, one line, for bad input.
    """
    grid = _grid(
        data,
        truth,
        scenario=scenario,
        alpha=alpha,
        interval=interval,
        period=period,
        seeds=seeds,
        hours=hours,
        seed=seed,
        metrics=metrics,
        walk=walk,
        theta=theta,
        dynamic=dynamic,
        engine=engine,
        budget_usd_per_h=budget_usd_per_h,
    )
    grid = replace(grid, policies=_several(policy, "policy"), options=_options(policy_options))
    executor = make_executor(jobs=jobs, scheduler=scheduler)
    if out is None:
        with TemporaryDirectory() as scratch:
            done = sweep_to_directory(grid, Path(scratch), executor=executor, console=console)
        return Sweep(results=done.results, notes=done.notes, paths=())
    done = sweep_to_directory(grid, Path(out), executor=executor, resume=resume, console=console)
    return Sweep(results=done.results, notes=done.notes, paths=tuple(done.paths))


def compare(
    *,
    policies: Some[str | Policy] = ("slo", "hpa", "static_peak", "clairvoyant"),
    data: str | PathLike[str] | None = None,
    scenario: Some[str] = "disturbed",
    policy_options: Mapping[str, Some[PolicyOption]] | None = None,
    alpha: Some[float] | None = None,
    interval: Some[float] | None = None,
    period: Some[float] | None = None,
    hours: float | None = None,
    seed: int = 1,
    seeds: int = 1,
    price: float = 0.01,
    metrics: Literal["measured", "labels"] = "measured",
    walk: Literal["plain", "reverting"] | None = None,
    theta: float | None = None,
    truth: str | PathLike[str] | None = None,
    dynamic: bool = False,
    engine: EngineChoice = "auto",
    budget_usd_per_h: float | None = None,
    out: str | PathLike[str] | None = None,
    jobs: int | None = None,
    scheduler: str | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Comparison:
    """Run *policies* under the same loads and seeds, as `inferno compare` does, and say which one
    to take.

    The first policy is what the others are compared with; "clairvoyant" and "static_peak" are
    bounds, which know the load. price: what a missed request costs [$], for the clairvoyant, regret
    and advice. The other arguments are those of `sweep`.
    """
    given = tuple(_options(policy_options).items())
    asked = CompareConfig(
        contenders=contenders(_several(policies, "policies"), given),
        loads=_grid(
            data,
            truth,
            scenario=scenario,
            alpha=alpha,
            interval=interval,
            period=period,
            seeds=seeds,
            hours=hours,
            seed=seed,
            metrics=metrics,
            walk=walk,
            theta=theta,
            dynamic=dynamic,
            engine=engine,
            budget_usd_per_h=budget_usd_per_h,
        ),
        price_usd=price,
    )
    executor = make_executor(jobs=jobs, scheduler=scheduler)
    with TemporaryDirectory() as scratch:
        done = compare_to_directory(
            asked,
            Path(scratch if out is None else out),
            executor=executor,
            resume=resume and out is not None,
            console=console,
        )
    return Comparison(
        results=done.results,
        advice=done.advice,
        notes=done.notes,
        paths=() if out is None else tuple(done.paths),
    )


def _config(
    data: str | PathLike[str] | None,
    policy_options: Mapping[str, PolicyOption] | None,
    truth: str | PathLike[str] | None,
    **given: Any,
) -> RunConfig:
    if data is not None:
        given["data"] = shipped(Path(data))
    return RunConfig(
        truth=None if truth is None else Path(truth),
        policy_options=tuple(sorted((policy_options or {}).items())),
        **given,
    )


def _grid(
    data: str | PathLike[str] | None,
    truth: str | PathLike[str] | None,
    *,
    scenario: Some[str],
    alpha: Some[float] | None,
    interval: Some[float] | None,
    period: Some[float] | None,
    seeds: int,
    **given: Any,
) -> SweepConfig:
    return SweepConfig(
        base=_config(data, None, truth, **given),
        scenarios=_several(scenario, "scenario"),
        alphas=_several(alpha, "alpha"),
        intervals_s=_several(interval, "interval"),
        periods_s=_several(period, "period"),
        seeds=seeds,
    )


def _options(
    given: Mapping[str, Some[PolicyOption]] | None,
) -> dict[str, tuple[PolicyOption, ...]]:
    return {name: _several(value, name) for name, value in (given or {}).items()}


def _share(attainment: float | None) -> str:
    return "no target" if attainment is None else f"{100.0 * attainment:.1f} % within target"


def _several(values: Some[Value] | None, name: str) -> tuple[Value, ...]:
    """Return *values* of the argument *name* as a tuple: a text or a number alone is one value.
    Raise SpecError for a list of none.
    """
    if values is None:
        return ()
    if isinstance(values, Sequence) and not isinstance(values, str):
        if not values:
            raise SpecError(f"{name}: expected at least one value, found none")
        return tuple(values)
    return (values,)
