"""How long a replica takes: for one iteration, and for the many of a decode segment; pure
arithmetic, no state.

In a decode segment the first iteration takes c0_s and each further one c1_s more, because every
decode reads what the one before added, too. So k of them take T(k) = k·c0 + c1·k·(k-1)/2. It is
exact for the sum; for the soft roofline it is the chord between the first and the last iteration,
of segments that are not longer than CHORD_MAX.
"""

from __future__ import annotations

from math import sqrt

from twin.spec import LatencyModel

# The chord is furthest off where many short requests decode: 242 of them with a context of one
# token are 0.3 % off over some 380 iterations. Its error falls with the square of their number.
CHORD_MAX = 256


def iteration_ms(
    latency_model: LatencyModel,
    *,
    tokens: float,
    kv_tokens: float,
    sequences: int = 0,
    pairs: float = 0.0,
) -> float:
    """Return the time of one iteration of *sequences* requests [ms] that computes *tokens* and
    reads *kv_tokens* of context.

    kv_tokens is summed over the scheduled requests, each with the context that it has after the
    iteration; pairs over those that prefill, of each new token with each before it (pairs_twice).
    """
    compute = latency_model.beta_ms * (tokens + latency_model.attention * pairs)
    saved = 0.0
    if latency_model.experts_ms:
        saved = latency_model.experts_ms * latency_model.experts_idle**tokens
    host = latency_model.sequence_ms * sequences
    if latency_model.p == 1.0:
        return latency_model.alpha_ms - saved + compute + latency_model.gamma_ms * kv_tokens + host
    p = latency_model.p
    read = latency_model.weights_ms - saved + latency_model.gamma_ms * kv_tokens
    larger, smaller = (read, compute) if read > compute else (compute, read)
    if not larger:
        return latency_model.launch_ms + host
    # The larger of the two taken out: no power of it can overflow or vanish.
    overlapped: float = larger * (1.0 + (smaller / larger) ** p) ** (1.0 / p)
    return latency_model.launch_ms + overlapped + host


def pairs_twice(before: int, chunk: int) -> int:
    """Return twice the pairs of *chunk* tokens of a prompt with the tokens before each, of which
    *before* had been computed already.
    """
    return chunk * (2 * before + chunk)


def segment_s(
    latency_model: LatencyModel, *, tokens: float, kv_tokens: float, sequences: int = 0, k: int
) -> tuple[float, float]:
    """Return c0 and c1 of a segment of *k* iterations of *sequences* requests that compute so many
    *tokens* each, the first of which reads *kv_tokens* of context; each reads the tokens of the one
    before, too.
    """
    first_ms = iteration_ms(latency_model, tokens=tokens, kv_tokens=kv_tokens, sequences=sequences)
    if latency_model.p == 1.0:
        return first_ms / 1000.0, latency_model.gamma_ms * tokens / 1000.0
    if k == 1:
        return first_ms / 1000.0, 0.0
    last_kv = kv_tokens + (k - 1) * tokens
    last_ms = iteration_ms(latency_model, tokens=tokens, kv_tokens=last_kv, sequences=sequences)
    return first_ms / 1000.0, (last_ms - first_ms) / (k - 1) / 1000.0


def duration_s(k: int, c0_s: float, c1_s: float) -> float:
    """Return T(k), the time that the first *k* iterations take."""
    return k * c0_s + c1_s * (k * (k - 1) // 2)


def boundaries_before(now_s: float, start_s: float, c0_s: float, c1_s: float) -> int:
    """Return how many iterations of an endless segment that began at *start_s* end strictly before
    *now_s*.

    The root of T(k) = now - start is only a guess: the answer is settled by comparing absolute
    times, as the processing of the boundary does. Needs a positive iteration time.
    """
    # Before the first boundary the root is the difference of nearly equal numbers, or 0 over 0.
    if start_s + c0_s >= now_s:
        return 0
    d = now_s - start_s
    a = 0.5 * c1_s
    b = c0_s - a
    # 2d / (b + sqrt(b² + 4ad)) is the root in the form that stays exact as a tends to 0.
    k = int(2.0 * d / (b + sqrt(b * b + 4.0 * a * d)))
    while start_s + ((k + 1) * c0_s + c1_s * (k * (k + 1) // 2)) < now_s:
        k += 1
    while k > 0 and start_s + (k * c0_s + c1_s * (k * (k - 1) // 2)) >= now_s:
        k -= 1
    return k
