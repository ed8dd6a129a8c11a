"""Records of a loop (lines of loop.records, or of the Go loop as experiments.replay reads them)
as a timeline: what the loop saw, decided and why. Pure.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from itertools import chain, islice
from sys import intern
from typing import Any

from experiments.dates import date_of
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
_LATENCIES, _SHARES = ("ttft", "itl"), ("p50", "p95")
_PERIOD_S = 60.0  # what a cycle stands for if there is no other beside it


def timeline_of_records(
    lines: Iterable[Line], *, title: str, origin: Origin = "records", before: Line | None = None
) -> Timeline:
    """Return the timeline of *lines*, in the order of their time. Each is looked at once and not
    kept: the lines of a week are gigabytes.

    *before* is the line before them: with it, timelines of parts appended to each other are that of
    the whole.
    """
    servers: dict[str, _Server] = {}
    fleet, events, costs = _Fleet(), list[Event](), _Mean()
    first: Line | None = None
    last, mode = before, ""
    for line, since_s in _with_spans_s(lines, before):
        first = first or line
        for row in line["servers"]:
            servers.setdefault(row["name"], _Server()).add(line, row, since_s)
        fleet.add(line)
        costs.add(line.get("totalCost"))
        events += _events(line, last or {})
        mode = line.get("mode") or "" if _periodic(line) else mode
        last = line
    seen = last if first is not None else None
    return Timeline(
        title=title,
        origin=origin,
        started=_started(first) if first else "",
        end_s=seen["t_s"] if seen else 0.0,
        attainment=_Mean.of(server.met for server in servers.values()).value(),
        cost_usd_per_h=costs.value(_CENTS),
        fleet=fleet.fleet(),
        servers=[server.timeline(name) for name, server in servers.items()],
        events=events,
        mode=mode,
        paused=(seen.get("paused") or "") if seen else "",
    )


class _Mean:
    """A mean of what is known of many values."""

    __slots__ = ("count", "total")

    def __init__(self) -> None:
        self.count, self.total = 0, 0.0

    @staticmethod
    def of(means: Iterable[_Mean]) -> _Mean:
        """Return the mean of the values of all *means*."""
        whole = _Mean()
        for one in means:
            whole.count += one.count
            whole.total += one.total
        return whole

    def add(self, value: float | None) -> None:
        if value is not None:
            self.count += 1
            self.total += value

    def value(self, unit: float = 1.0) -> float | None:
        return self.total / self.count / unit if self.count else None


class _Column:
    """Figures as they come, in eight bytes each."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values = array("d")

    def add(self, value: float | None) -> None:
        self._values.append(math.nan if value is None else value)

    def figures(self) -> list[float | None]:
        return [None if math.isnan(value) else value for value in self._values]

    def known(self) -> list[float | None]:
        """Return the figures; none at all if none is known."""
        found = self.figures()
        return found if any(value is not None for value in found) else []


class _Fleet:
    """What all servers have together in each cycle that sees any."""

    def __init__(self) -> None:
        self._t_s: list[float] = []
        self._gpus: dict[str, tuple[_Column, _Column]] = {}
        self._gpus_seen = False
        self._costs, self._backlogs, self._attainments = _Column(), _Column(), _Column()

    def add(self, line: Line) -> None:
        """Take in the cycle of *line*."""
        if not line["servers"]:
            return
        rows = {row["type"]: row for row in line["capacity"]}
        self._gpus_seen |= any(row.get("used") is not None for row in rows.values())
        for kind in [kind for kind in rows if kind not in self._gpus]:
            self._gpus[kind] = (_Column(), _Column())
            for column in self._gpus[kind]:
                for _ in self._t_s:
                    column.add(None)
        self._t_s.append(line["t_s"])
        for kind, (used, available) in self._gpus.items():
            used.add(_used(rows.get(kind)))
            available.add(rows.get(kind, {}).get("available"))
        cost = line.get("totalCost")
        self._costs.add(None if cost is None else cost / _CENTS)
        self._backlogs.add(_sum(row.get("backlog") for row in line["servers"]))
        met = _Mean()
        for row in line["servers"]:
            met.add(_met(row))
        self._attainments.add(met.value())

    def fleet(self) -> Fleet:
        """Return all of it."""
        return Fleet(
            t_s=self._t_s,
            gpus=[
                GpuCounts(type=kind, used=used.figures(), available=available.figures())
                for kind, (used, available) in self._gpus.items()
            ],
            gpus_are="used" if self._gpus_seen else "wanted",
            cost_usd_per_h=self._costs.figures(),
            backlog=self._backlogs.figures(),
            attainment_t_s=self._t_s,
            attainment=self._attainments.figures(),
            attainment_of="servers",
        )


def _events(line: Line, last: Line) -> list[Event]:
    """Return what befell the loop in the cycle of *line*: a start after the first, its failure,
    warnings (when they are new) and GPUs that came or went since the *last* one.
    """
    events = []
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
        # The same few words, thousands of times.
        accelerator=intern(row["accelerator"]),
        replicas=row["replicas"],
        kind=intern(row.get("reasonKind") or ""),
        text=intern(text),
        changed=decided != before,
        held=bool(row.get("held")),
    )


