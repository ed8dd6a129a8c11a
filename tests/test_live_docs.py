"""The pages about going live: every command of ours that they show is one that there is, and every
file is there.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from inferno.cli import main as inferno
from tests.test_manifests import YAMLS

PAGES = (
    "README.md",
    "docs/walkthrough.md",
    "docs/services.md",
    "docs/twin-api.md",
    "docs/install.md",
    *(
        f"docs/tutorials/{name}.md"
        for name in ("try-it", "compare-policies", "own-system", "go-live", "extend")
    ),
)
ARGUMENTS = re.compile(r"^(?:[A-Z_]+=\S+ +)*inferno +(.*)$")


def commands(text: str) -> list[list[str]]:
    """Return the arguments of each `inferno` in the blocks of a page, and of those in the lines
    that have options.
    """
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [one for one in re.findall(r"`(inferno [^`]*)`", text) if re.search(r" -|\d", one)]
    found = [ARGUMENTS.match(line) for line in lines]
    words = [shlex.split(one[1].replace("&", ""), comments=True) for one in found if one]
    # A page may leave out what does not matter there: `inferno emulator [INTERVAL] [ALPHA]`.
    return [one for one in words if not any(word[:1] in "[…" for word in one)]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_a_page_shows_is_understood(page: str, repository: Path) -> None:
    """A flag that was renamed is first noticed by who copies it from the page."""
    found = commands((repository / page).read_text(encoding="utf-8"))
    assert found
    for arguments in found:
        inferno.parse(arguments)


def test_the_walk_through_names_the_files_that_there_are(repository: Path) -> None:
    """Manifests, scripts and data files are typed by name."""
    text = (repository / "docs" / "walkthrough.md").read_text(encoding="utf-8")
    manifests = set(re.findall(r"[a-z0-9-]+\.yaml", text))
    assert manifests >= {"ns.yaml", "dep1.yaml", "deploy-loop.yaml", "load-emulator.yaml"}
    assert manifests <= {path.name for path in YAMLS.rglob("*.yaml")}
    scripts = set(re.findall(r"[a-z-]+\.sh", text))
    assert scripts == {"launch-terms.sh", "setparms.sh"}
    assert all((repository / "scripts" / name).exists() for name in scripts)
    data = set(re.findall(r"[a-z]+-data\.json", text))
    assert len(data) == 5
    assert all((repository / "sample-data" / "large" / name).exists() for name in data)
