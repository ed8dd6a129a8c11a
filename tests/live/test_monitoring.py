"""The alert rules and the board of `yamls/`: rules by promtool, and both on a real Prometheus that
scrapes a controller over the twin.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path
from textwrap import indent
from typing import Any, get_args

import httpx
import pytest
import yaml

from loop.backends.kube import labels as names
from loop.backends.kube.client import KubeClient
from loop.backends.metrics.pods import PodMetrics, ProxiedPages
from loop.backends.metrics.source import MetricsSource
from loop.signals.demand import WindowSettings
from loop.types import MissingKind, WhyKind
from tests.live.kube_worlds import kube_world, manifest
from tests.live.prometheus_server import program, prometheus_server
from tests.live.served import serving

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "yamls" / "prometheus" / "rules.yaml"
OPERATOR = ROOT / "yamls" / "prometheus" / "prometheusrule.yaml"
BOARD = json.loads((ROOT / "yamls" / "grafana" / "inferno.json").read_text(encoding="utf-8"))
RULES_TEST = ROOT / "tests" / "prometheus" / "rules_test.yaml"
RUNBOOKS = ROOT / "docs" / "runbooks"

SPEED = 10.0
WINDOW = WindowSettings(window_s=10.0, stale_s=6.0, speed=SPEED)
DEADLINE_S = 60.0


def rules() -> list[dict[str, Any]]:
    """Return all rules of the file."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """Return the alerts of the file by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def queries() -> dict[str, str]:
    """Return every query of the board by panel and letter, as Grafana sends it with its defaults:
    all servers, and a range of one minute for rates.
    """
    found = {}
    for panel in BOARD["panels"]:
        for target in panel.get("targets", ()):
            text = target["expr"].replace("$server", ".*").replace("$__rate_interval", "1m")
            assert "$" not in text, text
            found[f"{panel['title']} {target['refId']}"] = text
    return found


