"""What the Kubernetes backend asks for figures of servers: the port, its answer, and the source
that has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from loop.backends.kube.read import Server
from loop.signals.window import Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Figures of servers by name. error: why the source as a whole told nothing; empty when it
    answered.
    """

    figures: Mapping[str, Figures] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    error: str = ""


class MetricsSource(Protocol):
    """Where the load and the latencies of servers come from."""

    @property
    def at_pods(self) -> bool:
        """Tell whether it learns from pods only: of a server without pods it can then never tell
        that requests come.
        """
        ...

    def measure(self, servers: Sequence[Server], *, now_s: float) -> Measurement:
        """Return what is known of *servers* now. A source that fails says so in its answer, and
        does not raise.
        """
        ...

    def close(self) -> None:
        """Let go of connections and threads."""
        ...


class LabelsOnly:
    """No source: the labels of the Deployments tell the load."""

    at_pods = False

    def measure(self, servers: Sequence[Server], *, now_s: float) -> Measurement:  # noqa: ARG002 the port
        """Return nothing."""
        return Measurement()

    def close(self) -> None:
        """Hold nothing."""
