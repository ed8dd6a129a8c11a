"""PodDisruptionBudgets: how many pods of a Deployment people want to be available; no I/O.

Kubernetes heeds them where pods are evicted, and not where a Deployment is to have fewer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from loop.backends.kube.read import Deployment, as_text, each_read
from loop.backends.kube.scheduling import selects
from twin.magnitudes import REPLICAS_MAX

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A PodDisruptionBudget that wants so many of the pods that it selects, whatever their number
    is.
    """

    namespace: str
    name: str
    selector: Json
    least: int


def read_budgets(objects: Iterable[Json], *, told: list[str]) -> list[Budget]:
    """Return those of *objects* that name a number of pods; shares and what may be missing are of
    the replicas that there are.
    """
    found = each_read(objects, _budget, kind="PodDisruptionBudget", told=told)
    return [one for one in found if one is not None]


def _budget(obj: Json) -> Budget | None:
    meta, spec = obj["metadata"], obj["spec"]
    least, selector = spec.get("minAvailable"), spec.get("selector")
    if not isinstance(least, int) or not 0 < least <= REPLICAS_MAX or selector is None:
        return None
    selects(selector, {})
    return Budget(
        namespace=as_text(meta["namespace"]),
        name=as_text(meta["name"]),
        selector=selector,
        least=least,
    )


def strictest(deployment: Deployment, budgets: Iterable[Budget]) -> Budget | None:
    """Return the budget that wants most pods of *deployment*; None if there is none, or the
    annotation of its minimum says otherwise.
    """
    if deployment.bounds.replicas_min is not None:
        return None
    of_it = (
        one
        for one in budgets
        if one.namespace == deployment.namespace
        # An empty selector selects all pods of its namespace here.
        and (not one.selector or selects(one.selector, deployment.pod_labels))
    )
    return max(of_it, key=lambda one: one.least, default=None)


def budget_note(server: str, budget: Budget) -> str:
    """Return what is to be told of a *budget* that holds back reductions of *server*."""
    return (
        f"{server}: not reduced below {budget.least} replicas, as PodDisruptionBudget "
        f"{budget.namespace}/{budget.name} wants them to be available"
    )
