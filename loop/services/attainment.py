"""Whether mean latencies were within their targets, and the share of late looks in which they
were; fed with figures only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge

if TYPE_CHECKING:
    from loop.spec import SloTarget, SystemData
    from loop.types import ServerView

LOOKS = 60  # an hour of cycles of a minute


class Attainment:
    """The latest looks at one server that had figures."""

    def __init__(self) -> None:
        self._met: deque[bool] = deque(maxlen=LOOKS)

    def add(self, *, met: bool) -> None:
        """Count a look."""
        self._met.append(met)

    @property
    def share(self) -> float | None:
        """Return the share within target; None if no look had figures."""
        return sum(self._met) / len(self._met) if self._met else None


class AttainmentGauge:
    """Shows the attainment of servers by the targets of *data*, in *registry*. One thread feeds
    it.
    """

    def __init__(self, registry: CollectorRegistry, data: SystemData) -> None:
        self._gauge = Gauge(
            "inferno_slo_attainment",
            f"Share of the latest {LOOKS} looks with figures in which the mean TTFT and ITL of a "
            "server were within target.",
            ["server"],
            registry=registry,
        )
        self._data = data
        self._of: dict[str, Attainment] = {}

    def look(self, servers: Mapping[str, ServerView]) -> None:
        """Count a look at *servers*; forget who is not there."""
        for name in self._of.keys() - servers.keys():
            del self._of[name]
            self._gauge.remove(name)
        for name, view in servers.items():
            target = self._data.target(service_class=view.service_class, model=view.model)
            met = within_target(target, ttft_ms=view.ttft_ms, itl_ms=view.itl_ms)
            if met is not None:
                attainment = self._of.setdefault(name, Attainment())
                attainment.add(met=met)
                self._gauge.labels(name).set(attainment.share or 0.0)


def within_target(
    target: SloTarget | None, *, ttft_ms: float | None, itl_ms: float | None
) -> bool | None:
    """Tell whether the latencies that were seen are within *target*; None if there is no target for
    a figure that was seen.
    """
    if target is None:
        return None
    # 0 means "not set" in the data files.
    judged = [
        seen_ms <= target_ms
        for seen_ms, target_ms in (
            (ttft_ms, target.slo_ttft_ms),
            (itl_ms, target.slo_itl_ms),
        )
        if seen_ms is not None and target_ms > 0.0
    ]
    return all(judged) if judged else None
