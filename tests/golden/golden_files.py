"""Finds the golden files: outputs of the existing Go implementation, in GOLDEN_DIR or beside the
checkout.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 2e-4
PART = 5  # one case in so many matters while working


def golden_cases(pattern: str, *, only: Callable[[str], bool] = lambda _: True) -> list[Any]:
    """Return one pytest parameter per case of every file that matches; a skipped one where there is
    none. All but every fifth are marked slow.

    only: takes the cases of these names.
    """
    folder = Path(os.environ.get("GOLDEN_DIR", ROOT.parent / "shared" / "golden"))
    found = []
    for path in sorted(folder.glob(pattern)):
        for case in json.loads(path.read_text(encoding="utf-8"))["cases"]:
            if only(str(case["id"])):
                marks = () if len(found) % PART == 0 else pytest.mark.slow
                found.append(pytest.param(case, id=f"{path.stem}-{case['id']}", marks=marks))
    if not found:
        reason = f"no golden file {pattern} in GOLDEN_DIR or beside the checkout"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="absent")]
    return found


def differences(
    found: Any, golden: Any, *, tolerance: float = TOLERANCE, place: str = ""
) -> list[str]:
    """Return a line for every figure of *golden* that *found* does not have within the relative
    tolerance.
    """
    if isinstance(golden, dict):
        if not isinstance(found, dict):
            return [f"{place}: {found!r} is no object"]
        lines = [f"{place}.{key}: not expected" for key in found.keys() - golden.keys()]
        for key, value in golden.items():
            lines += differences(found.get(key), value, tolerance=tolerance, place=f"{place}.{key}")
        return lines
    if isinstance(golden, float | int) and not isinstance(golden, bool):
        if isinstance(found, float | int) and abs(found - golden) <= tolerance * abs(golden):
            return []
        return [f"{place}: {found!r} is not {golden!r}"]
    return [] if found == golden else [f"{place}: {found!r} is not {golden!r}"]
