"""A fixed piece of work, measured in CPU beside each benchmark: times in multiples of it can be
compared between machines and days.
"""

from __future__ import annotations

from time import process_time

ROUNDS = 7
STEPS = 60_000


def yardstick_s() -> float:
    """Return the CPU of the work [s], the least of some rounds."""
    times = []
    for _ in range(ROUNDS):
        begin_s = process_time()
        _work()
        times.append(process_time() - begin_s)
    return min(times)


def relative(value: float, unit: str, one_s: float) -> float:
    """Return *value* in multiples of a yardstick of *one_s* if it is a time or a speed; else as it
    is.
    """
    scale = {"s": 1.0 / one_s, "ms": 1e-3 / one_s, "us": 1e-6 / one_s, "requests/s": one_s}.get(
        unit, 1.0
    )
    return float(f"{value * scale:.4g}")


def _work() -> float:
    # What the loop and the twin do most: attributes, dictionaries, lists, floats; no numpy.
    table: dict[int, float] = {}
    queue: list[float] = []
    total = 0.0
    for step in range(STEPS):
        key = step * 7919 % 1009
        total += table.get(key, 0.5) * 1.0001
        table[key] = total % 10.0
        queue.append(total)
        if len(queue) > 64:
            queue = sorted(queue)[:32]
    return total
