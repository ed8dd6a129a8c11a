"""Cycle records of the Go loop as ours: the fields that it has, under the same names, and for the
others what follows from the cycle before. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from twin.spec import SpecError

Line = dict[str, Any]


def is_go_record(line: Mapping[str, Any]) -> bool:
    """Tell whether *line* is a record of the Go loop: it has no time of the run."""
    return "t_s" not in line and {"ts", "cycle", "servers"} <= set(line)


def from_go(lines: Sequence[Mapping[str, Any]], *, source: str) -> list[Line]:
    """Return *lines* of the Go loop as lines of loop.records.

    What a server has in a cycle is what the cycle before gave it (in the first, what it was given
    itself), and counts as ready: the Go loop records no pods. Raise SpecError for a line that is
    none.
    """
    found: list[Line] = []
    given: dict[str, Mapping[str, Any]] = {}
    first: datetime | None = None
    for number, line in enumerate(lines, start=1):
        try:
            at = datetime.fromisoformat(line["ts"])
            first = first or at
            rows = [_row(row, given.get(row["name"], row)) for row in line["servers"]]
            found.append(
                {
                    "ts": line["ts"],
                    "t_s": (at - first).total_seconds(),
                    "cycle": line["cycle"],
                    "applied": True,
                    "error": "",
                    "failedPhase": "",
                    "servers": rows,
                    "internals": line.get("internals") or [],
                    "capacity": [
                        {
                            "type": row["type"],
                            "available": row["available"],
                            "used": row.get("allocated", 0),
                            "seen": True,
                        }
                        for row in line.get("capacity") or []
                    ],
                    "totalCost": line.get("totalCost"),
                    "timing": line.get("timing") or {},
                }
            )
        except (KeyError, TypeError, ValueError) as problem:
            raise SpecError(
                f"{source}: cycle {number}: expected a record of the Go loop, found one that is "
                f"wrong in {str(problem)[:60]}"
            ) from None
        given |= {row["name"]: row for row in line["servers"]}
    return found


def _row(row: Mapping[str, Any], before: Mapping[str, Any]) -> Line:
    return {
        **dict.fromkeys(("throughput", "avgInTok", "avgOutTok", "itl", "ttft", "outputTps")),
        **dict.fromkeys(("starting", "pending", "draining", "running", "waiting", "backlog"), 0),
        "kvUsage": 0.0,
        "reporting": None,
        "class": "Free",
        "rpm": None,
        **row,
        "currentAccelerator": before["accelerator"],
        "currentMaxBatch": before.get("maxBatch", 0),
        "wanted": before["replicas"],
        "ready": before["replicas"],
    }
