"""Known pathologies of autoscalers, each on the twin with its cure beside it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import simpy

from experiments.compare.rows import after_step
from experiments.config import SAMPLE_DATA, RunConfig
from experiments.run import RunResult, simulate, start_world
from experiments.sources import Sources, read_sources
from experiments.stability import slowed
from loop.backends.sim import SimBackend
from loop.collector import CollectorSettings, collect
from loop.ports import Policy
from loop.spec import SystemData
from loop.types import Decision, ServerView, Snapshot, Target, Why, one_pool
from twin.serving.cluster import Cluster

pytestmark = pytest.mark.costly

STEP = "alpha: 0\nload:\n  - shape: {kind: steps, levels: [{t_s: 900, factor: 2}]}\n"


def one_server(
    folder: Path, system: str, name: str, now: dict[str, Any], load: dict[str, int]
) -> None:
    """Write the data of *system* with *name* alone into *folder*: it has *now* and gets *load*, and
    stays on its accelerator.
    """
    for path in (SAMPLE_DATA / system).glob("*.json"):
        (folder / path.name).write_text(path.read_text())
    servers = json.loads((folder / "server-data.json").read_text())["servers"]
    (row,) = [row for row in servers if row["name"] == name]
    row["keepAccelerator"] = True
    row["currentAlloc"] |= now
    row["currentAlloc"]["load"] |= load
    (folder / "server-data.json").write_text(json.dumps({"servers": [row]}))
    twin = json.loads((folder / "twin-data.json").read_text())
    (folder / "twin-data.json").write_text(json.dumps({**twin, "servers": []}))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data of one server with two replicas, and a scenario in which its load doubles."""
    folder = tmp_path_factory.mktemp("one")
    now = {"accelerator": "MI250", "numReplicas": 2, "maxBatch": 16}
    one_server(folder, "small", "Premium-llama_13b", now, {"arrivalRate": 90})
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


def scraped(sources: Sources, *, interval_s: float, window_s: float) -> Sources:
    """Return *sources* in a world that is measured so."""
    times = replace(sources.world.world, scrape_interval_s=interval_s, window_s=window_s)
    return replace(sources, world=replace(sources.world, world=times))


def overshoot(asked: Sources) -> float:
    """Return by how many replicas the run of *asked* went beyond what it ended with."""
    found = after_step(simulate(asked), asked.loads)["overshoot"]
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


def test_kv_caches_that_are_too_full(tmp_path: Path) -> None:
    """Requests that lose their place are computed again, and replicas that do that serve less than
    fewer would: an HPA has more and more of them. A smaller batch is the cure.
    """
    now = {"accelerator": "H200", "numReplicas": 2, "maxBatch": 72}
    load = {"arrivalRate": 120, "avgInTokens": 9000, "avgOutTokens": 1900}
    one_server(tmp_path, "large", "Batch-Qwen2.5-14B", now, load)

    def run(policy: str) -> tuple[dict[str, Any], list[int]]:
        found = simulate(sources(tmp_path, policy, scenario="steady"))
        return found.summary, [cycle["servers"][0]["maxBatch"] for cycle in found.cycles]

    (ill, _), (cured, batches) = run("hpa"), run("slo")
    assert sum(one != other for one, other in pairwise(batches)) == 1, "one rollout"
    assert ill["preemptions"] > 1000
    assert cured["preemptions"] < 100
    assert cured["attainment"] > ill["attainment"]
    assert cured["cost_cents_per_h"] < 0.8 * ill["cost_cents_per_h"]


@pytest.mark.slow
def test_panic_with_slow_starts(data: Path) -> None:
    """Panic never goes down, and with pods that take minutes its short window sees nothing but the
    queue; without panic the same autoscaler overshoots by a fraction.
    """
    ill = overshoot(sources(data, "kpa", start_up=3.0))
    cured = overshoot(sources(data, "kpa", start_up=3.0, panic_threshold=100.0))
    assert ill > 3 * max(cured, 1.0)


def with_replicas(view: ServerView, replicas: int) -> Target:
    """Return the target of *view* with *replicas*, on the accelerator that it has."""
    pools = one_pool(accelerator=view.accelerator, replicas=replicas, max_batch=view.max_batch)
    return Target(server=view.name, pools=pools, why=Why(kind="metric"))


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
            targets[name] = with_replicas(view, max(math.ceil(rate / self.rpm), 1))
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


@dataclass(frozen=True, slots=True, kw_only=True)
class OneMore:
    """Adds a replica when the mean TTFT of the window is above *limit_ms*, and then nothing for
    *delay_s*.
    """

    delay_s: float
    limit_ms: float = 500.0
    name: str = "one-more"
    tick_s: float = 15.0

    def start(self) -> float:
        """Return when a replica was added last."""
        return -math.inf

    def decide(
        self,
        snapshot: Snapshot,
        data: SystemData,  # noqa: ARG002 the port
        state: float,
    ) -> tuple[Decision, float]:
        """Return one replica more, or what there is."""
        (view,) = snapshot.servers.values()
        late = view.ttft_ms is not None and view.ttft_ms > self.limit_ms
        more = late and snapshot.now_s - state >= self.delay_s
        target = with_replicas(view, view.wanted + more)
        return Decision(targets={view.name: target}), snapshot.now_s if more else state


