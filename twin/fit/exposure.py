"""What each coefficient of a latency model explains of a log at most, read off the log without a
simulation: the scale and a start for the search.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from twin.fit.replay import ReplicaLimits
from twin.fit.request_csv import RequestRows
from twin.spec import LatencyModel

Vector = npt.NDArray[np.float64]

# What a coefficient makes of a decode at least, before anything is searched.
ROUGH_SHARE = 0.05
# Gamma over beta of the shipped models on the shipped accelerators, on the mean: 0.00006 of a model
# that keeps one head, 0.016 of one that keeps all.
READ_TO_COMPUTED = 0.001
# Of a table, prompts that hardly wait: their TTFT for a token is at most so many times the least.
AT_ONCE = 1.5
# Requests whose time is looked at for the scale; every request counts as what runs beside them.
SAMPLE = 500


def ceilings_ms(rows: RequestRows, *, limits: ReplicaLimits) -> Vector:
    """Return the alpha [ms], beta [ms/token] and gamma [ms/KV token] that each alone would explain
    the times of *rows*.

    So a latency model is nearly `shares * ceilings_ms(...)` with shares >= 0 that sum to 1. Who was
    decoding when is read off the log, at each request's mean rate. Without any decode, the times to
    first token are taken as if no request waited.
    """
    ceilings: Vector = 1.0 / shares_of_time(rows, limits=limits).mean(axis=0)
    return ceilings


def rough_model(rows: RequestRows, *, limits: ReplicaLimits) -> LatencyModel:
    """Return a latency model that explains decodes by who ran when, and of a table the prompts that
    hardly waited, without a simulation: good enough to begin a search at.
    """
    shares = shares_of_time(rows, limits=limits)
    if rows.points:
        # Decodes of one shape of requests do not tell computing from reading, prompts do.
        exposure, ttft_ms = _prefills(rows, token_budget=limits.token_budget)
        each_ms = ttft_ms / rows.input_tokens
        at_once = each_ms <= AT_ONCE * each_ms.min()
        shares = np.concatenate([shares, (exposure / ttft_ms[:, None])[at_once]])
    found, _ = nnls(shares, np.ones(len(shares)))
    # What comes out as nothing is hard to tell, and may be something: a search from 0 stays there.
    alpha_ms, beta_ms, gamma_ms = np.maximum(found, ROUGH_SHARE / shares.mean(axis=0)).tolist()
    if (rows.output_tokens == 1).all():
        gamma_ms = READ_TO_COMPUTED * beta_ms
    return LatencyModel(alpha_ms=alpha_ms, beta_ms=beta_ms, gamma_ms=gamma_ms)


def shares_of_time(rows: RequestRows, *, limits: ReplicaLimits) -> Vector:
    """Return by row which part of its time a ms of alpha, beta and gamma makes."""
    exposure, time_ms = _steady(rows, limits.max_batch) if rows.points else _decodes(rows)
    # A step of several tokens is launched, and reads the KV cache, once.
    exposure = exposure / np.array([limits.tokens_per_step, 1.0, limits.tokens_per_step])
    if not len(time_ms):
        exposure, time_ms = _prefills(rows, token_budget=limits.token_budget)
    shares: Vector = exposure / time_ms[:, None]
    return shares


def _decodes(rows: RequestRows) -> tuple[Vector, Vector]:
    """Iterations, tokens computed, KV tokens read between first and last token, columns; and that
    time [ms].
    """
    first_s, last_s = rows.first_token_s, rows.last_token_s
    span_s = last_s - first_s
    decodes = (rows.output_tokens > 1) & (span_s > 0)
    rate = np.where(
        decodes, (rows.output_tokens - 1) / np.where(decodes, span_s, 1.0), 0.0
    )  # tokens per second
    mine = np.flatnonzero(decodes)
    mine = mine[:: max(len(mine) // SAMPLE, 1)]
    begin_s = np.maximum(first_s[mine, None], first_s)
    end_s = np.minimum(last_s[mine, None], last_s)
    together_s = np.maximum(end_s - begin_s, 0.0)
    context = rows.input_tokens + rate * (
        (begin_s + end_s) / 2.0 - first_s
    )  # in the middle of that time
    prefilled = (first_s > first_s[mine, None]) & (first_s <= last_s[mine, None])
    iterations = rows.output_tokens[mine] - 1.0
    tokens = together_s @ rate + prefilled @ rows.input_tokens
    kv_tokens = rate[mine] * (together_s * context).sum(axis=1)
    return np.stack([iterations, tokens, kv_tokens], axis=1), span_s[mine] * 1e3


def _steady(rows: RequestRows, max_batch: int) -> tuple[Vector, Vector]:
    """The same of operating points: what runs at once follows from the load, by Little's law, but
    what waits beyond *max_batch*.
    """
    span_s, gaps = rows.last_token_s - rows.first_token_s, rows.output_tokens - 1.0
    several = gaps > 0
    batch = np.array(
        [
            float(point.users) if point.users is not None else (point.rate_rps or 0.0) * e2e_s
            for point, e2e_s in zip(rows.points, rows.e2e_s.tolist(), strict=True)
        ]
    )
    batch = np.clip(batch, 1.0, max_batch)
    # A decode token of each, and the prompt of whoever takes the place of one that ends.
    prompts = rows.input_tokens * (1.0 - np.array([each.prefix_share for each in rows.points]))
    tokens = batch * (1.0 + prompts / np.maximum(rows.output_tokens, 1))
    kv_tokens = batch * (rows.input_tokens + rows.output_tokens / 2.0)
    exposure = np.stack([gaps, gaps * tokens, gaps * kv_tokens], axis=1)
    return exposure[several], span_s[several] * 1e3


def _prefills(rows: RequestRows, *, token_budget: int) -> tuple[Vector, Vector]:
    """The same between arrival and first token, as if each request had been alone."""
    prompt = rows.input_tokens.astype(np.float64)
    chunks = np.ceil(prompt / token_budget)
    return np.stack([chunks, prompt, prompt * (chunks + 1.0) / 2.0], axis=1), rows.ttft_s * 1e3
