"""What replicas cost and how many GPUs they hold, by the data of the loop; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loop.spec import SystemData


def cost_cents_per_h(
    data: SystemData, *, model: str, accelerator: str, replicas: int
) -> float | None:
    """Return the price of *replicas* of *model* on *accelerator*; None if the data do not know
    it.
    """
    if replicas == 0 or not accelerator:
        return 0.0
    unit = data.accelerators.get(accelerator)
    perf = data.perf.get((model, accelerator))
    if unit is None or perf is None:
        return None
    return unit.cost_cents_per_h * perf.acc_count * replicas


def gpus_per_replica(data: SystemData) -> dict[tuple[str, str], int]:
    """Return the GPUs of a replica by (model, accelerator), as far as the data know."""
    return {
        (model, name): data.accelerators[name].multiplicity * perf.acc_count
        for (model, name), perf in data.perf.items()
        if name in data.accelerators
    }


def gpus(
    data: SystemData, *, model: str, accelerator: str, replicas: int
) -> tuple[str, int] | None:
    """Return the accelerator type and how many of its GPUs *replicas* hold; None if the data do
    not know it.
    """
    unit = data.accelerators.get(accelerator)
    perf = data.perf.get((model, accelerator))
    if unit is None or perf is None:
        return None
    return unit.type, unit.multiplicity * perf.acc_count * replicas
