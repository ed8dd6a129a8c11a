"""What a server is to be sized for: the load that it will have once pods that are asked for now are
ready, as far as that can be told from what it had. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from loop.policies.forecast import Forecast, Series, forecast, poisson_noise

if TYPE_CHECKING:
    from loop.policies.worth import Worth
    from loop.types import Load, ServerView

TOKENS_KEPT = 0.9  # of the weight of a sample of mean tokens after each further one


@dataclass(frozen=True, slots=True)
class Foreseen:
    """A forecast and the rate that it pays to have replicas for [requests/min], and all that they
    depend on.
    """

    rates: Series
    asked: tuple[Worth, float, float, float, float]
    found: Forecast
    paying_rpm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What is remembered of one server: its rates [requests/min], its mean tokens and how many
    requests a minute these stand for, what was asked for before any hold [requests/min], what a
    replica of it can take (0: not known), when it was moved last, and since when its load is not
    known (None: it is). foreseen is used again while nothing new is seen.
    """

    rates: Series = field(default_factory=Series)
    in_tokens: float = 0.0
    out_tokens: float = 0.0
    tokens_weight: float = 0.0
    demands: Series = field(default_factory=Series)
    replica_rpm: float = 0.0
    moved_s: float | None = None
    unknown_s: float | None = None
    foreseen: Foreseen | None = field(default=None, compare=False, repr=False)


Memories = Mapping[str, Memory]
NOTHING: Memories = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one server is to be sized for, and the least that it must be sized for if GPUs are
    missing: without the margin of its class.
    """

    load: Load
    least: Load
    forecast: Forecast


@dataclass(frozen=True, slots=True, kw_only=True)
class Horizon:
    """How far ahead to look, and how long a demand is held on the way down [s]. lead_s: until pods
    that are asked for now are ready and what they are needed for is seen; window_s: of the metrics.
    """

    lead_s: float
    window_s: float
    down_s: float
    drain_s: float


def remember(memory: Memory, view: ServerView, *, now_s: float) -> Memory:
    """Return *memory* with what is seen of the server at *now_s*; nothing is learnt from a load
    that is not known.
    """
    load = view.load
    if load is None:
        return memory if memory.unknown_s is not None else replace(memory, unknown_s=now_s)
    memory = memory if memory.unknown_s is None else replace(memory, unknown_s=None)
    due = not memory.rates.values or now_s >= memory.rates.next_s - 1e-9
    rates = memory.rates.with_sample(load.rate_rpm, now_s=now_s)
    memory = memory if rates is memory.rates else replace(memory, rates=rates)
    return _with_tokens(memory, load) if due else memory


def demand(
    memory: Memory, view: ServerView, load: Load, *, now_s: float, worth: Worth, horizon: Horizon
) -> tuple[Demand, Memory]:
    """Return what *view* is to be sized for, and the memory with it.

    That is what it pays to have replicas for when pods that are asked for now are ready, the
    highest of the last down_s; no less than the present pods serve now; and what waits, drained in
    drain_s.
    """
    foreseen = _foreseen(memory, load, worth=worth, horizon=horizon)
    found = foreseen.found
    demands = memory.demands.with_sample(foreseen.paying_rpm, now_s=now_s, most=True)
    held_rpm = max(demands.since(now_s - horizon.down_s))
    # Pods that are there serve the present load; others would come too late for it.
    served_rpm = min(load.rate_rpm, view.wanted * memory.replica_rpm or load.rate_rpm)
    waiting_rpm = 60.0 * view.backlog / horizon.drain_s if horizon.drain_s > 0.0 else 0.0
    tokens = load
    if memory.tokens_weight > 0.0:
        tokens = replace(load, in_tokens=memory.in_tokens, out_tokens=memory.out_tokens)
    least_rpm = max(found.middle, served_rpm) + waiting_rpm
    made = Demand(
        load=replace(tokens, rate_rpm=max(held_rpm + waiting_rpm, least_rpm)),
        least=replace(tokens, rate_rpm=least_rpm),
        forecast=found,
    )
    if demands is memory.demands and foreseen is memory.foreseen:
        return made, memory
    return made, replace(memory, demands=demands, foreseen=foreseen)


def _foreseen(memory: Memory, load: Load, *, worth: Worth, horizon: Horizon) -> Foreseen:
    """Return what is foreseen, the last one if nothing moved: between two samples of a load that
    is all that most cycles of a short period see.
    """
    asked = (worth, load.rate_rpm, horizon.lead_s, horizon.window_s, memory.replica_rpm)
    last = memory.foreseen
    if last is not None and last.asked == asked and last.rates == memory.rates:
        return last
    found = forecast(
        memory.rates,
        lead_s=horizon.lead_s,
        quantile=worth.quantile(memory.replica_rpm or load.rate_rpm),
        noise=poisson_noise(load.rate_rpm, horizon.window_s),
    )
    paying_rpm = worth.rate_rpm(found, replica_rpm=memory.replica_rpm)
    return Foreseen(memory.rates, asked, found, paying_rpm)


def _with_tokens(memory: Memory, load: Load) -> Memory:
    """Return *memory* with the mean tokens over the requests of the last minutes.

    Windows count by their requests: what ends in a quiet window are the longest answers of the
    busy one before.
    """
    if load.rate_rpm <= 0.0 or load.out_tokens <= 0.0:
        return memory
    kept = TOKENS_KEPT * memory.tokens_weight
    weight = kept + load.rate_rpm
    return replace(
        memory,
        in_tokens=(kept * memory.in_tokens + load.rate_rpm * load.in_tokens) / weight,
        out_tokens=(kept * memory.out_tokens + load.rate_rpm * load.out_tokens) / weight,
        tokens_weight=weight,
    )
