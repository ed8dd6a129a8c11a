"""How much work requests are, by their tokens: the longer prompts and answers are, the more
replicas as many requests need. Pure but for the optimizer that is asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loop.policies.slo.ask import beyond_arithmetic
from loop.replacing import replace
from loop.spec import TOKEN_CV, OptimizerData
from loop.types import Load

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loop.optimizer.rules import OptimizerSettings
    from loop.policies.slo.ask import Optimize
    from loop.spec import ServerData, SystemData

SHORTER, LONGER = 0.5, 1.25  # the optimizer is asked about tokens so many times as many
POWER_MAX = 2.0  # of tokens, by which the work of a request grows
FAR = 0.15  # the logarithm by which mean tokens may leave those of the unit
# Of what tokens are off their mean, so much is left when pods that are asked for now are ready;
# less is counted on if they are fewer.
LEFT_SHORTER, LEFT = 0.6, 0.7
FEW = 8.0  # the mean of so many requests says half of that
TIMES_MAX = 5.0  # as much as the unit, or as little, a request may be


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """The request that work is counted in: its mean tokens, and the powers of the tokens of prompts
    and of answers by which the work of a request grows on *accelerator*, of shorter ones and of
    longer ones: what prompts cost stays where answers are short, and the other way round.
    """

    accelerator: str
    in_tokens: float
    out_tokens: float
    in_powers: tuple[float, float] = (0.0, 0.0)
    out_powers: tuple[float, float] = (0.0, 0.0)

    @property
    def chance(self) -> float:
        """Return the variance of work that is counted, as a multiple of that of requests."""
        squares = [power * power for power in (*self.in_powers, *self.out_powers)]
        return 1.0 + (LEFT * TOKEN_CV) ** 2 * sum(squares) / 2.0

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
        more = 0.0
        for now, mean, powers in (
            (in_tokens, self.in_tokens, self.in_powers),
            (out_tokens, self.out_tokens, self.out_powers),
        ):
            off = math.log(now / max(mean, 1.0))
            more += LEFT * powers[1] * off if off > 0.0 else LEFT_SHORTER * powers[0] * off
        known = 1.0 if count == math.inf else count / (count + FEW)
        return min(max(math.exp(known * more), 1.0 / TIMES_MAX), TIMES_MAX)


def units(
    system: SystemData,
    servers: Mapping[str, ServerData],
    *,
    ask: Optimize,
    settings: OptimizerSettings,
) -> dict[str, Unit]:
    """Return the unit of each of *servers*: a request of its load on its accelerator. Its powers
    are by how much less or more a replica can take of requests with longer or shorter prompts, or
    answers. Servers of which one of these is beyond arithmetic have none.
    """
    asked: dict[str, ServerData] = {}
    for name, server in servers.items():
        load = _load(server)
        for place, one in enumerate((load, *_others(load))):
            asked[f"{place}/{name}"] = replace(
                server,
                name=f"{place}/{name}",
                keep_accelerator=True,
                min_replicas=1,
                max_replicas=None,
                current=replace(server.current, load=one, replicas=max(1, server.current.replicas)),
            )
    everywhere = replace(system, servers=asked, optimizer=OptimizerData(unlimited=True))
    try:
        found = ask(everywhere, settings).allocations
    except ArithmeticError:
        beyond = {name.partition("/")[2] for name in beyond_arithmetic(ask, everywhere, settings)}
        sized = {name: one for name, one in servers.items() if name not in beyond}
        if not 0 < len(sized) < len(servers):
            return {}
        return units(system, sized, ask=ask, settings=settings)
    made = {}
    for name, server in servers.items():
        load, rates = _load(server), [0.0] * 5
        for place in range(5):
            each = found.get(f"{place}/{name}")
            rates[place] = each.rate_max_rpm if each is not None else 0.0
        mean_rpm, in_shorter, in_longer, out_shorter, out_longer = rates
        made[name] = Unit(
            accelerator=server.current.accelerator,
            in_tokens=load.in_tokens,
            out_tokens=load.out_tokens,
            in_powers=(_power(mean_rpm, in_shorter, SHORTER), _power(mean_rpm, in_longer, LONGER)),
            out_powers=(
                _power(mean_rpm, out_shorter, SHORTER),
                _power(mean_rpm, out_longer, LONGER),
            ),
        )
    return made


def _others(load: Load) -> list[Load]:
    """Return *load* with shorter and longer prompts, and answers."""
    ins = [replace(load, in_tokens=times * load.in_tokens) for times in (SHORTER, LONGER)]
    outs = [replace(load, out_tokens=times * load.out_tokens) for times in (SHORTER, LONGER)]
    return ins + outs


def _load(server: ServerData) -> Load:
    load = server.current.load
    assert load is not None, "it was seen"
    return load


def _power(mean_rpm: float, rate_rpm: float, times: float) -> float:
    """Return the power of tokens by which a replica takes *rate_rpm* of requests with so many
    *times* as many, and *mean_rpm* of others; 0 if it can take none of these.
    """
    if mean_rpm <= 0.0:
        return 0.0
    if rate_rpm <= 0.0:
        return POWER_MAX if times > 1.0 else 0.0
    return min(max(math.log(mean_rpm / rate_rpm) / math.log(times), 0.0), POWER_MAX)
