"""The GPUs that containers ask for: which resources are GPUs, and whose they are; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twin.magnitudes import whole

Json = Mapping[str, Any]

# The resources that are GPUs.
GPU_RESOURCES = (
    "nvidia.com/gpu",
    "amd.com/gpu",
    "habana.ai/gaudi",
    "gpu.intel.com/i915",
    "gpu.intel.com/xe",
    "ibm.com/aiu_pf",
    "google.com/tpu",
    "aws.amazon.com/neuron",
    "huawei.com/Ascend910",
)
# Slices of a GPU (AMD's are named by their partitions), and shares of one that the device plugin
# gives a name of its own.
_PART = re.compile(r"nvidia\.com/(?:mig-.+|gpu\.shared)|amd\.com/[a-z]{3}_nps\d+")


def is_gpu(resource: str) -> bool:
    """Tell whether a *resource* is GPUs, or parts of them."""
    return resource in GPU_RESOURCES or _PART.fullmatch(resource) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLimit:
    """The GPUs of one container."""

    container: str
    resource: str
    count: int


def side_by_side(pod_spec: Json) -> list[Json]:
    """Return the containers that run all the time in a pod of *pod_spec*: its containers, and init
    containers that go on beside them (sidecars).
    """
    sidecars = [
        one for one in pod_spec.get("initContainers") or () if one.get("restartPolicy") == "Always"
    ]
    return [*(pod_spec.get("containers") or ()), *sidecars]


def gpu_limits(containers: Sequence[Json]) -> list[GpuLimit]:
    """Return the GPUs of each of *containers* that has any."""
    return [
        GpuLimit(container=str(one.get("name") or ""), resource=resource, count=number)
        for one in containers
        for resource, quantity in limits_of(one).items()
        if is_gpu(resource) and (number := count(quantity)) > 0
    ]


def engine_containers(containers: Sequence[Json]) -> frozenset[str]:
    """Return the names of those of *containers* that have GPUs, or claim devices (DRA): each runs
    an engine.
    """
    claiming = (one for one in containers if (one.get("resources") or {}).get("claims"))
    return frozenset(
        (
            *(limit.container for limit in gpu_limits(containers)),
            *(str(one.get("name") or "") for one in claiming),
        )
    )


def gpu_limit(containers: Sequence[Json], *, container: str = "") -> GpuLimit | None:
    """Return the GPUs of the container that has the most of them; None if none has any.

    *container*: look at this one only, if it has GPUs.
    """
    found = gpu_limits(containers)
    named = [one for one in found if one.container == container]
    return max(named or found, key=lambda one: one.count, default=None)


def limits_of(container: Json) -> Json:
    """Return the resources that *container* may have: an extended one is as much as it requests."""
    resources = container.get("resources") or {}
    limits: Json = resources.get("limits") or resources.get("requests") or {}
    return limits


def count(quantity: object) -> int:
    """Return a count of GPUs; a quantity that is none (GPUs have no fractions) counts for
    nothing.
    """
    return whole(str(quantity)) or 0
