"""What a policy would have decided over recorded cycles."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import inferno
from experiments.replay import read_recording, replayed
from inferno.cli.main import main
from loop.controller import Controller
from loop.data import FixedData
from loop.policies import make_policy
from loop.policies.slo import DEFAULTS
from loop.records import record_text
from loop.schema.reading import read_system
from loop.testing.fakes import FakeBackend, ManualClock, server_view, system
from loop.types import Load
from twin.spec import SpecError

Capture = pytest.CaptureFixture[str]
NOTHING: dict[str, Any] = {"ts": "", "t_s": 0, "cycle": 1, "servers": []}
MOVED = {"policyOptions": {"headroom": 0.9}}
SMALL = inferno.SAMPLE_DATA / "small"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a short run with the default policy."""
    out = tmp_path_factory.mktemp("run")
    inferno.simulate(data=SMALL, scenario="ramp", hours=0.2, period=60).save(out)
    return out


@pytest.mark.slow
def test_the_same_policy_decides_the_same_again(run: Path) -> None:
    """Otherwise a difference to another policy would mean nothing."""
    lines = read_recording(run / "cycles.jsonl")
    cycles = list(replayed(lines, make_policy("slo"), read_system(SMALL)))
    assert [cycle.recorded for cycle in cycles] == lines
    assert [cycle.differences for cycle in cycles] == [[]] * len(lines)


@pytest.mark.slow
def test_another_policy_is_shown_with_what_it_gives_instead(run: Path, capsys: Capture) -> None:
    """A line a cycle, the sum below, and records that can be replayed themselves."""
    out = run / "replayed.jsonl"
    assert main(["replay", str(run), "--policy", "static", "--out", str(out)]) == 0
    *rows, total, wrote = capsys.readouterr().out.splitlines()
    assert len(rows) == 12
    assert total.startswith("static decides otherwise in ")
    assert " → " in rows[1]
    assert wrote == f"wrote {out}"
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert {line["policy"] for line in lines} == {"static"}
    arguments = ["replay", str(out), "--policy", "static", "--data", str(SMALL)]
    assert main(arguments) == 0
    assert "static decides otherwise in 0 of 44 cases" in capsys.readouterr().out


