"""The policies by the word after --policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from importlib import import_module
from inspect import signature
from numbers import Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from loop.errors import SpecError
from loop.policies.plugins import installed_policies, is_elsewhere, load_policy
from loop.policies.sped import SpedPolicy
from twin.datafile import did_you_mean

if TYPE_CHECKING:
    from loop.ports import Policy

# A policy is a frozen dataclass whose fields are its options, besides these that say what it is,
# and what it asks.
NOT_OPTIONS = ("name", "tick_s", "samples_s", "load_window_s", "optimize", "loads", "cache")
# Options that had another name, by policy: the old one still works.
RENAMED: Mapping[str, Mapping[str, str]] = {"slo": {"band": "hysteresis"}}

# Each is imported when it is asked for.
POLICIES: Mapping[str, str] = MappingProxyType(
    {
        "aibrix": "AibrixPolicy",
        "dynamo": "DynamoPolicy",
        "hpa": "HpaPolicy",
        "keda": "KedaPolicy",
        "kpa": "KpaPolicy",
        "predictive": "PredictivePolicy",
        "ray_serve": "RayServePolicy",
        "slo": "SloPolicy",
        "static": "StaticPolicy",
        "static_peak": "StaticPeakPolicy",
        "through_hpa": "ThroughHpaPolicy",
        "wva": "WvaPolicy",
    }
)


def policy_names() -> tuple[str, ...]:
    """Return the names of our own policies."""
    return tuple(sorted(POLICIES))


def make_policy(policy: str | Policy, /, **options: Any) -> Policy:
    """Return *policy* with *options*: one of our own or of an installed package by its name,
    module:Class, FILE.py or FILE.py:Class, or an object as it is. Raise SpecError for a name, an
    option or a value that is not known.
    """
    if isinstance(policy, type):
        name = policy.__name__
        raise SpecError(f"policy: expected an object, as in {name}(…), found the class {name}")
    if not isinstance(policy, str):
        _whole(policy, "policy")
        _check(type(policy).__name__, type(policy), options)
        return replace(policy, **options) if options else policy  # type: ignore[type-var]
    name, make = policy, policy_maker(policy)
    renamed = RENAMED.get(name, {})
    for option in renamed.keys() & options.keys():
        if renamed[option] in options:
            raise SpecError(
                f"policy {name}: {option} is the old name of {renamed[option]}: expected one of "
                "them, found both"
            )
    options = {renamed.get(option, option): value for option, value in options.items()}
    _check(name, make, options)
    behind = options.get("policy")
    if isinstance(behind, str):
        options["policy"] = make_policy(behind)
    elif name in POLICIES and "policy" in options:
        _whole(behind, f"policy {name}: policy")
    try:
        made: object = make(**options)
    except TypeError as error:
        raise SpecError(f"policy {name}: {error}") from None
    _whole(made, f"policy {name}")
    for option, value in options.items():
        if not _is_told(value) and isinstance(value, float):
            raise SpecError(f"policy {name}: {option}: expected a finite number, found {value}")
        if name in POLICIES and isinstance(value, int | float) and abs(value) > LARGEST:
            found = str(value)[:60]
            raise SpecError(f"policy {name}: {option}: expected at most {LARGEST:g}, found {found}")
    return cast("Policy", made)


def _whole(made: object, whose: str) -> None:
    """Raise SpecError unless *made* has all that a policy has."""
    for part, (expected, fits) in _PARTS.items():
        value = getattr(made, part, _NOTHING)
        if value is _NOTHING:
            found = type(made).__name__
            raise SpecError(f"{whose}: expected a policy, found {found} without {part}")
        if not fits(value):
            raise SpecError(f"{whose}: {part}: expected {expected}, found {f'{value!r}'[:60]}")
    for part in ("samples_s", "load_window_s"):
        time_s = getattr(made, part, None)
        if time_s is not None and not _is_time(time_s):
            found = f"{time_s!r}"[:60]
            raise SpecError(f"{whose}: {part}: expected a number > 0, or None, found {found}")


_NOTHING = object()
LARGEST = 1e12  # of an option of ours: far above any time, rate or count, and arithmetic holds


def _is_time(value: object) -> bool:
    number = isinstance(value, Real) and not isinstance(value, bool)  # NumPy's are such, too
    return number and 0.0 < value < math.inf  # type: ignore[operator]


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


_PARTS: Mapping[str, tuple[str, Callable[[object], bool]]] = {
    "name": ("a text", _is_name),
    "tick_s": ("a number > 0", _is_time),
    "start": ("something to call", callable),
    "decide": ("something to call", callable),
}


def policy_maker(name: str) -> Callable[..., Policy]:
    """Return what makes the policy *name*. Raise SpecError if there is none."""
    if name in POLICIES:
        made = getattr(import_module(f"loop.policies.{name}"), POLICIES[name])
        return cast("Callable[..., Policy]", made)
    if is_elsewhere(name):
        return load_policy(name)
    installed = installed_policies()
    if name in installed:
        return load_policy(installed[name].value)
    names = (*policy_names(), *sorted(installed))
    raise SpecError(
        f"policy: expected one of {', '.join(names)}, module:Class or FILE.py, found {name!r}"
        f"{did_you_mean(name, names)}"
    )


def options_of(make: Callable[..., Policy]) -> list[str]:
    """Return the names of the options of a policy."""
    if is_dataclass(make):
        names = [field.name for field in fields(make) if field.init]
    else:
        names = list(signature(make).parameters)
    return [name for name in names if name not in NOT_OPTIONS]


def options_told(policy: Policy) -> dict[str, object]:
    """Return the options of *policy* that are not as shipped, for a record: only what JSON has, and
    a policy behind it by its name.
    """
    if isinstance(policy, SpedPolicy):
        policy = policy.policy
    try:
        shipped = _shipped(type(policy))
    except ValueError:
        return {}  # a class without a signature has no options
    told: dict[str, object] = {}
    for name in options_of(type(policy)):
        value, default = _as_told(getattr(policy, name, _NOTHING)), _as_told(shipped[name])
        # Whatever somebody's own has as a default may not be comparable with it.
        if _is_told(value) and not (_is_told(default) and value == default):
            told[name] = value
    return told


def _shipped(kind: type) -> dict[str, object]:
    found: dict[str, object] = {
        name: one.default for name, one in signature(kind).parameters.items()
    }
    if is_dataclass(kind):
        made = {one.name: one.default_factory for one in fields(kind) if one.name in found}
        found |= {name: make() for name, make in made.items() if make is not MISSING}
    return found


def _is_told(value: object) -> bool:
    """Tell whether JSON has *value*."""
    return math.isfinite(value) if isinstance(value, float) else isinstance(value, str | int | None)


def _as_told(value: object) -> object:
    return getattr(value, "name", value) if hasattr(value, "decide") else value


def _check(name: str, make: Callable[..., Policy], options: Mapping[str, object]) -> None:
    known = options_of(make)
    for option in options:
        if option not in known:
            expected = f"one of {', '.join(known)}" if known else "none"
            raise SpecError(
                f"policy {name}: expected options: {expected}; found {option!r}"
                f"{did_you_mean(option, known)}"
            )
