"""One pod and its lives (pending, starting, ready, draining, gone), and the log of them: the truth
about GPUs held.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from twin.engine.port import Engine
from twin.kernel import Call
from twin.serving.capacity import Claim
from twin.serving.metrics import FinishedTotals, PodSeries
from twin.spec import EngineSpec

PodPhase = Literal["pending", "starting", "ready", "draining"]
LifeEnd = Literal["", "withdrawn", "scaled_down", "drained", "drain_timeout", "crash", "node_loss"]


@dataclass(slots=True, kw_only=True)
class PodLife:
    """When one life of a pod reached each phase [s]; NaN until it does, and for ever if a phase
    was skipped.

    A crash ends a life and begins the next one of the same pod at the same instant, with the same
    GPUs. GPUs are held from granted_s to released_s. server is an index into the servers of the
    cluster.
    """

    pod: str
    server: int
    accelerator: str
    type: str
    gpus: int
    asked_s: float
    granted_s: float = nan
    ready_s: float = nan
    draining_s: float = nan
    released_s: float = nan
    end: LifeEnd = ""

    def restarted(self, now_s: float) -> PodLife:
        """Return the life that a restart at *now_s* begins; it holds its GPUs from the start."""
        return PodLife(
            pod=self.pod,
            server=self.server,
            accelerator=self.accelerator,
            type=self.type,
            gpus=self.gpus,
            asked_s=now_s,
            granted_s=now_s,
        )


class Pod:
    """A pod that exists: a plain record that its deployment moves from phase to phase.

    replica is there while the pod is ready or draining. due is the next step of its life that is
    known in advance (the end of its start or of its drain), mishap the one that is not (a crash,
    the timeout of its drain). finished counts the requests that it has finished; it and series
    begin anew with every life. revision is that of the desired state that it was made for.
    """

    __slots__ = (
        "claim",
        "created_s",
        "due",
        "engine",
        "finished",
        "life",
        "max_batch",
        "mishap",
        "phase",
        "replica",
        "restarts",
        "revision",
        "series",
        "since_s",
    )

    def __init__(
        self, *, engine: EngineSpec, max_batch: int, life: PodLife, revision: int = 0
    ) -> None:
        self.engine = engine
        self.revision = revision
        self.max_batch = max_batch
        self.life = life
        self.phase: PodPhase = "pending"
        self.created_s = self.since_s = life.asked_s
        self.claim: Claim | None = None
        self.replica: Engine | None = None
        self.due: Call | None = None
        self.mishap: Call | None = None
        self.restarts = 0
        self.begin_series()

    @property
    def name(self) -> str:
        """Return the name, unique in the cluster."""
        return self.life.pod

    @property
    def outstanding(self) -> int:
        """Return the requests in flight, as of the last advance of the replica."""
        return self.replica.outstanding if self.replica is not None else 0

    def enter(self, phase: PodPhase, now_s: float) -> None:
        """Note the change of phase."""
        assert now_s >= self.since_s, f"{self.name}: time went back from {self.since_s} to {now_s}"
        self.phase, self.since_s = phase, now_s

    def begin_series(self) -> None:
        """Count from zero, as a process does that has just started."""
        self.finished = FinishedTotals()
        self.series = PodSeries()

    def cancel_calls(self) -> None:
        """Forget what was going to happen to this pod."""
        for call in (self.due, self.mishap):
            if call is not None:
                call.cancel()
        self.due = self.mishap = None


class PodLog:
    """Every life of every pod of a run, in the order in which they began."""

    def __init__(self) -> None:
        self.lives: list[PodLife] = []

    def add(self, life: PodLife) -> None:
        """Begin the record of a life; its times are filled in as it goes on."""
        self.lives.append(life)

    def frame(self) -> dict[str, npt.NDArray[Any]]:
        """Return one array a column, one row a life: see PodLife for the meaning, NaN for what did
        not happen (yet).
        """
        columns: dict[str, type] = {
            "pod": object,
            "server": np.int16,
            "accelerator": object,
            "type": object,
        }
        columns |= {"gpus": np.int64, "end": object}
        columns |= dict.fromkeys(
            ("asked_s", "granted_s", "ready_s", "draining_s", "released_s"), np.float64
        )
        return {
            name: np.array([getattr(life, name) for life in self.lives], dtype=dtype)
            for name, dtype in columns.items()
        }


class NoPodLog(PodLog):
    """Forgets every pod: a world that runs for days must not keep them all."""

    def add(self, life: PodLife) -> None:
        """Forget it."""
