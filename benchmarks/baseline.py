"""The figures that are kept in baseline.json, and what has moved since."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "baseline.json"
MOVED = 0.20


def compare(figures: Sequence[dict[str, Any]], *, file: Path = FILE) -> list[str]:
    """Return a table of the figures that moved by more than 20 %, and a line that counts them."""
    before = _read(file)
    rows = []
    for figure in figures:
        name, now = figure["name"], figure["relative"]
        if name not in before:
            rows.append((name, "-", f"{now:g}", "new"))
        elif abs(change := _change(before[name], now)) > MOVED:
            rows.append((name, f"{before[name]:g}", f"{now:g}", f"{100 * change:+.0f} %"))
    lines = [f"{len(figures)} figures, {len(rows)} moved by more than {100 * MOVED:.0f} %"]
    if rows:
        rows.insert(0, ("figure", "baseline", "now", "change"))
        lines += [f"{a:<36} {b:>10} {c:>10} {d:>8}" for a, b, c, d in rows]
    return lines


def update(figures: Sequence[dict[str, Any]], *, file: Path = FILE) -> str:
    """Put *figures* into the baseline, and keep those that were not measured now."""
    kept = _read(file) | {figure["name"]: figure["relative"] for figure in figures}
    known = {
        "about": "Ratios as they are; times as multiples of the yardstick, speeds per yardstick. "
        "Made by `python -m benchmarks --write`.",
        "python": platform.python_version(),
        "figures": dict(sorted(kept.items())),
    }
    file.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    return f"{len(figures)} figures written to {file.name}"


def _read(file: Path) -> dict[str, float]:
    if not file.exists():
        return {}
    figures: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))["figures"]
    return figures


def _change(before: float, now: float) -> float:
    if before == 0.0:
        return 0.0 if now == 0.0 else math.inf
    return now / before - 1.0
