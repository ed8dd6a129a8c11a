"""What docs/twin-api.md says is so: its files are read, its resources and figures are those of the
code.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from twin.datafile import Entry
from twin.kube.apiserver.resources import RESOURCES
from twin.kube.apiserver.storage import HISTORY_MAX
from twin.kube.cluster import TOKEN
from twin.kube.desired import (
    MAX_BATCH_DEFAULT,
    PREFIX,
)
from twin.kube.faults import REQUEST_KINDS, FaultKind, parse_faults
from twin.kube.files import read_tokens
from twin.kube.pods import CREATING_S
from twin.magnitudes import (
    SIMULATED_RATE_RPM_MAX,
    SIMULATED_REPLICAS_MAX,
    SIMULATED_TOKENS_MAX,
)


@pytest.fixture(scope="module")
def text(repository: Path) -> str:
    """Return the page."""
    return (repository / "docs" / "twin-api.md").read_text(encoding="utf-8")


def blocks(text: str) -> list[dict[str, object]]:
    """Return the YAML examples."""
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]


def test_the_files_that_it_shows_are_read(text: str) -> None:
    """Tokens and faults, as they stand there; every kind of fault is among them, and explained."""
    _, tokens, faults = blocks(text)
    assert len(read_tokens(Entry(tokens, source="docs"))) == 2
    shown = [fault.kind for fault in parse_faults(faults, source="docs")]
    kinds = set(FaultKind.__args__)  # type: ignore[attr-defined]
    assert set(shown) == kinds > set(REQUEST_KINDS)
    assert all(f"| `{kind}` |" in text for kind in kinds)


def test_it_names_every_resource(text: str) -> None:
    """And none that is not there."""
    table = text.split("| group | resources |")[1].split("\n\n", maxsplit=1)[0]
    for resource in RESOURCES:
        assert resource.plural in table
        assert (resource.group or "core") in table
        assert all(f"`/{part}`" in table for part in resource.subresources)


def test_its_figures_are_those_of_the_code(text: str) -> None:
    """A change of one has to be written down here too."""
    for figure in (
        f"`ContainerCreating` for {CREATING_S:g} s",
        f"at most {SIMULATED_REPLICAS_MAX}",
        f"above {SIMULATED_RATE_RPM_MAX} requests a minute, "
        f"or of more than {SIMULATED_TOKENS_MAX} tokens",
        f"where its command line tells none, else {MAX_BATCH_DEFAULT}",
        f"{HISTORY_MAX} changes per resource",
        f"no token or `{TOKEN}`",
        f"label `{PREFIX}managed",
    ):
        assert figure in text, figure
