"""What a request meets in a replica and how it varies, as far as it does not depend on the rate.

Tokens of prompts and of answers are lognormal with the coefficient of variation of the columns, as
in the twin. Times in ms, rates in requests/ms; a row each, and a column per node of a quadrature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from loop.optimizer.model import Floats, Rows
from loop.optimizer.model.queueing import ReplicaColumns, iteration_time
from loop.optimizer.model.skewed import normal_share
from loop.replacing import replace
from twin.frozen import made_quickly

Singles = NDArray[np.float32]

_hermite, _legendre = np.polynomial.hermite_e.hermegauss, np.polynomial.legendre.leggauss
ANSWER_NODES, ANSWER_WEIGHTS = _hermite(4)
ANSWER_WEIGHTS = ANSWER_WEIGHTS / ANSWER_WEIGHTS.sum()
PROMPT_NODES, PROMPT_WEIGHTS = _hermite(5)
PROMPT_WEIGHTS = PROMPT_WEIGHTS / PROMPT_WEIGHTS.sum()
EVEN_NODES, EVEN_WEIGHTS = ((_legendre(3)[0] + 1.0) / 2.0, _legendre(3)[1] / 2.0)
LONE_NODES = np.linspace(-3.2, 3.6, 18)  # normal quantiles at which a lone prefill is timed
# Batches between which the time of a prefill is interpolated. They are the same for all rows, as
# what is found of a row must not depend on those beside it.
GRID = np.array([0.0, 4.0, 16.0, 48.0, 128.0, *(256.0 * 2.0**k for k in range(14))])
DIGITS = 2.0**24
# Of the budget of an iteration, what the last chunk of a prompt leaves to others on the mean.
LEFT_OF_CHUNK = 0.5
OTHERS_MAX = 0.98  # at most this share of a life is lengthened by those who come during it
CHUNK = 32  # states that are summed at once, so that a sum does not depend on states of no weight


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Mean of decode iterations and of the KV tokens that they read, of their squares and their
    product, by node of the length of an answer.
    """

    decodes: Floats
    reads: Floats
    decodes_2: Floats
    both: Floats
    reads_2: Floats

    @classmethod
    def of(cls, decodes: Floats, reads: Floats, weights: Floats) -> Self:
        """Return the means over the last axis."""
        return cls(
            decodes=mean_over(decodes, weights),
            reads=mean_over(reads, weights),
            decodes_2=mean_over(decodes * decodes, weights),
            both=mean_over(decodes * reads, weights),
            reads_2=mean_over(reads * reads, weights),
        )

    def times(self, token: Floats, read: Floats, prompt_variance: Floats) -> tuple[Floats, Floats]:
        """Return the mean time and the mean of its square, at so many ms a token and a KV token
        read.
        """
        square = token**2 * self.decodes_2 + 2.0 * token * read * self.both
        square += read**2 * (self.reads_2 + self.decodes_2 * prompt_variance)
        return token * self.decodes + read * self.reads, square


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """Replicas with what does not depend on the rate.

    latencies and wide: their latency models, as vectors and as columns. computed: the share of a
    prompt that is not in the prefix cache. decodes: mean iterations of a request after its first
    token, decodes_2 the mean of the square, alone the probability that there is none. context: mean
    KV tokens of a request in the batch; prompts and answers: tokens by node; prompt_mu and
    prompt_sigma: of the lognormal of what a prompt has beside its first token. ahead: iterations
    that are planned in advance. together: how far requests that began together also end together.
    met: what a request finds in the batch, coming: what comes during it. lone: time of a prefill
    alone, by LONE_NODES. log_weights: of the states of the batch, of which states, grid and basis
    belong to all rows; in single precision, as nothing here is right to more than four
    digits.
    """

    columns: ReplicaColumns
    latencies: Latencies
    wide: Latencies
    computed: Floats
    decodes: Floats
    decodes_2: Floats
    alone: Floats
    context: Floats
    prompts: Floats
    prompt_mu: Floats
    prompt_sigma: Floats
    answers: Floats
    ahead: Floats
    together: Floats
    met: Sums
    coming: Sums
    lone: Floats
    log_weights: Singles
    full_time: Floats
    states: Singles
    grid: Floats
    basis: Singles

    def __len__(self) -> int:
        return len(self.decodes)

    def take(self, rows: Rows) -> Tail:
        """Return the given rows."""
        shared = {"states", "grid", "basis"}
        taken: dict[str, Any] = {}
        for name in (field.name for field in fields(self) if field.name not in shared):
            value = getattr(self, name)
            if isinstance(value, Sums):
                parts = {each.name: getattr(value, each.name)[rows] for each in fields(value)}
                taken[name] = Sums(**parts)
            else:
                taken[name] = value[rows] if isinstance(value, np.ndarray) else value.take(rows)
        return replace(self, **taken)


