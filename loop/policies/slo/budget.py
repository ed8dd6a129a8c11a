"""What a budget buys: the option of each server that brings most, by what another dollar brings.
Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

EXACT = 1.0 + 1e-9  # two sums of prices this close are equal
FREE = 1e-9  # what costs no more brings most for its price


class Offer(Protocol):
    """What a server may have: *count* GPUs of a type, for a price."""

    @property
    def kind(self) -> str:
        """Return the type."""
        ...

    @property
    def count(self) -> int:
        """Return how many GPUs it holds."""
        ...

    @property
    def price(self) -> float:
        """Return what it costs [cents/h]."""
        ...


OfferT = TypeVar("OfferT", bound=Offer)


def bought(
    options: Mapping[str, Sequence[OfferT]],
    *,
    worth: Callable[[OfferT], float],
    capacity: Mapping[str, int],
    budget: float,
) -> dict[str, OfferT]:
    """Return an option of each server, nothing for some, that cost no more than *budget* and hold
    no more GPUs than the *capacity* of each type.

    Each server goes up its frontier, in the order of what a dollar brings: that is the best in the
    linear relaxation, but for the step that is too dear (Sinha and Zoltners, The multiple-choice
    knapsack problem, 1979). What is left buys the further steps that it pays for. So a little more
    load anywhere changes little of what the others have; the best choice in whole replicas, which
    brings at most that one step more if GPUs are ample, may change all of it.
    """
    taken: dict[str, OfferT] = {}
    left, money = dict(capacity), budget * EXACT

    def step(name: str, one: OfferT) -> None:
        nonlocal money
        last = taken.get(name)
        price = one.price - (last.price if last else 0.0)
        if worth(one) <= (worth(last) if last else 0.0) or price > money:
            return
        back = last.count if last and last.kind == one.kind else 0
        if one.count > left.get(one.kind, 0) + back:
            return
        if last:
            left[last.kind] += last.count
        left[one.kind] -= one.count
        money -= price
        taken[name] = one

    steps = [
        (brings, name, one)
        for name, own in options.items()
        for brings, one in _frontier(own, worth)
    ]
    for _, name, one in sorted(steps, key=lambda each: (-each[0], each[1])):
        step(name, one)
    rest = [
        ((worth(one) - (worth(taken[name]) if name in taken else 0.0)), name, one)
        for name, own in options.items()
        for one in own
    ]
    for gain, name, one in sorted(rest, key=lambda each: (-each[0], each[1])):
        if gain > 0.0:
            step(name, one)
    return taken


def _frontier(
    own: Sequence[OfferT], worth: Callable[[OfferT], float]
) -> list[tuple[float, OfferT]]:
    """Return the options of a server of which no mixture of two others brings more for the price,
    the cheapest first, each with what a dollar more brings.
    """
    found: list[tuple[float, OfferT]] = []
    for one in sorted(own, key=lambda one: (one.price, -worth(one))):
        while True:
            price, had = (found[-1][1].price, worth(found[-1][1])) if found else (0.0, 0.0)
            brings = (worth(one) - had) / max(one.price - price, FREE)
            if not found or brings <= found[-1][0] or brings <= 0.0:
                break
            found.pop()
        if brings > 0.0:
            found.append((brings, one))
    return found
