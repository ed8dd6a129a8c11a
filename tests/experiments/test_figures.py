"""The data behind the figures, and that the drawings are whole: panels, units, legible marks, equal
bytes.
"""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from experiments.compare.report import draw_gpus
from experiments.explain import draw_misses
from experiments.figures import (
    GPUS,
    SERIES,
    Form,
    gpu_colours,
    save_figure,
)
from experiments.scores.changes import Desired, add_desired
from experiments.scores.misses import CAUSES, Misses
from experiments.sweep_figures import (
    ATTAINMENT,
    COST,
    cell_estimates,
    draw_cost_against_attainment,
    draw_heat_maps,
    save_sweep_figures,
    scale_of,
)
from experiments.tables import summary_table
from experiments.timeline import (
    accelerator_spells,
    fleet_timeline,
    minute_timeline,
    replica_timeline,
)
from experiments.timeline_figure import PANELS_MAX, draw_timelines, rate_points, time_ticks
from loop.spec import SloTarget
from tests.experiments.request_rows import columns, finished
from tests.parts import first, first_rows
from twin.spec import SpecError

NAN = math.nan
PRICED = {
    "type": np.array(["A100"], dtype=object),
    "gpus": np.array([1]),
    "usd_per_h": np.array([4.0]),
}


def lives(*rows: tuple[float, float, float, float, float]) -> dict[str, np.ndarray]:
    """Return pods of server 0: asked, granted, ready, draining, released."""
    names = ("asked_s", "granted_s", "ready_s", "draining_s", "released_s")
    times = {
        name: np.array(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)
    }
    return times | {"server": np.zeros(len(rows), dtype=int)}


def at(frame: pd.DataFrame, t_s: float) -> dict[str, int]:
    """Return the counts in force at an instant of a step plot."""
    row = frame[frame["t_s"] <= t_s].iloc[-1]
    return {name: int(row[name]) for name in ("wanted", "ready", "starting", "pending", "draining")}


def test_the_timeline_counts_pods_by_phase_at_every_instant() -> None:
    """A pod is in one phase at a time; the figure must show what the truth says, between cycles
    too.
    """
    pods = lives(
        (0.0, 0.0, 0.0, 100.0, 130.0),  # ready from the start, drained and gone
        (20.0, 40.0, 70.0, NAN, NAN),  # waits for units, starts, stays
        (25.0, NAN, NAN, NAN, 50.0),  # withdrawn before it got units
        (30.0, 35.0, NAN, NAN, 60.0),  # withdrawn while it started
        (90.0, 95.0, NAN, NAN, NAN),  # still starting at the end
    )
    desired = {
        "a": [
            Desired(t_s=0.0, accelerator="A", replicas=1),
            Desired(t_s=20.0, accelerator="A", replicas=3),
        ]
    }
    frame = pd.DataFrame(replica_timeline(pods, desired, names=["a"], end_s=140.0))
    assert at(frame, 0.0) == {"wanted": 1, "ready": 1, "starting": 0, "pending": 0, "draining": 0}
    assert at(frame, 32.0) == {"wanted": 3, "ready": 1, "starting": 0, "pending": 3, "draining": 0}
    assert at(frame, 45.0) == {"wanted": 3, "ready": 1, "starting": 2, "pending": 1, "draining": 0}
    assert at(frame, 75.0) == {"wanted": 3, "ready": 2, "starting": 0, "pending": 0, "draining": 0}
    assert at(frame, 110.0) == {"wanted": 3, "ready": 1, "starting": 1, "pending": 0, "draining": 1}
    assert at(frame, 140.0) == {"wanted": 3, "ready": 1, "starting": 1, "pending": 0, "draining": 0}


