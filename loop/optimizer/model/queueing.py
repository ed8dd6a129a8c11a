"""The optimizer's estimate about one replica: a birth-death chain with batch-dependent service;
many replicas at once.

Formulas: the queue-analysis model (one iteration costs alpha + beta·tokens + gamma·KV tokens read,
or what a soft roofline makes of it).
Everything is columnar: row i of every array belongs to one replica. Times in ms, rates in
requests/ms. Nothing here solves or sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from loop.optimizer.model import Floats, Ints, Rows
from twin.frozen import made_quickly

TOKEN_BUDGET = 8192
RATE_MIN_SHARE = (
    0.001  # the lowest rate looked at is this share of the service rate of a lone request
)
# The highest, unless a caller says otherwise, is this share of the service rate of a full batch.
RATE_MAX_SHARE = 0.999

HOST_GAMMA = 1e-8  # a million tokens are a hundredth of what the host does for a request

QueueKind = Literal["none", "unbounded", "mixed"]


@made_quickly
@dataclass(frozen=True, slots=True)
class ReplicaColumns:
    """Parameters of replicas, one row each.

    alpha, beta, gamma: latency model [ms, ms/token, ms/token]; in_tokens >= 0 and out_tokens >= 1:
    mean request; max_batch >= 1; max_queue >= 0 requests, inf for an unbounded queue; token_budget:
    tokens an iteration may compute; overhead: what a request spends outside the engine [ms], in its
    TTFT and in nothing else; launch, p: the soft roofline (twin.spec.LatencyModel), the sum at
    p = 1; cached: of in_tokens, those that are found in the prefix cache: they are read, and not
    computed. Of use to the tail only (loop.optimizer.model.tail): token_cv, coefficient of
    variation of both kinds of tokens; ahead: iterations that the engine plans in advance; pool: how
    many replicas have their arrivals in common, each of which goes where the fewest requests are;
    dispersion: variance of counts of arrivals over their mean, 1 of a Poisson process and more of
    one in bursts (of independent gaps it is their squared coefficient of variation). experts [ms]
    and unread: of a mixture of experts an iteration of n tokens saves experts · unread^n of alpha.
    host: what each request adds to each iteration outside the roofline [ms], for rows of p != 1
    only (host_as_reading).
    """

    alpha: Floats
    beta: Floats
    gamma: Floats
    in_tokens: Floats
    out_tokens: Floats
    max_batch: Ints
    max_queue: Floats
    token_budget: Floats
    overhead: Floats
    launch: Floats
    p: Floats
    cached: Floats
    token_cv: Floats
    ahead: Floats
    pool: Floats
    dispersion: Floats
    experts: Floats
    unread: Floats
    host: Floats

    def __len__(self) -> int:
        return len(self.alpha)

    def as_column(self) -> ReplicaColumns:
        """Return the rows as columns of a matrix, for figures that have a column per batch."""
        return ReplicaColumns(*(getattr(self, name)[:, None] for name in ReplicaColumns.__slots__))

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
            self.overhead[rows],
            self.launch[rows],
            self.p[rows],
            self.cached[rows],
            self.token_cv[rows],
            self.ahead[rows],
            self.pool[rows],
            self.dispersion[rows],
            self.experts[rows],
            self.unread[rows],
            self.host[rows],
        )

    @property
    def parts(self) -> list[Floats]:
        """Return all columns, in order."""
        return [getattr(self, name) for name in ReplicaColumns.__slots__]

    @property
    def computed(self) -> Floats:
        """Return the tokens of a prompt that a prefill computes."""
        return self.in_tokens - self.cached

    @property
    def curved(self) -> bool:
        """Return whether any row is a soft roofline."""
        return bool((self.p != 1.0).any())

    @property
    def sparse(self) -> bool:
        """Return whether any row is a mixture of experts of which small batches read some only."""
        return bool((self.experts > 0.0).any())

    def saved(self, tokens: Floats) -> Floats:
        """Return what an iteration of so many tokens saves of alpha [ms]."""
        saved: Floats = self.experts * self.unread**tokens
        return saved


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
    overhead: Any = 0.0,
    launch: Any = 0.0,
    p: Any = 1.0,
    cached: Any = 0.0,
    token_cv: Any = 0.0,
    ahead: Any = 0.0,
    pool: Any = 1.0,
    dispersion: Any = 1.0,
    experts: Any = 0.0,
    unread: Any = 0.0,
    host: Any = 0.0,
) -> ReplicaColumns:
    """Return columns from scalars and sequences, broadcast to one length."""
    rows = np.broadcast_arrays(
        *np.atleast_1d(
            *(alpha, beta, gamma, in_tokens, out_tokens, max_batch, max_queue, token_budget),
            *(overhead, launch, p, cached, token_cv, ahead, pool, dispersion, experts, unread),
            host,
        )
    )
    a, b, g, tokens_in, tokens_out, batch, *others = (
        np.array(row, dtype=np.float64) for row in rows
    )
    return ReplicaColumns(a, b, g, tokens_in, tokens_out, batch.astype(np.int64), *others)


def longer(
    attention: Floats, *, in_tokens: Floats, cached: Floats, out_tokens: Floats, token_cv: Floats
) -> Floats:
    """Return how many times as long as beta a token takes, on the mean over prompt and answer: the
    estimate has one beta, and so computes as much in all (twin.spec.LatencyModel).
    """
    computed = in_tokens - cached
    pairs = cached * computed + (1.0 + token_cv**2) * computed**2 / 2.0
    more = attention * pairs / np.maximum(computed + out_tokens, 1.0)
    return np.where(attention > 0.0, 1.0 + more, 1.0)


def host_as_reading(sequence: Floats, gamma: Floats, p: Floats) -> tuple[Floats, Floats, Floats]:
    """Return a gamma, and the tokens of context that take so long to read as the host is busy with
    a request, to be added to the tokens of a prompt, and to those of it that need no computing; and
    the host of ReplicaColumns. In a sum one ms is as good as another, but a soft roofline hides
    some of what is read behind the computing, and nothing of the host.
    """
    outside = np.where(p == 1.0, 0.0, sequence)
    sequence = np.where(p == 1.0, sequence, 0.0)
    # Without a gamma there is nothing to read: one so small that real tokens count for nothing.
    gamma = np.maximum(gamma, HOST_GAMMA * sequence)
    reading = np.where(sequence > 0.0, sequence / np.maximum(gamma, 1e-300), 0.0)
    return gamma, reading, outside


@made_quickly
@dataclass(frozen=True, slots=True)
class Model:
    """Columns with what follows from them: prefill iterations by batch, work per request, service
    times, the chain.

    chunks is None if every prefill takes one iteration at any batch (the usual case); else
    chunks[i, batch-1]. prefill and delta are the works of a lone request (batch 1) in a prefill and
    per iteration. steady tells the rows whose prefill iterations do not depend on the batch: there
    every figure is smooth in the rate.
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


