"""How much of a log's time alpha, beta and gamma could explain at most: the scale on which a fit
searches.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from twin.fit.request_csv import RequestRows

Vector = npt.NDArray[np.float64]

SAMPLE = 500  # requests whose time is looked at; every request counts as what runs beside them


def ceilings_ms(rows: RequestRows, *, token_budget: int) -> Vector:
    """Return the alpha [ms], beta [ms/token] and gamma [ms/KV token] that each alone would explain
    the times of *rows*.

    So a latency model is nearly `shares * ceilings_ms(...)` with shares >= 0 that sum to 1. Who was
    decoding when is read off the log, at each request's mean rate. Without any decode, the times to
    first token are taken as if nobody waited.
    """
    exposure, time_ms = _decodes(rows)
    if not len(time_ms):
        exposure, time_ms = _prefills(rows, token_budget=token_budget)
    ceilings: Vector = 1.0 / (exposure / time_ms[:, None]).mean(axis=0)
    return ceilings


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


def _prefills(rows: RequestRows, *, token_budget: int) -> tuple[Vector, Vector]:
    """The same between arrival and first token, as if each request had been alone."""
    prompt = rows.input_tokens.astype(np.float64)
    chunks = np.ceil(prompt / token_budget)
    return np.stack([chunks, prompt, prompt * (chunks + 1.0) / 2.0], axis=1), rows.ttft_s * 1e3
