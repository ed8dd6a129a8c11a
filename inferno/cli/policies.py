"""What the commands say of policies. It imports no policy: --help must stay quick."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence

_OTHERS = (
    "hpa, kpa, keda, ray_serve, aibrix, wva, dynamo, predictive, through_hpa, static, "
    "static_peak, module:Class or FILE.py"
)
POLICY_HELP = f"what decides: slo (default), {_OTHERS}"
FURTHER_HELP = f"policies beside those of --policies: slo, {_OTHERS}"
Value = float | str | bool | None
Option = tuple[str, tuple[Value, ...]]


class OnePolicy(argparse.Action):
    """Takes one policy: of two the last would decide, and nobody would say so."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 the signature of argparse
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,  # noqa: ARG002 the signature of argparse
    ) -> None:
        """Keep the policy. Raise ArgumentError for a second one."""
        if hasattr(namespace, "policy_given"):
            several = "inferno sweep and inferno compare take several"
            raise argparse.ArgumentError(
                self, f"expected one, found {namespace.policy} and {values}: {several}"
            )
        namespace.policy = namespace.policy_given = values


def add_budget_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that bounds what all servers cost."""
    parser.add_argument(
        "--budget-usd-per-h",
        type=float,
        metavar="USD",
        help="the most that all servers together may cost (default: no bound)",
    )


def policy_option(text: str) -> Option:
    """Return the name and the values of NAME=VALUE, several separated by commas. Raise
    ArgumentTypeError for another form.
    """
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, found {text!r}")
    return name, tuple(_value(part) for part in value.split(","))


def _value(text: str) -> Value:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, float | int | str | bool) or value is None else text


def options_of_policy(policy: str, options: Sequence[Option]) -> dict[str, Value]:
    """Return the options of the one *policy*: those without a policy's name, and its own. Raise
    SpecError for one of another policy, and for several values.
    """
    from twin.spec import SpecError

    found: dict[str, Value] = {}
    for key, values in options:
        named, dot, name = key.rpartition(".")
        if dot and named != policy:
            raise SpecError(f"--set {key}: expected an option of {policy}, found one of {named}")
        if len(values) != 1:
            raise SpecError(
                f"--set {key}: expected one value, found {len(values)}: a sweep takes several"
            )
        if name in found:
            raise SpecError(f"--set {name}: expected it once, found it twice")
        found[name] = values[0]
    return found


def swept_options(options: Sequence[Option]) -> Mapping[str, tuple[Value, ...]]:
    """Return the values of each option, by the name that it was given by."""
    from twin.spec import SpecError

    found: dict[str, tuple[Value, ...]] = {}
    for key, values in options:
        if len(set(map(str, values))) < len(values):
            raise SpecError(f"--set {key}: expected every value once, found one twice")
        if key in found:
            both = ",".join(map(str, dict.fromkeys((*found[key], *values))))
            raise SpecError(f"--set {key}: expected it once, as in {key}={both}, found it twice")
        found[key] = values
    return found
