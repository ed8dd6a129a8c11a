"""Reports: what is in a page, how large it is, and that a browser shows it without a complaint."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import ref

import pandas as pd
import pytest

from experiments import RunConfig, SweepConfig, run, sweep, write_run
from experiments.compare import CompareConfig, compare, contenders
from experiments.executor import LocalProcesses
from experiments.replay import from_go
from experiments.stability import stability
from experiments.sweep_figures import ATTAINMENT, cell_estimates, draw_heat_maps
from inferno.cli.main import main
from inferno.web.charts import (
    Bars,
    CostChart,
    Curve,
    Differences,
    HeatMap,
    Lines,
    Note,
    Part,
    Section,
    Table,
)
from inferno.web.from_records import timeline_of_records
from inferno.web.page import page
from inferno.web.report import Report, report_of, report_page, write_report
from inferno.web.thinning import POINTS_MAX, thinned
from inferno.web.timeline import Fleet, Timeline, as_json, plain
from tests.web.browser import opened, until
from twin.spec import SpecError

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.costly

HERE = Path(__file__).parent
SMALL = Path(__file__).resolve().parents[2] / "sample-data" / "small"
MIB = 2**20

Line = dict[str, Any]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the directories of two runs of the same load."""
    out = tmp_path_factory.mktemp("runs")
    for policy in ("slo", "hpa"):
        config = RunConfig(data=SMALL, scenario="step", policy=policy, hours=0.1, period_s=30.0)
        write_run(run(config), out / policy)
    return [out / "slo", out / "hpa"]


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a sweep."""
    out = tmp_path_factory.mktemp("grid")
    base = RunConfig(data=SMALL, scenario="steady", hours=0.03)
    sweep(
        SweepConfig(base=base, policies=("slo", "hpa"), periods_s=(30.0, 60.0), seeds=2),
        out,
        executor=LocalProcesses(jobs=1),
    )
    return out


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a comparison."""
    out = tmp_path_factory.mktemp("compared")
    base = RunConfig(data=SMALL, scenario="steady", hours=0.03)
    names = ("slo", "hpa", "static_peak", "clairvoyant")
    loads = SweepConfig(base=base, seeds=2)
    compare(
        CompareConfig(contenders=contenders(names), loads=loads),
        out,
        executor=LocalProcesses(jobs=1),
    )
    return out


