"""The ledger of GPUs: who holds how many of each type, and who waits for them, first
come first served.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from twin.spec import SpecError


class CapacityChange(NamedTuple):
    """From t_s on there are *total* GPUs of *type*."""

    t_s: float
    type: str
    total: int


class Claim:
    """A request for *gpus* of *type*; *granted* is called at the instant when they are handed
    over.
    """

    __slots__ = ("gpus", "granted", "type")

    def __init__(self, *, type: str, gpus: int, granted: Callable[[], None]) -> None:  # noqa: A002, the word for it here
        assert gpus > 0, f"{type}: a claim needs at least one GPU, got {gpus}"
        self.type = type
        self.gpus = gpus
        self.granted = granted


class Ledger:
    """GPUs per type. No claim is granted more than is free; a smaller total takes nothing away from
    holders.

    Claims of a type are served strictly in order: one that must wait holds up those behind it. Only
    a claim for more GPUs than exist at all is passed over, since it would hold them up for ever.
    """

    def __init__(self, capacity: Mapping[str, int]) -> None:
        self._total = dict(capacity)
        self._used = dict.fromkeys(capacity, 0)
        self._waiting: dict[str, list[Claim]] = {type_: [] for type_ in capacity}
        self.history = [CapacityChange(0.0, type_, total) for type_, total in capacity.items()]

    @property
    def types(self) -> tuple[str, ...]:
        """Return the types that there are."""
        return tuple(self._total)

    def total(self, type_: str) -> int:
        """Return how many GPUs of *type_* there are; none of an unknown type."""
        return self._total.get(type_, 0)

    def used(self, type_: str) -> int:
        """Return how many GPUs of *type_* are held."""
        return self._used.get(type_, 0)

    def free(self, type_: str) -> int:
        """Return how many GPUs of *type_* nobody holds; below zero after capacity fell below
        use.
        """
        return self.total(type_) - self.used(type_)

    @property
    def has_waiting(self) -> bool:
        """Tell whether any claim waits for its GPUs."""
        return any(self._waiting.values())

    def is_next(self, claim: Claim) -> bool:
        """Tell whether the next free GPUs would go to *claim*."""
        waiting = self._waiting.get(claim.type, ())
        return (
            next((other for other in waiting if other.gpus <= self.total(claim.type)), None)
            is claim
        )

    def ask(self, claim: Claim) -> None:
        """Queue *claim*, and grant it at once if its turn has come."""
        self._meet(claim.type)
        self._waiting[claim.type].append(claim)
        self._grant(claim.type)

    def put_first(self, claim: Claim) -> None:
        """Move a waiting *claim* to the head of its queue: its owner gives back GPUs for it."""
        waiting = self._waiting[claim.type]
        waiting.remove(claim)
        waiting.insert(0, claim)
        self._grant(claim.type)

    def withdraw(self, claim: Claim) -> None:
        """Forget a claim that still waits; those behind it may be granted."""
        self._waiting[claim.type].remove(claim)
        self._grant(claim.type)

    def give_back(self, claim: Claim) -> None:
        """Free the GPUs of a granted *claim*, and grant those who waited for them."""
        self._used[claim.type] -= claim.gpus
        assert self._used[claim.type] >= 0, f"{claim.type}: more GPUs given back than were held"
        self._grant(claim.type)

    def set_total(self, type_: str, gpus: int, *, now_s: float) -> None:
        """Make *gpus* of *type_* exist from now on."""
        if gpus < 0:
            raise SpecError(f"capacity of {type_}: expected GPUs >= 0, got {gpus}")
        self._meet(type_)
        self._total[type_] = gpus
        self.history.append(CapacityChange(now_s, type_, gpus))
        self._grant(type_)

    def _meet(self, type_: str) -> None:
        if type_ not in self._total:
            self._total[type_], self._used[type_], self._waiting[type_] = 0, 0, []

    def _grant(self, type_: str) -> None:
        for claim in tuple(self._waiting[type_]):
            if claim.gpus > self._total[type_]:
                continue
            if claim.gpus > self._total[type_] - self._used[type_]:
                return
            self._waiting[type_].remove(claim)
            self._used[type_] += claim.gpus
            claim.granted()
