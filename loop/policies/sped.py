"""A policy over a world whose time passes faster than that of the loop: a twin that is served at a
speed. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loop.replacing import replace

if TYPE_CHECKING:
    from loop.ports import Policy
    from loop.spec import SystemData
    from loop.types import Decision, PodView, ServerView, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class SpedPolicy:
    """Shows *policy* the times and durations of a snapshot in seconds of the world, *speed* times
    those of the loop.

    Rates are the world's already, and so are the durations in the options of a policy and in the
    data: draining a backlog in a minute of the loop would need *speed* times the replicas.
    """

    policy: Policy
    speed: float

    @property
    def name(self) -> str:
        """Return the word after --policy."""
        return self.policy.name

    @property
    def tick_s(self) -> float:
        """Return the period the policy was made for [s]."""
        return self.policy.tick_s

    def start(self) -> Any:
        """Return the state before the first decision."""
        return self.policy.start()

    def decide(self, snapshot: Snapshot, data: SystemData, state: Any) -> tuple[Decision, Any]:
        """Return the decision of the policy and its next state."""
        return self.policy.decide(in_world_time(snapshot, speed=self.speed), data, state)


def in_world_time(snapshot: Snapshot, *, speed: float) -> Snapshot:
    """Return *snapshot* with its times and durations in seconds of a world that is *speed* times as
    fast as the loop.
    """
    return replace(
        snapshot,
        now_s=snapshot.now_s * speed,
        window_s=_times(snapshot.window_s, speed),
        scrape_interval_s=_times(snapshot.scrape_interval_s, speed),
        servers={name: _server(view, speed) for name, view in snapshot.servers.items()},
    )


def _server(view: ServerView, speed: float) -> ServerView:
    missing = view.missing
    return replace(
        view,
        load_age_s=_times(view.load_age_s, speed),
        sample_age_s=_times(view.sample_age_s, speed),
        percentiles_age_s=_times(view.percentiles_age_s, speed),
        grace_s=_times(view.grace_s, speed),
        start_up_s=_times(view.start_up_s, speed),
        missing=missing and replace(missing, waited_s=missing.waited_s * speed),
        gauges=tuple(one._replace(at_s=one.at_s * speed) for one in view.gauges),
        pods=tuple(_pod(pod, speed) for pod in view.pods),
    )


def _pod(pod: PodView, speed: float) -> PodView:
    return replace(
        pod,
        since_s=pod.since_s * speed,
        created_s=pod.created_s * speed,
        sample_age_s=_times(pod.sample_age_s, speed),
    )


def _times(seconds: float | None, speed: float) -> float | None:
    return None if seconds is None else seconds * speed
