"""The twin as a world: its options, and the simulated cluster with its load, in real time or
faster.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from typing import TYPE_CHECKING

from inferno.cli.policies import POLICY_HELP, OnePolicy, options_of_policy
from inferno.cli.runs import add_policy_options

if TYPE_CHECKING:
    from inferno.worlds.world import World
    from loop.settings import Settings


def add_options(parser: ArgumentParser) -> None:
    """Add the options of this world."""
    world = parser.add_argument_group("the twin (--backend sim)")
    world.add_argument(
        "--scenario", help="the load: a ready scenario or a YAML file (default disturbed)"
    )
    world.add_argument(
        "--alpha", type=float, help="disturbance of the load, 0 to 1 (default: the scenario's)"
    )
    world.add_argument(
        "--interval",
        type=float,
        metavar="S",
        help="seconds between disturbances (default: the scenario's)",
    )
    world.add_argument("--seed", type=int, help="everything random follows from it (default 1)")
    world.add_argument(
        "--metrics",
        choices=("measured", "labels"),
        help="what the loop sees: what a scraper would measure (default), or labels of the load",
    )
    world.add_argument(
        "--speed", type=float, default=1.0, help="simulated seconds per second (default 1)"
    )
    world.add_argument("--policy", action=OnePolicy, help=POLICY_HELP)
    add_policy_options(world)


def open_world(settings: Settings, options: Namespace, _stack: ExitStack) -> World:
    """Return the twin with its load, at time 0. Raise SpecError for bad input."""
    import simpy

    from experiments.config import RunConfig
    from experiments.run import start_world
    from experiments.sources import read_sources
    from inferno.worlds.world import World, check_speed, data_directory
    from loop.backends.sim import SimBackend, SimWorld
    from loop.clocks import MonotonicClock
    from loop.controller import SIMULATED_EPOCH
    from loop.data import DataSource

    check_speed(options.speed)
    given = {
        "scenario": options.scenario,
        "policy": options.policy,
        "seed": options.seed,
        "metrics": options.metrics,
    }
    sources = read_sources(
        RunConfig(
            data=data_directory(settings),
            disturbance_alpha=options.alpha,
            interval_s=options.interval,
            policy_options=tuple(
                sorted(options_of_policy(options.policy or "slo", options.policy_options).items())
            ),
            **{name: value for name, value in given.items() if value is not None},
        )
    )
    env = simpy.Environment()
    cluster, feeder = start_world(env, sources, until_s=None)
    return World(
        backend=SimBackend(
            cluster, metrics=sources.config.metrics, offered_loads=feeder.offered_loads
        ),
        policy=sources.policy,
        data=DataSource(sources.config.data, dynamic=settings.dynamic),
        notes=sources.notes,
        clock=MonotonicClock(speed=options.speed),
        epoch=SIMULATED_EPOCH,
        speed=options.speed,
        advance=SimWorld(env).advance,
    )
