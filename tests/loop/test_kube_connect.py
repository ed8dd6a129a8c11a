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


@pytest.mark.parametrize(
    ("address", "more", "proxied"),
    [
        ("https://127.0.0.1:6443", "", False),
        ("https://localhost:6443", "", False),
        ("https://[::1]:6443", "", False),
        ("https://10.0.0.1:6443", "", True),
        # Who names a proxy for a cluster means that one.
        ("https://127.0.0.1:6443", ', proxy-url: "http://jump:3128"', True),
    ],
)
def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    address: str, more: str, proxied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kubectl reached the cluster, and the loop did not."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    path = tmp_path / "config"
    path.write_text(WHOLE.replace('"https://127.0.0.1:1"', f'"{address}"{more}'))
    with connect(str(path)) as client:
        assert (client.configuration.proxy is not None) == proxied
