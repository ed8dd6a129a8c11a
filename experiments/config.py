"""What one run is: its settings, their checks, and the hash by which a finished run is known
again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from emulator.walk import WalkKind
from experiments.versions import package_version
from loop.policies import identity, policy_names
from twin.spec import SpecError

if TYPE_CHECKING:
    from loop.ports import Policy

Metrics = Literal["measured", "labels"]
EngineChoice = Literal["auto", "plain", "fast"]


def _sample_data() -> Path:
    """Return the sample data: of the checkout, or where a wheel puts them (inside the package of
    the command).
    """
    root = Path(__file__).resolve().parent.parent
    return next(
        (
            path
            for path in (root / "sample-data", root / "inferno" / "sample-data")
            if path.is_dir()
        ),
        root,
    )


SAMPLE_DATA = _sample_data()


def shipped(path: Path) -> Path:
    """Return *path*, a file or a directory; if it is not there and is called sample-data/… or
    yamls/…, that which comes with the package.

    The pages call it so, and who has installed a wheel has no checkout beside.
    """
    known = path.parts[:1] in (("sample-data",), ("yamls",)) and ".." not in path.parts
    if path.exists() or not known:
        return path
    ours = SAMPLE_DATA.parent.joinpath(*path.parts)
    return ours if ours.exists() else path


PolicyOption = float | str | bool | None

SHORTEST_S = 0.1  # between two cycles, two disturbances, or two samples of the pods
HOURS_MAX = 100_000  # eleven years


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One run: (system, load scenario, policy, disturbance alpha, interval, period, seed, hours).

    None means not given: alpha, interval, hours, walk and theta are then the scenario's, the period
    is the policy's. truth is a file in the form of twin-data.json whose engines overrule those of
    the data directory. policy is a name, module:Class, FILE.py, or an object. policy_options are
    settings of the policy by name (`headroom`, `solver` …), policy_label what tables call it ("":
    its name). engine says what serves the requests, with the same results: plain, fast (compiled,
    by the extra of that name), or auto, fast where that is installed and pays. budget_usd_per_h is
    what all servers together may cost (None: anything).

    Raise SpecError for a value out of its range.
    """

    data: Path = SAMPLE_DATA / "large"
    scenario: str = "disturbed"
    policy: str | Policy = "slo"
    disturbance_alpha: float | None = None
    interval_s: float | None = None
    period_s: float | None = None
    hours: float | None = None
    seed: int = 1
    metrics: Metrics = "measured"
    walk: WalkKind | None = None
    theta: float | None = None
    dynamic: bool = False
    truth: Path | None = None
    policy_options: tuple[tuple[str, PolicyOption], ...] = ()
    engine: EngineChoice = "auto"
    policy_label: str = ""
    budget_usd_per_h: float | None = None

    def __post_init__(self) -> None:
        _check(self.disturbance_alpha, "alpha", "within [0, 1]", lambda value: 0.0 <= value <= 1.0)
        _check(self.interval_s, "interval", "> 0", lambda value: value > 0)
        _check(self.period_s, "period", "> 0", lambda value: value > 0)
        _check(self.hours, "hours", "> 0", lambda value: value > 0)
        # A slip of the pen would simulate for ever.
        shortest, longest = f">= {SHORTEST_S:g}", f"<= {HOURS_MAX:g}"
        _check(self.interval_s, "interval", shortest, lambda value: value >= SHORTEST_S)
        _check(self.period_s, "period", shortest, lambda value: value >= SHORTEST_S)
        _check(self.hours, "hours", longest, lambda value: value <= HOURS_MAX)
        _check(self.theta, "theta", "within [0, 1]", lambda value: 0.0 <= value <= 1.0)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise SpecError(f"seed: expected a whole number >= 0, found {self.seed!r}")
        check_budget(self.budget_usd_per_h)
        _check_choice(self.metrics, "metrics", ("measured", "labels"))
        _check_choice(self.engine, "engine", ("auto", "plain", "fast"))
        _check_choice(self.walk, "walk", ("plain", "reverting", None))

    @property
    def policy_name(self) -> str:
        """Return what tables and figures call the policy."""
        return self.policy_label or (
            self.policy if isinstance(self.policy, str) else self.policy.name
        )

    @property
    def own_policies(self) -> list[str]:
        """Return the names by which policies that are not ours were asked for, as the one behind
        through_hpa.
        """
        named = (self.policy, dict(self.policy_options).get("policy"))
        return [one for one in named if isinstance(one, str) and one not in policy_names()]

    @property
    def duration_s(self) -> float:
        """Return how long the run is in simulated time [s]; the hours must be known."""
        assert self.hours is not None, "the configuration was not resolved"
        return self.hours * 3600.0

    def as_json(self) -> dict[str, Any]:
        """Return the settings as JSON values, `from_json` takes them back."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values |= {"data": str(self.data), "truth": str(self.truth) if self.truth else None}
        if not isinstance(self.policy, str):
            values["policy"] = identity(self.policy)
        return values | {"policy_options": dict(self.policy_options)}


def config_from_json(values: Mapping[str, Any]) -> RunConfig:
    """Return the RunConfig that `as_json` wrote."""
    truth = values["truth"]
    given = {
        "data": Path(values["data"]),
        "truth": Path(truth) if truth else None,
        "policy_options": tuple(sorted(values["policy_options"].items())),
    }
    return RunConfig(**{**values, **given})


def run_id(
    config: RunConfig,
    *,
    data_digest: str,
    truth_digest: str,
    scenario_digest: str,
    policy_digest: str,
    extensions_digest: str = "",
) -> str:
    """Return the hash that names a run: equal data, scenario, settings, seed, code of the policy
    and of extensions ("" if there are none), package version, and only these.

    The digests stand for what the files hold, so where they lie does not matter.
    """
    # Whatever serves the requests: the results are the same.
    settings = {name: value for name, value in config.as_json().items() if name != "engine"} | {
        "data": data_digest,
        "truth": truth_digest,
        "scenario": scenario_digest,
        "policyCode": policy_digest,
    }
    if extensions_digest:
        settings["extensionsCode"] = extensions_digest
    # What tables call a policy makes no other run of it.
    del settings["policy_label"]
    identity = {"settings": settings, "version": package_version()}
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:16]


def canonical_json(value: Any) -> str:
    """Return the one JSON text of *value*: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_files(paths: Iterable[Path]) -> str:
    """Return a hash of the names and contents of files, in the order of their names."""
    total = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise SpecError(f"{path}: expected a readable file, found {error.strerror}") from None
        total.update(canonical_json([path.name, len(content)]).encode() + content)
    return total.hexdigest()


def check_budget(budget_usd_per_h: float | None) -> None:
    """Raise SpecError for what is no budget."""
    _check(budget_usd_per_h, "budget-usd-per-h", "> 0", lambda value: value > 0)


def _check(value: float | None, name: str, expected: str, holds: Any) -> None:
    if value is None:
        return
    is_number = isinstance(value, int | float)
    if not (is_number and math.isfinite(value) and holds(value)):
        what = "a finite number" if is_number and math.isinf(value) else "a number"
        raise SpecError(f"{name}: expected {what} {expected}, found {value!r}")


def _check_choice(value: str | None, name: str, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        raise SpecError(
            f"{name}: expected one of {', '.join(filter(None, choices))}, found {value!r}"
        )
