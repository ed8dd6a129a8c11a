"""The workflows of GitHub and the forms of its issues, as far as they can be checked without it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")


def read(path: Path) -> dict[str, Any]:
    """Return a file of YAML."""
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def steps(path: Path) -> list[dict[str, Any]]:
    """Return the steps of all jobs of a workflow."""
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: str(path.stem))
def test_actions_are_pinned_by_commit(path: Path) -> None:
    """A tag can be moved to other code, which then has our rights; the comment says which it is."""
    uses = re.findall(r"uses: (.*)", path.read_text(encoding="utf-8"))
    assert uses
    for line in uses:
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_an_action_is_pinned_to_one_commit_everywhere() -> None:
    """Two would be tested, and one used."""
    pins: dict[str, set[str]] = {}
    for path in WORKFLOWS:
        for name, commit in re.findall(r"uses: (\S+)@(\S+)", path.read_text(encoding="utf-8")):
            pins.setdefault(name, set()).add(commit)
    assert {name: found for name, found in pins.items() if len(found) > 1} == {}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: str(path.stem))
def test_a_job_may_do_no_more_than_it_says(path: Path) -> None:
    """By default the token of a workflow may read. A job of a change never writes, none runs for
    ever, and none leaves its token in the checkout.
    """
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    triggers = workflow[True]  # YAML takes the word on for true
    assert "pull_request_target" not in triggers
    for job in workflow["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 60
        if "pull_request" in triggers:
            assert "permissions" not in job
    for step in steps(path):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: str(path.stem))
def test_what_a_step_runs_is_there(path: Path) -> None:
    """A target that was renamed fails on the day of a release."""
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for step in steps(path):
        script = step.get("run", "")
        # Text of a branch or a title in a script is run: it has to come by a variable.
        assert "${{" not in script
        checked = subprocess.run(["bash", "-n"], input=script, text=True, check=False)
        assert checked.returncode == 0
        for line in re.findall(r"^make (.*)$", script, re.MULTILINE):
            assert set(line.split()) <= set(targets)


def test_a_release_builds_all_that_it_promises() -> None:
    """Wheel, sdist, bill of materials, site, image; and what waits for what."""
    jobs = read(GITHUB / "workflows" / "release.yml")["jobs"]
    ran = " ".join(step.get("run", "") for step in jobs["build"]["steps"])
    assert {"check", "test", "dist", "sbom", "site"} <= set(ran.split())
    assert jobs.keys() == {"build", "image", "release", "package", "site"}
    assert all(job["needs"] == "build" for name, job in jobs.items() if name != "build")


@pytest.mark.parametrize("path", FORMS, ids=lambda path: str(path.stem))
def test_a_form_is_one_that_github_shows(path: Path) -> None:
    """One that is not right is left out, without a word."""
    form = read(path)
    assert form.keys() == {"name", "description", "labels", "body"}
    ids = [field["id"] for field in form["body"]]
    assert len(set(ids)) == len(ids)
    for field in form["body"]:
        assert field["type"] in ("input", "textarea", "dropdown", "checkboxes")
        assert field["attributes"]["label"]
        assert field.keys() <= {"type", "id", "attributes", "validations"}


def test_the_commands_of_the_forms_are_ones_that_there_are() -> None:
    """Who reports a fault should not meet another."""
    from inferno.cli.main import NAMES

    text = " ".join(path.read_text(encoding="utf-8") for path in FORMS)
    named = set(re.findall(r"inferno ([a-z][a-z-]*)", text)) - {"should"}
    assert named <= set(NAMES)
