"""The past of servers from Prometheus, in pieces that an answer can hold; gaps are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from loop.backends.metrics.answers import PodKey, share
from loop.backends.metrics.api import PrometheusError
from loop.backends.metrics.prometheus import Prometheus
from loop.signals.history import History, empty_history
from loop.signals.models import OwnEngines
from loop.signals.names import Names
from loop.signals.pods import ScrapedServer, template_of
from loop.signals.processes import Series
from loop.signals.series import Track, tracks_of
from loop.signals.together import models_of

PIECE_STEPS = 360  # of one question; Prometheus answers 11,000 at most
PIECE_STEPS_MIN = 15
# Of the steps before a piece, so many are asked for again: a process that was not scraped for a
# while is known again.
OVERLAP_STEPS = 10
# Of so many values one at most at which counters have fallen, where nobody tells why: a process
# that begins anew as often hides a tenth of what comes, and workers by turns are read manifold.
RESTARTS_OF_VALUES = 10
PODS_TOLD = 4
FAILURES_MAX = 6  # in a row, after which nothing more is asked for
NOBODY: Mapping[str, Mapping[str, str]] = {}


@dataclass(slots=True, kw_only=True)
class OfTemplate:
    """What the pods of one template had, of a server. Others ran another engine, maybe on another
    accelerator: their latencies say nothing of this one. wanted is the template of the pods that
    there are now, "" if there are none, and others are those that were met besides. alike says
    which templates are the same engine as another one, and count as that.

    Only one is kept: of a week with a hundred rollouts a hundred would be too large.
    """

    wanted: str
    history: History
    alike: Mapping[str, str] = field(default_factory=dict)
    template: str = ""
    others: set[str] = field(default_factory=set)

    def of(self, pod: str) -> str:
        """Return the template of *pod*, or the one that it is alike."""
        template = template_of(pod)
        return self.alike.get(template, template)

    def add(self, tracks: Mapping[str, Sequence[Track]], *, first_s: float) -> None:
        """Take in the tracks of all pods by name, of which what came after *first_s* is new."""
        spans: dict[str, tuple[float, float]] = {}
        for pod, of_pod in tracks.items():
            times_s = [t_s for track in of_pod for t_s in (track.times_s[0], track.times_s[-1])]
            if not times_s or max(times_s) <= first_s:
                continue
            begin_s, end_s = spans.get(self.of(pod), (min(times_s), max(times_s)))
            spans[self.of(pod)] = (min(begin_s, *times_s), max(end_s, *times_s))
        if not spans:
            return
        # Of two that both told to the end the one that began later is the new one.
        latest = max(spans, key=lambda of: (of == self.wanted, spans[of][1], spans[of][0]))
        settled = bool(self.template) and self.template == self.wanted
        if latest != self.template and not settled:
            old = self.history
            self.history = empty_history(start_s=old.start_s, step_s=old.step_s, steps=old.steps)
            self.others |= {self.template} - {""}
            self.template = latest
        self.others |= spans.keys() - {self.template}
        for pod, of_pod in tracks.items():
            if self.of(pod) == self.template:
                self.history.add(of_pod, first_s=first_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What Prometheus knew of each server from start_s to end_s [Unix time], what engines call the
    models that they served, and what it did not answer, a line each. engines is the part of each
    server that the pods of its latest template had, and pods are those that told anything.
    """

    start_s: float
    end_s: float
    histories: Mapping[str, History]
    engines: Mapping[str, OfTemplate]
    pods: Mapping[str, frozenset[str]]
    model_names: Mapping[str, frozenset[str]]
    problems: tuple[str, ...]


def read_past(
    source: Prometheus,
    servers: Sequence[ScrapedServer],
    *,
    start_s: float,
    end_s: float,
    step_s: float,
    progress: Callable[[float], None],
    alike: Mapping[str, Mapping[str, str]] = NOBODY,
    speed: float = 1.0,
) -> Past:
    """Return the past of *servers* from *start_s* to *end_s* [Unix time] by steps of *step_s*.

    A piece that is too much for one answer is halved; *progress* is told the share that is done.
    *alike* says by namespace which pod templates are one engine. Of a twin *speed* seconds pass in
    one of Prometheus.
    """
    steps = int((end_s - start_s) / step_s + 1e-6)
    assert steps >= 1, f"expected at least one step, got {start_s} to {end_s} by {step_s}"

    nothing = empty_history(start_s=start_s, step_s=step_s, steps=steps)
    found = {one.name: _of_server(one, source.table, alike, nothing=nothing) for one in servers}
    known = {(pod.namespace, pod.name): one.name for one in servers for pod in one.pods}
    namespaces = sorted({one.namespace for one in servers})
    problems: list[str] = []
    todo = [(begin, min(begin + PIECE_STEPS, steps)) for begin in range(0, steps, PIECE_STEPS)][
        ::-1
    ]
    failures = 0
    while todo and servers:
        begin, end = todo.pop()
        first_s, last_s = start_s + begin * step_s, start_s + end * step_s
        span = {"start_s": first_s - OVERLAP_STEPS * step_s, "end_s": last_s, "step_s": step_s}
        try:
            series = source.history(namespaces, **span)
        except PrometheusError as error:
            failures += 1
            if end - begin > PIECE_STEPS_MIN and failures < FAILURES_MAX:
                middle = (begin + end) // 2
                todo += [(middle, end), (begin, middle)]
                continue
            problems.append(f"{_span(first_s, last_s)}: prometheus: {error}")
            if failures >= FAILURES_MAX:
                if todo:
                    last_s = start_s + todo[0][1] * step_s
                    problems.append(f"{_span(first_s, last_s)}: not asked for any more")
                break
            continue
        failures = 0
        born = partial(_births, source, span, problems)
        for server, pods in share(series, servers, known=known).items():
            found[server].add(pods, names=source.table, first_s=first_s, speed=speed, born=born)
        progress(end / steps)
    return Past(
        start_s=start_s,
        end_s=start_s + steps * step_s,
        histories={name: of.whole for name, of in found.items()},
        engines={name: of.engine for name, of in found.items()},
        pods={name: frozenset(of.pods) for name, of in found.items()},
        model_names={name: frozenset(of.models) for name, of in found.items() if of.models},
        problems=(*problems, *_further_lines(found), *_restless_lines(found)),
    )


