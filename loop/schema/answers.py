"""What the services answer, as models: for the descriptions of their verbs (openapi.json), and so
for programs that are generated from these. Answers themselves are written without them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from loop.schema.messages import CollectAnswer
from loop.schema.models import ServerSpec
from loop.types import FailedPhase, MissingKind, Mode, Trigger, WarningKind


class Answer(BaseModel):
    """An object of an answer: its fields are named as ours, its keys as JSON has them."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")


class Alive(Answer):
    """Whether a restart would help."""

    alive: bool


class Ready(Answer):
    """Whether the service can do what it is for; lastError says why not, or what else is amiss."""

    ready: bool
    last_error: str = ""


class Paused(Answer):
    """Whether the loop asks nothing of its world."""

    paused: bool


class InvokeRequest(Answer):
    """What a cycle that is asked for is to do: act, or decide and explain only."""

    mode: Literal["act", "advise"] = "act"


class MissingReplicas(Answer):
    """Replicas that are wanted and not ready."""

    count: int
    wanted: int
    waited_s: float
    kind: MissingKind
    text: str
    given_up: int


class Hold(Answer):
    """Why nothing may be asked for a server."""

    kind: str
    text: str


class ServerLine(Answer):
    """A server in the record of a cycle: seen, estimated, decided (docs/loop.md)."""

    name: str
    service_class: str = Field(alias="class")
    model: str
    rpm: float | None
    throughput: float | None
    avg_in_tok: float | None
    avg_out_tok: float | None
    itl: float | None
    ttft: float | None
    percentiles: dict[str, dict[str, float]] | None
    percentiles_source: str | None
    percentiles_age_s: float | None
    output_tps: float | None
    current_accelerator: str
    current_max_batch: int
    wanted: int
    ready: int
    starting: int
    pending: int
    draining: int
    running: int | None
    waiting: int | None
    backlog: int | None
    kv_usage: float | None
    reporting: int | None
    pooled: bool
    latest_rpm: float | None
    latest_s: float | None
    load_source: str | None
    load_age_s: float | None
    sample_age_s: float | None
    start_up_s: float | None
    queued_prompt_tokens: int | None
    preemptions: int | None
    waiting_pods: int | None
    prefix_cache_hit_share: float | None
    fetched_prompt_share: float | None
    min_replicas: int
    max_replicas: int | None
    gpus_per_replica: int | None
    batch_fixed: bool
    accelerator_fixed: bool
    gpus_reachable: dict[str, int] | None
    missing: MissingReplicas | None
    grace_s: float | None
    hold: Hold | None
    estimated_source: str | None = Field(alias="believedSource")
    estimated_rpm: float | None = Field(alias="believedRpm")
    estimated_in_tok: float | None = Field(alias="believedInTok")
    estimated_out_tok: float | None = Field(alias="believedOutTok")
    slo_itl: float | None
    slo_ttft: float | None
    slo_tps: float | None
    accelerator: str
    replicas: int
    max_batch: int
    cost: float | None
    policy_replicas: int
    held: bool
    reason: str
    reason_kind: str
    unserved: str | None
    predicted_itl: float | None
    predicted_ttft: float | None
    predicted_rho: float | None


class InternalLine(Answer):
    """The latency model that was estimated of a server where it is to run, and figures behind the
    decision.
    """

    name: str
    model: str
    accelerator: str
    alpha: float | None
    beta: float | None
    gamma: float | None
    details: dict[str, Any]


class CapacityLine(Answer):
    """GPUs of a type: those of the decision, those there are, those held now; seen: known from the
    world.
    """

    type: str
    allocated: int
    available: int
    used: int | None
    seen: bool


class SharedGpusLine(Answer):
    """GPUs of a type that several servers must make do with."""

    type: str
    servers: list[str]
    count: int


class TimingLine(Answer):
    """How long the phases of a cycle took [ms]."""

    collect_ms: float
    optimize_ms: float
    actuate_ms: float
    total_ms: float


class CycleLine(Answer):
    """The record of a cycle: everything that it saw, estimated, decided and did (docs/loop.md)."""

    ts: str
    t_s: float = Field(alias="t_s")
    cycle: int
    trigger: Trigger
    mode: Mode
    paused: str | None
    backend: str
    policy: str
    policy_options: dict[str, str | bool | int | float | None]
    speed: float
    step_up: int | None
    step_down: int | None
    budget_usd_per_h: float | None
    window_s: float | None
    scrape_interval_s: float | None
    applied: bool
    error: str
    failed_phase: FailedPhase
    traceback: str
    warnings: list[str]
    warning_kinds: list[WarningKind]
    servers: list[ServerLine]
    internals: list[InternalLine]
    capacity: list[CapacityLine]
    capacity_max: dict[str, int] | None
    shared_gpus: list[SharedGpusLine] | None
    total_cost: float
    timing: TimingLine


class Collection(CollectAnswer):
    """What a collector sees: servers, a row for each pod that reports, and their objects; snapshot
    is all of it, for ours.
    """

    replicas: list[ServerSpec] = Field(default=[])
