"""Synthetic systems of any size, for benchmarks and tests of the optimizer: latency models, loads
and prices by seed.
"""

from __future__ import annotations

import numpy as np

from loop.spec import (
    Allocation,
    OptimizerData,
    Perf,
    ServerData,
    ServiceClass,
    SloTarget,
    SystemData,
)
from loop.types import Load
from twin.spec import Accelerator

# name, GPUs per unit, price of a GPU [cents/h], speed relative to the first
TYPES = (
    ("A100", 40.0, 1.0),
    ("H100", 75.0, 1.7),
    ("MI210", 26.0, 0.57),
    ("MI250", 46.0, 1.1),
    ("MI300X", 65.0, 1.6),
    ("L40S", 32.0, 0.5),
    ("G2", 23.0, 0.85),
)
MULTIPLICITIES = (1, 2, 4)
MODELS = tuple((f"model_{size}b", size) for size in (3, 7, 8, 13, 14, 20, 34, 47, 70))
CLASSES = (("Premium", 1, 24.0, 500.0), ("Bronze", 2, 60.0, 2000.0), ("Free", 3, 120.0, 4000.0))


def synthetic_system(
    *, servers: int, share: float, seed: int, unlimited: bool = False
) -> SystemData:
    """Return a system of 21 accelerators (7 types of 1, 2 and 4 GPUs) and *servers* servers.

    share: capacity of each type as a share of what the servers would need of it if each type served
    an equal part of them (a rough demand: 1 is just about enough). Every load differs, so that
    nothing can be looked up twice.
    """
    rng = np.random.default_rng(seed)
    accelerators = {accelerator.name: accelerator for accelerator in _accelerators()}
    perf = _perf(accelerators, rng)
    classes = {
        name: ServiceClass(
            name=name,
            priority=priority,
            targets={
                model: SloTarget(
                    model=model, slo_itl_ms=itl * (0.5 + size / 30.0), slo_ttft_ms=ttft
                )
                for model, size in MODELS
            },
        )
        for name, priority, itl, ttft in CLASSES
    }
    found = [_server(i, rng) for i in range(servers)]
    rough = {kind: 0.0 for kind, _, _ in TYPES}
    for server in found:
        assert server.current.load is not None
        latency_model = perf[server.model, "A100"]
        tokens_per_ms = 24.0 / (latency_model.alpha_ms + 24.0 * latency_model.beta_ms)
        busy = (
            server.current.load.rate_rpm / 60_000.0 * server.current.load.out_tokens / tokens_per_ms
        )
        for kind, _, speed in TYPES:
            rough[kind] += max(busy / speed, 1.0) * latency_model.acc_count / len(TYPES)
    return SystemData(
        accelerators=accelerators,
        perf=perf,
        classes=classes,
        servers={server.name: server for server in found},
        optimizer=OptimizerData(unlimited=unlimited),
        capacity={kind: int(share * gpus) + 1 for kind, gpus in rough.items()},
    )


def _accelerators() -> list[Accelerator]:
    # More GPUs in one unit are a little cheaper each, so that no size of unit is always the wrong
    # one.
    return [
        Accelerator(
            name=kind if gpus == 1 else f"{gpus}x{kind}",
            type=kind,
            multiplicity=gpus,
            cost_cents_per_h=price * gpus**0.95,
        )
        for kind, price, _ in TYPES
        for gpus in MULTIPLICITIES
    ]


def _perf(
    accelerators: dict[str, Accelerator], rng: np.random.Generator
) -> dict[tuple[str, str], Perf]:
    speeds = {kind: speed for kind, _, speed in TYPES}
    rows = {}
    for model, size in MODELS:
        for name, unit in accelerators.items():
            # Some models gain more than their share from more GPUs, others less.
            speed = (
                speeds[unit.type]
                * unit.multiplicity ** rng.uniform(0.7, 1.3)
                * rng.uniform(0.9, 1.1)
            )
            alpha = (3.0 + 0.9 * size) / speed
            rows[model, name] = Perf(
                model=model,
                accelerator=name,
                acc_count=1 + (size > 30 and unit.multiplicity < 4),
                max_batch=int(np.clip(400 * unit.multiplicity / size, 4, 64)),
                at_tokens=512,
                alpha_ms=alpha,
                beta_ms=alpha / 300.0,
                gamma_ms=alpha / 300.0 / 512.0,
            )
    return rows


def _server(i: int, rng: np.random.Generator) -> ServerData:
    model, size = MODELS[int(rng.integers(len(MODELS)))]
    name, *_ = CLASSES[int(rng.integers(len(CLASSES)))]
    load = Load(
        rate_rpm=float(rng.lognormal(6.5, 1.0)) * 8.0 / (4.0 + size),
        in_tokens=float(rng.integers(64, 2048)),
        out_tokens=float(rng.integers(128, 1024)),
    )
    return ServerData(
        name=f"server-{i:04d}", model=model, service_class=name, current=Allocation(load=load)
    )
