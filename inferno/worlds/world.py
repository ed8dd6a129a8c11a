"""What a controller runs over, whichever world it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from loop.controller import Pause
from loop.errors import SpecError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from contextlib import ExitStack

    from loop.backends.kube.lease import Lease
    from loop.data import DataSource
    from loop.ports import Backend, Clock, Epoch, Policy
    from loop.settings import Settings


SPEED_MAX = 1e6  # eleven days in a second


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A backend with its policy and data, and whose time passes how fast.

    clock has the world's seconds, speed of them in one of the machine's, and epoch is the date of
    its second 0. Of a cluster that is a twin at a speed, twin_speed seconds pass in one of clock's.
    advance brings a simulated world to a time; the time of others passes by itself. With a lease
    the controller acts only while it holds that, and never while people pause it. wall follows the
    clock of the machine if dates are real ones. notes are what the data leave open, a line each.
    """

    backend: Backend
    policy: Policy
    data: DataSource
    clock: Clock
    epoch: datetime
    notes: tuple[str, ...] = ()
    speed: float = 1.0
    twin_speed: float = 1.0
    advance: Callable[[float], None] | None = None
    lease: Lease | None = None
    pause: Pause = field(default_factory=Pause)
    wall: Epoch | None = None


class Worlds(Protocol):
    """What --backend names: a kind of world with options of its own. A module is one."""

    def add_options(self, parser: ArgumentParser, /) -> None:
        """Add the options of this world."""
        ...

    def open_world(self, settings: Settings, options: Namespace, stack: ExitStack, /) -> World:
        """Return the world that *settings* and *options* name; *stack* closes what it needs. Raise
        SpecError for bad input.
        """
        ...


def data_directory(settings: Settings) -> Path:
    """Return the data directory of *settings*, else that of the sample system."""
    from experiments.config import RunConfig, shipped

    return shipped(settings.data_path) if settings.data_path else RunConfig().data


def check_speed(speed: float) -> float:
    """Return *speed*. Raise SpecError unless it is a number > 0 that time can pass at."""
    if not (math.isfinite(speed) and 0 < speed <= SPEED_MAX):
        raise SpecError(f"speed: expected a number > 0 and <= {SPEED_MAX:g}, found {speed:g}")
    return speed
