"""Changes of a system that are tried before they are made: each changes the files of a data
directory, or its load. Pure.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twin.datafile import did_you_mean
from twin.spec import SpecError

Json = dict[str, Any]
Files = Mapping[str, Json]

CAPACITY, CLASSES, TWIN = "capacity-data.json", "serviceclass-data.json", "twin-data.json"
TARGETS = (
    "ttft",
    "itl",
    "tps",
    *(f"{what}-p{p}" for what in ("ttft", "itl") for p in (50, 90, 95, 99)),
)
START_UP_DEFAULT_S = 60.0  # of the twin
FIGURE_MAX = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is to be otherwise. gpus is (type, sign "" "+" "-", count), slo (class, target, figure),
    start_up (a number of seconds, or a factor with is_factor).
    """

    gpus: tuple[tuple[str, str, int], ...] = ()
    slo: tuple[tuple[str, str, float], ...] = ()
    load: float = 1.0
    start_up_s: float | None = None
    start_up_factor: float = 1.0

    @property
    def lines(self) -> list[str]:
        """Return each change in words."""
        found = [f"{kind} {sign or '='}{count} GPUs" for kind, sign, count in self.gpus]
        found += [f"{name}: {target} {figure:g}" for name, target, figure in self.slo]
        if self.load != 1.0:
            found.append(f"load x{self.load:g}")
        if self.start_up_s is not None:
            found.append(f"start-up {self.start_up_s:g} s")
        if self.start_up_factor != 1.0:
            found.append(f"start-up x{self.start_up_factor:g}")
        return found


def parse_changes(
    *,
    gpus: Sequence[str] = (),
    slo: Sequence[str] = (),
    load: str | None = None,
    start_up: str | None = None,
) -> Changes:
    """Return what the options say. Raise SpecError, one line, for one that makes no sense."""
    seconds = (
        None if start_up is None or start_up.startswith("x") else _figure(start_up, "start-up")
    )
    return Changes(
        gpus=tuple(_gpus(part) for text in gpus for part in text.split(",")),
        slo=tuple(change for text in slo for change in _slo(text)),
        load=1.0 if load is None else _factor(load, "load"),
        start_up_s=seconds,
        start_up_factor=_factor(start_up, "start-up")
        if start_up is not None and seconds is None
        else 1.0,
    )


def _gpus(text: str) -> tuple[str, str, int]:
    found = re.fullmatch(r"\s*([^=\s]+)=([+-]?)(\d{1,7})\s*", text)
    if found is None:
        raise SpecError(f"gpus: expected TYPE=-4, TYPE=+4 or TYPE=4, found {text[:60]!r}")
    return found[1], found[2], int(found[3])


def _slo(text: str) -> list[tuple[str, str, float]]:
    name, colon, targets = text.partition(":")
    changes = []
    for part in targets.split(","):
        target, equals, figure = part.strip().partition("=")
        if not (name and colon and equals and target in TARGETS):
            known = ", ".join(TARGETS[:3])
            raise SpecError(
                f"slo: expected CLASS:TARGET=MS with a target of {known}, or ttft-p95 and the like,"
                f" found {text[:60]!r}{did_you_mean(target, TARGETS)}"
            )
        changes.append((name, target, _figure(figure, "slo")))
    return changes


def _factor(text: str, option: str) -> float:
    if not text.startswith("x"):
        raise SpecError(f"{option}: expected a factor such as x1.5, found {text[:60]!r}")
    return _figure(text[1:], option)


def _figure(text: str, option: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= FIGURE_MAX:
        raise SpecError(
            f"{option}: expected a number > 0 and <= {FIGURE_MAX:g}, found {text[:60]!r}"
        )
    return value


# -- files


def changed_files(
    files: Files, changes: Changes, *, pairs: Sequence[tuple[str, str]]
) -> dict[str, Json]:
    """Return *files* by name with *changes* made; *pairs* are the models and accelerators that the
    data know. Raise SpecError for a type or a class that they do not have.
    """
    found = {name: copy.deepcopy(dict(content)) for name, content in files.items()}
    if changes.gpus:
        _change_gpus(found[CAPACITY], changes)
    if changes.slo:
        _change_slo(found[CLASSES], changes)
    if changes.start_up_s is not None or changes.start_up_factor != 1.0:
        _change_start_up(found.setdefault(TWIN, {}), changes, pairs=pairs)
    return found


def _change_gpus(document: Json, changes: Changes) -> None:
    rows = _rows(document, "count")
    known = {str(_get(row, "type")): row for row in rows}
    for kind, sign, count in changes.gpus:
        if kind not in known:
            raise SpecError(
                f"gpus: expected one of {', '.join(known)}, found {kind[:60]!r}"
                f"{did_you_mean(kind, tuple(known))}"
            )
        row = known[kind]
        before = int(_get(row, "count") or 0)
        after = count if not sign else before + (count if sign == "+" else -count)
        if after < 0:
            raise SpecError(
                f"gpus: {kind}: expected to take away at most the {before} that there are, found "
                f"-{count}"
            )
        row[_key(row, "count")] = after


def _change_slo(document: Json, changes: Changes) -> None:
    rows = _rows(document, "serviceClasses")
    names = dict.fromkeys(str(_get(row, "name")) for row in rows)
    for name, target, figure in changes.slo:
        own = [row for row in rows if _get(row, "name") == name]
        if not own:
            raise SpecError(
                f"slo: expected one of {', '.join(names)}, found {name[:60]!r}"
                f"{did_you_mean(name, tuple(names))}"
            )
        for row in own:
            # An older row is a class and a model at once.
            targets = _get(row, "modelTargets")
            for entry in targets if isinstance(targets, list) else [row]:
                entry[_key(entry, f"slo-{target}")] = figure


def _change_start_up(document: Json, changes: Changes, *, pairs: Sequence[tuple[str, str]]) -> None:
    key = _key(document, "engines")
    rows = document.setdefault(key, [])
    there = {(_get(row, "model"), _get(row, "acc")) for row in rows}
    rows += [
        {"model": model, "acc": accelerator}
        for model, accelerator in pairs
        if (model, accelerator) not in there
    ]
    for row in rows:
        own = row.setdefault(_key(row, "startUp"), {})
        mean = _key(own, "meanS")
        before = own.get(mean, START_UP_DEFAULT_S)
        own[mean] = (
            changes.start_up_s if changes.start_up_s is not None else before
        ) * changes.start_up_factor


def _rows(document: Json, name: str) -> list[Json]:
    rows: list[Json] = document[_key(document, name)]
    return rows


def _get(row: Json, name: str) -> Any:
    return row.get(_key(row, name))


def _key(row: Json, name: str) -> str:
    """Return *name* as *row* spells it."""
    return next((key for key in row if key.lower() == name.lower()), name)
