"""The `inferno` command: every wrong input gives one clear line and exit code 2, and nothing half
is written.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from argparse import ArgumentParser
from contextlib import closing, redirect_stderr
from dataclasses import fields
from pathlib import Path

import httpx
import pytest

from experiments.config import RunConfig
from experiments.scenario import Scenario
from experiments.sources import read_sources
from inferno.cli import main as inferno
from inferno.cli.runs import (
    END_LINE,
    add_run_options,
    add_seed_options,
    run_config,
    run_grid,
    working,
)
from loop.policies import policy_names
from tests.live.served import eventually
from twin.kube.files import kubeconfig_text

Capture = pytest.CaptureFixture[str]

QUICK = [
    "--data",
    "sample-data/small",
    "--scenario",
    "steady",
    "--hours",
    "0.02",
    "--policy",
    "static",
]


@pytest.fixture
def data(repository: Path, tmp_path: Path) -> Path:
    """Return a copy of the small sample system that a test may spoil."""
    return shutil.copytree(repository / "sample-data" / "small", tmp_path / "data")


def complaint(capsys: Capture, *arguments: str) -> str:
    """Run a command that must refuse its input; return its one line."""
    try:
        code = inferno.main(arguments)
    except SystemExit as end:  # argparse leaves by itself
        code = int(end.code or 0)
    said = capsys.readouterr()
    assert code == 2, said
    assert said.out == ""
    lines = said.err.strip().splitlines()
    assert "Traceback" not in said.err
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("command", inferno.NAMES)
def test_every_command_teaches_itself(command: str, capsys: Capture) -> None:
    """--help is where people look first."""
    with pytest.raises(SystemExit) as end:
        inferno.main([command, "--help"])
    assert end.value.code == 0
    assert f"usage: inferno {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--alpha", "1.5"], r"alpha: expected .*\[0, 1\].*1\.5"),
        (["--alpha", "-0.1"], r"alpha: expected .*\[0, 1\].*-0\.1"),
        (["--period", "0"], r"period: expected .*> 0.*0"),
        (["--interval", "-5"], r"interval: expected .*> 0.*-5"),
        (["--hours", "nan"], r"hours: expected .*> 0.*nan"),
        (["--policy", "oracle"], r"policy: expected one of .*static.*oracle"),
        (["--scenario", "tsunami"], r"scenario: expected one of .*steady.*tsunami"),
        (["--data", "nowhere"], r"nowhere: expected a directory.*none"),
        (["--alpha", "much"], r"alpha.*much"),
        (["--colour"], r"unrecognized arguments: --colour"),
        (["--set", "headroom=7"], r"headroom: expected .*7"),
        (["--set", "colour=red"], r"expected options: .*headroom.*colour"),
    ],
)
def test_a_wrong_argument_is_named_in_one_line(
    arguments: list[str], expected: str, tmp_path: Path, capsys: Capture
) -> None:
    """Who mistypes must see what was expected, not a traceback; and no directory appears."""
    out = tmp_path / "out"
    for command in ("sim", "sweep"):
        assert re.search(expected, complaint(capsys, command, *arguments, "--out", str(out)))
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["controller", "--backend", "http", "--set", "headroom=0.2"],
            r"expected options: .*drain_s.*headroom",
        ),
        (
            ["controller", "--backend", "http", "--set", "era=soon"],
            r"era: expected today or early.*soon",
        ),
        (
            ["controller", "--backend", "http", "--set", "drain_s=soon"],
            r"drain_s: expected a number.*soon",
        ),
        (["controller", "--step-up", "0"], r"step-up: expected .*>= 1.*0"),
        (["controller", "--step-down", "-1"], r"step-down: expected .*>= 1.*-1"),
        (["controller", "0.5"], r"PERIOD: expected .*>= 1.*0\.5"),
        (["controller", "1", "--speed", "1e6"], r"PERIOD: expected .*>= 1000.* 1"),
        (["controller", "often"], r"PERIOD: expected .*often"),
        (["collector", "--window", "0"], r"--window: expected .*> 0.*0"),
        (["collector", "--speed", "0"], r"speed: expected .*> 0.*0"),
        (["collector", "--kubeconfig", "nowhere"], r"nowhere: expected a cluster"),
        (["actuator", "--lease", "mine"], r"lease: expected NAMESPACE/NAME.*mine"),
        (["twin", "serve", "--tokens", "nowhere.yaml"], r"nowhere.yaml: expected"),
        (["twin", "serve", "--speed", "-1"], r"speed: expected .*> 0.*-1"),
        (["emulator", "0"], r"INTERVAL: expected .*>= 1.*0"),
    ],
)
def test_a_wrong_argument_of_a_service_is_named_in_one_line(
    arguments: list[str], expected: str, tmp_path: Path, capsys: Capture
) -> None:
    """A service that starts with half of what it was told would do harm for hours."""
    if arguments[0] != "emulator" and "--kubeconfig" not in arguments:
        arguments = [
            *arguments,
            *(["--port", "0"] if arguments[0] != "twin" else ["--kubeconfig", str(tmp_path / "k")]),
        ]
    if "mine" in arguments:
        (tmp_path / "k").write_text(kubeconfig_text("http://127.0.0.1:9", token="t"))
        arguments = [*arguments, "--kubeconfig", str(tmp_path / "k")]
    assert re.search(expected, complaint(capsys, *arguments))


def test_a_broken_data_file_is_named_with_its_line(
    data: Path, tmp_path: Path, capsys: Capture
) -> None:
    """The file and the line are what its author needs."""
    (data / "model-data.json").write_text('{"models": [\n  {"name": }\n]}')
    line = complaint(capsys, "sim", "--data", str(data), "--out", str(tmp_path / "out"))
    assert "model-data.json" in line
    assert "line 2" in line


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("accelerator-data.json", r'"cost": *[0-9.]+', '"cost": -1', "cost"),
        ("model-data.json", r'"alpha": *[0-9.]+', '"alpha": "fast"', "alpha"),
        ("server-data.json", r'"model": *"[^"]+"', '"model": "gpt-0"', "gpt-0"),
        ("server-data.json", r'"class": *"[^"]+"', '"class": "Platinum"', "Platinum"),
        ("server-data.json", r'"accelerator": *"[^"]+"', '"accelerator": "Z80"', "Z80"),
        ("capacity-data.json", r'"type": *"[^"]+"', '"type": "H100"', "H100"),
    ],
)
def test_an_impossible_figure_or_name_is_found_before_anything_runs(
    data: Path, tmp_path: Path, capsys: Capture, file: str, old: str, new: str, named: str
) -> None:
    """Negative and non-numeric figures, unknown and duplicate names: the file and the field are
    named.
    """
    path = data / file
    text, found = re.subn(old, new, path.read_text(), count=1)
    assert found == 1
    path.write_text(text)
    line = complaint(capsys, "sim", "--data", str(data), "--out", str(tmp_path / "out"))
    assert file in line
    assert named in line
    assert "expected" in line
    assert not (tmp_path / "out").exists()


def test_a_missing_data_file_is_named(data: Path, tmp_path: Path, capsys: Capture) -> None:
    """A half copied directory is a usual mistake."""
    (data / "serviceclass-data.json").unlink()
    assert "serviceclass-data.json" in complaint(
        capsys, "sim", "--data", str(data), "--out", str(tmp_path / "out")
    )


def test_an_output_directory_that_cannot_be_written_is_found_first(
    tmp_path: Path, capsys: Capture
) -> None:
    """Nobody wants to learn that after an hour's work."""
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file" / "out")
    for command in ("sim", "sweep"):
        assert "expected a directory that can be written" in complaint(
            capsys, command, *QUICK, "--out", out
        )


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["smi"], "sim"),
        (["--versoin"], "--version"),
        (["sim", "--hour", "1"], "--hours"),
        (["sim", "--metrics", "measurd"], "measured"),
        (["controller", "--backend", "kub"], "kube"),
        (["sim", "--policy", "statc"], "static"),
        (["sim", "--scenario", "rampp"], "ramp"),
        (["sim", "--set", "headrom=0.2"], "headroom"),
    ],
)
def test_a_slip_of_the_keys_is_answered_with_what_may_have_been_meant(
    arguments: list[str], meant: str, capsys: Capture
) -> None:
    """Options, commands, choices, policies and their options, scenarios."""
    assert f"did you mean {meant}?" in complaint(capsys, *arguments)


