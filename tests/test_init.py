"""Claims about `inferno model` and `inferno init`: figures without a log, and a directory that the
twin runs.
"""

from __future__ import annotations

import json
import re
from argparse import Namespace
from pathlib import Path

import pytest

from experiments.datasheet_files import admission_of, scheduling_of
from experiments.world import build_cluster_spec
from inferno.cli.fit import write_row
from inferno.cli.main import main
from loop.schema.reading import read_system
from twin.spec import SpecError

Capture = pytest.CaptureFixture[str]


@pytest.mark.slow
def test_a_directory_is_written_that_sim_runs(tmp_path: Path, capsys: Capture) -> None:
    """What a user with an idea and no measurement needs first."""
    mine = tmp_path / "mine"
    words = ["init", str(mine), "--config", "llama-3.1-8b", "mixtral-8x7b"]
    words += ["--gpus", "H100=8,L40S=4", "--classes", "Premium,Batch=200/10000"]
    assert main(words) == 0
    assert "llama-3.1-8b on 1 × H100: alpha" in capsys.readouterr().out
    warnings: list[str] = []
    system = read_system(mine, warn=warnings.append)
    assert warnings == []
    _, notes = build_cluster_spec(system, mine)
    assert notes == ()
    assert {server.service_class for server in system.servers.values()} == {"Premium", "Batch"}
    assert system.perf["mixtral-8x7b", "H100"].acc_count == 2
    assert system.perf["mixtral-8x7b", "H100"].scheduling == "async"
    out = tmp_path / "out"
    assert main(["sim", "--data", str(mine), "--hours", "0.1", "--out", str(out), "-q"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary


@pytest.mark.parametrize(
    ("version", "scheduling"),
    [("0.14.1", "sync"), ("v0.15.0", "async"), ("0.9", "sync"), ("1.0", "async"), (None, "async")],
)
def test_vllm_plans_an_iteration_ahead_since_0_15(version: str | None, scheduling: str) -> None:
    """A request that comes waits for one iteration more: a third of TTFT on a loaded server."""
    assert scheduling_of(version) == scheduling


@pytest.mark.parametrize(
    ("version", "admission"), [("0.18.2", "chunk"), ("0.19", "full_prompt"), (None, "full_prompt")]
)
def test_vllm_admits_what_fits_whole_since_0_19(
    tmp_path: Path, version: str | None, admission: str
) -> None:
    """By the chunk, several long prompts are let in at once and take each other's places."""
    assert admission_of(version) == admission
    words = ["init", str(tmp_path / "mine"), "--config", "llama-3.1-8b", "--gpus", "H100=1", "-q"]
    assert main([*words, *([] if version is None else ["--vllm", version])]) == 0
    [engine] = json.loads((tmp_path / "mine" / "twin-data.json").read_text())["engines"]
    assert engine["admission"] == admission


def test_what_is_weak_is_said_with_whose_it_is(tmp_path: Path, capsys: Capture) -> None:
    """Whoever only writes a directory learnt nowhere that nobody has measured such."""
    given = ["--config", "deepseek-v3", "llama-3.1-8b", "--gpus", "H100=16,MI300X=8"]
    assert main(["init", str(tmp_path / "mine"), *given]) == 0
    out = capsys.readouterr().out.splitlines()
    assert (
        "weak: deepseek-v3 on MI300X, llama-3.1-8b on MI300X: no measurement of AMD accelerators "
        "was used" in out
    )
    assert not any(line.startswith("weak: llama-3.1-8b on H100") for line in out)


def test_a_directory_in_use_is_left_alone(tmp_path: Path, capsys: Capture) -> None:
    """Data of one's own are not written over."""
    (tmp_path / "model-data.json").write_text("mine")
    assert main(["init", str(tmp_path), "--config", "llama-3.1-8b", "--gpus", "H100=1"]) == 2
    assert "expected a new or an empty directory" in capsys.readouterr().err
    assert (tmp_path / "model-data.json").read_text() == "mine"


def test_models_with_a_comma_between_them_are_told_how_to_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """GPUs are listed so; and the line said that there is no such file."""
    words = ["init", str(tmp_path / "x"), "--config", "llama-3.1-8b,mixtral-8x7b"]
    assert main([*words, "--gpus", "H100=8"]) == 2
    assert "expected models with spaces between them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--gpus", "H100", "gpus: expected NAME=N with N from 1 to 2147483647, found 'H100'"),
        ("--gpus", "H100=0", "gpus: expected NAME=N with N from 1 to 2147483647, found 'H100=0'"),
        ("--gpus", "L4=1", "expected GPUs that hold its 70.6 billion parameters"),
        ("--classes", "Gold", "classes: expected Gold=ITL/TTFT"),
        ("--classes", "Free,Free", "classes: expected names, each once"),
        ("--classes", "Gold=3", "classes: Gold: expected a number > 0"),
        ("--rpm", "-1", "rpm: expected a number > 0"),
        ("--vllm", "new", "vllm: expected a version such as 0.15, found 'new'"),
        ("--tokens", "100", "tokens: expected a number > 0"),
        ("--config", "lama", "config: expected a file, or one of"),
        ("--config", "nowhere.json", "nowhere.json: expected a file, found none"),
    ],
)
def test_what_cannot_be_is_told_and_nothing_is_written(
    tmp_path: Path, capsys: Capture, option: str, value: str, said: str
) -> None:
    """One line, exit code 2, no half a directory."""
    words = ["init", str(tmp_path / "x"), "--config", "llama-3.1-70b", "--gpus", "H100=8"]
    assert main([*words, option, value]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_heads_that_gpus_cannot_share_are_told(tmp_path: Path, capsys: Capture) -> None:
    """Eight GPUs hold the model, and the line said that they do not."""
    models = Path(__file__).resolve().parents[1] / "sample-data" / "models"
    config = json.loads((models / "phi-4.json").read_text(encoding="utf-8"))
    deep = tmp_path / "config.json"
    deep.write_text(json.dumps({**config, "num_hidden_layers": 160}), encoding="utf-8")
    assert main(["init", str(tmp_path / "x"), "--config", str(deep), "--gpus", "L4=8"]) == 2
    said = "found 8 L4 (2 at most can share its 40 heads and 10 KV heads)"
    assert said in capsys.readouterr().err


def test_a_config_file_gives_the_latency_model(tmp_path: Path, capsys: Capture) -> None:
    """As Hugging Face publishes it, in the folder of its model."""
    folder = tmp_path / "My-Model"
    folder.mkdir()
    config = {
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
        "quantization_config": {"quant_method": "fp8"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    words = ["model", "--config", str(folder / "config.json"), "--accelerator", "H100"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["dtype"]) == ("My-Model", "fp8")
    assert found["perfParms"]["alpha"] == pytest.approx(4.0, rel=0.1)
    assert main([*words, "--tp", "2", "--dtype", "bf16"]) == 0
    text = capsys.readouterr().out
    for word in ("alpha", "beta", "gamma", "overhead", "KV cache", "expected error", "2 × NVIDIA"):
        assert word in text
    assert main([*words, "--tp", "0"]) == 2


@pytest.mark.slow
def test_a_fit_is_put_into_the_data_directory(tmp_path: Path, capsys: Capture) -> None:
    """The row of the model on the accelerator changes, or is added; the others stay."""
    mine = tmp_path / "mine"
    assert main(["init", str(mine), "--config", "llama-3.1-8b", "--gpus", "H100=2,L40S=2"]) == 0
    before = json.loads((mine / "model-data.json").read_text())["models"]
    log = Path(__file__).parent / "twin" / "logs" / "guidellm-0.8.json"
    words = ["fit", str(log), "--max-batch", "64", "--form", "sum", "--scheduling", "sync"]
    words += ["--config", "llama-3.1-8b", "--accelerator", "H100", "--write", str(mine)]
    assert main([*words, "--model", "llama-3.1-8b"]) == 0
    text = capsys.readouterr().out
    assert "data sheet" in text
    line = f"wrote perfParms of llama-3.1-8b on H100 to {mine / 'model-data.json'}"
    assert text.splitlines()[-1] == line  # nothing was said
    after = json.loads((mine / "model-data.json").read_text())["models"]
    assert after[1] == before[1]
    assert {**after[0], "perfParms": 0} == {**before[0], "perfParms": 0}
    assert after[0]["perfParms"]["alpha"] != before[0]["perfParms"]["alpha"]
    assert main([*words, "--model", "other", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["family"] == "sum, sync scheduling"
    assert err.endswith(": a new model\n")
    assert [
        row["name"] for row in json.loads((mine / "model-data.json").read_text())["models"]
    ] == [
        "llama-3.1-8b",
        "llama-3.1-8b",
        "other",
    ]
    read_system(mine)
    assert main(words) == 2
    assert "expected --model and --accelerator too" in capsys.readouterr().err


def test_a_fit_goes_into_files_as_the_program_reads_them(tmp_path: Path) -> None:
    """Keys in any case, a latency model as it was said before, and what else the file holds."""
    (tmp_path / "accelerator-data.json").write_text(
        '{"Accelerators": [{"name": "H100", "type": "H100", "cost": 400}]}'
    )
    row = {"Name": "m", "acc": "H100", "maxBatchSize": 8, "atTokens": 512}
    path = tmp_path / "model-data.json"
    path.write_text(json.dumps({"about": "mine", "Models": [{**row, "alpha": 9.0, "beta": 0.1}]}))
    options = Namespace(write=tmp_path, model="m", accelerator="H100", tp=1, max_batch=64)
    parms = {"alpha": 5.0, "beta": 0.02, "gamma": 1e-5}
    said = write_row(options, parms, overhead_ms=7.0, at_tokens=512)
    assert said == f"wrote perfParms of m on H100 to {path}"
    written = json.loads(path.read_text())
    assert written == {
        "about": "mine",
        "Models": [{**row, "perfParms": {**parms, "overheadMs": 7.0}}],
    }


def test_where_a_fit_cannot_go_is_told_before_it_begins(tmp_path: Path, capsys: Capture) -> None:
    """It took its seconds first. Here not even the log is looked for."""
    mine = tmp_path / "mine"
    assert main(["init", str(mine), "--config", "llama-3.1-8b", "--gpus", "H100=2"]) == 0
    capsys.readouterr()
    words = ["fit", str(tmp_path / "gone.json"), "--max-batch", "64", "--model", "m"]
    assert main([*words, "--write", str(mine), "--accelerator", "H10"]) == 2
    said = capsys.readouterr().err
    assert said.endswith("accelerator: expected one of H100, found 'H10'; did you mean H100?\n")
    (mine / "model-data.json").unlink()
    assert main([*words, "--write", str(mine), "--accelerator", "H100"]) == 2
    assert "model-data.json: expected a file, found none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "unit", "told"),
    [
        ("llama-3.1-8", "H100", ": a new model; did you mean llama-3.1-8b?"),
        ("nosuch", "H100", ": a new model"),
        ("llama-3.1-8b", "L40S", ": a new row, of a model that is there on other accelerators"),
    ],
)
def test_a_row_that_a_fit_adds_is_told(tmp_path: Path, name: str, unit: str, told: str) -> None:
    """A mistyped model became one more in silence, and the one that was meant stayed as it was."""
    units = [{"name": each, "type": each, "cost": 400} for each in ("H100", "L40S")]
    (tmp_path / "accelerator-data.json").write_text(json.dumps({"accelerators": units}))
    row = {"name": "llama-3.1-8b", "acc": "H100", "maxBatchSize": 8, "atTokens": 512}
    row |= {"alpha": 9, "beta": 1}
    path = tmp_path / "model-data.json"
    path.write_text(json.dumps({"models": [row]}))
    options = Namespace(write=tmp_path, model=name, accelerator=unit, tp=1, max_batch=64)
    said = write_row(options, {"alpha": 5.0}, overhead_ms=0.0, at_tokens=512)
    assert said == f"wrote perfParms of {name} on {unit} to {path}{told}"


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("model-data.json", {"models": ["m"]}, "model-data.json: models[0]: expected an object"),
        ("model-data.json", [], "model-data.json: expected an object"),
        ("accelerator-data.json", {"accelerators": []}, "accelerator: expected one of"),
    ],
)
def test_a_fit_is_not_put_into_a_wrong_directory(
    tmp_path: Path, file: str, content: object, said: str
) -> None:
    """One line, and the file stays as it is."""
    unit = {"name": "H100", "type": "H100", "cost": 400}
    files: dict[str, object] = {
        "accelerator-data.json": {"accelerators": [unit]},
        "model-data.json": {"models": []},
        file: content,
    }
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value))
    options = Namespace(write=tmp_path, model="m", accelerator="H100", tp=1, max_batch=64)
    with pytest.raises(SpecError, match=re.escape(said)):
        write_row(options, {"alpha": 5.0}, overhead_ms=0.0, at_tokens=512)
    assert json.loads((tmp_path / "model-data.json").read_text()) == files["model-data.json"]
