"""The policies by the word after --policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from loop.errors import SpecError
from loop.policies.aibrix import AibrixPolicy
from loop.policies.dynamo import DynamoPolicy
from loop.policies.hpa import HpaPolicy
from loop.policies.keda import KedaPolicy
from loop.policies.kpa import KpaPolicy
from loop.policies.predictive import PredictivePolicy
from loop.policies.ray_serve import RayServePolicy
from loop.policies.slo import SloPolicy
from loop.policies.static import StaticPolicy
from loop.policies.static_peak import StaticPeakPolicy
from loop.policies.through_hpa import ThroughHpaPolicy
from loop.policies.wva import WvaPolicy
from twin.datafile import did_you_mean

if TYPE_CHECKING:
    from loop.ports import Policy

# A policy is a frozen dataclass whose fields are its options, besides these that say what it is,
# and what it asks.
NOT_OPTIONS = ("name", "tick_s", "samples_s", "optimize", "loads")
# Options that had another name, by policy: the old one still works.
RENAMED: Mapping[str, Mapping[str, str]] = {"slo": {"band": "hysteresis"}}

POLICIES: Mapping[str, Callable[..., Policy]] = MappingProxyType(
    {
        "aibrix": AibrixPolicy,
        "dynamo": DynamoPolicy,
        "hpa": HpaPolicy,
        "keda": KedaPolicy,
        "kpa": KpaPolicy,
        "predictive": PredictivePolicy,
        "ray_serve": RayServePolicy,
        "slo": SloPolicy,
        "static": StaticPolicy,
        "static_peak": StaticPeakPolicy,
        "through_hpa": ThroughHpaPolicy,
        "wva": WvaPolicy,
    }
)


def policy_names() -> tuple[str, ...]:
    """Return the names that make_policy knows."""
    return tuple(sorted(POLICIES))


def make_policy(name: str, **options: Any) -> Policy:
    """Return the policy *name* with *options*. Raise SpecError for a name, an option or a value
    that is not known.
    """
    make = POLICIES.get(name)
    if make is None:
        raise SpecError(
            f"policy: expected one of {', '.join(policy_names())}, found {name!r}"
            f"{did_you_mean(name, policy_names())}"
        )
    known = options_of(make)
    renamed = RENAMED.get(name, {})
    for option in renamed.keys() & options.keys():
        if renamed[option] in options:
            raise SpecError(
                f"policy {name}: {option} is the old name of {renamed[option]}: expected one of "
                "them, found both"
            )
    options = {renamed.get(option, option): value for option, value in options.items()}
    for option in options:
        if option not in known:
            expected = f"one of {', '.join(known)}" if known else "none"
            raise SpecError(
                f"policy {name}: expected options: {expected}; found {option!r}"
                f"{did_you_mean(option, known)}"
            )
    behind = options.get("policy")
    if isinstance(behind, str):
        options["policy"] = make_policy(behind)
    return make(**options)


def options_of(make: Callable[..., Policy]) -> list[str]:
    """Return the names of the options of a policy."""
    return [
        field.name
        for field in fields(make)  # type: ignore[arg-type]
        if field.init and field.name not in NOT_OPTIONS
    ]