def test_what_was_wanted_is_read_from_the_cycles_that_acted() -> None:
    """A cycle that failed or advised changes nothing; the first view says what stood before."""

    def cycle(t_s: float, replicas: int, *, applied: bool) -> dict[str, object]:
        row = {
            "name": "a",
            "currentAccelerator": "A",
            "wanted": 2,
            "accelerator": "B",
            "replicas": replicas,
        }
        return {"t_s": t_s, "applied": applied, "servers": [row]}

    cycles = [cycle(60.0, 5, applied=False), {"t_s": 120.0, "applied": False, "servers": []}]
    cycles.append(cycle(180.0, 3, applied=True))
    desired: dict[str, list[Desired]] = {}
    for line in cycles:
        add_desired(desired, line)
    assert desired == {
        "a": [
            Desired(t_s=0.0, accelerator="A", replicas=2),
            Desired(t_s=180.0, accelerator="B", replicas=3),
        ]
    }


def test_minutes_carry_rate_and_violation() -> None:
    """The shaded spans of the figure are the minutes that the score counts as missed."""
    rows = [
        finished(0, 10.0, ttft_s=0.1, itl_s=0.01, out=5),
        finished(0, 70.0, ttft_s=9.0, itl_s=0.01, out=5),
    ]
    frame = minute_timeline(
        columns(rows), [SloTarget(model="m", slo_ttft_ms=500.0)], names=["a"], end_s=150.0
    )
    assert frame["violated"].tolist() == [False, True, False]
    assert frame["rate_rpm"].tolist() == [1.0, 1.0, 0.0]
    assert frame["length_s"].tolist() == [60.0, 60.0, 30.0]


@pytest.mark.slow
@pytest.mark.parametrize("servers", [1, 4, 11])
def test_the_timeline_has_a_panel_a_server_with_units_and_equal_bytes(
    tmp_path: Path, servers: int
) -> None:
    """From one server to many; the same records give the same file."""
    names = [f"server-{index}" for index in range(servers)]
    pods = lives((0.0, 0.0, 0.0, NAN, NAN))
    counts = replica_timeline(pods, {}, names=names, end_s=120.0)
    requests = columns([finished(0, 10.0, ttft_s=0.1, itl_s=0.01, out=5)])
    minutes = minute_timeline(requests, [None] * servers, names=names, end_s=120.0)
    written = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        figure = draw_timelines(
            counts,
            minutes,
            fleet_timeline(pods | PRICED, end_s=120.0),
            titles={name: name for name in names},
            heading="a run",
            accelerators={
                names[0]: [(0.0, 60.0, "A100"), (60.0, 119.0, "H100"), (119.0, 120.0, "B")]
            },
        )
        (page,) = figure.axes
        words = [text.get_text() for text in page.texts]
        assert [word for word in words if word in names] == names
        assert words.count("replicas") == words.count("req/min") == servers
        assert words.count("GPUs held") == words.count("$ an hour") == 1
        # Where there is room: the last is wanted for a second; one is the type of the fleet.
        assert [words.count(name) for name in ("A100", "H100", "B")] == [2, 1, 0]
        assert 1 <= words.count("time [min]") <= 3
        # Where the minutes of the fleet are wider than those of a server, they are numbered too.
        ends = [text for text in page.texts if (text.get_text(), text.get_va()) == ("2", "top")]
        first_in = next(text.get_position()[1] for text in page.texts if text.get_text() in names)
        assert (max(end.get_position()[1] for end in ends) > first_in) == (servers > 2)
        paths = save_figure(figure, tmp_path / folder / "timeline", Form(svg=True))
        assert [path.name for path in paths] == ["timeline.png", "timeline.svg"]
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]
    png, svg = written[0]
    assert png.startswith(b"\x89PNG")
    assert b"time [min]" in svg
    assert b"req/min" in svg
    assert b"$ an hour" in svg


