"""`inferno study`: several questions from one file."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inferno.cli.command import EXIT_OK, Command
from inferno.cli.runs import add_result_options, chosen_scheduler

TEXT = """\
Run the parts of a study one after the other, each in a directory of its own
under --out. A part names a command and its options:

  parts:
    - {name: days, run: compare, with: {policies: [slo, hpa], scenario: day}}
    - {name: restless, run: stability, with: {policy: slo, period: [15, 60]}}

  inferno study STUDY.yaml --out out/study --resume
"""

COMMANDS = ("sim", "sweep", "compare", "tune", "stability")
RESUMED = ("sweep", "compare", "tune", "stability")


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    parser.add_argument("study", type=Path, metavar="STUDY.yaml", help="the study")
    add_result_options(parser, out="out/study", jobs=False)


def _run(options: Namespace) -> int:
    from inferno.cli.main import main, parse
    from twin.spec import SpecError

    scheduler = chosen_scheduler(options)
    cluster = ["--executor", "dask", "--scheduler", scheduler] if scheduler else []
    parts = read_study(options.study)
    for name, command, words in parts:
        # What is wrong with the last part is told before the first one has run for an hour.
        found, asked = parse([command, *words])
        assert found.check is not None, command
        try:
            found.check(asked)
        except SpecError as error:
            raise SpecError(f"{options.study}: part {name}: {error}") from None
    for name, command, words in parts:
        out = options.out / name
        if not options.quiet:
            print(f"{name}: inferno {command} {' '.join(words)}", flush=True)
        resume = ["--resume"] if options.resume and command in RESUMED else []
        quiet = ["--quiet"] if options.quiet else []
        where = cluster if command in RESUMED else []
        code = main([command, *words, *where, "--out", str(out), *resume, *quiet])
        if code != EXIT_OK:
            # Its own line names a part's command: --resume is one of the study.
            kept = "what is finished is kept: --resume goes on"
            print(f"inferno study: part {name} ended with code {code}; {kept}", file=sys.stderr)
            return code
    return EXIT_OK


def read_study(path: Path) -> list[tuple[str, str, list[str]]]:
    """Return name, command and words of each part. Raise SpecError, one line, for what is wrong."""
    import yaml

    from twin.datafile import shown, unreadable
    from twin.kube.apiserver import bounded_yaml
    from twin.spec import SpecError

    try:
        document = bounded_yaml.load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SpecError(
            f"{path}: expected a study in YAML, found {unreadable(error)[:60]}"
        ) from None
    rows = document.get("parts") if isinstance(document, Mapping) else None
    if not isinstance(rows, list) or not rows:
        raise SpecError(f"{path}: expected parts: a list of them, found {shown(document)}")
    found = [_part(row, f"{path}: part {number}") for number, row in enumerate(rows, 1)]
    names = [name for name, _, _ in found]
    for name in names:
        if names.count(name) > 1:
            raise SpecError(f"{path}: expected every name once, found {name} twice")
    return found


def _part(row: Any, place: str) -> tuple[str, str, list[str]]:
    from twin.datafile import did_you_mean
    from twin.spec import SpecError

    if not isinstance(row, Mapping) or set(row) - {"name", "run", "with"} or "run" not in row:
        raise SpecError(f"{place}: expected name, run and with, found {str(row)[:60]!r}")
    command, given = str(row["run"]), row.get("with") or {}
    if command not in COMMANDS:
        raise SpecError(
            f"{place}: run: expected one of {', '.join(COMMANDS)}, found {command[:60]!r}"
            f"{did_you_mean(command, COMMANDS)}"
        )
    name = str(row.get("name") or command)
    if not isinstance(given, Mapping) or "out" in given or "/" in name or name.startswith("."):
        raise SpecError(f"{place}: expected options by name, and a plain name, found {row!s:.60}")
    words = []
    for option, value in given.items():
        flag = "--" + str(option).replace("_", "-")
        if option in {"help", "h"}:
            raise SpecError(f"{place}: with: expected no help, found {option}")
        if option == "set":
            for one in _settings(value):
                words += [flag, one]
        elif value is True:
            words.append(flag)
        elif value is not False:
            words += [flag, _text(value)]
    return name, command, words


def _settings(value: Any) -> list[str]:
    """Return what --set is given: of a mapping each option, of a list each of its texts."""
    if isinstance(value, Mapping):
        return [f"{key}={_text(one)}" for key, one in value.items()]
    return list(map(_text, value)) if isinstance(value, list) else [_text(value)]


def _text(value: Any) -> str:
    """Return *value* as the command takes it: true, false and null are those of JSON."""
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


COMMAND = Command(
    name="study",
    summary="several questions from one file",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
