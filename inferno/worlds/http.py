"""Services as a world: a collector, an optimizer and an actuator, where the environment says."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from inferno.cli.policies import options_of_policy
from inferno.cli.runs import add_policy_options
from inferno.worlds.kube_options import add_speed_option

if TYPE_CHECKING:
    from inferno.worlds.world import World
    from loop.ports import Policy
    from loop.settings import Settings

TIMEOUT_S = 30.0  # of one request to a service


def add_options(parser: ArgumentParser) -> None:
    """Add the options of this world."""
    services = parser.add_argument_group(
        "services (--backend http)",
        "The services are at $COLLECTOR_HOST/_PORT, $INFERNO_HOST/_PORT (the optimizer) and "
        "$ACTUATOR_HOST/_PORT. The optimizer decides; --set takes drain_s, "
        "prefix_cache_trust, compat and era.",
    )
    add_policy_options(services)
    add_speed_option(services)


def open_world(settings: Settings, options: Namespace, stack: ExitStack) -> World:
    """Return the world behind the services of *settings*; *stack* closes the clients. Raise
    SpecError for bad input.
    """
    from inferno.worlds.world import World, check_speed, data_directory
    from loop.backends.http import HttpBackend, remote_policy
    from loop.backends.http_client import ServiceClient
    from loop.clocks import MonotonicClock, WallEpoch, date_now
    from loop.data import DataSource
    from loop.policies.sped import SpedPolicy
    from loop.schema.reading import read_system
    from loop.services.auth import token_source
    from loop.settings import service_url

    check_speed(options.speed)
    clock, token = MonotonicClock(), token_source(settings)
    places = {
        "collector": service_url(settings.collector_host, settings.collector_port),
        "optimizer": service_url(settings.optimizer_host, settings.optimizer_port),
        "actuator": service_url(settings.actuator_host, settings.actuator_port),
    }
    clients = {
        name: ServiceClient(name, url, timeout_s=TIMEOUT_S, token=token)
        for name, url in places.items()
    }
    for client in clients.values():
        stack.callback(client.close)
    directory, notes = data_directory(settings), list[str]()
    read_system(directory, warn=notes.append)
    # The values are checked where the policy is made.
    set_options: dict[str, Any] = options_of_policy("slo", options.policy_options)
    backend = HttpBackend(collector=clients["collector"], actuator=clients["actuator"], clock=clock)
    policy: Policy = remote_policy(clients["optimizer"], backend=backend, **set_options)
    if options.speed != 1.0:
        policy = SpedPolicy(policy=policy, speed=options.speed)
    return World(
        backend=backend,
        policy=policy,
        data=DataSource(directory, dynamic=settings.dynamic),
        notes=tuple(notes),
        clock=clock,
        epoch=date_now(),
        wall=WallEpoch(clock),
        twin_speed=options.speed,
    )
