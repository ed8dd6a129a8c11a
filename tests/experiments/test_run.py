"""A run follows from its configuration alone, and answers for every request, pod and cycle."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import RunConfig, run
from experiments.config import SAMPLE_DATA, config_from_json
from experiments.run import RunResult
from experiments.sources import read_sources
from twin.request import Outcome
from twin.spec import SpecError

# Three minutes of the small system: some thousand requests in a fifth of a second.
SHORT = RunConfig(
    data=SAMPLE_DATA / "small", scenario="disturbed", hours=0.05, period_s=30.0, interval_s=20.0
)


def lines(result: RunResult) -> list[dict[str, Any]]:
    """Return the cycles without what the machine's clock put there."""
    return [
        {key: value for key, value in cycle.items() if key not in ("ts", "timing")}
        for cycle in result.cycles
    ]


@pytest.mark.costly
def test_equal_configurations_give_equal_results() -> None:
    """A run must be repeatable from what is saved beside it."""
    first, second = run(SHORT), run(SHORT)
    assert lines(first) == lines(second)
    assert first.summary == second.summary
    for columns in ("requests", "pods"):
        one, other = getattr(first, columns), getattr(second, columns)
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.slow
def test_a_seed_fixes_arrivals_and_tokens_whatever_decides_and_how_often() -> None:
    """Policies are compared in pairs: they must meet the very same requests."""

    def offered(**changes: Any) -> list[tuple[Any, ...]]:
        requests = run(replace(SHORT, **changes)).requests
        names = ("server", "arrival_s", "prompt_tokens", "output_tokens")
        return sorted(zip(*(requests[name].tolist() for name in names), strict=True))

    reference = offered()
    assert reference == offered(policy="static")
    assert reference == offered(period_s=7.0)
    assert reference != offered(seed=2)


def test_cycles_run_from_the_first_period_to_the_end() -> None:
    """The first cycle is at t = period; one at the very end could change nothing."""
    assert [cycle["t_s"] for cycle in run(SHORT).cycles] == [30.0, 60.0, 90.0, 120.0, 150.0]


def test_every_request_is_in_one_outcome_and_none_arrives_after_the_end() -> None:
    """What is not recorded cannot be scored."""
    result = run(SHORT)
    assert (
        len(np.unique(result.requests["id"] * 100 + result.requests["server"]))
        == result.requests["id"].size
    )
    assert result.requests["arrival_s"].max() < 180.0
    unfinished = result.requests["outcome"] == Outcome.UNFINISHED
    assert unfinished.any()
    assert (
        result.requests["generated"][~unfinished] == result.requests["output_tokens"][~unfinished]
    ).all()
    assert (result.requests["generated"] <= result.requests["output_tokens"]).all()


def test_a_policy_that_changes_nothing_costs_what_the_pods_at_the_start_cost() -> None:
    """Worked out by hand from the data files: replicas × accelerators × price."""
    result = run(replace(SHORT, policy="static", scenario="steady"))
    system = read_sources(SHORT).system
    by_hand = sum(
        server.current.replicas
        * system.perf[server.model, server.current.accelerator].acc_count
        * system.accelerators[server.current.accelerator].cost_cents_per_h
        for server in system.servers.values()
    )
    assert result.summary["cost_cents_per_h"] == pytest.approx(by_hand)
    assert result.summary["changes_per_h"] == 0.0


def test_with_labels_the_loop_sees_the_offered_loads_themselves() -> None:
    """No lag and no noise: the nominal of a steady load is what the first cycle reads."""
    result = run(replace(SHORT, scenario="steady", metrics="labels"))
    nominal = {
        name: server.current.load for name, server in read_sources(SHORT).system.servers.items()
    }
    for row in result.cycles[0]["servers"]:
        load = nominal[row["name"]]
        assert load is not None
        assert (row["rpm"], row["avgInTok"], row["avgOutTok"]) == (
            load.rate_rpm,
            load.in_tokens,
            load.out_tokens,
        )


def test_progress_is_told_up_to_the_last_cycle() -> None:
    """A bar that stands still looks like a program that does."""
    shares: list[float] = []
    run(SHORT, progress=shares.append)
    assert shares == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])


