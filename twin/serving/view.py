"""Frozen views of a cluster: what its API server and its scraper would tell at one instant. No
behaviour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from twin.frozen import made_quickly
from twin.serving.metrics import WindowFigures
from twin.serving.pod import PodPhase
from twin.spec import CapacityView, GaugeSample, Pool


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class PodState:
    """One pod: its phase as it is, its gauges as last scraped (scraped_s None: never in this life,
    gauges zero).

    since_s: when it entered its phase; created_s: when it was asked for; restarts: crashes
    survived. max_batch is the value in force. queued_prompt_tokens wait, kv_tokens_used are in its
    KV cache (None: the engine does not tell, or has no bound).
    """

    name: str
    phase: PodPhase
    since_s: float
    created_s: float
    accelerator: str
    max_batch: int
    restarts: int
    scraped_s: float | None
    running: int
    waiting: int
    kv_usage: float
    queued_prompt_tokens: int | None = None
    kv_tokens_used: int | None = None


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """One server: the pool last asked for (at once, applied or not), its pods as they are, figures
    as last scraped.

    starting counts pods that hold GPUs but are not ready, pending those without. backlog is the
    requests that wait, at the router and in pods; kv_usage the mean over ready pods; window the
    figures over the metrics window, gauges the readings of it. start_up_s is how long its pods took
    from when they were asked for to ready, None if none did; pooled tells whether each request goes
    to the replica that has the fewest.
    """

    name: str
    model: str
    service_class: str
    desired: Pool
    ready: int
    starting: int
    pending: int
    draining: int
    scraped_s: float | None
    window: WindowFigures
    running: int
    waiting: int
    backlog: int
    kv_usage: float
    gauges: tuple[GaugeSample, ...]
    start_up_s: float | None
    pooled: bool
    queued_prompt_tokens: int | None
    pods: tuple[PodState, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """The whole cluster at now_s, servers and types by name."""

    now_s: float
    scrape_interval_s: float
    window_s: float
    servers: Mapping[str, ServerState]
    capacity: Mapping[str, CapacityView]
