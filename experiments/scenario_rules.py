"""A scenario: how the load of each server and the capacity of the world move in a run, whatever the
data set.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from emulator.load import ServerLoad
from emulator.rates import Rates
from emulator.shapes import Curve, constant
from emulator.trace import Replay
from emulator.walk import OfferedLoad, Walk, WalkKind
from twin.spec import Named, Server, SpecError

if TYPE_CHECKING:
    from loop.types import Load

EVERY_TYPE = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRule:
    """How the load of some servers moves. A selector that is "" selects all; place is where an
    error points to.

    The scales multiply the nominal load; *curve* then moves its rate. arrivals, arrival_cv None:
    the server's own. With *rates*, by server, load and curve are those that were measured.
    """

    place: str
    server: str = ""
    service_class: str = ""
    model: str = ""
    curve: Curve = field(default_factory=constant)
    replay: Replay | None = None
    scale: float = 1.0
    in_tokens_scale: float = 1.0
    out_tokens_scale: float = 1.0
    arrivals: Named | None = None
    arrival_cv: float | None = None
    users: int | None = None
    think_s: float = 0.0
    turns: int = 1
    rates: Mapping[str, Rates] | None = None

    def selects(self, server: Server) -> bool:
        """Tell whether *server* is meant."""
        return (
            self.server in ("", server.name)
            and self.service_class in ("", server.service_class)
            and self.model in ("", server.model)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityRule:
    """At t_s, so many GPUs of a type ("*": of each type), given as a number or as a part of what
    there is at t = 0. largest, if given, chooses so many types instead: those with the most GPUs.
    """

    place: str
    t_s: float
    type: str = EVERY_TYPE
    largest: int | None = None
    gpus: int | None = None
    part: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityEvent:
    """At t_s, *gpus* of *type*: the new capacity, or how many of them fail."""

    t_s: float
    type: str
    gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What a scenario file says. Of load rules the first that selects a server is the one for it.

    digest is a hash of the content, the traces it names included; it does not depend on where the
    file lies. A run that is longer than warm_up_s is scored from there on (None: as every run is).
    """

    name: str
    description: str = ""
    digest: str = ""
    disturbance_alpha: float = 0.5
    interval_s: float = 60.0
    hours: float = 1.0
    warm_up_s: float | None = None
    walk: WalkKind = "plain"
    theta: float = 0.2
    load: tuple[LoadRule, ...] = ()
    capacity: tuple[CapacityRule, ...] = ()
    failures: tuple[CapacityRule, ...] = ()


def server_loads(
    scenario: Scenario,
    *,
    servers: Sequence[Server],
    nominal: Mapping[str, Load | None],
    walk: Walk,
    seed: int,
) -> tuple[ServerLoad, ...]:
    """Return the load of each of *servers*, in their order.

    *nominal* is the undisturbed load by server name; it may be missing only for a server that
    replays a trace at the trace's own rate and sizes. Raise SpecError for a rule that selects no
    server and for a missing load.
    """
    for rule in scenario.load:
        if not any(rule.selects(server) for server in servers):
            raise SpecError(
                f"{rule.place}: expected to select a server of the data, found none with "
                f"{_selectors(rule)}"
            )
    return tuple(
        _server_load(
            _rule_for(server, scenario),
            server,
            nominal.get(server.name),
            index=index,
            walk=walk,
            seed=seed,
        )
        for index, server in enumerate(servers)
    )


def capacity_events(scenario: Scenario, capacity: Mapping[str, int]) -> tuple[CapacityEvent, ...]:
    """Return when the capacity of which type becomes how many GPUs, in order of time.

    *capacity* is the GPUs per type at t = 0. Raise SpecError for a type that it does not have.
    """
    return tuple(event for _, event in _events(scenario.capacity, capacity))


def node_failures(scenario: Scenario, capacity: Mapping[str, int]) -> tuple[CapacityEvent, ...]:
    """Return when how many GPUs of which type fail with the pods on them, in order of time; see
    capacity_events.

    A rule for every type takes what a type has; a rule for one type that has fewer GPUs is a
    SpecError.
    """
    failures = []
    for rule, event in _events(scenario.failures, capacity):
        if event.gpus > capacity[event.type] and rule.type != EVERY_TYPE:
            most = f"at most the {capacity[event.type]} GPUs of {event.type}"
            raise SpecError(f"{rule.place}: gpus: expected {most}, found {event.gpus}")
        failures.append(replace(event, gpus=min(event.gpus, capacity[event.type])))
    return tuple(event for event in failures if event.gpus)


def _events(
    rules: Sequence[CapacityRule], capacity: Mapping[str, int]
) -> list[tuple[CapacityRule, CapacityEvent]]:
    events = []
    for rule in sorted(rules, key=lambda rule: rule.t_s):
        if rule.type != EVERY_TYPE and rule.type not in capacity:
            known = ", ".join(sorted(capacity))
            raise SpecError(
                f"{rule.place}: type: expected one of the capacity data ({known}), found "
                f"{rule.type!r}"
            )
        for name in _types(rule, capacity):
            events.append(
                (rule, CapacityEvent(t_s=rule.t_s, type=name, gpus=_gpus(rule, capacity[name])))
            )
    return events


