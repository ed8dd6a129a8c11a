"""The sample data: derived figures follow from what their README names, there are GPUs enough for
the ready scenarios, and a run starts steady.
"""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emulator.load import ServerLoad, batches
from experiments.config import SAMPLE_DATA, RunConfig, shipped
from experiments.sources import read_sources
from experiments.world import build_cluster_spec
from loop.optimizer.front import OptimizerSettings, optimize
from loop.optimizer.rules.ours import OURS
from loop.schema.reading import read_system
from loop.spec import Allocation, SystemData
from loop.types import Load
from twin.spec import ClusterSpec

FOLDERS = ("small", "large")
MEASURED = {
    ("Llama-3.1-8B", "H100"): (6.49, 0.0219, 4.96e-5),
    ("Qwen2.5-14B", "H100"): (10.645, 0.04176, 5.77e-5),
}
MEASURED_KV = {("Qwen2.5-14B", "H100"): 226_992}
REQUEST_TOKENS = 1024


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request: pytest.FixtureRequest, repository: Path) -> Path:
    """Return each of the folders."""
    return repository / "sample-data" / str(request.param)


@pytest.fixture(scope="module")
def system(folder: Path) -> SystemData:
    """Return the system of a folder, read without a warning."""
    warnings: list[str] = []
    data = read_system(folder, warn=warnings.append)
    assert warnings == []
    return data


@pytest.fixture(scope="module")
def world(folder: Path, system: SystemData) -> ClusterSpec:
    """Return the world of a folder, built without a note."""
    spec, notes = build_cluster_spec(system, folder)
    assert notes == ()
    return spec


@pytest.fixture(scope="module")
def small(repository: Path) -> tuple[SystemData, ClusterSpec]:
    """Return the system and the world of the small folder."""
    data = read_system(repository / "sample-data" / "small")
    return data, build_cluster_spec(data, repository / "sample-data" / "small")[0]


