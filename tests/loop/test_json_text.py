"""A line that is written quickly is the line that json writes."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop.json_text import is_plain, quick_text

pytest.importorskip("msgspec")

FIGURES = st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | FIGURES | st.text()
LINES = st.dictionaries(
    st.text(), st.recursive(PLAIN, lambda one: st.lists(one) | st.dictionaries(st.text(), one))
)


def written(line: object) -> str:
    """Return *line* as json writes it."""
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.costly
@given(LINES)
def test_a_line_is_written_as_by_json_or_not_at_all(line: dict[str, object]) -> None:
    """Records must not depend on what is installed."""
    assert is_plain(line)
    try:
        written(line).encode()
    except UnicodeEncodeError:  # half a character
        assert quick_text(line) is None
        return
    assert quick_text(line) in (None, written(line))


@pytest.mark.costly
def test_figures_of_any_size_are_written_as_by_json() -> None:
    """Shares are small, and counters large: each is written quickly, whatever it is."""
    random = Random(1)
    sizes = [random.lognormvariate(0.0, 15.0) for _ in range(3000)]
    bits = [struct.unpack("d", random.randbytes(8))[0] for _ in range(3000)]
    edges = [0.0, -0.0, 1e-4, 9.9999e-5, 1e-5, 1e15, 1e16, 123456789012345680.0, 5e-324, 0.1 + 0.2]
    for figure in (*sizes, *edges, *(one for one in bits if one - one == 0.0)):
        line = {"figure": figure, "opposite": -figure, "last": 1}
        assert quick_text(line) == written(line)


@pytest.mark.parametrize("word", ["0.00001", '":0.00001,', ":1e-7}", "2e5", '\\":1e-7}', "a\\", ""])
def test_a_word_that_looks_like_a_figure_stays(word: str) -> None:
    """A reason may quote a figure as it is."""
    for line in ({"text": word}, {word: 1e-7}, {"text": word, "figure": 1e-7}):
        assert quick_text(line) in (None, written(line))


def test_what_is_not_of_json_is_not_plain() -> None:
    """msgspec would write a set as a list, and a value of one's own as an object."""

    @dataclass
    class Own:
        figure: float = 1.0

    assert not any(map(is_plain, [{1, 2}, Own(), {1: 2}, [Own()], {"a": b"b"}]))
