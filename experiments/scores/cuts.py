"""From when on what a policy decided for a server was cut by the GPUs that there are. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# By server, the instants at which it began or ended, the first a beginning, and which it was.
Cuts = dict[str, tuple[list[float], list[bool]]]


def note_cut(cuts: Cuts, name: str, *, t_s: float, is_cut: bool) -> None:
    """Add to *cuts* whether the decision about *name* at *t_s* was cut."""
    times, flags = cuts.setdefault(name, ([], []))
    if is_cut != (bool(flags) and flags[-1]):
        times.append(t_s)
        flags.append(is_cut)


def add_cuts(cuts: Cuts, cycle: Mapping[str, Any]) -> None:
    """Add to *cuts* what was cut in *cycle*, a line of loop.records."""
    for row in cycle["servers"]:
        note_cut(cuts, row["name"], t_s=cycle["t_s"], is_cut=row.get("reasonKind") == "capacity")
