"""What a run truly asks for, and what each accelerator sustains of it: requests and tokens of every
server by slots of time, from the load itself. What no policy may know; pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from emulator.load import ServerLoad, batches
from experiments.columns import Columns, Floats
from experiments.requests import requests_of
from experiments.sources import Sources
from loop.optimizer.cache import SizingCache
from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.rules.ours import OURS
from loop.optimizer.sizing import size_all
from loop.spec import ServerData
from loop.types import Load

START_UP_MARGIN = 1.5  # standard deviations by which a plan asks for pods earlier than their mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One accelerator for one server: what a replica sustains within the targets, holds and costs.

    lead_s is how long before it must be ready a replica is to be asked for; drain_s how long one
    that ends still holds its GPUs.
    """

    accelerator: str
    type: str
    gpus: int
    max_batch: int
    rate_rps: float
    cost_cents_per_h: float
    lead_s: float
    drain_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one server is asked for: arrivals per slot of slot_s; work_rps, the same as a rate of
    requests of mean length, averaged over the time that a request stays.

    choices are the accelerators that can serve it; the first is the one that it has.
    """

    server: str
    slot_s: float
    arrivals: Floats
    work_rps: Floats
    choices: tuple[Choice, ...]


def true_demand(sources: Sources, *, slot_s: float) -> tuple[Demand, ...]:
    """Return the demand of each server over the whole run, in their order."""
    slots = math.ceil(sources.config.duration_s / slot_s)
    seen = [_arrivals(load, sources, slot_s=slot_s, slots=slots) for load in sources.loads]
    return _demand(sources, seen, slot_s=slot_s)


def seen_demand(sources: Sources, requests: Columns, *, slot_s: float) -> tuple[Demand, ...]:
    """Return the demand of each server as its *requests* tell it."""
    slots = math.ceil(sources.config.duration_s / slot_s)
    sums = np.zeros((3, len(sources.names), slots))
    # Some at a time: what is reckoned of all would be as large as the run.
    for block in requests_of(requests).blocks(len(sources.names)):
        servers = slice(block.first, block.last)
        cells = (block.last - block.first) * slots
        for part in block.parts():
            slot = np.minimum((part["arrival_s"] // slot_s).astype(np.int64), slots - 1)
            cell = (part["server"].astype(np.int64) - block.first) * slots + slot
            for of, weights in zip(
                sums, (None, part["prompt_tokens"], part["output_tokens"]), strict=True
            ):
                # Whole numbers: in whatever order they are added up, the sum is the same.
                of[servers] += np.bincount(cell, weights, minlength=cells).reshape(-1, slots)
    return _demand(sources, list(zip(*sums, strict=True)), slot_s=slot_s)


def _demand(
    sources: Sources, seen: Sequence[tuple[Floats, Floats, Floats]], *, slot_s: float
) -> tuple[Demand, ...]:
    choices = _choices(
        sources,
        {
            load.server: _mean_load(arrivals, in_tokens, out_tokens, slot_s=slot_s)
            for load, (arrivals, in_tokens, out_tokens) in zip(sources.loads, seen, strict=True)
        },
    )
    found = []
    for load, (arrivals, _, out_tokens) in zip(sources.loads, seen, strict=True):
        own = choices[load.server]
        total = arrivals.sum()
        work = out_tokens * (total / out_tokens.sum()) if total else arrivals
        stay_s = max((choice.drain_s for choice in own[:1]), default=0.0)
        found.append(
            Demand(
                server=load.server,
                slot_s=slot_s,
                arrivals=arrivals,
                work_rps=_trailing_mean(work, stay_s / slot_s) / slot_s,
                choices=own,
            )
        )
    return tuple(found)


def _arrivals(
    load: ServerLoad, sources: Sources, *, slot_s: float, slots: int
) -> tuple[Floats, Floats, Floats]:
    """Return requests, and the tokens of their prompts and answers, of each slot."""
    assert sources.config.interval_s is not None, "resolved"
    columns = np.zeros((3, slots))
    for batch in batches(
        load, interval_s=sources.config.interval_s, until_s=sources.config.duration_s
    ):
        slot = np.minimum((batch.times_s // slot_s).astype(np.int64), slots - 1)
        columns[0] += np.bincount(slot, minlength=slots)
        columns[1] += np.bincount(slot, weights=batch.prompt_tokens, minlength=slots)
        columns[2] += np.bincount(slot, weights=batch.output_tokens, minlength=slots)
    return columns[0], columns[1], columns[2]


def _mean_load(
    arrivals: Floats, in_tokens: Floats, out_tokens: Floats, *, slot_s: float
) -> Load | None:
    total = float(arrivals.sum())
    if not total:
        return None
    return Load(
        rate_rpm=60.0 * total / (len(arrivals) * slot_s),
        in_tokens=float(in_tokens.sum()) / total,
        out_tokens=float(out_tokens.sum()) / total,
    )


def _trailing_mean(values: Floats, slots: float) -> Floats:
    """Return, for each slot, the mean over it and the *slots* before it (a fraction counts so
    much).
    """
    whole, part = int(slots), slots - int(slots)
    kernel = np.array([1.0] * (whole + 1) + ([part] if part else []))
    found: Floats = np.convolve(values, kernel / kernel.sum())[: len(values)]
    return found


def _choices(sources: Sources, loads: Mapping[str, Load | None]) -> dict[str, tuple[Choice, ...]]:
    """Return the accelerators that can serve each server at its mean load, its own first; of the
    batch that the data derive and the present one, that which sustains more.
    """
    servers = [
        replace(server, current=replace(server.current, load=loads[name]))
        for name, server in sources.system.servers.items()
    ]
    present = [replace(one, max_batch=max(one.max_batch, one.current.max_batch)) for one in servers]
    found: dict[str, dict[str, Choice]] = {server.name: {} for server in servers}
    for sized in (servers, present):
        for name, choice in _sized(sources, sized, loads):
            best = found[name].get(choice.accelerator)
            if best is None or choice.rate_rps > best.rate_rps:
                found[name][choice.accelerator] = choice
    chosen = {}
    for server in servers:
        own = server.current.accelerator
        kept = [
            choice
            for choice in found[server.name].values()
            if choice.accelerator == own or not server.keep_accelerator
        ]
        chosen[server.name] = tuple(sorted(kept, key=lambda choice: choice.accelerator != own))
    return chosen


def _sized(
    sources: Sources, servers: Sequence[ServerData], loads: Mapping[str, Load | None]
) -> Iterator[tuple[str, Choice]]:
    """Yield what each accelerator sustains of each of *servers*, by the name of the server."""
    settings = OptimizerSettings(rules=OURS, headroom=0.0)
    table = size_all(sources.system, settings, servers=servers, cache=SizingCache())
    world = sources.world.world
    waits_s = world.actuation_delay.mean_s + world.scheduling_delay.mean_s
    itl_ms = table.means(np.arange(len(table.server))).itl
    for row, number in enumerate(table.server):
        one, server = table.candidate(row), servers[int(number)]
        if not one.accelerator or one.rate_max_rpm <= 0.0:
            continue
        start_up = sources.world.engines[server.model, one.accelerator].start_up
        load = loads[server.name]
        yield (
            server.name,
            Choice(
                accelerator=one.accelerator,
                type=one.type,
                gpus=one.units_per_replica,
                max_batch=one.max_batch,
                rate_rps=one.rate_max_rpm / 60.0,
                cost_cents_per_h=table.unit_cost(row),
                lead_s=waits_s + start_up.mean_s * (1.0 + START_UP_MARGIN * start_up.cv),
                drain_s=float(itl_ms[row]) * load.out_tokens / 1000.0 if load else 0.0,
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PerfectScaler:
    """The fewest GPUs that serve each slot's work within the targets, had pods no start-up: at the
    busiest instant, and on the mean.
    """

    gpus_peak: int
    gpus_mean: float


def perfect_scaler(demand: tuple[Demand, ...]) -> PerfectScaler:
    """Return what a scaler without delay, that knows every arrival, needs for this load."""
    total = sum((_fewest_gpus(one) for one in demand), np.zeros(1))
    return PerfectScaler(gpus_peak=int(total.max()), gpus_mean=float(total.mean()))


def _fewest_gpus(demand: Demand) -> Floats:
    if not demand.choices:
        return np.zeros(len(demand.work_rps))
    fewest: Floats = np.min(
        [
            choice.gpus * np.ceil(demand.work_rps / choice.rate_rps - 1e-9)
            for choice in demand.choices
        ],
        axis=0,
    )
    return fewest
