"""Pods that are only there: of Deployments that the twin does not simulate, and of those that it
cannot.
"""

from __future__ import annotations

from dataclasses import dataclass

from twin.serving.pod import PodPhase

START_S = 1.0
END_S = 1.0


@dataclass(slots=True, eq=False)
class StandIn:
    """One such pod; like a simulated one as far as anybody looks at it."""

    name: str
    phase: PodPhase
    since_s: float
    revision: int
    restarts: int = 0


class StandIns:
    """The pods of one Deployment, in place of a simulated one. blocked ones stay pending for
    ever.
    """

    def __init__(self, name: str, *, blocked: bool) -> None:
        self.pods: list[StandIn] = []
        self._name = name
        self.blocked = blocked
        self._made = 0
        self._wanted = (0, 0)

    def want(self, replicas: int, revision: int, now_s: float) -> None:
        """Have *replicas* pods of *revision*."""
        self._wanted = (replicas, revision)
        self.step(now_s)

    def step(self, now_s: float) -> None:
        """Let pods come up, replace and end, each in its time."""
        replicas, revision = self._wanted
        for pod in self.pods:
            if pod.phase == "starting" and now_s >= pod.since_s + START_S:
                pod.phase, pod.since_s = "ready", pod.since_s + START_S
        self.pods = [
            pod for pod in self.pods if pod.phase != "draining" or now_s < pod.since_s + END_S
        ]
        staying = [pod for pod in self.pods if pod.phase != "draining"]
        fresh = [pod for pod in staying if pod.revision == revision]
        self.evict(fresh[replicas:], now_s)
        ready = sum(pod.phase == "ready" or self.blocked for pod in fresh)
        self.evict(
            [pod for pod in staying if pod.revision != revision][max(replicas - ready, 0) :], now_s
        )
        for _ in range(replicas - len(fresh)):
            phase: PodPhase = "pending" if self.blocked else "starting"
            self.pods.append(StandIn(f"{self._name}-{self._made}", phase, now_s, revision))
            self._made += 1

    def evict(self, pods: list[StandIn], now_s: float) -> None:
        """Take *pods* away; those that never ran are gone at once."""
        for pod in pods:
            if pod.phase == "pending":
                self.pods.remove(pod)
            elif pod.phase != "draining":
                pod.phase, pod.since_s = "draining", now_s