def words_of(figure: Figure) -> list[tuple[str, Bbox]]:
    """Return what *figure* writes and where [in]: in letters that can be read, within the page."""
    FigureCanvasAgg(figure).draw()
    found = []
    for text in figure.findobj(Text):
        if text.get_text().strip() and text.get_visible():
            assert text.get_fontsize() >= 7.0, text.get_text()
            box = text.get_window_extent().transformed(figure.dpi_scale_trans.inverted())
            (width_in, height_in), (right, top) = figure.get_size_inches(), box.max
            assert min(*box.min, width_in - right, height_in - top) >= 0.0, text.get_text()
            found.append((text.get_text(), box))
    return found


@pytest.mark.costly
@pytest.mark.parametrize(
    ("width_in", "servers"), first_rows(1, [(3.3, 5), (6.9, 5), (None, 1), (None, 5)])
)
def test_all_of_a_timeline_can_be_read(width_in: float | None, servers: int) -> None:
    """At 3.3 inches of ten its letters were three points high, and on a screen long titles ran into
    the panel above: now nothing is shrunk, cut or written over.
    """
    names = [f"server-{index}" for index in range(servers)]
    types = [kind for kind in GPUS[:6] for _ in range(2)]
    pods = lives(*[(float(start_s), start_s, NAN, NAN, NAN) for start_s in range(12)])
    pods |= {
        "type": np.array(types, dtype=object),
        "gpus": np.full(12, 8),
        "usd_per_h": np.full(12, 33.0),
    }
    counts = replica_timeline(pods, {}, names=names, end_s=86_400.0)
    requests = columns([finished(0, 10.0, ttft_s=9.0, itl_s=0.01, out=5)])
    minutes = minute_timeline(requests, [None] * servers, names=names, end_s=86_400.0)
    figure = draw_timelines(
        counts,
        minutes,
        fleet_timeline(pods, end_s=86_400.0),
        titles={name: f"{name}-{'a' * 60} (TTFT 1000 ms, ITL 60 ms): 99.9 %" for name in names},
        heading="a run of which much is told, policy slo, alpha 0.05: 98.2 %, $ 1,919.91 an hour",
        accelerators={"server-0": [(0.0, 40_000.0, "MI300X"), (40_000.0, 86_400.0, "2xH100")]},
        form=Form(width_in=width_in),
    )
    assert width_in is None or figure.get_size_inches()[0] == pytest.approx(width_in)
    words = words_of(figure)
    assert {"time [h]", "MI300X", "$ an hour"} <= {text for text, _ in words}
    for number, (text, box) in enumerate(words):
        over = [other for other, place in words[:number] if box.overlaps(place.padded(-0.01))]
        assert not over, (text, over)


@given(
    minutes=st.lists(
        st.tuples(st.floats(1.0, 60.0), st.floats(0.0, 1e5)), min_size=1, max_size=3000
    )
)
def test_of_a_long_run_the_rate_is_drawn_of_several_minutes_together(
    minutes: list[tuple[float, float]],
) -> None:
    """Four days of minutes were as wide as chance makes them; all requests stay in it."""
    length_s, rate_rpm = np.array(minutes).T
    start_s = np.cumsum(length_s) - length_s
    table = {"start_s": start_s, "length_s": length_s, "rate_rpm": rate_rpm}
    middle_s, thinned = rate_points(table)
    assert thinned.size <= 300
    assert np.all(np.diff(middle_s) > 0.0)
    if len(minutes) <= 300:
        assert thinned == pytest.approx(rate_rpm)
    assert thinned.max() <= rate_rpm.max() * (1 + 1e-9)


@given(end_s=st.floats(60.0, 3e7), many=st.integers(2, 8))
def test_a_time_axis_has_few_steps_in_a_unit_that_people_count_in(end_s: float, many: int) -> None:
    """5,000 minutes are how many days?"""
    unit_s, unit, instants = time_ticks(end_s, many=many)
    assert unit == ("min" if end_s <= 5 * 3600.0 else "h")
    assert 1 <= len(instants) <= many + 1
    assert all(0.0 <= unit_s * value <= end_s * (1 + 1e-9) for value in instants)


