"""Claims about printed tables: no figure is cut, however narrow the terminal is."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from experiments.tables import plain_table, print_table


@pytest.mark.parametrize("width", [40, 80, 400])
def test_a_table_is_printed_whole_in_any_width(width: int) -> None:
    """A comparison with jumps has twelve columns with intervals: 120 columns were too few, and
    "12.93 [12.06, 13.…" tells nothing.
    """
    cells = ["static_peak", *(f"{12.93 + place:.2f} [12.06, 13.81]" for place in range(11))]
    headings = ["policy", *(f"metric {place}" for place in range(11))]
    out = StringIO()
    print_table(Console(file=out, width=width), plain_table("load", headings, [cells]))
    for text in (*cells, *headings):
        assert text in out.getvalue()
    assert "…" not in out.getvalue()
