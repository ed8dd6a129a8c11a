"""The optimizer's belief about one replica: a birth-death chain with batch-dependent service; many replicas at once.

Formulas: the queue-analysis model (one iteration costs alpha + beta·tokens + gamma·KV tokens read). Everything is
columnar: row i of every array belongs to one replica. Times in ms, rates in requests/ms. Nothing here solves or sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rows = NDArray[np.intp]

TOKEN_BUDGET = 8192
RATE_MIN_SHARE = 0.001  # the lowest rate looked at is this share of the service rate of a lone request
RATE_MAX_SHARE = 0.999  # the highest is this share of the service rate of a full batch


@dataclass(frozen=True, slots=True)
class ReplicaColumns:
    """Parameters of replicas, one row each.

    alpha, beta, gamma: iteration law [ms, ms/token, ms/token]; in_tokens >= 0 and out_tokens >= 1: mean request;
    max_batch >= 1; max_queue >= 0 requests, inf for an unbounded queue; token_budget: tokens an iteration may compute.
    """

    alpha: Floats
    beta: Floats
    gamma: Floats
    in_tokens: Floats
    out_tokens: Floats
    max_batch: Ints
    max_queue: Floats
    token_budget: Floats

    def __len__(self) -> int:
        return len(self.alpha)

    def take(self, rows: Rows) -> ReplicaColumns:
        """Return the given rows."""
        return ReplicaColumns(
            self.alpha[rows],
            self.beta[rows],
            self.gamma[rows],
            self.in_tokens[rows],
            self.out_tokens[rows],
            self.max_batch[rows],
            self.max_queue[rows],
            self.token_budget[rows],
        )


def replica_columns(
    *,
    alpha: Any,
    beta: Any,
    gamma: Any,
    in_tokens: Any,
    out_tokens: Any,
    max_batch: Any,
    max_queue: Any = np.inf,
    token_budget: Any = TOKEN_BUDGET,
) -> ReplicaColumns:
    """Return columns from scalars and sequences, broadcast to one length."""
    rows = np.broadcast_arrays(
        *np.atleast_1d(alpha, beta, gamma, in_tokens, out_tokens, max_batch, max_queue, token_budget)
    )
    a, b, g, tokens_in, tokens_out, batch, queue, budget = (np.array(row, dtype=np.float64) for row in rows)
    return ReplicaColumns(a, b, g, tokens_in, tokens_out, batch.astype(np.int64), queue, budget)


@dataclass(frozen=True, slots=True)
class Chain:
    """The birth-death chain of each row: states 0..max_batch, then a geometric tail of max_queue waiting states.

    log_services[i, n] is the sum of ln(service rate) of states 1..n, inf where n > max_batch (no such state).
    """

    states: Floats
    powers: Floats
    log_services: Floats
    log_service_full: Floats
    max_batch: Floats
    max_queue: Floats

    def take(self, rows: Rows) -> Chain:
        """Return the given rows."""
        return Chain(
            self.states,
            self.powers,
            self.log_services[rows],
            self.log_service_full[rows],
            self.max_batch[rows],
            self.max_queue[rows],
        )


@dataclass(frozen=True, slots=True)
class Occupancy:
    """The steady state of each row: mean requests in service and waiting, and requests/ms that complete.

    loss is the probability that an arrival finds the queue full, idle that it finds nobody.
    """

    in_service: Floats
    waiting: Floats
    throughput: Floats
    loss: Floats
    idle: Floats


def make_chain(service_times: Floats, *, max_batch: Ints, max_queue: Floats) -> Chain:
    """Return the chain whose state n serves at n / service_times[i, n-1]; columns beyond max_batch are ignored."""
    rows, columns = service_times.shape
    states = np.arange(columns + 1, dtype=np.float64)
    log_rates = np.log(states[1:] / service_times)
    log_services = np.zeros((rows, columns + 1))
    np.cumsum(log_rates, axis=1, out=log_services[:, 1:])
    log_services[states[None, :] > max_batch[:, None]] = np.inf
    full = log_rates[np.arange(rows), max_batch - 1]
    powers = np.stack([np.ones_like(states), states], axis=1)
    return Chain(states, powers, log_services, full, max_batch.astype(np.float64), max_queue)


def occupancy(chain: Chain, rate: Floats) -> Occupancy:
    """Return the steady state when requests arrive at *rate* > 0 [requests/ms] in every state that admits them.

    The weight of state n is rate^n / (product of service rates), kept in logarithms of which the largest is taken off.
    The waiting states N+1..N+Q are a geometric series with ratio rate / (service rate of a full batch): closed form,
    any Q. An unbounded queue at a ratio >= 1 has no steady state: the answer is inf waiting at full throughput.
    """
    weights = np.multiply(np.log(rate)[:, None], chain.states)
    weights -= chain.log_services
    if not chain.max_queue.any():
        weights -= weights.max(axis=1)[:, None]
        np.exp(weights, out=weights)
        sums = weights @ chain.powers
        total = sums[:, 0]
        loss = weights[np.arange(len(rate)), chain.max_batch.astype(np.intp)] / total
        none = np.zeros_like(total)
        return Occupancy(sums[:, 1] / total, none, rate * (1.0 - loss), loss, weights[:, 0] / total)
    return _with_queue(chain, rate, weights)


def _with_queue(chain: Chain, rate: Floats, weights: Floats) -> Occupancy:
    """Return the steady state where some queue is not empty, from the logarithms of the weights of states 0..N."""
    queue = chain.max_queue
    log_ratio = np.log(rate) - chain.log_service_full
    unstable = np.isinf(queue) & (log_ratio >= 0.0)
    log_ratio = np.where(unstable, -1e-12, log_ratio)
    log_full = weights[np.arange(len(rate)), chain.max_batch.astype(np.intp)]
    rising = log_ratio > 0.0
    # Where the tail rises its last state is the heaviest, so the tail is summed backwards from there.
    last = log_full + np.where(rising, queue * log_ratio, 0.0)
    top = np.maximum(weights.max(axis=1), last)
    weights -= top[:, None]
    np.exp(weights, out=weights)
    sums = weights @ chain.powers
    tail, tail_waiting, blocked = _tail(-np.abs(log_ratio), queue, rising=rising)
    anchor = np.exp(last - top)
    tail, tail_waiting, blocked = anchor * tail, anchor * tail_waiting, anchor * blocked
    total = sums[:, 0] + tail
    in_service = (sums[:, 1] + chain.max_batch * tail) / total
    throughput = rate * ((total - blocked) / total)
    waiting = tail_waiting / total
    if unstable.any():
        throughput = np.where(unstable, np.exp(chain.log_service_full), throughput)
        in_service = np.where(unstable, chain.max_batch, in_service)
        waiting = np.where(unstable, np.inf, waiting)
    return Occupancy(in_service, waiting, throughput, blocked / total, weights[:, 0] / total)


def _tail(log_ratio: Floats, queue: Floats, *, rising: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
    """Return sums over the waiting states j = 1..queue of x^j and j·x^j, and the weight of the last state.

    x = exp(log_ratio) <= 1. Where *rising*, the weights run backwards: that of state j is x^(queue - j).
    """
    x = np.exp(log_ratio)
    gap = -np.expm1(log_ratio)
    bounded = np.where(np.isinf(queue), 0.0, queue)
    last = np.where(np.isinf(queue), 0.0, np.exp(bounded * log_ratio))
    with np.errstate(divide="ignore", invalid="ignore"):
        ones = np.where(np.isinf(queue), 1.0, -np.expm1(bounded * log_ratio)) / gap  # 1 + x + ... + x^(queue-1)
        # x + 2x^2 + ... + queue·x^queue; it cancels where queue·(1-x) is small, so there is a series for that below.
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
    return np.where(rising, ones, forward), np.where(rising, backward, firsts), np.where(rising, 1.0, last)


@dataclass(frozen=True, slots=True)
class Model:
    """Columns with what follows from them: prefill iterations by batch, work per request, service times, the chain.

    chunks is None where every prefill takes one iteration at any batch (the usual case); else chunks[i, batch-1].
    prefill and delta are the works of a lone request (batch 1) in a prefill and per iteration.
    steady tells the rows whose prefill iterations do not depend on the batch: there every figure is smooth in the rate.
    """

    columns: ReplicaColumns
    chunks: Floats | None
    prefill: Floats
    delta: Floats
    steady: NDArray[np.bool_]
    chain: Chain
    rate_min: Floats
    rate_max: Floats

    def take(self, rows: Rows) -> Model:
        """Return the given rows."""
        return Model(
            self.columns.take(rows),
            None if self.chunks is None else self.chunks[rows],
            self.prefill[rows],
            self.delta[rows],
            self.steady[rows],
            self.chain.take(rows),
            self.rate_min[rows],
            self.rate_max[rows],
        )


@dataclass(frozen=True, slots=True)
class Metrics:
    """What a replica does at a rate: latencies [ms], throughput [requests/ms], occupancy. One entry per row.

    ttft includes the wait and, as in the original, one decode step; rho is the busy share of the batch (0..1).
    """

    rate: Floats
    throughput: Floats
    response: Floats
    wait: Floats
    in_service: Floats
    prefill: Floats
    itl: Floats
    ttft: Floats
    rho: Floats
    loss: Floats
    idle: Floats


def prefill_work(columns: ReplicaColumns, chunks: Floats) -> Floats:
    """Return the work of a prefill in *chunks* iterations [ms]: each later chunk reads the keys of those before it."""
    return (columns.beta + columns.gamma * (chunks + 1.0) / 2.0) * columns.in_tokens


def decode_work(columns: ReplicaColumns) -> Floats:
    """Return the work of all decode steps of a request [ms]."""
    m = columns.out_tokens
    return columns.beta * m + columns.gamma * m * (columns.in_tokens + (m + 1.0) / 2.0)


def work_per_iteration(columns: ReplicaColumns, chunks: Floats) -> Floats:
    """Return delta: the mean work a request adds to one iteration [ms]."""
    return (prefill_work(columns, chunks) + decode_work(columns)) / (chunks + columns.out_tokens)


def prefill_chunks(columns: ReplicaColumns) -> Floats | None:
    """Return the number of prefill iterations of a request at each batch, or None where it is 1 everywhere.

    With k chunks a batch of (k+m)·(M - L/k)/(L+m) requests fits the token budget M. The smallest k that fits batch B is
    the larger root of M·k² + (m·M - L - B·(L+m))·k - m·L = 0 rounded up, then corrected by the definition itself where
    rounding moved it.
    """
    if bool(np.all(_batch_of_chunks(columns, np.ones(len(columns))) >= columns.max_batch)):
        return None
    width = int(columns.max_batch.max())
    batch = np.arange(1, width + 1, dtype=np.float64)[None, :]
    length = columns.in_tokens[:, None]
    m = columns.out_tokens[:, None]
    budget = columns.token_budget[:, None]
    wide = _Wide(length, m, budget)
    linear = m * budget - length - batch * (length + m)
    chunks = np.ceil((np.sqrt(linear**2 + 4.0 * budget * m * length) - linear) / (2.0 * budget))
    chunks = np.maximum(chunks, 1.0)
    for _ in range(3):
        chunks = np.where((chunks > 1.0) & (wide.batch(chunks - 1.0) >= batch), chunks - 1.0, chunks)
        chunks = np.where(wide.batch(chunks) < batch, chunks + 1.0, chunks)
    return chunks


@dataclass(frozen=True, slots=True)
class _Wide:
    """Prompt, output and token budget as matrix columns."""

    length: Floats
    m: Floats
    budget: Floats

    def batch(self, chunks: Floats) -> Floats:
        """Return the largest batch that fits the token budget with *chunks* prefill iterations."""
        room = self.budget - self.length / np.maximum(chunks, 1.0)
        return np.floor(np.maximum(0.0, (chunks + self.m) * room / (self.length + self.m)))


def _batch_of_chunks(columns: ReplicaColumns, chunks: Floats) -> Floats:
    return _Wide(columns.in_tokens, columns.out_tokens, columns.token_budget).batch(chunks)


def make_model(columns: ReplicaColumns) -> Model:
    """Return the model of each row: tau(B) = (c(B) + m) · (alpha + B·delta(c(B))) is the service time at batch B."""
    batch = np.arange(1, int(columns.max_batch.max()) + 1, dtype=np.float64)[None, :]
    chunks = prefill_chunks(columns)
    rows = np.arange(len(columns))
    first = np.ones(len(columns)) if chunks is None else chunks[:, 0]
    delta = work_per_iteration(columns, first)
    if chunks is None:
        times = (1.0 + columns.out_tokens)[:, None] * (columns.alpha[:, None] + batch * delta[:, None])
        steady = np.ones(len(columns), dtype=np.bool_)
    else:
        wide = ReplicaColumns(
            columns.alpha[:, None],
            columns.beta[:, None],
            columns.gamma[:, None],
            columns.in_tokens[:, None],
            columns.out_tokens[:, None],
            columns.max_batch[:, None],
            columns.max_queue[:, None],
            columns.token_budget[:, None],
        )
        times = (chunks + wide.out_tokens) * (wide.alpha + batch * work_per_iteration(wide, chunks))
        steady = chunks[:, 0] == chunks[rows, columns.max_batch - 1]
    full = times[rows, columns.max_batch - 1]
    chain = make_chain(times, max_batch=columns.max_batch, max_queue=columns.max_queue)
    rate_max = RATE_MAX_SHARE * columns.max_batch / full
    rate_min = RATE_MIN_SHARE / times[:, 0]
    return Model(columns, chunks, prefill_work(columns, first), delta, steady, chain, rate_min, rate_max)


def analyze(model: Model, rate: Floats) -> Metrics:
    """Return the metrics of each row when requests arrive at *rate* > 0 [requests/ms]; overload is allowed.

    The mean batch X gives prefill = c·max(0, alpha + (X-1)·delta) + w_prefill, and what is left of the mean service
    time S, spread over the m output tokens, is the inter-token latency.
    """
    columns = model.columns
    seen = occupancy(model.chain, rate)
    service = seen.in_service / seen.throughput
    wait = seen.waiting / seen.throughput
    if model.chunks is None:
        prefill = np.maximum(0.0, columns.alpha + (seen.in_service - 1.0) * model.delta) + model.prefill
    else:
        nearest = np.clip((seen.in_service + 0.5).astype(np.int64), 1, columns.max_batch)
        chunks = model.chunks[np.arange(len(nearest)), nearest - 1]
        delta = work_per_iteration(columns, chunks)
        prefill = chunks * np.maximum(0.0, columns.alpha + (seen.in_service - 1.0) * delta)
        prefill += prefill_work(columns, chunks)
    itl = (service - prefill) / columns.out_tokens
    return Metrics(
        rate=rate,
        throughput=seen.throughput,
        response=service + wait,
        wait=wait,
        in_service=seen.in_service,
        prefill=prefill,
        itl=itl,
        ttft=wait + prefill + itl,
        rho=np.minimum(seen.in_service / columns.max_batch, 1.0),
        loss=seen.loss,
        idle=seen.idle,
    )