@pytest.fixture(scope="module")
def slowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of runs with quick and slow pods."""
    out = tmp_path_factory.mktemp("slowed")
    base = RunConfig(data=SMALL, scenario="steady", hours=0.03, policy="static")
    stability(SweepConfig(base=base), (0.5, 2.0), out, executor=LocalProcesses(jobs=1))
    return out


def row(name: str = "a", **given: Any) -> Line:
    """Return a server of a cycle, as loop.records writes it."""
    return {
        "name": name,
        "class": "Premium",
        "model": "m",
        "rpm": 60.0,
        "itl": 20.0,
        "ttft": 100.0,
        "percentiles": {"ttft": {"p50": 80.0, "p95": 200.0}, "itl": {"p50": 18.0, "p95": 30.0}},
        "currentAccelerator": "A100",
        "wanted": 1,
        "ready": 1,
        "starting": 0,
        "backlog": 2,
        "kvUsage": 0.25,
        "hold": None,
        "sloItl": 25.0,
        "sloTtft": 150.0,
        "accelerator": "A100",
        "replicas": 1,
        "cost": 250.0,
        "held": False,
        "reason": "1 × A100",
        "reasonKind": "slo-itl",
        "unserved": None,
        **given,
    }


def line(t_s: float, *rows: Line, **given: Any) -> Line:
    """Return a cycle, as loop.records writes it."""
    return {
        "ts": f"2026-01-01T00:{int(t_s) // 60:02}:{int(t_s) % 60:02}.000Z",
        "t_s": t_s,
        "cycle": int(t_s // 60),
        "backend": "kube",
        "applied": True,
        "error": "",
        "warnings": [],
        "servers": list(rows),
        "capacity": [{"type": "A100", "available": 8, "allocated": 2, "used": 1, "seen": True}],
        "totalCost": 250.0,
        **given,
    }


# A server that moves to another accelerator, a cycle that fails, GPUs that go, a second server.
RECORDS = [
    line(60.0, row(ttft=200.0, replicas=2)),
    line(120.0, row(ttft=160.0, wanted=2, starting=1, accelerator="H100", replicas=1)),
    line(180.0, error="prometheus: timeout", warnings=["load is 90 s old"], totalCost=None),
    line(
        240.0,
        row(currentAccelerator="H100", accelerator="H100", ttft=None, itl=None, percentiles=None),
        row("b", sloTtft=None, sloItl=None, unserved="no GPUs", held=True, reason=""),
        warnings=["load is 90 s old"],
        capacity=[
            {"type": "A100", "available": 6, "allocated": 0, "used": None, "seen": False},
            {"type": "H100", "available": 4, "allocated": 1, "used": 1, "seen": True},
        ],
    ),
]


def test_records_give_the_timeline_that_was_reviewed() -> None:
    """The page, the live page and whoever reads the data rest on this form. Written anew with
    UPDATE_SNAPSHOTS=1.
    """
    file = HERE / "golden" / "timeline.json"
    now = json.dumps(plain(timeline_of_records(RECORDS, title="golden")), indent=1) + "\n"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        file.write_text(now, encoding="utf-8")
    assert file.read_text(encoding="utf-8") == now


def test_a_page_shows_the_dollars_of_the_tables() -> None:
    """Five digits of 194,858.514 are shown as 194,858.50, and 1,234.567 as 1,234.60."""
    costs = [194_858.514, 1234.567, 0.001234567]
    fleet = Fleet(t_s=[0.0, 1.0, 2.0], cost_usd_per_h=costs, backlog=costs)
    kept = json.loads(as_json(Timeline(title="t", origin="run", fleet=fleet)))["fleet"]
    assert kept["cost_usd_per_h"] == [194_858.51, 1234.57, 0.0012346]
    assert kept["backlog"] == [194_858.5, 1234.6, 0.0012346]


def test_records_of_the_go_loop_give_a_timeline(tmp_path: Path) -> None:
    """They have fewer fields: no pods, no backlog, no reasons."""
    given = ("name", "class", "model", "rpm", "itl", "ttft", "sloItl", "sloTtft", "accelerator")
    known = {name: row()[name] for name in given} | {"maxBatch": 8, "cost": 250.0}
    lines = [
        {
            "ts": f"2026-01-01T00:0{minute}:00Z",
            "cycle": minute,
            "servers": [{**known, "ttft": 160.0, "replicas": minute + 1}],
            "capacity": [{"type": "A100", "allocated": minute + 1, "available": 8}],
            "totalCost": 250.0,
        }
        for minute in range(3)
    ]
    (tmp_path / "go.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    (timeline,) = report_of([tmp_path / "go.jsonl"]).timelines
    assert timeline == thinned(timeline_of_records(from_go(lines, source=""), title="go.jsonl"))
    (server,) = timeline.servers
    assert server.replicas.by_accelerator[0].wanted == [1, 2, 3]
    assert server.attainment == 0.0
    assert timeline.started == "2026-01-01T00:00:00.000+00:00"


def test_gpus_that_nobody_counts_are_those_of_the_plan() -> None:
    """An adviser over a cluster plans GPUs that no pod has: they are not "in use"."""
    asked = [{"type": "A100", "available": 8, "allocated": 2, "used": None, "seen": False}]
    planned = timeline_of_records([line(60.0, row(), capacity=asked)], title="t").fleet
    assert (planned.gpus_are, planned.gpus[0].used) == ("wanted", [2])
    assert timeline_of_records(RECORDS, title="t").fleet.gpus_are == "used"


def test_a_short_recording_says_for_how_many_minutes(tmp_path: Path) -> None:
    """0.0 h was what a look of five minutes gave."""
    for last_s, told in ((300.0, "5 min"), (9000.0, "2.5 h")):
        lines = [line(0.0, row()), line(last_s, row())]
        (tmp_path / "cycles.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in lines))
        (section,) = report_of([tmp_path / "cycles.jsonl"]).sections
        assert section.about == f"records of a loop: 1 server, {told}"


def test_parts_appended_in_the_browser_are_the_whole(browser: Browser, tmp_path: Path) -> None:
    """The live page sends what is new; what it shows must not depend on when it was opened."""
    whole = timeline_of_records(RECORDS, title="t")
    parts = [timeline_of_records(RECORDS[:1], title="t")]
    parts += [
        timeline_of_records([now], title="t", before=before) for before, now in pairwise(RECORDS)
    ]
    text = page(title="t", body="", data=[whole, parts], script="")
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    with opened(browser, (tmp_path / "page.html").as_uri()) as (shown, problems):
        merged, kept = shown.evaluate(
            """inferno.parts.unpacked("data").then(([, parts]) => [
                parts.reduce((all, part) => inferno.mergeTimeline(all, part)),
                inferno.mergeTimeline(parts[0], parts[1], 30),
            ])"""
        )
        assert problems == []
    expected = json.loads(json.dumps(plain(whole)))
    # Means over the whole time are those of the last part: a page that appends says "now".
    for one in (merged, expected):
        one.pop("attainment"), one.pop("cost_usd_per_h")
        for server in one["servers"]:
            server.pop("attainment"), server.pop("cost_usd_per_h")
    assert merged == expected
    assert kept["servers"][0]["traffic"]["t_s"] == [120]
    assert kept["servers"][0]["traffic"]["ttft_ms"]["p95"] == [200]
    assert kept["fleet"]["gpus"][0]["used"] == [1]


def test_an_overload_that_leaves_its_panel_is_written_there(
    browser: Browser, tmp_path: Path
) -> None:
    """The axis stays near the target, so a TTFT of an hour left an empty panel."""
    late = {"ttft": {"p50": 80.0, "p95": 3_057_135.0}, "itl": {"p50": 18.0, "p95": 30.0}}
    (tmp_path / "cycles.jsonl").write_text(
        "".join(
            json.dumps(line(60.0 * at, row(percentiles=late), row("b"))) + "\n" for at in (1, 2, 3)
        )
    )
    write_report([tmp_path], tmp_path / "page.html")
    with opened(browser, (tmp_path / "page.html").as_uri()) as (shown, problems):
        shown.wait_for_selector("text=↑ up to")
        notes = shown.locator("text=↑ up to").all_text_contents()
        assert problems == []
    assert notes == ["↑ up to 3,057,135 ms"]


def test_a_thousand_servers_can_be_looked_through(browser: Browser, tmp_path: Path) -> None:
    """A page that draws them all stops the browser; one that lists them all is no list."""
    names = [f"team-{number % 37:02d}/server-{number:04d}" for number in range(1000)]
    lines = [
        line(
            t_s,
            *(
                row(name, ttft=100.0 + place, rpm=60.0 + t_s * place % 7)
                for place, name in enumerate(names)
            ),
        )
        for t_s in (60.0, 120.0, 180.0)
    ]
    (tmp_path / "cycles.jsonl").write_text("\n".join(json.dumps(one) for one in lines))
    write_report([tmp_path], tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 3 * MIB
    with opened(browser, (tmp_path / "page.html").as_uri()) as (page, problems):
        page.wait_for_selector(".fleet .main-svg")
        assert page.inner_text(".tools span") == "24 of 1,000 shown"
        assert page.locator(".server").count() == 24
        for _ in range(4):
            page.focus("button.more")
            page.keyboard.press("Enter")
        # Whoever asks for more by the keyboard goes on at the first that is new.
        assert page.evaluate("document.activeElement.tagName") == "H3"
        assert page.locator(".server").count() == 120
        for number in (*range(0, 120, 4), 0):
            page.evaluate(f"document.querySelectorAll('.server')[{number}].scrollIntoView()")
            page.wait_for_selector(f".server >> nth={number} >> .main-svg")
        # What was seen long ago is forgotten, and was drawn again when it was looked at again.
        assert page.locator(".svg-container").count() <= 60
        page.fill("input[type=search]", "server-0999")
        assert page.locator(".server h3").all_inner_texts() == ["team-00/server-0999"]
        page.fill("input[type=search]", "nothing like it")
        assert "Empty the box" in page.inner_text("#timelines")
        assert page.evaluate("performance.memory.usedJSHeapSize") < 150 * MIB
        assert problems == []


def test_names_stand_in_figures_as_they_are(browser: Browser, tmp_path: Path) -> None:
    """The library took a name with < for HTML, and one of 120 letters left no room for bars. A page
    of 360 points scrolls to nowhere at its side.
    """
    names = ["<b>big</b> & 'co'", "$(HOME) {{x}} %{y}", "a" * 57 + "b", "a" * 58]
    curves = [Curve(name=name, x=[1.0, 2.0], y=[0.0, 100.0]) for name in names]
    items = [
        Table(
            title="names",
            headings=["server", *"abcdefg"],
            rows=[[name, *"1234567"] for name in names],
        ),
        Lines(title="lines", x_title="x", y_title="y", curves=curves),
        Bars(
            title="bars",
            unit="points",
            names=names,
            parts=[Part(name="cause", meaning="why", values=[1.0, 2.0, 3.0, 4.0])],
        ),
    ]
    section = Section(title="odd", about="names", items=items)
    report = Report(title="odd", made_with="a test", timelines=[], sections=[section])
    (tmp_path / "page.html").write_text(report_page(report))
    with opened(browser, (tmp_path / "page.html").as_uri(), width=360) as (shown, problems):
        shown.wait_for_selector(".main-svg .bars")
        legend = shown.locator(".legendtext").all_text_contents()
        assert {"<b>big</b> & 'co'", "$(HOME) {{x}} %{y}"} <= set(legend)
        ticks = shown.locator(".ytick text").all_text_contents()
        assert "<b>big</b> & 'co'" in ticks
        assert sum("…" in text for text in ticks) == 2, "each of the two long names has its bar"
        bars = shown.evaluate("document.querySelector('.bars').getBoundingClientRect().width")
        assert bars > 90.0
        assert shown.evaluate("document.documentElement.scrollWidth") == 360
        assert problems == []


def test_axes_are_labelled_where_figures_are_near_each_other(
    browser: Browser, tmp_path: Path
) -> None:
    """Of a distribution within a decade one label was left, and shares of 90 to 99 % were a line at
    the top.
    """
    near = [Curve(name="a", x=[21.0, 30.0, 58.0], y=[0.0, 50.0, 100.0])]
    high = [Curve(name="b", x=[1.0, 2.0], y=[90.0, 99.0])]
    items = [
        Lines(title="near", x_title="TTFT", y_title="share", curves=near, x_log=True),
        Lines(title="high", x_title="x", y_title="share", curves=high, from_zero=False),
    ]
    section = Section(title="axes", about="near", items=items)
    report = Report(title="axes", made_with="a test", timelines=[], sections=[section])
    (tmp_path / "page.html").write_text(report_page(report))
    with opened(browser, (tmp_path / "page.html").as_uri(), width=360) as (shown, problems):
        until(shown, "document.querySelectorAll('.main-svg .ytick').length > 4")
        plots = shown.locator(".js-plotly-plot")
        assert plots.first.locator(".xtick text").all_text_contents() == ["30", "40", "50"]
        shares = plots.last.locator(".ytick text").all_text_contents()
        assert min(float(share) for share in shares) >= 85.0
        assert problems == []


def test_a_run_is_shown_as_it_was_scored(runs: Sequence[Path]) -> None:
    """A page that disagrees with summary.json is worse than none."""
    summary = json.loads((runs[0] / "summary.json").read_text())
    report = report_of(runs)
    timeline = report.timelines[0]
    assert timeline.attainment == summary["attainment"]
    assert timeline.cost_usd_per_h == summary["cost_usd_per_h"]
    for server in timeline.servers:
        scores = summary["servers"][server.name]
        assert server.attainment == scores["attainment"]
        assert server.slo_ttft_ms == scores["slo_ttft_ms"]
        # Rates by the minute come to the requests that arrived: warm-up and the rest.
        arrived = sum(rate for rate in server.traffic.rate_rpm if rate is not None)
        assert arrived >= scores["requests"] > 0
        assert all(one.text for one in server.decisions)
    assert [section.title for section in report.sections] == ["Side by side", "slo", "hpa"]


def test_a_report_needs_nothing_and_shows_everything(
    browser: Browser,
    runs: Sequence[Path],
    grid: Path,
    compared: Path,
    slowed: Path,
    tmp_path: Path,
) -> None:
    """A page that is mailed to somebody is opened without a network, in whatever window they
    have.
    """
    out = tmp_path / "report.html"
    write_report([*runs, grid, compared, slowed, runs[0] / "cycles.jsonl"], out)
    text = out.read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|img|iframe|link)[^>]+(?:src|href)=[\"'](?!data:)", text)
    assert "default-src 'none'" in text
    with opened(browser, out.as_uri()) as (shown, problems):
        shown.wait_for_selector(".main-svg")
        drawn = shown.evaluate(
            "() => { window.dispatchEvent(new Event('beforeprint'));"
            " return [...document.querySelectorAll('.figure')]"
            ".map((one) => one.querySelectorAll('.main-svg').length > 0); }"
        )
        assert len(drawn) > 40
        assert all(drawn)
        widths = "[...document.querySelectorAll('.main-svg')].map((one) => one.clientWidth)"
        assert max(shown.evaluate(widths)) <= 680, "as wide as a sheet of paper"
        shown.evaluate("window.dispatchEvent(new Event('afterprint'))")
        assert shown.evaluate("document.documentElement.scrollWidth") <= 1400
        # On the screen again, a figure of the whole width has that as soon as one looks at it.
        wide = "[...document.querySelectorAll('.figure')].find((one) => one.clientWidth > 680)"
        shown.evaluate(f"{wide}.scrollIntoView()")
        until(shown, f"{wide}.querySelector('.main-svg').clientWidth > 680")
        assert shown.evaluate("performance.getEntriesByType('resource').length") == 0
        # Nor does it offer to send anything anywhere.
        titles = "[...document.querySelectorAll('.modebar-btn')].map((one) => one.dataset.title)"
        offered = shown.evaluate(titles)
        assert "Zoom" in offered
        assert not [one for one in offered if re.search("share|cloud|edit", one or "", re.I)]
        assert problems == []
    with opened(browser, out.as_uri(), width=390) as (shown, problems):
        shown.wait_for_selector(".main-svg")
        assert shown.evaluate("document.documentElement.scrollWidth") <= 390
        assert problems == []


def test_the_reasons_can_be_read_with_a_mouse_and_without(
    browser: Browser, runs: Sequence[Path], tmp_path: Path
) -> None:
    """Why is the question that a timeline raises; hovering alone leaves some people out."""
    out = tmp_path / "report.html"
    write_report(runs[:1], out)
    with opened(browser, out.as_uri()) as (shown, problems):
        shown.wait_for_selector(".server .main-svg")
        told = shown.evaluate(
            "document.querySelector('.server .figure').data"
            ".filter((trace) => trace.text).flatMap((trace) => trace.text)"
        )
        assert any("bound by" in text for text in told)
        name = shown.inner_text(".server h3")
        # To the first summary of a server by keys alone: search, order, then the figures.
        shown.focus(".tools input")
        shown.keyboard.type(name)
        assert shown.locator(".server:visible").count() == 1
        shown.focus(".server:not([hidden]) summary")
        shown.keyboard.press("Enter")
        shown.wait_for_selector(".server:not([hidden]) td")
        assert "bound by" in shown.inner_text(".server:not([hidden]) tbody")
        assert problems == []


def test_an_hour_of_27_servers_is_less_than_8_mib() -> None:
    """It is sent by mail."""
    cycles, servers = 120, 27
    reason = "3 × MI210 at 73% of 87.94 rpm each, bound by slo-itl; batch cut from 256 to 62 by KV "
    lines = [
        line(
            30.0 * cycle,
            *(
                row(
                    f"Premium-llama_{number}",
                    rpm=100.0 / 3.0 + cycle,
                    ttft=100.0 / 3.0 + cycle,
                    reason=f"{reason} cache; next 5 × L40S for $ {cycle}/h",
                    replicas=1 + cycle % 2,
                )
                for number in range(servers)
            ),
        )
        for cycle in range(cycles)
    ]
    timeline = thinned(timeline_of_records(lines, title="large"))
    report = report_of([])
    assert len(report_page(report).encode()) < 2 * MIB
    text = page(title="large", body="", data=timeline, script="", more=("charts.js",))
    assert len(text.encode()) < 4 * MIB


def test_a_long_timeline_is_thinned_and_loses_no_change() -> None:
    """A week of cycles is more than a page can hold, or an eye tell apart."""
    cycles = 2 * POINTS_MAX + 1
    lines = [
        line(60.0 * at, row(ttft=9e3 if at == 700 else 90.0, replicas=1 + (at == 41)))
        for at in range(cycles)
    ]
    timeline = timeline_of_records(lines, title="long")
    (server,) = thinned(timeline).servers
    assert len(server.traffic.t_s) <= POINTS_MAX
    assert max(value for value in server.traffic.ttft_ms.mean if value is not None) == 9e3
    assert server.replicas.t_s == [0.0, 60.0 * 41, 60.0 * 42, 60.0 * (cycles - 1)]
    assert [one.t_s for one in server.decisions if one.changed] == [60.0 * 41]
    assert len(server.decisions) <= POINTS_MAX


def test_lines_are_not_kept_while_a_recording_is_read() -> None:
    """The lines of a week of 27 servers are gigabytes."""

    class Seen(dict[str, Any]):
        """A line whose end can be seen."""

    made: list[ref[Seen]] = []
    most = 0

    def lines() -> Iterator[Seen]:
        nonlocal most
        for at in range(50):
            one = Seen(line(60.0 * at, row()))
            made.append(ref(one))
            most = max(most, sum(there() is not None for there in made))
            yield one

    timeline = timeline_of_records(lines(), title="long")
    assert len(timeline.servers[0].decisions) == 50
    assert most <= 5


def test_many_servers_share_the_room() -> None:
    """Of a thousand servers each gets fewer points: a page must open."""
    one = timeline_of_records([line(60.0 * at, row()) for at in range(90)], title="many")
    timeline = thinned(replace(one, servers=[*one.servers] * 1000))
    assert len(timeline.servers) == 1000
    assert {len(server.traffic.t_s) for server in timeline.servers} == {45}
    assert max(len(server.decisions) for server in timeline.servers) <= 20


def test_what_cannot_be_shown_is_named_in_one_line(
    tmp_path: Path, compared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who mistypes a directory must not get an empty page."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match=r"empty: expected a directory with run\.json"):
        report_of([tmp_path / "empty"])
    (tmp_path / "text").write_text("hello\n")
    with pytest.raises(SpecError, match="cycle 1"):
        report_of([tmp_path / "text"])
    (tmp_path / "idle.jsonl").write_text(json.dumps(line(0.0)) + "\n")
    with pytest.raises(SpecError, match="in which servers were seen"):
        report_of([tmp_path / "idle.jsonl"])
    (tmp_path / "other.jsonl").write_text('{"t_s": 1}\n')
    with pytest.raises(SpecError, match=r"other\.jsonl: expected records of a loop, .* 'servers'"):
        report_of([tmp_path / "other.jsonl"])
    (tmp_path / "old").mkdir()
    for name in ("results.csv", "differences.csv"):
        (tmp_path / "old" / name).write_text("policy,seed\nslo,1\n")
    with pytest.raises(SpecError, match=r"results\.csv: .*, found no alpha, attainment, "):
        report_of([tmp_path / "old"])
    taken = tmp_path / "text" / "report.html"
    assert main(["report", str(compared), "--out", str(taken)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_page_replaces_only_a_page_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--out cycles.jsonl` is a slip of the pen; a second report of the same is not."""
    records = tmp_path / "cycles.jsonl"
    records.write_text(json.dumps(line(0.0, row())) + "\n")
    page = tmp_path / "page.html"
    for title in ("first", "second", "x" * 5000, "last"):
        assert main(["report", str(records), "--out", str(page), "--title", title]) == 0
    assert "<title>last" in page.read_text()
    (tmp_path / "notes.html").write_text("<title>my notes</title>")
    (tmp_path / "new.html").touch()
    assert main(["report", str(records), "--out", str(tmp_path / "new.html")]) == 0
    for other in (records, tmp_path / "notes.html"):
        before = other.read_text()
        capsys.readouterr()
        assert main(["report", str(records), "--out", str(other)]) == 2
        said = capsys.readouterr().err
        assert "expected no file or a page that inferno report wrote, found another file" in said
        assert other.read_text() == before


