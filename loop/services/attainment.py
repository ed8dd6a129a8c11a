"""Whether mean latencies were within their targets, and the share of late looks in which they
were; fed with figures only.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loop.spec import SloTarget

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
