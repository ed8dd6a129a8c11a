"""Claims about experiments.scenario: scenario files, their errors, and what they make of a data
set.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emulator.load import batches
from emulator.walk import Walk
from experiments.scenario import (
    Scenario,
    capacity_events,
    known_scenarios,
    node_failures,
    parse_scenario,
    read_scenario,
    server_loads,
)
from experiments.scenario_rules import unlike_parts, unseen_changes
from loop.types import Load
from tests.parts import first
from twin.spec import Server, SpecError

SERVERS = (
    Server(
        name="vllm-001",
        model="llama_13b",
        service_class="Premium",
        token_distribution="fixed",
        arrival_cv=2.0,
    ),
    Server(name="vllm-002", model="granite_13b", service_class="Bronze"),
    Server(name="vllm-003", model="llama_13b", service_class="Free"),
)
LOADS = {server.name: Load(rate_rpm=60.0, in_tokens=500.0, out_tokens=100.0) for server in SERVERS}
CAPACITY = {"A100": 16, "H100": 9, "MI250": 0}


def parsed(text: str, base: Path = Path()) -> Scenario:
    return parse_scenario(text, name="test", source="test.yaml", base=base)


def loads_of(scenario: Scenario, *, alpha: float = 0.0):
    return server_loads(scenario, servers=SERVERS, nominal=LOADS, walk=Walk(alpha=alpha), seed=3)


def applied(scenario: Scenario) -> None:
    loads_of(scenario)
    capacity_events(scenario, CAPACITY)
    node_failures(scenario, CAPACITY)


def test_the_scenarios_of_the_issue_are_there():
    """Names that users and documents rely on."""
    assert set(known_scenarios()) == {
        "steady", "day", "ramp", "step", "burst", "code-trace", "chat-trace", "shortage", "failure",
        "disturbed",
    }  # fmt: skip
    assert read_scenario("diurnal") == read_scenario("day")


@pytest.mark.parametrize("name", known_scenarios())
def test_every_ready_scenario_works_on_any_data_set(name: str):
    """They name no server, class, model or accelerator type of ours, and say what they are."""
    scenario = read_scenario(name)
    assert scenario.name == name
    assert scenario.description
    for load in loads_of(scenario, alpha=scenario.disturbance_alpha):
        assert (
            sum(
                len(batch.times_s)
                for batch in batches(load, interval_s=scenario.interval_s, until_s=600.0)
            )
            > 100
        )
    events = (*capacity_events(scenario, CAPACITY), *node_failures(scenario, CAPACITY))
    assert all(0 <= event.t_s < 3600 * scenario.hours for event in events)


def test_steady_is_calm_and_disturbed_comes_back_to_its_nominal():
    """alpha 0; and alpha 0.1 of a walk that reverts: a plain one wanders off within the hour."""
    assert read_scenario("steady").disturbance_alpha == 0.0
    disturbed = read_scenario("disturbed")
    assert (disturbed.disturbance_alpha, disturbed.interval_s) == (0.1, 60.0)
    assert (disturbed.walk, disturbed.theta) == ("reverting", 0.2)


def test_the_shapes_of_the_ready_scenarios_are_those_that_were_agreed():
    """Figures of different versions can be compared only as long as the loads are the same."""

    def values(name: str) -> list[float]:
        curve = loads_of(read_scenario(name))[0].curve
        return [curve.at(t) for t in np.arange(0.0, 3600.0, 1.0)]

    ramp = values("ramp")
    assert max(ramp) == 2.5
    assert ramp.index(2.5) - ramp.index(1.0 + 1.5 / 900) + 1 == 900
    assert ramp.count(2.5) == 901
    assert ramp[-1] == 1.0
    step = values("step")
    assert (step[1199], step[1200], step[-1]) == (1.0, 2.0, 2.0)
    day = values("day")
    assert (min(day), max(day)) == pytest.approx((0.4, 1.6))
    burst = values("burst")
    assert [burst[t] for t in (299, 300, 389, 390, 899, 900)] == [1, 4, 4, 1, 1, 4]
    assert (read_scenario("burst").hours, read_scenario("burst").warm_up_s) == (3.0, 3600.0)


@pytest.mark.parametrize("name", ["code-trace", "chat-trace"])
def test_a_ready_trace_keeps_the_means_of_each_server_and_begins_where_the_seed_says(name: str):
    """Otherwise all servers would have their bursts together, and all seeds would be one."""
    first, second = loads_of(read_scenario(name))[:2]
    arrivals = [
        np.concatenate([b.times_s for b in batches(load, interval_s=60.0, until_s=3600.0)])
        for load in (first, first, second, replace(first, seed=first.seed + 1))
    ]
    same, again, other, seed = (np.bincount((times // 60).astype(int)) for times in arrivals)
    assert list(same) == list(again)
    assert list(same) != list(other)
    assert list(same) != list(seed)
    hours = first.replay.trace.span_s / 3600 * first.replay.trace.rate_rpm / first.nominal.rate_rpm
    whole = np.concatenate(
        [b.times_s for b in batches(first, interval_s=60.0, until_s=3600.0 * hours)]
    )
    assert len(whole) == pytest.approx(len(first.replay.trace.times_s), abs=1)


def test_a_shortage_takes_gpus_away_and_gives_them_back():
    """A number of GPUs is a whole number; 9 GPUs halved are 4. Only the two types with the most
    GPUs are short, so that there is something to move to.
    """
    events = capacity_events(read_scenario("shortage"), CAPACITY)
    gpus = [
        {event.type: event.gpus for event in events if event.t_s == t_s} for t_s in (1200.0, 2400.0)
    ]
    assert gpus == [{"A100": 8, "H100": 4}, {"A100": 16, "H100": 9}]


@pytest.mark.parametrize(
    ("name", "first_s"),
    [("step", 1200), ("ramp", 600), ("failure", 1200), ("shortage", 600), ("burst", 300)],
)
def test_a_run_that_ends_before_its_scenario_begins_says_so(name: str, first_s: int):
    """Six minutes of step are steady, and were shown as a step without a word."""
    scenario = read_scenario(name)
    (told,) = unseen_changes(scenario, end_s=float(first_s))
    assert told == f"{name}: it first changes at {first_s} s, and the run ends at {first_s} s"
    assert not unseen_changes(scenario, end_s=first_s + 1.0)


def test_a_trace_that_begins_unlike_the_rest_of_it_is_told(tmp_path: Path):
    """Public traces begin with days of hardly any requests: every policy met every target there."""
    quiet, busy = np.arange(0.0, 7200.0, 60.0), np.arange(7200.0, 14400.0, 1.0)
    rows = "".join(f"{at:.4f},100,10\n" for at in (*quiet, *busy))
    head = "arrival_s,input_tokens,output_tokens\n"
    (tmp_path / "trace.csv").write_text(head + rows, encoding="utf-8")
    path = tmp_path / "quiet.yaml"
    for offset, told in (("none", True), ("random", False)):
        text = f"load: [{{trace: {{file: trace.csv, rate: server, offset: {offset}}}}}]"
        path.write_text(text, encoding="utf-8")
        loads = loads_of(read_scenario(str(path)))
        assert [*unlike_parts(loads, end_s=4 * 3600.0)] == []  # as good as all of it
        found = [*unlike_parts(loads, end_s=1800.0)]
        assert bool(found) is told
        assert all("times the rate of the whole trace" in line for line in found)


@pytest.mark.parametrize("name", ["steady", "disturbed", "day", "code-trace", "chat-trace"])
def test_of_what_moves_at_once_or_never_nothing_is_said(name: str):
    """A line that is always there is not read."""
    assert not unseen_changes(read_scenario(name), end_s=60.0)


def test_a_name_is_looked_up_before_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`--scenario NAME|FILE`."""
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own.yaml"
    own.write_text("alpha: 0.25\n")
    (tmp_path / "steady").write_text("alpha: 0.75\n")
    assert read_scenario(own).disturbance_alpha == 0.25
    assert read_scenario("own.yaml").name == "own"
    assert read_scenario("steady").disturbance_alpha == 0.0


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path: Path):
    """One line, exit code 2."""
    with pytest.raises(SpecError) as caught:
        read_scenario("stedy")
    assert str(caught.value).startswith("scenario: expected one of burst, chat-trace, code-trace, ")
    assert str(caught.value).endswith("or the path of a file, found 'stedy'; did you mean steady?")
    with pytest.raises(SpecError, match="expected one of none, or the path of a file, found 'x'"):
        read_scenario("x", folder=tmp_path)


