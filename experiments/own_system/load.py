"""From the history of servers to a load for the twin: requests and mean tokens by minute, and the
stretches of which nothing is known. Pure.
"""

from __future__ import annotations

import math

import numpy as np

from emulator.rates import Rates
from loop.signals.history import Floats, History

# Mean tokens are taken over as many steps as it takes for so many requests, within an hour: of
# fewer they say more of chance than of the mix.
REQUESTS_OF_A_MIX = 200.0
MIX_S_MAX = 3600.0
# A hole is filled with the mean rate of so long before and after it.
BESIDE_S = 1800.0
NOTHING = (512.0, 128.0)  # tokens of a server that had no request


def rates_of(history: History) -> Rates:
    """Return the load of *history*; holes have the mean rate beside them."""
    step_s, steps = history.step_s, history.steps
    rates_rpm = _filled(_carried(history.arrived), history.known, step_s) * 60.0 / step_s
    total = float(history.arrived.sum())
    width = math.ceil(REQUESTS_OF_A_MIX / max(total / steps, 1e-9))
    width = max(min(width, round(MIX_S_MAX / step_s), steps), 1)
    grown = history.grown
    nothing = np.zeros(steps)
    firsts = grown.get("firsts", grown.get("ends", nothing))
    answers = grown.get("answers", grown.get("ends", firsts))
    return Rates(
        times_s=step_s * np.arange(steps, dtype=np.float64),
        rates_rpm=rates_rpm,
        in_tokens=_means(grown.get("prompt", nothing), firsts, width, NOTHING[0]),
        out_tokens=_means(
            grown.get("answer_tokens", grown.get("generation", nothing)),
            answers,
            width,
            NOTHING[1],
        ),
        end_s=step_s * steps,
    )


def _carried(arrived: Floats) -> Floats:
    """Return how many requests came in each step: a step that tells of fewer than none corrects the
    ones before.
    """
    total = np.maximum(np.maximum.accumulate(np.cumsum(arrived)), 0.0)
    counts: Floats = np.diff(total, prepend=0.0)
    return counts


def _filled(counts: Floats, known: np.ndarray, step_s: float) -> Floats:
    if known.all() or not known.any():
        return counts
    filled = counts.copy()
    beside = max(round(BESIDE_S / step_s), 1)
    edges = np.flatnonzero(np.diff(np.concatenate(([True], known, [True]))))
    for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        near = np.zeros(len(counts), dtype=bool)
        near[max(begin - beside, 0) : begin] = near[end : end + beside] = True
        near &= known
        # Far from everything that is known the mean of all has to do.
        filled[begin:end] = counts[near if near.any() else known].mean()
    return filled


def _means(tokens: Floats, count: Floats, width: int, otherwise: float) -> Floats:
    """Return the running mean of *tokens* per *count*."""
    window = np.ones(width)
    requests = np.convolve(count, window, mode="same")
    total = float(count.sum())
    overall = float(tokens.sum()) / total if total > 0.0 and tokens.any() else otherwise
    means = np.full(len(count), overall)
    some = requests > 0.5
    means[some] = np.convolve(tokens, window, mode="same")[some] / requests[some]
    bounded: Floats = np.maximum(means, 1.0)
    return bounded
