"""Pages of pods fetched straight from their addresses, as a controller inside the cluster may."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import httpx
import pytest

from loop.backends.kube.read import read_pod
from loop.backends.metrics.pods import DirectPages, PageError, read_page
from loop.signals.names import NAMES
from loop.signals.pods import ScrapedPod
from tests.live.kube_worlds import KubeWorld, kube_world, manifest


@pytest.fixture(scope="module")
def world() -> Iterator[KubeWorld]:
    """Return a cluster with a ready pod."""
    with kube_world(manifest(replicas=1)) as served:
        served.settled()
        yield served


@pytest.fixture
def pod(world: KubeWorld) -> ScrapedPod:
    """Return the pod, at the address where the twin shows its page."""
    found = read_pod(world.calls.pods("infer")[0], epoch_s=world.epoch.timestamp())
    assert found is not None
    url = httpx.URL(world.twin.url)
    assert url.port is not None
    return ScrapedPod(
        name=found.name,
        namespace=found.namespace,
        phase=found.phase,
        since_s=found.since_s,
        created_s=found.created_s,
        address=url.host,
        ports=(url.port,),
        path=f"/pods/infer/{found.name}/metrics",
    )


def test_a_page_comes_from_the_pod_itself(pod: ScrapedPod) -> None:
    """No API server is between."""
    wanted = re.compile(NAMES.pattern)
    with closing(DirectPages()) as pages:
        told = read_page(pages.page(pod, *pod.ports), wanted=wanted)
    assert "vllm:request_success_total" in {one.metric for one in told}


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"address": ""}, "no address yet"),
        ({"path": "/nowhere"}, "404"),
        ({"address": "::1"}, "ConnectError"),
    ],
)
def test_a_pod_that_shows_no_page_is_told(
    pod: ScrapedPod, fields: dict[str, str], line: str
) -> None:
    """It has no address yet, another kind of server answers, or none."""
    with closing(DirectPages(timeout_s=30.0)) as pages, pytest.raises(PageError, match=line):
        pages.page(replace(pod, **fields), *pod.ports)  # type: ignore[arg-type] # names of text fields
