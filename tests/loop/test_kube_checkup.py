"""What doctor says of Deployments, their data and their metrics."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inferno.cli.doctor import report
from loop.backends.kube import labels as names
from loop.backends.kube.checkup import Finding, Question, data_finding, metrics_finding
from loop.backends.kube.read import read_deployment
from loop.backends.metrics.source import Shown
from loop.signals.names import NAMES, Names
from loop.signals.pods import ScrapedServer
from loop.testing.fakes import system
from tests.loop.kube_objects import deployment, pod, server
from tests.loop.test_survey import VLLM


@pytest.mark.parametrize(
    ("labels", "level", "text"),
    [
        ({}, "ok", "llama_8b, Premium, 2 x H100: all are in the data"),
        ({names.MODEL: "llama_8c"}, "wrong", "model 'llama_8c' is not in the data"),
        ({names.MODEL: "an-org/llama_8b"}, "ok", "llama_8b, Premium"),
        ({names.MODEL: ""}, "wrong", "no label inferno.server.model"),
        ({names.CLASS: "Premum"}, "wrong", "class 'Premum' is not in the data"),
        ({names.ACCELERATOR: "L4"}, "wrong", "no latency model on 'L4', only on 2xA100, H100"),
        ({names.ACCELERATOR: ""}, "note", "no label inferno.server.allocation.accelerator"),
        ({names.LOAD_RPM: "many"}, "wrong", "label inferno.server.load.rpm: expected a number"),
    ],
)
def test_labels_that_the_data_do_not_know_are_named(
    labels: dict[str, str], level: str, text: str
) -> None:
    """Such a server is held for ever, and its record says so only to who reads it."""
    found = data_finding(read_deployment(deployment(labels=labels)), system())
    assert (found.level, text in found.line) == (level, True), found.line
    assert found.level == "ok" or found.todo


class Source:
    """A source whose metrics have the names of the table."""

    table: Names = NAMES

    def show_names(self, servers: list[ScrapedServer]) -> Shown:  # type: ignore[override] # a list
        """Return nothing: the answer is given beside it."""
        raise NotImplementedError


@pytest.mark.parametrize(
    ("seen", "labels", "level", "text"),
    [
        (VLLM, {}, "ok", "found requests"),
        (VLLM[:3], {}, "note", "missing: TTFT"),
        ((), {}, "wrong", "PodMonitor"),
        (("llm_requests_total",), {}, "wrong", "--metric-names"),
        ((), {names.LOAD_RPM: "60"}, "note", "its load labels count"),
    ],
)
def test_metrics_that_are_missing_are_told_with_what_to_do(
    seen: tuple[str, ...], labels: dict[str, str], level: str, text: str
) -> None:
    """Nobody scrapes it, or by other names: two different things to do."""
    of = server(pod(), labels=labels)
    shown = Shown(names={"s1": frozenset(seen)})
    found = metrics_finding(of, Source(), shown, Question(data=system()))
    assert (found.level, text in found.line) == (level, True), found.line


def test_labels_count_only_where_nobody_asked_for_a_source() -> None:
    """With --metrics given, a server without series is held."""
    of = server(pod(), labels={names.LOAD_RPM: "60"})
    asked = replace(Question(data=system()), labels_stand_in=False)
    assert metrics_finding(of, Source(), Shown(names={}), asked).level == "wrong"


def test_the_exit_code_tells_whether_anything_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    """A script that sets a cluster up asks for no more; -q says what has to be done only."""
    fine = Finding(level="ok", subject="api", text="answers")
    bad = Finding(level="wrong", subject="s1", text="no model", todo="adopt it")
    assert report([fine], ["a server has no target"], quiet=False) == 0
    assert report([fine, bad], [], quiet=True) == 1
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "ok     api: answers",
        "note   data: a server has no target",
        "1 ok, 1 note, 0 wrong",
        "wrong  s1: no model; to do: adopt it",
        "1 ok, 0 note, 1 wrong",
    ]