def _types(rule: CapacityRule, capacity: Mapping[str, int]) -> list[str]:
    if rule.largest is not None:
        return sorted(sorted(capacity, key=lambda name: (-capacity[name], name))[: rule.largest])
    return sorted(capacity) if rule.type == EVERY_TYPE else [rule.type]


def _gpus(rule: CapacityRule, at_start: int) -> int:
    if rule.gpus is not None:
        return rule.gpus
    assert rule.part is not None, "a capacity rule has GPUs or a part"
    # A part such as 0.29 of 100 GPUs is 28.999… in floating point and means 29.
    return math.floor(rule.part * at_start + 1e-9)


def _rule_for(server: Server, scenario: Scenario) -> LoadRule:
    return next(
        (rule for rule in scenario.load if rule.selects(server)), LoadRule(place=scenario.name)
    )


def _server_load(
    rule: LoadRule, server: Server, given: Load | None, *, index: int, walk: Walk, seed: int
) -> ServerLoad:
    rates = _rates_of(rule, server)
    traced = rule.replay is not None and rule.replay.rate == rule.replay.tokens == "trace"
    traced = traced or rates is not None
    if given is None and not traced:
        raise SpecError(
            f"{server.name}: currentAlloc.load: expected a nominal load for {rule.place}, found "
            "nothing"
        )
    nominal = OfferedLoad(
        rate_rpm=given.rate_rpm if given else 0.0,
        in_tokens=given.in_tokens if given else 0.0,
        out_tokens=given.out_tokens if given else 0.0,
    )
    if rule.replay is not None:
        nominal = rule.replay.nominal(nominal)
    curve, in_curve, out_curve = rule.curve, constant(), constant()
    if rates is not None:
        nominal = rates.mean
        curve, in_curve, out_curve = rates.curves()
    scaled = OfferedLoad(
        rate_rpm=nominal.rate_rpm * rule.scale,
        in_tokens=nominal.in_tokens * rule.in_tokens_scale,
        out_tokens=nominal.out_tokens * rule.out_tokens_scale,
    )
    return ServerLoad(
        server=server.name,
        index=index,
        seed=seed,
        nominal=scaled,
        curve=curve,
        walk=walk,
        token_distribution=server.token_distribution,
        token_cv=server.token_cv,
        arrivals=server.arrivals if rule.arrivals is None else rule.arrivals,
        arrival_cv=server.arrival_cv if rule.arrival_cv is None else rule.arrival_cv,
        replay=rule.replay,
        users=rule.users,
        think_s=rule.think_s,
        turns=rule.turns,
        in_curve=in_curve,
        out_curve=out_curve,
        counted=rates is not None,
    )


def _rates_of(rule: LoadRule, server: Server) -> Rates | None:
    if rule.rates is None:
        return None
    if server.name not in rule.rates:
        raise SpecError(f"{rule.place}: rates: expected rows of {server.name}, found none")
    return rule.rates[server.name]


def _selectors(rule: LoadRule) -> str:
    given = (("server", rule.server), ("class", rule.service_class), ("model", rule.model))
    return " and ".join(f"{name} {value!r}" for name, value in given if value) or "any name"


# The part of a trace that is replayed is like the whole within this factor; of fewer requests
# chance decides.
UNLIKE, FEW_REQUESTS = 3.0, 20


def trace_notes(scenario: Scenario) -> tuple[str, ...]:
    """Return what the traces of *scenario* say of themselves: a coarse clock, an unlikely rate."""
    traces = [rule.replay.trace for rule in scenario.load if rule.replay is not None]
    return tuple(dict.fromkeys(note for trace in traces for note in trace.notes))


def unlike_parts(loads: Sequence[ServerLoad], *, end_s: float) -> Iterator[str]:
    """Yield a line for each trace of which the part that a run of *end_s* replays has a rate far
    from that of the whole: traces begin with days on which nobody knew the service.
    """
    told: set[int] = set()
    for load in loads:
        replay = load.replay
        if replay is None or replay.offset != "none" or id(replay.trace) in told:
            continue
        trace = replay.trace
        length_s = end_s * load.nominal.rate_rpm / trace.rate_rpm
        usual = trace.rate_rpm / 60.0 * length_s
        if length_s >= trace.span_s or usual < FEW_REQUESTS:
            continue
        times = int(np.searchsorted(trace.times_s, length_s)) / usual
        if not 1.0 / UNLIKE <= times <= UNLIKE:
            told.add(id(trace))
            yield (
                f"trace {trace.name}: the first {length_s:,.0f} s, which {load.server} replays, "
                f"have {times:.2g} times the rate of the whole trace (offset: random begins "
                "elsewhere)"
            )


def unseen_changes(scenario: Scenario, *, end_s: float) -> tuple[str, ...]:
    """Return a line if all that *scenario* changes of load and GPUs comes once a run has ended."""
    times_s: list[float] = [rule.t_s for rule in (*scenario.capacity, *scenario.failures)]
    for rule in scenario.load:
        if rule.replay is not None or rule.rates is not None:
            return ()
        first_s = rule.curve.first_change_s()
        times_s += [] if first_s is None else [first_s]
    if not times_s or min(times_s) < end_s:
        return ()
    return (
        f"{scenario.name}: it first changes at {min(times_s):g} s, and the run ends at {end_s:g} s",
    )
