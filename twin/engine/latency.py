"""How long a replica takes: for one iteration, and for the many of a decode segment; pure
arithmetic, no state.

In a decode segment the first iteration takes c0_s and each further one c1_s more, because every
decode reads one token more. So k of them take T(k) = k·c0 + c1·k·(k-1)/2.
"""

from __future__ import annotations

from math import sqrt

from twin.spec import LatencyModel


def iteration_ms(latency_model: LatencyModel, *, tokens: int, kv_tokens: int) -> float:
    """Return the time of one iteration [ms] that computes *tokens* and reads *kv_tokens* of
    context.

    kv_tokens is summed over the scheduled requests, each with the context that it has after the
    iteration.
    """
    return (
        latency_model.alpha_ms + latency_model.beta_ms * tokens + latency_model.gamma_ms * kv_tokens
    )


def duration_s(k: int, c0_s: float, c1_s: float) -> float:
    """Return T(k), the time that the first *k* iterations take."""
    return k * c0_s + c1_s * (k * (k - 1) // 2)


def boundaries_before(now_s: float, *, start_s: float, c0_s: float, c1_s: float) -> int:
    """Return how many iterations of an endless segment that began at *start_s* end strictly before
    *now_s*.

    The root of T(k) = now - start is only a guess: the answer is settled by comparing absolute
    times, as the processing of the boundary does. Needs a positive iteration time.
    """
    d = now_s - start_s
    if d <= 0.0:
        return 0
    a = 0.5 * c1_s
    b = c0_s - a
    # 2d / (b + sqrt(b² + 4ad)) is the root in the form that stays exact as a tends to 0.
    k = int(2.0 * d / (b + sqrt(b * b + 4.0 * a * d)))
    while start_s + ((k + 1) * c0_s + c1_s * (k * (k + 1) // 2)) < now_s:
        k += 1
    while k > 0 and start_s + (k * c0_s + c1_s * (k * (k - 1) // 2)) >= now_s:
        k -= 1
    return k
