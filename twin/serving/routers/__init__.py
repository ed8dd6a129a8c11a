"""How a server spreads requests over its ready replicas: one file a router, and the names of
all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from twin.registry import resolve
from twin.serving.routers.least_outstanding import LeastOutstanding
from twin.serving.routers.port import Router
from twin.serving.routers.prefix_aware import PrefixAware
from twin.serving.routers.random import RandomChoice
from twin.serving.routers.round_robin import RoundRobin

__all__ = [
    "ROUTERS",
    "LeastOutstanding",
    "PrefixAware",
    "RandomChoice",
    "RoundRobin",
    "Router",
    "RouterFactory",
    "make_router",
]

RouterFactory = Callable[[np.random.Generator], Router]
"""Makes a router without replicas; all its chance comes from the generator."""

ROUTERS: Mapping[str, RouterFactory] = {
    "round_robin": RoundRobin,
    "random": RandomChoice,
    "least_outstanding": LeastOutstanding,
    "prefix_aware": PrefixAware,
}


def make_router(given: str | RouterFactory, rng: np.random.Generator) -> Router:
    """Return a router of the kind *given*. Raise SpecError for an unknown name."""
    return resolve(given, kind="router", known=ROUTERS)(rng)
