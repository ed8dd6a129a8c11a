"""What the pods of a run held, and what that cost: integrals of units over the scored window.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.columns import Columns, Floats, Window
from twin.spec import Accelerator

PRICE = "usd_per_h"  # a column of pods


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Integrals over the scored window: cents by server, hours of GPUs by accelerator type."""

    cents_by_server: Mapping[str, float]
    gpu_hours_by_type: Mapping[str, float]
    hours: float

    @property
    def cents(self) -> float:
        """Return the cost of all servers [cents]."""
        return sum(self.cents_by_server.values())

    def summary(self) -> dict[str, Any]:
        """Return the overall figures of a run's summary."""
        return {
            "cost_cents": self.cents,
            "cost_cents_per_h": self.cents / self.hours,
            "cost_usd_per_h": self.cents / self.hours / 100.0,
            "accelerator_hours": sum(self.gpu_hours_by_type.values()),
            "accelerator_hours_by_type": dict(self.gpu_hours_by_type),
        }


def held_s(pods: Columns, window: Window) -> Floats:
    """Return how long each pod held its units within *window* [s].

    From the instant it got them until it gave them back (NaN: not yet), so starting, draining and
    both sides of a rolling change count; a pending pod (never granted: NaN) holds nothing.
    """
    granted_s = np.maximum(pods["granted_s"], window.start_s)
    released_s = np.minimum(
        np.where(np.isnan(pods["released_s"]), np.inf, pods["released_s"]), window.end_s
    )
    held: Floats = np.where(
        np.isnan(pods["granted_s"]), 0.0, np.maximum(released_s - granted_s, 0.0)
    )
    return held


def pod_costs(
    pods: Columns, *, names: Sequence[str], accelerators: Mapping[str, Accelerator], window: Window
) -> Costs:
    """Integrate what *pods* held × accelerator cost × accelerators per replica, clipped to
    *window*.

    Pods give server (index in *names*), accelerator (name) and GPUs (of its type); the price of a
    pod is that of its GPUs, since an accelerator's cost is for its whole multiplicity.
    """
    hours = held_s(pods, window) / 3600.0
    cents = dict.fromkeys(names, 0.0)
    gpu_hours: dict[str, float] = {}
    for accelerator_name in sorted(set(pods["accelerator"].tolist())):
        accelerator = accelerators[accelerator_name]
        here = pods["accelerator"] == accelerator_name
        gpus = pods["gpus"] * here * hours
        gpu_hours[accelerator.type] = gpu_hours.get(accelerator.type, 0.0) + float(gpus.sum())
        per_gpu_h = accelerator.cost_cents_per_h / accelerator.multiplicity
        by_server = np.bincount(pods["server"], weights=gpus * per_gpu_h, minlength=len(names))
        for index, name in enumerate(names):
            cents[name] += float(by_server[index])
    return Costs(cents_by_server=cents, gpu_hours_by_type=gpu_hours, hours=window.hours)


def prices_usd_per_h(pods: Columns, accelerators: Mapping[str, Accelerator]) -> Floats:
    """Return what each pod costs while it holds its GPUs [$/h], see `pod_costs`."""
    per_gpu = {
        name: one.cost_cents_per_h / one.multiplicity / 100.0 for name, one in accelerators.items()
    }
    names = pods["accelerator"].tolist()
    found: Floats = pods["gpus"] * np.array([per_gpu[name] for name in names], dtype=np.float64)
    return found
