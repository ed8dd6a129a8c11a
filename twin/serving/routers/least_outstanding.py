"""The replica with the fewest requests in flight."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np

from twin.engine.port import Engine
from twin.request import Request
from twin.serving.routers.port import Router


class LeastOutstanding(Router):
    """The one with the fewest requests in flight; of equals, the next in the round after the one
    chosen last.

    The counts are those of this instant: a replica is advanced if something ended on it before now,
    which changes nothing but when that is computed.
    """

    __slots__ = ("_round", "_start")

    def __init__(self, _rng: np.random.Generator) -> None:
        # The list of replicas twice, so that a slice begins anywhere without a modulo per replica.
        self._round: list[Engine] = []
        self._start = 0

    def add(self, replica: Engine) -> None:
        self._round = [*self._round[: len(self._round) // 2], replica] * 2

    def remove(self, index: int) -> None:
        left = self._round[: len(self._round) // 2]
        del left[index]
        self._round = left * 2
        # Those after it move up: without this, the next of the round would be passed over.
        self._start -= index < self._start

    def route(self, request: Request, replicas: Sequence[Engine], now_s: float) -> Engine:  # noqa: ARG002, all count alike
        count = len(replicas)
        if count == 1:
            return replicas[0]
        start = self._start if self._start < count else 0
        fewest = inf
        for replica in self._round[start : start + count]:
            # Asked before the call: mostly nothing ended since the last look.
            if replica.next_boundary_s < now_s:
                replica.advance(now_s, inclusive=False)
            outstanding = replica.outstanding
            if outstanding < fewest:
                fewest = outstanding
                chosen = replica
        self._start = replicas.index(chosen) + 1
        return chosen
