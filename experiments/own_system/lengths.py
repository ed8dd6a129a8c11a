"""How token counts vary about their means, from the buckets of an engine's histograms. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
from scipy.special import ndtr

from emulator.rates import Rates
from loop.signals.history import Floats

# Both kinds of lengths, under vLLM's names and those that have lost their colon.
PROMPTS = ("vllm:request_prompt_tokens_bucket", "vllm_request_prompt_tokens_bucket")
ANSWERS = ("vllm:request_generation_tokens_bucket", "vllm_request_generation_tokens_bucket")
CVS = np.geomspace(0.05, 3.0, 120)
REQUESTS_MIN = 200.0
# Of the requests: so many must lie between two bounds, or the bounds tell nothing of how they vary.
WITHIN_MIN = 0.9

Bucket = tuple[Mapping[str, str], float]


def variation_of(buckets: Iterable[Bucket], rates: Rates) -> float | None:
    """Return the coefficient of variation of both kinds of tokens about their means of the hour, by
    the labels and values of the *buckets* of all pods; None if they do not tell it.

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
    """Return the coefficient of variation of the lognormal distribution of this *mean* that comes
    nearest to the cumulated *counts* by upper bound.
    """
    total = counts.get(math.inf, 0.0)
    bounds = np.array(sorted(bound for bound in counts if 0.0 < bound < math.inf))
    if total < REQUESTS_MIN or len(bounds) < 3 or mean <= 1.0:
        return None
    shares = np.array([counts[bound] for bound in bounds.tolist()]) / total
    if shares[-1] < WITHIN_MIN:
        return None
    sigmas = np.sqrt(np.log1p(CVS**2))[:, None]
    expected = ndtr((np.log(bounds / mean) + 0.5 * sigmas**2) / sigmas)
    return float(CVS[np.argmin(((expected - shares) ** 2).sum(axis=1))])
