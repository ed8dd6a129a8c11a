"""NVIDIA Dynamo's planner as a policy: throughput from a forecast of the traffic, load from the
queues and KV caches of the engines, and a budget of GPUs.

Every server is planned by itself, as a deployment whose engines prefill and decode. The rules are
in `dynamo_rules`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

from loop.policies.dynamo_rules import (
    UINT32_MAX,
    Budget,
    Capacity,
    Iteration,
    Limits,
    Shape,
    capacity,
    capped,
    chunked_s,
    guarded_single,
    throughput_single,
)
from loop.policies.forecasts import (
    PREDICTORS,
    Predictor,
    observed,
    predicted,
    prophet_packages,
)
from loop.policies.replicas import (
    NO_BATCH,
    NO_PODS,
    Answer,
    Choice,
    Options,
    ReplicaBounds,
    decide_each,
)
from loop.spec import gpus
from loop.types import Decision, PodView, ServerView, Snapshot, Why, WhyKind

if TYPE_CHECKING:
    from loop.spec import Load, Perf, SystemData
    from twin.spec import LatencyModel

OptimizationTarget = Literal["sla", "throughput", "latency", "load"]
GAUGES = ("running", "waiting", "kv_usage")
TTFT_MS, ITL_MS, ISL, OSL = 500.0, 50.0, 3000.0, 150.0
MINUTE_S, MS = 60.0, 1000.0
ENGINES_S = 1.0
# Of the KV cache and the queue of an engine: above the first one more is wanted, below the second
# one less.
UTILIZATIONS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"throughput": (1.0, 0.6), "latency": (0.4, 0.1)}
)
UNKNOWN_MODEL = Why(kind="held-unknown", text="the data have no latency model of it")
NOT_YET = Why(kind="unchanged", text="between two intervals")
NO_TRAFFIC = Why(kind="held-unknown", text="the traffic of the interval is not known")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What the planner remembers of one server: the traffic of past intervals, when it planned
    last, and the fewest replicas that throughput asks for.
    """

    requests: tuple[float, ...] = ()
    isl: tuple[float, ...] = ()
    osl: tuple[float, ...] = ()
    hits: tuple[float, ...] = ()
    planned_s: float = -math.inf
    lower: int = 0


