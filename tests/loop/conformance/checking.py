"""What the conformance tests share: cases out of a folder of JSON files, and how facts are compared
with what a case expects.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Case = Mapping[str, Any]
Runner = Callable[[Case], None]


def cases_of(path: Path) -> list[Case]:
    """Return the cases of one file."""
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    assert isinstance(cases, list)
    assert cases, f"{path}: expected cases, found none"
    return cases


def kind_of(case: Case, known: Mapping[str, Runner], *, key: str = "kind") -> Runner:
    """Return what runs *case*; a kind that is not known fails, for it would be left out unseen."""
    kind = str(case[key]).split(" ", maxsplit=1)[0]
    assert kind in known, f"expected a {key} of {', '.join(known)}, found {kind}"
    return known[kind]


def expect(expected: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Hold *facts* to each figure that is expected; "note" is for people, and no error is told."""
    for name, value in expected.items():
        if name == "note" or (name.startswith("error") and not value):
            continue
        assert name in facts, f"{name} is expected, and nothing is known of it"
        fact = facts[name]
        assert alike(fact, value), f"{name}: expected {value}, found {fact}"


def expects_error(case: Case) -> bool:
    """Tell whether *case* wants to be refused."""
    expected = case["expected"]
    if not isinstance(expected, Mapping):
        return expected == "error"
    return any(told for name, told in expected.items() if name.startswith("error"))


def alike(fact: object, value: object) -> bool:
    """Tell whether *fact* is *value*; fractions may differ in their last digits."""
    if isinstance(value, float) and isinstance(fact, int | float) and not isinstance(fact, bool):
        return math.isclose(fact, value, rel_tol=1e-9, abs_tol=1e-12)
    return fact == value
