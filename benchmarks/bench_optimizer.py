"""CPU time of the optimizer: the frozen large system, and synthetic ones of 100 to 10,000 servers;
caches are cold unless said.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.systems import synthetic_system
from loop.optimizer.front import OptimizerSettings, SizingCache, Solution, optimize
from loop.optimizer.rules.ours import OURS
from loop.optimizer.solvers.deadline import TimeLimit
from loop.schema.reading import read_system
from loop.spec import Allocation, SystemData

LARGE = Path(__file__).resolve().parent / "data" / "large"
GREEDY = OptimizerSettings(rules=OURS, solver="greedy")
EXACT = OptimizerSettings(rules=OURS)
PROVEN = OptimizerSettings(rules=OURS, time_limit=TimeLimit(60.0, time.process_time))
SHARES = (0.5, 0.8, 1.0, 1.2)  # capacity as a share of what is needed, from scarce to enough


def figures() -> Iterator[dict[str, Any]]:
    """Yield the figures of the optimizer, each the least CPU time of some rounds after a
    warm-up.
    """
    large = read_system(LARGE)
    yield figure(
        "optimize_large_greedy_ms",
        1e3 * least(lambda k: optimize(shaken(large, k), GREEDY), rounds=40),
        "ms",
    )
    yield figure(
        "optimize_large_exact_ms",
        1e3 * least(lambda k: optimize(shaken(large, k), EXACT), rounds=20),
        "ms",
    )
    cache = SizingCache()
    cached = 1e3 * least(lambda _: optimize(large, GREEDY, cache=cache), rounds=20)
    yield figure("optimize_large_greedy_cached_ms", cached, "ms")
    yield figure("optimize_large_again_ms", 1e3 * again_s(large), "ms")
    yield figure("optimize_large_moved_ratio", moved_ratio(large), "ratio")
    scarce = [synthetic_system(servers=100, share=share, seed=1) for share in SHARES]
    yield figure("optimize_100_scarce_exact_s", worst(scarce, PROVEN, optimal=True), "s")
    hundred = worst(scarce, GREEDY)
    yield figure("optimize_100_greedy_s", hundred, "s")
    thousand = [synthetic_system(servers=1000, share=share, seed=1) for share in SHARES]
    greedy = worst(thousand, GREEDY)
    yield figure("optimize_1000_greedy_s", greedy, "s")
    yield figure("optimize_1000_exact_s", worst(thousand, EXACT), "s")
    yield figure(
        "optimize_1000_exact_gap",
        max(optimize(data, EXACT).gap or 0.0 for data in thousand),
        "share",
    )
    spent_s, gaps = ten_thousand()
    yield figure("optimize_10000_exact_cpu_s", spent_s, "s")
    yield figure("optimize_10000_exact_gap", max(gaps), "share")
    # Time per server of 1000 over that of 100: 1 is linear.
    yield figure("optimize_growth", greedy / hundred / 10.0, "ratio")


def again_s(data: SystemData, *, calls: int = 200) -> float:
    """Return the CPU time of the answer to an input that was answered before [s]; each is a copy,
    as a loop makes one every cycle.
    """
    cache = SizingCache()
    optimize(data, EXACT, cache=cache)
    copies = [
        replace(data, servers={name: replace(one) for name, one in data.servers.items()})
        for _ in range(calls)
    ]
    start = time.process_time()
    for copy in copies:
        optimize(copy, EXACT, cache=cache)
    return (time.process_time() - start) / calls


def moved_ratio(data: SystemData, *, rounds: int = 12) -> float:
    """Return the CPU time of an optimization with rates within ± 5 % of those of one before, of
    that of a cold one.
    """
    rng, cache = np.random.default_rng(1), SizingCache()
    optimize(data, EXACT, cache=cache)
    cold: list[float] = []
    warm: list[float] = []
    for _ in range(rounds):
        servers = {}
        for name, server in data.servers.items():
            load = server.current.load
            assert load is not None
            load = replace(load, rate_rpm=load.rate_rpm * rng.uniform(0.95, 1.05))
            servers[name] = replace(server, current=replace(server.current, load=load))
        moved = replace(data, servers=servers)
        for spent, known in ((cold, SizingCache()), (warm, cache)):
            start = time.process_time()
            optimize(moved, EXACT, cache=known)
            spent.append(time.process_time() - start)
    return min(warm) / min(cold)


def ten_thousand() -> tuple[float, list[float]]:
    """Return the longest CPU time of 10,000 servers, with half of the GPUs that they need and with
    just enough [s], and the gaps.
    """
    longest, gaps = 0.0, []
    for share in (SHARES[0], SHARES[2]):
        data = synthetic_system(servers=10_000, share=share, seed=1)
        gc.collect()
        start = time.process_time()
        found = optimize(data, EXACT)
        longest = max(longest, time.process_time() - start)
        assert found.gap is not None
        gaps.append(found.gap)
    return longest, gaps


def figure(name: str, value: float, unit: str) -> dict[str, Any]:
    """Return one figure as it is printed."""
    return {"name": name, "value": round(value, 6), "unit": unit}


def shaken(data: SystemData, k: int) -> SystemData:
    """Return *data* with loads that no round before had, so that nothing can be looked up."""
    servers = {}
    for name, server in data.servers.items():
        load = server.current.load
        assert load is not None
        moved = replace(
            load, rate_rpm=load.rate_rpm * (1.0 + 1e-3 * k), in_tokens=load.in_tokens + 0.01 * k
        )
        servers[name] = replace(server, current=Allocation(load=moved))
    return replace(data, servers=servers)


def least(run: Callable[[int], Solution], *, rounds: int) -> float:
    """Return the least CPU time of *rounds* calls of run(round) [s]; the first two warm up."""
    found = []
    gc.collect()
    for k in range(rounds + 2):
        start = time.process_time()
        run(k)
        found.append(time.process_time() - start)
    return min(found[2:])


def worst(
    systems: list[SystemData], settings: OptimizerSettings, *, optimal: bool = False
) -> float:
    """Return the longest CPU time over *systems*, of the least of three rounds each [s]; optimal:
    all must be.
    """
    longest = 0.0
    for data in systems:
        longest = max(longest, least(lambda _, data=data: optimize(data, settings), rounds=3))  # type: ignore[misc] # a default
        assert not optimal or optimize(data, settings).optimal
    return longest
