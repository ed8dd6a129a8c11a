"""Loads as labels: what is written is read back, and what was never told of is not made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.load_labels import (
    LOAD,
    LabelledLoad,
    labels_of,
    rate_text,
    read_load,
    restored_labels,
    says,
    tokens_text,
)
from emulator.walk import OfferedLoad

FIGURES = st.floats(min_value=0.0, max_value=1e6)
POINT = OfferedLoad(rate_rpm=30.0, in_tokens=128.0, out_tokens=512.0)


@given(rate=FIGURES, in_tokens=st.floats(min_value=1.0, max_value=1e5), out_tokens=FIGURES)
def test_what_is_written_is_read_back_as_far_as_it_is_not_rounded(
    rate: float, in_tokens: float, out_tokens: float
) -> None:
    """Two decimals of a rate, whole tokens; the original stays what it was."""
    point = OfferedLoad(rate_rpm=rate, in_tokens=in_tokens, out_tokens=out_tokens)
    written = labels_of(LabelledLoad(current=POINT, nominal=POINT, kept=False, older=False), point)
    again = read_load({key: value for key, value in written.items() if value is not None})
    assert again is not None
    assert again.current.rate_rpm == pytest.approx(rate, abs=0.00501)
    assert again.current.out_tokens == pytest.approx(out_tokens, abs=0.501)
    assert (again.nominal, again.kept) == (POINT, True)


@pytest.mark.parametrize(
    ("rate", "text"), [(30.0, "30"), (0.0, "0"), (12.5, "12.5"), (0.004, "0"), (1e5, "100000")]
)
def test_a_rate_is_written_as_people_would(rate: float, text: str) -> None:
    """And never as 1e+05, which is no label."""
    assert rate_text(rate) == text
    assert tokens_text(511.6) == "512"


@pytest.mark.parametrize("text", ["many", "-1", "nan", ""])
def test_a_load_that_makes_no_sense_is_none(text: str) -> None:
    """The emulator must not make one up where the loop holds the server."""
    assert read_load({f"{LOAD}.rpm": text}) is None
    assert read_load({}) is None


def test_restoring_deletes_what_was_kept() -> None:
    """None is how a patch deletes."""
    back = restored_labels(LabelledLoad(current=POINT, nominal=POINT, kept=True, older=False))
    assert {key: value for key, value in back.items() if ".nominal." in key} == dict.fromkeys(
        f"{LOAD}.nominal.{part}" for part in ("rpm", "intokens", "outtokens")
    )
    assert back[f"{LOAD}.rpm"] == "30"


def test_a_load_set_by_somebody_else_is_noticed() -> None:
    """The walk then goes on from there."""
    written = {f"{LOAD}.rpm": "30", f"{LOAD}.nominal.rpm": None}
    assert says({f"{LOAD}.rpm": "30", "team": "a"}, written)
    assert not says({f"{LOAD}.rpm": "60"}, written)
