"""Kubeconfigs that are cut off while they are written: each is read or refused in one line."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from loop.backends.kube.client import connect
from loop.errors import SpecError

WHOLE = """\
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
users:
- name: u
  user:
    token: abc
"""


def test_a_kubeconfig_that_is_cut_anywhere_is_read_or_refused(tmp_path: Path) -> None:
    """One cut within its user ended the process: the official client took a text for an object."""
    path = tmp_path / "config"
    for length in range(len(WHOLE)):
        path.write_text(WHOLE[:length])
        with contextlib.suppress(SpecError):
            connect(str(path))
    path.write_text(WHOLE[: WHOLE.index("oken")])
    with pytest.raises(SpecError, match="found a file that is no kubeconfig"):
        connect(str(path))