@pytest.mark.costly
@pytest.mark.filterwarnings("error")
def test_servers_are_drawn_whatever_they_are_called(tmp_path: Path) -> None:
    """Two dollar signs were a formula, which ended a run after all of it had been simulated; and
    each letter that the font lacks was a warning of its own.
    """
    names = ["$(HOME) {x} %s", "東京/推論", "<b>ü</b> \\alpha_1^2"]
    counts = replica_timeline(lives((0.0, 0.0, 0.0, NAN, NAN)), {}, names=names, end_s=120.0)
    minutes = minute_timeline(columns([]), [None] * 3, names=names, end_s=120.0)
    figure = draw_timelines(
        counts,
        minutes,
        fleet_timeline(lives((0.0, 0.0, 0.0, NAN, NAN)) | PRICED, end_s=120.0),
        titles={name: f"{name}: 99 %, $ 9.14/h" for name in names},
        heading="a run, $ 19.91 an hour, of $ 20",
        accelerators={},
    )
    assert save_figure(figure, tmp_path / "timeline", Form(svg=True))[0].stat().st_size > 1000
    svg = (tmp_path / "timeline.svg").read_text()
    assert "$(HOME) {x} %s: 99 %, $ 9.14/h" in svg


def test_the_fleet_is_what_pods_hold_and_cost() -> None:
    """From the instant a pod gets its GPUs until it gives them back, whether it serves or not."""
    pods = lives(
        (0.0, 0.0, 30.0, 50.0, 60.0),
        (10.0, 20.0, NAN, NAN, NAN),
        (10.0, NAN, NAN, NAN, 15.0),  # withdrawn before it got GPUs
    )
    pods |= {
        "type": np.array(["A100", "H100", "H100"], dtype=object),
        "gpus": np.array([2, 4, 4]),
        "usd_per_h": np.array([3.0, 10.0, 10.0]),
    }
    frame = fleet_timeline(pods, end_s=100.0)
    assert frame["t_s"].tolist() == [0.0, 20.0, 60.0, 100.0]
    assert frame["A100"].tolist() == [2.0, 2.0, 0.0, 0.0]
    assert frame["H100"].tolist() == [0.0, 4.0, 4.0, 4.0]
    assert frame["usd_per_h"].tolist() == [3.0, 13.0, 10.0, 10.0]
    del pods["usd_per_h"]  # files of older versions have no prices
    assert np.isnan(fleet_timeline(pods, end_s=100.0)["usd_per_h"]).all()


def test_an_accelerator_is_wanted_until_another_is() -> None:
    """Changes of the count alone begin no new spell."""
    desired = [
        Desired(t_s=0.0, accelerator="A", replicas=1),
        Desired(t_s=30.0, accelerator="A", replicas=2),
        Desired(t_s=60.0, accelerator="B", replicas=1),
    ]
    assert accelerator_spells(desired, end_s=90.0) == [(0.0, 60.0, "A"), (60.0, 90.0, "B")]
    assert accelerator_spells([], end_s=90.0) == []


@pytest.mark.costly
def test_of_very_many_servers_those_are_drawn_that_missed_most() -> None:
    """Panels of a thousand would be more pixels than a picture can have."""
    names = [f"server-{index:04d}" for index in range(100)]
    pods = lives((0.0, 0.0, 0.0, NAN, NAN))
    counts = replica_timeline(pods, {}, names=names, end_s=120.0)
    requests = columns([finished(70, 10.0, ttft_s=9.0, itl_s=0.01, out=5)])
    target = SloTarget(model="m", slo_ttft_ms=500.0)
    minutes = minute_timeline(requests, [target] * len(names), names=names, end_s=120.0)
    figure = draw_timelines(
        counts,
        minutes,
        fleet_timeline(pods | PRICED, end_s=120.0),
        titles={name: name for name in names},
        heading="run",
        accelerators={},
    )
    words = [text.get_text() for text in figure.axes[0].texts]
    shown = [word for word in words if word.startswith("server-")]
    assert shown == [*names[: PANELS_MAX - 1], "server-0070"]
    assert f"{PANELS_MAX} of 100 servers" in figure.get_suptitle()


