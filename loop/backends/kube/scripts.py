"""What a command for a shell (`sh -c`) does with its variables, as far as that is sure; pure."""

from __future__ import annotations

import re

# What a shell (or Kubernetes: the first form) puts the value of a variable for.
VARIABLE = re.compile(
    r"\$(?:\((?P<kubernetes>[A-Za-z_]\w*)\)|(?P<plain>[A-Za-z_]\w*)"
    r"|\{(?P<braces>[A-Za-z_]\w*)(?::?-(?P<default>[^}]*))?\})"
)
NEXT_COMMAND = re.compile(r"[;|]|(?<![<>])&(?!>)|(?<!\\)\n")
_SEPARATOR = re.compile(r"&&|\|\||;;|[;|]|(?<![<>])&(?!>)|(?<!\\)\n")
_QUOTED = re.compile(r"\"(?:\\.|[^\"\\])*\"|'[^']*'", re.DOTALL)
_HELD = re.compile(rf"{_QUOTED.pattern}|(?<==)\([^()]*\)", re.DOTALL)  # an array too
# What it names it gives nothing.
_HARMLESS = re.compile(r"echo\s|export\s+\w+$")
_BEGINS = re.compile(r"(?<![\w.$/=-])(?:if|for|while|until|case|select)(?![\w.=/-])|[({]")
_ENDS = re.compile(r"(?<![\w.$/=-])(?:fi|done|esac)(?![\w.=/-])|[)}]")
# The variables that a command gets for itself alone stand before it.
_ITS_OWN = re.compile(r"\s*(?:env\s+)?(?:[A-Za-z_]\w*=\S*\s+)*(?![A-Za-z_]\w*=)")


def name_of(variable: re.Match[str]) -> str:
    """Return the name of a *variable* found."""
    return variable["kubernetes"] or variable["braces"] or variable["plain"]


def without_comments(script: str) -> str:
    """Return *script* with blanks for its comments: all else stays in its place."""
    return re.sub(r"(?<!\S)#[^\n]*", lambda found: " " * len(found[0]), script)


def assigned(name: str, script: str, at: int) -> str | None:
    """Return the text that the variable *name* has been given when *script*, which has no comments,
    comes to the command that begins *at*; None if it has that of its environment, "" if nobody can
    tell: it is given several, or one under a condition, or one that is reckoned.
    """
    bare = _HELD.sub(lambda found: "." * len(found[0]), script)
    exact = re.compile(rf"(?:export\s+)?{name}=(?P<value>[^\s$`()]*)")
    mention = re.compile(rf"(?<![\w$.{{/-]){name}(?![\w./-])|\$\{{{name}:?=")
    # A loop or a function may run after what stands behind it.
    last = len(bare) if _is_within(bare, at) else at
    ends = _SEPARATOR.finditer(bare, 0, last)
    found, begin, before = list[str](), 0, ";"
    for end in [*ends, None]:
        until, after = (end.start(), end[0]) if end else (last, ";")
        command = bare[begin:until].strip()
        start = bare.find(command, begin)
        said = script[start : start + len(command)] if command.startswith("eval ") else command
        if mention.search(_ITS_OWN.sub("", said, count=1)) and not _HARMLESS.match(command):
            told = exact.fullmatch(bare, start, start + len(command))
            steady = before in (";", "&", "\n") and after in (";", "\n", "&&")
            if told is None or not steady or start >= at or _is_within(bare, start):
                return ""
            found.append(script[told.start("value") : told.end("value")].strip("\"'"))
        begin, before = until + len(after), after
    if not found:
        return None
    return found[0] if len(found) == 1 else ""


def _is_within(script: str, at: int) -> bool:
    """Tell whether *at* is inside a branch, a loop, a function or a shell of its own in *script*:
    more begin than end before it, or the other way round behind it.
    """
    before, behind = (
        len(_BEGINS.findall(part)) - len(_ENDS.findall(part)) for part in (script[:at], script[at:])
    )
    return before != 0 or behind < 0


def one_word(reference: re.Match[str], script: str) -> bool | None:
    """Tell whether what stands for the *reference* in *script* is one word to the program that
    reads it (quotes hold it together); None if it is no word by itself, or is not put in.
    """
    start, end = reference.span()
    quoted = next(
        (one for one in _QUOTED.finditer(script) if one.start() < start < one.end()), None
    )
    if quoted is not None:
        return True if quoted[0] == f'"{reference[0]}"' else None
    by_itself = re.fullmatch(r"[\s;&|(]?", script[max(0, start - 1) : start]) and re.fullmatch(
        r"[\s;&|)]?", script[end : end + 1]
    )
    return False if by_itself else None
