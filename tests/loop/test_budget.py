"""What a budget buys: nearly the best that brute force finds, and never more than there is."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
import pytest

from loop.policies.slo.budget import bought


class Offer(NamedTuple):
    """An option of a server."""

    kind: str
    count: int
    price: float
    worth: float


def worth(one: Offer) -> float:
    """Return what it brings."""
    return one.worth


def offers(rng: np.random.Generator) -> dict[str, list[Offer]]:
    """Return five options of each of four servers."""
    return {
        f"s{server}": [
            Offer(
                kind=str(rng.choice(["A100", "H100"])),
                count=int(rng.integers(1, 5)),
                price=float(rng.integers(1, 9)) * 100.0,
                worth=float(rng.uniform(-50.0, 900.0)),
            )
            for _ in range(5)
        ]
        for server in range(4)
    }


@pytest.mark.parametrize("ample", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_a_budget_buys_the_best_but_for_one_step(seed: int, ample: bool) -> None:
    """Where GPUs are short, too, nobody promises how near it comes."""
    rng = np.random.default_rng(seed)
    options, budget = offers(rng), float(rng.integers(4, 16)) * 100.0
    capacity = dict.fromkeys(("A100", "H100"), 99 if ample else 5)
    taken = bought(options, worth=worth, capacity=capacity, budget=budget)
    assert sum(one.price for one in taken.values()) <= budget
    for kind, count in capacity.items():
        assert sum(one.count for one in taken.values() if one.kind == kind) <= count
    assert all(one in options[name] and one.worth > 0.0 for name, one in taken.items())
    if ample:
        best = max(
            sum(one.worth for one in choice if one)
            for choice in product(*([None, *own] for own in options.values()))
            if sum(one.price for one in choice if one) <= budget
        )
        most = max(one.worth for own in options.values() for one in own)
        assert sum(one.worth for one in taken.values()) >= best - most


def test_what_costs_nothing_is_had_and_a_budget_is_spent_to_the_cent() -> None:
    """Sums of prices are not exact: three times 0.1 is more than 0.3."""
    options = {
        "dear": [Offer("H100", n, 0.1 * n, 10.0 * n) for n in (1, 2, 3)],
        "gift": [Offer("H100", 1, 0.0, 1.0)],
    }
    taken = bought(options, worth=worth, capacity={"H100": 9}, budget=0.3)
    assert {name: one.count for name, one in taken.items()} == {"dear": 3, "gift": 1}
    nothing = bought(options, worth=worth, capacity={"H100": 9}, budget=0.0)
    assert list(nothing) == ["gift"]
