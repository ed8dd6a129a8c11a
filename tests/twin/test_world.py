"""twin.world: twin-data.json and a --truth file over what the caller knows of engines and
servers.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from twin.spec import (
    Accelerator,
    ClusterSpec,
    Delay,
    EngineSpec,
    LatencyModel,
    Pool,
    Server,
    SpecError,
    World,
)
from twin.world import read_cluster_spec

MODEL = LatencyModel(alpha_ms=6.5, beta_ms=0.02, gamma_ms=0.00005)
ENGINE = EngineSpec(model="small", accelerator="H100", latency_model=MODEL)
SERVER = Server(name="a", model="small", pool=Pool(accelerator="H100", replicas=2, max_batch=32))


def build(
    directory: Path,
    twin: dict[str, Any] | None = None,
    truth: dict[str, Any] | None = None,
    **changes: Any,
) -> tuple[ClusterSpec, tuple[str, ...]]:
    """Build a world of one server from the given files."""
    if twin is not None:
        (directory / "twin-data.json").write_text(json.dumps(twin))
    path = directory / "truth.json" if truth is not None else None
    if path:
        path.write_text(json.dumps(truth))
    known: dict[str, Any] = {
        "accelerators": {"H100": Accelerator(name="H100", type="H100", cost_cents_per_h=300)},
        "capacity": {"H100": 4},
        "engines": {("small", "H100"): ENGINE},
        "servers": [SERVER],
    }
    return read_cluster_spec(directory, truth=path, **(known | changes))


def test_without_a_twin_file_every_default_holds(tmp_path: Path) -> None:
    """A data directory of the existing tools must run as it is; that memory is unlimited then is
    said once.
    """
    spec, notes = build(tmp_path)
    assert spec.engines["small", "H100"] == ENGINE
    assert spec.servers == (SERVER,)
    assert spec.world == World()
    assert notes == (
        "twin-data.json: no kvTokens for small on H100: KV cache is taken as unlimited there",
    )


def test_the_twin_file_sets_engines_servers_and_world(tmp_path: Path) -> None:
    """Every field of the schema must land in the field of its name."""
    spec, notes = build(
        tmp_path,
        {
            "engines": [
                {
                    "model": "small",
                    "acc": "H100",
                    "kvTokens": 4096,
                    "blockSize": 32,
                    "maxNumBatchedTokens": 2048,
                    "admission": "full_prompt",
                    "startUp": {"meanS": 90, "cv": 0.2},
                    "perfParms": {"alpha": 7},
                }
            ],
            "servers": [
                {
                    "name": "a",
                    "queueMax": 100,
                    "router": "round_robin",
                    "tokenDistribution": "gamma",
                    "tokenCv": 1,
                    "arrivalCv": 2,
                    "crashRatePerHour": 0.5,
                    "crashPolicy": "fail",
                    "maxBatchChange": "rolling",
                }
            ],
            "world": {
                "scrapeIntervalS": 5,
                "windowS": 30,
                "actuationDelay": {"meanS": 1},
                "schedulingDelay": {"meanS": 2, "cv": 0.5},
                "drainTimeoutS": 600,
            },
        },
    )
    assert notes == ()
    assert spec.engines["small", "H100"] == replace(
        ENGINE,
        latency_model=LatencyModel(alpha_ms=7, beta_ms=0.02, gamma_ms=0.00005),
        kv_tokens=4096,
        block_size=32,
        max_num_batched_tokens=2048,
        admission="full_prompt",
        start_up=Delay(mean_s=90, cv=0.2),
    )
    assert spec.servers == (
        replace(
            SERVER,
            queue_max=100,
            router="round_robin",
            token_distribution="gamma",
            token_cv=1,
            arrival_cv=2,
            crash_rate_per_h=0.5,
            crash_policy="fail",
            max_batch_change="rolling",
        ),
    )
    assert spec.world == World(
        scrape_interval_s=5,
        window_s=30,
        actuation_delay=Delay(mean_s=1),
        scheduling_delay=Delay(mean_s=2, cv=0.5),
        drain_timeout_s=600,
    )


def test_a_truth_file_lies_over_the_twin_file_field_by_field(tmp_path: Path) -> None:
    """An experiment that asks "what if the latency model is wrong" changes one figure and keeps the
    rest.
    """
    row = {"model": "small", "acc": "H100"}
    spec, _ = build(
        tmp_path,
        {"engines": [{**row, "kvTokens": 4096, "startUp": {"meanS": 90}}]},
        {"engines": [{**row, "perfParms": {"beta": 0.03}, "startUp": {"cv": 0.5}}]},
    )
    engine = spec.engines["small", "H100"]
    assert engine.latency_model == LatencyModel(alpha_ms=6.5, beta_ms=0.03, gamma_ms=0.00005)
    assert (engine.kv_tokens, engine.start_up) == (4096, Delay(mean_s=90, cv=0.5))


ROW = {"model": "small", "acc": "H100"}
WRONG = {
    "unknown pair": (
        {"engines": [{"model": "small", "acc": "B200"}]},
        "engines[0] 'small on B200': acc: expected a model and an accelerator of model-data.json, "
        "found 'small on B200'",
    ),
    "pair twice": (
        {"engines": [ROW, ROW]},
        "engines[1] 'small on H100': acc: expected a name that no entry before it has, found "
        "'small on H100'",
    ),
    "no memory": (
        {"engines": [{**ROW, "kvTokens": 0}]},
        "engines[0] 'small on H100': kvTokens: expected a whole number >= 1, found 0",
    ),
    "steps beyond the budget": (
        {"engines": [{**ROW, "tokensPerStep": 2.6, "maxNumBatchedTokens": 2}]},
        "engines[0] 'small on H100': tokensPerStep: expected at most maxNumBatchedTokens, 2, "
        "found 2.6",
    ),
    "negative start": (
        {"engines": [{**ROW, "startUp": {"meanS": -1}}]},
        "engines[0] 'small on H100': startUp.meanS: expected a number >= 0, found -1",
    ),
    "unknown server": (
        {"servers": [{"name": "z"}]},
        "servers[0] 'z': name: expected a server of server-data.json, found 'z'",
    ),
    "unknown router": (
        {"servers": [{"name": "a", "router": "fastest"}]},
        "servers[0] 'a': router: expected one of round_robin, random, least_outstanding, "
        "prefix_aware, found 'fastest'",
    ),
    "router that cannot be loaded": (
        {"servers": [{"name": "a", "router": "no.such:Router"}]},
        "servers[0] 'a': router: expected a router that can be loaded (router: cannot load "
        "'no.such:Router': No module named 'no'), found 'no.such:Router'",
    ),
    "unknown engine": (
        {"engines": [{**ROW, "engine": "warp"}]},
        "engines[0] 'small on H100': engine: expected one of plain, found 'warp'",
    ),
    "unknown cache": (
        {"engines": [{**ROW, "kvCache": "endless"}]},
        "engines[0] 'small on H100': kvCache: expected one of counted, found 'endless'",
    ),
    "no queue": (
        {"servers": [{"name": "a", "queueMax": -1}]},
        "servers[0] 'a': queueMax: expected a whole number >= 0, found -1",
    ),
    "window": (
        {"world": {"scrapeIntervalS": 30, "windowS": 20}},
        "world.windowS: expected a number >= 30, found 20",
    ),
    "sampled for ever": (
        {"world": {"scrapeIntervalS": 1e-300}},
        "world.scrapeIntervalS: expected a number >= 0.1, found 1e-300",
    ),
    "beyond all bounds": (
        {"world": {"windowS": 1e300}},
        "world.windowS: expected at most 1e+12, found 1e+300",
    ),
    "no end of tokens": (
        {"engines": [{**ROW, "maxNumBatchedTokens": 2**70}]},
        "engines[0] 'small on H100': maxNumBatchedTokens: expected at most 1e+12, found "
        "1180591620717411303424",
    ),
}


def test_a_router_an_engine_and_a_cache_of_ones_own_are_named_by_their_module(
    tmp_path: Path,
) -> None:
    """An experiment with one's own needs a line in a file, and no change of the twin."""
    names = {
        "router": "tests.twin.test_ports:ByLength",
        "engine": "tests.twin.test_ports:slower",
        "kvCache": "tests.twin.test_ports:Halved",
    }
    spec, _ = build(
        tmp_path,
        {
            "engines": [{**ROW, "engine": names["engine"], "kvCache": names["kvCache"]}],
            "servers": [{"name": "a", "router": names["router"]}],
        },
    )
    engine = spec.engines["small", "H100"]
    assert (engine.engine, engine.kv_cache) == (names["engine"], names["kvCache"])
    assert spec.servers[0].router == names["router"]


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_twin_file_is_refused_with_one_line(case: str, tmp_path: Path) -> None:
    """As for the other data files."""
    obj, line = WRONG[case]
    with pytest.raises(SpecError) as error:
        build(tmp_path, obj)
    assert str(error.value) == f"{tmp_path / 'twin-data.json'}: {line}"