def test_a_file_that_is_no_text_is_named(tmp_path: Path):
    """A parquet file given for a scenario is not a traceback."""
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(
        SpecError, match=r"x\.yaml: expected a text file in UTF-8, found bytes that are not UTF-8"
    ):
        read_scenario("x", folder=tmp_path)


def test_an_empty_scenario_is_the_default_one():
    """Everything has a default: those of the command."""
    scenario = parsed("{}")
    assert scenario == Scenario(name="test", digest=scenario.digest)
    assert (scenario.disturbance_alpha, scenario.interval_s, scenario.hours, scenario.walk) == (
        0.5,
        60.0,
        1.0,
        "plain",
    )


def test_the_first_rule_that_selects_a_server_is_the_one_for_it():
    """By server, class, model, or all of them together."""
    scenario = parsed("""
    load:
      - {server: vllm-003, scale: 2}
      - {model: llama_13b, class: Premium, scale: 3, in_tokens_scale: 0.5, arrival_cv: 1}
      - {scale: 4, out_tokens_scale: 2}
    """)
    first, second, third = loads_of(scenario)
    assert [load.nominal.rate_rpm for load in (first, second, third)] == [180.0, 240.0, 120.0]
    assert first.nominal.in_tokens == 250.0
    assert second.nominal.out_tokens == 200.0
    assert (first.arrival_cv, second.arrival_cv) == (1.0, 1.0)
    assert (third.server, third.index, third.seed) == ("vllm-003", 2, 3)


