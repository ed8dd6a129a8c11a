"""Claims about dates: they say the same wherever they are read."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from experiments.dates import date_of
from experiments.replay import continued, from_go
from inferno.web.from_records import timeline_of_records
from tests.web.test_report import line, row


@pytest.fixture(autouse=True)
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Read dates where clocks went back an hour at 2026-11-01T06:00Z."""
    with monkeypatch.context() as where:
        where.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    "text", ["2026-11-01T06:30", "2026-11-01T06:30Z", "2026-11-01T01:30-05:00"]
)
def test_a_date_without_a_zone_is_utc(text: str) -> None:
    """An hour comes twice in the zone of the machine: which one it is nobody could say."""
    assert date_of(text).timestamp() == 1793514600.0


def test_records_of_a_zone_keep_their_distances_when_its_clocks_change() -> None:
    """From 01:59 to 01:01 two minutes pass, from 00:30 to 02:30 without a zone two hours."""
    told = [
        {"ts": "2026-11-01T01:59:00-04:00", "cycle": 1, "servers": []},
        {"ts": "2026-11-01T01:01:00-05:00", "cycle": 2, "servers": []},
    ]
    assert [found["t_s"] for found in from_go(told, source="go")] == [0.0, 120.0]
    again = [
        {"t_s": 600.0, "ts": "2026-11-01T00:30:00"},
        {"t_s": 0.0, "ts": "2026-11-01T02:30:00"},
    ]
    assert [found["t_s"] for found in continued(again)] == [600.0, 7800.0]


def test_a_page_counts_from_a_date_with_its_zone() -> None:
    """A browser takes one without for its own."""
    lines = [line(60.0 * k, row(), ts=f"2026-11-01T05:0{k}:00", backend="kube") for k in range(3)]
    assert timeline_of_records(lines, title="x").started == "2026-11-01T05:00:00.000+00:00"