def _births(
    source: Prometheus, span: Mapping[str, float], problems: list[str], pods: Sequence[PodKey]
) -> Mapping[PodKey, Sequence[Series]]:
    """Return what tells when the processes of *pods* began within a *span*; nothing where it is not
    to be had, which is one of the *problems*.
    """
    try:
        return source.births(pods, **span)
    except PrometheusError as error:
        spoken = _span(span["start_s"] + OVERLAP_STEPS * span["step_s"], span["end_s"])
        problems.append(f"{spoken}: when processes began: prometheus: {error}")
        return {}


def _restless(track: Track) -> bool:
    """Tell whether it may be of several processes, by turns or one after the other, and nobody
    tells when these began.
    """
    often = track.restarts > 1 and RESTARTS_OF_VALUES * track.restarts >= len(track.times_s)
    return (often or track.by_turns) and track.started_s is None


def _further_lines(found: Mapping[str, _OfServer]) -> list[str]:
    return [
        f"{name}: its pods serve further models, which do not count: {', '.join(further)}"
        for name, of in found.items()
        if (further := sorted(of.own.further(name)))
    ]


def _restless_lines(found: Mapping[str, _OfServer]) -> list[str]:
    lines = []
    for name, of in found.items():
        if not of.restless:
            continue
        more = len(of.restless) - PODS_TOLD
        pods = ", ".join(sorted(of.restless)[:PODS_TOLD]) + (f" and {more} more" * (more > 0))
        lines.append(
            f"{name}: counters of a pod fall again and again, and nobody tells when its processes "
            f"began, so that time of it is left out: {pods}"
        )
    return lines


@dataclass(slots=True, kw_only=True)
class _OfServer:
    """What is found of one server, piece by piece."""

    server: ScrapedServer
    own: OwnEngines
    whole: History
    engine: OfTemplate
    pods: set[str] = field(default_factory=set)
    models: set[str] = field(default_factory=set)
    restless: set[str] = field(default_factory=set)

    def add(
        self,
        pods: dict[str, Sequence[Series]],
        *,
        names: Names,
        first_s: float,
        speed: float,
        born: Callable[[Sequence[PodKey]], Mapping[PodKey, Sequence[Series]]],
    ) -> None:
        """Take in the series of its *pods*, of which what came after *first_s* is new. *born* is
        asked when processes began of pods that may have several.
        """
        own = self.own.of(self.server, pods)
        tracks = {pod: tracks_of(of, names=names, speed=speed) for pod, of in own.items()}
        odd = [pod for pod, of in tracks.items() if any(map(_restless, of))]
        keys = {pod: (self.server.namespace, pod) for pod in odd}
        told = born(list(keys.values())) if odd else {}
        for pod, key in keys.items():
            series = [*own[pod], *told.get(key, ())]
            tracks[pod] = tracks_of(series, names=names, speed=speed)
            if any(map(_restless, tracks[pod])):
                # Growth from one process to another would be taken for requests.
                tracks[pod] = []
                self.restless.add(pod)
        for pod, of in own.items():
            self.pods.add(pod)
            self.models |= models_of(of)
            self.whole.add(tracks[pod], first_s=first_s)
        self.engine.add(tracks, first_s=first_s)


def _of_server(
    server: ScrapedServer,
    names: Names,
    alike: Mapping[str, Mapping[str, str]],
    *,
    nothing: History,
) -> _OfServer:
    return _OfServer(
        server=server,
        own=OwnEngines(names),
        whole=deepcopy(nothing),
        engine=_of_template(server, alike, history=deepcopy(nothing)),
    )


def _of_template(
    server: ScrapedServer, alike: Mapping[str, Mapping[str, str]], *, history: History
) -> OfTemplate:
    newest = max(server.pods, key=lambda pod: pod.created_s, default=None)
    wanted = template_of(newest.name) if newest else ""
    own = alike.get(server.namespace, {})
    return OfTemplate(wanted=own.get(wanted, wanted), history=history, alike=own)


def _span(begin_s: float, end_s: float) -> str:
    return f"{date_text(begin_s)} to {date_text(end_s)}"


def date_text(at_s: float) -> str:
    """Return a time as people read it, to the minute."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%MZ")
