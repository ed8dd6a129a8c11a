"""What the optimizer answers: an assignment per server, and which servers cannot be served. Values
only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loop.types import OfPools, Why
from twin.frozen import made_quickly
from twin.spec import Pool


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment(OfPools):
    """What one server gets, and why.

    pools: its replicas; several only if the data allow several accelerators (heterogeneous), and
    pool_costs is then the cost of each [cents/h], else it is empty. cost_cents_per_h is that of all
    replicas, value the same with the transition penalty. itl_ms, ttft_ms and rho (busy share of the
    batch) are what the estimate expects at the present load, as the mean request sees them; None
    if the replicas cannot keep up and the wait has no bound. By the rules of mid 2025 ttft_ms is
    the mean wait.
    """

    server: str
    pools: tuple[Pool, ...]
    cost_cents_per_h: float
    value: float
    itl_ms: float | None
    ttft_ms: float | None
    rho: float | None
    rate_max_rpm: float
    why: Why
    pool_costs: tuple[float, ...] = ()


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """The answer: allocations and unserved servers (with the reason) by name, in the order of the
    servers asked for.

    total_cost and total_value are in cents/h. gap: how far total_value may be above the least,
    relative (None: not known, as with greedy); optimal: proven.
    """

    allocations: Mapping[str, Assignment]
    unserved: Mapping[str, Why]
    total_cost: float
    total_value: float
    gap: float | None = None
    optimal: bool = False
    note: str = ""
