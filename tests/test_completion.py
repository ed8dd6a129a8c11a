"""Shell completion: what a shell offers, with the real shell."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import shtab

from inferno.cli.completion import SHELLS, whole_parser
from inferno.cli.main import NAMES, main

# As a shell does when somebody presses the tabulator: the words so far, then what is offered.
ASK = """
source "$1"
COMP_WORDS=("${@:2}")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_shtab_inferno
printf '%s\\n' "${COMPREPLY[@]}"
"""


@cache
def script(shell: str) -> str:
    """Return the script for a shell."""
    return shtab.complete(whole_parser(), shell=shell)


@pytest.fixture(scope="module")
def offered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of the script for bash; skip, saying so, where there is no bash."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    file = tmp_path_factory.mktemp("completion") / "inferno"
    file.write_text(script("bash"), encoding="utf-8")
    return file


def offers(file: Path, *words: str) -> set[str]:
    """Return what bash offers after *words*, of which the last one is not finished."""
    done = subprocess.run(
        ["bash", "-c", ASK, "ask", str(file), "inferno", *words],
        check=True,
        cwd=file.parent,
        capture_output=True,
        text=True,
    )
    return set(done.stdout.split())


def test_bash_offers_commands_options_and_their_choices(offered: Path) -> None:
    """Forty options are not remembered."""
    assert offers(offered, "") >= set(NAMES)
    assert offers(offered, "con") == {"controller"}
    assert {"--scenario", "--policy", "--hours"} <= offers(offered, "sim", "--")
    assert offers(offered, "controller", "--mode", "") >= {"act", "export", "advise"}
    assert offers(offered, "completion", "") >= set(SHELLS)


def test_bash_offers_the_options_of_every_backend(offered: Path) -> None:
    """Which ones there are depends on --backend, and a script is made before anybody typed it."""
    found = offers(offered, "controller", "--")
    assert {"--speed", "--prometheus", "--kubeconfig", "--lease", "--pages"} <= found


def test_bash_offers_files_where_an_option_takes_one(offered: Path) -> None:
    """A directory of data has a long path."""
    (offered.parent / "my-data").mkdir()
    assert "my-data" in {name.rstrip("/") for name in offers(offered, "sim", "--data", "my")}


def test_bash_offers_policies_and_scenarios_by_name(offered: Path) -> None:
    """And files, for somebody's own."""
    assert offers(offered, "sim", "--policy", "st") == {"static", "static_peak"}
    assert {"ramp", "day", "code-trace"} <= offers(offered, "sweep", "--scenario", "")
    (offered.parent / "mine.yaml").touch()
    assert offers(offered, "sim", "--scenario", "mi") == {"mine.yaml"}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_command_prints_a_script_that_its_shell_can_read(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the syntax check of each shell that is installed."""
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert "give-up-after" in text
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: its script is not checked")
    done = subprocess.run([shell, "-n"], input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
