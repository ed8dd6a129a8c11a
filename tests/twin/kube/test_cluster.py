"""A twin from files: tokens, faults, manifests; and the sample manifests of the walk-through on the
sample data.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.world import build_cluster_spec
from loop.schema.reading import read_system
from tests.twin.kube.clients import SPEC, START
from twin.kube.apiserver.errors import ApiError
from twin.kube.apiserver.resources import DEPLOYMENTS
from twin.kube.apiserver.server import Call
from twin.kube.cluster import TwinCluster, start_twin
from twin.spec import SpecError


def code(twin: TwinCluster, token: str, path: str) -> int:
    """Ask for *path* with *token*; return the status."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        return twin.server.answer(
            Call(method="GET", path=path, query={}, headers=headers, body=b"")
        ).code
    except ApiError as error:
        return error.code


def test_a_tokens_file_closes_the_door_to_everybody_else(tmp_path: Path) -> None:
    """Without one, a client without a token is an administrator, as kubectl over plain HTTP."""
    path = tmp_path / "tokens.yaml"
    path.write_text(
        "tokens:\n"
        "- {token: t, user: u, rules: [{verbs: [list], resources: [pods]}]}\n"
        "- {token: a, user: root, groups: [system:masters]}\n",
        encoding="utf-8",
    )
    twin = start_twin(SPEC, clock=lambda: 0.0, start=START, address="x:1", tokens=path)
    assert [code(twin, token, "/api/v1/pods") for token in ("t", "a", "", "inferno-twin")] == [
        200,
        200,
        403,
        401,
    ]
    assert [code(twin, token, "/api/v1/nodes") for token in ("t", "a")] == [403, 200]
    open_twin = start_twin(SPEC, clock=lambda: 0.0, start=START, address="x:1")
    assert [code(open_twin, token, "/api/v1/nodes") for token in ("", "inferno-twin", "t")] == [
        200,
        200,
        401,
    ]


@pytest.mark.parametrize(
    "text", ["tokens: [", "[]", "tokens: [{token: t}]", "tokens: [{token: t, user: u, rights: []}]"]
)
def test_a_tokens_file_that_is_not_understood_is_refused(tmp_path: Path, text: str) -> None:
    """A misspelt rule must not pass for none."""
    path = tmp_path / "tokens.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=f"^{path}") as error:
        start_twin(SPEC, clock=lambda: 0.0, start=START, address="x:1", tokens=path)
    assert "\n" not in str(error.value)


def test_a_speed_is_above_nothing() -> None:
    """Time does not stand still, nor go back."""
    for speed in (0.0, -1.0, float("nan")):
        with pytest.raises(SpecError, match="speed: expected a number > 0"):
            start_twin(SPEC, clock=lambda: 0.0, start=START, address="x:1", speed=speed)


def test_the_faults_of_a_file_are_in_force(tmp_path: Path) -> None:
    """From the start."""
    (tmp_path / "faults.json").write_text('{"faults": [{"kind": "drop"}]}', encoding="utf-8")
    twin = start_twin(
        SPEC, clock=lambda: 0.0, start=START, address="x:1", faults=tmp_path / "faults.json"
    )
    assert [fault.kind for fault in twin.faults.all] == ["drop"]


def test_the_sample_workload_runs_on_the_sample_data(repository: Path) -> None:
    """What the walk-through promises: its manifests get ready on the large system."""
    manifests = repository / "yamls" / "workload"
    data = repository / "sample-data" / "large"
    notes: list[str] = []
    spec, _ = build_cluster_spec(read_system(data, warn=notes.append), data, truth=None)
    now_s = 0.0
    twin = start_twin(spec, clock=lambda: now_s, start=START, address="x:1", manifests=manifests)
    now_s = 300.0
    while not twin.advance():
        pass
    found = twin.store.items(DEPLOYMENTS)
    assert len(found) == len(list(manifests.glob("dep*.yaml"))) > 0
    for each in found:
        assert each["status"].get("readyReplicas", 0) == each["spec"]["replicas"], each["metadata"][
            "name"
        ]
