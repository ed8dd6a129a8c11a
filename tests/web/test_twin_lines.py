"""What the page of the twin says of servers: as Deployments ask, with the loop's own reason."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from experiments.world import build_cluster_spec
from inferno.web.from_records import timeline_of_records
from inferno.web.live import History, Stream
from inferno.web.timeline import ServerTimeline
from inferno.web.twin_page import LOOK_S, PATH, SeenTwin, WithTimeline
from loop.schema.reading import read_system
from twin.kube.apiserver.app import create_app
from twin.kube.apiserver.server import Call
from twin.kube.cluster import CONTROL_PATH, TwinCluster, start_twin

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "sample-data" / "large"
DEPLOYMENTS = "/apis/apps/v1/namespaces/infer/deployments"
FIRST = f"{DEPLOYMENTS}/premium-llama-13b"


class Watched:
    """A twin whose time passes when told, and what its page has seen."""

    def __init__(self, *, tokens: Path | None = None) -> None:
        self.now_s = 0.0
        data = read_system(DATA)
        spec, _ = build_cluster_spec(data, DATA)
        self.cluster: TwinCluster = start_twin(
            spec,
            clock=lambda: self.now_s,
            start=datetime(2026, 1, 1, tzinfo=UTC),
            address="twin",
            manifests=ROOT / "yamls" / "workload",
            tokens=tokens,
        )
        self.history = History()
        self.seen = SeenTwin(self.cluster, self.history, data=data, speed=1.0)

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds
        while not self.seen.advance():
            pass

    def change(self, path: str, **body: Any) -> None:
        """Patch what is at *path*."""
        self.cluster.server.answer(
            Call(
                method="PATCH",
                path=path,
                query={"fieldManager": "somebody"},
                headers={"content-type": "application/merge-patch+json"},
                body=json.dumps(body).encode(),
            )
        )

    def servers(self) -> dict[str, ServerTimeline]:
        """Return what the page shows, by name."""
        _, lines = self.history.after(0)
        found = timeline_of_records(lines, title="twin", origin="live")
        assert found.started == "2026-01-01T00:00:00.000+00:00"
        return {server.name: server for server in found.servers}


def test_a_server_shows_what_was_asked_and_the_reason_of_the_loop() -> None:
    """The twin does not decide; another's request must not pass for the loop's."""
    twin = Watched()
    twin.pass_s(3 * LOOK_S)
    twin.change(FIRST, spec={"replicas": 3})
    twin.pass_s(2 * LOOK_S)
    status = {"accelerator": "MI250", "replicas": 4, "reason": "bound by slo-itl"}
    note = {"inferno.server.status": json.dumps(status)}
    twin.change(FIRST, metadata={"annotations": note}, spec={"replicas": 4})
    twin.pass_s(2 * LOOK_S)
    twin.change(FIRST, spec={"replicas": 1})
    twin.pass_s(LOOK_S)
    server = twin.servers()["vllm-001"]
    changed = [(one.replicas, one.text) for one in server.decisions if one.changed]
    assert changed == [
        (3, "asked for by somebody"),
        (4, "bound by slo-itl"),
        (1, "asked for by somebody"),
    ]
    assert server.slo_itl_ms
    assert len(server.traffic.t_s) == twin.history.number


def test_the_twin_is_told_to_administrators_only(tmp_path: Path) -> None:
    """A token that may read pods must not see more of a cluster than the cluster lets it."""
    rules = [{"verbs": ["get"], "resources": ["pods"]}]
    rows = [
        {"token": "one", "user": "admin", "groups": ["system:masters"]},
        {"token": "two", "user": "reader", "rules": rules},
    ]
    (tmp_path / "tokens.yaml").write_text(json.dumps({"tokens": rows}))
    twin = Watched(tokens=tmp_path / "tokens.yaml")
    twin.pass_s(LOOK_S)
    ended = iter([False, True])
    stream = Stream(twin.history, title="twin", closed=lambda: next(ended))
    app = create_app(twin.cluster.server, twin.seen, twin.cluster.faults, control=CONTROL_PATH)
    transport = httpx.ASGITransport(WithTimeline(app, twin.cluster, stream))

    async def asked() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=transport, base_url="http://twin") as client:
            return [
                await client.get(PATH, headers={"authorization": f"Bearer {token}"})
                for token in ("other", "two", "one")
            ] + [await client.get(PATH)]

    answers = asyncio.run(asked())
    assert [one.status_code for one in answers] == [401, 403, 200, 403]
    assert ["vllm-001" in one.text for one in answers] == [False, False, True, False]