@pytest.fixture(scope="module")
def tables(repository: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Return the tables of GPUs and models of the README, by first column and heading."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    heading: list[str] = []
    for line in (repository / "sample-data" / "README.md").read_text().splitlines():
        cells = (
            [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        )
        if not cells:
            heading = []
        elif not heading:
            heading = cells
        elif heading[0] in {"type", "model"} and not cells[0].startswith("-"):
            figures = {
                name: float(cell)
                for name, cell in zip(heading[1:], cells[1:], strict=True)
                if name != "is"
            }
            found.setdefault(heading[0], {})[cells[0]] = figures
    return found


def latency_model(
    gpu: dict[str, float], model: dict[str, float], *, gpus: int
) -> tuple[float, float, float]:
    """Return alpha, beta and gamma by the formulas of the README."""
    shared = gpus > 1
    weights = 2e9 * model["parameters"]
    kv_bytes = 4 * model["layers"] * model["heads"] * model["head size"]
    bandwidth = 1e9 * gpu["bandwidth GB/s"] * gpu["bandwidth factor"]
    flops = 1e12 * gpu["TFLOPS"] * gpu["compute factor"]
    exchanges_ms = 2 * model["layers"] * gpu["link µs"] / 1000 if shared else 0.0
    return (
        1.54 + 1000 * weights / (gpus * bandwidth * 0.968) + exchanges_ms,
        1000 * 2e9 * model["active"] / (gpus * flops * 0.728 * (0.8 if shared else 1.0)),
        1000 * kv_bytes / (min(gpus, model["heads"]) * bandwidth * 0.896),
    )


def kv_tokens(gpu: dict[str, float], model: dict[str, float], *, gpus: int) -> int:
    """Return the KV capacity of a replica [tokens] by the formula of the README."""
    kv_bytes = 4 * model["layers"] * model["heads"] * model["head size"] / min(gpus, model["heads"])
    room = 0.9e9 * gpu["memory GB"] - 2e9 * model["parameters"] / gpus
    return int(room / kv_bytes // 16 * 16)


def test_every_latency_model_is_measured_or_follows_from_the_readme(
    small: tuple[SystemData, ClusterSpec], tables: dict[str, Any]
) -> None:
    """A figure that nobody can recompute is a figure that nobody can check."""
    system, world = small
    for (model, name), perf in system.perf.items():
        gpu = tables["type"][system.accelerators[name].type]
        gpus = world.gpus(model=model, accelerator=name)
        expected = MEASURED.get((model, name)) or latency_model(
            gpu, tables["model"][model], gpus=gpus
        )
        assert (perf.alpha_ms, perf.beta_ms, perf.gamma_ms) == pytest.approx(expected, rel=5e-3), (
            model,
            name,
        )


def test_the_two_measured_latency_model_calibrate_the_rule(tables: dict[str, Any]) -> None:
    """The README says how far the rule is from what was measured; that must stay true when a
    constant changes.
    """
    gpu = tables["type"]["H100"]
    for (model, _), measured in MEASURED.items():
        alpha, beta, gamma = latency_model(gpu, tables["model"][model], gpus=1)
        assert alpha == pytest.approx(measured[0], rel=0.002)
        assert beta == pytest.approx(measured[1], rel=0.02)
        assert gamma == pytest.approx(measured[2], rel=0.14)
    rule = kv_tokens(gpu, tables["model"]["Qwen2.5-14B"], gpus=1)
    assert rule == 215_952
    assert rule == pytest.approx(MEASURED_KV["Qwen2.5-14B", "H100"], rel=0.05)


def test_every_memory_batch_and_start_up_follows_from_the_readme(
    small: tuple[SystemData, ClusterSpec], tables: dict[str, Any]
) -> None:
    """These decide preemption, the sizes of batches and how late help comes."""
    system, world = small
    for (model, name), perf in system.perf.items():
        gpu = tables["type"][system.accelerators[name].type]
        engine = world.engines[model, name]
        rule = kv_tokens(
            gpu, tables["model"][model], gpus=world.gpus(model=model, accelerator=name)
        )
        assert perf.kv_tokens == engine.kv_tokens == MEASURED_KV.get((model, name), rule), (
            model,
            name,
        )
        assert perf.max_batch == min(48, perf.kv_tokens // REQUEST_TOKENS)
        assert (perf.at_tokens, engine.block_size, engine.max_num_batched_tokens) == (512, 16, 8192)
        assert engine.start_up.mean_s == pytest.approx(
            45 + 2 * tables["model"][model]["parameters"], abs=0.06
        )
        assert engine.start_up.cv == 0.15


def test_rows_are_there_exactly_for_pairs_that_fit(
    small: tuple[SystemData, ClusterSpec], tables: dict[str, Any]
) -> None:
    """A pair that fits and has no row would be a candidate that the optimizer never sees."""
    system, _ = small
    multi = {(unit.type, unit.multiplicity) for unit in system.accelerators.values()}
    expected: dict[tuple[str, str], int] = {}
    for model in {model for model, _ in system.perf}:
        for unit in system.accelerators.values():
            for count in (1, 2, 4):
                gpus = count * unit.multiplicity
                covered = count > 1 and (unit.type, gpus) in multi
                tokens = kv_tokens(tables["type"][unit.type], tables["model"][model], gpus=gpus)
                if gpus <= 4 and not covered and tokens >= 8 * REQUEST_TOKENS:
                    expected[model, unit.name] = count
                    break
    assert {key: perf.acc_count for key, perf in system.perf.items()} == expected


def test_accelerators_follow_from_the_gpus(
    small: tuple[SystemData, ClusterSpec], tables: dict[str, Any]
) -> None:
    """A multi-GPU accelerator is its GPUs, 2 % dearer."""
    system, _ = small
    for unit in system.accelerators.values():
        gpu, n = tables["type"][unit.type], unit.multiplicity
        assert unit.name == (unit.type if n == 1 else f"{n}x{unit.type}")
        assert (unit.memory_gb, unit.memory_bandwidth_gbps) == (
            n * gpu["memory GB"],
            n * gpu["bandwidth GB/s"],
        )
        assert unit.cost_cents_per_h == pytest.approx(
            n * gpu["price cents/h"] * (1.02 if n > 1 else 1.0), abs=0.06
        )
        assert unit.power.full_w == n * gpu["power W"]
        assert unit.power.idle_w == pytest.approx(0.15 * unit.power.full_w, abs=n * 0.5)
        assert unit.power.mid_w == pytest.approx(0.8 * unit.power.full_w, abs=n * 0.5)


def test_the_large_system_is_large(repository: Path) -> None:
    """Fewer servers, types or requests would make the demonstration of limited capacity and
    priorities a toy.
    """
    data = read_system(repository / "sample-data" / "large")
    loads = [server.current.load for server in data.servers.values()]
    assert len(data.servers) == 27
    assert len({model for model, _ in data.perf}) >= 9
    assert len({unit.type for unit in data.accelerators.values()}) >= 9
    assert {unit.multiplicity for unit in data.accelerators.values()} >= {1, 2, 4}
    assert {"Premium", "Bronze", "Free"} < set(data.classes)
    assert any(
        target.slo_tps > 0 for entry in data.classes.values() for target in entry.targets.values()
    )
    assert sum(load.rate_rpm for load in loads if load) >= 3000
    assert all(load and 128 <= load.out_tokens <= 2048 for load in loads)
    assert sum(server.current.replicas for server in data.servers.values()) >= 40
    assert ("llama_13b", "MI250") in data.perf
    assert {"B200", "MI300X"} <= set(data.accelerators)


def test_the_large_system_is_what_its_script_writes(repository: Path) -> None:
    """Its latency models are those of the data sheets, of which inferno model tells the same; a
    figure that was changed by hand could not be derived again.
    """
    path = repository / "scripts" / "sample_system.py"
    spec = importlib.util.spec_from_file_location("sample_system", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for name, content in script.written().items():
        found = (repository / "sample-data" / "large" / name).read_text()
        assert found == script.text(content), f"{name}: run python scripts/sample_system.py"


def test_a_full_replica_of_the_large_system_fills_its_kv_cache(repository: Path) -> None:
    """An autoscaler that looks at the KV cache sees nothing where the batch is full long before."""
    data = read_system(repository / "sample-data" / "large")
    filled = []
    for server in data.servers.values():
        now = server.current
        perf = data.perf[server.model, now.accelerator]
        assert server.max_batch == perf.max_batch == 256
        assert now.load is not None
        assert perf.kv_tokens is not None
        tokens = now.load.in_tokens + now.load.out_tokens / 2
        filled.append(now.max_batch * tokens / perf.kv_tokens)
    # Not those with one KV head (granite_20b), whose cache hardly fills whatever the batch.
    assert np.mean(np.array(filled) > 0.7) > 0.8


@pytest.mark.parametrize(
    ("name", "alpha"),
    [
        ("disturbed", None),
        *(
            pytest.param(name, alpha, marks=pytest.mark.slow)
            for name, alpha in (
                ("day", None),
                ("ramp", None),
                ("step", None),
                ("burst", None),
                ("code-trace", None),
                ("chat-trace", None),
                ("disturbed", 0.3),
            )
        ),
    ],
)
@pytest.mark.costly
def test_what_the_peak_needs_fits_into_four_fifths_of_every_type(
    repository: Path, name: str, alpha: float | None
) -> None:
    """Every server sized for its own busiest minute, on the accelerator that it has: who scales
    without moving must not be stopped by GPUs that are not there. Shortage and failure are
    there to take GPUs away.
    """
    sources = read_sources(
        RunConfig(data=repository / "sample-data" / "large", scenario=name, disturbance_alpha=alpha)
    )
    servers = {}
    for load in sources.loads:
        server = sources.system.servers[load.server]
        peak = _busiest_minute(load, hours=min(sources.config.hours or 1.0, 1.0))
        servers[load.server] = replace(
            server, keep_accelerator=True, current=replace(server.current, load=peak)
        )
    system = replace(
        sources.system,
        servers=servers,
        optimizer=replace(sources.system.optimizer, unlimited=True),
    )
    solution = optimize(system, OptimizerSettings(rules=OURS, solver="greedy"))
    assert solution.unserved == {}
    needed: dict[str, int] = {}
    for one_name, one in solution.allocations.items():
        kind = system.accelerators[one.accelerator].type
        gpus = sources.world.gpus(model=servers[one_name].model, accelerator=one.accelerator)
        needed[kind] = needed.get(kind, 0) + gpus * one.replicas
    short = {kind: gpus for kind, gpus in needed.items() if gpus > 0.8 * system.capacity[kind]}
    assert short == {}


def _busiest_minute(load: ServerLoad, *, hours: float) -> Load:
    """Return the rate of arrivals and the mean tokens of the minute that demands most tokens."""
    best = max(
        batches(load, interval_s=60.0, until_s=3600.0 * hours),
        key=lambda batch: len(batch.times_s) * batch.interval.offered_load.out_tokens,
    )
    tokens = best.interval.offered_load
    return Load(
        rate_rpm=float(len(best.times_s)), in_tokens=tokens.in_tokens, out_tokens=tokens.out_tokens
    )


def _as_slo_sizes(system: SystemData) -> SystemData:
    """Return *system* without what the policy leaves to its margin: arrivals in bursts."""
    servers = {name: replace(one, arrival_cv=1.0) for name, one in system.servers.items()}
    return replace(system, servers=servers)


def test_a_run_starts_in_its_steady_state(system: SystemData) -> None:
    """Otherwise the first cycles of every run would show the way there and not the load."""
    system = _as_slo_sizes(system)
    solution = optimize(system, OptimizerSettings(rules=OURS, solver="greedy"))
    assert solution.unserved == {}
    for name, assignment in solution.allocations.items():
        current = system.servers[name].current
        assert (assignment.accelerator, assignment.replicas) == (
            current.accelerator,
            current.replicas,
        ), name
        assert assignment.max_batch == current.max_batch, name
        assert current.cost_cents_per_h == pytest.approx(assignment.cost_cents_per_h, abs=0.01)


def test_the_steady_state_is_the_answer_from_nothing(system: SystemData) -> None:
    """It must not hang on a history that the files do not tell."""
    system = _as_slo_sizes(system)
    bare = {
        name: replace(
            server,
            current=Allocation(
                accelerator=server.current.accelerator if server.keep_accelerator else "",
                load=server.current.load,
            ),
        )
        for name, server in system.servers.items()
    }
    solution = optimize(
        replace(system, servers=bare), OptimizerSettings(rules=OURS, solver="greedy")
    )
    found = {name: (one.accelerator, one.replicas) for name, one in solution.allocations.items()}
    assert found == {
        name: (server.current.accelerator, server.current.replicas)
        for name, server in system.servers.items()
    }


def test_targets_are_met_with_gpus_to_spare(system: SystemData, world: ClusterSpec) -> None:
    """A disturbed load needs room to grow into; without any limit, capacity would not matter."""
    solution = optimize(system, OptimizerSettings(rules=OURS, solver="greedy"))
    used: dict[str, int] = {}
    for name, one in solution.allocations.items():
        server = system.servers[name]
        target = system.target(service_class=server.service_class, model=server.model)
        assert target is not None
        assert one.itl_ms is not None
        assert one.ttft_ms is not None
        assert one.itl_ms <= (target.slo_itl_ms or math.inf)
        assert one.ttft_ms <= (target.slo_ttft_ms or math.inf)
        kind = system.accelerators[one.accelerator].type
        used[kind] = used.get(kind, 0) + one.replicas * world.gpus(
            model=server.model, accelerator=one.accelerator
        )
    assert not system.optimizer.unlimited
    assert all(gpus <= system.capacity[kind] for kind, gpus in used.items())
    assert 0.12 < sum(used.values()) / sum(system.capacity.values()) < 0.6


def test_the_files_are_readable_by_the_existing_tools(folder: Path) -> None:
    """Their readers refuse 1.0 where they want an integer; the walk-through creates ConfigMaps from
    these files.
    """
    whole = {
        "multiplicity",
        "memsize",
        "membw",
        "acccount",
        "maxbatchsize",
        "attokens",
        "priority",
        "count",
    }
    whole |= {"minnumreplicas", "numreplicas", "maxbatch", "avgintokens", "avgouttokens"}
    # What the Go tools do not know, and skip.
    optional = {"slo-percentile", "valuePerMetRequest"}
    parts = {
        "accelerator": (
            "accelerators",
            {"name", "type", "multiplicity", "memSize", "memBW", "power", "cost"},
        ),
        "model": ("models", {"name", "acc", "accCount", "maxBatchSize", "atTokens", "perfParms"}),
        "serviceclass": ("serviceClasses", {"name", "priority", "modelTargets"}),
        "server": (
            "servers",
            {"name", "class", "model", "keepAccelerator", "minNumReplicas", "currentAlloc"},
        ),
        "capacity": ("count", {"type", "count"}),
    }
    for part, (key, fields) in parts.items():
        obj = json.loads((folder / f"{part}-data.json").read_text())
        assert set(obj) == {key}
        # A server may fix its largest batch.
        known = optional | ({"maxBatchSize"} if part == "server" else set())
        assert all(set(row) - known == fields for row in obj[key])
        _check_whole(obj, whole)
    assert set(json.loads((folder / "optimizer-data.json").read_text())) == {"optimizer"}


def _check_whole(obj: object, keys: set[str]) -> None:
    if isinstance(obj, list):
        for item in obj:
            _check_whole(item, keys)
    elif isinstance(obj, dict):
        for key, value in obj.items():
            assert not (key.lower() in keys and isinstance(value, float)), (key, value)
            _check_whole(value, keys)


def test_a_name_of_the_pages_is_found_where_there_is_no_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every page says --data sample-data/small; who has installed a wheel has no such folder. A
    folder of that name that is there is meant, and another name is not guessed at.
    """
    monkeypatch.chdir(tmp_path)
    named = Path("sample-data/small")
    assert shipped(named) == SAMPLE_DATA / "small"
    assert shipped(Path("sample-data/smal")) == Path("sample-data/smal")
    assert shipped(Path("small")) == Path("small")
    assert shipped(Path("sample-data/../..")) == Path("sample-data/../..")
    named.mkdir(parents=True)
    assert shipped(named) == named
