"""From the history of servers to a load for the twin: requests and mean tokens by minute, and the
stretches of which nothing is known; from histograms, how token counts vary about their means. Pure.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
from scipy.special import ndtr

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
    prompts = history.counted(("prompt",), ("firsts", "ends"))
    answers = history.answered()
    return Rates(
        times_s=step_s * np.arange(steps, dtype=np.float64),
        rates_rpm=rates_rpm,
        in_tokens=_means(*prompts, width, NOTHING[0]),
        out_tokens=_means(*answers, width, NOTHING[1]),
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


# Both kinds of lengths, under vLLM's names and those that have lost their colon.
PROMPTS = ("vllm:request_prompt_tokens_bucket", "vllm_request_prompt_tokens_bucket")
ANSWERS = ("vllm:request_generation_tokens_bucket", "vllm_request_generation_tokens_bucket")
CVS = np.geomspace(0.05, 3.0, 120)
REQUESTS_MIN = 200.0
# Answers of a token or two do not vary, and how they would if they were longer nobody can tell.
MEAN_MIN = 2.0
# Of the requests: so many must lie between two bounds, or the bounds tell nothing of how they vary.
WITHIN_MIN = 0.9

Bucket = tuple[Mapping[str, str], float]


def variation_of(buckets: Iterable[Bucket], rates: Rates, *, several: bool = False) -> float | None:
    """Return the coefficient of variation of both kinds of tokens about their means of the hour, by
    the labels and values of the *buckets* of all pods; None if they do not tell it. If requests
    have *several* answers, nothing tells how all of these together vary.

    Histograms have all hours together: what the means of *rates* move by is no variation about
    them.
    """
    counts: dict[tuple[str, ...], dict[float, float]] = {
        PROMPTS: defaultdict(float),
        ANSWERS: defaultdict(float),
    }
    for labels, value in buckets:
        for names, own in counts.items():
            if labels.get("__name__") in names:
                try:
                    own[float(labels.get("le", ""))] += value
                except ValueError:
                    continue
    found = [
        cv
        for names, means in ((PROMPTS, rates.in_tokens), (ANSWERS, rates.out_tokens))
        if not (several and names is ANSWERS)
        if (cv := _about(counts[names], means, rates.rates_rpm)) is not None
    ]
    return math.sqrt(sum(cv * cv for cv in found) / len(found)) if found else None


def _about(counts: Mapping[float, float], means: Floats, requests: Floats) -> float | None:
    """Return the coefficient of variation about *means* that as many *requests* had."""
    if not requests.any():
        return None
    mean = float(np.average(means, weights=requests))
    cv = _variation(counts, mean=mean)
    if cv is None:
        return None
    moved = float(np.average((means / mean - 1.0) ** 2, weights=requests))
    return math.sqrt(max((1.0 + cv * cv) / (1.0 + moved) - 1.0, float(CVS[0]) ** 2))


def _variation(counts: Mapping[float, float], *, mean: float) -> float | None:
    """Return the coefficient of variation of the lengths of this *mean* that come nearest to the
    cumulated *counts* by upper bound, if they vary as the twin's do (twin.arrivals.token_counts):
    a first token that is certain, and the others lognormally.
    """
    total = counts.get(math.inf, 0.0)
    bounds = np.array(sorted(bound for bound in counts if 0.0 < bound < math.inf))
    if total < REQUESTS_MIN or len(bounds) < 3 or mean < MEAN_MIN:
        return None
    shares = np.array([counts[bound] for bound in bounds.tolist()]) / total
    if shares[-1] < WITHIN_MIN:
        return None
    rest = mean - 1.0
    sigmas = np.sqrt(np.log1p((CVS * mean / rest) ** 2))[:, None]
    # Lengths are whole: up to 2 is up to 2.5 before they were rounded.
    ends = np.maximum(bounds - 0.5, 1e-9)
    expected = ndtr((np.log(ends / rest) + 0.5 * sigmas**2) / sigmas)
    return float(CVS[np.argmin(((expected - shares) ** 2).sum(axis=1))])
