"""Records of a loop (lines of loop.records, or of the Go loop as experiments.replay reads them)
as a timeline: what the loop saw, decided and why. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from inferno.web.timeline import (
    Counts,
    Decision,
    Event,
    Fleet,
    GpuCounts,
    Latencies,
    Origin,
    Replicas,
    ServerTimeline,
    Span,
    State,
    Timeline,
    Traffic,
)

Line = Mapping[str, Any]
_CENTS = 100.0
_PERIOD_S = 60.0  # what a cycle stands for if there is no other beside it


def timeline_of_records(
    lines: Sequence[Line], *, title: str, origin: Origin = "records", before: Line | None = None
) -> Timeline:
    """Return the timeline of *lines*, in the order of their time.

    *before* is the line before them: with it, timelines of parts appended to each other are that of
    the whole.
    """
    servers: dict[str, _Server] = {}
    spans_s = _spans_s(lines, before)
    for line, since_s in zip(lines, spans_s, strict=True):
        for row in line["servers"]:
            servers.setdefault(row["name"], _Server()).add(line, row, since_s)
    found = [servers[name].timeline(name) for name in servers]
    return Timeline(
        title=title,
        origin=origin,
        started=_started(lines),
        end_s=lines[-1]["t_s"] if lines else 0.0,
        attainment=_mean(1.0 if met else 0.0 for server in servers.values() for met in server.met),
        cost_usd_per_h=_mean(
            line["totalCost"] / _CENTS for line in lines if line.get("totalCost") is not None
        ),
        fleet=fleet_of_records(lines),
        servers=found,
        events=events_of_records(lines, before),
        mode=next((line.get("mode") or "" for line in reversed(lines) if _periodic(line)), ""),
        paused=(lines[-1].get("paused") or "") if lines else "",
    )


def fleet_of_records(lines: Sequence[Line]) -> Fleet:
    """Return what all servers had together in each cycle that saw any."""
    seen = [line for line in lines if line["servers"]]
    types = dict.fromkeys(row["type"] for line in seen for row in line["capacity"])
    by_type = [{row["type"]: row for row in line["capacity"]} for line in seen]
    t_s = [line["t_s"] for line in seen]
    return Fleet(
        t_s=t_s,
        gpus=[
            GpuCounts(
                type=kind,
                used=[_used(rows.get(kind)) for rows in by_type],
                available=[rows.get(kind, {}).get("available") for rows in by_type],
            )
            for kind in types
        ],
        cost_usd_per_h=[
            None if line.get("totalCost") is None else line["totalCost"] / _CENTS for line in seen
        ],
        backlog=[_sum(row.get("backlog") for row in line["servers"]) for line in seen],
        attainment_t_s=t_s,
        attainment=[
            _mean(1.0 if met else 0.0 for row in line["servers"] if (met := _met(row)) is not None)
            for line in seen
        ],
        attainment_of="servers",
    )


def events_of_records(lines: Sequence[Line], before: Line | None = None) -> list[Event]:
    """Return starts after the first, failed cycles, warnings (when they are new), and GPUs that
    came or went.
    """
    events = []
    last = before or {}
    for line in lines:
        at = line["t_s"]
        if line.get("restarted"):
            events.append(Event(t_s=at, kind="restart", text="the loop was started again"))
        if line.get("error"):
            events.append(Event(t_s=at, kind="error", text=line["error"]))
        known = last.get("warnings") or ()
        for text in line.get("warnings") or ():
            if text not in known:
                events.append(Event(t_s=at, kind="warning", text=text))
        then = {row["type"]: row["available"] for row in last.get("capacity") or ()}
        for row in line.get("capacity") or ():
            old = then.get(row["type"], row["available"])
            if old != row["available"]:
                text = f"{row['type']}: {old} → {row['available']} GPUs"
                events.append(Event(t_s=at, kind="capacity", text=text))
        last = line
    return events


def decisions_of(line: Line, row: Line) -> Decision:
    """Return what was decided of the server of *row* in the cycle of *line*."""
    before = (row["currentAccelerator"], row["wanted"])
    decided = (row["accelerator"], row["replicas"])
    text = row.get("reason") or ""
    if row.get("unserved"):
        text = f"{text}; {row['unserved']}" if text else row["unserved"]
    hold = row.get("hold")
    if hold and hold["text"] not in text:
        text = f"{text}; {hold['text']}" if text else hold["text"]
    return Decision(
        t_s=line["t_s"],
        accelerator=row["accelerator"],
        replicas=row["replicas"],
        kind=row.get("reasonKind") or "",
        text=text,
        changed=decided != before,
        held=bool(row.get("held")),
    )


@dataclass(slots=True, kw_only=True)
class _Server:
    """What has been seen of one server so far."""

    last: Line = field(default_factory=dict)
    t_s: list[float] = field(default_factory=list)
    rows: list[Line] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    asked: list[dict[str, int]] = field(default_factory=list)
    met: list[bool] = field(default_factory=list)
    missed: list[Span] = field(default_factory=list)

    def add(self, line: Line, row: Line, since_s: float) -> None:
        """Take in what *row* says of the cycle of *line*."""
        at = line["t_s"]
        self.last = row
        self.t_s.append(at)
        self.rows.append(row)
        self.decisions.append(decisions_of(line, row))
        applied = line.get("applied", True)
        kept = (row["currentAccelerator"], row["wanted"])
        name, count = (row["accelerator"], row["replicas"]) if applied else kept
        self.asked.append({name: count})
        met = _met(row)
        if met is None:
            return
        self.met.append(met)
        if not met:
            begun = self.missed and self.missed[-1].end_s == since_s
            start_s = self.missed.pop().start_s if begun else since_s
            self.missed.append(Span(start_s=start_s, end_s=at))

    def timeline(self, name: str) -> ServerTimeline:
        """Return all of it."""
        last, rows = self.last, self.rows
        return ServerTimeline(
            name=name,
            model=last.get("model") or "",
            service_class=last.get("class") or "",
            slo_ttft_ms=last.get("sloTtft") or None,
            slo_itl_ms=last.get("sloItl") or None,
            slo_tps=last.get("sloTps") or None,
            attainment=_mean(1.0 if met else 0.0 for met in self.met),
            cost_usd_per_h=_mean(
                row["cost"] / _CENTS for row in rows if row.get("cost") is not None
            ),
            traffic=Traffic(
                t_s=self.t_s,
                rate_rpm=[row.get("rpm") for row in rows],
                ttft_ms=_latencies(rows, "ttft"),
                itl_ms=_latencies(rows, "itl"),
            ),
            replicas=self._replicas(),
            state=State(
                t_s=self.t_s,
                backlog=[row.get("backlog") for row in rows],
                kv_cache=[row.get("kvUsage") for row in rows],
            ),
            missed=self.missed,
            decisions=self.decisions,
        )

    def _replicas(self) -> Replicas:
        names = dict.fromkeys(
            name
            for row, asked in zip(self.rows, self.asked, strict=True)
            for name in (row["currentAccelerator"], *asked)
            if name
        )

        def seen(name: str, key: str) -> list[int]:
            return [row[key] if row["currentAccelerator"] == name else 0 for row in self.rows]

        return Replicas(
            t_s=self.t_s,
            by_accelerator=[
                Counts(
                    accelerator=name,
                    wanted=[asked.get(name, 0) for asked in self.asked],
                    ready=seen(name, "ready"),
                    starting=seen(name, "starting"),
                )
                for name in names
            ],
        )


def _periodic(line: Line) -> bool:
    return bool(line.get("trigger", "period") == "period")


def _spans_s(lines: Sequence[Line], before: Line | None) -> list[float]:
    """Return since when each of *lines* stands: the cycle before it."""
    times = [line["t_s"] for line in lines]
    if before is not None:
        return [before["t_s"], *times[:-1]] if times else []
    steps = [after - at for at, after in pairwise(times)]
    first = steps[0] if steps else _PERIOD_S
    return [max(times[0] - first, 0.0), *times[:-1]] if times else []


def _started(lines: Sequence[Line]) -> str:
    """Return the time of t_s = 0; "" for virtual time, or if nothing tells it."""
    if not lines or lines[0].get("backend") == "sim":
        return ""
    try:
        at = datetime.fromisoformat(lines[0]["ts"])
    except (KeyError, TypeError, ValueError):
        return ""
    return (at - timedelta(seconds=lines[0]["t_s"])).isoformat(timespec="milliseconds")


def _met(row: Line) -> bool | None:
    """Tell whether the mean latencies that were seen are within target, None if none is known."""
    pairs = [
        (row.get(figure), row.get(target))
        for figure, target in (("ttft", "sloTtft"), ("itl", "sloItl"))
    ]
    known = [figure <= target for figure, target in pairs if figure is not None and target]
    return all(known) if known else None


def _latencies(rows: Sequence[Line], name: str) -> Latencies:
    mean = [row.get(name) for row in rows]
    own = [(row.get("percentiles") or {}).get(name) or {} for row in rows]
    return Latencies(mean=mean, p50=_known(own, "p50"), p95=_known(own, "p95"))


def _known(own: Sequence[Mapping[str, float]], key: str) -> list[float | None]:
    found = [one.get(key) for one in own]
    return found if any(value is not None for value in found) else []


def _used(row: Line | None) -> int | None:
    if row is None:
        return None
    used = row.get("used")
    return row.get("allocated") if used is None else used


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return sum(known) / len(known) if known else None
