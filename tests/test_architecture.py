"""The walks of docs/architecture.md lead through the code as it is."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from experiments import RunConfig, run
from experiments.config import SAMPLE_DATA
from loop.controller import Controller
from loop.data import FixedData
from loop.policies import make_policy
from loop.testing.fakes import ManualClock
from tests.loop.sim_worlds import sim_world

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("inferno", "twin", "loop", "emulator", "experiments")
ONE_CYCLE = RunConfig(
    data=SAMPLE_DATA / "small", scenario="ramp", period_s=60.0, hours=90 / 3600, engine="plain"
)
READ_MAX = 25  # files that a reader is asked to read to know a cycle


def walk(title: str) -> str:
    """Return one section of the page."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    return page.partition(f"## {title}\n")[2].partition("\n## ")[0]


def named(text: str) -> list[str]:
    """Return the files that *text* names, by as much of their paths as it says."""
    return re.findall(r"`([\w/]+\.py)`", text)


def is_one_of(file: str, names: list[str]) -> bool:
    """Return whether one of *names* says *file*."""
    return any(f"/{file}".endswith(f"/{name}") for name in names)


def files_of(act: Callable[[], object], *, rooms: tuple[str, ...]) -> set[str]:
    """Return the files of *rooms* that run when one acts."""
    files: set[str] = set()

    def seen(frame: FrameType, _event: str, _argument: object) -> None:
        files.add(frame.f_code.co_filename)

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        act()
    finally:
        sys.setprofile(before)
    paths = (Path(file) for file in files)
    found = (path.relative_to(ROOT).as_posix() for path in paths if path.is_relative_to(ROOT))
    return {file for file in found if file.startswith(rooms) and "/testing/" not in file}


@pytest.mark.costly
def test_the_walk_names_every_file_that_a_cycle_runs_through() -> None:
    """Who follows it meets no room that nobody spoke of."""
    parts, files = sim_world(), set[str]()
    controller = Controller(
        backend=parts.backend,
        policy=make_policy("slo"),
        data=FixedData(parts.data),
        clock=ManualClock(),
        settings=None,
    )
    for cycle in range(1, 13):
        parts.env.run(until=cycle * 30.0)
        files |= files_of(lambda: controller.cycle(parts.env.now), rooms=("loop/",))
    names = named(walk("One cycle, followed").partition("With `inferno controller")[0])
    assert len(files) > 30
    assert [file for file in sorted(files) if not is_one_of(file, names)] == []


def test_the_walk_names_every_file_that_a_request_runs_through() -> None:
    """From the draw of its arrival to what a scrape tells of it."""
    parts = sim_world()

    def act() -> None:
        parts.env.run(until=90.0)
        # Samples are taken when somebody looks.
        parts.cluster.advance()

    files = files_of(act, rooms=("emulator/", "twin/"))
    names = named(walk("One request, followed"))
    assert len(files) > 10
    assert [file for file in sorted(files) if not is_one_of(file, names)] == []


STOP = re.compile(r"`([\w/]+\.py)`\s+\(`(\w+)`\)")


@pytest.mark.parametrize(
    ("title", "least"), [("One cycle, followed", 20), ("One request, followed", 10)]
)
def test_a_walk_goes_where_the_code_goes(title: str, least: int) -> None:
    """A run of one cycle passes all its stops, function by function, in the order that is told."""
    stops = STOP.findall(walk(title).partition("With `inferno controller")[0])
    names = {name for _, name in stops}
    passed: list[tuple[str, str]] = []

    def seen(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_name in names:
            passed.append((frame.f_code.co_filename, frame.f_code.co_name))

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        run(ONE_CYCLE)
    finally:
        sys.setprofile(before)
    assert len(stops) > least
    at = iter(passed)
    assert [
        stop
        for stop in stops
        if not any(name == stop[1] and file.endswith(f"/{stop[0]}") for file, name in at)
    ] == []


def test_a_cycle_is_told_by_some_twenty_files() -> None:
    """What is beside them is looked up."""
    steps = walk("One cycle, followed").partition("With `inferno controller")[0]
    read = re.sub(r"\*Below:\*.*?(?=\n\d+\. |\Z)", "", steps, flags=re.DOTALL)
    assert 15 < len(set(named(read))) <= READ_MAX


@pytest.mark.parametrize("title", ["One cycle, followed", "One request, followed"])
def test_every_file_of_a_walk_is_there(title: str) -> None:
    """A walk through rooms that were moved leads nowhere."""
    there = {
        path.relative_to(ROOT).as_posix()
        for room in PRODUCT
        for path in (ROOT / room).rglob("*.py")
    }
    names = named(walk(title))
    assert len(names) > 15
    assert [name for name in names if not any(is_one_of(file, [name]) for file in there)] == []


def test_every_place_that_a_page_names_is_there() -> None:
    """Rooms that were moved have another door."""
    pages = sorted((ROOT / "docs").rglob("*.md"))
    places = {
        (page.name, place)
        for page in pages
        for place in re.findall(rf"`((?:{'|'.join(PRODUCT)})/[\w/.]*)`", page.read_text("utf-8"))
    }
    assert len(places) > 40
    assert [one for one in sorted(places) if not (ROOT / one[1]).exists()] == []