def test_a_delay_shorter_than_the_window(data: Path) -> None:
    """A mean over a window is high for as long as the window reaches back to before the new pod, so
    who acts again before that adds pods for a queue that is gone; a delay as long as the window
    is the cure. Pods are ready at once here: it is not their start-up that misleads.
    """

    def run(delay_s: float) -> RunResult:
        asked = sources(data, "slo", start_up=0.0)
        asked = replace(asked, policy=OneMore(delay_s=delay_s))
        return simulate(scraped(asked, interval_s=15.0, window_s=240.0))

    ill, cured = run(15.0), run(255.0)
    assert ill.pods["asked_s"].size >= cured.pods["asked_s"].size + 5
    assert cured.summary["cost_cents"] < 0.7 * ill.summary["cost_cents"]
    assert cured.summary["attainment"] > ill.summary["attainment"] - 0.05


def test_metric_lag(data: Path) -> None:
    """A gauge that is five minutes old tells of the load before the step: an autoscaler comes that
    much later, whatever its own period. A shorter interval of scrapes is the cure.
    """
    scenario = data / "triple.yaml"
    scenario.write_text(STEP.replace("factor: 2", "factor: 3"))

    def run(interval_s: float) -> RunResult:
        asked = sources(data, "hpa", scenario=str(scenario))
        return simulate(scraped(asked, interval_s=interval_s, window_s=300.0))

    ill, cured = run(300.0), run(15.0)
    assert ill.summary["attainment"] < cured.summary["attainment"] - 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class PartlySeen:
    """Lets *inner* see only what every second ready pod reports; *mended*: as the collector of the
    loop makes of it.
    """

    inner: Policy
    mended: bool
    name: str = "partly-seen"
    tick_s: float = 60.0
    samples_s: float | None = None

    def start(self) -> None:
        """Return no state."""

    def decide(self, snapshot: Snapshot, data: SystemData, state: None) -> tuple[Decision, None]:
        """Return what *inner* makes of a part."""
        views = {name: _half(view) for name, view in snapshot.servers.items()}
        seen = replace(snapshot, servers=views)
        if self.mended:
            seen = collect(seen, {}, settings=CollectorSettings()).snapshot
        return self.inner.decide(seen, data, state)


def _half(view: ServerView) -> ServerView:
    if view.load is None or view.ready == 0:
        return view
    reporting = (view.ready + 1) // 2
    rate_rpm = view.load.rate_rpm * reporting / view.ready
    return replace(view, load=replace(view.load, rate_rpm=rate_rpm), reporting=reporting)


def test_undercount_on_partial_reporting(data: Path) -> None:
    """A sum over the pods that report is less than what comes, so a scaler takes pods away from a
    server that needs them; the collector scales the sum up to all ready pods.
    """

    def run(*, mended: bool) -> RunResult:
        asked = sources(data, "slo")
        inner = ByRate(rpm=60.0, by_completions=False)
        return simulate(replace(asked, policy=PartlySeen(inner=inner, mended=mended)))

    ill, cured = run(mended=False), run(mended=True)
    assert ill.summary["attainment"] < cured.summary["attainment"] - 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroWhenIdle:
    """Wakes a server when something waits for it, and puts it to sleep when its pods have run
    nothing for *cooldown_s*.
    """

    cooldown_s: float
    name: str = "zero-when-idle"
    tick_s: float = 15.0

    def start(self) -> float:
        """Return when pods ran something last, or were woken."""
        return -math.inf

    def decide(
        self,
        snapshot: Snapshot,
        data: SystemData,  # noqa: ARG002 the port
        state: float,
    ) -> tuple[Decision, float]:
        """Return one replica or none."""
        (view,) = snapshot.servers.values()
        woken = view.wanted == 0 and view.backlog > 0
        used_s = snapshot.now_s if view.running or woken else state
        replicas = int(snapshot.now_s - used_s < self.cooldown_s)
        return Decision(targets={view.name: with_replicas(view, replicas)}), used_s


def unguarded(asked: Sources) -> Cluster:
    """Return the world after half an hour in which it did what the policy of *asked* said, without
    a loop that looks after it.
    """
    policy, env = asked.policy, simpy.Environment()
    end_s = asked.config.duration_s
    cluster, _ = start_world(env, asked, until_s=end_s)
    backend, state = SimBackend(cluster), policy.start()
    for cycle in range(1, int(end_s / policy.tick_s)):
        env.run(until=cycle * policy.tick_s)
        decision, state = policy.decide(backend.observe(), asked.system, state)
        for name, target in decision.targets.items():
            cluster.scale(name, target.pools[0])
    return cluster


def test_scale_to_zero_while_loading(data: Path, tmp_path: Path) -> None:
    """A pod that loads its model runs nothing, so who ends what is idle ends it before it has ever
    served, and begins again for what waits. In the loop what waits keeps a replica, whatever the
    policy says.
    """
    for path in data.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    servers = json.loads((data / "server-data.json").read_text())
    servers["servers"][0]["minNumReplicas"] = 0
    servers["servers"][0]["currentAlloc"] |= {"numReplicas": 0, "cost": 0}
    (tmp_path / "server-data.json").write_text(json.dumps(servers))
    asked = sources(tmp_path, "slo", scenario="steady", start_up=3.0)
    asked = replace(asked, policy=ZeroWhenIdle(cooldown_s=120.0))
    ill, cured = unguarded(asked), simulate(asked)
    assert len(ill.requests) == 0
    assert ill.pods.frame()["asked_s"].size >= 10
    assert cured.summary["finished"] > 1000
    assert cured.pods["asked_s"].size == 1
