"""`--mode export`: the loop writes nothing but a metric, and another autoscaler scales by it."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import yaml
from prometheus_client import generate_latest

from loop.actuator import replicas_only
from loop.controller import Controller, ControllerSettings, Pause
from loop.data import FixedData
from loop.policies import make_policy
from loop.services.controller_metrics import ControllerMetrics
from loop.testing.fakes import FakeBackend, ManualClock, server_view, system, target
from loop.types import CycleRecord, Decision, Load, Snapshot
from tests.conftest import ROOT
from tests.live.kube_worlds import kube_world, manifest

PAGE = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
MANIFESTS = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
BUSY = Load(rate_rpm=6000.0, in_tokens=512.0, out_tokens=256.0)
MEDIUM = Load(rate_rpm=1500.0, in_tokens=512.0, out_tokens=256.0)


def exporting(backend: FakeBackend, *, pause: Pause | None = None) -> Controller:
    """Return a controller over *backend* that exports."""
    return Controller(
        backend=backend,
        policy=make_policy("slo"),
        data=FixedData(system()),
        clock=ManualClock(),
        settings=ControllerSettings(mode="export"),
        pause=pause,
    )


def exported(record: CycleRecord) -> dict[str, float]:
    """Return the metric after the cycle of *record*, by server."""
    metrics = ControllerMetrics()
    metrics.observe(record)
    page = generate_latest(metrics.registry).decode()
    found = re.findall(r'^inferno_desired_replicas\{.*server="(\w+)"\} (\S+)$', page, re.MULTILINE)
    return {server: float(value) for server, value in found}


def test_it_decides_and_writes_nothing() -> None:
    """Somebody else has the right to scale, and does."""
    backend = FakeBackend([server_view(load=BUSY)])
    record = exporting(backend).cycle(60.0)
    assert (record.mode, record.applied, backend.applied) == ("export", False, [])
    assert exported(record)["s1"] > 2.0


def test_an_autoscaler_that_follows_the_metric_brings_the_world_to_rest() -> None:
    """The next decision begins with what the autoscaler made of the last one."""
    backend = FakeBackend([server_view(load=BUSY)])
    controller = exporting(backend)
    asked = []
    for cycle in range(4):
        asked.append(exported(controller.cycle(60.0 * cycle))["s1"])
        # As an HPA does for an average of 1 per pod.
        view = backend.views["s1"]
        count = math.ceil(asked[-1] / 1.0)
        pool = replace(view.pools[0], replicas=count)
        backend.views["s1"] = replace(view, pools=(pool,), ready=count)
    assert len(set(asked)) == 1


def test_a_server_stays_on_its_accelerator_at_its_batch() -> None:
    """An autoscaler changes the number of replicas, which is right for one accelerator only."""
    view = server_view(load=MEDIUM, accelerator="2xA100", max_batch=48, wanted=2, ready=2)
    moving = FakeBackend([view])
    free = make_policy("slo", hysteresis=0.0)  # a server that is short stays where it is otherwise
    acting = Controller(backend=moving, policy=free, data=FixedData(system()), clock=ManualClock())
    (moved,) = acting.cycle(60.0).changes
    assert moved.accelerator == "H100"
    (change,) = exporting(FakeBackend([view])).cycle(60.0).changes
    assert (change.accelerator, change.max_batch) == ("2xA100", 48)
    assert change.replicas > 2


def test_a_policy_that_wants_to_move_a_server_all_the_same_holds_it() -> None:
    """Its replicas were counted for another accelerator."""
    seen = Snapshot(now_s=0.0, servers={"s1": server_view()})
    moving = Decision(targets={"s1": target(accelerator="2xA100", replicas=7)})
    held = replicas_only(moving, seen).targets["s1"]
    assert (held.held, held.replicas) == (True, 2)
    assert "only replicas are exported" in held.why.text


def test_what_is_held_is_exported_as_it_is() -> None:
    """An autoscaler with a metric of what there is changes nothing."""
    backend = FakeBackend([server_view(load=None, wanted=5, ready=3)])
    assert exported(exporting(backend).cycle(60.0)) == {"s1": 5.0}


def test_a_pause_holds_the_metric_too() -> None:
    """Who pauses the loop wants nobody to scale by it."""
    pause = Pause()
    pause.pause("a person")
    backend = FakeBackend([server_view(load=BUSY)])
    record = exporting(backend, pause=pause).cycle(60.0)
    assert (record.mode, exported(record)) == ("advise", {"s1": 2.0})


@pytest.mark.parametrize("obj", MANIFESTS, ids=lambda obj: str(obj["kind"]))
def test_a_cluster_takes_the_manifests_of_the_page(obj: dict[str, object]) -> None:
    """They are to be copied."""
    with kube_world(manifest("premium-llama-13b", server="vllm-001")) as world:
        group = str(obj["apiVersion"])
        plural = f"{str(obj['kind']).lower()}s"
        root = f"/apis/{group}" if "/" in group else f"/api/{group}"
        answer = world.twin.http.post(f"{root}/namespaces/infer/{plural}", json=obj)
        assert answer.status_code == 201, answer.text


def test_the_manifests_scale_by_the_metric_and_the_server_that_the_loop_shows() -> None:
    """A name that is misspelt scales nothing, and nobody says so."""
    text = yaml.safe_dump_all(MANIFESTS)
    backend = FakeBackend([server_view("vllm-001")])
    metrics = ControllerMetrics()
    metrics.observe(exporting(backend).cycle(60.0))
    page = generate_latest(metrics.registry).decode()
    for name in set(re.findall(r"inferno_\w+", text)):
        assert f'{name}{{accelerator="H100",server="vllm-001"}}' in page
