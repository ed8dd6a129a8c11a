"""Every command of ours that a page shows is one that there is; every file that the walk-through
names is there.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from inferno.cli import main as inferno
from tests.test_manifests import YAMLS

ROOT = YAMLS.parent
# CHANGELOG.md tells of options that had other names.
PAGES = [
    *sorted(page for page in ROOT.glob("*.md") if page.stem != "CHANGELOG"),
    *(ROOT / "sample-data" / "README.md", *sorted(ROOT.glob("docs/**/*.md"))),
]
# What no command line is: of all commands, of an option alone, of a class that somebody names.
WORDS_ONLY = (
    "inferno --help",
    "inferno optimize --compat",
    "inferno fit --rows",
    "inferno controller --backend module:Name",
)
ARGUMENTS = re.compile(r"^(?:[A-Z_]+=\S+ +)*inferno +(.*)$")


def commands(text: str) -> list[list[str]]:
    """Return the arguments of each `inferno` in the blocks of a page, and of those in the lines
    that have options.
    """
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = [" ".join(one.split()) for one in re.findall(r"`(inferno [^`]*)`", text)]
    lines += [one for one in inline if re.search(r" -|\d|[./]", one) and one not in WORDS_ONLY]
    found = [ARGUMENTS.match(line) for line in lines]
    words = [shlex.split(one[1].replace("&", ""), comments=True) for one in found if one]
    # A page may leave out what does not matter there: `inferno emulator [INTERVAL] [ALPHA]`.
    return [one for one in words if not any(word[:1] in "[…" for word in one)]


SHOWN = {str(page.relative_to(ROOT)): commands(page.read_text(encoding="utf-8")) for page in PAGES}


@pytest.mark.parametrize("page", [page for page, shown in SHOWN.items() if shown])
def test_every_command_that_a_page_shows_is_understood(page: str) -> None:
    """A flag that was renamed is first noticed by who copies it from the page."""
    for arguments in SHOWN[page]:
        inferno.parse(arguments)


def test_pages_that_show_commands_are_found() -> None:
    """A pattern that finds nothing any more would pass each of them."""
    assert {"README.md", "docs/tutorials/go-live.md", "docs/runbooks/InfernoModelDrift.md"} <= {
        page for page, shown in SHOWN.items() if shown
    }


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
