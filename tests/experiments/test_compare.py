"""Claims about experiments.compare: what a comparison holds, and what it advises."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.load import ServerLoad
from emulator.shapes import Curve, burst, constant, steps
from emulator.walk import OfferedLoad, Walk
from experiments.compare import (
    CompareConfig,
    CompareResult,
    compare,
    contenders,
    planned_runs,
)
from experiments.compare.advice import advice, best_policy
from experiments.compare.files import plot_comparison
from experiments.compare.report import (
    COLUMNS,
    differences_table,
    draw_costs,
    draw_gpus,
    front_of,
    report_tables,
    settings_of,
    summary,
)
from experiments.compare.rows import NO_START_UP, after_step, last_jump_s
from experiments.confidence import estimate_share
from experiments.config import RunConfig
from experiments.executor import LocalProcesses
from experiments.figures import SCREEN, SERIES, Form
from experiments.grid import SweepConfig
from experiments.run import simulate
from experiments.sources import read_sources
from experiments.sweep_rows import ROWS, save_row
from experiments.tables import signed, text_console
from inferno.cli.plot import plot_directory
from loop.policies.hpa import HpaPolicy
from tests.experiments.two_servers import write_two_servers
from twin.datafile import read_json
from twin.spec import SpecError

pytestmark = pytest.mark.costly

Done = tuple[CompareConfig, CompareResult, Path]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Return a small comparison: what was asked, what was found, and where it lies."""
    data = write_two_servers(tmp_path_factory.mktemp("data"))
    asked = CompareConfig(
        contenders=contenders(
            ("slo", "static", "static_peak", "clairvoyant"), (("slo.headroom", (0.2,)),)
        ),
        loads=SweepConfig(
            base=RunConfig(data=data, hours=0.05, seed=7),
            scenarios=("steady", "step"),
            seeds=2,
        ),
    )
    out = tmp_path_factory.mktemp("compare")
    return asked, compare(asked, out, executor=LocalProcesses(jobs=1)), out


def test_results_have_a_row_for_each_policy_load_and_seed(done: Done) -> None:
    """Notebooks and others read this file."""
    table = pd.read_csv(done[2] / "results.csv")
    assert list(table.columns[:4]) == ["policy", "scenario", "seed", "attainment"]
    assert "cost_usd_per_h" in table.columns
    assert len(table) == 4 * 2 * 2
    assert table["attainment"].between(0.0, 1.0).all()
    assert (table["error"].isna()).all()
    assert set(table["seed"]) == {7, 8}
    assert (table["gpus_peak_perfect"] >= 1).all()


def test_a_column_has_one_unit_in_all_tables(done: Done) -> None:
    """Attainment was a share in one file and per cent in the two beside it, under one name."""
    table, means, differences = (
        pd.read_csv(done[2] / f"{name}.csv") for name in ("results", "summary", "differences")
    )
    for name in ("attainment", "minute_attainment_p95", "cost_usd_per_h"):
        own = means[means["scenario"] == "step"].set_index("policy")[name]
        runs = table[table["scenario"] == "step"].groupby("policy")[name].mean()
        assert own.to_dict() == pytest.approx(runs.to_dict())
        found = differences[differences["scenario"] == "step"].set_index("to")[name]
        assert found["static"] == pytest.approx(own["static"] - own["slo"])


def test_nobody_is_better_than_the_clairvoyant(done: Done) -> None:
    """Or it would be no bound."""
    table = pd.read_csv(done[2] / "results.csv")
    assert (table["regret_usd_per_h"] >= 0.0).all()
    best = table[table["policy"] == "clairvoyant"]
    assert (best["regret_usd_per_h"] == 0.0).all()


def test_a_comparison_goes_on_where_it_stopped(done: Done) -> None:
    """A finished run is not made again, and the tables are the same."""
    asked, result, out = done
    times = {path: path.stat().st_mtime_ns for path in (out / "runs").iterdir()}
    before = (out / "results.csv").read_text()
    again = compare(asked, out, executor=LocalProcesses(jobs=1), resume=True)
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").iterdir()} == times
    assert (out / "results.csv").read_text() == before
    assert again.advice == result.advice


