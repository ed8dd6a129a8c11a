"""Policies of one's own: by file, by module and as objects; and options that say whose they are."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import pytest

import inferno
from experiments.config import RunConfig
from experiments.dask.sent_files import files_of
from experiments.executor import LocalProcesses
from experiments.grid import SweepConfig
from experiments.sources import read_sources
from experiments.stability import stability
from inferno.cli.policies import options_of_policy, policy_option, swept_options
from loop.errors import SpecError
from loop.policies import code_digest, make_policy
from loop.policies.registry import options_told
from loop.policies.static import StaticPolicy
from loop.spec import SystemData
from loop.types import Decision, Snapshot
from twin.own_code import own_code

SMALL = Path(__file__).resolve().parents[2] / "sample-data" / "small"
TEXT = """
from dataclasses import dataclass

from loop.types import Decision


@dataclass(frozen=True, kw_only=True)
class Keeps:
    share: float = 0.5
    name: str = "keeps"
    tick_s: float = 45.0

    def start(self):
        return None

    def decide(self, snapshot, data, state):
        return Decision(targets={}), None
"""


OWN = "class Own:\n    def __init__(self, rng, *, cv): ..."


@dataclass(frozen=True, kw_only=True)
class Held:
    """A policy as an object: it says nothing of any server, so that all are held."""

    share: float = 1.0
    name: str = "held"
    tick_s: float = 30.0

    def start(self) -> None:
        """Remember nothing."""

    def decide(self, snapshot: Snapshot, data: SystemData, state: None) -> tuple[Decision, None]:  # noqa: ARG002 the port
        """Return no target."""
        return Decision(targets={}), None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file with one policy."""
    path = tmp_path / "mine.py"
    path.write_text(TEXT, encoding="utf-8")
    return path


def config(**given: object) -> RunConfig:
    """Return a short run on the small system."""
    return RunConfig(**{"data": SMALL, "hours": 0.1, **given})  # type: ignore[arg-type]


def test_a_file_with_one_policy_is_enough_to_name_it(file: Path) -> None:
    """Whoever tries a rule out writes one file, and no package."""
    for name in (str(file), f"{file}:Keeps"):
        policy = make_policy(name, share=0.25)
        assert (policy.name, policy.tick_s, vars(type(policy))["__module__"][:15]) == (
            "keeps",
            45.0,
            "inferno_policy_",
        )


def test_module_and_class_name_a_policy() -> None:
    """What is installed, or lies where the command is started, needs no entry point."""
    assert make_policy("loop.policies.static:StaticPolicy") == StaticPolicy()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("x = 1", "expected one class with decide and start, found none"),
        (TEXT + TEXT.replace("Keeps", "Other"), "found Keeps, Other: name one as"),
        ("raise RuntimeError('no')", "RuntimeError: no"),
        ("def (", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("mine = 3", "mine.py:mine: expected a class, found int"),
    ],
)
def test_a_file_without_one_policy_is_one_line(file: Path, text: str, line: str) -> None:
    """It is somebody's own code: what is wrong with it must be told without ours around it."""
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=line) as raised:
        make_policy(f"{file}:mine" if text.startswith("mine") else str(file))
    assert "\n" not in str(raised.value)


def test_what_is_no_policy_is_refused_at_once() -> None:
    """Half of a run later nobody knows what the name was."""
    with pytest.raises(SpecError, match="expected a policy, found str without name"):
        make_policy("os:getcwd")
    with pytest.raises(SpecError, match="policy: os:path: expected a class, found module"):
        make_policy("os:path")
    for given, found in ((3, "int"), (None, "NoneType"), (object(), "object")):
        with pytest.raises(SpecError, match=f"^policy: expected a policy, found {found} without "):
            make_policy(given)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=r"No such file"):
        make_policy("/nowhere/mine.py")
    with pytest.raises(SpecError, match=r"expected options: one of share; found 'shore'"):
        make_policy(Held(), shore=1.0)


@pytest.mark.parametrize(
    ("part", "value", "expected"),
    [
        ("name", 3, "a text"),
        ("name", "", "a text"),
        ("tick_s", None, "a number > 0"),
        ("tick_s", "30", "a number > 0"),
        ("tick_s", math.inf, "a number > 0"),
        ("samples_s", -1.0, "a number > 0, or None"),
        ("samples_s", 0, "a number > 0, or None"),
        ("load_window_s", "180", "a number > 0, or None"),
        ("decide", 3, "something to call"),
    ],
)
def test_what_a_policy_says_of_itself_is_looked_at(part: str, value: object, expected: str) -> None:
    """Samples every -1 s were a run without an end, a tick of None a traceback."""
    said = {"name": "mine", "tick_s": 30.0, "start": dict, "decide": dict, part: value}
    with pytest.raises(SpecError) as raised:
        make_policy(SimpleNamespace(**said))
    assert str(raised.value) == f"policy: {part}: expected {expected}, found {value!r}"


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_an_option_without_a_number_is_one_line(file: Path, value: float) -> None:
    """--set share=1e400 was a traceback about JSON: a run is named by its options."""
    with pytest.raises(SpecError) as raised:
        make_policy(str(file), share=value)
    assert str(raised.value) == f"policy {file}: share: expected a finite number, found {value}"
    # An object may have it; a record tells no option that JSON does not have.
    assert options_told(Held(share=value)) == {}
    assert options_told(Held(share=0.5)) == {"share": 0.5}


