"""Frozen data of the physical system (accelerators, engines, servers, delays), and SpecError for
bad input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from twin.frozen import made_quickly

TokenDistribution = Literal["fixed", "lognormal", "gamma"]
CrashPolicy = Literal["requeue", "fail"]
MaxBatchChange = Literal["live", "rolling"]
AdmissionRule = Literal["chunk", "full_prompt"]
Scheduling = Literal["sync", "async"]
SCHEDULINGS: tuple[Scheduling, ...] = ("sync", "async")


SERVED_OVERHEAD_MS = 8.0
"""The overhead of a request to a server of which no other is known: 6 to 9 ms were measured for
models of 7 to 70 billion parameters, 14 to 16 ms for a mixture of experts.
"""

P_MAX = 100.0
"""The largest exponent of a soft roofline that is taken; beyond 10 it is as good as a hard one."""

TOKENS_PER_STEP_MAX = 32.0
"""The most tokens that a step of speculative decoding is taken to add on the mean."""

Named = str | Callable[..., Any]
"""What a registry knows by a name, see twin.registry; or the thing itself."""


class SpecError(Exception):
    """Bad input: one line that names the file, the entry, the field, what was expected and what
    came.

    It ends a program at its start (exit code 2). In a running loop the last good data stay and it
    is recorded.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Electrical power of an accelerator [W] at idle, at full load, and at one utilisation between
    them.
    """

    idle_w: float = 0.0
    full_w: float = 0.0
    mid_w: float = 0.0
    mid_utilisation: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """A named unit that a replica can be given, made of *multiplicity* GPUs of *type*.

    cost_cents_per_h is the price of the whole unit (its multiplicity included).
    """

    name: str
    type: str
    multiplicity: int = 1
    cost_cents_per_h: float
    memory_gb: float = 0.0
    memory_bandwidth_gbps: float = 0.0
    power: Power = field(default_factory=Power)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyModel:
    """Time of one engine iteration [ms] that computes *tokens* and reads *kv* tokens of the KV
    cache.

    The sum, p = 1: alpha + beta·tokens + gamma·kv. The soft roofline, p > 1: of the fixed time
    alpha a part, launch, stands alone; the rest, weights, is read from memory as the KV cache is,
    and reading overlaps with computing, the more the larger p is:
    launch + ((weights + gamma·kv)^p + (beta·tokens)^p)^(1/p).

    A mixture of experts reads those only that some token chose. experts is the time of alpha that
    reading all of them takes, idle the share that one token leaves alone: of an iteration of n
    tokens, experts · idle^n is saved.

    A token of a prompt is compared with all before it: for each of them it costs beta · attention
    more. Decodes do so too, but wait for the KV cache meanwhile: that is gamma.

    sequence is what the host does for each request of an iteration (planning, sampling, output)
    while the GPU waits for it: with asynchronous scheduling it does not, and there is nothing.
    """

    alpha_ms: float
    beta_ms: float
    gamma_ms: float
    launch_ms: float = 0.0
    p: float = 1.0
    experts_ms: float = 0.0
    experts_idle: float = 0.0
    attention: float = 0.0
    sequence_ms: float = 0.0

    @property
    def is_plain(self) -> bool:
        """Tell whether it is the sum, with an alpha that is always the same."""
        return self.p == 1.0 and self.experts_ms == 0.0

    @property
    def weights_ms(self) -> float:
        """Return the time of reading the weights, what of alpha is not launch."""
        return self.alpha_ms - self.launch_ms


# Of less variation nothing can be seen, and its square may be no number.
CV_MIN = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """A delay of the world: fixed at mean_s when cv is 0 (or less than CV_MIN), else
    gamma-distributed with that coefficient of variation.
    """

    mean_s: float = 0.0
    cv: float = 0.0

    @property
    def is_fixed(self) -> bool:
        """Tell whether chance has no part in it."""
        return self.cv < CV_MIN or self.mean_s == 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """The truth of one model on one accelerator.

    engine and kv_cache say what serves the requests of a replica, see twin.engine. kv_tokens is the
    KV capacity of one replica [tokens], None for unlimited. acc_count is how many
    accelerators of that name one replica takes, so it holds acc_count · multiplicity GPUs of the
    accelerator's type. overhead_ms is what a request spends outside the engine: in the HTTP server,
    the tokenizer and the client. A client waits for it, the engine does not. scheduling "async"
    plans an iteration while the one before it runs, as vLLM does since 0.15: what arrives during
    one iteration is in the next but one. prefix_share is the part of each prompt that its prefix
    cache holds already, of requests that do not name the blocks of their prompts. tokens_per_step
    above 1 is speculative decoding: what a step adds to an answer on the mean, to a hundredth,
    drafts that were accepted included; it computes and reads as many.
    """

    model: str
    accelerator: str
    acc_count: int = 1
    latency_model: LatencyModel
    overhead_ms: float = 0.0
    scheduling: Scheduling = "sync"
    kv_tokens: int | None = None
    block_size: int = 16
    prefix_share: float = 0.0
    tokens_per_step: float = 1.0
    max_num_batched_tokens: int = 8192
    admission: AdmissionRule = "chunk"
    engine: Named = "plain"
    kv_cache: Named = "counted"
    start_up: Delay = field(default_factory=lambda: Delay(mean_s=60.0))


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Equal replicas of one server: what it has, wants, is asked for and is recorded with.

    role says which part of a request they serve; only "both" (prefill and decode) exists so far.
    """

    accelerator: str
    replicas: int
    max_batch: int
    role: Literal["both"] = "both"


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityView:
    """GPUs of one accelerator type: how many there are, how many are held (starting and draining
    pods included).
    """

    type: str
    total: int
    used: int


