"""Where GPUs are short: how much of the load of each server is served, and who moves for that, so
that most is brought, the highest class first. Pure but for the optimizer that is asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loop.optimizer.solvers.core import Effort, OutOfTimeError, Program, minimise
from loop.policies.slo.worth import (
    MET_CENTS_LOWEST,
    in_time_share,
    met_cents,
    met_share,
    served_share,
)
from loop.replacing import replace
from loop.spec import OptimizerData, gpus
from loop.types import Why

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from loop.policies.slo.ask import Asking
    from loop.policies.slo.case import Case
    from loop.spec import ServerData, SystemData
    from loop.types import ServerView

# What a load asks for must have been seen for so long before it moves its server: of answers, the
# short ones end first.
KNOWN_S = 120.0
PAYS_WITHIN_S = 1800.0  # a load is what it is for half an hour or so
DRAIN_S = 30.0  # the old pods stay so long after the new ones are ready
# Of numbers of replicas that serve a load in part, so many are looked at.
PARTS_MAX = 8
# HiGHS need not tell apart what brings nearly as much, nor look for ever.
EFFORT = Effort(gap=1e-3, time_limit_s=60.0, nodes=500, thorough=False)
SAME = 1.0 - 1e-6  # two rates this close are equal
TIE = 1e-3  # of what it costs decides between options that bring as much
SPIKE = 1.15  # of the load of now, a forecast counts up to so much: the next may say another thing
FULL = 0.97  # of what replicas take, so that as many are needed, whatever one of them takes
KEPT_CENTS_PER_H = 1.0  # for replicas that a server must have, and has no load for
# Of the saturation policies, the one that gives no parts, and the one to which classes are alike.
WHOLE, ALL_ALIKE = "None", "RoundRobin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """The rates [requests/min] that servers are sized for that cannot have GPUs for all that comes,
    and those for which there are none at all; movers are to have another accelerator. easy is by
    server and accelerator: so many times what a replica can take it serves half of within the
    targets.
    """

    rates_rpm: Mapping[str, float]
    left_out: Mapping[str, Why]
    movers: frozenset[str]
    easy: Mapping[tuple[str, str], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Option:
    """Replicas of a server on an accelerator that hold *count* GPUs of a type can serve rate_rpm.
    What of that is within the targets is worth met [cents/h], and what is served at all served.
    """

    server: str
    accelerator: str
    kind: str
    count: int
    rate_rpm: float
    met: float
    served: float


def share_out(case: Case, system: SystemData, *, asking: Asking) -> Shares:
    """Return how much of the loads of *system*, of whose servers each has what comes as its load,
    its capacity is to serve.

    Of each class, highest first, as much as can be is served within the targets (RoundRobin: of
    all classes together); and then, late, what is left. A server that has to move, or to start
    replicas, brings less by the time that takes, the more the shorter it has stayed where it is.
    """
    options, easy = _options(case, system, asking=asking)
    taken: dict[str, _Option] = {}
    for level in [*sorted({_level(case, name) for name in options}), None]:
        some = {
            name: [one for one in own if name not in taken or one.met >= taken[name].met]
            for name, own in options.items()
            if level is None or _level(case, name) <= level
        }
        found = _best(system, some, must=taken.keys(), late=level is None)
        if found is None:
            break
        taken = found
    rates, left_out = {}, {}
    for name, server in system.servers.items():
        load, one = server.current.load, taken.get(name)
        if load is None or name not in options:
            continue
        if one is None:
            text = f"capacity: no GPUs are left for its {load.rate_rpm:.0f} requests/min"
            left_out[name] = Why(kind="capacity", text=text)
        elif one.rate_rpm < load.rate_rpm * SAME:
            rates[name] = one.rate_rpm * SAME
    movers = {
        name
        for name, one in taken.items()
        if one.accelerator != system.servers[name].current.accelerator
    }
    return Shares(rates_rpm=rates, left_out=left_out, movers=frozenset(movers), easy=easy)


def away_share(case: Case, name: str, accelerator: str) -> float:
    """Return for how much of the time that replicas of *name* are to be on *accelerator* they are
    not there yet: it stays as long as it has stayed where it is, if that is not long.
    """
    within_s = PAYS_WITHIN_S
    if accelerator != case.snapshot.servers[name].accelerator:
        within_s = min(within_s, max(case.stayed_s(name), 1.0))
    return min(1.0, (case.start_up_s(name, accelerator) + DRAIN_S) / within_s)


def _level(case: Case, name: str) -> int:
    if case.data.optimizer.saturation_policy == ALL_ALIKE:
        return 0
    return case.data.priority(case.snapshot.servers[name].service_class)


def _options(
    case: Case, system: SystemData, *, asking: Asking
) -> tuple[dict[str, list[_Option]], dict[tuple[str, str], float]]:
    """Return what each server may have, whole or in part, and how many times what a replica can
    take it serves half of.
    """
    pairs = {
        f"{accelerator}/{name}": (name, accelerator)
        for name, server in system.servers.items()
        for model, accelerator in system.perf
        if model == server.model
        and (accelerator == server.current.accelerator or not _stays(case, server))
    }
    own = {key: (*pair, None) for key, pair in pairs.items()}
    whole = _rates_rpm(system, own, asking)
    halves = _rates_rpm(_by_halves(system), own, asking)
    easy = {pairs[key]: halves[key] / rate_rpm for key, rate_rpm in whole.items() if key in halves}
    # A replica of a few takes less than one of many that share what comes: asked for each number.
    places: dict[str, tuple[str, str, float]] = {}
    counts: dict[str, tuple[str, str, int, str, int]] = {}
    for key, rate_rpm in whole.items():
        name, accelerator = pairs[key]
        server = system.servers[name]
        each = gpus(system, model=server.model, accelerator=accelerator, replicas=1)
        if each is None:
            continue
        view, (kind, size) = case.snapshot.servers[name], each
        room = system.capacity.get(kind, 0) // size
        if view.gpus_reachable is not None:
            room = min(room, view.gpus_reachable.get(kind, 0) // size)
        parts = system.optimizer.saturation_policy != WHOLE
        for replicas in _counts(server, view, rate_rpm, room, parts=parts):
            place = f"{replicas}/{key}"
            counts[place] = name, accelerator, replicas, kind, size * replicas
            places[place] = name, accelerator, FULL * replicas * rate_rpm
    found: dict[str, list[_Option]] = {}
    for place, rate_rpm in _rates_rpm(system, places, asking).items():
        name, accelerator, replicas, kind, count = counts[place]
        met, served = _worth(
            case,
            system.servers[name],
            accelerator,
            replicas * rate_rpm,
            count=replicas,
            easy=easy.get((name, accelerator), 1.0),
        )
        one = _Option(
            server=name,
            accelerator=accelerator,
            kind=kind,
            count=count,
            rate_rpm=replicas * rate_rpm,
            met=met,
            served=served,
        )
        found.setdefault(name, []).append(one)
    return found, easy


def _stays(case: Case, server: ServerData) -> bool:
    """Return whether *server* is not to move: until its load has been seen for a while."""
    lately = server.current.replicas > 0 and case.known_s(server.name) < KNOWN_S
    return server.keep_accelerator or lately


def _by_halves(system: SystemData) -> SystemData:
    """Return *system* with classes half of whose requests are to meet their targets."""
    classes = {name: replace(one, percentile=0.5) for name, one in system.classes.items()}
    return replace(system, classes=classes)


def _rates_rpm(
    system: SystemData, places: Mapping[str, tuple[str, str, float | None]], asking: Asking
) -> dict[str, float]:
    """Return for each of *places*, a server on an accelerator with a rate (None: its own), what a
    replica can take there [requests/min]; nothing if it cannot serve there.
    """
    asked: dict[str, ServerData] = {}
    for place, (name, accelerator, rate_rpm) in places.items():
        server = system.servers[name]
        load = server.current.load
        if load is not None and rate_rpm is not None:
            load = replace(load, rate_rpm=rate_rpm)
        current = replace(server.current, accelerator=accelerator, load=load)
        asked[place] = replace(server, name=place, keep_accelerator=True, current=current)
    if not asked:
        return {}
    everywhere = replace(system, servers=asked, optimizer=OptimizerData(unlimited=True))
    found = asking.plain(everywhere, asking.settings).allocations
    return {place: one.rate_max_rpm for place, one in found.items() if one.rate_max_rpm > 0.0}


def _counts(
    server: ServerData, view: ServerView, rate_max_rpm: float, room: int, *, parts: bool
) -> list[int]:
    """Return numbers of replicas to look at: as many as serve the load, and, if *parts* are given,
    some that serve it in part, up to as many as there is *room* for.
    """
    least, most = max(1, server.min_replicas), room
    if view.replicas_max is not None:
        most = min(most, view.replicas_max)
    rate_rpm = 0.0 if server.current.load is None else server.current.load.rate_rpm
    whole = max(least, math.ceil(rate_rpm / rate_max_rpm * (1.0 - 1e-9)))
    most = min(most, whole)
    if most < least:
        return []
    if not parts:
        return [whole] if most == whole else []
    some = {round(each) for each in np.linspace(least, most, PARTS_MAX).tolist()}
    some |= {count for count in (view.wanted, most - 1) if least <= count <= most}
    return sorted(some)


def _worth(
    case: Case,
    server: ServerData,
    accelerator: str,
    capacity_rpm: float,
    *,
    count: int,
    easy: float,
) -> tuple[float, float]:
    """Return what is met and what is served in an hour that is like now, less while replicas start
    [cents/h]. What it costs decides only between equals: GPUs are short, not money.

    The load is about that of now, whatever is foreseen: who is lost in one forecast is not
    given up.
    """
    view, perf = case.snapshot.servers[server.name], case.data.perf[server.model, accelerator]
    price = case.data.accelerators[accelerator].cost_cents_per_h * perf.acc_count * count
    load, asked = server.current.load, case.demands.get(server.name)
    rate_rpm = 0.0 if load is None else load.rate_rpm
    if asked is not None:
        rate_rpm = min(rate_rpm, SPIKE * asked.forecast.now)
    if rate_rpm <= 0.0:
        return KEPT_CENTS_PER_H - TIE * min(price, KEPT_CENTS_PER_H), 0.0
    most = 60.0 * (met_cents(case.data, view) or MET_CENTS_LOWEST) * rate_rpm
    late = away_share(case, server.name, accelerator)
    here = min(view.wanted if accelerator == view.accelerator else 0, count)
    kept_rpm = capacity_rpm * here / count
    met = met_share(rate_rpm, kept_rpm, easy=easy)
    met += (1.0 - late) * (met_share(rate_rpm, capacity_rpm, easy=easy) - met)
    # While its queue lasts, all that a server serves is late: GPUs for a part of each of many
    # servers with queues would meet nothing.
    met *= in_time_share(
        _too_many(case, view, capacity_rpm),
        easy * capacity_rpm - rate_rpm,
        within_s=PAYS_WITHIN_S,
    )
    served = served_share(rate_rpm, kept_rpm)
    served += (1.0 - late) * (served_share(rate_rpm, capacity_rpm) - served)
    cost = TIE * min(price, most)
    return most * met - cost, most * served - cost


def _too_many(case: Case, view: ServerView, capacity_rpm: float) -> float:
    """Return how many more requests wait in *view* than *capacity_rpm* serves within its target for
    the TTFT; none without such a target.
    """
    target = case.data.target(service_class=view.service_class, model=view.model)
    if target is None:
        return 0.0
    limits_ms = [one.limit_ms for one in target.percentiles if one.latency == "ttft"]
    if target.slo_ttft_ms > 0.0:
        limits_ms.append(target.slo_ttft_ms)
    if not limits_ms:
        return 0.0
    return max(0.0, view.backlog - capacity_rpm * min(limits_ms) / 60_000.0)


def _best(
    system: SystemData,
    options: Mapping[str, list[_Option]],
    *,
    must: Container[str],
    late: bool,
) -> dict[str, _Option] | None:
    """Return the option of each server with which most is met, or served if it may be *late*; None
    if that is not found.
    """
    names = sorted(options)
    kinds = {kind: place for place, kind in enumerate(sorted(system.capacity))}
    flat = [(place, one) for place, name in enumerate(names) for one in options[name]]
    if not flat:
        return {}
    program = Program(
        owner=np.array([place for place, _ in flat], dtype=np.int64),
        gpus=np.array([one.count for _, one in flat], dtype=np.float64),
        type=np.array([kinds[one.kind] for _, one in flat], dtype=np.int64),
        capacity=np.array([system.capacity[kind] for kind in kinds], dtype=np.float64),
        must=np.array([name in must for name in names], dtype=np.bool_),
    )
    try:
        worth = np.array([one.served if late else one.met for _, one in flat])
        found = minimise(program, -worth, EFFORT)
    except OutOfTimeError:
        return None
    if found is None:
        return None
    return {flat[k][1].server: flat[k][1] for k in found.taken.tolist()}
