"""The Python API (`inferno.simulate`, `sweep`, `compare`): options of the command, and tables."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import inferno
from experiments import RunConfig, run
from inferno.cli.main import find_command
from loop.spec import SystemData
from loop.types import Decision, Snapshot, Target, Why
from twin.spec import SpecError

OF_THE_TERMINAL = {"help", "quiet", "verbose"}


@pytest.mark.parametrize(
    ("command", "function", "others"),
    [
        # A run is saved by its own method, a sweep tells its progress to a console,
        # and its scheduler says what executes it.
        ("sim", inferno.simulate, ({"out"}, set())),
        ("sweep", inferno.sweep, ({"executor"}, {"console"})),
        # --policy is --policies by the name that other commands have.
        ("compare", inferno.compare, ({"executor", "policy"}, {"console"})),
    ],
)
def test_its_arguments_are_the_options_of_the_command(
    command: str, function: object, others: tuple[set[str], set[str]]
) -> None:
    """What is tried in a notebook is repeated in a terminal, and the other way round."""
    actions = find_command(command).parser()._actions
    options = {action.dest for action in actions} - OF_THE_TERMINAL - others[0]
    arguments = set(inspect.signature(function).parameters) - others[1]  # type: ignore[arg-type]
    assert arguments == options


@pytest.mark.slow
def test_a_simulation_has_the_figures_of_the_run_as_tables(tmp_path: Path) -> None:
    """One row for each server, request, pod, and cycle and server; and the files."""
    small = inferno.SAMPLE_DATA / "small"
    told = inferno.simulate(data=small, scenario="steady", hours=0.05, policy="static")
    plain = run(RunConfig(data=small, scenario="steady", hours=0.05, policy="static"))
    assert told.summary["attainment"] == plain.summary["attainment"]
    assert list(told.servers.index) == list(plain.names)
    assert len(told.requests) == len(plain.requests["arrival_s"])
    assert len(told.pods) == len(plain.pods["server"])
    assert len(told.cycles) == len(plain.cycles) * len(plain.names)
    assert {"t_s", "cycle", "name", "replicas", "reason"} <= set(told.cycles.columns)
    assert tmp_path / "out" / "summary.json" in told.save(tmp_path / "out")


@pytest.mark.slow
def test_a_sweep_takes_one_value_or_several(tmp_path: Path) -> None:
    """And writes only where it is told to."""
    given = {"data": inferno.SAMPLE_DATA / "small", "scenario": "steady", "policy": "static"}
    done = inferno.sweep(**given, alpha=(0.1, 0.2), hours=0.02, jobs=1)  # type: ignore[arg-type]
    assert list(done.results["alpha"]) == [0.1, 0.2]
    assert done.paths == ()
    kept = inferno.sweep(**given, alpha=0.1, hours=0.02, jobs=1, out=tmp_path / "out")  # type: ignore[arg-type]
    assert list(kept.results["alpha"]) == [0.1]
    assert tmp_path / "out" / "results.csv" in kept.paths


@dataclass(frozen=True, kw_only=True)
class Doubled:
    """Keeps twice the replicas that there were."""

    name: str = "doubled"
    tick_s: float = 30.0

    def start(self) -> None:
        """Return no state."""

    def decide(self, snapshot: Snapshot, data: SystemData, state: None) -> tuple[Decision, None]:  # noqa: ARG002 the port
        """Return as many replicas as two of each."""
        targets = {
            name: Target(
                server=name,
                pools=tuple(replace(pool, replicas=2) for pool in view.pools),
                why=Why(kind="metric", text="two of each"),
            )
            for name, view in snapshot.servers.items()
        }
        return Decision(targets=targets), None


@pytest.mark.slow
def test_a_comparison_takes_a_policy_as_an_object_and_gives_advice(tmp_path: Path) -> None:
    """Beside others, with an option that is its own; and what a cell of a notebook ends with is a
    line or two, not each request.
    """
    small = inferno.SAMPLE_DATA / "small"
    done = inferno.compare(
        policies=("static", Doubled(), "hpa"),
        policy_options={"hpa.target": (0.6, 0.75)},
        data=small,
        scenario="steady",
        hours=0.05,
        jobs=1,
        out=tmp_path / "out",
    )
    named = done.results["policy"].drop_duplicates()
    assert set(named) >= {"static", "doubled", "hpa(target=0.6)", "hpa(target=0.75)"}
    assert tmp_path / "out" / "results.csv" in done.paths
    assert repr(done) == "\n".join(done.advice)
    assert done.advice
    one = inferno.simulate(data=small, scenario="steady", hours=0.05, policy=Doubled())
    assert re.fullmatch(
        r"Simulation\(steady, doubled, seed 1: [\d.]+ % within target, \$ [\d.]+ an hour\)",
        repr(one),
    )


def test_bad_input_is_one_line() -> None:
    """As from the command."""
    with pytest.raises(SpecError, match=r"alpha: expected .*\[0, 1\], found 2"):
        inferno.simulate(alpha=2)


def test_a_name_that_is_not_there_is_answered_as_python_does() -> None:
    """`hasattr` and completion ask for such names."""
    assert not hasattr(inferno, "simulation")
    assert "inferno.api" in sys.modules  # asked for above; the command itself never asks