def test_the_scenario_speaks_where_the_user_is_silent_and_yields_where_not() -> None:
    """A flag wins over the scenario; steady is undisturbed by itself."""
    assert read_sources(replace(SHORT, scenario="steady")).config.disturbance_alpha == 0.0
    assert (
        read_sources(
            replace(SHORT, scenario="steady", disturbance_alpha=0.3)
        ).config.disturbance_alpha
        == 0.3
    )
    resolved = read_sources(RunConfig(data=SAMPLE_DATA / "small")).config
    assert (resolved.disturbance_alpha, resolved.interval_s, resolved.period_s, resolved.hours) == (
        0.1,
        60.0,
        20.0,
        1.0,
    )


def test_a_configuration_survives_its_file() -> None:
    """run.json must be enough to run again."""
    config = replace(
        SHORT, truth=Path("truth.json"), policy_options=(("headroom", 0.2), ("solver", "greedy"))
    )
    assert config_from_json(config.as_json()) == config


def test_a_run_is_known_by_what_decides_its_numbers_and_by_nothing_else(tmp_path: Path) -> None:
    """On this a resume relies: equal hash, equal numbers; another place of the same data is the
    same.
    """
    known = read_sources(SHORT).run_id
    moved = shutil.copytree(SAMPLE_DATA / "small", tmp_path / "elsewhere")
    assert read_sources(replace(SHORT, data=moved)).run_id == known
    assert read_sources(replace(SHORT, disturbance_alpha=0.1)).run_id == known  # the scenario's own
    for change in (
        {"seed": 2},
        {"policy": "static"},
        {"period_s": 31.0},
        {"scenario": "steady"},
        {"hours": 0.06},
    ):
        assert read_sources(replace(SHORT, **change)).run_id != known
    capacity = moved / "capacity-data.json"
    capacity.write_text(capacity.read_text().replace("10", "11"))
    assert read_sources(replace(SHORT, data=moved)).run_id != known


@pytest.mark.parametrize(
    ("bad", "line"),
    [
        ({"disturbance_alpha": 1.5}, r"alpha: expected a number within \[0, 1\], found 1.5"),
        ({"disturbance_alpha": float("nan")}, "alpha: expected"),
        ({"interval_s": 0.0}, "interval: expected a number > 0, found 0.0"),
        ({"period_s": 0.0}, "period: expected a number > 0, found 0.0"),
        ({"period_s": -5.0}, "period: expected"),
        ({"hours": 0.0}, "hours: expected"),
        ({"hours": float("inf")}, "hours: expected"),
        ({"hours": 1e300}, r"hours: expected a number <= 100000, found 1e\+300"),
        ({"period_s": 1e-9}, "period: expected a number >= 0.1, found 1e-09"),
        ({"interval_s": 1e-9}, "interval: expected a number >= 0.1, found 1e-09"),
        ({"seed": -1}, "seed: expected a whole number >= 0, found -1"),
        ({"metrics": "guessed"}, "metrics: expected one of measured, labels, found 'guessed'"),
        ({"walk": "drunken"}, "walk: expected one of plain, reverting, found 'drunken'"),
        ({"policy": "oracle"}, "policy: expected one of .*, found 'oracle'"),
        ({"policy_options": (("colour", "red"),)}, "policy slo: expected options"),
        ({"scenario": "doomsday"}, "scenario: expected one of .*, found 'doomsday'"),
        ({"data": Path("nowhere")}, "nowhere"),
        ({"truth": Path("nowhere.json")}, "nowhere.json"),
    ],
)
def test_bad_input_is_one_clear_line(bad: dict[str, Any], line: str) -> None:
    """It names what was expected and what came, and comes before anything is simulated."""
    with pytest.raises(SpecError, match=line) as told:
        read_sources(replace(SHORT, **bad))
    assert "\n" not in str(told.value)


def test_a_run_that_ends_before_its_first_cycle_says_so() -> None:
    """A first try of a minute looked like a policy that had nothing to do."""
    note = "nothing was decided: the first cycle is at 60 s, and the run ends at 36 s"
    assert note in run(replace(SHORT, hours=0.01, period_s=60.0)).notes
