"""Shell completion: what a shell offers, with the real shell."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from inferno.cli.completion import SHELLS, script_for
from inferno.cli.main import NAMES, main

# As a shell does when somebody presses the tabulator: the words so far, then what is offered.
ASK = """
source "$1"
COMP_WORDS=("${@:2}")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_shtab_inferno
printf '%s\\n' "${COMPREPLY[@]}"
"""
# The same in a zsh that is typed to: it is read until what is looked for was shown.
TYPED = """
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z "PS1=ready; fpath=($1 $fpath); autoload -Uz compinit; compinit -u -D; $4 echo be''gun"
zpty -r z shown '*begun*'
zpty -n -w z "$2"$'\\t\\t'
zpty -r z shown "*$3*"
print -r -- $shown
"""


@cache
def script(shell: str) -> str:
    """Return the script for a shell."""
    return script_for(shell)


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


@pytest.mark.parametrize(
    ("name", "first"),
    [("_inferno", ""), ("sourced", "source {}/sourced;")],
    ids=["fpath", "source"],
)
def test_zsh_offers_policies_by_name(tmp_path: Path, name: str, first: str) -> None:
    """zsh read the colons of the names as its own, and said "unmatched '" at each tabulator. A
    script that was sourced said that it "can only be called from completion function".
    """
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    (tmp_path / name).write_text(script("zsh"), encoding="utf-8")
    typed = ("inferno sim --policy sta", "static_peak", first.format(tmp_path))
    asked = ["zsh", "-c", TYPED, "ask", str(tmp_path), *typed]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True)
    assert "static_peak" in done.stdout
    assert "unmatched" not in done.stdout
    assert "not found" not in done.stdout
    assert "can only be called" not in done.stdout


def test_fish_offers_policies_and_options(tmp_path: Path) -> None:
    """With what each is about."""
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    (tmp_path / "inferno.fish").write_text(script("fish"), encoding="utf-8")
    ask = "source inferno.fish; complete -C 'inferno sim --policy sta'; complete -C 'inferno what'"
    done = subprocess.run(
        ["fish", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    offered = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert offered == ["static", "static_peak", "what-if"]