def test_unknown_keys_are_told(tmp_path: Path) -> None:
    """A key in the wrong spelling would leave its default in force unseen."""
    _, notes = build(
        tmp_path, {"engines": [{**ROW, "kvTokens": 4096, "kvBlocks": 9}], "world": {"scrape": 5}}
    )
    file = tmp_path / "twin-data.json"
    assert notes == (
        f"{file}: engines[0] 'small on H100': unknown key 'kvBlocks' is not used",
        f"{file}: unknown key 'world.scrape' is not used",
    )


def test_a_truth_that_takes_no_time_is_refused(tmp_path: Path) -> None:
    """A simulated replica without alpha and beta would never end an instant."""
    with pytest.raises(SpecError, match=r"small on H100: perfParms: expected alpha \+ beta > 0"):
        build(tmp_path, {"engines": [{**ROW, "perfParms": {"alpha": 0, "beta": 0}}]})


def test_pods_need_a_latency_model_for_their_accelerator(tmp_path: Path) -> None:
    """The optimizer may be told of any current accelerator; the world must be able to run on it."""
    with pytest.raises(SpecError) as error:
        build(tmp_path, servers=[replace(SERVER, model="large")])
    assert str(error.value) == (
        f"{tmp_path}: server 'a': currentAlloc.accelerator: expected one that large has data for "
        "(none), found 'H100'"
    )


def test_more_pods_than_gpus_at_the_start_is_said(tmp_path: Path) -> None:
    """Some pods stay pending then, and the first cycle is not a steady state."""
    _, notes = build(tmp_path, {"engines": [{**ROW, "kvTokens": 4096}]}, capacity={"H100": 1})
    assert notes == ("capacity-data.json: 1 GPUs of H100, but the pods at the start want 2",)
