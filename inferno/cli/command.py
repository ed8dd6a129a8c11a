"""What a subcommand is, and the parser of its arguments: one clear line for whatever is wrong."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

EXIT_OK, EXIT_FAILURE, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130


# As argparse names them, and we do.
_NUMBERS = {"int": "a whole number", "float": "a number"}


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line, and what may have been meant."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.register("type", Path, _named_path)

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2."""
        from twin.datafile import did_you_mean

        wrong = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if wrong:
            choices = re.findall(r"[\w-]+", wrong[2])
            found = f"expected one of {', '.join(choices)}; found {wrong[1][:60]!r}"
            message = message.replace(wrong[0], found) + did_you_mean(wrong[1], choices)
        message = re.sub(
            r"invalid (int|float) value: (['\"].{0,60})",
            lambda told: f"expected {_NUMBERS[told[1]]}, found {told[2]}",
            message,
        )
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Print the help text. Raise OSError where it cannot be written, which the base is silent
        about.
        """
        print(self.format_help(), end="", file=file)
        if file is None:
            sys.stdout.flush()

    def options(self) -> list[str]:
        """Return the long options of this parser."""
        return [name for name in self._option_string_actions if name.startswith("--")]


def _named_path(text: str) -> Path:
    """Return the path *text*, of every option of the type Path. Raise ArgumentTypeError if it is
    empty: as a Path that is the current folder, which a variable that is not set did not mean.
    """
    if not text:
        raise argparse.ArgumentTypeError("expected the name of a file or folder, found ''")
    return Path(text)


@dataclass(frozen=True, slots=True)
class Extensible:
    """Choices of an option: the *names* that are ours, and of this *kind* also module:Name and what
    installed packages bring (twin.registry).
    """

    kind: str
    names: tuple[str, ...]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, word: object) -> bool:
        if word in self.names or not isinstance(word, str):
            return word in self.names
        from twin.registry import installed

        return ":" in word or word in installed(self.kind)


AddArguments = Callable[[Parser, Sequence[str]], None]
Foreign = Callable[[argparse.Namespace], Mapping[str, str]]


def _no_others(_options: argparse.Namespace) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A subcommand. Its module is imported for every help text, so what is heavy waits for *run*.

    add_arguments gets the parser and the words of the user, since what a command takes may depend
    on them. foreign tells, of options that this command does not take as it was called, who does.
    check reads all that *run* will need and raises SpecError for what is wrong, for a study, whose
    later parts begin after hours; None: there is nothing to find out so early.
    """

    name: str
    summary: str
    text: str
    add_arguments: AddArguments
    run: Callable[[argparse.Namespace], int]
    foreign: Foreign = _no_others
    check: Callable[[argparse.Namespace], None] | None = None

    def parser(self, arguments: Sequence[str] = ()) -> Parser:
        """Return the parser for *arguments*."""
        parser = Parser(
            prog=f"inferno {self.name}",
            description=self.text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_arguments(parser, arguments)
        much = parser.add_mutually_exclusive_group()
        much.add_argument("-q", "--quiet", action="store_true", help="say less: what matters only")
        much.add_argument(
            "-v", "--verbose", action="store_true", help="say more: details, and where errors arose"
        )
        return parser

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Return what *arguments* say. Leave with exit code 2 and one line if they make no
        sense.
        """
        parser = self.parser(arguments)
        options, unknown = parser.parse_known_args(arguments)
        if unknown:
            parser.error(self._unknown(parser, options, unknown))
        options.command = self.name
        return options

    def _unknown(self, parser: Parser, options: argparse.Namespace, unknown: Sequence[str]) -> str:
        from twin.datafile import did_you_mean

        foreign = self.foreign(options)
        for word in unknown:
            name = word.partition("=")[0]
            if name in foreign:
                return f"{name} {foreign[name]}"
        name = unknown[0].partition("=")[0]
        meant = did_you_mean(name, parser.options()) if name.startswith("-") else ""
        return f"unrecognized arguments: {' '.join(unknown)}{meant}"