class _Server:
    """What has been seen of one server so far."""

    def __init__(self) -> None:
        self.met = _Mean()
        self._last: Line = {}
        self._t_s: list[float] = []
        self._figures = {name: _Column() for name in ("rpm", "ttft", "itl", "backlog", "kvUsage")}
        self._percentiles = {(of, share): _Column() for of in _LATENCIES for share in _SHARES}
        self._costs = _Mean()
        self._decisions: list[Decision] = []
        # Replicas by accelerator: what the cycle saw, and what it left as wanted.
        self._seen: list[tuple[str, int, int]] = []
        self._asked: list[tuple[str, int]] = []
        self._missed: list[Span] = []

    def add(self, line: Line, row: Line, since_s: float) -> None:
        """Take in what *row* says of the cycle of *line*."""
        at = line["t_s"]
        self._last = row
        self._t_s.append(at)
        for name, column in self._figures.items():
            column.add(row.get(name))
        told = row.get("percentiles") or {}
        for (of, share), column in self._percentiles.items():
            column.add((told.get(of) or {}).get(share))
        cost = row.get("cost")
        self._costs.add(cost)
        self._decisions.append(decisions_of(line, row))
        present = intern(row["currentAccelerator"])
        self._seen.append((present, row["ready"], row["starting"]))
        applied = line.get("applied", True)
        decided = (self._decisions[-1].accelerator, row["replicas"])
        self._asked.append(decided if applied else (present, row["wanted"]))
        met = _met(row)
        self.met.add(met)
        if met is False:
            begun = self._missed and self._missed[-1].end_s == since_s
            start_s = self._missed.pop().start_s if begun else since_s
            self._missed.append(Span(start_s=start_s, end_s=at))

    def timeline(self, name: str) -> ServerTimeline:
        """Return all of it."""
        last, figures = self._last, self._figures
        return ServerTimeline(
            name=name,
            model=last.get("model") or "",
            service_class=last.get("class") or "",
            slo_ttft_ms=last.get("sloTtft") or None,
            slo_itl_ms=last.get("sloItl") or None,
            slo_tps=last.get("sloTps") or None,
            attainment=self.met.value(),
            cost_usd_per_h=self._costs.value(_CENTS),
            traffic=Traffic(
                t_s=self._t_s,
                rate_rpm=figures["rpm"].figures(),
                ttft_ms=self._latencies("ttft"),
                itl_ms=self._latencies("itl"),
            ),
            replicas=self._replicas(),
            state=State(
                t_s=self._t_s,
                backlog=figures["backlog"].figures(),
                kv_cache=figures["kvUsage"].figures(),
            ),
            missed=self._missed,
            decisions=self._decisions,
        )

    def _latencies(self, name: str) -> Latencies:
        return Latencies(
            mean=self._figures[name].figures(),
            p50=self._percentiles[name, "p50"].known(),
            p95=self._percentiles[name, "p95"].known(),
        )

    def _replicas(self) -> Replicas:
        names = dict.fromkeys(
            name
            for (present, _, _), (asked, _) in zip(self._seen, self._asked, strict=True)
            for name in (present, asked)
            if name
        )
        return Replicas(
            t_s=self._t_s,
            by_accelerator=[
                Counts(
                    accelerator=name,
                    wanted=[count if asked == name else 0 for asked, count in self._asked],
                    ready=[ready if seen == name else 0 for seen, ready, _ in self._seen],
                    starting=[count if seen == name else 0 for seen, _, count in self._seen],
                )
                for name in names
            ],
        )


def _periodic(line: Line) -> bool:
    return bool(line.get("trigger", "period") == "period")


def _with_spans_s(lines: Iterable[Line], before: Line | None) -> Iterator[tuple[Line, float]]:
    """Yield each of *lines* with since when it stands: the cycle before it."""
    rest = iter(lines)
    # What the first stands for only the second tells.
    ahead = list(islice(rest, 2))
    if not ahead:
        return
    step_s = ahead[1]["t_s"] - ahead[0]["t_s"] if len(ahead) > 1 else _PERIOD_S
    since_s = max(ahead[0]["t_s"] - step_s, 0.0) if before is None else before["t_s"]
    for line in chain(ahead, rest):
        yield line, since_s
        since_s = line["t_s"]


def _started(first: Line) -> str:
    """Return the time of t_s = 0; "" for virtual time, or if nothing tells it."""
    if first.get("backend") == "sim":
        return ""
    try:
        at = date_of(first["ts"])
    except (KeyError, TypeError, ValueError):
        return ""
    return (at - timedelta(seconds=first["t_s"])).isoformat(timespec="milliseconds")


def _met(row: Line) -> bool | None:
    """Tell whether the mean latencies that were seen are within target, None if none is known."""
    pairs = [
        (row.get(figure), row.get(target))
        for figure, target in (("ttft", "sloTtft"), ("itl", "sloItl"))
    ]
    known = [figure <= target for figure, target in pairs if figure is not None and target]
    return all(known) if known else None


def _used(row: Line | None) -> int | None:
    if row is None:
        return None
    used = row.get("used")
    return row.get("allocated") if used is None else used


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
