"""What the optimizer estimates of accelerators, models, classes and servers, as frozen data (the
JSON data files).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from twin.frozen import made_quickly
from twin.spec import Accelerator, LatencyModel, Scheduling

SLO_PERCENTILE = 0.95  # the share of requests that shall meet the targets of a class
ARRIVAL_CV_MAX = 10.0  # beyond, a lone replica takes next to nothing anyway
TOKEN_CV = 0.5  # coefficient of variation of the tokens of a request, where nobody says another


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The demand on one server: arrivals [requests/min] and mean tokens of a request (0: nobody
    counted them yet).
    """

    rate_rpm: float
    in_tokens: float
    out_tokens: float


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Perf:
    """How one model performs on one accelerator (model-data.json).

    alpha, beta and gamma make the sum that the Go tools read; launch_ms and weights_ms, if given,
    take the place of alpha, and p > 1 makes a soft roofline of it (twin.spec.LatencyModel). Of
    the scheduling only the tail of latencies knows, not the means. experts_ms and experts_idle: of
    a mixture of experts few requests leave some alone; attention: tokens of a long prompt take
    longer; sequence_ms: what the host does for each request of an iteration. overhead_ms is what a
    request spends outside the engine. tokens_per_step above 1 is speculative decoding: how many
    tokens a step adds to an answer on the mean. kv_tokens is the KV capacity of one replica
    [tokens] (from twin-data.json), None if not known; it caps the batch. start_up_s is how long a
    replica takes to start, by the same file, None if not known.
    """

    model: str
    accelerator: str
    acc_count: int = 1
    max_batch: int = 0
    at_tokens: int = 0
    alpha_ms: float
    beta_ms: float
    gamma_ms: float
    launch_ms: float | None = None
    weights_ms: float | None = None
    p: float = 1.0
    experts_ms: float = 0.0
    experts_idle: float = 0.0
    attention: float = 0.0
    sequence_ms: float = 0.0
    scheduling: Scheduling = "sync"
    overhead_ms: float = 0.0
    tokens_per_step: float = 1.0
    kv_tokens: int | None = None
    start_up_s: float | None = None

    @property
    def latency_model(self) -> LatencyModel:
        """Return the latency model of an iteration."""
        divided = self.launch_ms is not None or self.weights_ms is not None
        launch_ms = self.launch_ms or 0.0
        rest_ms = max(self.alpha_ms - launch_ms, 0.0)
        weights_ms = rest_ms if self.weights_ms is None else self.weights_ms
        return LatencyModel(
            alpha_ms=launch_ms + weights_ms if divided else self.alpha_ms,
            beta_ms=self.beta_ms,
            gamma_ms=self.gamma_ms,
            launch_ms=launch_ms,
            p=self.p,
            experts_ms=min(self.experts_ms, weights_ms),
            experts_idle=self.experts_idle,
            attention=self.attention,
            sequence_ms=self.sequence_ms,
        )


