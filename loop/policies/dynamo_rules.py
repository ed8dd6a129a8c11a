"""The rules of NVIDIA Dynamo's planner: what an engine can take within its targets, and how many
GPUs there may be; pure.

Restated from dynamo.planner of 1.6.1. How long an iteration takes is asked of an *Iteration*: the
planner has its own performance model for that, here it is the latency model of the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

CANDIDATES_MAX = 128
HIT_MAX = 0.95
UINT32_MAX = 2**32 - 1
DURATION_MAX_S = float(2**64)

Worker = Literal["prefill", "decode", "aggregated"]


class Iteration(Protocol):
    """How long one forward pass takes."""

    def __call__(
        self, *, prefill_tokens: int = 0, decode_requests: int = 0, decode_kv: int = 0
    ) -> float:
        """Return its time [s]."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an engine can have at most. Raise ValueError for what no engine has."""

    batched_tokens: int
    sequences: int
    kv_tokens: int

    def __post_init__(self) -> None:
        for value in (self.batched_tokens, self.sequences, self.kv_tokens):
            if not 0 < value <= UINT32_MAX:
                raise ValueError(f"expected limits from 1 to {UINT32_MAX}, found {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A request, and its targets [s] (None: there is none)."""

    isl: int
    osl: int
    ttft_s: float | None = None
    itl_s: float | None = None
    e2e_s: float | None = None
    accept_length: float = 1.0
    hit_rate: float | None = None

    @property
    def computed_share(self) -> float:
        """Return the share of a prompt that is not cached."""
        hit = self.hit_rate if self.hit_rate is not None and math.isfinite(self.hit_rate) else 0.0
        return 1.0 - min(max(hit, 0.0), HIT_MAX)

    @property
    def prefill(self) -> int:
        """Return the tokens of a prompt that have to be computed."""
        return max(1, math.ceil(self.isl * self.computed_share))

    @property
    def context(self) -> int:
        """Return the tokens that a request has in the KV cache on the average."""
        return max(1, min(self.isl + self.osl // 2, UINT32_MAX))

    @property
    def accepted(self) -> float:
        """Return the tokens that come out of one iteration for a request."""
        good = math.isfinite(self.accept_length) and self.accept_length > 1.0
        return self.accept_length if good else 1.0

    def mixed_prefill(self, batch: int) -> int:
        """Return the prompt tokens an iteration that keep a batch full."""
        return math.ceil(batch * self.accepted * self.prefill / max(1, self.osl))


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The requests per second that an engine takes at one batch size, and their times there [s].

    eligible: within the targets.
    """

    rps: float
    ttft_s: float | None = None
    itl_s: float | None = None
    e2e_s: float | None = None
    eligible: bool = True


def capacity(worker: Worker, shape: Shape, limits: Limits, iteration: Iteration) -> Capacity | None:
    """Return the best an engine can do: within the targets if any batch size is, else beyond them;
    None if it can do nothing.
    """
    if shape.isl == 0 or (worker != "prefill" and shape.osl == 0):
        return None
    at = {"prefill": _prefill, "decode": _decode, "aggregated": _aggregated}[worker]
    best: Capacity | None = None
    for batch in batch_sizes(_most(worker, shape, limits)):
        found = at(batch, shape, limits, iteration)
        if found is not None and (best is None or _better(found, best)):
            best = found
    return best


def batch_sizes(most: int) -> list[int]:
    """Return the batch sizes that are tried: all, or so many of them, evenly."""
    if most <= CANDIDATES_MAX:
        return list(range(1, most + 1))
    return [1 + number * (most - 1) // (CANDIDATES_MAX - 1) for number in range(CANDIDATES_MAX)]


def chunked_s(
    tokens: int, limits: Limits, iteration: Callable[[int], float], *, what: str = "prefill"
) -> float:
    """Return the time of *tokens* of prompts, so many an iteration as go into one."""
    full, tail = divmod(tokens, limits.batched_tokens)
    total_s = full * iteration(limits.batched_tokens) if full else 0.0
    return _checked(total_s + (iteration(tail) if tail else 0.0), what)


def _most(worker: Worker, shape: Shape, limits: Limits) -> int:
    if worker == "prefill":
        if shape.prefill > limits.batched_tokens:
            return 1
        return min(limits.sequences, limits.batched_tokens // shape.prefill)
    most = min(limits.sequences, limits.kv_tokens // shape.context)
    if worker == "decode":
        return most
    # One token at least has to be left for prompts.
    return 0 if limits.batched_tokens <= 1 else min(most, limits.batched_tokens - 1)


def _prefill(batch: int, shape: Shape, limits: Limits, iteration: Iteration) -> Capacity | None:
    tokens = min(batch * shape.prefill, UINT32_MAX)
    ttft_s = chunked_s(tokens, limits, lambda chunk: iteration(prefill_tokens=chunk))
    if ttft_s == 0:
        return None
    return Capacity(
        rps=batch / ttft_s,
        ttft_s=ttft_s,
        e2e_s=ttft_s,
        eligible=_within(ttft_s, shape.ttft_s)
        and _within(None, shape.itl_s)
        and _within(ttft_s, shape.e2e_s),
    )


def _decode(
    batch: int,
    shape: Shape,
    limits: Limits,  # noqa: ARG001 one form for all workers
    iteration: Iteration,
) -> Capacity | None:
    kv = min(batch * shape.context, UINT32_MAX)
    itl_s = iteration(decode_requests=batch, decode_kv=kv) / shape.accepted
    if itl_s == 0:
        return None
    return Capacity(
        rps=batch / (shape.osl * itl_s),
        itl_s=itl_s,
        eligible=_within(None, shape.ttft_s)
        and _within(itl_s, shape.itl_s)
        and _within(None, shape.e2e_s),
    )


def _aggregated(batch: int, shape: Shape, limits: Limits, iteration: Iteration) -> Capacity | None:
    prefill = shape.mixed_prefill(batch)
    if prefill > limits.batched_tokens - batch:
        return None
    kv = min(batch * shape.context, UINT32_MAX)

    def mixed(tokens: int) -> float:
        return iteration(prefill_tokens=tokens, decode_requests=batch, decode_kv=kv)

    itl_s = mixed(prefill) / shape.accepted
    if itl_s == 0:
        return None
    ttft_s = chunked_s(min(prefill + shape.prefill, UINT32_MAX), limits, mixed)
    e2e_s = _checked(ttft_s + itl_s * max(0, shape.osl - 1), "aggregate E2E latency")
    return Capacity(
        rps=batch / (shape.osl * itl_s),
        ttft_s=ttft_s,
        itl_s=itl_s,
        e2e_s=e2e_s,
        eligible=_within(ttft_s, shape.ttft_s)
        and _within(itl_s, shape.itl_s)
        and _within(e2e_s, shape.e2e_s),
    )


def _better(one: Capacity, than: Capacity) -> bool:
    return one.rps > than.rps if one.eligible == than.eligible else one.eligible


def _within(value_s: float | None, target_s: float | None) -> bool:
    return target_s is None or (value_s is not None and value_s <= target_s)


def _checked(value_s: float, what: str) -> float:
    if not value_s < DURATION_MAX_S:
        raise ValueError(f"{what} overflow")
    return value_s


# -- how many GPUs there may be; below 0 a bound is off


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The GPUs of all replicas. The upper bound is hard; where both hold, the lower one gives way
    by one replica, for replicas have more than one GPU.
    """

    least: int = -1
    most: int = -1

    @property
    def off(self) -> bool:
        """Tell whether there is none."""
        return self.least < 0 and self.most < 0

    def floor(self, *gpus: int) -> int:
        """Return the fewest GPUs that are enough, with replicas of so many *gpus*."""
        slack = max((each for each in gpus if each > 0), default=0) if self.most >= 0 else 0
        return self.least - slack if self.least >= 0 else 0

    def holds(self, total: int, *gpus: int) -> bool:
        """Tell whether *total* is within."""
        return not 0 <= self.most < total and total >= self.floor(*gpus)


Pair = tuple[int, int]


def clamped_pair(wanted: Pair, *, gpus: Pair, budget: Budget, least: Pair) -> Pair:
    """Return prefill and decode replicas within *budget*, in proportion; none if not even *least*
    fits, and what was wanted if nothing does.
    """
    if budget.off or min(gpus) <= 0:
        return wanted
    total = _gpus(wanted, gpus)
    if budget.holds(total, *gpus):
        return wanted
    if 0 <= budget.most < total:
        if budget.most < _gpus(least, gpus):
            return 0, 0
        fits = (budget.most - least[1] * gpus[1]) // gpus[0]
        prefill = max(least[0], min(fits, math.floor(wanted[0] * (budget.most / total))))
        return prefill, max(least[1], (budget.most - prefill * gpus[0]) // gpus[1])
    share = wanted[0] * (budget.least / total) if total > 0 else budget.least / 2 / gpus[0]
    prefill = max(least[0], math.ceil(share))
    rest = max(0, budget.least - prefill * gpus[0])
    decode = max(least[1], math.ceil(rest / gpus[1]))
    shrinks = decode < wanted[1]
    # The growth of one pool must not shrink the other; it takes what the ceiling leaves.
    decode = max(decode, wanted[1])
    if not 0 <= budget.most < prefill * gpus[0] + decode * gpus[1]:
        return prefill, decode
    if not shrinks:
        return wanted
    return directed_pair(wanted, (prefill, decode), gpus=gpus, budget=budget, least=least)


def clamped_single(wanted: int, *, gpus: int, budget: Budget, least: int) -> int:
    """Return the replicas of one pool within *budget*; none if not even *least* fits."""
    if budget.off or gpus <= 0 or budget.holds(wanted * gpus, gpus):
        return wanted
    if 0 <= budget.most < wanted * gpus:
        fits = budget.most // gpus
        return 0 if fits < least else max(least, fits)
    return max(least, math.ceil(budget.least / gpus))


def directed_pair(current: Pair, wanted: Pair, *, gpus: Pair, budget: Budget, least: Pair) -> Pair:
    """Return the pair between *current* and *wanted* within *budget* that is nearest to what is
    wanted; of two that move against each other both move, or none.
    """
    if min(gpus) <= 0:
        return wanted
    enough = wanted[0] >= least[0] and wanted[1] >= least[1]
    if enough and budget.holds(_gpus(wanted, gpus), *gpus):
        return wanted
    low = [max(min(now, then), one) for now, then, one in zip(current, wanted, least, strict=True)]
    against = (wanted[0] - current[0]) * (wanted[1] - current[1]) < 0
    steps = [abs(then - now) for now, then in zip(current, wanted, strict=True)]
    best: tuple[tuple[int, ...], Pair] | None = None
    for prefill in range(low[0], max(current[0], wanted[0]) + 1):
        for decode in range(low[1], max(current[1], wanted[1]) + 1):
            pair = (prefill, decode)
            moved = [abs(then - now) for now, then in zip(current, pair, strict=True)]
            if against and (moved[0] == 0) != (moved[1] == 0):
                continue
            if not budget.holds(_gpus(pair, gpus), *gpus):
                continue
            far = sum(abs(one - then) for one, then in zip(pair, wanted, strict=True))
            skew = abs(moved[0] * steps[1] - moved[1] * steps[0])
            score = (far, skew, -sum(moved), *pair)
            if best is None or score < best[0]:
                best = (score, pair)
    return current if best is None else best[1]


def guarded_single(current: int, wanted: int, *, gpus: int, budget: Budget, least: int) -> int:
    """Return *wanted* within *budget* without turning its direction; if *current* is outside, that
    is brought back first.
    """
    if gpus <= 0 or budget.off:
        return wanted
    total = current * gpus
    if not budget.holds(total, gpus):
        return clamped_single(current, gpus=gpus, budget=budget, least=least)
    if (budget.least >= 0 and total <= budget.least and wanted < current) or (
        0 <= budget.most <= total and wanted > current
    ):
        return current
    found = clamped_single(wanted, gpus=gpus, budget=budget, least=least)
    return found if min(current, wanted) <= found <= max(current, wanted) else current


def capped(raw: int, *, current: int, step: int) -> int:
    """Return *raw*, at most *step* replicas from *current*."""
    return min(max(raw, current - step, 0), current + step)


def throughput_single(
    raw: int, *, current: int, step: int, gpus: int, most_gpus: int, least: int
) -> int:
    """Return what throughput wants of one pool: in steps, not below *least*, under the ceiling."""
    wanted = max(capped(raw, current=current, step=step), least)
    ceiling = Budget(most=most_gpus)
    return guarded_single(current, wanted, gpus=gpus, budget=ceiling, least=least)


def throughput_pair(
    raw: Pair, *, current: Pair, step: int, gpus: Pair, most_gpus: int, least: Pair
) -> Pair:
    """Return what throughput wants of two pools, see `throughput_single`."""
    wanted = (
        max(capped(raw[0], current=current[0], step=step), least[0]),
        max(capped(raw[1], current=current[1], step=step), least[1]),
    )
    ceiling = Budget(most=most_gpus)
    if any(now < one for now, one in zip(current, least, strict=True)):
        # A minimum that was raised is filled up at once, if need be from the other pool.
        return clamped_pair(wanted, gpus=gpus, budget=ceiling, least=least)
    return directed_pair(current, wanted, gpus=gpus, budget=ceiling, least=least)


def _gpus(pair: Pair, gpus: Pair) -> int:
    return pair[0] * gpus[0] + pair[1] * gpus[1]