@made_quickly
@dataclass(frozen=True, slots=True)
class Metrics:
    """What a replica does at a rate: latencies [ms], throughput [requests/ms], occupancy. One entry
    per row.

    ttft includes the wait, the overhead and, as in the Go optimizer, one decode step; rho is the
    busy share of the batch (0..1).
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


class LatencyColumns(Protocol):
    """Latency models, a row each: those of replicas, and those of the data."""

    @property
    def alpha(self) -> Floats:
        """Return the fixed time [ms]."""
        ...

    @property
    def launch(self) -> Floats:
        """Return what of alpha overlaps with nothing [ms]."""
        ...

    @property
    def p(self) -> Floats:
        """Return the exponent."""
        ...


def iteration_time(model: LatencyColumns, *, compute: Floats, read: Floats) -> Floats:
    """Return the time of iterations [ms] that take *compute* for their tokens and *read* for their
    KV cache; the same model as twin.engine.latency.iteration_ms.
    """
    plain = model.alpha + compute + read
    if not bool((model.p != 1.0).any()):
        return plain
    memory = model.alpha - model.launch + read
    larger = np.maximum(np.maximum(memory, compute), 1e-300)
    # The larger of the two taken out: no power of it can overflow or vanish.
    ratio = np.minimum(memory, compute) / larger
    return np.where(
        model.p == 1.0, plain, model.launch + larger * (1.0 + ratio**model.p) ** (1.0 / model.p)
    )


def mean_iteration(columns: ReplicaColumns, batch: Floats, chunks: Floats) -> Floats:
    """Return the mean time of an iteration of *batch* requests [ms], of which each prefills in so
    many *chunks*.

    In a share of the iterations somebody prefills. For the sum that share does not matter; for a
    roofline one long iteration among short ones is not the mean of them.
    """
    each = chunks + columns.out_tokens
    m, prompt = columns.out_tokens, columns.in_tokens
    decode_compute = columns.beta * batch * m / each
    decode_read = columns.gamma * batch * m * (prompt + (m + 1.0) / 2.0) / each
    share = np.minimum(batch * chunks / each, 1.0)
    compute = columns.beta * batch * columns.computed / (each * share)
    read = columns.gamma * batch * prefill_reads(columns, chunks) / (each * share)
    alone = decode_read - columns.saved(batch) if columns.sparse else decode_read
    without = iteration_time(columns, compute=decode_compute, read=alone)
    with_it = iteration_time(columns, compute=decode_compute + compute, read=decode_read + read)
    mean: Floats = (1.0 - share) * without + share * with_it + columns.host * batch
    return mean


def prefill_time(columns: ReplicaColumns, in_service: Floats, chunks: Floats) -> Floats:
    """Return the time of a prefill in so many *chunks* while so many requests are *in_service* on
    the mean [ms].
    """
    others = in_service - 1.0
    each = chunks + columns.out_tokens
    m, prompt = columns.out_tokens, columns.in_tokens
    own_compute = columns.beta * columns.computed
    own_read = columns.gamma * prefill_reads(columns, chunks)
    compute = (own_compute + columns.beta * m) / each
    read = (own_read + columns.gamma * m * (prompt + (m + 1.0) / 2.0)) / each
    iteration = iteration_time(
        columns,
        compute=np.maximum(0.0, others * compute + own_compute / chunks),
        read=np.maximum(0.0, others * read + own_read / chunks),
    )
    return chunks * (iteration + columns.host * np.maximum(in_service, 1.0))


def prefill_work(columns: ReplicaColumns, chunks: Floats) -> Floats:
    """Return the work of a prefill in *chunks* iterations [ms]: each later chunk reads the keys of
    those before it.
    """
    computed = (columns.beta + columns.gamma * (chunks + 1.0) / 2.0) * columns.computed
    return computed + columns.gamma * chunks * columns.cached


def prefill_reads(columns: ReplicaColumns, chunks: Floats) -> Floats:
    """Return the KV tokens that all *chunks* iterations of a prefill read: each the cached prefix,
    and what was computed by its end.
    """
    return (chunks + 1.0) / 2.0 * columns.computed + chunks * columns.cached


def decode_work(columns: ReplicaColumns) -> Floats:
    """Return the work of all decode steps of a request [ms]."""
    m = columns.out_tokens
    return columns.beta * m + columns.gamma * m * (columns.in_tokens + (m + 1.0) / 2.0)


def work_per_iteration(columns: ReplicaColumns, chunks: Floats) -> Floats:
    """Return delta: the mean work a request adds to one iteration [ms]."""
    return (prefill_work(columns, chunks) + decode_work(columns)) / (chunks + columns.out_tokens)


def prefill_chunks(columns: ReplicaColumns) -> Floats | None:
    """Return the number of prefill iterations of a request at each batch, or None if it is 1
    everywhere.

    With k chunks a batch of (k+m)·(M - L/k)/(L+m) requests fits the token budget M. The smallest k
    that fits batch B is the larger root of M·k² + (m·M - L - B·(L+m))·k - m·L = 0 rounded up, then
    corrected by the definition itself if rounding moved it.
    """
    more = np.flatnonzero(_batch_of_chunks(columns, np.ones(len(columns))) < columns.max_batch)
    if not len(more):
        return None
    found = np.ones((len(columns), int(columns.max_batch.max())))
    found[more] = _chunks(columns.take(more), found.shape[1])
    return found


def _chunks(columns: ReplicaColumns, width: int) -> Floats:
    batch = np.arange(1, width + 1, dtype=np.float64)[None, :]
    length = columns.computed[:, None]
    m = columns.out_tokens[:, None]
    budget = columns.token_budget[:, None]
    wide = _Wide(length, m, budget)
    linear = m * budget - length - batch * (length + m)
    chunks = np.ceil((np.sqrt(linear**2 + 4.0 * budget * m * length) - linear) / (2.0 * budget))
    chunks = np.maximum(chunks, 1.0)
    for _ in range(3):
        before = chunks
        chunks = np.where(
            (chunks > 1.0) & (wide.batch(chunks - 1.0) >= batch), chunks - 1.0, chunks
        )
        chunks = np.where(wide.batch(chunks) < batch, chunks + 1.0, chunks)
        if np.array_equal(chunks, before):
            break
    return chunks


@made_quickly
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
    return _Wide(columns.computed, columns.out_tokens, columns.token_budget).batch(chunks)


@np.errstate(under="ignore")
def make_model(columns: ReplicaColumns, *, share: float = RATE_MAX_SHARE) -> Model:
    """Return the model of each row: tau(B) = (c(B) + m) · (alpha + B·delta(c(B))) is the service
    time at batch B.

    share: the highest rate that is looked at, as a share of the service rate of a full batch.
    """
    batch = np.arange(1, int(columns.max_batch.max()) + 1, dtype=np.float64)[None, :]
    chunks = prefill_chunks(columns)
    rows = np.arange(len(columns))
    first = np.ones(len(columns)) if chunks is None else chunks[:, 0]
    delta = work_per_iteration(columns, first)
    if chunks is None:
        times = (1.0 + columns.out_tokens)[:, None] * (
            columns.alpha[:, None] + batch * delta[:, None]
        )
        steady = np.ones(len(columns), dtype=np.bool_)
    else:
        wide = columns.as_column()
        times = (chunks + wide.out_tokens) * (wide.alpha + batch * work_per_iteration(wide, chunks))
        steady = chunks[:, 0] == chunks[rows, columns.max_batch - 1]
    if columns.curved:
        wide = columns.as_column()
        each = np.ones((len(columns), 1)) if chunks is None else chunks
        curved = (each + wide.out_tokens) * mean_iteration(wide, batch, each)
        times = np.where(wide.p == 1.0, times, curved)
    if columns.sparse:
        wide = columns.as_column()
        # Where a prompt is prefilled, all experts are read.
        decodes = wide.out_tokens * wide.saved(batch)
        times = np.where(wide.p == 1.0, times - decodes, times)
    full = times[rows, columns.max_batch - 1]
    chain = make_chain(times, max_batch=columns.max_batch, max_queue=columns.max_queue)
    rate_max = share * columns.max_batch / full
    rate_min = RATE_MIN_SHARE / times[:, 0]
    return Model(
        columns, chunks, prefill_work(columns, first), delta, steady, chain, rate_min, rate_max
    )


@np.errstate(under="ignore")
def analyze(model: Model, rate: Floats) -> Metrics:
    """Return the metrics of each row when requests arrive at *rate* > 0 [requests/ms]; overload is
    allowed.

    The mean batch X gives prefill = c·max(0, alpha + (X-1)·delta) + w_prefill, and what is left of
    the mean service time S, spread over the m output tokens, is the inter-token latency.
    """
    columns = model.columns
    seen = occupancy(model.chain, rate)
    service = seen.in_service / seen.throughput
    wait = seen.waiting / seen.throughput
    if model.chunks is None:
        prefill = (
            np.maximum(0.0, columns.alpha + (seen.in_service - 1.0) * model.delta) + model.prefill
        )
    else:
        nearest = np.clip((seen.in_service + 0.5).astype(np.int64), 1, columns.max_batch)
        chunks = model.chunks[np.arange(len(nearest)), nearest - 1]
        delta = work_per_iteration(columns, chunks)
        prefill = chunks * np.maximum(0.0, columns.alpha + (seen.in_service - 1.0) * delta)
        prefill += prefill_work(columns, chunks)
    if columns.curved:
        each = np.ones(len(columns)) if model.chunks is None else chunks
        curved = prefill_time(columns, seen.in_service, each)
        prefill = np.where(columns.p == 1.0, prefill, curved)
    itl = (service - prefill) / columns.out_tokens
    return Metrics(
        rate=rate,
        throughput=seen.throughput,
        response=service + wait,
        wait=wait,
        in_service=seen.in_service,
        prefill=prefill,
        itl=itl,
        ttft=columns.overhead + wait + prefill + itl,
        rho=np.minimum(seen.in_service / columns.max_batch, 1.0),
        loss=seen.loss,
        idle=seen.idle,
    )


@made_quickly
@dataclass(frozen=True, slots=True)
class Chain:
    """The birth-death chain of each row: states 0..max_batch, then a geometric tail of max_queue
    waiting states.

    service_full is the service rate of a full batch [requests/ms]; kind tells rows with a queue
    from those without. log_services[i, n] is the sum of ln(service rate) of states 1..n, inf if
    n > max_batch (no such state).
    """

    states: Floats
    log_services: Floats
    service_full: Floats
    max_batch: Ints
    max_queue: Floats
    kind: QueueKind

    def take(self, rows: Rows) -> Chain:
        """Return the given rows."""
        return Chain(
            self.states,
            self.log_services[rows],
            self.service_full[rows],
            self.max_batch[rows],
            self.max_queue[rows],
            self.kind,
        )


@made_quickly
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
    return Chain(states, log_services, full, max_batch, max_queue, _kind(max_queue))


def _kind(max_queue: Floats) -> QueueKind:
    if not max_queue.any():
        return "none"
    return "unbounded" if bool(np.isinf(max_queue).all()) else "mixed"


@np.errstate(under="ignore")
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
    sums = _moments(chain, weights)
    last = weights[np.arange(len(rate)), chain.max_batch]
    if chain.kind == "unbounded":
        return _unbounded(chain, rate, sums, last=last, first=weights[:, 0])
    total = sums[:, 0]
    loss = last / total
    return Occupancy(
        sums[:, 1] / total, np.zeros_like(total), rate * (1.0 - loss), loss, weights[:, 0] / total
    )


def _moments(chain: Chain, weights: Floats) -> Floats:
    """Return the sums of weight and n·weight over the states of each row."""
    # One after the other: the last digit of a product of matrices, or of a sum in pairs, depends on
    # how many rows and states there are besides, and nothing could be remembered row by row.
    counts = np.cumsum(weights, axis=1)[:, -1]
    return np.stack([counts, np.cumsum(weights * chain.states, axis=1)[:, -1]], axis=1)


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
    sums = _moments(chain, weights)
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
