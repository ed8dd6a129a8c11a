"""From a configuration to everything a run needs, read and checked: no simulation happens here."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from emulator.load import ServerLoad
from emulator.walk import Walk
from experiments.config import SHORTEST_S, RunConfig, canonical_json, digest_files, run_id
from experiments.scenario import (
    CapacityEvent,
    Scenario,
    capacity_events,
    node_failures,
    read_scenario,
    server_loads,
)
from experiments.scenario_rules import trace_notes, unlike_parts, unseen_changes
from experiments.world import build_cluster_spec
from loop.policies import code_digest, make_policy
from loop.ports import Policy
from loop.schema.reading import read_system
from loop.spec import SloTarget, SystemData
from twin.arrivals import ARRIVAL_PROCESSES
from twin.engine.kv_cache import KV_CACHES
from twin.engine.port import ENGINES
from twin.own_code import has_file, module_of, own_code
from twin.registry import module_named
from twin.registry import resolve as resolve_extension
from twin.serving.routers import ROUTERS
from twin.spec import ClusterSpec, Named, SpecError

_OURS: Mapping[str, Container[object]] = {
    "engine": ENGINES,
    "kv_cache": KV_CACHES,
    "router": ROUTERS,
    "arrival process": ARRIVAL_PROCESSES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """A run that is ready to begin: its resolved configuration, its name, and all that was read for
    it.

    targets are by server, in the order of the world's servers. warm_up_s is
    the scenario's. notes are lines that stand beside
    the results.
    """

    config: RunConfig
    run_id: str
    system: SystemData
    world: ClusterSpec
    policy: Policy
    loads: tuple[ServerLoad, ...]
    capacity_events: tuple[CapacityEvent, ...]
    node_failures: tuple[CapacityEvent, ...]
    targets: tuple[SloTarget | None, ...]
    warm_up_s: float | None
    notes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the servers, in order."""
        return tuple(server.name for server in self.world.servers)


def read_sources(config: RunConfig) -> Sources:
    """Read and check all that *config* names. Raise SpecError, one line, for whatever is wrong with
    any of it.
    """
    policy = make_policy(config.policy, **dict(config.policy_options))
    scenario = read_scenario(config.scenario)
    config = resolve(config, scenario, policy)
    notes: list[str] = []
    system = read_system(config.data, warn=notes.append)
    world, world_notes = build_cluster_spec(system, config.data, truth=config.truth)
    world = _sampled_for(policy, world)
    assert config.hours is not None, "resolved"
    unseen = unseen_changes(scenario, end_s=3600.0 * config.hours)
    loads = server_loads(
        scenario,
        servers=world.servers,
        nominal={name: server.current.load for name, server in system.servers.items()},
        walk=_walk(config),
        seed=config.seed,
    )
    said = [*trace_notes(scenario), *unlike_parts(loads, end_s=3600.0 * config.hours), *unseen]
    return Sources(
        config=config,
        run_id=_run_id(
            config, scenario, policy, extensions_digest=_extensions_digest(world, loads)
        ),
        system=system,
        world=world,
        policy=policy,
        loads=loads,
        capacity_events=capacity_events(scenario, world.capacity),
        node_failures=node_failures(scenario, world.capacity),
        targets=tuple(
            system.target(service_class=server.service_class, model=server.model)
            for server in world.servers
        ),
        warm_up_s=scenario.warm_up_s,
        notes=tuple(dict.fromkeys([*notes, *world_notes, *said])),
    )


def _sampled_for(policy: Policy, world: ClusterSpec) -> ClusterSpec:
    """Return *world* sampled as often as *policy* needs it, and with the load over the window that
    it asks for: an autoscaler that needs more brings a scraper and a query of its own. Raise
    SpecError for samples that would take for ever.
    """
    times = world.world
    samples_s = getattr(policy, "samples_s", None) or inf
    if samples_s < SHORTEST_S:
        expected = f"expected samples of pods every {SHORTEST_S:g} s or more"
        raise SpecError(f"policy {policy.name}: {expected}, found every {samples_s:g} s")
    interval_s = min(samples_s, times.scrape_interval_s)
    window_s = getattr(policy, "load_window_s", None) or times.window_s
    times = replace(times, scrape_interval_s=interval_s, window_s=window_s)
    return replace(world, world=times)


def resolve(config: RunConfig, scenario: Scenario, policy: Policy) -> RunConfig:
    """Fill in what was not given: the hash, the records and the tables carry the figures that were
    in force.
    """

    def first(given: float | None, default: float) -> float:
        return float(default if given is None else given)

    return replace(
        config,
        disturbance_alpha=first(config.disturbance_alpha, scenario.disturbance_alpha),
        interval_s=first(config.interval_s, scenario.interval_s),
        period_s=first(config.period_s, policy.tick_s),
        hours=first(config.hours, scenario.hours),
        walk=config.walk or scenario.walk,
        theta=first(config.theta, scenario.theta),
    )


def _walk(config: RunConfig) -> Walk:
    assert config.walk is not None, "resolved"
    assert config.disturbance_alpha is not None, "resolved"
    assert config.theta is not None, "resolved"
    return Walk(kind=config.walk, alpha=config.disturbance_alpha, theta=config.theta)


def _run_id(
    config: RunConfig, scenario: Scenario, policy: Policy, *, extensions_digest: str
) -> str:
    return run_id(
        config,
        data_digest=digest_files(config.data.glob("*.json")),
        truth_digest=digest_files([config.truth] if config.truth else []),
        scenario_digest=scenario.digest,
        policy_digest=_policy_digest(config, policy),
        extensions_digest=extensions_digest,
    )


def _extensions_digest(world: ClusterSpec, loads: Sequence[ServerLoad]) -> str:
    """Return a hash of the code of what data and scenario name that is not ours; "" of nothing."""
    engines = world.engines.values()
    named: list[tuple[str, Named]] = [
        *(("engine", one.engine) for one in engines),
        *(("kv_cache", one.kv_cache) for one in engines),
        *(("router", one.router) for one in world.servers),
        *(("arrival process", one.arrivals) for one in world.servers),
        *(("arrival process", one.arrivals) for one in loads),
    ]
    texts = {(kind, one) for kind, one in named if isinstance(one, str) and one not in _OURS[kind]}
    own = [
        *(resolve_extension(one, kind=kind, known={}) for kind, one in texts),
        *(one for _, one in named if not isinstance(one, str)),
    ]
    # A text may lead to an object of another module, which was only given figures there.
    modules = {*map(module_of, own), *(module_named(one, kind=kind) for kind, one in texts)}
    digests = [own_code(one).digest for one in modules if has_file(one)]
    return canonical_json(sorted(digests)) if digests else ""


def _policy_digest(config: RunConfig, policy: Policy) -> str:
    """Return a hash of the code of *policy* and, of an object, of what it was made with: of the
    others the settings tell that.
    """
    digest = code_digest(policy, *config.own_policies)
    return digest if isinstance(config.policy, str) else f"{digest} {policy!r}"