def test_a_module_that_cannot_be_imported_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slip in one's own module was a traceback through ours; in a file it was a line."""
    (tmp_path / "slipped.py").write_text("half = (", encoding="utf-8")
    (tmp_path / "stumbled.py").write_text("1 / 0", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, line in (("slipped", "SyntaxError: "), ("stumbled", "ZeroDivisionError: ")):
        with pytest.raises(SpecError, match=f"policy: cannot load '{name}:Mine': {line}"):
            make_policy(f"{name}:Mine")


def test_another_code_is_another_run(file: Path) -> None:
    """A resumed sweep must not take the results of the policy as it was before."""
    before = read_sources(config(policy=str(file))).run_id
    assert read_sources(config(policy=str(file))).run_id == before
    file.write_text(TEXT.replace("return None", "return 0"), encoding="utf-8")
    assert read_sources(config(policy=str(file))).run_id != before


def test_code_that_a_policy_imports_is_code_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rules stood in a file beside it; they were changed, and a resumed comparison showed the
    results of before.
    """
    package = tmp_path / "own_rules"
    (package / "deep").mkdir(parents=True)
    files = {
        tmp_path / "own_beside.py": "LIMIT = 1",
        package / "__init__.py": "",
        package / "policy.py": TEXT + "\nfrom .deep import steps\nimport own_beside, numpy",
        package / "deep" / "__init__.py": "",
        package / "deep" / "steps.py": "def late():\n    from own_rules import later",
        package / "later.py": "",
        package / "unused.py": "",
    }
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    policy = make_policy("own_rules.policy:Keeps")
    before = code_digest(policy)
    for path, text in files.items():
        path.write_text(text + "\n# changed", encoding="utf-8")
        assert (code_digest(policy) != before) == (path.name != "unused.py"), path
        path.write_text(text, encoding="utf-8")
    # numpy is installed, and no change of it is looked for.
    assert set(own_code(sys.modules["own_rules.policy"]).files) == {
        *("", "own_rules", "own_rules.deep", "own_rules.deep.steps", "own_rules.later"),
        "own_beside",
    }


def test_another_process_of_arrivals_is_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of one's own a run is made by: a resumed sweep kept the requests of before."""
    text = "class Own:\n    def __init__(self, rng, *, cv): ..."
    module, scenario = tmp_path / "own_arrivals.py", tmp_path / "own.yaml"
    module.write_text(text, encoding="utf-8")
    scenario.write_text("load: [{arrivals: 'own_arrivals:Own'}]", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = read_sources(config(scenario=str(scenario))).run_id
    assert read_sources(config(scenario=str(scenario))).run_id == before
    module.write_text(f"{text}\n# changed", encoding="utf-8")
    assert read_sources(config(scenario=str(scenario))).run_id != before


def test_what_sets_the_figures_of_a_class_from_elsewhere_is_code_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the module of the class counted: of a function that makes hpa with another target, and
    of a partial, a resumed sweep kept the results of before.
    """
    texts = {
        "own_made": "from loop.policies.hpa import HpaPolicy\ndef made(): return HpaPolicy()",
        "own_part": "from functools import partial\nimport own_whole\n"
        "Part = partial(own_whole.Whole, cv=1.0)",
        "own_whole": "class Whole:\n    def __init__(self, rng, *, cv): ...",
    }
    files = {tmp_path / f"{name}.py": text for name, text in texts.items()}
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    scenario = tmp_path / "own.yaml"
    scenario.write_text("load: [{arrivals: 'own_part:Part'}]", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    behind = {"policy": "through_hpa", "policy_options": (("policy", "own_made:made"),)}
    for given in ({"policy": "own_made:made"}, {"policy": f"{tmp_path}/own_made.py:made"}, behind):
        run = config(scenario=str(scenario), **given)
        before = read_sources(run).run_id
        for path, text in files.items():
            path.write_text(f"{text}\n# changed", encoding="utf-8")
            assert read_sources(run).run_id != before, path
            path.write_text(text, encoding="utf-8")
        assert read_sources(run).run_id == before


def test_own_code_in_an_archive_makes_another_run_where_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be imported; a finished run was reused whatever had become of it."""
    scenario = tmp_path / "own.yaml"
    scenario.write_text("load: [{arrivals: 'own_packed:Own'}]", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "own.zip"))
    found = set()
    for factor in (1, 2):
        with ZipFile(tmp_path / "own.zip", "w") as archive:
            archive.writestr("own_packed.py", f"import own_helper\n{OWN}")
            archive.writestr("own_helper.py", f"FACTOR = {factor}")
        found.add(read_sources(config(scenario=str(scenario))).run_id)
    assert len(found) == 2


def test_a_policy_made_of_one_of_ours_changes_with_it(file: Path) -> None:
    """A class of one's own that inherits from hpa decides by the rules of hpa."""
    alone = code_digest(make_policy(str(file)))
    file.write_text(f"{TEXT}\nimport loop.policies.hpa", encoding="utf-8")
    code = own_code(sys.modules[type(make_policy(str(file))).__module__])
    assert set(code.files) == {""}
    assert "loop.policies.hpa" in code.others
    assert code_digest(make_policy(str(file))) != alone


def test_a_class_in_the_place_of_an_object_is_told_in_a_line() -> None:
    """The brackets are forgotten soon, and what came was a traceback about signatures."""
    kind = type(config(policy="slo"))
    with pytest.raises(SpecError, match=r"policy: expected an object, .*RunConfig\(…\), .* class"):
        make_policy(kind)  # type: ignore[arg-type]


def test_an_object_is_a_policy_too() -> None:
    """A notebook defines one, and sweeps it."""
    one, other = (read_sources(config(policy=Held(share=share))) for share in (1.0, 2.0))
    assert one.policy == Held()
    assert one.run_id != other.run_id
    assert one.config.period_s == 30.0
    assert one.config.as_json()["policy"].endswith(":Held")
    assert make_policy(Held(), share=2.0) == Held(share=2.0)


def test_the_code_of_a_policy_behind_another_counts() -> None:
    """What decides is both."""
    assert code_digest(make_policy("through_hpa")) != code_digest(make_policy("hpa"))


def test_options_say_whose_they_are() -> None:
    """One policy's option is none of another's."""
    given = [policy_option("headroom=0.2"), policy_option("slo.hysteresis=0.1")]
    assert options_of_policy("slo", given) == {"headroom": 0.2, "hysteresis": 0.1}
    with pytest.raises(SpecError, match=r"--set slo.hysteresis: expected an option of hpa"):
        options_of_policy("hpa", given)
    with pytest.raises(SpecError, match="expected one value, found 2: a sweep takes several"):
        options_of_policy("slo", [policy_option("headroom=0.1,0.2")])
    with pytest.raises(argparse.ArgumentTypeError, match="expected NAME=VALUE"):
        policy_option("headroom")


def test_the_values_of_options_are_swept_for_their_policy() -> None:
    """Each policy is tuned over its own options, and the tables tell the cells apart."""
    options = swept_options([policy_option("hpa.target=0.6,0.75"), policy_option("tick=x")])
    assert options == {"hpa.target": (0.6, 0.75), "tick": ("x",)}
    grid = SweepConfig(
        policies=("static", "hpa"), options={"hpa.target": (0.6, 0.75), "hpa.metric": ("kv",)}
    )
    cells = [(run.policy, dict(run.policy_options), run.policy_name) for run in grid.runs()]
    assert cells == [
        ("static", {}, "static"),
        ("hpa", {"target": 0.6, "metric": "kv"}, "hpa target=0.6"),
        ("hpa", {"target": 0.75, "metric": "kv"}, "hpa target=0.75"),
    ]
    with pytest.raises(SpecError, match=r"--set kpa.target: expected an option of hpa"):
        SweepConfig(policies=("hpa",), options={"kpa.target": (1.0,)}).runs()
    with pytest.raises(SpecError, match="expected every value once"):
        swept_options([policy_option("hpa.target=0.6,0.6")])


def test_an_option_that_is_set_twice_is_not_taken_for_its_last_value() -> None:
    """Who sweeps two targets by two words had a sweep of the second one, and was told nothing."""
    twice = [policy_option("hpa.target=0.6"), policy_option("hpa.target=0.75")]
    line = r"--set hpa.target: expected it once, as in hpa.target=0.6,0.75, found it twice"
    with pytest.raises(SpecError, match=line):
        swept_options(twice)
    line = r"--set target: expected it once, found it twice"
    for given in (twice, [policy_option("target=0.6"), policy_option("hpa.target=0.6")]):
        with pytest.raises(SpecError, match=line):
            options_of_policy("hpa", given)


def test_two_policies_of_a_sweep_have_two_names() -> None:
    """Two objects of one name were one policy of two seeds in every table."""
    twice = (Held(share=0.5), Held(share=0.6))
    with pytest.raises(SpecError, match="policy: expected names that differ, found held twice"):
        SweepConfig(policies=twice).runs()
    with pytest.raises(
        SpecError, match=r"policy: expected names that differ, found hpa target=0.5 "
    ):
        SweepConfig(policies=("hpa",), options={"target": (0.5, 0.5)}).runs()
    names = [run.policy_name for run in SweepConfig(policies=(*twice[:1], "slo")).runs()]
    assert names == ["held", "slo"]


@pytest.mark.parametrize("empty", ["policy", "scenario", "alpha"])
def test_a_sweep_of_nothing_is_told(empty: str) -> None:
    """An empty list of policies was a sweep of slo."""
    with pytest.raises(SpecError, match=f"^{empty}: expected at least one value, found none"):
        inferno.sweep(data=SMALL, hours=0.02, **{empty: []})  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Stumbles:
    """A policy that cannot decide from *since_s* on."""

    since_s: float
    name: str = "stumbles"
    tick_s: float = 60.0

    def start(self) -> None:
        """Remember nothing."""

    def decide(self, snapshot: Snapshot, data: SystemData, state: None) -> tuple[Decision, None]:  # noqa: ARG002 the port
        """Return no target, or raise what a policy raises for bad input."""
        if snapshot.now_s >= self.since_s:
            raise SpecError("stumbles: no such package")
        return Decision(targets={}), None


def test_a_run_whose_policy_could_not_decide_says_so(tmp_path: Path) -> None:
    """It held what there was, and was recommended for that: 100 % at the least cost."""
    given = {"data": SMALL, "hours": 0.05, "scenario": "steady"}
    once = inferno.simulate(policy=Stumbles(since_s=120.0), **given)  # type: ignore[arg-type]
    line = "1 of 2 cycles did not go through and changed nothing: stumbles: no such package"
    assert once.notes == (line,)
    policies = (Stumbles(since_s=0.0, name="never"), Stumbles(since_s=120.0, name="once"))
    done = inferno.sweep(policy=policies, jobs=1, out=tmp_path, **given)  # type: ignore[arg-type]
    assert done.notes == ("once: 1 of 2 cycles had an error, as its runs by inferno sim tell",)
    errors = dict(zip(done.results["policy"], done.results["error"], strict=True))
    assert errors == {
        "never": "SpecError: none of its cycles went through: stumbles: no such package",
        "once": "",
    }
    grid = SweepConfig(base=config(hours=0.05, scenario="steady"), policies=policies[:1])
    slowed = stability(grid, [1.0], tmp_path / "stability", executor=LocalProcesses(jobs=1))
    assert list(slowed.results["error"]) == [errors["never"]]


def test_samples_come_as_often_as_the_policy_needs() -> None:
    """An autoscaler with a scraper of its own is not to be judged by another one's."""
    assert read_sources(config(policy="kpa")).world.world.scrape_interval_s == 1.0
    assert read_sources(config(policy="slo")).world.world.scrape_interval_s == 15.0
    assert read_sources(config(policy="kpa")).config.period_s == 2.0
    # A fifth of a look-back that was meant in other units was a run without an end.
    hasty = make_policy("ray_serve", look_back_period_s=1e-4)
    with pytest.raises(SpecError, match=r"ray_serve: expected .* every 0.1 s or more, found every"):
        read_sources(config(policy=hasty))


def test_the_load_is_measured_over_the_window_that_the_policy_asks_for() -> None:
    """Dynamo counts the requests of its whole interval; it was told of the last minute."""
    planner, by_load = (
        read_sources(config(policy=make_policy("dynamo", **options))).world.world
        for options in ({}, {"optimization_target": "throughput"})
    )
    assert (planner.window_s, planner.scrape_interval_s) == (180.0, 15.0)
    assert (by_load.window_s, by_load.scrape_interval_s) == (60.0, 1.0)


def test_the_helpers_of_a_policy_are_sent_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of Dask had the module of the policy, and none of those that this imports: each run
    failed there.
    """
    files = {
        "sent_policy.py": f"import sent_helper, sent_parts.sizes\n{TEXT}",
        "sent_helper.py": "",
        "sent_parts/sizes.py": "import json",  # a folder without __init__.py
        "sent_other.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    asked = config(policy="sent_policy:Keeps")
    read_sources(asked)
    sent = files_of([asked]).contents
    expected = {f"modules/{name}" for name in files} - {"modules/sent_other.py"}
    assert {name for name in sent if name.startswith("modules/")} == expected
