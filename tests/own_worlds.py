"""A world and a source of metrics of somebody's own, for what takes module:Name."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import ExitStack

from inferno.worlds.world import World, data_directory
from loop.backends.metrics.source import Measurement
from loop.clocks import MonotonicClock, date_now
from loop.data import DataSource
from loop.policies import make_policy
from loop.settings import Settings
from loop.signals.demand import WindowSettings
from loop.signals.pods import ScrapedServer
from loop.testing.fakes import FakeBackend, server_view


class Still:
    """So many servers that become at once what is asked."""

    def add_options(self, parser: ArgumentParser) -> None:
        """Add how many."""
        parser.add_argument("--servers", type=int, default=1)

    def open_world(self, settings: Settings, options: Namespace, _stack: ExitStack) -> World:
        """Return them, each as it is in nobody's data."""
        names = [f"s{number}" for number in range(options.servers)]
        return World(
            backend=FakeBackend([server_view(name) for name in names]),
            policy=make_policy("static"),
            data=DataSource(data_directory(settings), dynamic=settings.dynamic),
            clock=MonotonicClock(),
            epoch=date_now(),
        )


class Mute:
    """A source that tells nothing, over any window."""

    name = "mute"
    at_pods = False

    def __init__(self, *, window: WindowSettings) -> None:
        self.window_s = window.window_s

    def measure(self, _servers: Sequence[ScrapedServer], *, now_s: float) -> Measurement:  # noqa: ARG002 the port
        """Return nothing."""
        return Measurement()

    def close(self) -> None:
        """Hold nothing."""