def results(*, seeds: int = 3) -> pd.DataFrame:
    """Return a table of two policies × two alphas × three periods."""
    rows = [
        {
            "scenario": "disturbed",
            "interval_s": 60.0,
            "policy": policy,
            "alpha": alpha,
            "period_s": period_s,
            "seed": seed,
            "attainment": 0.9 - alpha / 10 - period_s / 1000 - seed / 100,
            "cost_usd_per_h": 10.0 + seed,
            "error": "",
        }
        for policy in ("slo", "static")
        for alpha in (0.1, 0.5)
        for period_s in (30.0, 60.0, 120.0)
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows)


def test_cells_are_means_over_seeds_in_the_units_of_the_figure() -> None:
    """Shares become per cent; the interval is Student's for three seeds."""
    cells = cell_estimates(results(), (ATTAINMENT, COST))
    assert len(cells) == 12
    cell = cells[
        (cells["policy"] == "slo") & (cells["alpha"] == 0.5) & (cells["period_s"] == 60.0)
    ].iloc[0]
    assert cell["attainment"] == pytest.approx(78.0)
    half = 4.302653 * 1.0 / math.sqrt(3)
    ends = (cell["cost_usd_per_h_low"], cell["cost_usd_per_h_high"])
    assert ends == pytest.approx((11.0 - half, 11.0 + half), rel=1e-6)
    assert 75.0 < cell["attainment_low"] < 78.0 < cell["attainment_high"] < 81.0
    assert (cell["cost_usd_per_h"], cell["cost_usd_per_h_n"]) == (pytest.approx(11.0), 3)


def test_a_heat_map_shows_every_cell_with_its_interval() -> None:
    """One map a policy on one colour scale; alpha up, period to the right, both with their
    values.
    """
    figure = draw_heat_maps(cell_estimates(results(), (ATTAINMENT,)), ATTAINMENT)
    maps = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title(loc="left") for ax in maps] == ["slo, disturbed", "static, disturbed"]
    assert [label.get_text() for label in maps[0].get_xticklabels()] == ["30", "60", "120"]
    assert [label.get_text() for label in maps[0].get_yticklabels()] == ["0.1", "0.5"]
    assert len(maps[0].texts) == 6
    assert "78.0\n75.5–80.4" in {text.get_text() for text in maps[0].texts}
    assert maps[0].images[0].get_clim() == maps[1].images[0].get_clim()


@pytest.mark.parametrize(("share", "scale"), [(1.0, (99.0, 100.0)), (0.0, (0.0, 1.0))])
def test_a_colour_scale_ends_where_a_share_does(share: float, scale: tuple[float, float]) -> None:
    """Where all requests were within target it went on to 101 %."""
    cells = cell_estimates(results().assign(attainment=share), (ATTAINMENT,))
    assert scale_of(cells["attainment"]) == scale


def test_no_interval_is_beyond_what_a_share_or_a_cost_can_be() -> None:
    """Two seeds of 99 and 97 % within target had 98.4 ± 18.7 %, and a cost below nothing."""
    frame = results(seeds=2)
    frame["attainment"] = frame["seed"].map({0: 0.99, 1: 0.97})
    frame["cost_usd_per_h"] = frame["seed"].map({0: 1.0, 1: 9.0})
    cells = cell_estimates(frame, (ATTAINMENT, COST))
    assert cells["attainment_high"].max() <= 100.0
    assert cells["attainment_low"].min() > 50.0
    assert cells["cost_usd_per_h_low"].min() == 0.0
    (bars, *_) = [one for ax in draw_cost_against_attainment(cells).axes for one in ax.containers]
    ends = [segment[:, 1].max() for segment in bars.lines[2][1].get_segments()]
    assert max(ends) <= 100.0
    share, minutes, cost, *_ = list(summary_table(complete(frame)).columns)[3:]
    for column in (share, minutes):
        low, high = (
            float(end) for end in next(iter(column.cells)).split("[")[1].rstrip("]").split(",")
        )
        assert 50.0 < low < 98.0 < high <= 100.0
    assert "[0.00, " in next(iter(cost.cells))