def test_what_is_like_nothing_is_not_guessed_at(capsys: Capture) -> None:
    """A wrong guess sends people astray."""
    for arguments in (["xyz"], ["collector", "--lease", "a/b"], ["sim", "--policy", "oracle"]):
        assert "did you mean" not in complaint(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--backend", "sim", "--lease", "a/b"], "--lease belongs to --backend kube"),
        (["--kubeconfig=k"], "--kubeconfig belongs to --backend kube"),
        (["--backend", "kube", "--alpha", "0.1"], "--alpha belongs to --backend sim"),
        (
            ["--backend", "http", "--policy", "slo"],
            "--policy belongs to --backend sim and --backend kube, and this is --backend http",
        ),
    ],
)
def test_an_option_of_another_world_is_said_to_be_that(
    arguments: list[str], expected: str, capsys: Capture
) -> None:
    """An option that is taken and does nothing is found out weeks later."""
    assert expected in complaint(capsys, "controller", *arguments)


@pytest.mark.parametrize(
    ("world", "shown", "hidden"),
    [
        ("sim", ("--scenario", "--speed", "--policy"), ("--kubeconfig", "--lease", "--prometheus")),
        ("kube", ("--kubeconfig", "--lease", "--wait"), ("--scenario", "--alpha")),
        ("http", ("--set", "--speed"), ("--kubeconfig", "--scenario", "--policy")),
    ],
)
def test_the_help_of_a_controller_shows_its_world_only(
    world: str, shown: tuple[str, ...], hidden: tuple[str, ...], capsys: Capture
) -> None:
    """27 options in one list hid which of them do something."""
    with pytest.raises(SystemExit):
        inferno.main(["controller", "--backend", world, "--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out.split("\noptions:")[1]))
    assert set(shown) <= options
    assert not set(hidden) & options


def test_help_names_every_policy(capsys: Capture) -> None:
    """The names stand in the text, for to ask the registry would import all policies."""
    for words in (["sim"], ["controller"], ["controller", "--backend", "kube"], ["replay"]):
        with contextlib.suppress(SystemExit):
            inferno.main([*words, "--help"])
        (line,) = re.findall(r"what decides: ([^(]*\([^)]*\)[^-]*)--", capsys.readouterr().out)
        assert set(policy_names()) <= set(re.findall(r"\w+", line)), words


def test_collector_and_actuator_take_only_what_does_something_there(capsys: Capture) -> None:
    """The collector changes nothing, and the actuator needs no figures."""
    for name in ("--events", "--lease", "--data", "--capacity"):
        complaint(capsys, "collector", name, "x")
    for name in ("--metrics", "--prometheus", "--window", "--pages", "--speed"):
        complaint(capsys, "actuator", name, "x")


def test_help_fits_a_terminal_of_80_columns(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And has no escape left over from the code at its top."""
    monkeypatch.setenv("COLUMNS", "80")
    for words in ([], *([name] for name in inferno.NAMES), ["controller", "--backend", "kube"]):
        with contextlib.suppress(SystemExit):
            inferno.main([*words, "--help"])
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) > 10
        assert max(map(len, lines)) <= 80, words
        assert not any(line.strip() == "\\" for line in lines)


# What docs/load.md says that a scenario may set, and what to write for it there.
OF_A_SCENARIO = {
    "disturbance_alpha": ("alpha: 0.25", 0.25),
    "interval_s": ("interval_s: 17", 17.0),
    "hours": ("hours: 0.02", 0.02),
    "walk": ("walk: {kind: reverting}", "reverting"),
    "theta": ("walk: {kind: reverting, theta: 0.4}", 0.4),
}


def test_no_option_that_a_scenario_may_set_has_a_default_of_its_own(tmp_path: Path) -> None:
    """`hours` of a file was ignored: the option's default of 1 always won. This goes over all."""
    shared = {item.name for item in fields(Scenario)} & {item.name for item in fields(RunConfig)}
    assert shared == OF_A_SCENARIO.keys()
    for name, (line, value) in OF_A_SCENARIO.items():
        scenario = tmp_path / f"{name}.yaml"
        scenario.write_text(f"{line}\n")
        for command in ("sim", "sweep"):
            _, options = inferno.parse([command, "--scenario", str(scenario)])
            assert [options.alpha, options.interval, options.period] == [None] * 3
            config = run_config(options, scenario=str(scenario))
            assert getattr(read_sources(config).config, name) == value, (command, name)


def test_what_the_user_says_wins_over_the_scenario(tmp_path: Path) -> None:
    """As docs/load.md promises."""
    scenario = tmp_path / "short.yaml"
    scenario.write_text("hours: 0.1\nwalk: {kind: reverting, theta: 0.4}\n")
    _, options = inferno.parse(["sim", "--hours", "0.02", "--theta", "0.1", "--walk", "plain"])
    config = read_sources(run_config(options, scenario=str(scenario))).config
    assert (config.hours, config.theta, config.walk) == (0.02, 0.1, "plain")


@pytest.mark.slow
def test_what_is_given_twice_is_added_to_a_grid() -> None:
    """`--period 30 --period 60` swept the last one only, without a word."""
    parser = ArgumentParser()
    add_run_options(parser, many=True)
    add_seed_options(parser)
    twice = "--scenario a,b --scenario c --alpha 0 --alpha 0.1 --interval 5 --interval 9"
    grid = run_grid(parser.parse_args([*twice.split(), "--period", "30", "--period", "60"]))
    assert grid.scenarios == ("a", "b", "c")
    assert (grid.alphas, grid.intervals_s, grid.periods_s) == ((0, 0.1), (5, 9), (30, 60))


def test_a_run_says_what_its_data_leave_open(data: Path, tmp_path: Path, capsys: Capture) -> None:
    """Once each, on stderr; and a server without a target has no share within it."""
    path = data / "serviceclass-data.json"
    classes = json.loads(path.read_text())
    (first, *_others) = json.loads((data / "server-data.json").read_text())["servers"]
    for entry in classes["serviceClasses"]:
        if entry["name"] == first["class"]:
            entry["modelTargets"] = [
                target for target in entry["modelTargets"] if target["model"] != first["model"]
            ]
    path.write_text(json.dumps(classes))
    arguments = [*QUICK, "--data", str(data), "--out", str(tmp_path / "out")]
    assert inferno.main(["sim", *arguments]) == 0
    said = capsys.readouterr()
    (line,) = [line for line in said.err.splitlines() if "cannot be sized" in line]
    assert line.startswith("note: ")
    (row,) = [line for line in said.out.splitlines() if line.strip().startswith(first["name"])]
    assert row.split()[1:3] == ["–", "–"]
    assert inferno.main(["sim", "-q", *arguments]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert all(line.startswith("wrote ") for line in said.out.splitlines())


@pytest.mark.costly
@pytest.mark.parametrize(
    "command",
    [
        "sim {short}; explain-misses {out}",
        "sweep {short} --alpha 0 --seeds 1 --jobs 1",
        "compare {short} --seeds 1 --jobs 1",
        "tune {short} --train-seeds 1 --seeds 1 --jobs 1",
        "stability {short} --start-up 1 --lags --seeds 1 --jobs 1",
        "what-if {data} --start-up x0.5 --now static --hours 0.02 --seeds 1 --jobs 1",
    ],
    ids=lambda command: command.split("; ")[-1].split()[0],
)
def test_every_question_says_what_its_data_leave_open(
    command: str, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Who reads the answer must know of what: each line once, whatever number of runs it took."""
    (data / "capacity-data.json").write_text('{"count": [{"type": "L40S", "count": 24}]}')
    short = f"--data {data} --scenario steady --hours 0.02 --policy static"
    for part in command.format(short=short, data=data, out=tmp_path / "out").split("; "):
        capsys.readouterr()
        words = part.split()
        out = [] if words[0] == "explain-misses" else ["--out", str(tmp_path / "out")]
        assert inferno.main([*words, *out]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert sum("there are no GPUs of type 'H100'" in note for note in notes) == 1


def test_adopt_says_what_its_data_leave_open(data: Path, tmp_path: Path, capsys: Capture) -> None:
    """Before the cluster is asked: whoever takes a Deployment in should know the data by then."""
    (data / "capacity-data.json").write_text('{"count": []}')
    words = ["adopt", "deployment/chat", "--model", "llama_13b", "--class", "Premium"]
    words += ["--data", str(data), "--kubeconfig", str(tmp_path / "none")]
    assert inferno.main(words) == 2
    assert "note: capacity-data.json: there are no GPUs" in capsys.readouterr().err
    assert inferno.main([*words, "-q"]) == 2
    assert "note: " not in capsys.readouterr().err


def test_optimize_says_what_its_system_leaves_open(
    repository: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Beside the answer, which stays JSON."""
    folder = repository / "sample-data" / "small"
    parts = ("accelerator", "model", "serviceClass", "server", "optimizer", "capacity")
    system = {
        f"{part}Data": json.loads((folder / f"{part.lower()}-data.json").read_text())
        for part in parts
    }
    system["capacityData"]["count"] = system["capacityData"]["count"][1:]
    message = tmp_path / "system.json"
    message.write_text(json.dumps({"system": system}))
    assert inferno.main(["optimize", str(message)]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["allocations"]
    (line,) = said.err.splitlines()
    assert re.match(r"note: .*system\.json: .*there are no GPUs of type", line)


def test_the_twin_checks_its_files_before_it_takes_its_port(
    tmp_path: Path, capsys: Capture
) -> None:
    """A port that is taken must not hide what is wrong with a file."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        (tmp_path / "faults.yaml").write_text("faults: 5")
        for option in ("--manifests", "--tokens"):
            line = complaint(capsys, "twin", "serve", "--port", port, option, "nowhere")
            assert "nowhere" in line
        faults = str(tmp_path / "faults.yaml")
        line = complaint(capsys, "twin", "serve", "--port", port, "--faults", faults)
        assert "faults.yaml" in line
        kubeconfig = str(tmp_path / "kubeconfig")
        arguments = ["twin", "serve", "--port", port, "--kubeconfig", kubeconfig]
        assert inferno.main(arguments) == 1
        assert "cannot listen" in capsys.readouterr().err


@pytest.mark.slow
def test_a_client_says_that_it_waits_and_for_what(tmp_path: Path, capsys: Capture) -> None:
    """A cluster that never comes is a failure after the time that was given."""
    nowhere = str(tmp_path / "kubeconfig")
    for command in ("collector", "actuator", "emulator", "controller"):
        arguments = [command, "--kubeconfig", nowhere, "--wait", "0.3"]
        arguments += ["--backend", "kube"] if command == "controller" else []
        assert inferno.main(arguments) == 1
        waits, failed = capsys.readouterr().err.splitlines()
        assert waits == f"inferno {command}: waiting for {nowhere}, 0.3 s at most"
        assert f"{nowhere}: expected an answer within 0.3 s, found none" in failed


def test_a_failure_shows_where_it_arose_if_that_is_wanted(capsys: Capture) -> None:
    """One line is for users, the traceback for who mends."""
    assert inferno.main(["sim", "--data", "nowhere", "-v"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("Traceback")
    assert said[-1].startswith("inferno sim: nowhere: expected a directory")


@pytest.mark.slow
def test_a_damaged_result_stops_a_resumed_sweep(tmp_path: Path, capsys: Capture) -> None:
    """A sweep must not be built upon what cannot be read."""
    out = tmp_path / "out"
    assert inferno.main(["sweep", *QUICK, "--jobs", "1", "--out", str(out)]) == 0
    capsys.readouterr()
    row = next((out / "runs").glob("*.json"))
    row.write_text(row.read_text()[:20])
    assert row.name in complaint(capsys, "sweep", *QUICK, "--resume", "--out", str(out))


@pytest.mark.slow
def test_a_run_says_what_it_wrote(tmp_path: Path, capsys: Capture) -> None:
    """The five files and the picture are there, and named."""
    out = tmp_path / "out"
    assert inferno.main(["sim", *QUICK, "--out", str(out)]) == 0
    said = capsys.readouterr().out.replace("\n", "")
    for name in ("cycles.jsonl", "requests.parquet", "summary.json", "run.json", "timeline.png"):
        assert (out / name).stat().st_size > 0
        assert name in said
    (out / "timeline.png").unlink()
    assert inferno.main(["plot", str(out)]) == 0
    assert (out / "timeline.png").stat().st_size > 0


class Terminal(io.StringIO):
    """What somebody looks at."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def test_what_takes_its_time_is_told_on_a_terminal_and_nowhere_else(capsys: Capture) -> None:
    """A report of four days drew for half a minute without a word; a log needs none."""
    shown = Terminal()
    with redirect_stderr(shown), working("drawing"):
        assert shown.getvalue() == "drawing …"
    assert shown.getvalue().endswith(END_LINE)
    with redirect_stderr(quiet := Terminal()), working("drawing", quiet=True):
        assert quiet.getvalue() == ""
    with working("drawing"):
        pass
    assert capsys.readouterr().err == ""


def test_analyze_answers_each_line_and_fails_at_the_end(tmp_path: Path, capsys: Capture) -> None:
    """One bad line in a stream must not cost the answers to the others, nor go unnoticed."""
    replica = {
        "alpha": 6.49,
        "beta": 0.0219,
        "gamma": 4.96e-5,
        "avgIn": 512,
        "avgOut": 256,
        "maxBatch": 64,
        "rate": 2,
    }
    lines = tmp_path / "lines.jsonl"
    lines.write_text(f"{json.dumps(replica)}\nnonsense\n{json.dumps(replica)}\n")
    assert inferno.main(["analyze", str(lines)]) == 2
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ["error" in answer for answer in answers] == [False, True, False]
    assert answers[0]["analyze"]["avgTTFT"] > 0


def test_optimize_answers_for_the_sample_system(
    repository: Path, tmp_path: Path, capsys: Capture
) -> None:
    """The files of a data directory are the message of POST /optimizeOne, put together."""
    names = {
        "acceleratorData": "accelerator-data.json",
        "modelData": "model-data.json",
        "serviceClassData": "serviceclass-data.json",
        "serverData": "server-data.json",
        "optimizerData": "optimizer-data.json",
        "capacityData": "capacity-data.json",
    }
    folder = repository / "sample-data" / "small"
    message = tmp_path / "system.json"
    message.write_text(
        json.dumps(
            {
                "system": {
                    key: json.loads((folder / name).read_text()) for key, name in names.items()
                }
            }
        )
    )
    for solver in ("greedy", "exact"):
        assert inferno.main(["optimize", "--solver", solver, str(message)]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert len(answer["allocations"]) == 4
        assert answer["unallocated"] == {}
        assert answer["totalCost"] > 0


def test_optimize_names_what_is_wrong_with_its_file(tmp_path: Path, capsys: Capture) -> None:
    """As for data files: the file, and what was expected."""
    assert "system.json" in complaint(capsys, "optimize", str(tmp_path / "system.json"))
    (tmp_path / "system.json").write_text('{"system": 5}')
    assert "expected" in complaint(capsys, "optimize", str(tmp_path / "system.json"))


@pytest.mark.slow
def test_the_controller_serves_invoke_over_the_twin_and_stops_on_a_signal(
    repository: Path, tmp_path: Path
) -> None:
    """The rehearsal of going live: real process, real HTTP, records on disk, exit code 0 on
    SIGTERM.
    """
    records = tmp_path / "records.jsonl"
    command = [
        sys.executable,
        "-m",
        "inferno",
        "controller",
        "0",
        "false",
        "--backend",
        "sim",
        "--speed",
        "20",
    ]
    command += [
        "--data",
        "sample-data/small",
        "--scenario",
        "steady",
        "--port",
        "0",
        "--records",
        str(records),
    ]
    with subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = re.search(r"http://\S+(?=/invoke)", process.stderr.readline())
        assert address
        with httpx.Client(base_url=address[0], timeout=30, trust_env=False) as client:
            eventually(lambda: client.get("/readyz").status_code == 200, "the controller is ready")
            record = client.get("/invoke").json()
            advice = client.post("/invoke", json={"mode": "advise"}).json()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert [server["name"] for server in record["servers"]]
    assert advice["mode"] == "advise"
    assert [json.loads(line)["cycle"] for line in records.read_text().splitlines()] == [1, 2]


@pytest.mark.slow
def test_the_optimizer_serves_one_system_and_stops_on_a_signal(repository: Path) -> None:
    """A real process: an empty system is answered, and SIGTERM is no failure."""
    command = [sys.executable, "-m", "inferno", "optimizer", "--port", "0"]
    with subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = re.search(r"http://[^\s\"]+", process.stderr.readline())
        assert address
        answer = httpx.post(address[0], json={"system": {}}, timeout=30, trust_env=False)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert answer.json()["allocations"] == {}


@pytest.mark.parametrize(
    ("command", "told"),
    [
        # Each fails after it has read what it was given.
        (["what-if", "sample-data/small", "--gpus", "NO=1"], "gpus: expected one of L40S, H100"),
        (
            ["model", "--config", "sample-data/models/llama-3.1-8b.json", "--accelerator", "NO"],
            "accelerator: expected one of",
        ),
        (
            ["fit", "sample-data/validation/rtx4090-llama-3.1-8b.csv", "--kv-tokens", "16"],
            "expected <= 17",
        ),
        (
            ["sim", "--scenario", "sample-data/scenarios/ramp.yaml", "--set", "nothing=1"],
            "nothing",
        ),
    ],
)
def test_what_comes_with_the_package_has_its_name_in_any_directory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    told: str,
) -> None:
    """The pages call it so, and a wheel brings no checkout."""
    monkeypatch.chdir(tmp_path)
    line = complaint(capsys, *command)
    assert told in line
