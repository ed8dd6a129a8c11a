"""Disturbs the load of managed Deployments on a cluster: their load labels walk about the original
ones. Who connects to the cluster hands it over through the port of this file.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

import numpy as np

from emulator.load_labels import (
    NAME,
    LabelledLoad,
    labels_of,
    read_load,
    restored_labels,
    says,
)
from emulator.walk import OfferedLoad, Walk, check_interval, step

Labels = Mapping[str, "str | None"]


class ClusterError(Exception):
    """The cluster refused, or did not answer. gone: there is no such Deployment any more."""

    def __init__(self, message: str, *, gone: bool = False) -> None:
        super().__init__(message)
        self.gone = gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A managed Deployment: where it is, and its labels."""

    namespace: str
    name: str
    labels: Mapping[str, str]


class Deployments(Protocol):
    """What the emulator needs of a cluster. Writing may be repeated: labels are absolute."""

    def managed(self, namespace: str) -> Sequence[Labelled]:
        """Return the managed Deployments of *namespace*, of all of them if it is empty. Raise
        ClusterError.
        """
        ...

    def label(self, one: Labelled, labels: Labels) -> None:
        """Give a Deployment *labels*; None takes one away. Raise ClusterError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """What one round did: the offered loads written, by server, and what went wrong, a line
    each.
    """

    written: Mapping[str, OfferedLoad] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class _Memory:
    """Of one Deployment: its exact load, which labels hold rounded, what was written last, and its
    generator.
    """

    current: OfferedLoad
    nominal: OfferedLoad
    written: Labels
    rng: np.random.Generator


class ClusterEmulator:
    """Moves the load labels of the managed Deployments in *namespaces* (none: all of them).

    A server's walk depends on *seed* and on its own name alone. The original load is kept in labels
    at first sight, so another emulator, or this one started again, walks about the same.
    """

    def __init__(
        self,
        deployments: Deployments,
        *,
        walk: Walk,
        seed: int,
        namespaces: Sequence[str] = (),
        stopped: threading.Event | None = None,
    ) -> None:
        self._deployments = deployments
        self._walk = walk
        self._seed = seed
        self._namespaces = tuple(namespaces)
        self._stopped = stopped or threading.Event()
        self._memories: dict[str, _Memory] = {}

    def keep(self) -> Disturbance:
        """Keep the original load of every server that has none kept yet; change nothing else."""
        return self._each(
            lambda place, labels, load: (
                None if load.kept else self._next(place, labels, load, moved=False)
            )
        )

    def disturb(self) -> Disturbance:
        """Move the load of every server by one step of its walk."""
        return self._each(lambda place, labels, load: self._next(place, labels, load, moved=True))

    def restore(self) -> Disturbance:
        """Put the original load of every server back, and forget it."""
        self._memories.clear()
        return self._each(
            lambda _place, _labels, load: (
                (load.nominal, restored_labels(load)) if load.kept else None
            )
        )

    def run(
        self,
        *,
        interval_s: float,
        now_s: Callable[[], float],
        report: Callable[[Disturbance], None],
    ) -> None:
        """Keep the originals, then disturb at the end of every interval, until stopped. Late rounds
        are skipped.
        """
        check_interval(interval_s)
        begin_s = now_s()
        report(self.keep())
        for number in count(1):
            left_s = begin_s + number * interval_s - now_s()
            if left_s < -interval_s:
                continue
            if self._stopped.wait(max(0.0, left_s)):
                return
            report(self.disturb())

    def _each(
        self,
        change: Callable[[str, Mapping[str, str], LabelledLoad], tuple[OfferedLoad, Labels] | None],
    ) -> Disturbance:
        """Write what *change* returns for each Deployment that has a load; one that fails stops no
        other.
        """
        written: dict[str, OfferedLoad] = {}
        problems: list[str] = []
        for namespace in self._namespaces or ("",):
            try:
                listed = self._deployments.managed(namespace)
            except ClusterError as error:
                problems.append(f"{namespace or 'all namespaces'}: {error}")
                continue
            for one in listed:
                load = read_load(one.labels)
                server = one.labels.get(NAME) or one.name
                made = change(f"{one.namespace}/{one.name}", one.labels, load) if load else None
                if made is None:
                    continue
                point, labels = made
                try:
                    self._deployments.label(one, labels)
                    written[server] = point
                except ClusterError as error:
                    # One that was deleted meanwhile needs no load.
                    if not error.gone:
                        problems.append(f"{server}: {error}")
        return Disturbance(written=written, problems=tuple(problems))

    def _next(
        self, place: str, labels: Mapping[str, str], load: LabelledLoad, *, moved: bool
    ) -> tuple[OfferedLoad, Labels]:
        """Return the next offered load of a Deployment with its labels, and remember both."""
        memory = self._memories.get(place)
        if memory is None:
            key = zlib.crc32(place.encode())
            rng = np.random.default_rng(
                np.random.SeedSequence(entropy=self._seed, spawn_key=(key,))
            )
            memory = _Memory(current=load.current, nominal=load.nominal, written={}, rng=rng)
            self._memories[place] = memory
        elif not says(labels, memory.written):
            memory.current = load.current
        if moved:
            memory.current = step(
                self._walk, memory.current, memory.nominal, load.nominal, rng=memory.rng
            )
        memory.nominal = load.nominal
        memory.written = labels_of(load, memory.current)
        return memory.current, memory.written
