"""One replica after the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from twin.engine.compiled.columns import ROUND_ROBIN
from twin.engine.compiled.visit import NO_DRAWS
from twin.engine.port import Engine
from twin.request import Request
from twin.serving.routers.port import Plan, Router


class RoundRobin(Router):
    """Takes turns. A replica that leaves is skipped without a jump in the round."""

    __slots__ = ("_turn",)

    def __init__(self, _rng: np.random.Generator) -> None:
        self._turn = 0

    def remove(self, index: int) -> None:
        # Those after it move up: without this, the one whose turn it is would be passed over.
        self._turn -= index < self._turn

    def plan(self, requests: int) -> Plan | None:  # noqa: ARG002, turns need nothing drawn
        return ROUND_ROBIN, self._turn, NO_DRAWS

    def resume(self, turn: int) -> None:
        self._turn = turn

    def route(self, request: Request, replicas: Sequence[Engine], now_s: float) -> Engine:  # noqa: ARG002, turns need neither
        if self._turn >= len(replicas):
            self._turn = 0
        self._turn += 1
        return replicas[self._turn - 1]
