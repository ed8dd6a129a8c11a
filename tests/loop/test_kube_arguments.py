"""The batch size in the command line of a container: where engines read it, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

from loop.backends.kube.arguments import changed, value_of, with_gpus
from loop.backends.kube.gpus import gpu_limit

ARGUMENT = "--max-num-seqs"
PYTHON = "python3 -m"
SHELL = ["/bin/sh", "-c"]
BATCH = {"name": "BATCH", "value": "32"}
EXTRA = {"name": "EXTRA", "value": "-v --max-num-seqs 64 --port 1"}
WORD = {"name": "WORD", "value": "--max-num-seqs=16"}
ELSEWHERE = {"name": "BATCH", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}


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
        ({"command": ["vllm", "--max-num-seqs"], "args": ["16", "-v"]}, 16),
        ({"command": SHELL, "args": ['ARGS="--max-num-seqs 64"; vllm serve m $ARGS']}, 64),
        ({"command": SHELL, "args": ['vllm serve m "--max-num-seqs" "64"']}, 64),
        ({"args": ["-lc", "vllm serve m --max-num-seqs 64"]}, 64),
        ({"args": ["-c", "vllm serve m", "--max-num-seqs=8"]}, None),
        ({"command": [*SHELL, "vllm serve m"], "args": ["--max-num-seqs=8"]}, None),
        ({"command": [*SHELL, 'vllm "$@"', "--"], "args": ["--max-num-seqs=8"]}, 8),
        ({"args": ["--max-num-seqs=$(BATCH)"], "env": [BATCH]}, 32),
        ({"args": ["--max-num-seqs", "$(BATCH)"], "env": [BATCH]}, 32),
        ({"command": [*SHELL, "vllm --max-num-seqs=${BATCH}"], "env": [BATCH]}, 32),
        ({"command": [*SHELL, "vllm --max-num-seqs $BATCH -v"], "env": [BATCH]}, 32),
        ({"command": [*SHELL, "vllm --max-num-seqs ${BATCH:-8}"], "env": [BATCH]}, 32),
        ({"command": [*SHELL, "vllm --max-num-seqs ${BATCH:-8}"]}, 8),
        ({"command": [*SHELL, "vllm --max-num-seqs ${BATCH:-8}"], "envFrom": [{}]}, None),
        ({"args": ["--max-num-seqs=$(BATCH)"], "env": [ELSEWHERE]}, None),
        ({"command": [*SHELL, "BATCH=64; vllm --max-num-seqs $BATCH"], "env": [BATCH]}, 64),
        ({"command": [*SHELL, "export BATCH='64' && vllm --max-num-seqs=${BATCH}"]}, 64),
        ({"command": [*SHELL, "BATCH=64; BATCH=8; vllm --max-num-seqs $BATCH"]}, None),
        ({"command": [*SHELL, "BATCH=64$X; vllm --max-num-seqs $BATCH"]}, None),
        ({"command": [*SHELL, "vllm serve m $EXTRA"], "env": [EXTRA]}, 64),
        # Kubernetes puts in one word, which no engine reads as several.
        ({"args": ["serve", "m", "$(EXTRA)"], "env": [EXTRA]}, None),
        ({"args": ["serve", "m", "$(WORD)"], "env": [WORD]}, 16),
        ({"args": ["--max-num-seqs=8", "$(WORD)"], "env": [WORD]}, 16),
        ({"args": ["$(WORD)", "--max-num-seqs=8"], "env": [WORD]}, 8),
        ({"args": ["serve", "m"], "env": [EXTRA]}, None),
        ({"args": ["--max-num-seqs=8", "$(EXTRA)"], "env": [EXTRA]}, None),
        ({"args": ["-cc", '{"mode": 3}', "--max-num-seqs", "64"]}, 64),
        ({"args": ["-sc", '{"method": "ngram"}', "--max-num-seqs", "64"]}, 64),
        ({"args": ["-c", "--max-num-seqs", "64"]}, 64),
        ({"command": ["bash", "run.sh", "-cc", "{}", "--max-num-seqs", "64"]}, 64),
        ({"command": ["bash", "-euo", "pipefail", "-c", "vllm --max-num-seqs 64"]}, 64),
        ({"args": ["--max-num-seqs=$(BATCH)"]}, None),
        # A shell alone puts in variables of these forms.
        ({"args": ["--max-num-seqs=$BATCH"], "env": [BATCH]}, None),
        ({"command": ["vllm", "--max-num-seqs", "${BATCH:-8}"], "env": [BATCH]}, None),
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
        (
            {"command": ["/usr/bin/python3", "-m", "vllm.entrypoints.openai.api_server"]},
            {"args": ["--max-num-seqs=48"]},
        ),
        (
            {"command": ["tini", "--", "vllm", "serve"], "args": ["m"]},
            {"args": ["m", "--max-num-seqs=48"]},
        ),
        ({}, {"args": ["--max-num-seqs=48"]}),
        (
            {"command": ["vllm", "--max-num-seqs"], "args": ["16", "-v"]},
            {"args": ["48", "-v"]},
        ),
        (
            {"command": [*SHELL, 'vllm "$@"', "--"], "args": ["-v"]},
            {"args": ["-v", "--max-num-seqs=48"]},
        ),
        (
            {"command": [*SHELL, "vllm a --max-num-seqs 8 & vllm b --max-num-seqs='48'; wait"]},
            {"command": [*SHELL, "vllm a --max-num-seqs 48 & vllm b --max-num-seqs='48'; wait"]},
        ),
        (
            {"command": [*SHELL, "warm --max-num-seqs 4 && X=1 exec vllm serve --max-num-seqs 8"]},
            {"command": [*SHELL, "warm --max-num-seqs 4 && X=1 exec vllm serve --max-num-seqs 48"]},
        ),
        (
            {
                "command": [
                    *SHELL,
                    f"{PYTHON} bench --max-num-seqs 4\n{PYTHON} vllm --max-num-seqs 8",
                ]
            },
            {
                "command": [
                    *SHELL,
                    f"{PYTHON} bench --max-num-seqs 4\n{PYTHON} vllm --max-num-seqs 48",
                ]
            },
        ),
        (
            {"args": ["--max-num-seqs=$(BATCH)"], "env": [{"name": "HOME"}, BATCH]},
            {"env": [{"name": "BATCH", "value": "48"}]},
        ),
        (
            {"command": [*SHELL, "vllm --max-num-seqs ${BATCH:-8}"]},
            {"env": [{"name": "BATCH", "value": "48"}]},
        ),
        (
            {"command": [*SHELL, "vllm serve m ${EXTRA}"], "env": [BATCH, EXTRA]},
            {"env": [{"name": "EXTRA", "value": "-v --max-num-seqs 48 --port 1"}]},
        ),
    ],
)
def test_the_number_is_changed_where_the_engine_reads_it(
    container: dict[str, Any], written: dict[str, Any] | None
) -> None:
    """A second element of args is $0 to `sh -c`: without effect, for the price of a rollout."""
    expected = {} if written is None else {"name": "c", **written}
    assert changed(containers(**container), ARGUMENT, 48, container="") == expected


@pytest.mark.parametrize(
    "script",
    [
        "vllm serve m --max-num-seqs {} & sleep 60; python bench.py --max-num-seqs 8; wait",
        "vllm serve m --max-num-seqs {} & /opt/venv/bin/vllm serve m --max-num-seqs {}; wait",
        "numactl -N 0 vllm serve m --max-num-seqs {} & A=1 vllm serve m --max-num-seqs {}",
        "timeout -s KILL 100 vllm serve --max-num-seqs {} & vllm serve m --max-num-seqs {}",
        "taskset -c 0-3 vllm serve --max-num-seqs {} & nice -n 5 vllm serve m --max-num-seqs {}",
        "stdbuf -oL env -u X A='b c' vllm serve --max-num-seqs {} 2>&1 | tee --max-num-seqs 8",
        "vllm serve m 2>&1 --max-num-seqs {} & vllm bench serve --max-num-seqs 8",
        "python -u -m vllm.entrypoints.openai.api_server --max-num-seqs {}; x --max-num-seqs 8",
        "python3.12 -m sglang.launch_server \\\n --max-num-seqs {}; x --max-num-seqs 8",
        "bash -c 'exec text-generation-launcher --max-num-seqs {}'; x --max-num-seqs 8",
        "trtllm-serve m --max-num-seqs {}; lmdeploy serve api_server m --max-num-seqs {}",
        "bench --backend vllm --max-num-seqs 8 & vllm serve --max-num-seqs {}",
        "./own.sh --max-num-seqs 8 --max-num-seqs {}",
    ],
)
def test_all_engines_of_a_script_and_nothing_else_are_changed(script: str) -> None:
    """The last program of a script was taken for the engine, and others by how they were called."""
    before = containers(command=[*SHELL, script.replace("{}", "64")])
    after = script.replace("{}", "128")
    written = {"name": "c", "command": [*SHELL, after]}
    assert value_of(before, ARGUMENT) == 64
    assert changed(before, ARGUMENT, 128, container="") == written
    assert changed(containers(command=[*SHELL, after]), ARGUMENT, 128, container="") == {}


@pytest.mark.parametrize(
    "script",
    [
        "vllm serve m & vllm bench serve --max-num-seqs 8",
        "./one.sh --max-num-seqs 8 & ./other.sh --max-num-seqs 8",
        "ARGS='--max-num-seqs 64'; vllm serve m $ARGS & timeout 9 bench vllm --max-num-seqs 8",
    ],
)
def test_a_script_of_which_nobody_knows_the_engine_is_left_alone(script: str) -> None:
    """Nothing is changed in doubt."""
    before = containers(command=[*SHELL, script])
    assert value_of(before, ARGUMENT) is None
    with pytest.raises(ValueError, match="nothing tells which engine reads --max-num-seqs in"):
        changed(before, ARGUMENT, 128, container="")


@pytest.mark.parametrize(
    ("script", "value", "patched"),
    [
        ("vllm serve m --max-num-seqs 128 $EXTRA", 64, "EXTRA"),
        ("vllm serve m $WORD $EXTRA", 64, "EXTRA"),
        ("vllm serve m $EXTRA ${WORD}", 16, "WORD"),
        ('vllm serve m $EXTRA "$WORD"', 16, "WORD"),
        ("python warm.py $WORD; exec vllm serve m $EXTRA", 64, "EXTRA"),
        ("# vllm $WORD\nvllm serve m $EXTRA 2>&1 | tee $WORD", 64, "EXTRA"),
        ("vllm a $EXTRA & vllm b $EXTRA; wait", 64, "EXTRA"),
        ("while true; do vllm serve m $EXTRA; sleep 1; done", 64, "EXTRA"),
        ("if test $A; then exec vllm serve m $EXTRA; else exit 1; fi", 64, "EXTRA"),
        ("./own.sh $EXTRA", 64, "EXTRA"),
        ("WORD=1; export FOO; vllm serve m $EXTRA", 64, "EXTRA"),
        ("echo 'EXTRA=1'; vllm serve m $EXTRA; EXTRA=2", 64, "EXTRA"),
        # What no engine reads, or nobody knows that it does.
        ("python warm.py $EXTRA; exec vllm serve m", None, None),
        ("python warm.py --max-num-seqs 8; exec vllm serve m", None, None),
        ("vllm bench throughput $EXTRA; exec vllm serve m", None, None),
        ("# was: vllm serve m $EXTRA\nexec vllm serve m", None, None),
        ("vllm serve m '$EXTRA'", None, None),
        ('vllm serve m "$EXTRA"', None, None),
        ("vllm serve m \\$EXTRA", None, None),
        ("vllm serve m --max-num-seqs 8 --name=$EXTRA", None, None),
        ("start() {\nvllm serve m $EXTRA\n}\nEXTRA=1; start", None, None),
        ("while true; do vllm serve m $EXTRA; EXTRA=; done", None, None),
        ("EXTRA=$OTHER; vllm serve m --max-num-seqs 8 $EXTRA", None, None),
        ("if test $A; then EXTRA=; fi; vllm serve m $EXTRA", None, None),
        ("vllm a $EXTRA & vllm b $WORD; wait", None, None),
        ("vllm a $EXTRA & vllm b --max-num-seqs 64; wait", None, None),
    ],
)
def test_an_argument_in_a_variable_counts_where_engines_read_it(
    script: str, value: int | None, patched: str | None
) -> None:
    """Any variable was taken that the line named, of two the last of the environment: pods rolled
    for a number that no engine read.
    """
    one = containers(command=[*SHELL, script], env=[WORD, EXTRA])
    assert value_of(one, ARGUMENT) == value
    if patched is None:
        with pytest.raises(ValueError, match="--max-num-seqs"):
            changed(one, ARGUMENT, 48, container="")
        return
    env = changed(one, ARGUMENT, 48, container="")["env"]
    assert [(told["name"], "48" in told["value"]) for told in env] == [(patched, True)]


@pytest.mark.parametrize(
    ("before", "value"),
    [
        ("# BATCH=8 was too small\n", 32),
        ("BATCH=8 python warm.py; ", 32),
        ("env BATCH=8 python warm.py & ", 32),
        ('echo "first: BATCH=8 "; ', 32),
        ("python warm.py --batch $BATCH; ", 32),
        ("A_BATCH=8; ", 32),
        ("BATCH=8; ", 8),
        ("set -e\nexport BATCH='8'\n", 8),
        ("if test $A; then sleep 1; fi; BATCH=8\n", 8),
        ("cd /srv || exit 1; BATCH=8 && ", 8),
        # Nobody can tell.
        ('if [ -n "$DEBUG" ]; then BATCH=8; fi\n', None),
        ("if test $A\nthen\n  BATCH=8\nfi\n", None),
        ("case $A in\na)\n  BATCH=8\n  ;;\nesac\n", None),
        ("for A in 1 2; do\nBATCH=8\ndone\n", None),
        ("small() {\nBATCH=8\n}\n", None),
        ("test $A && BATCH=8; ", None),
        ("(BATCH=8); ", None),
        ("BATCH=8 & ", None),
        ("BATCH=8 | cat; ", None),
        ("BATCH=8\nBATCH=$((BATCH*2))\n", None),
        ("BATCH=8; BATCH+=1; ", None),
        ("read BATCH; ", None),
        ("unset BATCH; ", None),
        ("export A=1 BATCH=8; ", None),
        (": ${BATCH:=8}; ", None),
        ("BATCH=$(nproc); ", None),
        ("BATCH=; ", None),
        ('eval "BATCH=8"; ', None),
    ],
)
def test_a_variable_of_a_script_has_the_number_that_the_engine_gets(
    before: str, value: int | None
) -> None:
    """One was taken from comments, other commands and branches, and then kept from change."""
    for after in ("", "& P=$!\nBATCH=5; wait $P", "# BATCH=5"):
        script = f"{before}vllm serve m --max-num-seqs $BATCH {after}"
        one = containers(command=[*SHELL, script], env=[BATCH])
        assert value_of(one, ARGUMENT) == value
        if value == 32:
            written = {"name": "c", "env": [{"name": "BATCH", "value": "48"}]}
            assert changed(one, ARGUMENT, 48, container="") == written
        else:
            with pytest.raises(ValueError, match="no number of its own"):
                changed(one, ARGUMENT, 48, container="")


@pytest.mark.parametrize(
    ("script", "value"),
    [
        ('if [ "$A" ]; then vllm serve m {} 8; else vllm serve m {} 64; fi', None),
        ("vllm serve m {} 64 || vllm serve m {} 8", None),
        ("vllm serve m {} 64 --port 8001 & vllm serve m {} 8 --port 8000; wait", None),
        ("vllm serve m {} 64 --port 8001 & vllm serve m {} 64 --port 8000; wait", 64),
        ("vllm serve m {} 8 {} 64", 64),
        ("vllm bench serve {} 8; vllm serve m {} 64", 64),
    ],
)
def test_of_engines_with_different_batches_nobody_knows_the_batch(
    script: str, value: int | None
) -> None:
    """The last command of a script was taken, in whichever branch it stands."""
    one = containers(command=[*SHELL, script.replace("{}", ARGUMENT)])
    assert value_of(one, ARGUMENT) == value


@pytest.mark.parametrize(
    ("script", "value"),
    [
        ('ARGS="--max-num-seqs 64"; vllm serve m $ARGS', 64),
        ('ARGS=(-v --max-num-seqs 64); vllm serve m "${ARGS[@]}"', 64),
        ('ARGS=(\n  --max-num-seqs 64\n  -v\n)\nvllm serve m "${ARGS[@]}"', 64),
        ('export ARGS="--max-num-seqs 64"\n./own.sh', 64),
        ('ARGS="--max-num-seqs 64"; vllm serve m', None),
        ('ARGS="--max-num-seqs 64"; vllm serve m "$ARGS"', None),
        ('ARGS="--max-num-seqs 64"; vllm serve m \\$ARGS', None),
        ("ARGS=(--max-num-seqs 64); vllm serve m $ARGS", None),
        ('ARGS="--max-num-seqs 64"; vllm serve m --max-num-seqs 8 $ARGS', None),
        ('ARGS=(\n  -v --max-num-seqs 64\n)\nvllm serve --max-num-seqs 8 "${ARGS[@]}"', None),
        ('if test $A; then\nARGS="--max-num-seqs 64"\nfi\nvllm serve m $ARGS', None),
    ],
)
def test_arguments_that_a_script_keeps_in_a_variable_of_its_own(
    script: str, value: int | None
) -> None:
    """They are changed in the script, if it passes them to its engine in any case."""
    one = containers(command=[*SHELL, script])
    assert value_of(one, ARGUMENT) == value
    if value is not None:
        written = {"name": "c", "command": [*SHELL, script.replace("64", "48")]}
        assert changed(one, ARGUMENT, 48, container="") == written


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
        ({"command": [*SHELL, "BATCH=64; vllm --max-num-seqs $BATCH"]}, "no number of its own in"),
        ({"args": ["--max-num-seqs=$(BATCH)"], "env": [ELSEWHERE]}, "no number of its own in"),
        ({"command": [*SHELL, 'vllm "$@"']}, "the shell command of c has no"),
        ({"command": [*SHELL, "vllm"], "args": ["--max-num-seqs=8"]}, "the shell command of c"),
        ({"command": ["bash", "/run.sh"]}, "nothing tells whether /run.sh of c reads --max-num"),
        # The program of the image is a shell: what stands behind its command nobody reads.
        ({"args": ["-c", "vllm serve m"]}, "the shell command of c has no"),
        ({"command": ["python3", "-c", "import os; os.execvp('vllm', [])"]}, "nothing tells wh"),
        ({"command": ["ray", "start", "--head", "--block"]}, "nothing tells whether ray start"),
        ({"command": ["vllm", "bench", "serve"]}, "nothing tells whether vllm bench serve of c"),
        ({"args": ["bench", "serve"]}, "nothing tells whether bench serve of c reads"),
        ({"args": ["$(EXTRA)"], "env": [EXTRA]}, "no number of its own in '-v --max-num-seqs 64"),
        ({"command": ["/start-engine"], "args": ["-v"]}, "nothing tells whether /start-engine of"),
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
    graphics = {"name": "vllm", "args": [f"{ARGUMENT}=64"], "resources": engine["resources"]}
    assert value_of([told, graphics], ARGUMENT) == 64
    assert value_of([told, graphics], ARGUMENT, container="odd") == 4


def test_the_batch_size_may_be_an_environment_variable() -> None:
    """Text Generation Inference and others are set by these."""
    assert value_of(containers(env=[BATCH]), "BATCH") == 32
    written = {"name": "c", "env": [{"name": "BATCH", "value": "48"}]}
    for env in ([BATCH], []):
        assert changed(containers(env=env), "BATCH", 48, container="") == written
    assert changed(containers(env=[BATCH]), "BATCH", 32, container="") == {}
    with pytest.raises(ValueError, match="the variable BATCH of c is set from elsewhere"):
        changed(containers(env=[ELSEWHERE]), "BATCH", 48, container="")


@pytest.mark.parametrize("argument", ["max-num-seqs", "--max-num-seqs=8", "-", "a b"])
def test_what_is_neither_argument_nor_variable_is_refused(argument: str) -> None:
    """An engine that does not know a word of its command line does not start."""
    with pytest.raises(ValueError, match="expected --argument or the name of an environment"):
        changed(containers(args=["-v"]), argument, 48, container="")


GPUS = {"resources": {"limits": {"nvidia.com/gpu": "4"}}}


@pytest.mark.parametrize(
    ("container", "number", "written"),
    [
        ({"args": ["-tp", "4"]}, 2, {"args": ["-tp", "2"]}),
        ({"args": ["-tp=2", "--pp-size=2"]}, 8, {"args": ["-tp=4", "--pp-size=2"]}),
        ({"args": ["-tp=2", "-dp=2"]}, 2, {"args": ["-tp=1", "-dp=2"]}),
        ({"args": ["-tp=$(N)"], "env": [{"name": "N", "value": "4"}]}, 8, {"env": ["N", "8"]}),
        ({"args": ["-tp=2"]}, 8, {}),
        ({"args": ["-v"]}, 1, {}),
    ],
)
def test_an_engine_is_told_to_use_the_gpus_that_it_has(
    container: dict[str, Any], number: int, written: dict[str, Any]
) -> None:
    """Ranks of a pipeline and of data multiply with those of tensors."""
    limit = gpu_limit(containers(**container, **GPUS))
    assert limit is not None
    made = dict(with_gpus(containers(**container, **GPUS), limit, number))
    assert made.pop("resources") == {"limits": {"nvidia.com/gpu": str(number)}}
    if env := made.pop("env", ()):
        made["env"] = list(env[0].values())
    assert made == {"name": "c"} | written


@pytest.mark.parametrize(
    "arguments", [["-tp=2", "-pp=2"], ["-pp=4"], ["-tp=3"], ["--dp-size", "4"]]
)
def test_an_engine_that_would_not_start_on_so_many_gpus_keeps_its_own(
    arguments: list[str],
) -> None:
    """It waits for GPUs that its pod does not have, and crashes."""
    present = containers(args=arguments, **GPUS)
    limit = gpu_limit(present)
    assert limit is not None
    with pytest.raises(ValueError, match=r"c is told to use \d GPUs, which \d do not fit"):
        with_gpus(present, limit, 1)
