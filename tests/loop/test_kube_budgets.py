"""PodDisruptionBudgets: which count for a Deployment, and how many pods they want."""

from __future__ import annotations

import pytest

from loop.backends.kube import labels as names
from loop.backends.kube.budgets import budget_note, read_budgets, strictest
from tests.loop.kube_objects import Json, read


def budget(name: str = "pdb", *, namespace: str = "infer", **spec: object) -> Json:
    """Return a PodDisruptionBudget."""
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


MINE = {"matchLabels": {"app": "dep1"}}


@pytest.mark.parametrize(
    "other",
    [
        budget(minAvailable="50%", selector=MINE),
        budget(maxUnavailable=1, selector=MINE),
        budget(minAvailable=9, selector={"matchLabels": {"app": "dep2"}}),
        budget(minAvailable=9, selector=None),
        budget(minAvailable=9),
        budget(minAvailable=9, selector=MINE, namespace="prod"),
        budget(minAvailable=0, selector=MINE),
        budget(minAvailable=10**12, selector=MINE),
    ],
)
def test_the_one_that_wants_most_pods_counts(other: Json) -> None:
    """Shares are of the replicas that there are, and say nothing of how many these should be."""
    all_of_the_namespace = budget("all", minAvailable=2, selector={})
    mine = budget("mine", minAvailable=3, selector=MINE)
    found = read_budgets([other, all_of_the_namespace, mine, {"metadata": {}}], told=(told := []))
    assert len(told) == 1
    most = strictest(read(), found)
    assert most is not None
    assert (most.name, most.least) == ("mine", 3)
    assert "not reduced below 3 replicas" in budget_note("s1", most)
    assert strictest(read(annotations={names.REPLICAS_MIN: "1"}), found) is None
    assert strictest(read(), read_budgets([other], told=[])) is None
