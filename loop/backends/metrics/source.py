"""What a backend asks for figures of servers: the port, its answer, and the source without any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from loop.signals.demand import Figures
from loop.signals.names import Names
from loop.signals.pods import ScrapedServer


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Figures of servers by name. error: why the source as a whole told nothing; empty when it
    answered.
    """

    figures: Mapping[str, Figures] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The names of the metrics that pods show, by server. problems: why none are known of which
    server; elsewhere: by what options those would be found that have none; error: why the source
    told of none at all.
    """

    names: Mapping[str, frozenset[str]] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


@runtime_checkable
class ShowsNames(Protocol):
    """A source that can tell which metrics there are, so that what is missing can be told."""

    @property
    def table(self) -> Names:
        """Return the names that it reads."""
        ...

    def show_names(self, servers: Sequence[ScrapedServer]) -> Shown:
        """Return the names of the metrics of *servers* that it reads, and of others that tell of
        requests or tokens. A source that fails says so in its answer, and does not raise.
        """
        ...


class MetricsSource(Protocol):
    """Where the load and the latencies of servers come from."""

    @property
    def name(self) -> str:
        """Return the word by which records name this source."""
        ...

    @property
    def at_pods(self) -> bool:
        """Tell whether it learns from pods only: of a server without pods it can then never tell
        that requests come.
        """
        ...

    def measure(self, servers: Sequence[ScrapedServer], *, now_s: float) -> Measurement:
        """Return what is known of *servers* now. A source that fails says so in its answer, and
        does not raise.
        """
        ...

    def close(self) -> None:
        """Let go of connections and threads."""
        ...


class LabelsOnly:
    """No source: the labels of the Deployments tell the load."""

    name = "labels"
    at_pods = False

    def measure(
        self,
        servers: Sequence[ScrapedServer],  # noqa: ARG002 the port
        *,
        now_s: float,  # noqa: ARG002 the port
    ) -> Measurement:
        """Return nothing."""
        return Measurement()

    def close(self) -> None:
        """Hold nothing."""
