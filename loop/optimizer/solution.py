"""What the optimizer answers: an assignment per server, and who cannot be served. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Replicas of one accelerator, where a server may have several."""

    accelerator: str
    replicas: int
    max_batch: int
    cost_cents_per_h: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What one server gets, and why.

    value is cost with the transition penalty [cents/h]. itl_ms, ttft_ms and rho (busy share of the
    batch) are what the estimate expects at the present load; None where the replicas cannot keep up
    and the wait has no bound. reason is one line for people, details are figures for machines.
    held: it keeps what it has, unasked. parts: where a server may have several accelerators, what
    it has of each; the figures above are then totals (names joined by +, the largest batch,
    latencies as the mean request sees them).
    """

    server: str
    accelerator: str
    replicas: int
    max_batch: int
    cost_cents_per_h: float
    value: float
    itl_ms: float | None
    ttft_ms: float | None
    rho: float | None
    rate_max_rpm: float
    held: bool = False
    parts: tuple[Part, ...] = ()
    reason: str = ""
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """The answer: allocations and unserved servers (with the reason) by name, in the order of the
    servers asked for.

    total_cost and total_value are in cents/h. gap: how far total_value may be above the least,
    relative (None: not known, as with greedy); optimal: proven.
    """

    allocations: Mapping[str, Assignment]
    unserved: Mapping[str, str]
    total_cost: float
    total_value: float
    gap: float | None = None
    optimal: bool = False
    note: str = ""