def test_a_loop_that_was_started_again_is_one_timeline(tmp_path: Path) -> None:
    """A controller appends to its records and counts its time anew; the last line may be half
    written while somebody looks.
    """
    again = line(60.0, row()) | {"ts": "2026-01-01T01:01:00.000Z"}
    texts = [json.dumps(one) for one in (*RECORDS, again, line(120.0, row()))]
    file = tmp_path / "records.jsonl"
    file.write_text("\n".join(texts) + '\n{"ts": "2026-01-')
    (timeline,) = report_of([file]).timelines
    (server, _) = timeline.servers
    # 57 minutes passed between the last cycle and the first one after the start.
    assert server.traffic.t_s == [60.0, 120.0, 240.0, 240.0 + 57 * 60.0, 300.0 + 57 * 60.0]
    assert [event.t_s for event in timeline.events if event.kind == "restart"] == [3660.0]


def test_a_run_whose_data_are_gone_is_shown_without_what_needs_them(
    runs: Sequence[Path], tmp_path: Path
) -> None:
    """A directory is copied to another machine more often than the data that it was made of."""
    moved = shutil.copytree(runs[0], tmp_path / "moved")
    about = json.loads((moved / "run.json").read_text())
    about["config"]["data"] = str(tmp_path / "gone")
    (moved / "run.json").write_text(json.dumps(about))
    report = report_of([moved])
    (section,) = report.sections
    assert "Why requests were missed is not known" in [item.title for item in section.items]
    assert len(report.timelines[0].servers) == 4


