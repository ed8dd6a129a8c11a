"""The bound of those who do not scale: every server has what its peak load needs, all the time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from loop.policies.replicas import Options
from loop.policies.slo import DEFAULTS, SloPolicy
from loop.types import Decision, Load, ServerView, Snapshot, Target, Why

if TYPE_CHECKING:
    from loop.spec import SystemData


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticPeakPolicy:
    """Sizes once, for *peak* times the load that the data have of each server, or for *loads*,
    where somebody knows the peaks; accelerator and replicas then stay.
    """

    peak: float = 2.0
    headroom: float = DEFAULTS.headroom
    loads: Mapping[str, Load] = field(default_factory=dict)
    name: str = "static_peak"
    tick_s: float = 60.0

    def __post_init__(self) -> None:
        check = Options(self.name)
        check.number("peak", self.peak, low=0.0, above=True)
        check.number("headroom", self.headroom, low=0.0)

    def start(self) -> dict[str, Target]:
        """Return no targets: nothing is sized yet."""
        return {}

    def decide(
        self, snapshot: Snapshot, data: SystemData, state: Mapping[str, Target]
    ) -> tuple[Decision, Mapping[str, Target]]:
        """Return the targets that were sized first; a server that is new is sized when it comes."""
        new = {name: view for name, view in snapshot.servers.items() if name not in state}
        unserved: Mapping[str, Why] = {}
        if new:
            views = {name: self._at_peak(view, data) for name, view in snapshot.servers.items()}
            slo = SloPolicy(
                headroom=self.headroom,
                hysteresis=0.0,
                drain_s=0.0,
                forecasts=False,
                name=self.name,
            )
            decision, _ = slo.decide(replace(snapshot, servers=views), data, slo.start())
            unserved = decision.unserved
            state = {**decision.targets, **state}
        targets = {name: self._target(view, state[name]) for name, view in snapshot.servers.items()}
        kept = {
            name: one
            for name, one in state.items()
            if name in snapshot.servers and not targets[name].held
        }
        return Decision(targets=targets, unserved=unserved), kept

    def _at_peak(self, view: ServerView, data: SystemData) -> ServerView:
        told = data.servers.get(view.name)
        load = self.loads.get(view.name)
        if load is None and told is not None and told.current.load is not None:
            nominal = told.current.load
            load = replace(nominal, rate_rpm=self.peak * nominal.rate_rpm)
        if load is None and view.load is not None:
            load = replace(view.load, rate_rpm=self.peak * view.load.rate_rpm)
        return replace(view, load=load, backlog=0)

    def _target(self, view: ServerView, sized: Target) -> Target:
        if view.hold is not None or sized.held:
            why = view.hold or sized.why
            return Target(server=view.name, pools=view.pools, why=why, held=True)
        if view.load is None and sized.pools != view.pools:
            why = Why(kind="held-unknown", text="the load is not known")
            return Target(server=view.name, pools=view.pools, why=why, held=True)
        return sized