@pytest.mark.parametrize("column", ["cell", "objective_usd_per_h", "gpus_peak"])
def test_a_row_of_another_version_is_told_in_a_line(
    done: Done, tmp_path: Path, column: str
) -> None:
    """It was a KeyError once all was run: rows of a comparison have more than those of a sweep."""
    asked, out = done[0], tmp_path / "out"
    shutil.copytree(done[2], out)
    rows = {one.stem: read_json(one)["row"] for one in sorted((out / ROWS).glob("*.json"))}
    run_id, row = next(one for one in rows.items() if column in one[1])
    planned = replace(planned_runs(asked)[0], run_id=run_id)
    save_row(out / ROWS, planned, {name: row[name] for name in row if name != column})
    with pytest.raises(SpecError, match=rf"{run_id}\.json: .* found no {column}; delete it to"):
        compare(asked, out, executor=LocalProcesses(jobs=1), resume=True)


def test_a_table_that_somebody_edited_is_told_in_a_line(done: Done, tmp_path: Path) -> None:
    """Figures and pages of it ended in a traceback of pandas."""
    shutil.copytree(done[2], tmp_path, dirs_exist_ok=True)
    table = pd.read_csv(tmp_path / "results.csv").astype({"attainment": object})
    table.drop(columns="settling_s").to_csv(tmp_path / "results.csv", index=False)
    with pytest.raises(SpecError, match=r"results\.csv: .*, found no settling_s; write it anew"):
        plot_comparison(tmp_path)
    table.loc[2, "attainment"] = "good"
    table.to_csv(tmp_path / "results.csv", index=False)
    with pytest.raises(SpecError, match="line 4: attainment: expected a number, found 'good'"):
        plot_comparison(tmp_path)
    table.assign(attainment=0.5, policy="").to_csv(tmp_path / "results.csv", index=False)
    with pytest.raises(SpecError, match="line 2: policy: expected a value, found none"):
        plot_comparison(tmp_path)


def test_a_comparison_ends_with_advice_for_each_load_and_for_all(done: Done) -> None:
    """The one question of a user: which policy, at what cost."""
    lines = done[1].advice
    assert [line.split(" take ")[0] for line in lines] == [
        "for steady",
        "for step",
        "for all these loads",
    ]
    assert all("% at $ " in line and "start-up costs you" in line for line in lines)
    text = (done[2] / "comparison.md").read_text()
    assert text.rstrip().endswith(lines[-1])
    assert "the fewest GPUs that a perfect scaler needs" in text
    assert (done[2] / "cost-attainment.png").exists()
    assert (done[2] / "gpus.png").exists()


def rows(**attainment_and_cost: tuple[float, float]) -> pd.DataFrame:
    """Return results of one load and two seeds, each policy with its attainment and cost."""
    return pd.DataFrame(
        [
            {
                "policy": name.replace("_without", f" {NO_START_UP}"),
                "scenario": "day",
                "seed": seed,
                "cell": seed,
                "alpha": 0.1,
                "interval_s": 20.0,
                "period_s": 60.0,
                "attainment": share,
                "minute_attainment_p95": share,
                "changes_per_h": 1.0,
                "cost_usd_per_h": cost,
                "objective_usd_per_h": cost + 100.0 * (1.0 - share),
                "error": "",
            }
            for name, (share, cost) in attainment_and_cost.items()
            for seed in (1, 2)
        ]
    )


def test_the_figures_of_a_comparison_are_drawn_again_from_its_files(done: Done) -> None:
    """To the same bytes for a screen; as wide as a page if one is asked for."""
    out = done[2]
    paths = [out / name for name in ("cost-attainment.png", "gpus.png")]
    before = [path.read_bytes() for path in paths]
    assert plot_directory(out, SCREEN) == paths
    assert [path.read_bytes() for path in paths] == before
    wide = plot_directory(out, Form(width_in=3.3, svg=True))
    assert [path.suffix for path in wide] == [".png", ".svg"] * 2
    # 72 points to the inch.
    assert all('width="237.6pt"' in path.read_text()[:1000] for path in wide[1::2])