def complete(frame: pd.DataFrame) -> pd.DataFrame:
    """Return *frame* with all that a table of a sweep shows."""
    rest = ("changes_per_h", "offered_rpm", "offered_in_tokens", "offered_out_tokens")
    return frame.assign(
        minute_attainment=frame["attainment"],
        hours=1.0,
        requests_per_cpu_s=1.0,
        **dict.fromkeys(rest, 1.0),
    )


def test_one_seed_claims_no_interval() -> None:
    """A single value without an interval, and bars of no width."""
    cells = cell_estimates(results(seeds=1), (ATTAINMENT, COST))
    figure = draw_heat_maps(cells, COST)
    assert {text.get_text() for ax in figure.axes for text in ax.texts} == {"10.00"}
    assert figure.axes[-1].get_ylabel() == COST.label
    assert len(draw_cost_against_attainment(cells).axes) == 2


def test_cost_against_attainment_has_a_panel_per_alpha_with_units() -> None:
    """A mark for each policy and period; bars far wider than the differences do not hide these."""
    figure = draw_cost_against_attainment(cell_estimates(results(), (ATTAINMENT, COST)))
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "alpha 0.1, disturbed",
        "alpha 0.5, disturbed",
    ]
    assert figure.axes[0].get_xlabel() == "cost [$/h]"
    assert figure.axes[0].get_ylabel() == "requests within target [%]"
    assert [ax.get_xlim()[0] > 8.0 and ax.get_xlim()[1] < 14.0 for ax in figure.axes] == [
        True,
        True,
    ]
    assert len(figure.axes[0].containers) == 6


@pytest.mark.parametrize("width_in", first(1, [3.3, 6.9]))
def test_the_figure_of_misses_is_as_wide_as_a_page(width_in: float) -> None:
    """Its legend stood beside the bars, which a column of a paper has no room for."""
    counts = np.arange(2 * len(CAUSES)).reshape(2, -1)
    names = ("Premium-Llama-3.1-8B", "Free-llama_13b")
    misses = Misses(names=names, counts=counts, scored=np.array([400, 600]))
    figure = draw_misses(misses, Form(width_in=width_in))
    assert figure.get_size_inches()[0] == pytest.approx(width_in)
    FigureCanvasAgg(figure).draw()
    drawn = figure.get_tightbbox()
    assert min(*drawn.min, *(figure.get_size_inches() - drawn.max)) >= 0.0
    assert figure.axes[0].get_position().width > 0.4


@pytest.mark.costly
@pytest.mark.parametrize("width_in", first(1, [3.3, 6.9]))
def test_figures_of_a_sweep_are_as_wide_as_a_page(width_in: float) -> None:
    """Their legend stands below then, and panels stand below each other if they must."""
    cells = cell_estimates(results(), (ATTAINMENT, COST))
    form = Form(width_in=width_in)
    for figure in (draw_cost_against_attainment(cells, form), draw_heat_maps(cells, COST, form)):
        assert figure.get_size_inches()[0] == pytest.approx(width_in)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        # Of what is written nothing is cut off.
        box = figure.get_tightbbox(canvas.get_renderer())
        assert box.x0 >= 0.0
        assert box.x1 <= width_in
        assert min(text.get_fontsize() for text in figure.findobj(Text)) >= 7.0