def test_each_load_of_a_comparison_has_charts_of_its_own(compared: Path, tmp_path: Path) -> None:
    """Of two alphas one front was drawn. And a difference is in points, whatever a file has."""
    table = pd.read_csv(compared / "results.csv")
    rough = table.assign(alpha=0.3, attainment=table["attainment"] - 0.25)
    both = pd.concat([table, rough], ignore_index=True)
    both.to_csv(tmp_path / "results.csv", index=False)
    (tmp_path / "differences.csv").write_text("")
    (section,) = report_of([tmp_path]).sections
    charts = [item for item in section.items if isinstance(item, CostChart)]
    assert [chart.title.partition(":")[0] for chart in charts] == [
        "steady, alpha 0",
        "steady, alpha 0.3",
    ]
    assert [len(chart.points) for chart in charts] == [4, 4]
    found = next(item for item in section.items if isinstance(item, Differences))
    assert [row.mean for row in found.rows if row.name.startswith("0.3 − 0")] == pytest.approx(
        [-25.0] * 4
    )


def test_policies_stand_as_they_were_asked_for(grid: Path) -> None:
    """The first is the one that the others are compared with; the alphabet put it anywhere."""
    (section,) = report_of([grid]).sections
    tables = [item for item in section.items if isinstance(item, Table)]
    place = tables[0].headings.index("policy")
    assert [row[place] for row in tables[0].rows] == ["slo", "slo", "hpa", "hpa"]
    maps = [item.title.split(":")[0] for item in section.items if isinstance(item, HeatMap)]
    assert maps == ["slo", "hpa"] * 2
    (costs,) = [item for item in section.items if isinstance(item, CostChart)]
    assert list(dict.fromkeys(point.series for point in costs.points)) == ["slo", "hpa"]
    results = pd.read_parquet(grid / "results.parquet")
    cells = cell_estimates(results, (ATTAINMENT,))
    figure = draw_heat_maps(cells, ATTAINMENT)
    assert [ax.get_title(loc="left") for ax in figure.axes[:2]] == [
        "slo, steady",
        "hpa, steady",
    ]