def test_the_advice_says_what_it_saves_and_what_start_up_costs() -> None:
    """The sentence of the issue."""
    results = rows(
        slo=(0.991, 92.0), hpa=(0.99, 107.0), slo_without=(0.999, 90.0), clairvoyant=(1.0, 80.0)
    )
    assert advice(results) == (
        "for this load take slo: 99.1 % at $ 92.00/h, 14 % cheaper than hpa at the same "
        "attainment; start-up costs you 0.8 points",
    )


def test_what_start_up_costs_over_all_loads_is_told_if_it_is_known_of_all() -> None:
    """Where another policy was the best under the second load, the first one's answer stood for
    both.
    """
    day = rows(slo=(0.99, 92.0), hpa=(0.98, 99.0), slo_without=(1.0, 90.0))
    step = rows(slo=(0.9, 92.0), hpa=(0.95, 90.0), hpa_without=(1.0, 90.0))
    lines = advice(pd.concat([day, step.assign(scenario="step", cell=step["cell"] + 2)]))
    assert [line.count("start-up costs you") for line in lines] == [1, 1, 0]


def test_the_advice_says_what_its_points_cost() -> None:
    """ "No worse than hpa" would be said of 8 % more cost, or "nan %" where nobody asks."""
    dearer = rows(slo=(0.993, 100.0), hpa=(0.99, 92.5)).assign(objective_usd_per_h=[1, 1, 2, 2])
    assert advice(dearer) == (
        "for this load take slo: 99.3 % at $ 100.00/h, 0.3 points more than hpa at +8 % of cost",
    )
    idle = rows(slo=(math.nan, 5.0), hpa=(math.nan, 10.0), static=(math.nan, 0.0))
    idle = idle.assign(objective_usd_per_h=[1, 1, 2, 2, 3, 3])
    assert advice(idle) == (
        "for this load take slo: no requests at $ 5.00/h, 50 % cheaper than hpa",
    )
    assert advice(idle.assign(requests=9)) == (
        "for this load take slo: no targets at $ 5.00/h, 50 % cheaper than hpa",
    )


def test_the_advice_says_what_it_loses_where_fewer_misses_in_all_are_why_it_is_taken() -> None:
    """It said "-5.0 points more", and "the attainment of hpa" of five points less."""
    for usd, at in ((100.0, "the same cost"), (110.0, "+10 % of cost")):
        waits = rows(slo=(0.9, usd), hpa=(0.95, 100.0)).assign(objective_usd_per_h=[1, 1, 2, 2])
        assert advice(waits) == (
            f"for this load take slo: 90.0 % at $ {usd:.2f}/h, 5.0 points less than hpa at {at}, "
            "and fewer misses in all",
        )
    untold = rows(slo=(math.nan, 11.0), hpa=(math.nan, 10.0))
    untold = untold.assign(objective_usd_per_h=[1, 1, 2, 2])
    assert "10 % dearer than hpa, with fewer misses" in advice(untold)[0]


def test_the_advice_says_from_whom_chance_alone_may_tell_it() -> None:
    """A researcher was told to take a policy whose difference was -94.9 to +81.1 points."""
    results = rows(slo=(0.99, 90.0), hpa=(0.98, 90.0), keda=(0.5, 95.0))
    assert "seeds" not in advice(results)[0]  # both seeds say the same
    hpa = results["policy"] == "hpa"
    results.loc[hpa, "objective_usd_per_h"] += [8.0, -8.0]
    assert advice(results)[0].endswith("; 2 seeds do not tell it from hpa: take more (--seeds)")
    # A single seed has no interval to tell; the tables say so, too.
    assert "seeds" not in advice(results[results["seed"] == 1])[0]


def test_the_advice_compares_equal_loads_and_seeds() -> None:
    """A policy that failed under the hard seed would look the better for it, and be advised."""
    results = rows(slo=(0.95, 90.0), mine=(0.99, 80.0))
    hard = results["seed"] == 2
    results.loc[hard, "attainment"] -= 0.1
    results.loc[hard & (results["policy"] == "mine"), ["error", "attainment"]] = ["broke", np.nan]
    assert advice(results) == ("for this load take slo: 90.0 % at $ 90.00/h",)
    results.loc[~hard & (results["policy"] == "slo"), "error"] = "broke"
    # Nothing that both finished: each is told by what it has.
    assert advice(results)[0].startswith("for this load take mine: 99.0 %")


