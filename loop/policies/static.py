"""The simplest baseline: every server keeps what it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loop.types import Decision, Snapshot, Target, Why

if TYPE_CHECKING:
    from loop.spec import SystemData


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticPolicy:
    """Keeps accelerator, replicas and max batch of every server as they are."""

    name: str = "static"
    tick_s: float = 60.0

    def start(self) -> None:
        """Return no state: this policy remembers nothing."""

    def decide(self, snapshot: Snapshot, data: SystemData, state: None) -> tuple[Decision, None]:  # noqa: ARG002 the port
        """Return the present as the target."""
        targets = {
            name: Target(
                server=name,
                pools=view.pools,
                why=Why(kind="unchanged", text="static"),
                held=True,
            )
            for name, view in snapshot.servers.items()
        }
        return Decision(targets=targets), None
