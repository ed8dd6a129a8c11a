"""What was told before a gap counts behind it, as long as the pods are the same."""

from __future__ import annotations

import pytest

from loop.backends.metrics.gaps import Gaps
from loop.signals.demand import Figures, WindowSettings
from loop.signals.pods import ScrapedPod, ScrapedServer
from loop.signals.processes import Series
from loop.types import Load

WINDOW = WindowSettings(window_s=60.0)
KNOWN = Figures(load=Load(rate_rpm=60.0, in_tokens=1.0, out_tokens=1.0), age_s=2.0)
UNKNOWN = Figures(age_s=1.0)
ENDS, LABELS = "vllm:request_success_total", (("engine", "0"),)


def server(*pods: str, since_s: float = 0.0) -> ScrapedServer:
    """Return a server with ready *pods*."""
    ready = [
        ScrapedPod(name=name, namespace="infer", phase="ready", since_s=since_s, created_s=0.0)
        for name in pods
    ]
    return ScrapedServer(name="s1", namespace="infer", workload="dep1", pods=tuple(ready))


def series(*points: tuple[float, float]) -> dict[str, list[Series]]:
    """Return what one counter of the pod a told."""
    return {"a": [Series(ENDS, LABELS, list(points))]}


@pytest.mark.parametrize(
    ("later", "now_s", "found", "spans"),
    [
        (server("a"), 190.0, UNKNOWN, True),
        (server("a"), 420.0, UNKNOWN, False),
        (server("a"), 190.0, KNOWN, False),
        (server("a"), 190.0, Figures(), False),
        (server("a", "b"), 190.0, UNKNOWN, False),
        (server("b"), 190.0, UNKNOWN, False),
        (server("a", since_s=150.0), 190.0, UNKNOWN, False),
    ],
    ids=["same", "too long", "known", "no sample", "one came", "another", "began anew"],
)
def test_what_was_told_before_counts_for_the_same_pods_only(
    later: ScrapedServer, now_s: float, found: Figures, spans: bool
) -> None:
    """What came to a pod that has gone in a gap nobody knows: half of the load was read, and a
    replica taken away.
    """
    gaps, one = Gaps(), server("a")
    before = series((60.0, 10.0), (90.0, 40.0), (98.0, 48.0))
    gaps.learn([one], {"s1": KNOWN}, {"s1": before}, now_s=100.0)
    gaps.learn([later], {"s1": found}, {"s1": {}}, now_s=now_s)
    told = gaps.over(later, found, [], series((189.0, 139.0)), window=WINDOW, now_s=now_s)
    if not spans:
        assert told is None
        return
    assert told is not None
    reach_s, pods = told
    # The last samples before the gap, and all behind it.
    assert pods == series((90.0, 40.0), (98.0, 48.0), (189.0, 139.0))
    assert reach_s == pytest.approx(now_s - (98.0 - WINDOW.heard_s_min))