@pytest.mark.slow
def test_a_policy_that_knows_too_little_says_so(run: Path, capsys: Capture) -> None:
    """A recording tells of the sum of the pods: what goes by single pods would look like static."""
    assert main(["replay", str(run), "--policy", "wva"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "in 44 of 44 cases it knows too little and changes nothing: its pods are not seen one by "
        "one"
    )


@pytest.mark.slow
def test_cycles_that_saw_nothing_are_left_out_aloud(run: Path, capsys: Capture) -> None:
    """A controller records those cycles too, in which its world did not answer."""
    first, *others = (run / "cycles.jsonl").read_text().splitlines()
    failed = json.dumps({**json.loads(first), "servers": [], "failedPhase": "observe"})
    path = run / "gap.jsonl"
    path.write_text("\n".join([failed, *others]))
    assert main(["replay", str(path), "--data", str(SMALL)]) == 0
    said = capsys.readouterr()
    assert "gap.jsonl: cycles in which no server was seen are left out: 1" in said.err
    assert len(said.out.splitlines()) == 1 + len(others) + 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nonsense", r"cycles.jsonl: cycle 1: line 1: expected JSON"),
        ("[]", r"cycle 1: expected the record of a cycle, found '\[\]'"),
        ('{"t_s": 1}', r"cycle 1: ts: expected a text, found nothing"),
        (
            "\n".join(json.dumps({**NOTHING, "t_s": t_s}) for t_s in (9, 1)),
            r"cycle 2: expected a time after .*\(9 s\), found 1 s",
        ),
        ("", r"expected cycles in which servers were seen, found none"),
    ],
)
def test_what_is_no_recording_is_said_in_one_line(
    text: str, expected: str, tmp_path: Path, capsys: Capture
) -> None:
    """Any file may be given, and records of several runs may stand in one."""
    path = tmp_path / "cycles.jsonl"
    path.write_text(text)
    assert main(["replay", str(path), "--data", str(SMALL)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(expected, line)
    assert main(["replay", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: expected a readable text file" in capsys.readouterr().err


@pytest.mark.slow
def test_a_record_that_lacks_what_was_decided_is_one_line(run: Path, tmp_path: Path) -> None:
    """A record that somebody shortened was a traceback; "two" replicas were another decision."""
    first = json.loads((run / "cycles.jsonl").read_text().splitlines()[0])
    path = tmp_path / "cycles.jsonl"
    row, *others = first["servers"]
    name = f"cycle 1: {row['name']!r}"

    def with_row(**values: object) -> dict[str, Any]:
        return {**first, "servers": [{**row, **values}, *others]}

    whole = "expected a whole number >= 0, found"
    for changed, line in (
        ({**first, "ts": None}, "cycle 1: ts: expected a text, found nothing"),
        ({**first, "t_s": "soon"}, "cycle 1: t_s: expected a number, found 'soon'"),
        ({**first, "cycle": -1}, f"cycle 1: cycle: {whole} -1"),
        ({**first, "totalCost": "9"}, "cycle 1: totalCost: expected a number, found '9'"),
        ({**first, "servers": None}, "cycle 1: servers: expected a list […], found nothing"),
        ({**first, "servers": [3]}, "cycle 1: servers: expected objects {…}, found 3"),
        (with_row(accelerator=None), f"{name}: accelerator: expected a text, found nothing"),
        (with_row(replicas="two"), f"{name}: replicas: {whole} 'two'"),
        (with_row(maxBatch=None), f"{name}: maxBatch: {whole} nothing"),
    ):
        path.write_text(json.dumps(changed))
        with pytest.raises(SpecError, match=rf"cycles.jsonl: .*{re.escape(line)}"):
            read_recording(path)


def test_whatever_a_record_lacks_replay_has_no_traceback(run: Path, tmp_path: Path) -> None:
    """A mode that is a list, no total cost, and no least number were tracebacks still."""
    first = json.loads((run / "cycles.jsonl").read_text().splitlines()[0])
    path = tmp_path / "cycles.jsonl"
    row, *others = first["servers"]
    rows = [{**row, "minReplicas": None}, *others]
    words = ["replay", str(path), "--policy", "static", "--data", str(SMALL)]
    for changed, code in (
        ({**first, "mode": []}, 2),
        ({key: value for key, value in first.items() if key != "totalCost"}, 0),
        ({**first, "servers": rows}, 0),
    ):
        path.write_text(json.dumps(changed))
        assert main(words) == code


@pytest.mark.parametrize("preemptions", [0, 3])
def test_a_recording_says_what_it_does_not_keep_where_that_may_matter(
    preemptions: int, tmp_path: Path, capsys: Capture
) -> None:
    """The batch of full KV caches is cut by single pods: 65 → 74 looked like a fault."""
    loop = Controller(
        backend=FakeBackend([server_view(preemptions=preemptions)]),
        policy=make_policy("slo"),
        data=FixedData(system()),
        clock=ManualClock(),
    )
    path = tmp_path / "cycles.jsonl"
    path.write_text(record_text(loop.cycle(60.0)) + "\n")
    assert main(["replay", str(path), "--policy", "static", "--data", str(SMALL)]) == 0
    told = "cycles.jsonl: it keeps no single pods and no samples between cycles: what a policy knew"
    assert (told in capsys.readouterr().err) == (preemptions > 0)


def test_a_recording_tells_the_options_of_its_policy_and_they_count(
    tmp_path: Path, capsys: Capture
) -> None:
    """A headroom of 2 was recorded, and replayed without one: 3 pods that were 9."""
    loop = Controller(
        backend=FakeBackend([server_view(load=Load(rate_rpm=900, in_tokens=512, out_tokens=256))]),
        policy=make_policy("slo", headroom=0.9),
        data=FixedData(system()),
        clock=ManualClock(),
    )
    path = tmp_path / "cycles.jsonl"
    path.write_text(record_text(loop.cycle(60.0)) + "\n")
    assert json.loads(path.read_text())["policyOptions"] == {"headroom": 0.9}
    found = {}
    for options in ((), ("--set", "headroom=0"), ("--policy", "hpa")):
        out = tmp_path / "again.jsonl"
        words = ["replay", str(path), "--data", str(SMALL), "--out", str(out), *options]
        assert main(words) == 0
        (line,) = (json.loads(text) for text in out.read_text().splitlines())
        found[options] = line["policyOptions"], capsys.readouterr().err
    note = f"note: {path}: slo was run with headroom=0.9: so it is here\n"
    assert found[()] == ({"headroom": 0.9}, note)
    assert found["--set", "headroom=0"][0] == ({"headroom": 0} if DEFAULTS.headroom else {})
    assert note not in found["--set", "headroom=0"][1] + found["--policy", "hpa"][1]
    assert found["--policy", "hpa"][0] == {}


def test_options_of_a_recording_that_are_none_of_the_policy_are_told(
    tmp_path: Path, capsys: Capture
) -> None:
    """A record of a later version, or of another policy by the same name."""
    loop = Controller(
        backend=FakeBackend([server_view()]),
        policy=make_policy("static"),
        data=FixedData(system()),
        clock=ManualClock(),
    )
    line = json.loads(record_text(loop.cycle(60.0)))
    path = tmp_path / "cycles.jsonl"
    without = (
        "static was run with share=2, and is run here without: policy static: expected options"
    )
    wrong = "cycles.jsonl: line 1: policyOptions: expected an object {…}, found [2]"
    for options, code, said in (({"share": 2}, 0, without), ([2], 2, wrong)):
        path.write_text(json.dumps({**line, "policyOptions": options}) + "\n")
        assert main(["replay", str(path), "--policy", "static", "--data", str(SMALL)]) == code
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("moved", [{}, {"stepUp": 2}, {"speed": 10.0}, MOVED])
def test_a_recording_whose_bounds_change_says_which_are_taken(
    moved: dict[str, Any], tmp_path: Path, capsys: Capture
) -> None:
    """A controller that begins anew with other options writes on in its file."""
    loop = Controller(
        backend=FakeBackend([server_view()]),
        policy=make_policy("slo"),
        data=FixedData(system()),
        clock=ManualClock(),
    )
    first, second = (json.loads(record_text(loop.cycle(t_s))) for t_s in (60.0, 120.0))
    path = tmp_path / "cycles.jsonl"
    path.write_text(f"{json.dumps(first)}\n{json.dumps({**second, **moved})}\n")
    assert main(["replay", str(path), "--data", str(SMALL)]) == 0
    told = "or the options of its policy are not the same in all of its lines"
    assert (told in capsys.readouterr().err) == bool(moved)


def go_cycle(number: int, *, replicas: int, rpm: float) -> dict[str, object]:
    """Return a cycle as the Go loop writes it."""
    server = {
        **{"name": "Premium-llama_13b", "class": "Premium", "model": "llama_13b"},
        **{"rpm": rpm, "throughput": rpm, "avgInTok": 512, "avgOutTok": 512},
        **{"itl": 20.0, "ttft": 90.0, "sloItl": 30, "sloTtft": 500},
        **{"accelerator": "MI250", "replicas": replicas, "maxBatch": 48, "cost": 205 * replicas},
    }
    return {
        "ts": f"2026-06-17T20:0{number}:20.304018579Z",
        "cycle": number,
        "servers": [server],
        "internals": [],
        "capacity": [{"type": "MI250", "allocated": replicas, "available": 8}],
        "totalCost": 205.0 * replicas,
        "timing": {"collectMs": 1},
    }


def test_a_recording_of_the_go_loop_is_replayed(tmp_path: Path, capsys: Capture) -> None:
    """What a server has is what the cycle before gave it; a policy decides on the same load."""
    path = tmp_path / "cycles.jsonl"
    cycles = [go_cycle(number, replicas=1 + number, rpm=60.0 * number) for number in (1, 2, 3)]
    path.write_text("".join(json.dumps(cycle) + "\n" for cycle in cycles))
    lines = read_recording(path)
    assert [line["t_s"] for line in lines] == [0.0, 60.0, 120.0]
    assert [line["servers"][0]["wanted"] for line in lines] == [2, 2, 3]
    found = list(replayed(lines, make_policy("slo"), read_system(SMALL)))
    assert len(found) == 3
    assert main(["replay", str(path), "--data", str(SMALL)]) == 0
    told = "does not tell the window of its figures, the speed of a twin and the bounds of the loop"
    assert told in capsys.readouterr().err
    assert found[0].decided["servers"][0]["rpm"] == 60.0
    assert found[0].decided["servers"][0]["replicas"] == 1
    assert found[0].differences


def test_a_wrong_record_of_the_go_loop_is_one_line(tmp_path: Path) -> None:
    """A server without its replicas cannot be replayed."""
    cycle = go_cycle(1, replicas=1, rpm=60.0)
    del cycle["servers"][0]["replicas"]  # type: ignore[attr-defined]
    path = tmp_path / "cycles.jsonl"
    path.write_text(json.dumps(cycle) + "\n")
    with pytest.raises(SpecError, match="cycle 1: expected a record of the Go loop"):
        read_recording(path)


@pytest.mark.costly
def test_where_the_decisions_cannot_be_written_is_told_first(run: Path, capsys: Capture) -> None:
    """Not after an hour of replaying, and not as a name of an exception."""
    for out, line in (
        (run, f"{run}: expected a file to write, found a directory"),
        (Path("/proc/none/decided.jsonl"), "/proc/none: expected a directory that can be written"),
        (run / "cycles.jsonl", "expected no file or what inferno replay wrote, found another file"),
    ):
        assert main(["replay", str(run), "--out", str(out)]) == 2
        told = capsys.readouterr()
        assert (told.out, line in told.err) == ("", True)


@pytest.mark.parametrize(
    ("about", "line"),
    [
        ("[]", "run.json: expected what inferno sim wrote, found []"),
        ("{}", "run.json: expected what inferno sim wrote, found {}"),
        (
            '{"config": {"data": "elsewhere/mine"}}',
            "expected the data of the run in elsewhere/mine, found no such directory: say where",
        ),
    ],
)
def test_a_run_whose_data_are_not_known_is_one_line(
    tmp_path: Path, capsys: Capture, about: str, line: str
) -> None:
    """It was replayed over the sample data in silence, or ended in a traceback."""
    (tmp_path / "run.json").write_text(about)
    (tmp_path / "cycles.jsonl").write_text(json.dumps(NOTHING) + "\n")
    for command in ("replay", "plot", "explain-misses"):
        assert main([command, str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert line in said or (command != "replay" and "data" in about)
