"""Claims about the figure of inferno stability, and drawing it again."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.figures import Form
from experiments.output import write_csv
from experiments.stability_figure import draw_stability, save_stability_figure, stability_cells
from inferno.cli.main import main
from tests.parts import first

ALPHAS, FACTORS, POLICIES, PERIODS = (0.0, 0.1), (0.5, 1.0, 2.0), ("slo", "hpa"), (15.0, 60.0)


def results(alphas: tuple[float, ...] = ALPHAS, *, overshoot: float | None = 3.0) -> pd.DataFrame:
    """Return a table as inferno stability writes it, of two seeds."""
    cells = product(alphas, FACTORS, POLICIES, PERIODS, (0, 1))
    return pd.DataFrame(
        {
            "run_id": f"{alpha} {factor} {policy} {period_s} {seed}",
            "scenario": "step",
            "interval_s": 60.0,
            "policy": policy,
            "alpha": alpha,
            "period_s": period_s,
            "hours": 1.0,
            "seed": seed,
            "start_up": factor,
            "attainment": 0.99 - 0.02 * factor + 0.01 * seed,
            "reversals_per_h": 40.0 + seed,
            "changes_per_h": 90.0 - seed,
            "overshoot": overshoot,
            "cost_usd_per_h": 20.0 + factor,
            "error": "",
        }
        for alpha, factor, policy, period_s, seed in cells
    )


def shown(figure: Figure) -> list[str]:
    """Return what stands beside the panels that are drawn."""
    return [ax.get_ylabel() for ax in figure.axes if ax.axison]


def test_each_metric_is_drawn_over_the_start_up_times() -> None:
    """Numbers of 48 rows are not seen; a line that falls is."""
    cells = stability_cells(results(alphas=(0.1,)))
    figure = draw_stability(cells)
    assert shown(figure) == [
        "requests within target [%]",
        "reversals [1/h]",
        "changes [1/h]",
        "overshoot [replicas]",
        "cost [$/h]",
    ]
    lines = figure.axes[0].containers
    assert len(lines) == len(POLICIES) * len(PERIODS)
    for line in lines:
        assert list(line[0].get_ydata()) == pytest.approx([98.5, 97.5, 95.5])
        assert list(line[0].get_xdata()) == pytest.approx(FACTORS, abs=0.05)


def test_what_no_run_has_is_not_drawn() -> None:
    """A load without a jump has no overshoot; an empty panel would look like zero."""
    figure = draw_stability(stability_cells(results(alphas=(0.1,), overshoot=None)))
    assert "overshoot [replicas]" not in shown(figure)
    assert len(shown(figure)) == 4


def test_what_never_happens_is_zero_on_an_axis_that_can_be_read() -> None:
    """A static policy changes nothing: its axis went from 0 to 0, with a warning."""
    figure = draw_stability(stability_cells(results(alphas=(0.1,)).assign(changes_per_h=0.0)))
    changes = figure.axes[shown(figure).index("changes [1/h]")]
    assert changes.get_ylim() == (0.0, 1.0)


@pytest.mark.costly
@pytest.mark.parametrize("width_in", first(1, [3.3, 6.9]))
def test_it_is_as_wide_as_a_page_and_nothing_is_written_over(width_in: float) -> None:
    """The name of the axis ran from one panel into the next."""
    figure = draw_stability(stability_cells(results()), Form(width_in=width_in))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    assert figure.get_size_inches()[0] == pytest.approx(width_in)
    drawn = figure.get_tightbbox(canvas.get_renderer())
    assert drawn.x0 >= -0.01  # less than a point
    assert drawn.x1 <= width_in + 0.01
    panels = [ax for ax in figure.axes if ax.axison]
    labels = [(ax.xaxis.label, ax.yaxis.label, ax._left_title) for ax in panels]
    words = [text for texts in labels for text in texts] + figure.legends[0].get_texts()
    boxes = [text.get_window_extent() for text in words if text.get_text()]
    assert len(boxes) > 4 * len(PERIODS)
    overlaps = [
        (one, other)
        for index, one in enumerate(boxes)
        for other in boxes[index + 1 :]
        if min(one.x1, other.x1) - max(one.x0, other.x0) > 1.0
        and min(one.y1, other.y1) - max(one.y0, other.y0) > 1.0
    ]
    assert overlaps == []


def test_the_command_draws_it_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As it does the figures of a sweep; a table of something else is one line."""
    path = tmp_path / "results.csv"
    write_csv(path, results(alphas=(0.1,)))
    assert main(["plot", str(tmp_path)]) == 0
    assert (tmp_path / "stability.png").stat().st_size > 10_000
    write_csv(path, results().drop(columns="start_up"))
    assert main(["plot", str(tmp_path)]) == 2
    assert "results.csv: " in (line := capsys.readouterr().err)
    assert line.endswith("found no start_up; write it anew with --resume\n")
    write_csv(path, results().assign(start_up=None))
    assert main(["plot", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith("line 2: start_up: expected a value, found none\n")


def test_of_runs_that_all_failed_nothing_is_drawn(tmp_path: Path) -> None:
    """There is nothing to see."""
    assert save_stability_figure(results().assign(error="it failed"), tmp_path) == []
