"""The grid of a sweep: which runs it is made of. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product

from experiments.config import RunConfig
from twin.spec import SpecError

SEEDS_MAX = 100_000  # all runs of a grid are known before the first


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepConfig:
    """Every combination of these values (none given: the base's) times *seeds* seeds: base.seed,
    base.seed + 1, …

    All policies and periods of a cell meet the same seeds, so that they can be compared in pairs.
    """

    base: RunConfig = field(default_factory=RunConfig)
    scenarios: tuple[str, ...] = ()
    intervals_s: tuple[float, ...] = ()
    policies: tuple[str, ...] = ()
    alphas: tuple[float, ...] = ()
    periods_s: tuple[float, ...] = ()
    seeds: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.seeds, bool) or not isinstance(self.seeds, int) or self.seeds < 1:
            raise SpecError(f"seeds: expected a whole number >= 1, found {self.seeds!r}")
        if self.seeds > SEEDS_MAX:
            raise SpecError(f"seeds: expected at most {SEEDS_MAX}, found {self.seeds}")
        lists = (self.scenarios, self.intervals_s, self.policies, self.alphas, self.periods_s)
        names = ("scenario", "interval", "policy", "alpha", "period")
        for name, values in zip(names, lists, strict=True):
            for value in values:
                if values.count(value) > 1:
                    raise SpecError(f"{name}: expected every value once, found {value} twice")

    def runs(self) -> list[RunConfig]:
        """Return the runs, those of one cell (all but the seed) beside each other. Raise SpecError
        for a bad value.
        """
        base = self.base
        return [
            replace(
                base,
                scenario=scenario,
                interval_s=interval_s,
                policy=policy,
                disturbance_alpha=alpha,
                period_s=period_s,
                seed=base.seed + offset,
            )
            for scenario, interval_s, policy, alpha, period_s, offset in product(
                self.scenarios or (base.scenario,),
                self.intervals_s or (base.interval_s,),
                self.policies or (base.policy,),
                self.alphas or (base.disturbance_alpha,),
                self.periods_s or (base.period_s,),
                range(self.seeds),
            )
        ]