def mean_over(values: Floats, weights: Floats) -> Floats:
    """Return the mean of each row over the nodes of a quadrature.

    Not as a product of matrices: that rounds by how many rows there are.
    """
    found: Floats = np.einsum("...k,k->...", values, weights)
    return found


def rounded(values: Floats) -> Floats:
    """Return *values* to 24 binary digits, far more than are right: so that machines whose
    exponentials differ in the last digit, and the compiled estimate, find the same.
    """
    part, power = np.frexp(values)
    found: Floats = np.ldexp(np.rint(part * DIGITS) / DIGITS, power)
    return found


def as_column(values: Floats) -> Floats:
    """Return *values* as a column, beside figures by node."""
    return values[..., None]


@made_quickly
@dataclass(frozen=True, slots=True)
class Latencies:
    """The latency models of the rows, as a vector or as a column; curved: some are rooflines;
    sparse: some are mixtures of experts.
    """

    alpha: Floats
    beta: Floats
    gamma: Floats
    launch: Floats
    p: Floats
    experts: Floats
    unread: Floats
    host: Floats
    curved: bool
    sparse: bool

    @classmethod
    def of(cls, columns: ReplicaColumns) -> Self:
        """Return those of *columns*."""
        parts = (columns.alpha, columns.beta, columns.gamma, columns.launch, columns.p)
        kinds = (columns.curved, columns.sparse)
        return cls(*parts, columns.experts, columns.unread, columns.host, *kinds)

    @property
    def _parts(self) -> tuple[Floats, ...]:
        parts = (self.alpha, self.beta, self.gamma, self.launch, self.p)
        return (*parts, self.experts, self.unread, self.host)

    def as_column(self) -> Latencies:
        """Return them for figures with a column per node."""
        alpha, beta, gamma, launch, p, experts, unread, host = map(as_column, self._parts)
        kinds = (self.curved, self.sparse)
        return Latencies(alpha, beta, gamma, launch, p, experts, unread, host, *kinds)

    def take(self, rows: Rows) -> Latencies:
        """Return the given rows."""
        alpha, beta, gamma, launch, p, experts, unread, host = (part[rows] for part in self._parts)
        kinds = (self.curved, self.sparse)
        return Latencies(alpha, beta, gamma, launch, p, experts, unread, host, *kinds)

    def duration(self, tokens: Floats, read: Floats, requests: Floats | float) -> Floats:
        """Return the time of iterations of so many tokens that read so many of the KV cache, and
        in which so many requests take part.
        """
        compute, reading = self.beta * tokens, self.gamma * read
        if self.sparse:
            reading = reading - self.experts * self.unread**tokens
        if not self.curved:
            return self.alpha + compute + reading
        return iteration_time(self, compute=compute, read=reading) + self.host * requests


def _lognormal(mean: Floats, deviation: Floats) -> tuple[Floats, Floats]:
    """Return mu and sigma of the lognormal of that mean and standard deviation."""
    mean = np.maximum(mean, 1e-9)
    # Beside a mean of nothing a deviation means nothing.
    sigma = np.sqrt(np.log1p(np.minimum(deviation / mean, 50.0) ** 2))
    return np.log(mean) - 0.5 * sigma**2, sigma


