"""How much work requests are, by their tokens: the longer prompts and answers are, the more
replicas as many requests need. Pure but for the optimizer that is asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loop.replacing import replace
from loop.spec import TOKEN_CV, OptimizerData
from loop.types import Load

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loop.optimizer.rules import OptimizerSettings
    from loop.policies.ask import Optimize
    from loop.spec import ServerData, SystemData

LONGER = 1.25  # the optimizer is asked about tokens so many times as many
POWER_MAX = 2.0  # of tokens, by which the work of a request grows
FAR = 0.15  # the logarithm by which mean tokens may leave those of the unit
# Of what tokens are off their mean, so much is left when pods that are asked for now are ready.
LEFT = 0.7
FEW = 8.0  # the mean of so many requests says half of that
TIMES_MAX = 5.0  # as much as the unit, or as little, a request may be


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """The request that work is counted in: its mean tokens, and the powers of the tokens of prompts
    and of answers by which the work of a request grows on *accelerator*.
    """

    accelerator: str
    in_tokens: float
    out_tokens: float
    in_power: float = 0.0
    out_power: float = 0.0

    @property
    def chance(self) -> float:
        """Return the variance of work that is counted, as a multiple of that of requests."""
        powers = self.in_power**2 + self.out_power**2
        return 1.0 + (LEFT * TOKEN_CV) ** 2 * powers

    def near(self, accelerator: str, in_tokens: float, out_tokens: float) -> bool:
        """Return whether it still stands for requests of such mean tokens on *accelerator*."""
        return accelerator == self.accelerator and all(
            abs(math.log(max(now, 1.0) / max(then, 1.0))) <= FAR
            for now, then in ((in_tokens, self.in_tokens), (out_tokens, self.out_tokens))
        )

    def times(self, in_tokens: float, out_tokens: float, *, count: float = math.inf) -> float:
        """Return how many times as much work requests will be whose mean tokens, of *count* of
        them, are these now.
        """
        if in_tokens <= 0.0 or out_tokens <= 0.0:
            return 1.0
        more = self.in_power * math.log(in_tokens / max(self.in_tokens, 1.0))
        more += self.out_power * math.log(out_tokens / max(self.out_tokens, 1.0))
        known = 1.0 if count == math.inf else count / (count + FEW)
        return min(max(math.exp(LEFT * known * more), 1.0 / TIMES_MAX), TIMES_MAX)


def units(
    system: SystemData,
    servers: Mapping[str, ServerData],
    *,
    ask: Optimize,
    settings: OptimizerSettings,
) -> dict[str, Unit]:
    """Return the unit of each of *servers*: a request of its load on its accelerator. Its powers
    are by how much less a replica can take of requests with longer prompts, or longer answers.
    """
    asked: dict[str, ServerData] = {}
    for name, server in servers.items():
        load = _load(server)
        prompts = replace(load, in_tokens=LONGER * load.in_tokens)
        answers = replace(load, out_tokens=LONGER * load.out_tokens)
        for place, one in enumerate((load, prompts, answers)):
            asked[f"{place}/{name}"] = replace(
                server,
                name=f"{place}/{name}",
                keep_accelerator=True,
                min_replicas=1,
                max_replicas=None,
                current=replace(server.current, load=one, replicas=max(1, server.current.replicas)),
            )
    everywhere = replace(system, servers=asked, optimizer=OptimizerData(unlimited=True))
    found = ask(everywhere, settings).allocations
    made = {}
    for name, server in servers.items():
        rates = [
            found[f"{place}/{name}"].rate_max_rpm if f"{place}/{name}" in found else 0.0
            for place in range(3)
        ]
        load = _load(server)
        made[name] = Unit(
            accelerator=server.current.accelerator,
            in_tokens=load.in_tokens,
            out_tokens=load.out_tokens,
            in_power=_power(rates[0], rates[1]),
            out_power=_power(rates[0], rates[2]),
        )
    return made


def _load(server: ServerData) -> Load:
    load = server.current.load
    assert load is not None, "it was seen"
    return load


def _power(rate_rpm: float, longer_rpm: float) -> float:
    """Return the power by which a replica takes less of LONGER requests; nothing is known of those
    that it can take none of as they are.
    """
    if rate_rpm <= 0.0:
        return 0.0
    if longer_rpm <= 0.0:
        return POWER_MAX
    return min(max(math.log(rate_rpm / longer_rpm) / math.log(LONGER), 0.0), POWER_MAX)
