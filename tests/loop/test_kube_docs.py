"""The page about Kubernetes names what the code reads and writes: labels, annotations, requests,
numbers.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from loop.backends.kube import backend as kube
from loop.backends.kube import labels, writer
from loop.backends.kube.client import Timeouts
from loop.backends.kube.lease import LeaseSettings
from loop.signals.demand import WindowSettings


@pytest.fixture
def page(repository: Path) -> str:
    """Return docs/kubernetes.md in one line, with its short names of labels written out."""
    text = " ".join((repository / "docs" / "kubernetes.md").read_text(encoding="utf-8").split())
    # Rows name a family by its first member in full and the others by their last parts.
    return text.replace("`.", "`inferno.server.load.").replace(
        "replicas.min`, `inferno.server.load.max", "replicas.max"
    )


def test_every_label_and_annotation_is_explained(page: str) -> None:
    """A name that only the code knows is of use to nobody."""
    keys = {
        value
        for value in vars(labels).values()
        if isinstance(value, str) and value.startswith("inferno.server.")
    }
    assert len(keys) > 12
    assert [key for key in sorted(keys) if key.partition("=")[0] not in page] == []


def test_the_numbers_of_the_page_are_those_of_the_code(page: str) -> None:
    """Who waits must know how long."""
    timeouts, window = Timeouts(), WindowSettings()
    lease = LeaseSettings(namespace="n", name="n", holder="h")
    assert f"tried again, {timeouts.attempts} times within {timeouts.total_s:g} s in all" in page
    assert f"| {writer.APPLY_S:g} s are over |" in page
    assert f"for more than {kube.SETTLING_S:g} s" in page
    assert f"(pods by namespace while managed Deployments are in at most {kube.SPACES_MAX})" in page
    assert f"older than `stale_s` ({window.stale_s:g} s)" in page
    assert f"It lasts {lease.lease_s:g} s and is renewed every {lease.renew_s:g} s." in page
    assert f"until {lease.act_s:g} s after the last renewal" in page
