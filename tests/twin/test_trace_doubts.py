"""Claims about what is told of a trace whose rows are read as they stand, though they may be
wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from twin.traces import read_trace

Row = tuple[float, int, int]
SOUND: list[Row] = [(1.3701 * n, 100 + n, 20 + n % 7) for n in range(60)]
SHIFTED = [(3600.0 * (n >= 30) + at, *tokens) for n, (at, *tokens) in enumerate(SOUND)]
OF_ONE_SIZE = [(at, 512, 128) for at, _, _ in SOUND]


def notes_of(tmp_path: Path, rows: Sequence[Sequence[float]]) -> tuple[str, ...]:
    """Return what is told of a trace of *rows*."""
    path = tmp_path / "trace.csv"
    text = "".join(f"{at},{prompt},{output}\n" for at, prompt, output in rows)
    path.write_text(f"arrival_s,input_tokens,output_tokens\n{text}", encoding="utf-8")
    return read_trace(path).notes


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (SHIFTED, "no request comes for 3,601 s of its 3,681, from 40 s on"),
        ([*SHIFTED[30:], *SOUND[:30]], "its times go back once, by up to 3,681 s"),
        ([*SOUND, *SOUND], "its times go back once, by up to 81 s"),
        ([row for row in SOUND for _ in (1, 2)], "60 of its 120 rows are like the one before"),
        ([*SOUND, (90.0, 0, 5)], "1 of its 61 rows have a prompt of no tokens"),
    ],
)
def test_what_may_be_wrong_with_a_trace_is_told(tmp_path: Path, rows: list[Row], told: str) -> None:
    """Two recordings in one file were twice the load, and a missing day was a day without any."""
    assert any(told in note for note in notes_of(tmp_path, rows))


@pytest.mark.parametrize(
    "rows",
    [
        SOUND,
        SOUND[::-1],  # of another order altogether
        [*SOUND[1:15], SOUND[0], *SOUND[15:]],  # written down 20 s later, as it was answered
        [row for row in OF_ONE_SIZE for _ in (1, 2)],  # alike by what they are
        [(at + 200.0 * (at > 40.0), *tokens) for at, *tokens in SOUND[:10]],  # few
    ],
)
def test_nothing_is_told_of_a_trace_as_traces_are(
    tmp_path: Path, rows: Sequence[Sequence[float]]
) -> None:
    """Who is warned of everything reads no warning."""
    assert notes_of(tmp_path, rows) == ()