def test_arrivals_of_ones_own_are_those_of_the_servers_that_a_rule_selects():
    """A rule goes before what the data say of the server, as with its burstiness."""
    own = "tests.twin.test_ports:InPairs"
    data = (replace(SERVERS[0], arrivals=own), *SERVERS[1:])
    scenario = parsed(f"load: [{{model: granite_13b, arrivals: '{own}'}}, {{arrivals: renewal}}]")
    assert [load.arrivals for load in loads_of(scenario)] == ["renewal", own, "renewal"]
    of_data = server_loads(parsed("{}"), servers=data, nominal=LOADS, walk=Walk(alpha=0.0), seed=3)
    assert [load.arrivals for load in of_data] == [own, "renewal", "renewal"]
    (_, second, _) = (next(batches(load, interval_s=60.0)) for load in loads_of(scenario))
    assert second.times_s.tolist() == [0.5 + 2.0 * (k // 2) for k in range(60)]


def test_a_server_brings_its_own_sizes_and_burstiness():
    """They are facts of the world (twin-data.json); a scenario only moves the load."""
    first, second, _ = loads_of(parsed("{}"))
    assert (first.token_distribution, first.arrival_cv) == ("fixed", 2.0)
    assert (second.token_distribution, second.token_cv, second.arrival_cv) == (
        "lognormal",
        0.5,
        1.0,
    )


def test_phases_are_read_in_seconds_and_in_the_words_of_the_existing_emulator():
    """A duration of 0s, as there, or none, holds for ever."""
    for last in ("{duration: 0s}", "{}", "{duration_s: 0, ratio: 7}"):
        scenario = parsed(
            f"load: [{{phases: [{{duration: 5m}}, {{duration_s: 600, ratio: 3}}, {last}]}}]"
        )
        curve = loads_of(scenario)[0].curve
        assert [curve.at(t) for t in (0, 300, 600, 900, 1e6)] == pytest.approx([1, 1, 2, 3, 3])


def test_every_shape_can_be_written():
    """The five shapes and their fields, as docs/load.md lists them."""
    shapes = {
        "{kind: constant}": [1, 1, 1],
        "{kind: ramp, factor: 3, up_s: 100, hold_s: 50, down_s: 0}": [1, 3, 1],
        "{kind: steps, levels: [{t_s: 50, factor: 2}, {t_s: 150, factor: 0.5}]}": [1, 2, 0.5],
        "{kind: burst, factor: 9, start_s: 90, length_s: 20}": [1, 9, 1],
        "{kind: diurnal, low: 0, high: 2, peak_hour: 12, start_hour: 6, compression: 432}": [
            1,
            1,
            1,
        ],
    }
    for text, expected in shapes.items():
        curve = loads_of(parsed(f"load: [{{shape: {text}}}]"))[0].curve
        assert [curve.at(t) for t in (0, 100, 200)] == pytest.approx(expected), text


def test_a_trace_is_found_beside_its_scenario(tmp_path: Path):
    """A scenario and its trace are moved together; the server needs no load of its own."""
    (tmp_path / "hour.csv").write_text(
        "arrival_s,input_tokens,output_tokens\n0,10,5\n1,20,5\n3,30,8\n"
    )
    scenario = parsed(
        "load: [{server: vllm-001, trace: {file: hour.csv, repeat: false}}]", tmp_path
    )
    nominal = {**LOADS, "vllm-001": None}
    load, _, _ = server_loads(
        scenario, servers=SERVERS, nominal=nominal, walk=Walk(alpha=0.0), seed=1
    )
    (batch,) = batches(load, interval_s=60.0, until_s=60.0)
    assert batch.times_s.tolist() == pytest.approx([0.0, 1.0, 3.0])
    assert batch.prompt_tokens.tolist() == [10, 20, 30]
    own_rate = parsed(
        "load: [{trace: {file: hour.csv, rate: server, format: own}, scale: 2}]", tmp_path
    )
    assert loads_of(own_rate)[0].nominal.rate_rpm == 120.0
    assert loads_of(own_rate)[0].nominal.in_tokens == 20.0
    with pytest.raises(SpecError, match=r"no\.csv: expected a request trace, found no such file$"):
        parsed("load: [{trace: {file: no.csv}}]", tmp_path)
    with pytest.raises(
        SpecError,
        match=r"^vllm-001: currentAlloc\.load: expected a nominal load for test\.yaml: load",
    ):
        server_loads(own_rate, servers=SERVERS, nominal=nominal, walk=Walk(alpha=0.0), seed=1)


def test_the_digest_follows_the_content_and_nothing_else(tmp_path: Path):
    """A finished run is used again only if its scenario is the same: not its name, comments or
    place.
    """
    rows = "arrival_s,input_tokens,output_tokens\n0,10,5\n1,20,5\n"
    (tmp_path / "a.csv").write_text(rows)
    text = "load: [{trace: {file: a.csv}}]\nalpha: 0.5"
    before = parsed(text, tmp_path).digest
    assert (
        parsed("# why\nalpha: 0.5\nload:\n  - trace:\n      file: a.csv\n", tmp_path).digest
        == before
    )
    assert parsed(text.replace("0.5", "0.6"), tmp_path).digest != before
    (tmp_path / "a.csv").write_text(rows.replace("20", "21"))
    assert parsed(text, tmp_path).digest != before


def test_events_come_in_order_of_time_and_in_gpus():
    """By type or for every type, as a number (by the old name too) or as a part of what there is
    at the start.
    """
    scenario = parsed("""
    capacity:
      - {t_s: 900, type: H100, gpus: 12}
      - {t_s: 300, type: A100, part: 0.3125}
    failures:
      - {t_s: 60, cards: 10}
      - {t_s: 30, type: H100, part: 1}
    """)
    assert [(e.t_s, e.type, e.gpus) for e in capacity_events(scenario, CAPACITY)] == [
        (300.0, "A100", 5),
        (900.0, "H100", 12),
    ]
    assert [(e.t_s, e.type, e.gpus) for e in node_failures(scenario, CAPACITY)] == [
        (30.0, "H100", 9),
        (60.0, "A100", 10),
        (60.0, "H100", 9),
    ]


@pytest.mark.parametrize("gpus", first(30, range(1, 101)))
def test_a_part_of_the_gpus_is_not_lost_by_rounding(gpus: int):
    """0.29 · 100 is 28.999… in floating point."""
    scenario = parsed(f"capacity: [{{t_s: 0, part: {gpus / 100!r}}}]")
    assert [event.gpus for event in capacity_events(scenario, {"A100": 100})] == [gpus]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1, 2]", "expected an object {…}, found [1, 2]"),
        ("", "expected an object {…}, found nothing"),
        (
            "load: [{scale: 1}",
            "line 1: expected YAML (expected ',' or ']', but got '<stream end>')",
        ),
        (
            "alpha: 0.5\n\talpha: 1",
            "line 2: expected YAML (found character '\\t' that cannot start any token)",
        ),
        (
            "alpha: 0.5\nhours: 1\nalpha: 0.6",
            "line 3: expected YAML (the key 'alpha' is given twice)",
        ),
        (
            "load: [{arrivals: poison}]",
            "load[0]: arrivals: expected one of renewal, found 'poison'",
        ),
        (
            "load: [{arrivals: 'no.such:Process'}]",
            "load[0]: arrivals: expected an arrival process that can be loaded (arrival process: "
            "cannot load 'no.such:Process': No module named 'no'), found 'no.such:Process'",
        ),
        (
            "load: [{arrivals: 'math:pi'}]",
            "load[0]: arrivals: expected what makes an arrival process, found 'math:pi, a float'",
        ),
        (
            "load: [{trace: {file: a.csv, format: 'math:pi'}}]",
            "load[0]: trace.format: expected what makes a trace format, found 'math:pi, a float'",
        ),
        (
            "load: [{arrivals: renewal, trace: {file: a.csv}}]",
            "load[0]: arrivals: expected a trace or a process of arrivals, not both, found "
            '["trace", "arrivals"]',
        ),
        ("alpha: 1.5", "alpha: expected a number >= 0 and <= 1, found 1.5"),
        ("alpha: .nan", "alpha: expected a number >= 0 and <= 1, found NaN"),
        ("alpha: half", "alpha: expected a number >= 0 and <= 1, found 'half'"),
        ("alpha: true", "alpha: expected a number >= 0 and <= 1, found true"),
        ("interval_s: 0.01", "interval_s: expected a number >= 0.1, found 0.01"),
        ("hours: -1", "hours: expected a number > 0 and <= 100000, found -1"),
        ("{[1, 2]: 3}", "line 1: expected YAML (found unhashable key)"),
        ("alpha: 2026-99-99", "expected YAML (month must be in 1..12)"),
        ("{1: 2, alpha: 0.5}", "unknown key '1' is not used"),
        ("alhpa: 0.5", "unknown key 'alhpa' is not used; did you mean alpha?"),
        ("walk: {kind: drunk}", "walk.kind: expected one of plain, reverting, found 'drunk'"),
        ("walk: {theta: 2}", "walk.theta: expected a number >= 0 and <= 1, found 2"),
        ("walk: plain", "walk: expected an object {…}, found 'plain'"),
        ("load: {scale: 2}", 'load: expected a list […], found {"scale": 2}'),
        ("load: [{scale: -2}]", "load[0]: scale: expected a number >= 0 and <= 1000, found -2"),
        (
            "load: [{}, {shpae: {}}]",
            "load[1]: unknown key 'shpae' is not used; did you mean shape?",
        ),
        ("load: [{shape: {}}]", "load[0]: shape.kind: expected a text, found nothing"),
        (
            "load: [{shape: {kind: rmp}}]",
            "load[0]: shape.kind: expected one of constant, ramp, steps, burst, diurnal, found "
            "'rmp'",
        ),
        (
            "load: [{shape: {kind: ramp, factor: 2, up_s: 1}}]",
            "load[0]: shape.down_s: expected a number >= 0, found nothing",
        ),
        (
            "load: [{shape: {kind: diurnal, low: 0, high: 1, peak_hour: 1, compression: 1.0e-9}}]",
            "load[0]: shape.compression: expected a number >= 0.001 and <= 86400, found 1e-09",
        ),
        (
            "load: [{shape: "
            "{kind: burst, factor: 2, start_s: 0, length_s: 1.0e-9, every_s: 1.0e-9}}]",
            "load[0]: shape.every_s: expected a number >= 0.1, found 1e-09",
        ),
        (
            "load: [{shape: {kind: burst, factor: 2, start_s: 10, length_s: 5, every_s: 14}}]",
            "load[0]: shape.every_s: expected a number >= 15, found 14",
        ),
        (
            "load: [{shape: {kind: steps, levels: [{t_s: 5, factor: 1}, {t_s: 5, factor: 2}]}}]",
            "load[0]: shape.levels: expected at least one, with ascending t_s, found [5.0, 5.0]",
        ),
        (
            "load: [{shape: {kind: steps, levels: [{t_s: 5, factor: x}]}}]",
            "load[0]: shape.levels[0]: factor: expected a number >= 0 and <= 1000, found 'x'",
        ),
        (
            "load: [{shape: {kind: diurnal, low: 2, high: 1, peak_hour: 3}}]",
            "load[0]: shape.high: expected a number >= 2 and <= 1000, found 1",
        ),
        (
            "load: [{shape: {kind: constant}, phases: [{}]}]",
            'load[0]: phases: expected a shape or phases, not both, found ["shape", "phases"]',
        ),
        ("load: [{phases: []}]", "load[0]: phases: expected at least one phase, found []"),
        (
            "load: [{phases: [{duration: 0s}, {duration: 5m}]}]",
            "load[0]: phases[0]: duration: expected a duration > 0 (only the last phase may be "
            "endless), found 0",
        ),
        (
            "load: [{phases: [{duration: 5 minutes}]}]",
            'load[0]: phases[0]: duration: expected a duration such as "1h30m" or "90s", found \'5 '
            "minutes'",
        ),
        (
            "load: [{phases: [{duration: 5m, ratio: 0}]}]",
            "load[0]: phases[0]: ratio: expected a number > 0, found 0",
        ),
        (
            "load: [{phases: [{duration: 5m, ratio: 100}, {duration: 5m, ratio: 11}]}]",
            "load[0]: phases: expected ratios whose product stays <= 1000, found [100.0, 11.0]",
        ),
        ("load: [{trace: {}}]", "load[0]: trace.file: expected a text, found nothing"),
        (
            "load: [{trace: {file: no.csv, format: xml}}]",
            "load[0]: trace.format: expected one of azure, mooncake, bailian, burstgpt, servegen, "
            "own, log, found 'xml'",
        ),
        (
            "capacity: [{t_s: 5}]",
            "capacity[0]: gpus: expected either gpus or part, found nothing",
        ),
        (
            "capacity: [{t_s: 5, gpus: 1, part: 1}]",
            "capacity[0]: gpus: expected either gpus or part, found 'gpus and part'",
        ),
        ("capacity: [{gpus: 1}]", "capacity[0]: t_s: expected a number >= 0, found nothing"),
        (
            "capacity: [{t_s: 5, gpus: 1.5}]",
            "capacity[0]: gpus: expected a whole number >= 0, found 1.5",
        ),
        (
            "capacity: [{t_s: 5, part: 1.0e+308}]",
            "capacity[0]: part: expected a number >= 0 and <= 1000, found 1e+308",
        ),
        (
            "failures: [{t_s: 5, part: 1.5}]",
            "failures[0]: part: expected a number >= 0 and <= 1, found 1.5",
        ),
    ],
)
def test_a_mistake_in_a_file_is_one_line_that_names_its_place(text: str, expected: str):
    """File, entry, field, what was expected, what came."""
    with pytest.raises(SpecError) as caught:
        parsed(text)
    assert str(caught.value) == f"test.yaml: {expected}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "load: [{server: vllm-9}]",
            "load[0]: expected to select a server of the data, found none with server 'vllm-9'",
        ),
        (
            "load: [{class: Free, model: granite_13b}]",
            "load[0]: expected to select a server of the data, found none with class 'Free' and "
            "model 'granite_13b'",
        ),
        (
            "capacity: [{t_s: 0, type: B200, gpus: 1}]",
            "capacity[0]: type: expected one of the capacity data (A100, H100, MI250), found "
            "'B200'",
        ),
        (
            "failures: [{t_s: 0, type: B200, gpus: 1}]",
            "failures[0]: type: expected one of the capacity data (A100, H100, MI250), found "
            "'B200'",
        ),
        (
            "failures: [{t_s: 0, type: H100, gpus: 10}]",
            "failures[0]: gpus: expected at most the 9 GPUs of H100, found 10",
        ),
    ],
)
def test_what_the_data_do_not_have_is_refused(text: str, expected: str):
    """A rule that selects nothing would be a run without the experiment that was meant."""
    scenario = parsed(text)
    with pytest.raises(SpecError) as caught:
        applied(scenario)
    assert str(caught.value) == f"test.yaml: {expected}"
