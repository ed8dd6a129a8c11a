"""Known pathologies of autoscalers, each on the twin with its cure beside it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from experiments.compare_rows import after_step
from experiments.config import SAMPLE_DATA, RunConfig
from experiments.run import RunResult, simulate
from experiments.sources import Sources, read_sources
from experiments.stability import slowed
from loop.spec import SystemData
from loop.types import Decision, Snapshot, Target, Why, one_pool

STEP = "alpha: 0\nload:\n  - shape: {kind: steps, levels: [{t_s: 900, factor: 2}]}\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data of one server with two replicas, and a scenario in which its load doubles."""
    folder = tmp_path_factory.mktemp("one")
    for path in (SAMPLE_DATA / "small").glob("*.json"):
        (folder / path.name).write_text(path.read_text())
    servers = json.loads((folder / "server-data.json").read_text())["servers"]
    (row,) = [row for row in servers if row["name"] == "Premium-llama_13b"]
    row["keepAccelerator"] = True
    row["currentAlloc"] |= {"accelerator": "MI250", "numReplicas": 2, "maxBatch": 16}
    row["currentAlloc"]["load"]["arrivalRate"] = 90
    (folder / "server-data.json").write_text(json.dumps({"servers": [row]}))
    twin = json.loads((folder / "twin-data.json").read_text())
    (folder / "twin-data.json").write_text(json.dumps({**twin, "servers": []}))
    (folder / "step.yaml").write_text(STEP)
    return folder


def sources(
    data: Path, policy: str, *, scenario: str = "", start_up: float = 1.0, **options: Any
) -> Sources:
    """Return half an hour of *policy*; without a scenario the load doubles."""
    config = RunConfig(
        data=data,
        scenario=scenario or str(data / "step.yaml"),
        policy=policy,
        policy_options=tuple(sorted(options.items())),
        hours=0.5,
        seed=2,
    )
    return slowed(read_sources(config), start_up)


def overshoot(asked: Sources) -> float:
    """Return by how many replicas the run of *asked* went beyond what it ended with."""
    found = after_step(simulate(asked), asked.loads[0].curve)["overshoot"]
    assert found is not None
    return found


def test_flapping_at_the_boundary(data: Path) -> None:
    """A load at the boundary of two counts moves an autoscaler without tolerance and stabilisation
    up and down all the time; both are the cure.
    """

    def run(**options: Any) -> RunResult:
        return simulate(sources(data, "hpa", scenario="steady", **options))

    ill, cured = run(stabilization_s=0.0, tolerance=0.0), run()
    assert ill.summary["reversals_per_h"] > 5 * cured.summary["reversals_per_h"]
    assert ill.summary["attainment"] < cured.summary["attainment"]


def test_scale_up_is_repeated_while_pods_load(data: Path) -> None:
    """A queue stays until the new pods are ready, so a policy that scales by it asks again and
    again; what is in flight says how many are needed at once.
    """
    ill = overshoot(sources(data, "hpa", start_up=3.0, metric="waiting", target=1.0))
    cured = overshoot(sources(data, "hpa", start_up=3.0))
    assert ill >= 10
    assert cured <= 2


@pytest.mark.slow
def test_panic_with_slow_starts(data: Path) -> None:
    """Panic never goes down, and with pods that take minutes its short window sees nothing but the
    queue; without panic the same autoscaler overshoots by a fraction.
    """
    ill = overshoot(sources(data, "kpa", start_up=3.0))
    cured = overshoot(sources(data, "kpa", start_up=3.0, panic_threshold=100.0))
    assert ill > 3 * max(cured, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByRate:
    """Gives a replica for each *rpm* of what is finished, or of what arrives."""

    rpm: float
    by_completions: bool
    name: str = "by-rate"
    tick_s: float = 60.0
    samples_s: float | None = None

    def start(self) -> None:
        """Return no state."""

    def decide(self, snapshot: Snapshot, data: SystemData, state: None) -> tuple[Decision, None]:  # noqa: ARG002 the port
        """Return the rate over the rate of a replica."""
        targets = {}
        for name, view in snapshot.servers.items():
            arrivals = view.load.rate_rpm if view.load else None
            rate = view.completions_rpm if self.by_completions else arrivals
            if rate is None:
                continue
            pool = one_pool(
                accelerator=view.accelerator,
                replicas=max(math.ceil(rate / self.rpm), 1),
                max_batch=view.max_batch,
            )
            targets[name] = Target(server=name, pools=pool, why=Why(kind="slo-ttft"))
        return Decision(targets=targets), None


def test_throughput_taken_for_demand(data: Path) -> None:
    """A server that is full finishes no more than it can, so who counts what is finished never
    learns that more is asked for; arrivals tell.
    """
    scenario = data / "triple.yaml"
    scenario.write_text(STEP.replace("factor: 2", "factor: 3"))

    def run(*, by_completions: bool) -> RunResult:
        asked = sources(data, "slo", scenario=str(scenario))
        return simulate(replace(asked, policy=ByRate(rpm=88.0, by_completions=by_completions)))

    ill, cured = run(by_completions=True), run(by_completions=False)
    assert ill.summary["attainment"] < cured.summary["attainment"] - 0.2
