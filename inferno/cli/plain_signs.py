"""What a terminal or a file that is not in UTF-8 is shown: plain signs in the place of those that
it has no bytes for.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from io import TextIOWrapper
from typing import TextIO

SIGNS = {
    **{"−": "-", "–": "-", "─": "-", "│": "|", "├": "|", "└": "|", "·": "*", "×": "x", "µ": "u"},
    **{"…": "...", "→": "->", "⇄": "<->", "±": "+-", "²": "^2", "³": "^3", "ⁿ": "^n", "τ": "tau"},
}


def show_plainly(streams: Iterable[TextIO]) -> None:
    """Have *streams* show plain signs where their encoding has none of what is written, instead of
    failing: an hour of simulation ended so with its table.
    """
    codecs.register_error("plain signs", _plain)
    for stream in streams:
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="plain signs")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(SIGNS.get(sign) or _escaped(sign) for sign in signs), error.end


def _escaped(sign: str) -> str:
    return sign.encode("ascii", "backslashreplace").decode()
