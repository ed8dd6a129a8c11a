"""Whatever a file holds in place of what a command reads: one short line, and exit code 2."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from experiments.config import SAMPLE_DATA
from inferno.cli.main import main
from tests.parts import first

Capture = pytest.CaptureFixture[str]

SIM = ("sim", "--data", str(SAMPLE_DATA / "small"), "--scenario")
COMMANDS = {
    "scenario": SIM,
    "truth": (*SIM[:-1], "--truth"),
    "optimize": ("optimize",),
    "fit": ("fit", "--max-batch", "8"),
    "replay": ("replay", "--data", str(SAMPLE_DATA / "small")),
    "drift": ("drift", "--data", str(SAMPLE_DATA / "small"), "--records"),
    "report": ("report",),
    "model": ("model", "--accelerator", "H100", "--config"),
    "study": ("study",),
    "faults": ("twin", "serve", "--faults"),
    "manifests": ("twin", "serve", "--manifests"),
    "tokens": ("twin", "serve", "--tokens"),
    "results": ("check", ".", "--against"),
    "kubeconfig": ("doctor", "--kubeconfig"),
}
CONTENTS = {
    "binary": bytes(range(256)),
    "UTF-16": "name: text".encode("utf-16"),
    "lists in lists": b"[" * 50_000,
    "objects in objects": b'{"a":' * 50_000,
    "a number without end": b"1" * 5_000,
    "a line without end": b"x," * 100_000,
    "a web page": b"<!DOCTYPE html><html><body>404</body></html>\n",
    "half of a gzip file": gzip.compress(b"queued_s,input_tokens\n" * 9)[:30],
}


@pytest.mark.parametrize("content", first(2, CONTENTS.values()), ids=CONTENTS)
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_file_of_something_else_is_one_short_line(
    command: tuple[str, ...], content: bytes, tmp_path: Path, capsys: Capture
) -> None:
    """Files are mixed up, cut off and downloaded from pages that are gone."""
    path = tmp_path / "file"
    path.write_bytes(content)
    assert main([*command, str(path)]) == 2
    _is_one_short_line(capsys.readouterr().err)


@pytest.mark.parametrize("content", first(2, CONTENTS.values()), ids=CONTENTS)
@pytest.mark.parametrize("form", ["azure", "burstgpt", "mooncake"])
def test_a_trace_of_something_else_is_one_short_line(
    form: str, content: bytes, tmp_path: Path, capsys: Capture
) -> None:
    """Also where a form is told, so that nothing is guessed."""
    (tmp_path / "trace").write_bytes(content)
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text(f"load: [{{trace: {{file: trace, format: {form}}}}}]\n")
    assert main([*SIM, str(scenario)]) == 2
    _is_one_short_line(capsys.readouterr().err)


def _is_one_short_line(said: str) -> None:
    assert said.count("\n") == 1
    assert len(said) < 500
    assert "expected" in said
    # The words of Python are not those of a user.
    for word in ("codec", "Errno", "Error:", "Traceback", "recursion", "object does"):
        assert word not in said
