"""The batch size in the command line of a container: where engines read it, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

from loop.backends.kube.arguments import changed, value_of

ARGUMENT = "--max-num-seqs"
SHELL = ["/bin/sh", "-c"]


def containers(**container: Any) -> list[dict[str, Any]]:
    """Return one container, with these fields."""
    return [{"name": "c", **container}]


@pytest.mark.parametrize(
    ("container", "value"),
    [
        ({"args": ["--max-num-seqs", "32"]}, 32),
        ({"args": ["--model", "m", "--max-num-seqs=48"]}, 48),
        ({"command": ["vllm", "--max-num-seqs", "8"]}, 8),
        ({"command": SHELL, "args": ["vllm serve m --max-num-seqs=256 --port 8000"]}, 256),
        ({"command": [*SHELL, "vllm serve m --max-num-seqs 64; true"]}, 64),
        ({"command": SHELL, "args": ["vllm serve m --max-num-seqs '16'"]}, 16),
        ({"command": SHELL, "args": ["vllm serve m --max-num-seqs $BATCH"]}, None),
        ({"args": ["--max-num-seqs-total", "32"]}, None),
        ({"args": ["--max-num-seqs"]}, None),
        ({"args": ["--max-num-seqs=8", "--max-num-seqs", "16"]}, 16),
        ({"command": ["vllm", "--max-num-seqs=8"], "args": ["--max-num-seqs=16"]}, 16),
        ({"command": SHELL, "args": ["vllm --max-num-seqs 8 --max-num-seqs=16"]}, 16),
        ({"command": SHELL, "args": ["vllm serve m \\\n --max-num-seqs \\\n  64 \\\n -v"]}, 64),
        ({"command": SHELL, "args": ["vllm serve m \\\n --max-num-seqs 64\\\n -v"]}, 64),
        ({"command": SHELL, "args": ["vllm --max-num-seqs 64 # --max-num-seqs 8"]}, 64),
        ({"args": ["--max_num_seqs", "32"]}, 32),
        ({"args": ["--max_num_seqs=32"]}, 32),
        ({}, None),
    ],
)
def test_an_argument_is_found_in_every_form_and_place(
    container: dict[str, Any], value: int | None
) -> None:
    """Charts write it in all of these."""
    assert value_of(containers(**container), ARGUMENT) == value


@pytest.mark.parametrize(
    ("container", "written"),
    [
        ({"args": ["--max-num-seqs", "32", "-v"]}, {"args": ["--max-num-seqs", "48", "-v"]}),
        ({"args": ["--max-num-seqs=32"]}, {"args": ["--max-num-seqs=48"]}),
        ({"args": ["--max-num-seqs=48"]}, None),
        (
            {"args": ["--max-num-seqs=32", "--max-num-seqs", "64"]},
            {"args": ["--max-num-seqs=32", "--max-num-seqs", "48"]},
        ),
        (
            {"command": SHELL, "args": ["vllm --max-num-seqs 8 --max-num-seqs=16"]},
            {"args": ["vllm --max-num-seqs 8 --max-num-seqs=48"]},
        ),
        (
            {"command": SHELL, "args": ["vllm serve m --max-num-seqs=256 --port 8000"]},
            {"args": ["vllm serve m --max-num-seqs=48 --port 8000"]},
        ),
        (
            {"command": SHELL, "args": ["vllm serve m --max-num-seqs 256 --port 8000"]},
            {"args": ["vllm serve m --max-num-seqs 48 --port 8000"]},
        ),
        (
            {"command": [*SHELL, "exec vllm serve m --max-num-seqs '256'"]},
            {"command": [*SHELL, "exec vllm serve m --max-num-seqs '48'"]},
        ),
        (
            {"command": SHELL, "args": ["vllm serve m \\\n --max-num-seqs \\\n  64 \\\n -v"]},
            {"args": ["vllm serve m \\\n --max-num-seqs \\\n  48 \\\n -v"]},
        ),
        ({"args": ["--max_num_seqs=32"]}, {"args": ["--max_num_seqs=48"]}),
        ({"args": ["-v"]}, {"args": ["-v", "--max-num-seqs=48"]}),
        ({}, {"args": ["--max-num-seqs=48"]}),
    ],
)
def test_the_number_is_changed_where_the_engine_reads_it(
    container: dict[str, Any], written: dict[str, Any] | None
) -> None:
    """A second element of args is $0 to `sh -c`: without effect, for the price of a rollout."""
    expected = {} if written is None else {"name": "c", **written}
    assert changed(containers(**container), ARGUMENT, 48, container="") == expected


@pytest.mark.parametrize(
    ("container", "line"),
    [
        ({"command": SHELL, "args": ["vllm serve m"]}, "the shell command of c has no"),
        ({"command": [*SHELL, "vllm serve m"]}, "the shell command of c has no"),
        ({"command": ["bash", "-exc"], "args": ["vllm serve m"]}, "the shell command of c has no"),
        (
            {"command": ["/usr/bin/tini", "--", "/bin/sh", "-lc", "vllm serve m"]},
            "the shell command of c has no",
        ),
        (
            {"command": SHELL, "args": ["vllm serve m --max-num-seqs $BATCH"]},
            "has no number of its own in 'vllm serve m",
        ),
        ({"args": ["--max-num-seqs"]}, "has no number of its own"),
    ],
)
def test_what_cannot_be_changed_is_said(container: dict[str, Any], line: str) -> None:
    """Nobody must take it that a number is in force that no engine reads."""
    with pytest.raises(ValueError, match=line):
        changed(containers(**container), ARGUMENT, 48, container="")


def test_the_container_is_the_one_named_or_that_has_the_argument_or_the_gpus() -> None:
    """Sidecars often come first."""
    sidecar = {"name": "proxy", "args": ["-v"]}
    engine = {"name": "vllm", "args": [], "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    assert changed([sidecar, engine], ARGUMENT, 8, container="")["name"] == "vllm"
    told = {"name": "odd", "args": [f"{ARGUMENT}=4"]}
    assert changed([sidecar, engine, told], ARGUMENT, 8, container="")["name"] == "odd"
    assert changed([sidecar, engine], ARGUMENT, 8, container="proxy")["name"] == "proxy"
    with pytest.raises(ValueError, match="expected the name of a container"):
        changed([sidecar, engine], ARGUMENT, 8, container="nobody")
