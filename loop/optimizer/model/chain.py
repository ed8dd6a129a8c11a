"""Birth-death chains of service in batches, many at once: states, weights, steady states. Times in
ms, rates 1/ms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Rows = NDArray[np.intp]
QueueKind = Literal["none", "unbounded", "mixed"]


@dataclass(frozen=True, slots=True)
class Chain:
    """The birth-death chain of each row: states 0..max_batch, then a geometric tail of max_queue
    waiting states.

    service_full is the service rate of a full batch [requests/ms]; kind tells rows with a queue
    from those without. log_services[i, n] is the sum of ln(service rate) of states 1..n, inf if
    n > max_batch (no such state).
    """

    states: Floats
    powers: Floats
    log_services: Floats
    service_full: Floats
    max_batch: Ints
    max_queue: Floats
    kind: QueueKind

    def take(self, rows: Rows) -> Chain:
        """Return the given rows."""
        return Chain(
            self.states,
            self.powers,
            self.log_services[rows],
            self.service_full[rows],
            self.max_batch[rows],
            self.max_queue[rows],
            self.kind,
        )


@dataclass(frozen=True, slots=True)
class Occupancy:
    """The steady state of each row: mean requests in service and waiting, and requests/ms that
    complete.

    loss is the probability that an arrival finds the queue full, idle that it finds nobody.
    """

    in_service: Floats
    waiting: Floats
    throughput: Floats
    loss: Floats
    idle: Floats


def make_chain(service_times: Floats, *, max_batch: Ints, max_queue: Floats) -> Chain:
    """Return the chain whose state n serves at n / service_times[i, n-1]; columns beyond max_batch
    are ignored.
    """
    rows, columns = service_times.shape
    states = np.arange(columns + 1, dtype=np.float64)
    rates = states[1:] / service_times
    log_services = np.zeros((rows, columns + 1))
    np.cumsum(np.log(rates), axis=1, out=log_services[:, 1:])
    # ln(weight) of a state that a row does not have is then -inf, and its weight exactly 0, so that
    # rows of different batches can be worked on in one matrix.
    log_services[states[None, :] > max_batch[:, None]] = np.inf
    full = rates[np.arange(rows), max_batch - 1]
    powers = np.stack([np.ones_like(states), states], axis=1)
    return Chain(states, powers, log_services, full, max_batch, max_queue, _kind(max_queue))


def _kind(max_queue: Floats) -> QueueKind:
    if not max_queue.any():
        return "none"
    return "unbounded" if bool(np.isinf(max_queue).all()) else "mixed"


def occupancy(chain: Chain, rate: Floats) -> Occupancy:
    """Return the steady state when requests arrive at *rate* > 0 [requests/ms] in every state that
    admits them.

    The weight of state n is rate^n / (product of service rates), kept in logarithms of which the
    largest is taken off. The waiting states N+1..N+Q are a geometric series with ratio rate /
    (service rate of a full batch): closed form, any Q. An unbounded queue at a ratio >= 1 has no
    steady state: the answer is inf waiting at full throughput.
    """
    weights = np.multiply(np.log(rate)[:, None], chain.states)
    weights -= chain.log_services
    if chain.kind == "mixed":
        return _with_queue(chain, rate, weights)
    # Weights span hundreds of orders of magnitude: the largest becomes 1, and what underflows to 0
    # is less than one part in 1e300 of the sums.
    weights -= weights.max(axis=1)[:, None]
    np.exp(weights, out=weights)
    sums = weights @ chain.powers
    last = weights[np.arange(len(rate)), chain.max_batch]
    if chain.kind == "unbounded":
        return _unbounded(chain, rate, sums, last=last, first=weights[:, 0])
    total = sums[:, 0]
    loss = last / total
    return Occupancy(
        sums[:, 1] / total, np.zeros_like(total), rate * (1.0 - loss), loss, weights[:, 0] / total
    )


def _unbounded(
    chain: Chain, rate: Floats, sums: Floats, *, last: Floats, first: Floats
) -> Occupancy:
    """Return the steady state with unbounded queues, from sums of weight and n·weight over the
    states 0..N.
    """
    ratio = rate / chain.service_full
    unstable = ratio >= 1.0
    # The figures of unstable rows are replaced below; until then nothing may divide by 0.
    gap = np.where(unstable, 1.0, 1.0 - ratio)
    tail = last * ratio / gap
    total = sums[:, 0] + tail
    in_service = (sums[:, 1] + chain.max_batch * tail) / total
    waiting = tail / (gap * total)
    if not unstable.any():
        return Occupancy(in_service, waiting, rate, np.zeros_like(rate), first / total)
    return Occupancy(
        np.where(unstable, chain.max_batch, in_service),
        np.where(unstable, np.inf, waiting),
        np.where(unstable, chain.service_full, rate),
        np.zeros_like(rate),
        np.where(unstable, 0.0, first / total),
    )


def _with_queue(chain: Chain, rate: Floats, weights: Floats) -> Occupancy:
    """Return the steady state if some queue may be occupied, from the logarithms of the weights of
    states 0..N.
    """
    queue = chain.max_queue
    log_ratio = np.log(rate / chain.service_full)
    unstable = np.isinf(queue) & (log_ratio >= 0.0)
    # As above: a stand-in, so that unstable rows do not overflow before they are replaced.
    log_ratio = np.where(unstable, -1e-12, log_ratio)
    log_full = weights[np.arange(len(rate)), chain.max_batch]
    rising = log_ratio > 0.0
    # If the tail rises, its last state is the heaviest, so the tail is summed backwards from
    # there.
    last = log_full + np.where(rising, queue * log_ratio, 0.0)
    top = np.maximum(weights.max(axis=1), last)
    weights -= top[:, None]
    np.exp(weights, out=weights)
    sums = weights @ chain.powers
    tail, tail_waiting, blocked = geometric_tail(-np.abs(log_ratio), queue, rising=rising)
    anchor = np.exp(last - top)
    tail, tail_waiting, blocked = anchor * tail, anchor * tail_waiting, anchor * blocked
    total = sums[:, 0] + tail
    in_service = (sums[:, 1] + chain.max_batch * tail) / total
    throughput = rate * ((total - blocked) / total)
    waiting = tail_waiting / total
    if unstable.any():
        throughput = np.where(unstable, chain.service_full, throughput)
        in_service = np.where(unstable, chain.max_batch, in_service)
        waiting = np.where(unstable, np.inf, waiting)
    return Occupancy(in_service, waiting, throughput, blocked / total, weights[:, 0] / total)


def geometric_tail(
    log_ratio: Floats, queue: Floats, *, rising: NDArray[np.bool_]
) -> tuple[Floats, Floats, Floats]:
    """Return sums over the waiting states j = 1..queue of x^j and j·x^j, and the weight of the last
    state.

    x = exp(log_ratio) <= 1. If *rising*, the weights run backwards: that of state j is x^(queue
    - j).
    """
    x = np.exp(log_ratio)
    gap = -np.expm1(log_ratio)  # 1 - x, whose digits cancel where x is near 1
    bounded = np.where(np.isinf(queue), 0.0, queue)
    last = np.where(np.isinf(queue), 0.0, np.exp(bounded * log_ratio))
    with np.errstate(divide="ignore", invalid="ignore"):
        ones = (
            np.where(np.isinf(queue), 1.0, -np.expm1(bounded * log_ratio)) / gap
        )  # 1 + x + ... + x^(queue-1)
        # x + 2x^2 + ... + queue·x^queue; it cancels where queue·(1-x) is small, so there is a
        # series for that below.
        firsts = x * (ones - bounded * last) / gap
    flat = ~np.isinf(queue) & (bounded * -log_ratio < 1e-3)
    if flat.any():
        half = bounded * (bounded + 1.0) / 2.0
        squares = half * (2.0 * bounded + 1.0) / 3.0
        ones = np.where(log_ratio == 0.0, bounded, ones)
        firsts = np.where(flat, half + log_ratio * squares + log_ratio**2 / 2.0 * half**2, firsts)
    forward = x * ones
    # Backwards: sum of (Q - i)·x^i over i = 0..Q-1, which is Q·ones less the sum of i·x^i.
    backward = bounded * ones - (firsts - bounded * last)
    return (
        np.where(rising, ones, forward),
        np.where(rising, backward, firsts),
        np.where(rising, 1.0, last),
    )