@pytest.mark.parametrize("words", [("check", "rules", "--lint=all", "--lint-fatal", str(RULES))])
def test_promtool_takes_the_rules(words: tuple[str, ...]) -> None:
    """A Prometheus with a rule that it cannot read does not start."""
    done = subprocess.run(
        [program("promtool"), *words], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_alerts_fire_when_they_should_and_end() -> None:
    """Each of them, and what must wake nobody: tests/prometheus/rules_test.yaml."""
    told = RULES_TEST.read_text(encoding="utf-8")
    assert {name for name in alerts() if f'="{name}", alertstate="firing", ' not in told} == set()
    done = subprocess.run(
        [program("promtool"), "test", "rules", str(RULES_TEST)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_operator_gets_the_same_rules() -> None:
    """Two files that are changed by hand come apart. `make snapshots` writes the second anew."""
    head, spec, _ = OPERATOR.read_text(encoding="utf-8").partition("spec:\n")
    lines = RULES.read_text(encoding="utf-8").partition("groups:\n")
    expected = head + spec + indent("".join(lines[1:]), "  ")
    if "UPDATE_SNAPSHOTS" in os.environ:
        OPERATOR.write_text(expected, encoding="utf-8")
    assert OPERATOR.read_text(encoding="utf-8") == expected
    obj = yaml.safe_load(head)
    assert (obj["apiVersion"], obj["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")


@pytest.mark.parametrize("name", alerts())
def test_every_alert_has_a_page_that_says_what_to_do(name: str) -> None:
    """Who is woken at night has not read the documents before."""
    page = (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {name}\n")
    for heading in ("## What it means", "## What happens meanwhile", "## What to do"):
        assert heading in page
    assert alerts()[name]["annotations"]["runbook_url"].endswith(f"/docs/runbooks/{name}.md")
    assert f"[{name}]({name}.md)" in (RUNBOOKS / "README.md").read_text(encoding="utf-8")


def test_runbooks_are_of_alerts_that_there_are() -> None:
    """A page of an alert that was renamed is found by nobody."""
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {*alerts(), "README"}


@pytest.mark.parametrize(
    ("page", "known"),
    [
        ("InfernoServersHeld", {*get_args(WhyKind), "undecided"}),
        ("InfernoServersUnserved", {*get_args(WhyKind)}),
        ("InfernoPodsNotComing", {*get_args(MissingKind)}),
    ],
)
def test_the_reasons_of_a_page_are_those_that_the_loop_gives(page: str, known: set[str]) -> None:
    """Who is alerted looks for the word of the label; each that wakes somebody has its row."""
    text = (RUNBOOKS / f"{page}.md").read_text(encoding="utf-8")
    first = re.findall(r"^\| (`[^|]*`) \|", text, re.MULTILINE)
    told = {reason for cell in first for reason in re.findall(r"`(.+?)`", cell)} - {"reason"}
    assert told
    assert told <= known
    if page == "InfernoPodsNotComing":
        (spared,) = re.findall(r'reason!~"(.*?)"', alerts()[page]["expr"])
        assert told == known - set(spared.split("|"))


def test_panels_neither_overlap_nor_share_a_number() -> None:
    """Grafana would draw one over the other."""
    panels = BOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not taken & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def pages_of_pods(calls: KubeClient) -> MetricsSource:
    """Return a source that asks the pods themselves."""
    return PodMetrics(ProxiedPages(calls), window=WINDOW)


@pytest.mark.slow
def test_a_real_prometheus_answers_every_panel_and_evaluates_every_rule(tmp_path: Path) -> None:
    """A panel without data looks like a quiet cluster. One server is served, one paused, one wants
    more than there is, one has a class that nobody knows.
    """
    busy = {names.LOAD_RPM: "1200", names.LOAD_IN_TOKENS: "256", names.LOAD_OUT_TOKENS: "64"}
    program()
    with (
        kube_world(
            manifest(labels=busy),
            manifest("dep2", server="s2", annotations={names.PAUSED: "true"}),
            manifest("dep3", server="s3", replicas=99, annotations={names.REPLICAS_MIN: "99"}),
            manifest("dep4", server="s4", labels={names.CLASS: "Unknown"}),
            source=pages_of_pods,
            speed=SPEED,
        ) as world,
        serving(world.backend, policy="slo") as served,
        prometheus_server(
            tmp_path,
            world.twin.url,
            controller=str(served.client.base_url).removeprefix("http://"),
            rules=str(RULES),
        ) as server,
        httpx.Client(base_url=server.url, trust_env=False) as client,
    ):
        empty = queries()
        end_s = time.monotonic() + DEADLINE_S
        while empty and time.monotonic() < end_s:
            served.client.post("/invoke")
            empty = {name: text for name, text in empty.items() if not answer(client, text)}
            time.sleep(0.5)
        assert empty == {}
        evaluated = client.get("/api/v1/rules").json()["data"]["groups"]
        found = [rule for group in evaluated for rule in group["rules"]]
        assert [rule["name"] for rule in found if rule["health"] != "ok"] == []
        assert len(found) == len(rules())
        active = [alert for rule in found for alert in rule.get("alerts", ())]
    names_of_active = {alert["labels"]["alertname"] for alert in active}
    assert names_of_active >= {"InfernoPaused", "InfernoPodsNotComing", "InfernoServersUnserved"}
    # What a template cannot fill in it says in its text.
    assert not re.search("<error|<no value>", json.dumps(active))


def answer(client: httpx.Client, text: str) -> list[Any]:
    """Return the figures that Prometheus answers to a query that it must understand: of a histogram
    without buckets it is "NaN", which draws nothing.
    """
    reply = client.get("/api/v1/query", params={"query": text}).json()
    assert reply["status"] == "success", (text, reply)
    return [one for one in reply["data"]["result"] if one["value"][1] != "NaN"]
