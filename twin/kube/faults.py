"""Faults on demand: which request is delayed, refused or cut off, and which pods, nodes and
statuses misbehave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import inf
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from twin.datafile import Entry, unreadable
from twin.kube.apiserver import bounded_yaml
from twin.kube.apiserver.objects import Json
from twin.spec import SpecError

FaultKind = Literal["delay", "error", "drop", "stuckPods", "lostNode", "staleStatus"]
_MATCHED = ("verbs", "resources", "namespaces", "names", "paths")
REQUEST_KINDS = ("delay", "error", "drop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Which requests or objects are meant: each empty list means all; names and paths are shell
    patterns.
    """

    verbs: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()

    def meets(
        self,
        *,
        verb: str = "",
        thing: str = "",
        namespace: str = "",
        name: str = "",
        path: str = "",
    ) -> bool:
        """Tell whether all that this match names is so."""
        return (
            (not self.verbs or verb in self.verbs)
            and (not self.resources or thing in self.resources)
            and (not self.namespaces or namespace in self.namespaces)
            and _like(name, self.names)
            and _like(path, self.paths)
        )


@dataclass(slots=True, kw_only=True)
class Fault:
    """One fault, on from from_s to until_s of the twin's time.

    skip requests that match are spared first, then at most count suffer (counted in suffered).
    delay_s belongs to delay (and comes before the other two), status and retry_after_s to error,
    after (the request was carried out) to drop.
    """

    kind: FaultKind
    match: Match = field(default_factory=Match)
    from_s: float = 0.0
    until_s: float = inf
    skip: int = 0
    count: float = inf
    delay_s: float = 0.0
    status: int = 503
    retry_after_s: int | None = None
    after: bool = False
    matched: int = 0
    suffered: int = 0

    def on(self, now_s: float) -> bool:
        """Tell whether it is its time."""
        return self.from_s <= now_s < self.until_s

    def strikes(self) -> bool:
        """Count a request that matches; tell whether it suffers."""
        self.matched += 1
        if self.matched <= self.skip or self.suffered >= self.count:
            return False
        self.suffered += 1
        return True


class Faults:
    """The faults in force. `all` may be replaced at any time."""

    def __init__(self, faults: Sequence[Fault] = ()) -> None:
        self.all: list[Fault] = list(faults)

    def __bool__(self) -> bool:
        """Tell whether there are any."""
        return bool(self.all)

    def for_request(
        self, now_s: float, *, verb: str, thing: str, namespace: str, name: str, path: str
    ) -> list[Fault]:
        """Return the faults that one request suffers, and count it for each."""
        return [
            fault
            for fault in self.all
            if fault.kind in REQUEST_KINDS
            and fault.on(now_s)
            and fault.match.meets(verb=verb, thing=thing, namespace=namespace, name=name, path=path)
            and fault.strikes()
        ]

    def hits(self, kind: FaultKind, now_s: float, *, namespace: str = "", name: str = "") -> bool:
        """Tell whether a fault of *kind* is in force for an object."""
        return any(
            fault.kind == kind
            and fault.on(now_s)
            and fault.match.meets(namespace=namespace, name=name)
            for fault in self.all
        )


def described(fault: Fault) -> Json:
    """Return *fault* as a faults file has it, with how many requests it has met and struck."""
    match = fault.match
    lists = {name: list(words) for name in _MATCHED if (words := getattr(match, name))}
    figures: Json = {"fromS": fault.from_s, "skip": fault.skip}
    if fault.until_s < inf:
        figures["untilS"] = fault.until_s
    if fault.count < inf:
        figures["count"] = fault.count
    if fault.delay_s:
        figures["delayS"] = fault.delay_s
    if fault.kind == "error":
        figures["status"] = fault.status
    return {
        "kind": fault.kind,
        **lists,
        **figures,
        "matched": fault.matched,
        "suffered": fault.suffered,
    }


def read_faults(path: Path) -> tuple[Fault, ...]:
    """Return the faults of a YAML or JSON file. Raise SpecError, one line, where it makes no
    sense.
    """
    try:
        value = bounded_yaml.load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SpecError(f"{path}: expected YAML or JSON, found {unreadable(error)}") from None
    return parse_faults(value, source=str(path))


def parse_faults(value: Any, *, source: str) -> tuple[Fault, ...]:
    """Return the faults of {"faults": [...]}. Raise SpecError where a field is unknown or makes no
    sense.
    """
    file = Entry({} if value is None else value, source=source)
    faults = tuple(_fault(row) for row in file.children("faults", required=False, label=("kind",)))
    for line in file.warnings():
        # A misspelt condition would make a fault strike everywhere.
        raise SpecError(line)
    return faults


def _fault(row: Entry) -> Fault:
    if not row.has("kind"):
        raise row.fail("kind", expected="one of " + ", ".join(get_args(FaultKind)), found=None)
    row.ignore("matched", "suffered")
    kind: FaultKind = row.choice("kind", get_args(FaultKind), default="delay")
    status = row.whole("status", at_least=400, at_most=599, default=503)
    return Fault(
        kind=kind,
        match=Match(**{name: row.words(name) for name in _MATCHED}),
        from_s=row.number("fromS", at_least=0, default=0),
        until_s=row.number("untilS", above=0) if row.has("untilS") else inf,
        skip=row.whole("skip", at_least=0, default=0),
        count=row.whole("count", at_least=1) if row.has("count") else inf,
        delay_s=row.number("delayS", at_least=0, default=0),
        status=status,
        retry_after_s=row.whole("retryAfterS", at_least=0) if row.has("retryAfterS") else None,
        after=row.flag("after"),
    )


def _like(text: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(text, pattern) for pattern in patterns)
