"""The scripts of the walk-through: what they set, and that what they start runs, is found again,
and ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from loop.settings import SOURCES, read_settings

SCRIPTS = ("launch-terms.sh", "setparms.sh")
COMPONENTS = ("collector", "optimizer", "actuator", "controller", "emulator")
DEADLINE_S = 60.0

# Stands for the command: says what it was told, and ends on the signals that a service ends on.
PROGRAM = """\
#!/usr/bin/env bash
echo "$@"
echo "data=$INFERNO_DATA_PATH collector=$COLLECTOR_HOST:$COLLECTOR_PORT"
trap 'echo ended; exit 0' TERM INT
while :; do sleep 0.05; done
"""


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """The script with a directory of its own, a tmux server of its own, and a program in the place
    of the command.
    """

    script: Path
    environ: Mapping[str, str]
    folder: Path

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Run it; return what it said."""
        done = subprocess.run(
            [str(self.script), *arguments],
            check=False,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    def logs(self) -> dict[str, list[str]]:
        """Return what the components said."""
        return {name: (self.folder / f"{name}.log").read_text().splitlines() for name in COMPONENTS}


@pytest.fixture
def launcher(repository: Path, tmp_path: Path) -> Iterator[Launcher]:
    """Return the script; at the end nothing of it runs any more."""
    program = tmp_path / "inferno"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    session = f"inferno-test-{uuid.uuid4().hex[:12]}"
    keep = {
        name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ
    }
    environ = {
        **keep,
        "SHELL": "/bin/sh",
        "TERM": "xterm",
        "INFERNO_COMMAND": str(program),
        "INFERNO_RUN_DIR": str(tmp_path / "run"),
        "INFERNO_SESSION": session,
    }
    launch = Launcher(
        script=repository / "scripts" / "launch-terms.sh", environ=environ, folder=tmp_path / "run"
    )
    yield launch
    launch("stop")


def eventually(launcher: Launcher, arguments: str, text: str) -> None:
    """Wait until the script says *text*."""
    end_s = time.monotonic() + DEADLINE_S
    while text not in launcher(arguments):
        assert time.monotonic() < end_s, f"waited in vain for {text!r}"
        time.sleep(0.05)


@pytest.mark.parametrize("name", SCRIPTS)
def test_they_can_be_read_by_a_shell(repository: Path, name: str) -> None:
    """A syntax error shows only in the branch that nobody took."""
    script = repository / "scripts" / name
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK) == (name == "launch-terms.sh")


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_the_parameters_are_those_of_the_walk_through(repository: Path, shell: str) -> None:
    """And each of them is one that the program reads."""
    told = sourced(repository, shell, {})
    assert told["KUBECONFIG"] == "/home/me/.kube/config"
    names = {"CONTROLLER": "3300", "COLLECTOR": "3301", "INFERNO": "3302", "ACTUATOR": "3303"}
    for name, port in names.items():
        assert (told[f"{name}_HOST"], told[f"{name}_PORT"]) == ("localhost", port)
    assert (told["INFERNO_CONTROL_PERIOD"], told["INFERNO_CONTROL_DYNAMIC"]) == ("60", "false")
    set_by_it = told.keys() - {"HOME", "PATH", "PWD", "SHLVL", "_", "OLDPWD"}
    assert set_by_it <= {variable for variable, _, _ in SOURCES.values()}
    assert read_settings(told).collector_port == 3301


def test_what_is_set_already_stays(repository: Path) -> None:
    """The twin's kubeconfig, or another port, is one export away."""
    told = sourced(repository, "bash", {"KUBECONFIG": "/tmp/twin", "ACTUATOR_PORT": "4303"})
    assert (told["KUBECONFIG"], told["ACTUATOR_PORT"], told["COLLECTOR_PORT"]) == (
        "/tmp/twin",
        "4303",
        "3301",
    )


def sourced(repository: Path, shell: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment after sourcing setparms.sh."""
    line = f". '{repository / 'scripts' / 'setparms.sh'}' && env"
    told = {"HOME": "/home/me", "PATH": os.environ["PATH"], **environ}
    done = subprocess.run(
        [shell, "-eu", "-c", line], check=True, env=told, capture_output=True, text=True
    )
    return dict(row.split("=", 1) for row in done.stdout.splitlines())


@pytest.mark.slow
def test_in_the_background_all_five_run_with_logs_and_end(
    launcher: Launcher, repository: Path
) -> None:
    """Without tmux this is how the loop runs on a machine."""
    said = launcher("start", "--background")
    assert [line.split(":")[0] for line in said.splitlines()] == list(COMPONENTS)
    assert launcher("status").count(": process ") == 5
    assert "running already" in launcher("start", code=1)
    wait_for_words(launcher)
    assert "stopped" in launcher("stop")
    assert launcher("status").count("does not run") == 5
    logs = launcher.logs()
    assert [logs[name][0] for name in COMPONENTS] == [
        "collector",
        "optimizer",
        "actuator",
        "controller 60 false --backend http",
        "emulator",
    ]
    assert {lines[1] for lines in logs.values()} == {
        f"data={repository}/sample-data/large/ collector=localhost:3301"
    }
    assert {lines[-1] for lines in logs.values()} == {"ended"}


def wait_for_words(launcher: Launcher) -> None:
    """Wait until every component has said its second line: only then it ends by itself."""
    end_s = time.monotonic() + DEADLINE_S
    while any(len(lines) < 2 for lines in launcher.logs().values()):
        assert time.monotonic() < end_s, "not all components run"
        time.sleep(0.05)


@pytest.mark.slow
def test_one_that_has_ended_by_itself_is_told_and_stops_nobody(launcher: Launcher) -> None:
    """A port that is taken ends one of the five: the others must still be ended, and nothing else
    be killed.
    """
    launcher("start", "--background")
    wait_for_words(launcher)
    pid, _ = (launcher.folder / "actuator.pid").read_text().split("\n", 1)
    os.kill(int(pid), 15)
    eventually(launcher, "status", "actuator: does not run")
    # Its number may be that of another process by now.
    (launcher.folder / "actuator.pid").write_text(f"{os.getpid()}\nThu Jan  1 00:00:00 1970\n")
    assert "actuator: does not run" in launcher("status")
    launcher("stop")
    assert launcher("status").count("does not run") == 5


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not on the path")
def test_in_tmux_each_has_a_terminal_of_its_own(launcher: Launcher) -> None:
    """And one for kubectl, and one to watch the pods."""
    launcher("start")
    eventually(launcher, "status", "emulator: process")
    panes = tmux(launcher, "list-panes", "-s", "-F", "#{pane_title}").split()
    assert panes == [*COMPONENTS, "kubectl", "pods"]
    assert "running already" in launcher("start", code=1)
    launcher("stop")
    assert launcher("status").count("does not run") == 5
    assert tmux(launcher, "list-panes", "-s") == ""


def tmux(launcher: Launcher, *arguments: str) -> str:
    """Return what the tmux server of the script says."""
    command = ["tmux", "-L", launcher.environ["INFERNO_SESSION"], *arguments]
    return subprocess.run(
        command, check=False, env=launcher.environ, capture_output=True, text=True
    ).stdout


def test_a_word_that_it_does_not_know_is_answered_with_its_usage(launcher: Launcher) -> None:
    """`launch-terms.sh stpo` must not start anything."""
    assert "usage: launch-terms.sh" in launcher("stpo", code=2)
    assert "usage: launch-terms.sh" in launcher("--help")
    assert launcher("stop") == "nothing runs\n"