def test_each_column_of_a_comparison_is_told_what_it_means(compared: Path) -> None:
    """Nobody knows what regret is who has not read the manual."""
    (section,) = report_of([compared]).sections
    (told,) = [item for item in section.items if item.title == "What the columns say"]
    assert isinstance(told, Note)
    table = next(item for item in section.items if isinstance(item, Table))
    assert [line.split(": ")[0] for line in told.lines] == list(table.headings[table.labels :])


def test_results_of_older_versions_are_shown_as_far_as_they_go(
    compared: Path, tmp_path: Path
) -> None:
    """Their single runs have no distributions; the tables are whole all the same."""
    old = shutil.copytree(compared, tmp_path / "old")
    shutil.rmtree(old / "runs")
    kinds = [[item.kind for item in report_of([one]).sections[0].items] for one in (compared, old)]
    gone = set(kinds[0]) - set(kinds[1])
    assert "lines" in gone
    assert gone <= {"lines", "bars"}  # bars of causes, if any request was missed
    assert kinds[0].count("table") == kinds[1].count("table") == 2


def test_equal_names_are_told_apart_and_a_study_is_all_its_parts(
    runs: Sequence[Path], tmp_path: Path
) -> None:
    """Two directories called slo are the usual case: a folder for each day."""
    for day in ("monday", "tuesday"):
        (tmp_path / day).mkdir()
        (tmp_path / day / "slo").symlink_to(runs[0])
    report = report_of([tmp_path / "monday"])
    assert len(report.timelines) == 1
    assert isinstance(report.timelines[0], Timeline)
    both = report_of([tmp_path / "monday" / "slo", tmp_path / "tuesday" / "slo"])
    assert len({timeline.title for timeline in both.timelines}) == 2
