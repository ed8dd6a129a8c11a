"""Figures of servers from Prometheus: one query a cycle for the raw samples of their pods, whatever
their number.

Samples, not rates: what came to a pod is what ended plus what is in it more than before, and only
samples of one scrape belong together. The rules for what is missing, stale or no number are in
docs/kubernetes.md.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

import httpx

from loop.backends.metrics.answers import (
    OTHER_POD_LABELS,
    Answer,
    PodKey,
    Reader,
    parsed,
    read_latest,
    read_matrix,
    read_names,
    share,
)
from loop.backends.metrics.api import Api, PrometheusError, PrometheusSettings
from loop.backends.metrics.foreign_pods import ForeignPods
from loop.backends.metrics.gaps import Gaps
from loop.backends.metrics.percentiles import Turns, buckets_query, read_buckets, restarted
from loop.backends.metrics.reach import WIDEST_S, Reaches, within
from loop.backends.metrics.source import Measurement, Shown
from loop.clocks import wall_s
from loop.replacing import replace
from loop.signals.demand import Figures, WindowSettings, figures, stale_line, with_percentiles
from loop.signals.models import OwnEngines
from loop.signals.names import Names
from loop.signals.pods import ScrapedServer
from loop.signals.processes import Series
from loop.signals.series import CLOCKS_S, Track, tracks_of
from loop.signals.stills import Stills
from loop.signals.survey import RELATED
from loop.signals.together import Crowd, Rows, models_of

# For percentiles no cycle waits longer: it can do without them.
PERCENTILES_S = 2.0
# A Prometheus that cannot tell them in time is not asked again at once: it has enough to do.
PERCENTILES_AGAIN_S = 300.0
FORGET_WINDOWS = 5  # whose pod it was is remembered for so many windows after it has gone
PODS_ASKED = 3  # of a server of which no series are found
PODS_AT_ONCE = 90  # in one question
NAMED_MAX = 3
NOBODY = ""  # whose a pod is that was taken away from its server


class Prometheus:
    """Asks one Prometheus. Raise SpecError where its address or the CA file cannot be used.

    *wall_s* tells our date [Unix time]; *transport* stands in for the network.
    """

    name = "prometheus"
    at_pods = True

    def __init__(
        self,
        settings: PrometheusSettings,
        *,
        wall_s: Callable[[], float] = wall_s,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._settings = settings
        self._api = Api(settings, wall_s=wall_s, transport=transport)
        self._reader, self._far_reader = Reader(settings), Reader(settings)
        self._crowd = Crowd(settings.names)
        self._own = OwnEngines(settings.names)
        self._owners: dict[PodKey, tuple[str, float]] = {}
        self._foreign = ForeignPods()
        self._turns = Turns()
        self._reaches = Reaches(settings.window)
        self._gaps, self._stills = Gaps(), Stills()
        self._told_labels = frozenset[str]()
        self._percentiles_from_s = float("-inf")  # no sooner they are asked for

    def close(self) -> None:
        """Let go of the connections."""
        self._api.close()

    def measure(self, servers: Sequence[ScrapedServer], *, now_s: float) -> Measurement:
        """Return the figures of *servers*; where Prometheus fails, none of any, and the reason."""
        if not servers:
            return Measurement()
        self._reaches.forget(servers)
        self._remember(servers, now_s=now_s)
        query = window_query(_spaces(servers), self._settings, reach_s=self._reaches.longest_s)
        try:
            reply, at_s, told = self._api.ask_at_its_now(query)
            answer = self._reader.read(reply, epoch_s=at_s - now_s)
            by_server = self._shared(answer, servers)
            strange = self._foreign.leave_out(by_server, servers, now_s=now_s)
            by_server = {one.name: self._own.of(one, by_server[one.name]) for one in servers}
            tracks = self._tracks(servers, by_server, now_s=now_s)
            self._learn_births(servers, by_server, tracks, at_s=at_s, now_s=now_s)
            told += self._look_farther(servers, by_server, tracks, at_s=at_s, now_s=now_s)
        except PrometheusError as error:
            return Measurement(error=f"prometheus: {error}")
        stood = {one.name: self._stills.without(one.name, tracks[one.name]) for one in servers}
        found = {
            one.name: self._figures(
                one,
                by_server[one.name],
                stood[one.name].tracks,
                now_s=now_s,
                window=self._reaches.window(one.name),
            )
            for one in servers
        }
        self._gaps.learn(servers, found, by_server, now_s=now_s)
        told += self._look_over_gaps(servers, found, by_server, tracks, now_s=now_s)
        told += [*answer.told, *(f"prometheus: {line}" for line in strange)]
        told += self._renamed(answer)
        told += self._learn_percentiles(servers, tracks, at_s=at_s, now_s=now_s)
        found = {name: self._with_known(of, name, now_s=now_s) for name, of in found.items()}
        found = {name: self._with_age(of, name, now_s=now_s) for name, of in found.items()}
        found = {name: stood[name].told_in(of) for name, of in found.items()}
        return Measurement(figures=found, warnings=tuple(told))

    def _figures(
        self,
        server: ScrapedServer,
        pods: Mapping[str, Sequence[Series]],
        tracks: Mapping[str, Sequence[Track]],
        *,
        now_s: float,
        window: WindowSettings,
    ) -> Figures:
        return figures(
            server,
            tracks,
            now_s=now_s,
            settings=window,
            served=frozenset[str]().union(*map(models_of, pods.values())),
            further=self._own.further(server.name),
        )

    def _shared(
        self, answer: Answer, servers: Sequence[ScrapedServer]
    ) -> dict[str, dict[str, Sequence[Series]]]:
        """Return the series of an *answer* by server and pod."""
        known = {key: of for key, (of, _) in self._owners.items()}
        return share(answer.pods, servers, known=known)

    def _tracks(
        self,
        servers: Sequence[ScrapedServer],
        by_server: Mapping[str, Mapping[str, Sequence[Series]]],
        *,
        now_s: float,
        reach_s: float | None = None,
    ) -> dict[str, dict[str, list[Track]]]:
        """Return the tracks of the pods of *servers*, each over the window of its server, or all
        over the last reach_s: of those that are as most are together, of the others one by one.
        """
        found: dict[str, dict[str, list[Track]]] = {one.name: {} for one in servers}
        longest_s = reach_s or self._reaches.longest_s
        together: list[Rows] = []
        begins_s: list[float | None] = []
        pods: list[tuple[ScrapedServer, str, Sequence[Series], float | None]] = []
        # Of a pod that came up again since, counters may show more than before all the same.
        since_s = now_s - longest_s - CLOCKS_S
        restarts_s = {
            (pod.namespace, pod.name): pod.restarts_s
            for one in servers
            for pod in one.pods
            if pod.restarts_s and max(pod.restarts_s) > since_s
        }
        for one in servers:
            window_s = reach_s or self._reaches.window(one.name).window_s
            begin_s = None if window_s == longest_s else now_s - window_s
            for pod, of in by_server[one.name].items():
                pods.append((one, pod, of, begin_s))
                if isinstance(of, Rows) and (one.namespace, pod) not in restarts_s:
                    together.append(of)
                    begins_s.append(begin_s)
        tracks = iter(self._crowd.tracks(together, begins_s=begins_s))
        for one, pod, of, begin_s in pods:
            came_again_s = restarts_s.get((one.namespace, pod), ())
            known = next(tracks) if isinstance(of, Rows) and not came_again_s else None
            if known is None:
                cut = of if begin_s is None else within(of, begin_s=begin_s)
                known = tracks_of(
                    cut,
                    names=self._settings.names,
                    engines=one.engines,
                    speed=self._settings.window.speed,
                    restarts_s=came_again_s,
                )
            found[one.name][pod] = known
        return found

    def _look_farther(
        self,
        servers: Sequence[ScrapedServer],
        by_server: dict[str, dict[str, Sequence[Series]]],
        tracks: dict[str, dict[str, list[Track]]],
        *,
        at_s: float,
        now_s: float,
    ) -> list[str]:
        """Put what a longer look back tells into *by_server* and *tracks* of the servers whose
        scrapes are too rare for their window; return what to tell of that.
        """
        reaches = self._reaches
        told = [
            reaches.learn(one.name, chain.from_iterable(by_server[one.name].values()), now_s=now_s)
            for one in servers
            if reaches.stretched(one.name)
        ]
        due = set(reaches.due(servers, tracks, now_s=now_s))
        blind = [one for one in servers if one.name in due]
        farther: dict[str, dict[str, Sequence[Series]]] = {}
        if blind:
            query = window_query(_spaces(blind), self._settings, reach_s=WIDEST_S)
            try:
                reply = self._api.ask(query, at_s=at_s)
                answer = self._far_reader.read(reply, epoch_s=at_s - now_s)
                farther = self._shared(answer, blind)
                for name, pods in self._foreign.of_server.items():
                    for pod in pods & farther.get(name, {}).keys():
                        del farther[name][pod]
                farther = {one.name: self._own.of(one, farther[one.name]) for one in blind}
            except PrometheusError as error:
                # The others are known all the same.
                told.append(f"how often pods are scraped is not known: {error}")
        by_server |= farther
        for one in blind if farther else ():
            series = farther[one.name]
            told.append(reaches.learn(one.name, chain.from_iterable(series.values()), now_s=now_s))
            # What the longest window is now does not tell how far this answer reaches.
            begin_s = now_s - reaches.window(one.name).window_s
            cut = {pod: within(of, begin_s=begin_s) for pod, of in series.items()}
            tracks |= self._tracks([one], {one.name: cut}, now_s=now_s)
        return [f"prometheus: {line}" for line in told if line]

    def _look_over_gaps(
        self,
        servers: Sequence[ScrapedServer],
        found: dict[str, Figures],
        by_server: Mapping[str, Mapping[str, Sequence[Series]]],
        tracks: Mapping[str, Mapping[str, Sequence[Track]]],
        *,
        now_s: float,
    ) -> list[str]:
        """Put into *found* what samples from before a gap tell of the servers that have told too
        little since; return what to tell of that.
        """
        told = []
        for one in servers:
            window = self._reaches.window(one.name)
            over = self._gaps.over(
                one,
                found[one.name],
                tracks[one.name].values(),
                by_server[one.name],
                window=window,
                now_s=now_s,
            )
            if over is None:
                continue
            reach_s, pods = over
            wide = replace(window, window_s=reach_s)
            spanned = self._tracks([one], {one.name: pods}, now_s=now_s, reach_s=reach_s)
            seen = self._figures(one, pods, spanned[one.name], now_s=now_s, window=wide)
            if seen.load is not None:
                found[one.name] = seen
                told.append(f"{one.name} ({reach_s:.0f} s)")
        if not told:
            return []
        more = f" and {len(told) - NAMED_MAX} more" if len(told) > NAMED_MAX else ""
        names = ", ".join(told[:NAMED_MAX]) + more
        return [f"prometheus: nothing was told for a while: figures are over the gap: {names}"]

    def _learn_births(
        self,
        servers: Sequence[ScrapedServer],
        by_server: Mapping[str, Mapping[str, Sequence[Series]]],
        tracks: dict[str, dict[str, list[Track]]],
        *,
        at_s: float,
        now_s: float,
    ) -> None:
        """Put into *tracks* what is known of pods that several processes seem to answer for, by
        turns or one after the other, once it is asked when these began: an engine that makes good
        what it could not do for a while looks like two. Where nobody tells, they stay what they
        are, which is told of them.
        """
        pods = [
            (one, pod)
            for one in servers
            for pod, of in tracks[one.name].items()
            if any(track.by_turns or (track.restarts and not track.alive_s) for track in of)
        ][:PODS_AT_ONCE]
        if not pods:
            return
        reach_ms = round(1000 * self._reaches.longest_s)
        query = f"{self._births([(one.namespace, pod) for one, pod in pods])}[{reach_ms}ms]"
        try:
            answer = parsed(self._api.ask(query, at_s=at_s))
            born = read_matrix(answer, settings=self._settings, epoch_s=at_s - now_s)
        except PrometheusError:
            return
        for one, pod in pods:
            further = self._own.further(one.name)
            told_of = born.get((one.namespace, pod), ())
            if series := [each for each in told_of if further.isdisjoint(models_of([each]))]:
                told = {pod: [*by_server[one.name][pod], *series]}
                tracks[one.name] |= self._tracks([one], {one.name: told}, now_s=now_s)[one.name]

    def _renamed(self, answer: Answer) -> list[str]:
        """Return a line if series name their pod by another label than the one that is read, once
        as long as that is so.
        """
        fresh, self._told_labels = answer.renamed - self._told_labels, answer.renamed
        return [
            f"prometheus: series name their pod by the label {label}, and "
            f"{self._settings.pod_label} is read: see --pod-label and --namespace-label"
            for label in sorted(fresh)
        ]

    def _learn_percentiles(
        self,
        servers: Sequence[ScrapedServer],
        tracks: Mapping[str, Mapping[str, Sequence[Track]]],
        *,
        at_s: float,
        now_s: float,
    ) -> list[str]:
        """Ask for the histograms of the servers whose turn it is; return what went wrong."""
        self._turns.forget(servers)
        if now_s < self._percentiles_from_s:
            return []
        served = {
            name: [pod for pod, of in pods.items() if any(track.arrived[-1] > 0.0 for track in of)]
            for name, pods in tracks.items()
            # Of whose engines the buckets are that a pod adds up, nobody tells.
            if not self._own.further(name)
        }
        due = self._turns.due(servers, served, now_s=now_s)
        if not due:
            return []
        settings = self._settings
        pods = sorted({pod for one in due for pod in served[one.name]})
        spaces = sorted({one.namespace for one in due})
        matchers = _matchers(settings.names.buckets_pattern, spaces, settings)
        by = (_quoted(settings.namespace_label), _quoted(settings.pod_label))
        query = buckets_query(
            [*matchers, f'{_quoted(settings.pod_label)}=~"{_any_of(pods)}"'],
            by,
            window_s=max(self._reaches.window(one.name).window_s for one in due),
        )
        try:
            asked = {
                "query": query,
                "time": f"{at_s:.3f}",
                "timeout": f"{PERCENTILES_S:g}s",
            }
            reply = self._api.fetch(asked, attempts=1, total_s=PERCENTILES_S)
            told = read_buckets(
                parsed(reply),
                names=settings.names,
                namespace_label=settings.namespace_label,
                pod_label=settings.pod_label,
            )
        except (PrometheusError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._percentiles_from_s = now_s + PERCENTILES_AGAIN_S
            text = " ".join(str(error).split())[:200]
            return [f"prometheus: no percentiles for {PERCENTILES_AGAIN_S:g} s: {text}"]
        for one in due:
            of_pods = tracks[one.name]
            newest_s = max(track.times_s[-1] for of in of_pods.values() for track in of)
            growths = {
                pod: {latency: [grown] for latency, grown in told[one.namespace, pod].items()}
                for pod, of in of_pods.items()
                if (one.namespace, pod) in told and not restarted(of)
            }
            found = with_percentiles(Figures(), growths, of_pods, age_s=0.0)
            self._turns.learn(one.name, found.percentiles_ms, at_s=newest_s)
        return []

    def _with_known(self, found: Figures, server: str, *, now_s: float) -> Figures:
        known = self._turns.known(server, now_s=now_s)
        if known is None:
            return found
        age_s = max(0.0, now_s - known.at_s)
        return replace(found, percentiles_ms=known.percentiles_ms, percentiles_age_s=age_s)

    def _with_age(self, found: Figures, server: str, *, now_s: float) -> Figures:
        """Return *found* with the age of the latest sample, if only a look far back told of one."""
        newest_s = self._reaches.newest_s(server)
        # No metrics are amiss where a line says so: not of pods that are gone or have just begun.
        if found.age_s is not None or newest_s is None or not found.warnings:
            return found
        age_s, stale_s = now_s - newest_s, self._reaches.window(server).stale_s
        if age_s <= stale_s:
            return found
        return replace(found, measured=True, age_s=age_s, warnings=(stale_line(age_s, stale_s),))

    @property
    def table(self) -> Names:
        """Return the names that it reads."""
        return self._settings.names

    def show_names(self, servers: Sequence[ScrapedServer]) -> Shown:
        """Return the names of the metrics of *servers* that Prometheus has now."""
        query = names_query(sorted({server.namespace for server in servers}), self._settings)
        try:
            reply = self._api.ask(query, at_s=self._api.now_s, may_divide=True)
            pods = read_names(parsed(reply), settings=self._settings)
        except PrometheusError as error:
            return Shown(error=f"prometheus: {error}")
        known = {(pod.namespace, pod.name): one.name for one in servers for pod in one.pods}
        by_server = share(pods, servers, known=known)
        silent = [one for one in servers if not by_server[one.name]]
        return Shown(
            names={
                server: frozenset(one.metric for series in of_pods.values() for one in series)
                for server, of_pods in by_server.items()
            },
            elsewhere=self._elsewhere(silent),
        )

    def _elsewhere(self, servers: Iterable[ScrapedServer]) -> dict[str, str]:
        """Return by which labels the series of each of *servers* would be found, if they are."""
        asked = [
            (pod.name, one)
            for one in servers
            for pod in [pod for pod in one.pods if pod.phase == "ready"][:PODS_ASKED]
        ]
        found: dict[str, str] = {}
        for begin in range(0, len(asked), PODS_AT_ONCE):
            part = asked[begin : begin + PODS_AT_ONCE]
            try:
                series = self._by_other_labels([pod for pod, _ in part])
            except PrometheusError:
                break  # a cycle waits for this: who does not answer is not asked again
            for told in series:
                for pod, one in part:
                    of_pod, space = _label_of(pod, told), _label_of(one.namespace, told)
                    if of_pod and space:
                        line = f"--pod-label {of_pod} --namespace-label {space}"
                        found.setdefault(one.name, line)
        return found

    def _by_other_labels(self, pods: Sequence[str]) -> list[Mapping[str, str]]:
        """Return the labels of one series for each of *pods* and label that may name it. Raise
        PrometheusError.
        """
        settings = self._settings
        query = " or ".join(
            f"topk by ({label}) (1,{{{','.join([*_named(settings), matcher])}}})"
            for label in map(_quoted, sorted({settings.pod_label, *OTHER_POD_LABELS}))
            for matcher in [f'{label}=~"{_any_of(sorted(set(pods)))}"']
        )
        return [told for told, _ in read_latest(parsed(self._api.ask(query, at_s=self._api.now_s)))]

    def present_s(self) -> float:
        """Return the present of Prometheus [Unix time]. Raise PrometheusError."""
        reply, at_s, _ = self._api.ask_at_its_now("vector(1)")
        parsed(reply)
        return at_s

    def latest(
        self,
        metrics: Sequence[str],
        servers: Sequence[ScrapedServer],
        *,
        at_s: float,
        last_s: float,
    ) -> dict[str, list[tuple[Mapping[str, str], float]]]:
        """Return the labels and the latest value of the series of *metrics* that each of *servers*
        had in the last_s seconds before at_s [Unix time]. Raise PrometheusError.
        """
        namespaces = sorted({server.namespace for server in servers})
        matchers = _matchers("|".join(metrics), namespaces, self._settings)
        query = f"last_over_time({{{','.join(matchers)}}}[{round(last_s)}s])"
        answer = parsed(self._api.ask(query, at_s=at_s, may_divide=True))
        pods: dict[PodKey, list[Series]] = defaultdict(list)
        for metric, value in read_latest(answer):
            pod, namespace = (
                metric.get(label, "")
                for label in (self._settings.pod_label, self._settings.namespace_label)
            )
            pods[namespace, pod].append(Series("", tuple(metric.items()), [(at_s, value)]))
        known = {(pod.namespace, pod.name): one.name for one in servers for pod in one.pods}
        return {
            server: [
                (dict(one.labels), one.points[0][1])
                for series in of_pods.values()
                for one in series
            ]
            for server, of_pods in share(pods, servers, known=known).items()
        }

    def history(
        self, namespaces: Sequence[str], *, start_s: float, end_s: float, step_s: float
    ) -> dict[PodKey, list[Series]]:
        """Return the engines' series by pod, a value each *step_s* from *start_s* to *end_s* [Unix
        time], which are the times of their points. Raise PrometheusError.
        """
        matchers = _matchers(self._settings.names.pattern, namespaces, self._settings)
        told = {"start": f"{start_s:.3f}", "end": f"{end_s:.3f}", "step": f"{step_s:g}"}
        query = {"query": f"{{{','.join(matchers)}}}", **told}
        reply = self._api.fetch(query, over="_range", may_divide=True)
        return read_matrix(parsed(reply), settings=self._settings, epoch_s=0.0)

    def births(
        self, pods: Sequence[PodKey], *, start_s: float, end_s: float, step_s: float
    ) -> dict[PodKey, list[Series]]:
        """Return the series that tell when the processes of *pods* began, as `history` does, by as
        many questions as these take.
        """
        told = {"start": f"{start_s:.3f}", "end": f"{end_s:.3f}", "step": f"{step_s:g}"}
        found: dict[PodKey, list[Series]] = {}
        for begin in range(0, len(pods), PODS_AT_ONCE):
            query = {"query": self._births(pods[begin : begin + PODS_AT_ONCE]), **told}
            reply = self._api.fetch(query, over="_range")
            found |= read_matrix(parsed(reply), settings=self._settings, epoch_s=0.0)
        return found

    def _births(self, pods: Sequence[PodKey]) -> str:
        """Return the selector of the series that tell when the processes of *pods* began."""
        settings = self._settings
        spaces = sorted({namespace for namespace, _ in pods})
        matchers = _matchers(settings.names.births_pattern, spaces, settings)
        of_pods = f'{_quoted(settings.pod_label)}=~"{_any_of([pod for _, pod in pods])}"'
        return f"{{{','.join([*matchers, of_pods])}}}"

    def _remember(self, servers: Sequence[ScrapedServer], *, now_s: float) -> None:
        """Note whose each pod is: a name that Kubernetes has cut does not tell when it has gone."""
        for one in servers:
            self._owners |= {(pod.namespace, pod.name): (one.name, now_s) for pod in one.pods}
            self._owners |= {(one.namespace, pod): (NOBODY, now_s) for pod in one.released}
        oldest_s = now_s - FORGET_WINDOWS * self._settings.window.window_s
        self._owners = {key: of for key, of in self._owners.items() if of[1] >= oldest_s}


def _label_of(value: str, told: Mapping[str, str]) -> str:
    """Return which label of a series has *value*, "" if none: a job may be called as a namespace
    is, so one that is named for it comes first.
    """
    having = [label for label in told if told[label] == value]
    return min(having, key=lambda label: ("namespace" not in label, label), default="")


def window_query(
    namespaces: Sequence[str], settings: PrometheusSettings, *, reach_s: float | None = None
) -> str:
    """Return the instant query for the samples of engines' metrics in *namespaces*, as far back as
    the window reaches, or *reach_s*.
    """
    matchers = _matchers(settings.names.queried, namespaces, settings)
    return f"{{{','.join(matchers)}}}[{round(1000 * (reach_s or settings.window.window_s))}ms]"


def names_query(namespaces: Sequence[str], settings: PrometheusSettings) -> str:
    """Return the instant query for all series in *namespaces* that may be an engine's."""
    matchers = _matchers(f"{settings.names.pattern}|{RELATED}", namespaces, settings)
    told = ",".join([*matchers, '__name__!~".*_(?:bucket|created)"'])
    return f"{{{told}}}"


def _matchers(
    pattern: str, namespaces: Sequence[str], settings: PrometheusSettings
) -> Sequence[str]:
    of_spaces = f'{_quoted(settings.namespace_label)}=~"{_any_of(namespaces)}"'
    name, *more = _named(settings, pattern)
    return [name, of_spaces, *more]


def _quoted(label: str) -> str:
    """Return the name of a label as it stands in a query: OpenTelemetry's have dots in them."""
    if re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", label):
        return label
    escaped = label.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _named(settings: PrometheusSettings, pattern: str = "") -> list[str]:
    """Return the matchers for metrics of a *pattern*, that of engines if it is empty, in whatever
    namespace.
    """
    matchers = [f'__name__=~"{pattern or settings.names.pattern}"']
    return [*matchers, settings.matchers] if settings.matchers else matchers


def _spaces(servers: Iterable[ScrapedServer]) -> list[str]:
    return sorted({server.namespace for server in servers})


def _any_of(texts: Sequence[str]) -> str:
    """Return a regular expression for any of *texts*, as it stands in a query."""
    return "|".join(re.escape(text).replace("\\", "\\\\") for text in texts)