Latency = Literal["ttft", "itl"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PercentileTarget:
    """The *percentile* (0..100) of TTFT or ITL over the requests of a minute shall be at most
    limit_ms.
    """

    latency: Latency
    percentile: float
    limit_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SloTarget:
    """The objectives of one model in one service class; 0 means not set.

    slo_ttw_ms, the 95th percentile of the waiting time, is of older files and used by the early
    model only.
    """

    model: str
    slo_itl_ms: float = 0.0
    slo_ttft_ms: float = 0.0
    slo_tps: float = 0.0
    slo_ttw_ms: float = 0.0
    percentiles: tuple[PercentileTarget, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceClass:
    """A service class: priority 1 (highest) to 100, and its targets by model name.

    percentile is the share of requests that shall meet the targets, value what one request that
    meets them is worth [cents]; None: not said.
    """

    name: str
    priority: int = 100
    percentile: float = SLO_PERCENTILE
    value_per_met_request_cents: float | None = None
    targets: Mapping[str, SloTarget] = field(default_factory=dict)


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """What a server has: accelerator "" or 0 replicas mean nothing. cost_cents_per_h is None if
    it was not given. Latencies are told on, and decide nothing: two that differ in these only are
    equal.
    """

    accelerator: str = ""
    replicas: int = 0
    max_batch: int = 0
    cost_cents_per_h: float | None = None
    itl_ms: float = field(default=0.0, compare=False)
    ttft_ms: float = field(default=0.0, compare=False)
    load: Load | None = None


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class ServerData:
    """A server as the optimizer knows it (server-data.json). max_batch 0: derive it from the
    model's data. gpus_per_replica: consider accelerators of so many GPUs only (None: any).
    types: consider accelerators of these types only (None: any).
    cached_tokens: of the tokens of a prompt, those that sizing may take for found in the prefix
    cache. prefix_share: the part of its prompts that prefix caches hold in the twin, which sizing
    does not trust. held_tokens: of the KV cache, what each request of a batch is to have (0: what
    its tokens need). token_cv: coefficient of variation of the tokens of prompts and of answers;
    arrival_cv: of the time between arrivals. pooled: each request goes where the fewest are, so
    that replicas share what comes.
    """

    name: str
    model: str
    service_class: str = "Free"
    keep_accelerator: bool = False
    min_replicas: int = 0
    max_replicas: int | None = None
    max_batch: int = 0
    max_queue: int = 0
    gpus_per_replica: int | None = None
    types: frozenset[str] | None = None
    cached_tokens: float = 0.0
    prefix_share: float = 0.0
    held_tokens: float = 0.0
    token_cv: float = TOKEN_CV
    arrival_cv: float = 1.0
    pooled: bool = False
    current: Allocation = field(default_factory=Allocation)

    @property
    def dispersion(self) -> float:
        """Return the variance of counts of arrivals over their mean, in the long run, as it is
        reckoned with: that of a Poisson process at least.
        """
        return min(max(self.arrival_cv, 1.0), ARRIVAL_CV_MAX) ** 2


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerData:
    """The flags of optimizer-data.json."""

    unlimited: bool = False
    heterogeneous: bool = False
    saturation_policy: str = "None"
    delayed_best_effort: bool = False


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class SystemData:
    """All a policy may know besides the snapshot. perf is by (model, accelerator); capacity is
    GPUs per type.
    """

    accelerators: Mapping[str, Accelerator]
    perf: Mapping[tuple[str, str], Perf]
    classes: Mapping[str, ServiceClass]
    servers: Mapping[str, ServerData] = field(default_factory=dict)
    optimizer: OptimizerData = field(default_factory=OptimizerData)
    capacity: Mapping[str, int] = field(default_factory=dict)

    def target(self, *, service_class: str, model: str) -> SloTarget | None:
        """Return the objectives of *model* in *service_class*, or None if there are none."""
        entry = self.classes.get(service_class)
        return entry.targets.get(model) if entry else None

    def percentile(self, service_class: str) -> float:
        """Return the share of requests of *service_class* that shall meet its targets."""
        entry = self.classes.get(service_class)
        return entry.percentile if entry else SLO_PERCENTILE

    def priority(self, service_class: str) -> int:
        """Return the priority of *service_class*: 1 is highest, an unknown class is 100."""
        entry = self.classes.get(service_class)
        return entry.priority if entry else 100


def cost_cents_per_h(
    data: SystemData, *, model: str, accelerator: str, replicas: int
) -> float | None:
    """Return the price of *replicas* of *model* on *accelerator*; None if the data do not know
    it.
    """
    if replicas == 0 or not accelerator:
        return 0.0
    unit = data.accelerators.get(accelerator)
    perf = data.perf.get((model, accelerator))
    if unit is None or perf is None:
        return None
    return unit.cost_cents_per_h * perf.acc_count * replicas


def gpus_per_replica(data: SystemData) -> dict[tuple[str, str], int]:
    """Return the GPUs of a replica by (model, accelerator), as far as the data know."""
    return {
        (model, name): data.accelerators[name].multiplicity * perf.acc_count
        for (model, name), perf in data.perf.items()
        if name in data.accelerators
    }


def gpus(
    data: SystemData, *, model: str, accelerator: str, replicas: int
) -> tuple[str, int] | None:
    """Return the accelerator type and how many of its GPUs *replicas* hold; None if the data do
    not know it.
    """
    unit = data.accelerators.get(accelerator)
    perf = data.perf.get((model, accelerator))
    if unit is None or perf is None:
        return None
    return unit.type, unit.multiplicity * perf.acc_count * replicas
