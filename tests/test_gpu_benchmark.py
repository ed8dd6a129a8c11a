"""The measurement of a GPU: what of it needs none, and all of it where PyTorch is."""

from __future__ import annotations

import csv
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.gpu import iteration
from twin.fit.iterations import Iteration
from twin.spec import LatencyModel

HAS_TORCH = find_spec("torch") is not None
MODEL = LatencyModel(alpha_ms=7.0, beta_ms=0.02, gamma_ms=5e-5, launch_ms=1.0, p=1.5)
TINY = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 100,
}


def test_without_a_gpu_it_says_so_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever has none is told, and nothing is written."""
    if HAS_TORCH and __import__("torch").cuda.is_available():
        pytest.skip("here is a GPU")
    path = tmp_path / "table.csv"
    assert iteration.main(["--config", "llama-3.1-8b", "--out", str(path)]) == 1
    assert not path.exists()
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert told.err.startswith("iteration: expected ")
    assert "GPU" in told.err


def test_a_config_that_is_none_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is read first: what is wrong is not the GPU."""
    path = tmp_path / "config.json"
    path.write_text("[]")
    assert iteration.main(["--config", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"iteration: {path}: expected")
    assert iteration.main(["--config", "llama-3.1-8b", "--out", "/nowhere/table.csv"]) == 2
    assert "/nowhere/table.csv: expected" in capsys.readouterr().err


def test_the_table_has_the_model_in_each_row(tmp_path: Path) -> None:
    """So that tables of several GPUs can be put together."""
    path = tmp_path / "table.csv"
    measured = [
        Iteration(batch=4, context=512, tokens=1, time_ms=7.25),
        Iteration(batch=1, context=0, tokens=1024, time_ms=22.5),
    ]
    iteration.write(path, measured, MODEL, gpu="H100, SXM", model_name="llama-3.1-8b")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["decode", "prefill"]
    assert [float(row["measured_ms"]) for row in rows] == [7.25, 22.5]
    for row in rows:
        assert row["gpu"] == "H100, SXM"
        assert {name: float(row[name]) for name in ("a", "w", "beta", "gamma", "p")} == {
            "a": 1.0,
            "w": 6.0,
            "beta": 0.02,
            "gamma": 5e-5,
            "p": 1.5,
        }
        assert float(row["fitted_ms"]) > 6.9


@pytest.mark.skipif(not HAS_TORCH, reason="no PyTorch here")
def test_the_decoder_makes_the_same_token_from_a_prompt_as_one_by_one() -> None:
    """Decodes after a prefill are the prefill of one token more: the cache, the positions and the
    heads that share a key are right.
    """
    import torch

    from benchmarks.gpu.decoder import Decoder, shape_of

    torch.manual_seed(1)
    shape = shape_of(json.loads(json.dumps(TINY)), source="tiny")
    place = {"device": torch.device("cpu"), "dtype": torch.float32}
    decoder = Decoder(shape, kv_tokens=64, **place)
    tokens = torch.randint(shape.vocabulary, (12,))
    whole = decoder.prefill(tokens)
    for count in range(len(tokens)):
        last = decoder.decode(tokens[count : count + 1], count)
    assert last.tolist() == whole.tolist()
    grid, prompts = [(1, 8), (2, 8), (2, 16), (3, 16)], [4, 8, 16, 32]
    measured = list(iteration.timed(torch, decoder, grid, prompts, device=place["device"]))
    assert [each.is_decode for each in measured] == [True] * 4 + [False] * 4
    assert all(each.time_ms > 0.0 for each in measured)
