"""experiments.world: from the system that the loop estimates in to the world that it meets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.world import build_cluster_spec
from loop.schema.reading import read_system
from tests.loop.data_files import files, write
from twin.spec import LatencyModel, SpecError


def build(directory: Path, objects: dict[str, dict[str, Any]]) -> Any:
    """Write *objects* and build their world."""
    return build_cluster_spec(read_system(write(directory, objects)), directory)[0]


def test_the_truth_defaults_to_the_estimate(tmp_path: Path) -> None:
    """Without a word to the contrary an experiment tests the policy, not its data."""
    spec = build(tmp_path, files())
    assert spec.engines["small", "H100"].latency_model == LatencyModel(
        alpha_ms=6.5, beta_ms=0.02, gamma_ms=0.00005
    )
    assert spec.gpus(model="small", accelerator="2xH100") == 2
    assert spec.capacity == {"H100": 8}


def test_the_overhead_is_that_of_a_served_model_if_none_is_given(tmp_path: Path) -> None:
    """The data files of the Go project have no such key, and every real server has an overhead."""
    objects = files()
    objects["model-data.json"]["models"][0]["perfParms"]["overheadMs"] = 14
    spec = build(tmp_path, objects)
    overheads = [spec.engines["small", name].overhead_ms for name in ("H100", "2xH100")]
    assert overheads == [14.0, 8.0]


def test_launch_weights_and_exponent_make_a_roofline(tmp_path: Path) -> None:
    """alpha stays what the Go tools read; with a and w it is divided for ours."""
    objects = files()
    rows = objects["model-data.json"]["models"]
    rows[0]["perfParms"] |= {"a": 1.5, "w": 4.0, "p": 1.5}
    rows[1]["perfParms"] |= {"p": 2}
    engines = build(tmp_path, objects).engines
    first = engines["small", "H100"].latency_model
    assert (first.launch_ms, first.weights_ms, first.p) == (1.5, 4.0, 1.5)
    second = engines["small", "2xH100"].latency_model
    assert (second.launch_ms, second.weights_ms) == (0.0, second.alpha_ms)


def test_experts_are_a_part_of_the_weights_in_either_file(tmp_path: Path) -> None:
    """The truth may have another alpha; more than it has to read, experts cannot be."""
    objects = files()
    rows = objects["model-data.json"]["models"]
    rows[0]["perfParms"] |= {"alpha": 10, "expertsMs": 8, "expertsIdle": 0.75}
    truth = {"model": "small", "acc": "H100", "perfParms": {"alpha": 5}}
    objects["twin-data.json"] = {"engines": [truth]}
    found = build(tmp_path, objects).engines["small", "H100"].latency_model
    assert (found.alpha_ms, found.experts_ms, found.experts_idle) == (5.0, 4.0, 0.75)
    truth["perfParms"] = {"alpha": 5, "expertsMs": 6}
    with pytest.raises(SpecError, match="expertsMs: expected a number >= 0 and <= 5, found 6"):
        build(tmp_path, objects)


@pytest.mark.parametrize(
    ("key", "field", "given", "true"),
    [("attention", "attention", 3.5e-5, 5e-5), ("sequenceMs", "sequence_ms", 0.02, 0.0)],
)
def test_what_prompts_and_requests_take_longer_is_read_from_either_file(
    tmp_path: Path, key: str, field: str, given: float, true: float
) -> None:
    """As the rest of the latency model; the truth alone may differ."""
    objects = files()
    rows = objects["model-data.json"]["models"]
    rows[0]["perfParms"] |= {key: given}
    found = build(tmp_path, objects).engines["small", "H100"].latency_model
    assert getattr(found, field) == given
    truth = {"model": "small", "acc": "H100", "perfParms": {key: true}}
    objects["twin-data.json"] = {"engines": [truth]}
    found = build(tmp_path, objects).engines["small", "H100"].latency_model
    assert getattr(found, field) == true


def test_a_kv_cache_that_no_request_fits_is_told_by_server(tmp_path: Path) -> None:
    """Else a run ends with every request rejected, and nobody knows why."""
    objects = files()
    load = {"arrivalRate": 60, "avgInTokens": 9000, "avgOutTokens": 200}
    objects["server-data.json"]["servers"][0]["currentAlloc"]["load"] = load
    objects["twin-data.json"] = {
        "engines": [
            {"model": "small", "acc": "H100", "kvTokens": 4096},
            {"model": "small", "acc": "2xH100", "kvTokens": 50000},
        ]
    }
    _, notes = build_cluster_spec(read_system(write(tmp_path, objects)), tmp_path)
    assert notes == (
        "twin-data.json: server 'a': its requests of 9,200 tokens do not fit the KV cache "
        "(kvTokens) of H100 (4,096): they will be rejected there",
    )
    objects["twin-data.json"]["engines"][0]["kvTokens"] = 15
    with pytest.raises(SpecError, match="kvTokens: expected at least one block of 16 tokens"):
        build_cluster_spec(read_system(write(tmp_path, objects)), tmp_path)


def test_a_server_starts_with_its_current_allocation(tmp_path: Path) -> None:
    """A run begins in the state that the data describe."""
    server = build(tmp_path, files()).servers[0]
    assert (server.name, server.service_class, server.model) == ("a", "Premium", "small")
    assert (server.pool.accelerator, server.pool.replicas, server.pool.max_batch) == ("H100", 2, 32)


@pytest.mark.parametrize(
    ("allocation", "expected"),
    [
        ({"numReplicas": 2}, ("", 0, 1)),
        ({"accelerator": "", "numReplicas": 2, "maxBatch": 8}, ("", 0, 8)),
        ({"accelerator": "H100", "numReplicas": 1}, ("H100", 1, 64)),
        (
            {
                "accelerator": "H100",
                "load": {"arrivalRate": 1, "avgInTokens": 1, "avgOutTokens": 1024},
            },
            ("H100", 0, 32),
        ),
    ],
)
def test_what_an_allocation_leaves_out_is_filled_in(
    allocation: dict[str, Any], expected: tuple[str, int, int], tmp_path: Path
) -> None:
    """No accelerator means no pods; the batch is then the model's at the server's output length."""
    objects = files()
    objects["server-data.json"]["servers"][0]["currentAlloc"] = allocation
    server = build(tmp_path, objects).servers[0]
    assert (server.pool.accelerator, server.pool.replicas, server.pool.max_batch) == expected


def test_a_world_needs_a_server(tmp_path: Path) -> None:
    """A directory made for Kubernetes has no servers, and a simulated run of nothing helps
    nobody.
    """
    objects = files()
    del objects["server-data.json"]
    with pytest.raises(SpecError, match=r"/server-data.json: expected at least one server,"):
        build(tmp_path, objects)


def test_a_performance_row_without_its_accelerator_is_left_out(tmp_path: Path) -> None:
    """read_system has told it; there is no GPU to run on."""
    objects = files()
    objects["model-data.json"]["models"].append(
        {**objects["model-data.json"]["models"][0], "acc": "B200"}
    )
    assert set(build(tmp_path, objects).engines) == {("small", "H100"), ("small", "2xH100")}