@np.errstate(under="ignore")
def make_tail(columns: ReplicaColumns) -> Tail:
    """Return what does not depend on the rate."""
    cv = columns.token_cv
    decodes = np.maximum(columns.out_tokens - 1.0, 0.0)
    spread = np.where(decodes > 0.0, cv * columns.out_tokens, 0.0)
    decodes_2 = decodes**2 + spread**2
    # A request that is met in the batch is a long one, and half way through.
    context = columns.in_tokens + decodes_2 / (2.0 * np.maximum(decodes, 1e-9)) + 0.5
    mu, sigma = _lognormal(decodes, spread)
    answers = np.exp(as_column(mu) + as_column(sigma) * ANSWER_NODES)
    longer = np.exp(as_column(mu + sigma**2) + as_column(sigma) * ANSWER_NODES)
    prompt_mu, prompt_sigma = _lognormal(columns.in_tokens - 1.0, cv * columns.in_tokens)
    below_one = -mu / np.maximum(sigma, 1e-9)
    # Answers are whole: what lies below one is rounded down with its own probability.
    rounded = normal_share(below_one) - decodes * normal_share(below_one - sigma)
    lives = np.maximum(answers, 1.0)
    met, coming = _sums(columns, answers=answers, longer=longer, lives=lives)
    lone = 1.0 + np.exp(as_column(prompt_mu) + as_column(prompt_sigma) * LONE_NODES)
    states, grid, basis = _ladder(int(columns.max_batch.max()))
    log_weights, full_time = _weights(columns, states, context, decodes + 1.0)
    latencies = Latencies.of(columns)
    return Tail(
        columns=columns,
        latencies=latencies,
        wide=latencies.as_column(),
        computed=columns.computed / np.maximum(columns.in_tokens, 1e-9),
        decodes=decodes,
        decodes_2=decodes_2,
        alone=np.where(decodes > 0.0, np.clip(rounded, 0.0, 1.0), 1.0),
        context=context,
        prompts=1.0 + np.exp(as_column(prompt_mu) + as_column(prompt_sigma) * PROMPT_NODES),
        prompt_mu=prompt_mu,
        prompt_sigma=prompt_sigma,
        answers=lives,
        ahead=np.where(decodes > 0.0, columns.ahead, 0.0),
        together=np.where(decodes > 0.0, 2.0 * normal_share(-sigma / math.sqrt(2.0)), 0.0),
        met=met,
        coming=coming,
        lone=_lone_times(columns, lone),
        log_weights=log_weights,
        full_time=full_time,
        states=states.astype(np.float32),
        grid=grid,
        basis=basis,
    )


@lru_cache(maxsize=64)
def _ladder(most: int) -> tuple[Floats, Floats, Singles]:
    """Return the states of batches of up to *most*, the grid for these, and of each state how much
    of every point of the grid the states up to it have. All are to be read only.
    """
    states = np.arange((most // CHUNK + 1) * CHUNK, dtype=np.float64)
    grid = GRID[: int(np.searchsorted(GRID, most)) + 1]
    basis = np.stack([np.interp(states, grid, one) for one in np.eye(len(grid))], axis=1)
    basis[0] = 0.0
    return states, grid, np.cumsum(basis, axis=0).astype(np.float32)


def _sums(
    columns: ReplicaColumns, *, answers: Floats, longer: Floats, lives: Floats
) -> tuple[Sums, Sums]:
    """Return what a request of each of *lives* iterations meets in the batch, and what comes during
    it, per request.
    """
    rows, prompt = len(columns), columns.in_tokens[:, None, None]
    age = (longer[:, :, None] * EVEN_NODES).reshape(rows, 1, -1)
    left = (longer[:, :, None] * (1.0 - EVEN_NODES)).reshape(rows, 1, -1)
    weights = (ANSWER_WEIGHTS[:, None] * EVEN_WEIGHTS).ravel()
    shared = np.minimum(left, lives[:, :, None])
    met = Sums.of(shared, shared * (prompt + age + shared / 2.0), weights)
    rest = lives[:, :, None] * (1.0 - EVEN_NODES)
    shared = np.minimum(answers[:, None, None, :], rest[:, :, :, None])
    shared = shared.reshape(rows, lives.shape[1], -1)
    weights = (EVEN_WEIGHTS[:, None] * ANSWER_WEIGHTS).ravel()
    return met, Sums.of(shared, shared * (prompt + shared / 2.0), weights)


def _lone_times(columns: ReplicaColumns, prompts: Floats) -> Floats:
    """Return the time of the prefill of a lone request with so many tokens of prompt."""
    share = as_column(columns.computed / np.maximum(columns.in_tokens, 1e-9))
    chunks = np.floor((prompts * share - 1.0) / (as_column(columns.token_budget) - 1.0))
    more = np.maximum(chunks, 0.0)
    wide = Latencies.of(columns).as_column()
    return wide.duration(prompts * share, prompts, 1.0) + more * (wide.alpha + wide.host)


def _weights(
    columns: ReplicaColumns, states: Floats, context: Floats, iterations: Floats
) -> tuple[Singles, Floats]:
    """Return ln(weight) of the states at rate 1 without prefills, and the time of an iteration of
    the full batch.
    """
    batch = np.broadcast_to(states[1:], (len(columns), len(states) - 1))
    times = Latencies.of(columns).as_column().duration(batch, batch * as_column(context), batch)
    weights = np.zeros((len(columns), len(states)))
    np.cumsum(np.log(times * as_column(iterations) / batch), axis=1, out=weights[:, 1:])
    weights[states[None, :] > columns.max_batch[:, None]] = -np.inf
    return weights.astype(np.float32), times[np.arange(len(columns)), columns.max_batch - 1]
