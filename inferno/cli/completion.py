"""`inferno completion`: a script that lets a shell complete commands and options."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inferno.cli.command import EXIT_OK, Command, Parser

TEXT = """\
Print a script that lets a shell complete commands, options and file names.

  mkdir -p ~/.local/share/bash-completion/completions     where bash looks
  inferno completion bash > ~/.local/share/bash-completion/completions/inferno
  inferno completion zsh > ~/.zfunc/_inferno               a folder of $fpath
  source <(inferno completion zsh)                         or this in ~/.zshrc
  inferno completion fish > ~/.config/fish/completions/inferno.fish
"""

SHELLS = ("bash", "zsh", "fish")
PLACES = frozenset({"FILE", "DIR"})  # what help calls an argument that is a path


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    parser.add_argument("shell", choices=SHELLS, help="for which shell")


def _run(options: Namespace) -> int:
    print(script_for(options.shell))
    return EXIT_OK


def script_for(shell: str) -> str:
    """Return the script for *shell*."""
    import shtab

    script = shtab.complete(whole_parser(), shell=shell)
    # Theirs takes a script that zsh sources for one that is called to complete; that is _inferno
    # on $fpath.
    return script.replace("$zsh_eval_context[-1] == eval", "$funcstack[1] != _inferno")


def whole_parser() -> ArgumentParser:
    """Return one parser of all commands, of which each has every option that it may take."""
    from inferno.cli.main import NAMES, find_command

    whole = ArgumentParser(prog="inferno", allow_abbrev=False)
    whole.add_argument("--version", action="store_true", help="show the version")
    commands = whole.add_subparsers()
    for name in NAMES:
        command = find_command(name)
        commands.add_parser(
            name,
            parents=[_all_options(command)],
            add_help=False,
            # argparse takes a % in a help text for a format.
            help=command.summary.replace("%", "%%"),
        )
    return whole


def _all_options(command: Command) -> Parser:
    """Return a parser with the options of *command* whatever its --backend is, if it has one."""
    parser = command.parser()
    for backend in _choices(parser, "backend"):
        known = set(parser.options())
        for action in command.parser(["--backend", backend])._actions:
            if action.option_strings and known.isdisjoint(action.option_strings):
                parser._add_action(action)
    for action in parser._actions:
        if action.type is Path or action.metavar in PLACES:
            import shtab

            action.complete = shtab.FILE  # type: ignore[attr-defined] # shtab reads it there
        elif action.dest in ("policy", "policies", "scenario"):
            names = _policies() if action.dest != "scenario" else _scenarios()
            action.complete = _words(action.dest, names)  # type: ignore[attr-defined] # so here
    return parser


def _policies() -> tuple[str, ...]:
    from loop.policies.registry import POLICIES

    return tuple(POLICIES)


def _scenarios() -> tuple[str, ...]:
    from experiments.scenario import known_scenarios

    return known_scenarios()


def _words(subject: str, names: Sequence[str]) -> dict[str, Any]:
    """Return how each shell offers *names*, of which there are others that nobody can list: files,
    classes of somebody's own. Bash offers files where no name fits.
    """
    function, words = f"_inferno_{subject}", " ".join(names)
    bash = f'{function}() {{ compgen -W "{words}" -- "$1" || compgen -f -- "$1"; }}'
    # A function of its own: within the line of an option zsh takes its colons for the line's.
    zsh = f"{function}() {{ _alternative 'names:name:({words})' 'files:file:_files' }}"
    return {
        "bash": function,
        "zsh": function,
        "fish": f"{words} (__fish_complete_path (commandline -ct))",
        "preamble": {"bash": bash, "zsh": zsh},
    }


def _choices(parser: Parser, dest: str) -> tuple[str, ...]:
    found = [action.choices for action in parser._actions if action.dest == dest]
    return tuple(map(str, found[0])) if found and found[0] else ()


COMMAND = Command(
    name="completion",
    summary="a script that lets bash, zsh or fish complete",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
