"""Figures of servers from the /metrics pages of their pods, with no Prometheus: the samples are its
own.

A page is fetched once a cycle, through the API server or straight from the pod, so a window reaches
back to the cycle before at least. Many pods mean many requests: it is meant for tens of pods,
Prometheus for more.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.pool import ThreadPool
from typing import NamedTuple, Protocol

import httpx
from prometheus_client.parser import text_string_to_metric_families

from loop.backends.fetch import MOVED, NOTHING_KEPT, Bounds, FetchError, fetch
from loop.backends.metrics.gaps import GAP_WINDOWS_MAX
from loop.backends.metrics.histograms import Found, PodHistograms
from loop.backends.metrics.source import Measurement, Shown
from loop.errors import LoopError
from loop.signals.demand import Figures, WindowSettings, figures, with_percentiles
from loop.signals.models import OwnEngines
from loop.signals.names import NAMES, START_TIME, Names, called
from loop.signals.pods import ScrapedPod, ScrapedServer
from loop.signals.processes import CONTAINER, Labels, Series
from loop.signals.series import tracks_of
from loop.signals.stills import Stills
from loop.signals.survey import RELATED
from loop.signals.together import models_of

PodKey = tuple[str, str]  # namespace, name

ERRORS_NAMED = 3
PAGE_BYTES_MAX = 16 * 2**20
PAGE_S_MAX = 5.0
LINES_MAX = 20_000  # of a page, that are read: an engine shows some sixty
_NAME = re.compile(r"^[a-zA-Z_:][a-zA-Z0-9_:]*", re.MULTILINE)
PORT = "port"  # the label of the port that a page was shown at


class PageError(LoopError):
    """A pod did not show its metrics."""


class Pages(Protocol):
    """How to get at the pages of a pod."""

    def page(self, pod: ScrapedPod, port: int) -> str:
        """Return the text; raise LoopError where there is none."""
        ...

    def close(self) -> None:
        """Let go of connections of its own."""
        ...


class PodProxy(Protocol):
    """What pages through an API server need of its client."""

    def pod_page(self, namespace: str, name: str, *, port: int, path: str, tls: bool) -> str:
        """Return the text that a pod answers; raise LoopError where there is none."""
        ...


class ProxiedPages:
    """Pages through the API server: nothing but it need be reachable, and its permissions hold
    (pods/proxy).
    """

    def __init__(self, client: PodProxy) -> None:
        self._client = client

    def page(self, pod: ScrapedPod, port: int) -> str:
        """Return the text of a page of *pod*."""
        tls = port in pod.tls_ports
        return self._client.pod_page(pod.namespace, pod.name, port=port, path=pod.path, tls=tls)

    def close(self) -> None:
        """Leave the client to its owner."""


class DirectPages:
    """Pages from the addresses of the pods: for a controller inside the cluster."""

    def __init__(self, *, timeout_s: float = PAGE_S_MAX) -> None:
        self._bounds = Bounds(total_s=timeout_s, bytes_max=PAGE_BYTES_MAX)
        # A pod has a certificate for no address: as an API server does that asks on one's behalf.
        self._client = httpx.Client(
            timeout=timeout_s,
            trust_env=False,
            limits=NOTHING_KEPT,
            verify=False,  # noqa: S501 above
        )

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def page(self, pod: ScrapedPod, port: int) -> str:
        """Return the text of a page of *pod*."""
        if not pod.address:
            raise PageError("it has no address yet")
        host = f"[{pod.address}]" if ":" in pod.address else pod.address
        scheme = "https" if port in pod.tls_ports else "http"
        url = f"{scheme}://{host}:{port}/{pod.path.lstrip('/')}"
        try:
            reply = fetch(self._client, "GET", url, bounds=self._bounds)
            if reply.status in MOVED and not url.endswith("/"):
                # Frameworks show a page that is mounted behind a further slash only.
                reply = fetch(self._client, "GET", f"{url}/", bounds=self._bounds)
        except FetchError as error:
            raise PageError(str(error)) from error
        if reply.status != httpx.codes.OK:
            raise PageError(f"HTTP {reply.status}: {reply.reason}")
        return reply.text


class Told(NamedTuple):
    """One line of a page."""

    metric: str
    labels: Labels
    value: float


class Page(NamedTuple):
    """What a page tells: its series, and its histograms."""

    series: list[Told]
    histograms: Found


class PodMetrics:
    """Keeps the samples of pods that a window needs, by pod and series."""

    name = "pods"
    at_pods = True

    def __init__(
        self,
        pages: Pages,
        *,
        window: WindowSettings | None = None,
        parallel: int = 8,
        names: Names = NAMES,
        clock_s: Callable[[], float] | None = None,
    ) -> None:
        """*clock_s* tells seconds: a page that took long is stamped with when it came, not with the
        beginning of the cycle.
        """
        self._clock_s = clock_s or (lambda: 0.0)
        self._pages = pages
        self._window = window or WindowSettings()
        self._names = names
        self._wanted = re.compile(rf"(?:{names.pattern}|{START_TIME})[{{ \t]")
        self._wanted_births = re.compile(rf"(?:{names.pattern}|{names.births_pattern})[{{ \t]")
        self._wanted_names = re.compile(rf"{names.pattern}|{RELATED}")
        # Its threads do not keep a program from ending while a request of theirs hangs.
        self._pool = ThreadPool(parallel)
        self._samples: dict[PodKey, dict[tuple[str, Labels], list[tuple[float, float]]]] = {}
        self._histograms = PodHistograms(names, window_s=self._window.window_s)
        self._left_s: dict[PodKey, float] = {}
        self._server: dict[PodKey, str] = {}
        self._own, self._stills = OwnEngines(names), Stills()

    def forget(self) -> None:
        """Begin anew: the next look is the first one."""
        self._samples.clear()
        self._left_s.clear()
        self._histograms = PodHistograms(self._names, window_s=self._window.window_s)

    def close(self) -> None:
        """End what still runs."""
        self._pool.terminate()
        self._pages.close()

    def measure(self, servers: Sequence[ScrapedServer], *, now_s: float) -> Measurement:
        """Fetch the pages of all pods that answer, and return the figures of *servers* over the
        window.
        """
        asked = [
            (pod, port, server.containers.get(port, ""))
            for server in servers
            for pod in server.pods
            if _answers(pod)
            for port in pod.ports
        ]
        begin_s = self._clock_s()
        answers = self._pool.map(self._fetch, [one[:2] for one in asked], chunksize=1)
        errors = []
        for (pod, port, container), (told, came_s) in zip(asked, answers, strict=True):
            if isinstance(told, LoopError):
                # Of several ports some may be for other things.
                if pod.phase == "ready" and len(pod.ports) == 1:
                    errors.append(f"{pod.name}: {told}")
            else:
                at_s = now_s + came_s - begin_s
                key = (pod.namespace, pod.name)
                # Pages of one pod are told apart by their port and its container.
                of_page = ((CONTAINER, container),) if container else ()
                self._add(key, told.series, ((PORT, str(port)), *of_page), now_s=at_s)
                self._histograms.add(key, port, told.histograms, at_s=at_s)
        listed = {
            (pod.namespace, pod.name): server.name for server in servers for pod in server.pods
        }
        self._server |= listed
        reduced_s = {one.name: one.reduced_s for one in servers if one.reduced_s is not None}
        self._prune(listed.keys(), now_s=now_s, reduced_s=reduced_s)
        self._histograms.forget(self._samples.keys(), now_s=now_s)
        shared: dict[str, list[PodKey]] = defaultdict(list)
        for key in self._samples:
            shared[self._server[key]].append(key)
        found = {one.name: self._figures(one, shared[one.name], now_s=now_s) for one in servers}
        return Measurement(figures=found, warnings=_summary(errors))

    @property
    def table(self) -> Names:
        """Return the names that it reads."""
        return self._names

    def show_names(self, servers: Sequence[ScrapedServer]) -> Shown:
        """Return the names of the metrics of *servers*: those on the pages of one ready pod of
        each.
        """
        names, problems = {}, {}
        for server in servers:
            pod = next((pod for pod in server.pods if pod.phase == "ready"), None)
            pages = [self._page_or_error(pod, port) for port in pod.ports] if pod else []
            errors = [str(page) for page in pages if isinstance(page, LoopError)]
            if errors and len(errors) == len(pages):
                problems[server.name] = errors[0]
            names[server.name] = frozenset(
                name for page in pages if isinstance(page, str) for name in self._names_on(page)
            )
        return Shown(names=names, problems=problems)

    def _names_on(self, page: str) -> set[str]:
        told = {match[0] for match in _NAME.finditer(page)}
        # What a label tells apart has its name from there.
        found = {
            name for name in told if self._wanted_names.fullmatch(name) and called(name, {}) == name
        }
        with suppress(PageError):  # who reads the page for its figures tells of it
            found |= {one.metric for one in read_page(page, wanted=self._wanted)}
        return found

    def _page_or_error(self, pod: ScrapedPod, port: int) -> str | LoopError:
        try:
            return self._pages.page(pod, port)
        except LoopError as error:
            return error

    def _figures(self, server: ScrapedServer, keys: Sequence[PodKey], *, now_s: float) -> Figures:
        gone, told = {}, dict[str, Sequence[Series]]()
        # Where all pods were replaced since the last look, what those before did is all there is.
        telling = any(key not in self._left_s and self._twice(key) for key in keys)
        begin_s = now_s - self._window.window_s
        for key in keys:
            told[key[1]] = [
                Series(*of, _of_window(points, begin_s) if telling else points)
                for of, points in self._samples[key].items()
            ]
            if key in self._left_s:
                gone[key[1]] = (_latest_s(self._samples[key]), self._left_s[key])
        own, further = self._own.of(server, told), self._own.further(server.name)
        restarts_s = {pod.name: pod.restarts_s for pod in server.pods if pod.restarts_s}
        tracks = {
            pod: tracks_of(
                series,
                names=self._names,
                engines=server.engines,
                speed=self._window.speed,
                restarts_s=restarts_s.get(pod, ()),
            )
            for pod, series in own.items()
        }
        stood = self._stills.without(server.name, tracks)
        found = figures(
            server,
            stood.tracks,
            now_s=now_s,
            settings=self._window,
            gone=gone,
            own_looks=True,
            served=frozenset[str]().union(*map(models_of, own.values())),
            further=further,
        )
        found = stood.told_in(found)
        if further:
            return found  # nobody tells of which engine the buckets of a page are
        grown = self._histograms.grown(set(keys), fresh_s=now_s - self._window.stale_s)
        return with_percentiles(
            found,
            {key[1]: of for key, (of, _) in grown.items()},
            tracks,
            age_s=now_s - max((at_s for _, at_s in grown.values()), default=now_s),
        )

    def _twice(self, key: PodKey) -> bool:
        return any(len(points) > 1 for points in self._samples[key].values())

    def _fetch(self, asked: tuple[ScrapedPod, int]) -> tuple[Page | LoopError, float]:
        """Return what a page tells, or why it does not, and when it came [s of the clock]."""
        try:
            text = self._pages.page(*asked)
            # Where the page tells when its process began, it need not be guessed from counters.
            wanted = self._wanted if f"\n{START_TIME} " in text else self._wanted_births
            told: Page | LoopError = Page(
                read_page(text, wanted=wanted), self._histograms.read(text)
            )
        except LoopError as error:
            told = error
        return told, self._clock_s()

    def _add(self, key: PodKey, told: Iterable[Told], of_page: Labels, *, now_s: float) -> None:
        for metric, labels, value in told:
            series = self._samples.setdefault(key, {})
            points = series.setdefault((metric, (*labels, *of_page)), [])
            # Two cycles at one instant saw the same.
            if points and points[-1][0] >= now_s:
                points.pop()
            points.append((now_s, value))

    def _prune(
        self, listed: Iterable[PodKey], *, now_s: float, reduced_s: Mapping[str, float]
    ) -> None:
        """Forget the samples that no window needs any more: all but one of those before it, or two
        of a pod that has gone, which may be all that is known of its server (_figures).
        """
        begin_s = now_s - self._window.window_s
        oldest_s = now_s - GAP_WINDOWS_MAX * self._window.window_s
        there = set(listed)
        for key, series in list(self._samples.items()):
            kept = 1 if key in there else 2
            for of, points in list(series.items()):
                while len(points) > kept and points[kept][0] <= begin_s:
                    points.pop(0)
                if points[-1][0] < oldest_s:
                    del series[of]
                elif points[0][0] < oldest_s:
                    points.pop(0)
            latest_s = _latest_s(series)
            if key in there:
                self._left_s.pop(key, None)
            elif series:
                # Nobody saw it go. If the loop has taken replicas away meanwhile, it went then;
                # else half-way between the last sample and now is as good a guess as any.
                went_s = reduced_s.get(self._server[key], float("-inf"))
                if not latest_s <= went_s <= now_s:
                    went_s = 0.5 * (latest_s + now_s)
                self._left_s.setdefault(key, went_s)
            if not series or (key not in there and latest_s < begin_s):
                del self._samples[key]
                self._left_s.pop(key, None)
        self._server = {
            key: name for key, name in self._server.items() if key in there or key in self._samples
        }


def _of_window(
    points: Sequence[tuple[float, float]], begin_s: float
) -> Sequence[tuple[float, float]]:
    """Return *points* without those before *begin_s* but the last of them."""
    first = max((k for k, (at_s, _) in enumerate(points) if at_s <= begin_s), default=0)
    return points[first:]


def _answers(pod: ScrapedPod) -> bool:
    """Tell whether *pod* may show its page: one that fails its probes under load does, one whose
    containers have not begun lets the request wait for seconds.
    """
    return pod.phase in ("ready", "draining") or (
        pod.phase == "starting" and pod.started_s is not None
    )


def _latest_s(series: Mapping[tuple[str, Labels], Sequence[tuple[float, float]]]) -> float:
    return max((points[-1][0] for points in series.values()), default=float("-inf"))


def read_page(text: str, *, wanted: re.Pattern[str]) -> list[Told]:
    """Return the series of a page whose lines *wanted* matches.

    Raise PageError where the page is none.
    """
    # Names of models may have in them what only str.splitlines takes for the end of a line.
    lines = [line for line in text.replace("\r\n", "\n").split("\n") if wanted.match(line)]
    if len(lines) > LINES_MAX:
        raise PageError(
            f"expected at most {LINES_MAX:,} series of an engine, found {len(lines):,}: has one of "
            "its labels a value of its own for each request?"
        )
    try:
        return [
            Told(called(sample.name, labels), tuple(sorted(labels.items())), float(sample.value))
            for family in text_string_to_metric_families("\n".join(lines) + "\n")
            for sample in family.samples
            for labels in [dict(sample.labels)]
        ]
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        raise PageError(
            f"expected metrics in Prometheus' text format, found {str(error)[:100]}"
        ) from error


def _summary(errors: Iterable[str]) -> tuple[str, ...]:
    named = list(errors)
    more = (
        [f"pods: {len(named) - ERRORS_NAMED} more pods did not show their metrics"]
        if len(named) > ERRORS_NAMED
        else []
    )
    return (*(f"pods: {line}" for line in named[:ERRORS_NAMED]), *more)