State = Mapping[str, Kept]
NOTHING: State = MappingProxyType({})
EMPTY = Kept()


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamoPolicy:
    """The SLA planner on throughput (as optimization_target="sla" is shipped), on load as well with
    *load_scaling*; with another target on load alone, by how full the engines are. Of "load" the
    limits are decode_scale_up_kv_rate and decode_scale_down_kv_rate [% of the KV cache].

    Targets are those of the service class unless ttft_ms and itl_ms say otherwise. max_gpus is the
    budget of one server (-1: none; the planner is shipped with 8).
    """

    optimization_target: OptimizationTarget = "sla"
    throughput_scaling: bool = True
    load_scaling: bool = False
    predictor: Predictor = "arima"
    log1p: bool = False
    throughput_interval_s: float = 180.0
    load_interval_s: float = 5.0
    ttft_ms: float | None = None
    itl_ms: float | None = None
    min_gpus: int = -1
    max_gpus: int = -1
    min_endpoint: int = 1
    max_step: int = 8
    scale_down_sensitivity: float = 0.8
    decode_scale_up_kv_rate: float | None = None
    decode_scale_down_kv_rate: float | None = None
    max_num_batched_tokens: int = 8192
    name: str = "dynamo"

    def __post_init__(self) -> None:
        check = Options(self.name)
        check.one_of("optimization_target", self.optimization_target, get_args(OptimizationTarget))
        check.one_of("predictor", self.predictor, PREDICTORS)
        if self.predictor == "prophet":
            prophet_packages()
        for name in ("throughput_scaling", "load_scaling", "log1p"):
            check.flag(name, getattr(self, name))
        for name in ("throughput_interval_s", "load_interval_s"):
            check.number(name, getattr(self, name), low=0.0, above=True)
        check.share("scale_down_sensitivity", self.scale_down_sensitivity)
        for name in ("ttft_ms", "itl_ms", "decode_scale_up_kv_rate"):
            if (value := getattr(self, name)) is not None:
                check.number(name, value, low=0.0, above=True)
        if self.optimization_target == "load":
            check.number("decode_scale_down_kv_rate", self.decode_scale_down_kv_rate, low=0.0)
            low = self.decode_scale_down_kv_rate or 0.0
            check.number(
                "decode_scale_up_kv_rate", self.decode_scale_up_kv_rate, low=low, above=True
            )
        for name, low in (("min_gpus", -1), ("max_gpus", -1), ("min_endpoint", 0)):
            check.whole(name, getattr(self, name), low=low)
        check.whole("max_step", self.max_step, low=1)
        check.whole("max_num_batched_tokens", self.max_num_batched_tokens, low=1)

    @property
    def tick_s(self) -> float:
        """Return the shortest interval of what is on."""
        return self.load_interval_s if self._loads else self.throughput_interval_s

    @property
    def samples_s(self) -> float | None:
        """Return how often load scaling looks into the engines, which tell of each iteration."""
        return min(ENGINES_S, self.load_interval_s) if self._loads else None

    @property
    def load_window_s(self) -> float | None:
        """Return over how long the traffic counts: the whole interval that ends."""
        return self.throughput_interval_s if self._plans else None

    @property
    def _loads(self) -> bool:
        return self.load_scaling or self.optimization_target != "sla"

    @property
    def _plans(self) -> bool:
        return self.throughput_scaling and self.optimization_target == "sla"

    def start(self) -> State:
        """Return the state of a planner that has just begun."""
        return NOTHING

    def decide(self, snapshot: Snapshot, data: SystemData, state: State) -> tuple[Decision, State]:
        """Return what one tick of the planner makes of every server."""

        def rule(
            view: ServerView, bounds: ReplicaBounds, kept: Kept | None, now_s: float
        ) -> Answer[Kept]:
            return self._rule(view, bounds, kept or EMPTY, now_s, data)

        return decide_each(snapshot, data, state, rule)

    def _rule(
        self,
        view: ServerView,
        bounds: ReplicaBounds,
        kept: Kept,
        now_s: float,
        data: SystemData,
    ) -> Answer[Kept]:
        perf = data.perf.get((view.model, view.accelerator))
        if perf is None:
            return Answer(choice=UNKNOWN_MODEL, state=kept)
        if view.max_batch <= 0:
            return Answer(choice=NO_BATCH, state=kept)
        engine = self._engine(view, perf, data)
        least = max(self.min_endpoint, bounds.low)
        choice: Choice | Why = NOT_YET
        if kept == EMPTY:
            # It begins with the interval that the first tick ends.
            kept = replace(kept, planned_s=now_s - self.tick_s)
        if self._plans and now_s - kept.planned_s >= self.throughput_interval_s:
            kept = replace(kept, planned_s=now_s)
            choice = NO_TRAFFIC
            if view.load is not None:
                kept = self._observed(kept, view, view.load)
                choice = self._throughput(view, kept, engine, least)
            if self._loads and isinstance(choice, Choice):
                kept = replace(kept, lower=choice.replicas)
        if self._loads:
            choice = self._load(view, kept, engine, least)
        return Answer(choice=choice, state=kept)

    def _engine(self, view: ServerView, perf: Perf, data: SystemData) -> _Engine:
        target = data.target(service_class=view.service_class, model=view.model)
        held = gpus(data, model=view.model, accelerator=view.accelerator, replicas=1)
        return _Engine(
            latency_model=perf.latency_model,
            limits=Limits(
                batched_tokens=self.max_num_batched_tokens,
                sequences=view.max_batch,
                kv_tokens=min(perf.kv_tokens or UINT32_MAX, UINT32_MAX),
            ),
            ttft_ms=self.ttft_ms or (target.slo_ttft_ms if target else 0.0) or TTFT_MS,
            itl_ms=self.itl_ms or (target.slo_itl_ms if target else 0.0) or ITL_MS,
            gpus=held[1] if held is not None else 1,
            tokens_per_step=perf.tokens_per_step,
        )

    # -- by throughput

    def _observed(self, kept: Kept, view: ServerView, load: Load) -> Kept:
        """Return what is remembered with the traffic of the interval that ends."""
        count = load.rate_rpm * self.throughput_interval_s / MINUTE_S
        # An idle interval tells nothing of the requests: they keep the shape that they had.
        shape = (
            load.in_tokens if count else kept.isl[-1] if kept.isl else 0.0,
            load.out_tokens if count else kept.osl[-1] if kept.osl else 0.0,
        )
        return replace(
            kept,
            requests=observed(kept.requests, count),
            isl=observed(kept.isl, shape[0]),
            osl=observed(kept.osl, shape[1]),
            hits=observed(kept.hits, view.cache_hit_share or 0.0),
        )

    def _throughput(
        self, view: ServerView, kept: Kept, engine: _Engine, least: int
    ) -> Choice | Why:
        requests, isl, osl, hit = (
            predicted(self.predictor, series, log1p=self.log1p)
            for series in (kept.requests, kept.isl, kept.osl, kept.hits)
        )
        rps = requests / self.throughput_interval_s
        found = engine.capacity(isl=isl, osl=osl, hit=hit)
        if found is None:
            # Nothing can be sized: what there is stays, but not below the minimum.
            raw, text = view.ready, "no capacity is known of a replica"
        else:
            raw = max(math.ceil(rps / found.rps), least)
            beyond = "" if found.eligible else ", beyond the targets"
            text = f"{rps:.3g} requests/s expected, {found.rps:.3g} a replica{beyond}: {raw}"
        wanted = max(capped(raw, current=view.ready, step=self.max_step), least)
        if not self._loads and view.wanted > view.ready and (found is None or wanted > view.ready):
            return Why(kind="unchanged", text=f"{text}; replicas are on their way")
        replicas = throughput_single(
            raw,
            current=view.ready,
            step=self.max_step,
            gpus=engine.gpus,
            most_gpus=self.max_gpus,
            least=least,
        )
        if not self._loads:
            replicas = guarded_single(
                view.ready, replicas, gpus=engine.gpus, budget=self._budget, least=least
            )
        details = {"expectedRps": rps, "replicaRps": found.rps if found else None}
        kind: WhyKind = "forecast" if replicas == raw else "step-limit"
        if replicas != raw:
            text = f"{text}; {replicas} by steps and budget"
        return Choice(replicas=replicas, why=Why(kind=kind, text=text, details=details))

    # -- by load

    def _load(self, view: ServerView, kept: Kept, engine: _Engine, least: int) -> Choice | Why:
        engines = [pod for pod in view.pods if pod.phase == "ready"]
        if view.ready > 0 and not engines:
            return NO_PODS
        reporting = [pod for pod in engines if _reports(pod)]
        if not engines or _settles(view) or len(reporting) < len(engines):
            return Why(kind="unchanged", text="replicas are on their way, or do not report")
        load = view.load
        shape = Shape(
            isl=round(load.in_tokens) if load and load.in_tokens else round(ISL),
            osl=round(load.out_tokens) if load and load.out_tokens else round(OSL),
            hit_rate=view.cache_hit_share,
            accept_length=engine.tokens_per_step,
        )
        states = [_EngineState.of(pod, engine, shape) for pod in reporting]
        count, late = len(states), view.wanted - view.ready
        if self.optimization_target == "sla":
            desired, text = self._by_sla(states, engine, shape, late=late)
        else:
            desired, text = self._by_utilization(states, late=late)
        unknown = sorted({gauge for pod in reporting for gauge in pod.unknown_gauges})
        if unknown:
            # What an engine does not tell, or never has, is taken for none: enough for more only.
            text = f"{text}; not all of its pods tell {' and '.join(unknown)}"
        spare_unknown = desired is not None and desired <= count and bool(unknown)
        if spare_unknown:
            desired = None
        if late and desired is not None and desired > count:
            return Why(kind="unchanged", text=f"{text}; replicas are on their way")
        aim = count if desired is None else desired
        replicas = max(aim, least, kept.lower if self._plans else 0)
        replicas = guarded_single(
            count, replicas, gpus=engine.gpus, budget=self._budget, least=least
        )
        if desired is None and replicas <= count:
            if spare_unknown:
                return Why(kind="held-unknown", text=text)
            if late:
                return Why(kind="unchanged", text=f"{text}; replicas are on their way")
        kind: WhyKind = "metric" if replicas == aim else "bound"
        return Choice(replicas=replicas, why=Why(kind=kind, text=text))

    def _by_utilization(self, states: list[_EngineState], *, late: int) -> tuple[int | None, str]:
        """Return the replicas by how full engines are, None for as many as there are; and why."""
        count = len(states)
        fullest = max(state.utilization for state in states)
        text = f"the fullest engine holds {fullest:.0%} of its KV cache"
        if self.optimization_target == "load":
            # The limits that an operator gives count themselves, those that are shipped do not.
            up = (self.decode_scale_up_kv_rate or 0.0) / 100.0
            down = (self.decode_scale_down_kv_rate or 0.0) / 100.0
            full, empty = fullest >= up, fullest <= down
        else:
            up, down = UTILIZATIONS[self.optimization_target]
            full, empty = fullest > up, fullest < down
        if full:
            return count + 1, text
        if not empty or (count == 1 and not late):
            return None, text
        less = max(count - 1, self.min_endpoint)
        # Those that are left must not be full of what the others had.
        return (count if 0 < less < count and fullest * count / less >= up else less), text

    def _by_sla(
        self, states: list[_EngineState], engine: _Engine, shape: Shape, *, late: int
    ) -> tuple[int | None, str]:
        """Return the replicas by what engines would take, None for as many as there are; and why.
        Where replicas start, the ones that are ready may be enough.
        """
        ttfts = [engine.ttft_s(state, shape) * MS for state in states]
        itls = [engine.itl_s(state, shape) * MS for state in states]
        text = f"TTFT {max(ttfts):.0f} ms, ITL {max(itls):.1f} ms estimated at worst"
        count = len(states)
        if all(one > engine.ttft_ms for one in ttfts) or all(one > engine.itl_ms for one in itls):
            return count + 1, text
        times = count / (count - 1) if count > 1 else 1.0
        if (count > 1 or late) and all(self._spare(one, engine, shape, times) for one in states):
            return max(count - 1, self.min_endpoint), text
        return None, text

    def _spare(self, state: _EngineState, engine: _Engine, shape: Shape, times: float) -> bool:
        """Tell whether an engine would be well with so many *times* its load."""
        own_ms = engine.ttft_s(state, shape, queue=0.0, decode=times) * MS
        queue_ms = engine.ttft_s(state, shape, queue=times, decode=times) * MS - own_ms
        room_ms = (engine.ttft_ms - own_ms) * self.scale_down_sensitivity
        full = int((state.kv + state.queued_prefill) * times) >= engine.limits.kv_tokens
        if full or room_ms <= 0 or queue_ms >= room_ms:
            return False
        itl_ms = engine.itl_s(state.admitted(), shape, times=times) * MS
        return itl_ms < engine.itl_ms * self.scale_down_sensitivity

    @property
    def _budget(self) -> Budget:
        return Budget(least=self.min_gpus, most=self.max_gpus)


