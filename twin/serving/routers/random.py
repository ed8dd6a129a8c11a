"""Any replica, with the same chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from twin.engine.compiled.columns import RANDOM
from twin.engine.port import Engine
from twin.request import Request
from twin.serving.routers.port import Plan, Router

_DRAWS = 1024


class RandomChoice(Router):
    """Each replica has the same chance, whatever went before."""

    __slots__ = ("_draws", "_rng")

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._draws: list[float] = []

    def plan(self, requests: int) -> Plan | None:
        drawn: list[float] = []
        while (missing := requests - len(drawn)) > 0:
            self._draw()
            drawn += self._draws[: -missing - 1 : -1]
            del self._draws[-missing:]
        return RANDOM, 0, np.array(drawn)

    def _draw(self) -> None:
        if not self._draws:
            # A block at a time: one draw of numpy costs more than the rest of the routing together.
            self._draws = self._rng.random(_DRAWS).tolist()

    def route(self, request: Request, replicas: Sequence[Engine], now_s: float) -> Engine:  # noqa: ARG002, chance needs neither
        self._draw()
        return replicas[int(self._draws.pop() * len(replicas))]