def test_the_advice_says_where_scaling_does_not_pay() -> None:
    """A user was told to take 40 % more than the fixed count costs that stood in the same table."""
    results = rows(slo=(0.99, 90.0), static_peak=(1.0, 60.0))
    told = "; static_peak, which is told the peak, does better: 100.0 % at $ 60.00/h"
    assert advice(results)[0].endswith(told)
    assert "static_peak" not in advice(rows(slo=(0.99, 50.0), static_peak=(1.0, 60.0)))[0]
    assert "static_peak" not in advice(rows(slo=(1.0, 60.1), static_peak=(1.0, 60.0)))[0]
    # Under equal loads and seeds only.
    assert "static_peak" not in advice(results.iloc[:-1])[0]


def test_the_advice_says_what_its_policy_did_not_decide() -> None:
    """Half of its cycles failed, it held what it had, and that was advised without a word."""
    results = rows(slo=(0.99, 90.0)).assign(cycles=60, cycles_failed=[30, 1])
    assert advice(results)[0].endswith("; 31 of its 120 cycles had an error")
    assert "error" not in advice(results.assign(cycles_failed=0))[0]


def test_without_a_policy_that_finished_the_advice_says_why() -> None:
    """It was an empty line, or a traceback."""
    assert advice(rows(static_peak=(1.0, 9.0), static_peak_without=(1.0, 9.0))) == (
        "only bounds were compared, which nobody can run: name a policy beside them",
    )
    assert advice(rows(slo=(1.0, 9.0)).assign(error="broke")) == (
        "no run finished: there is nothing to advise",
    )
    both = rows(slo=(1.0, 9.0), clairvoyant=(1.0, 8.0))
    both.loc[both["policy"] == "slo", "error"] = "broke"
    assert advice(both) == (
        "only bounds finished, which nobody can run: there is nothing to advise",
    )


def test_a_policy_is_not_compared_with_what_tuning_left_as_it_was() -> None:
    """ "No worse than slo tuned" says nothing to whom it is told."""
    results = rows(slo=(0.99, 90.0), hpa=(0.9, 100.0))
    tuned = results[results["policy"] == "slo"].assign(policy="slo tuned")
    assert advice(pd.concat([results, tuned])) == (
        "for this load take slo: 99.0 % at $ 90.00/h, 10 % cheaper than hpa at 9.0 points more "
        "attainment",
    )


BROKEN = """
class Broken:
    name, tick_s = "broken", 60.0
    def start(self): return None
    def decide(self, snapshot, data, state): raise RuntimeError("no idea")
"""