class GaugeSample(NamedTuple):
    """What ran in the pods of a server and what waited, at the router too, at one instant."""

    at_s: float
    running: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A logical inference server as it stands at t = 0, and how the world treats its requests and
    pods.

    pool is what it has at t = 0, accelerator empty if that is nothing. queue_max bounds the waiting
    queue of one replica (None: unbounded). router spreads the requests, see twin.serving.routers.
    prefix_share is the part of each prompt that the prefix cache holds already (None: that of the
    engine). arrivals is the process of its requests, see twin.arrivals, of the coefficient of
    variation arrival_cv. crash_rate_per_h is per ready pod. token_cv is the coefficient of
    variation of the input and of the output tokens of a request.
    """

    name: str
    model: str
    service_class: str = "Free"
    pool: Pool = field(default_factory=lambda: Pool(accelerator="", replicas=0, max_batch=1))
    queue_max: int | None = None
    router: Named = "least_outstanding"
    prefix_share: float | None = None
    token_distribution: TokenDistribution = "lognormal"
    token_cv: float = 0.5
    arrivals: Named = "renewal"
    arrival_cv: float = 1.0
    crash_rate_per_h: float = 0.0
    crash_policy: CrashPolicy = "requeue"
    max_batch_change: MaxBatchChange = "live"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Delays that belong to the world [s]: what a scraper sees and how long the orchestrator takes
    to act.
    """

    scrape_interval_s: float = 15.0
    window_s: float = 60.0
    actuation_delay: Delay = field(default_factory=Delay)
    scheduling_delay: Delay = field(default_factory=Delay)
    drain_timeout_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """A whole physical system: what twin.serving.cluster.Cluster simulates.

    accelerators by name; capacity in GPUs per type; engines by (model, accelerator name).
    """

    accelerators: Mapping[str, Accelerator]
    capacity: Mapping[str, int]
    engines: Mapping[tuple[str, str], EngineSpec]
    servers: tuple[Server, ...]
    world: World = field(default_factory=World)

    def gpus(self, *, model: str, accelerator: str) -> int:
        """Return how many GPUs of the accelerator's type one replica of *model* on *accelerator*
        holds.
        """
        return (
            self.engines[model, accelerator].acc_count * self.accelerators[accelerator].multiplicity
        )
