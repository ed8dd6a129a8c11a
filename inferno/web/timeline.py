"""The one form in which everything that has a time axis reaches a browser: a run, the records of a
live loop, the live page. docs/report.md says what each field is for; static/draw.js draws it.

Every block has a time axis of its own, so that figures by the minute, by the cycle and by the event
stand beside each other, and so that a later part can be appended to each (`mergeTimeline` in
draw.js). Times are seconds after the start, null is "not known", and the names carry the units.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Literal

FORMAT = 1
"""Counted up when a field changes its meaning or goes; draw.js refuses what it does not know."""

Figures = Sequence[float | None]
Origin = Literal["run", "records", "live"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """TTFT or ITL of a server [ms] at each instant of the block that it is in; empty where it is
    not known at all.
    """

    mean: Figures = ()
    p50: Figures = ()
    p95: Figures = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What a server was sent and how fast it answered, from t_s on."""

    t_s: Sequence[float] = ()
    rate_rpm: Figures = ()
    ttft_ms: Latencies = Latencies()
    itl_ms: Latencies = Latencies()


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Replicas of a server on one accelerator, at each instant of Replicas.t_s."""

    accelerator: str
    wanted: Figures
    ready: Figures
    starting: Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """Replicas of a server by accelerator; a count holds from its instant to the next."""

    t_s: Sequence[float] = ()
    by_accelerator: Sequence[Counts] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What waits at a server [requests], and the share of its KV cache that is in use, 0 to 1."""

    t_s: Sequence[float] = ()
    backlog: Figures = ()
    kv_cache: Figures = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a cycle decided of a server: replicas on an accelerator, and why.

    kind and text are those of loop.types.Why. changed says that it differs from what was wanted
    before, held that nothing was asked for.
    """

    t_s: float
    accelerator: str
    replicas: int
    kind: str
    text: str
    changed: bool
    held: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """From start_s to before end_s."""

    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PercentileTarget:
    """A target of a percentile: of latency ("ttft" or "itl"), at most limit_ms."""

    latency: str
    percentile: float
    limit_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTimeline:
    """One server. Targets are None where none is set; attainment and cost are those of the whole
    time, None where they are not known.
    """

    name: str
    model: str = ""
    service_class: str = ""
    slo_ttft_ms: float | None = None
    slo_itl_ms: float | None = None
    slo_tps: float | None = None
    slo_percentiles: Sequence[PercentileTarget] = ()
    attainment: float | None = None
    cost_usd_per_h: float | None = None
    traffic: Traffic = Traffic()
    replicas: Replicas = Replicas()
    state: State = State()
    missed: Sequence[Span] = ()
    decisions: Sequence[Decision] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuCounts:
    """GPUs of one type at each instant of Fleet.t_s: those in use, and those that there are."""

    type: str
    used: Figures
    available: Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All servers together. attainment is the share within target since the instant before, and
    attainment_of says of what: requests, or servers. gpus_are says whether pods use them, or the
    plan asks for them where nobody tells what pods use.
    """

    t_s: Sequence[float] = ()
    gpus: Sequence[GpuCounts] = ()
    gpus_are: Literal["used", "wanted"] = "used"
    cost_usd_per_h: Figures = ()
    backlog: Figures = ()
    attainment_t_s: Sequence[float] = ()
    attainment: Figures = ()
    attainment_of: Literal["requests", "servers"] = "requests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What befell the loop or the world at t_s: kind is "error" (a cycle failed), "warning",
    "capacity" (GPUs came or went), "restart", or what a live page calls it.
    """

    t_s: float
    kind: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """A run, or a part of what a loop did.

    origin says whose figures these are: "run" counts every request, "records" and "live" are what
    the loop saw. started is the time of t_s = 0 (ISO 8601), "" for virtual time. Overall attainment
    and cost are None where they are not known. mode is that of the latest cycle that nobody asked
    for, "act" or "advise", and paused why an acting loop asked for nothing in its latest cycle.
    """

    title: str
    origin: Origin
    started: str = ""
    end_s: float = 0.0
    attainment: float | None = None
    cost_usd_per_h: float | None = None
    fleet: Fleet = Fleet()
    servers: Sequence[ServerTimeline] = ()
    events: Sequence[Event] = ()
    mode: str = ""
    paused: str = ""
    format: int = FORMAT


def as_json(value: object) -> str:
    """Return *value*, made of the classes above, as strict JSON: no figure is NaN or infinite."""
    return json.dumps(
        plain(value), allow_nan=False, ensure_ascii=False, sort_keys=False, separators=(",", ":")
    )


def plain(value: object, *, dollars: bool = False) -> object:
    """Return *value* in the types of JSON, floats of five digits at most: more is not seen. Of
    *dollars* the cents are: pages and tables show them.
    """
    if isinstance(value, float):
        return _short(value, digits=2 if dollars else 1) if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if is_dataclass(value):
        return {
            one.name: plain(getattr(value, one.name), dollars="_usd" in one.name)
            for one in fields(value)
        }
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    assert isinstance(value, Sequence), f"no form of JSON: {type(value)}"
    return [plain(item, dollars=dollars) for item in value]


def _short(value: float, *, digits: int) -> float | int:
    """Return *value* with five digits, and at least *digits* of them after the point."""
    whole = round(value)
    if value == whole:
        return whole
    # Times of hours keep their tenths of a second.
    return round(value, digits) if abs(value) >= 10.0 ** (5 - digits) else float(f"{value:.5g}")
