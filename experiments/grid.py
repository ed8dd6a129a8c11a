"""The grid of a sweep: which runs it is made of. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from experiments.config import PolicyOption, RunConfig
from twin.spec import SpecError

if TYPE_CHECKING:
    from loop.ports import Policy

SEEDS_MAX = 100_000  # all runs of a grid are known before the first


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepConfig:
    """Every combination of these values (none given: the base's) times *seeds* seeds: base.seed,
    base.seed + 1, …

    All policies and periods of a cell meet the same seeds, so that they can be compared in pairs.
    options are values of the options of policies, by POLICY.OPTION, or by OPTION for all of them.
    """

    base: RunConfig = field(default_factory=RunConfig)
    scenarios: tuple[str, ...] = ()
    intervals_s: tuple[float, ...] = ()
    policies: tuple[str | Policy, ...] = ()
    alphas: tuple[float, ...] = ()
    periods_s: tuple[float, ...] = ()
    options: Mapping[str, tuple[PolicyOption, ...]] = field(default_factory=dict)
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
                **policy,
                disturbance_alpha=alpha,
                period_s=period_s,
                seed=base.seed + offset,
            )
            for scenario, interval_s, policy, alpha, period_s, offset in product(
                self.scenarios or (base.scenario,),
                self.intervals_s or (base.interval_s,),
                self._policies(),
                self.alphas or (base.disturbance_alpha,),
                self.periods_s or (base.period_s,),
                range(self.seeds),
            )
        ]

    def _policies(self) -> list[dict[str, Any]]:
        """Return the settings of every policy with each combination of its options."""
        policies = self.policies or (self.base.policy,)
        names = list(map(_name, policies))
        for key in self.options:
            whose, dot, _ = key.rpartition(".")
            if dot and whose not in names:
                raise SpecError(
                    f"--set {key}: expected an option of {', '.join(names)}, found one of {whose}"
                )
        found: list[dict[str, Any]] = []
        for policy, name in zip(policies, names, strict=True):
            own = {
                key.rpartition(".")[2]: values
                for key, values in self.options.items()
                if key.rpartition(".")[0] in ("", name)
            }
            for combination in product(*own.values()):
                options = dict(zip(own, combination, strict=True))
                told = ",".join(
                    f"{option}={_shown(options[option])}"
                    for option, values in own.items()
                    if len(values) > 1
                )
                found.append(
                    {
                        "policy": policy,
                        "policy_options": tuple(
                            sorted({**dict(self.base.policy_options), **options}.items())
                        ),
                        "policy_label": f"{name} {told}" if told else "",
                    }
                )
        labels = [one["policy_label"] or _name(one["policy"]) for one in found]
        for label in labels:
            if labels.count(label) > 1:
                raise SpecError(f"policy: expected names that differ, found {label} twice")
        return found


def _name(policy: str | Policy) -> str:
    return policy if isinstance(policy, str) else policy.name


def _shown(value: PolicyOption) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
