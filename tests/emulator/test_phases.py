"""Claims about emulator.shapes: chained ramps of the nominal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.shapes import Phase, duration_s, phases_curve


def test_a_ratio_is_relative_to_the_start_of_its_phase():
    """Hold, triple, hold, a third: the chain ends where it began, and stays."""
    curve = phases_curve(
        [
            Phase(duration_s=300.0),
            Phase(duration_s=600.0, ratio=3.0),
            Phase(duration_s=300.0, ratio=1.0),
            Phase(duration_s=600.0, ratio=1.0 / 3.0),
            Phase(duration_s=None),
        ]
    )
    seen = [curve.at(t) for t in (0.0, 300.0, 600.0, 900.0, 1100.0, 1200.0, 1500.0, 1800.0, 1e6)]
    assert seen == pytest.approx([1, 1, 2, 3, 3, 3, 2, 1, 1])


@given(
    phases=st.lists(st.tuples(st.floats(1.0, 1000.0), st.floats(0.1, 3.0)), min_size=1, max_size=6)
)
def test_the_end_is_the_product_of_the_ratios(phases: list[tuple[float, float]]):
    """Chained means multiplied; after the last phase the load stays."""
    curve = phases_curve([Phase(duration_s=duration, ratio=ratio) for duration, ratio in phases])
    product = 1.0
    for _, ratio in phases:
        product *= ratio
    assert curve.at(1e5) == pytest.approx(product)


def test_an_endless_last_phase_holds_whatever_its_ratio():
    """There is no end at which its ratio could be reached."""
    assert (
        phases_curve([Phase(duration_s=10.0, ratio=2.0), Phase(duration_s=None, ratio=9.0)]).at(1e6)
        == 2.0
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("90s", 90.0),
        ("1.5h", 5400.0),
        ("250ms", 0.25),
        ("0s", 0.0),
    ],
)
def test_durations_are_written_as_for_the_existing_emulator(text: str, seconds: float):
    """Its phase files are read unchanged."""
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "m5", "-5m", "5 m", "5d", "5m!"])
def test_what_is_no_duration_is_none(text: str):
    """The reader of the file names its place; a bare number is ambiguous and refused."""
    assert duration_s(text) is None