def test_a_comparison_in_which_everything_fails_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What people write first fails first; names of theirs are printed as they are."""
    (tmp_path / "mine.py").write_text(BROKEN + BROKEN.replace("Broken", "B"))
    data = write_two_servers(tmp_path)
    asked = CompareConfig(
        contenders=contenders((f"{tmp_path}/mine.py:B",)),
        loads=SweepConfig(base=RunConfig(data=data, scenario="steady", hours=0.05)),
    )
    found = compare(
        asked, tmp_path / "out", executor=LocalProcesses(jobs=1), console=text_console()
    )
    assert len(found.failures) == 1
    assert found.advice == ("no run finished: there is nothing to advise",)
    out = capsys.readouterr().out
    assert "mine.py:B failed (steady, seed 1): RuntimeError: no idea" in out
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    assert table["error"].tolist() == ["RuntimeError: no idea"]


def test_policies_are_compared_by_name_or_as_objects() -> None:
    """A notebook has objects, and they lost their names on the way to the table."""
    mine = HpaPolicy(target=0.4, name="mine")
    found = contenders((mine, "hpa"), (("hpa.target", (0.5, 0.6)),))
    assert [one.name for one in found] == ["mine", "hpa(target=0.5)", "hpa(target=0.6)"]
    assert found[0].policy is mine


def test_a_bound_is_never_advised() -> None:
    """Nobody can run what knows the future; of equal policies the one that is named first."""
    assert best_policy(rows(slo=(0.9, 100.0), hpa=(0.9, 100.0))) == "slo"
    assert best_policy(rows(slo=(0.9, 100.0), hpa=(0.95, 100.0), static_peak=(1.0, 1.0))) == "hpa"


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6))
def test_the_interval_of_a_share_stays_within_0_and_1(shares: list[float]) -> None:
    """99.8 ± 0.6 % is no interval."""
    found = estimate_share(shares)
    assert found.n == len(shares)
    if found.n > 1:
        assert 0.0 <= found.low <= found.mean + 1e-12
        assert found.mean - 1e-12 <= found.high <= 1.0
    else:
        assert math.isnan(found.low)


def test_the_interval_of_a_share_covers_it() -> None:
    """In nineteen of twenty samples, as it says; a little less where the share is near its end."""
    rng = np.random.default_rng(5)
    share = 0.97
    inside = 0
    for _ in range(400):
        found = estimate_share(rng.binomial(500, share, 5) / 500)
        inside += found.low <= share <= found.high
    assert inside / 400 >= 0.92


def test_differences_are_taken_along_every_axis_that_is_swept() -> None:
    """A period that helps one policy and hurts another shows, in pairs of equal seeds."""
    first = rows(slo=(0.9, 100.0), hpa=(0.95, 120.0))
    second = first.assign(period_s=30.0, attainment=first["attainment"] + 0.02)
    table = differences_table(pd.concat([first, second], ignore_index=True))
    by_policy = table[table["axis"] == "policy"]
    assert by_policy["attainment"].tolist() == pytest.approx([0.05, 0.05])
    by_period = table[table["axis"] == "period_s"]
    assert list(by_period["to"]) == [30.0, 30.0]
    assert by_period["attainment"].tolist() == pytest.approx([0.02, 0.02])


def test_an_option_of_a_policy_is_an_axis_too() -> None:
    """What a target is worth was told against another policy only, with the chance of both."""
    settings = {"target=0.5": 0.97, "target=0.6": 0.95, "target=0.75": 0.9}
    both = rows(slo=(0.99, 90.0), **{f"hpa({told})": (one, 99.0) for told, one in settings.items()})
    found = differences_table(both)[["from", "to", "attainment"]].to_numpy().tolist()
    assert [row[:2] for row in found[3:]] == [
        ["hpa(target=0.5)", "hpa(target=0.6)"],
        ["hpa(target=0.5)", "hpa(target=0.75)"],
    ]
    assert [row[2] for row in found] == pytest.approx([-0.02, -0.04, -0.09, -0.02, -0.07])
    names = [one.name for one in contenders(("a.py",), (("x", (1, 2)), ("y", (3, 4))))]
    assert [settings_of(name) for name in names] == [
        ("a.py", {"x": x, "y": y}) for x in "12" for y in "34"
    ]
    grid = rows(**dict.fromkeys(names, (0.9, 1.0)))
    pairs = differences_table(grid)[["from", "to"]].to_numpy().tolist()
    # One option at a time; the first three are against the first setting of all.
    assert [[names.index(name) for name in pair] for pair in pairs] == [
        [0, 1],
        [0, 2],
        [0, 3],
        [1, 3],
        [2, 3],
    ]


def test_intervals_stay_where_the_figures_can_be() -> None:
    """Two seeds far apart gave costs below zero, and differences of 150 points."""
    wild = rows(slo=(0.5, 10.0), hpa=(0.5, 10.0))
    wild["attainment"], wild["cost_usd_per_h"] = [1.0, 0.0, 0.0, 1.0], [1.0, 30.0, 30.0, 1.0]
    wild = wild.assign(**{one.name: 1.0 for one in COLUMNS if one.name not in wild})
    table, differences = summary(wild), differences_table(wild)
    assert (table["cost_usd_per_h_low"] == 0.0).all()
    assert (differences["attainment_low"] == -1.0).all()
    assert (differences["attainment_high"] == 1.0).all()
    assert (differences["cost_usd_per_h_low"] < 0.0).all()


def test_an_interval_of_disturbances_is_an_axis_of_its_own() -> None:
    """Loads of two intervals were averaged as if they were two seeds."""
    one = rows(slo=(0.9, 100.0))
    both = pd.concat([one, one.assign(interval_s=60.0, attainment=0.8)], ignore_index=True)
    table = differences_table(both)
    assert [(row["axis"], row["to"]) for row in table.to_dict("records")] == [("interval_s", 60.0)]
    assert table["attainment"].tolist() == pytest.approx([-0.1])


def test_every_figure_stands_under_its_heading() -> None:
    """With a second axis a column was put in, and all headings after it were those of another."""
    known = rows(slo=(0.9, 100.0), hpa=(0.95, 120.0))
    others = {"hours", "gpus_peak_perfect", "gpus_mean_perfect", *(one.name for one in COLUMNS)}
    first = known.assign(**dict.fromkeys(others - set(known), 1.0))
    both = pd.concat([first, first.assign(period_s=30.0)], ignore_index=True)
    for done, at in ((first, 0), (both, 1)):
        *_, (_, headings, cells) = report_tables(done, summary(done), differences_table(done))
        assert headings[: 2 + at] == ["difference", "load", "at"][: 2 + at]
        assert {len(line) for line in cells} == {len(headings)}
        share = headings.index("within\nSLO [%]")
        assert cells[0][0] == "hpa − slo"
        assert cells[0][share].startswith("+5.0")


def test_large_figures_have_their_thousands_apart() -> None:
    """A cluster in yen costs hundreds of thousands an hour; a difference of nothing has no sign."""
    assert signed(-194_858.514, "+,.2f") == "-194,858.51"
    assert signed(-0.001, "+,.2f") == "+0.00"


def test_the_front_is_who_is_beaten_by_nobody() -> None:
    """Dearer and no better is behind it."""
    points = {"a": (1.0, 0.9), "b": (2.0, 0.95), "c": (3.0, 0.94), "d": (4.0, 0.99)}
    assert front_of(points) == ["a", "b", "d"]


def test_bars_that_reach_beyond_the_frame_are_cut_and_not_left_out() -> None:
    """Whoever has no bar looks certain. They went where they were long, beside others that had
    theirs.
    """
    results = rows(slo=(0.9, 100.0), hpa=(0.95, 120.0))
    assert len(draw_costs(results).axes[0].collections) == 4
    wild = results.assign(cost_usd_per_h=[10.0, 200.0, 20.0, 220.0])
    ax = draw_costs(wild).axes[0]
    assert len(ax.collections) == 4
    # The means, 105 and 120, still fill the axis.
    assert 80.0 < ax.get_xlim()[0] < 105.0
    assert 120.0 < ax.get_xlim()[1] < 145.0
    assert ax.get_ylim()[1] <= 101.0


def test_a_picture_has_a_panel_for_each_load_and_names_everybody_once() -> None:
    """Runs of two alphas were averaged as if they were two seeds, their GPUs drawn as two lines of
    one policy, and who had failed under the first load was not named.
    """
    calm = rows(slo=(0.99, 100.0), hpa=(0.95, 120.0))
    rough = calm.assign(alpha=0.3, attainment=calm["attainment"] - 0.5)
    both = pd.concat([calm, rough], ignore_index=True).assign(gpus_held=[[1, 2]] * 8)
    both["run_id"] = both.index.astype(str)
    done = both[(both["policy"] == "slo") | (both["alpha"] == 0.3)]
    for figure in (draw_costs(done), draw_gpus(done.to_dict("records"), done)):
        assert [ax.get_title(loc="left").partition(", seed")[0] for ax in figure.axes] == [
            "day, alpha 0.1",
            "day, alpha 0.3",
        ]
        names = [text.get_text() for text in figure.legends[0].texts]
        assert sorted(set(names) - {"front"}) == ["hpa", "slo"]
        assert len(names) == len(set(names))
    # Where the first seed of all failed, the next one is drawn.
    later = done[(done["alpha"] == 0.1) | (done["seed"] > done["seed"].min())]
    assert all(ax.lines for ax in draw_gpus(later.to_dict("records"), later).axes)
    points = [ax.lines[0].get_ydata()[0] for ax in draw_costs(done).axes]
    assert points == pytest.approx([99.0, 49.0])
    # Of four panels in three columns two stand over nothing.
    four = pd.concat([calm.assign(alpha=alpha) for alpha in (0.1, 0.2, 0.3, 0.4)])
    labels = [bool(ax.get_xlabel()) for ax in draw_costs(four).axes[:4]]
    assert labels == [False, True, True, True]


def test_a_policy_has_the_colour_in_a_picture_that_it_has_on_a_page() -> None:
    """hpa was vermillion on one and orange on the other, and moved where a bound stood first."""
    drawn = draw_costs(rows(static_peak=(1.0, 130.0), slo=(0.9, 100.0), hpa=(0.95, 120.0)))
    handles, labels = drawn.axes[0].get_legend_handles_labels()
    shades = {label: bar[0].get_color() for label, bar in zip(labels[1:], handles[1:], strict=True)}
    assert [shades["slo"], shades["hpa"]] == [*SERIES[:2]]


def test_options_belong_to_policies_and_values_make_contenders() -> None:
    """--set slo.headroom=0.1,0.2 --set hpa.target=0.5 compares two of slo with one of hpa."""
    found = contenders(("slo", "hpa"), (("slo.headroom", (0.1, 0.2)), ("hpa.target", (0.5,))))
    assert [(one.name, dict(one.options)) for one in found] == [
        ("slo(headroom=0.1)", {"headroom": 0.1}),
        ("slo(headroom=0.2)", {"headroom": 0.2}),
        ("hpa", {"target": 0.5}),
    ]


def test_an_option_of_a_policy_that_is_not_compared_is_told() -> None:
    """--set hp.target=0.5 would be ignored, and the run taken for one with it."""
    with pytest.raises(SpecError, match=r"--set hp\.target: expected an option of slo, hpa"):
        contenders(("slo", "hpa"), (("hp.target", (0.5,)),))


def test_a_comparison_needs_a_policy_and_each_one_once() -> None:
    """A bound alone compares nothing."""
    with pytest.raises(SpecError, match="at least one beside clairvoyant"):
        CompareConfig(contenders=contenders(("clairvoyant",)))
    with pytest.raises(SpecError, match="every policy once, found slo twice"):
        CompareConfig(contenders=contenders(("slo", "slo")))


def load(server: str, curve: Curve, *, counted: bool = False) -> ServerLoad:
    """Return a load of *server* that moves as *curve*."""
    nominal = OfferedLoad(rate_rpm=60.0, in_tokens=100.0, out_tokens=100.0)
    walk = Walk(kind="reverting", alpha=0.0)
    return ServerLoad(
        server=server, index=0, seed=1, nominal=nominal, walk=walk, curve=curve, counted=counted
    )


def test_a_jump_that_stays_is_what_settling_is_measured_from() -> None:
    """A ramp has none, bursts never settle, and a load that was counted jumps every minute."""
    jumps = steps([(600.0, 2.0), (1200.0, 0.5)])
    assert last_jump_s(load("a", jumps)) == 1200.0
    assert last_jump_s(load("a", constant())) is None
    assert last_jump_s(load("a", jumps, counted=True)) is None
    assert last_jump_s(load("a", burst(factor=4, start_s=300, length_s=90, every_s=600))) is None


def test_each_server_settles_after_a_jump_of_its_own(done: Done) -> None:
    """That of the first server was taken for all: where only another one's load jumped, overshoot
    and settling time were empty.
    """
    sources = read_sources(replace(done[0].loads.base, scenario="step", policy="slo"))
    first, second = sources.loads
    result = simulate(sources)
    early = steps([(60.0, 2.0)])
    both = after_step(result, (replace(first, curve=early), replace(second, curve=early)))
    halves = [
        after_step(result, (replace(first, curve=a), replace(second, curve=b)))
        for a, b in ((early, constant()), (constant(), early))
    ]
    assert both["overshoot"] == sum(half["overshoot"] or 0.0 for half in halves)
    assert both["settling_s"] == max(half["settling_s"] or 0.0 for half in halves)
    assert None not in halves[1].values()
    assert set(after_step(result, (first, second)).values()) == {None}