def test_a_page_has_a_width() -> None:
    """A figure of no width, or of a mile, is nobody's."""
    for width_in in (0.0, -3.3, 2000.0, NAN):
        with pytest.raises(SpecError, match=r"width: expected 2\.5 to 40 inches"):
            Form(width_in=width_in)


def test_an_axis_ends_where_a_share_and_a_cost_do() -> None:
    """Two seeds that differ have intervals of 130 points: an axis up to 106 % was three quarters
    empty.
    """
    wild = results(seeds=2)
    wild["attainment"] = 1.0 - 0.04 * wild["seed"]
    wild["cost_usd_per_h"] = 0.08 * wild["period_s"] * (1.0 + wild["seed"])
    for ax in draw_cost_against_attainment(cell_estimates(wild, (ATTAINMENT, COST))).axes:
        (cheapest, _), (least, most) = ax.get_xlim(), ax.get_ylim()
        assert cheapest >= 0.0
        assert 0.0 <= least < most <= 100.0 + 0.1 * (100.0 - least) + 1e-9


@pytest.mark.slow
def test_a_figure_that_no_run_has_is_a_dash(tmp_path: Path) -> None:
    """Servers without targets have no attainment: the maps say so, and nothing fails."""
    bare = results().assign(attainment=None)
    save_sweep_figures(bare, tmp_path)
    figure = draw_heat_maps(cell_estimates(bare, (ATTAINMENT,)), ATTAINMENT)
    assert {text.get_text() for ax in figure.axes for text in ax.texts} == {"–"}


def test_what_is_compared_has_one_colour_everywhere(repository: Path) -> None:
    """A policy or a type of GPU: in pictures, in reports and on live pages, the latter whatever
    stands beside it.
    """
    look = (repository / "inferno/web/static/look.js").read_text()
    day = look[look.index("DAY = [") : look.index("NIGHT = [")]
    assert tuple(re.findall(r"#[0-9A-F]{6}", day.upper())) == tuple(map(str.upper, SERIES))
    (listed,) = re.findall(r"GPUS = \[(.*)\];", look)
    assert tuple(json.loads(f"[{listed}]")) == GPUS
    beside = gpu_colours(["A100", "H100", "X1"])
    assert beside == {kind: gpu_colours([kind])[kind] for kind in beside}
    many = [f"G{n}" for n in range(20)]
    assert list(gpu_colours(many)) == many
    assert len(set(gpu_colours([*GPUS, "X1", "X2"]).values())) == len(SERIES)


def test_more_policies_than_colours_are_told_apart() -> None:
    """A researcher compares a dozen baselines with several of her own: two lines of one colour were
    one policy to who looked.
    """
    names = [f"policy {n}" for n in range(len(SERIES) + 3)]
    load = {"scenario": "day", "alpha": 0.1, "interval_s": 60.0, "period_s": 30.0, "seed": 1}
    rows = [{**load, "run_id": name, "policy": name, "gpus_held": [1, 2]} for name in names]
    (ax,) = draw_gpus(rows, pd.DataFrame(rows)).axes
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.lines}) == len(names)
    one = results(seeds=1)
    one = one[(one["policy"] == "slo") & (one["alpha"] == 0.1) & (one["period_s"] == 30.0)]
    many = pd.concat([one.assign(policy=name) for name in names])
    figure = draw_cost_against_attainment(cell_estimates(many, (ATTAINMENT, COST)))
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert len({(mark.get_color(), mark.get_fillstyle()) for mark in marks}) == len(names)
    # All came out alike here: the marker of one lies within that of the one before.
    assert all(one.get_markersize() > two.get_markersize() for one, two in pairwise(marks[:4]))
    (legend,) = figure.legends
    keys = [patch for patch in legend.get_patches() if patch.get_label() in names]
    assert len({(key.get_edgecolor(), key.get_fill()) for key in keys}) == len(names)
