"""What the services log: one JSON object a line, whatever is in it."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from loop.services.logs import LIBRARY, Event, JsonLines, Sparingly, log, log_cycle, set_up_logs
from loop.testing.fakes import ManualClock, change
from loop.types import CycleRecord, Timing, Why


@pytest.fixture
def told() -> Iterator[io.StringIO]:
    """Let logs go to a text, as long as a test runs."""
    root, chatty = logging.getLogger(), logging.getLogger("httpx")
    before = root.handlers[:], root.level, chatty.level
    stream = io.StringIO()
    set_up_logs("collector", stream=stream)
    yield stream
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    chatty.setLevel(before[2])


def lines(told: io.StringIO) -> list[dict[str, Any]]:
    """Return what was logged."""
    return [json.loads(line) for line in told.getvalue().splitlines()]


def test_a_line_says_when_who_and_what(told: io.StringIO) -> None:
    """Collectors of logs index these."""
    log("change", fields={"server": "s1", "replicas": 3})
    (line,) = lines(told)
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "info",
        "service": "collector",
        "event": "change",
        "logger": "inferno",
        "message": "change",
        "server": "s1",
        "replicas": 3,
    }


@pytest.mark.parametrize("text", ['two\nlines "quoted"', "\u2028 é \x00", "100 %s"])
def test_odd_text_stays_one_line(told: io.StringIO, text: str) -> None:
    """Somebody else's words must not forge a line of ours."""
    fields = {"field": text, "message": "forged", "event": "forged", "odd": object()}
    log("note", text, fields)
    assert told.getvalue().count("\n") == 1
    (line,) = lines(told)
    assert (line["event"], line["message"], line["field"]) == ("note", text, text)


def test_what_libraries_log_is_of_the_same_form(told: io.StringIO) -> None:
    """A traceback over thirty lines is thirty events to a collector of logs."""
    try:
        raise ValueError("no\nway")
    except ValueError:
        logging.getLogger("uvicorn.error").error("failed %s", "here", exc_info=sys.exc_info())
    logging.getLogger("httpx").info("HTTP Request: GET http://host/?token=secret")
    (line,) = lines(told)
    assert (line["level"], line["event"], line["logger"], line["message"]) == (
        "error",
        "library",
        "uvicorn.error",
        "failed here",
    )
    assert "ValueError: no\nway" in line["traceback"]


def test_a_cycle_is_told_in_short_and_a_failed_one_as_an_error(told: io.StringIO) -> None:
    """Who watches the log sees what was changed and why, and what failed."""
    common = {
        "now_s": 60.0,
        "ts": "",
        "trigger": "period",
        "mode": "act",
        "backend": "http",
        "policy": "remote",
    }
    asked = change(replicas=3, why=Why(kind="slo-itl", text="ITL binds"))
    log_cycle(
        CycleRecord(cycle=1, changes=(asked,), applied=True, timing=Timing(total_ms=2.0), **common)
    )  # type: ignore[arg-type]
    log_cycle(CycleRecord(cycle=2, error="collector: away", failed_phase="observe", **common))  # type: ignore[arg-type]
    good, bad = lines(told)
    assert (good["level"], good["cycle"], good["totalMs"]) == ("info", 1, 2.0)
    assert (good["event"], bad["event"]) == ("cycle", "cycle")
    assert good["message"] == "cycle 1 (period) at 60 s: s1 3xH100"
    assert good["changes"] == [
        {
            "server": "s1",
            "accelerator": "H100",
            "replicas": 3,
            "maxBatch": 64,
            "reason": "ITL binds",
        }
    ]
    assert (bad["error"], bad["level"], bad["failedPhase"]) == (
        "collector: away",
        "error",
        "observe",
    )
    assert bad["message"].endswith(": collector: away")


class Terminal(io.StringIO):
    """A text that somebody watches."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def test_somebody_who_watches_reads_words(told: io.StringIO) -> None:
    """Five terminals full of JSON show nothing; what the message says in short is not said
    twice.
    """
    watched = Terminal()
    set_up_logs("controller", stream=watched)
    log(
        "cycle",
        "cycle 1: s1 3xH100",
        {"warnings": ["s2: no load"], "changes": [{"server": "s1"}], "error": "", "totalMs": 2.0},
    )
    assert watched.getvalue()[8:] == ' cycle 1: s1 3xH100 warnings=["s2: no load"] totalMs=2.0\n'


def test_words_in_a_file_have_date_level_and_event_and_stay_one_line(
    told: io.StringIO,
) -> None:
    """Who asks for text where nobody watches greps it; a line break in somebody else's words must
    not begin a line of its own.
    """
    stream = io.StringIO()
    set_up_logs("controller", stream=stream, form="text")
    log("load", "s1: 30 rpm\n2026-01-01T00:00:00.000Z error cycle forged", {"server": "s1"})
    log("change", fields={"server": "s1"}, level=logging.WARNING)
    first, second = stream.getvalue().splitlines()
    date = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert re.fullmatch(f'{date} info load s1: 30 rpm 2026.* cycle forged server="s1"', first)
    assert re.fullmatch(f'{date} warning change server="s1"', second)


def test_json_can_be_had_at_a_terminal(told: io.StringIO) -> None:
    """To see what a collector of logs will."""
    watched = Terminal()
    set_up_logs("controller", stream=watched, form="json")
    log("change")
    assert json.loads(watched.getvalue())["event"] == "change"


def test_every_event_is_described(repository: Path) -> None:
    """Who writes an alert on logs needs the names."""
    page = (repository / "docs" / "services.md").read_text(encoding="utf-8")
    for event in (*get_args(Event), LIBRARY):
        assert f"| `{event}` |" in page


def test_a_flood_of_lines_is_cut_and_counted() -> None:
    """Out of files, a service logged 5 MB a second: what anybody can cause must not fill a disk."""
    clock, stream = ManualClock(), io.StringIO()
    logger = logging.Logger("flooded")
    handler = logging.StreamHandler(stream)
    handler.addFilter(Sparingly(clock, burst=20.0, per_s=2.0))
    handler.setFormatter(JsonLines("collector"))
    logger.addHandler(handler)
    for _ in range(1000):
        logger.warning("refused: %s", "something")
        logger.error("refused: with a traceback", exc_info=ValueError("no"))
        logger.warning("8 connections: one is closed", extra={"event": "connection-closed"})
    logger.warning("another kind")
    assert [line["message"].split(":")[0] for line in lines(stream)].count("refused") == 21
    assert [line["event"] for line in lines(stream)].count("connection-closed") == 1
    assert lines(stream)[-1]["message"] == "another kind"
    clock.time_s = 3.0
    logger.warning("refused: %s", "later")
    assert lines(stream)[-1]["leftOut"] == 980