def _settles(view: ServerView) -> bool:
    """Tell whether replicas end, or come for others; those that only start do not count here."""
    changed = view.wanted == view.ready and view.starting + view.pending > 0
    return view.draining > 0 or view.wanted < view.ready or changed


def _reports(pod: PodView) -> bool:
    """Tell whether *pod* was sampled, and told any gauge."""
    told = set(GAUGES) - set(pod.unknown_gauges)
    return pod.sample_age_s is not None and bool(told)


@dataclass(frozen=True, slots=True, kw_only=True)
class _EngineState:
    """What one engine has to do: prompts that wait [tokens], and how many; what runs, and what of
    it is in the KV cache [tokens]. prompts: tokens of them in an iteration, at present.
    """

    queued_prefill: int
    queued: int
    prompts: int
    running: int
    kv: int
    capacity: int

    @property
    def utilization(self) -> float:
        """Return the part of the KV cache that all this needs."""
        return (self.kv + self.queued_prefill) / self.capacity

    def admitted(self) -> _EngineState:
        """Return the same once what waits runs."""
        return replace(self, kv=self.kv + self.queued_prefill, running=self.running + self.queued)

    @staticmethod
    def of(pod: PodView, engine: _Engine, shape: Shape) -> _EngineState:
        """Return the state of *pod*; what it does not tell is taken from the mean request."""
        queued = pod.queued_prompt_tokens
        kv = pod.kv_tokens_used
        if kv is None:
            kv = round(pod.kv_usage * engine.limits.kv_tokens) or pod.running * shape.context
        return _EngineState(
            queued_prefill=pod.waiting * shape.isl if queued is None else queued,
            queued=pod.waiting,
            prompts=min(shape.mixed_prefill(pod.running), engine.limits.batched_tokens),
            running=pod.running,
            kv=kv,
            capacity=engine.limits.kv_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Engine:
    """One replica of a server: its latency model, its limits, its targets [ms], its GPUs, and the
    tokens that a step adds to an answer.
    """

    latency_model: LatencyModel
    limits: Limits
    ttft_ms: float
    itl_ms: float
    gpus: int
    tokens_per_step: float
    iteration: Iteration = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "iteration", self._iteration_s)

    def _iteration_s(
        self, *, prefill_tokens: int = 0, decode_requests: int = 0, decode_kv: int = 0
    ) -> float:
        model = self.latency_model
        compute_ms = model.beta_ms * (prefill_tokens + decode_requests)
        read_ms = model.weights_ms + model.gamma_ms * decode_kv
        both = read_ms + compute_ms
        if model.p > 1.0 and both > 0.0:
            # The soft roofline: what is read and what is computed overlap.
            larger, smaller = max(read_ms, compute_ms), min(read_ms, compute_ms)
            both = larger * math.pow(1.0 + math.pow(smaller / larger, model.p), 1.0 / model.p)
        return (model.launch_ms + both + model.sequence_ms * decode_requests) / MS

    def capacity(self, *, isl: float, osl: float, hit: float) -> Capacity | None:
        """Return the best it can do for requests of so many tokens."""
        shape = Shape(
            isl=max(math.ceil(isl), 1),
            osl=max(math.ceil(osl), 1),
            ttft_s=self.ttft_ms / MS,
            itl_s=self.itl_ms / MS,
            hit_rate=hit,
            accept_length=self.tokens_per_step,
        )
        return capacity("aggregated", shape, self.limits, self.iteration)

    def ttft_s(
        self, state: _EngineState, shape: Shape, *, queue: float = 1.0, decode: float = 1.0
    ) -> float:
        """Return the time to the first token of a request that comes now, behind *queue* times
        what waits, beside *decode* times what runs. What is cached is computed of none.
        """
        tokens = math.ceil((state.queued_prefill * queue + shape.isl) * shape.computed_share)
        running, kv = math.ceil(state.running * decode), math.ceil(state.kv * decode)
        return chunked_s(
            tokens,
            self.limits,
            lambda chunk: self.iteration(
                prefill_tokens=chunk, decode_requests=running, decode_kv=kv
            ),
        )

    def itl_s(self, state: _EngineState, shape: Shape, *, times: float = 1.0) -> float:
        """Return the time of an iteration of *times* what runs and of the request that comes now,
        with prompts between as there are at present.
        """
        step_s = self.iteration(
            prefill_tokens=state.prompts,
            decode_requests=math.ceil(state.running * times + 1),
            decode_kv=math.ceil(state.kv * times + shape.context),
        )
        return step_s / shape.accepted
