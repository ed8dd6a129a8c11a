"""Figures of servers from Prometheus: one query a cycle for the raw samples of their pods, whatever
their number.

Samples, not rates: what came to a pod is what ended plus what is in it more than before, and only
samples of one scrape belong together. The rules for what is missing, stale or no number are in
docs/kubernetes.md.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import httpx

from loop.backends.fetch import Bounds, Fetched, FetchError, fetch
from loop.backends.metrics.percentiles import Turns, buckets_query, read_buckets, restarted
from loop.backends.metrics.reach import WIDEST_S, Reaches, within
from loop.backends.metrics.source import Measurement, Shown
from loop.clocks import wall_s
from loop.errors import LoopError, SpecError
from loop.replacing import replace
from loop.signals.demand import Figures, WindowSettings, figures, with_percentiles
from loop.signals.names import NAMES, OF_A_HISTOGRAM, Names
from loop.signals.pods import ScrapedServer, owns
from loop.signals.processes import Labels, Series, model_names
from loop.signals.series import Track, tracks_of
from loop.signals.survey import RELATED

PodKey = tuple[str, str]  # namespace, name

ATTEMPTS = 2
BYTES_MAX = 256 * 2**20  # a thousand servers of three pods are some 20 MB
# The clock of an HTTP answer is in whole seconds, and the answer takes some time.
CLOCK_S_MAX = 2.5
# What scrapers call the pod of a series where it is not called pod.
OTHER_POD_LABELS = frozenset({"kubernetes_pod_name", "kubernetes_pod", "pod_name", "exported_pod"})
# For percentiles no cycle waits longer: it can do without them.
PERCENTILES_S = 2.0
# A Prometheus that cannot tell them in time is not asked again at once: it has enough to do.
PERCENTILES_AGAIN_S = 300.0
FORGET_WINDOWS = 5  # whose pod it was is remembered for so many windows after it has gone


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusSettings:
    """Where Prometheus is and how it names things.

    url may carry a query, which every request repeats (OpenShift's tenancy asks for a namespace).
    token_path, basic_auth_path (user:password) and headers_path (lines of "Name: value") are read
    for every request, since secrets are renewed in place. matchers are further ones for every
    query, such as cluster="east". The labels are those that a series carries of its pod.
    """

    url: str
    token_path: Path | None = None
    basic_auth_path: Path | None = None
    headers_path: Path | None = None
    ca_path: Path | None = None
    method: Literal["POST", "GET"] = "POST"
    window: WindowSettings = field(default_factory=WindowSettings)
    timeout_s: float = 10.0
    matchers: str = ""
    namespace_label: str = "namespace"
    pod_label: str = "pod"
    names: Names = NAMES


class PrometheusError(LoopError):
    """Prometheus did not answer, or not with what was asked for."""


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
        self._wall_s = wall_s
        self._client = httpx.Client(
            verify=_trust(settings),
            timeout=settings.timeout_s,
            trust_env=False,
            transport=transport,
        )
        self._url = _query_url(settings.url)
        self._ahead_s = 0.0  # by how much its clock is ahead of ours
        self._owners: dict[PodKey, tuple[str, float]] = {}
        self._turns = Turns()
        self._reaches = Reaches(settings.window)
        self._told_labels: set[str] = set()
        self._percentiles_from_s = float("-inf")  # no sooner they are asked for

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def measure(self, servers: Sequence[ScrapedServer], *, now_s: float) -> Measurement:
        """Return the figures of *servers*; where Prometheus fails, none of any, and the reason."""
        if not servers:
            return Measurement()
        self._reaches.forget(servers)
        self._remember(servers, now_s=now_s)
        query = window_query(_spaces(servers), self._settings, reach_s=self._reaches.longest_s)
        try:
            answer, at_s, told = self._ask_at_its_now(query)
            by_server = self._shared(answer, servers, epoch_s=at_s - now_s)
            tracks = self._tracks(servers, by_server, now_s=now_s)
            told += self._look_farther(servers, by_server, tracks, at_s=at_s, now_s=now_s)
        except PrometheusError as error:
            return Measurement(error=f"prometheus: {error}")
        found = {
            one.name: replace(
                figures(
                    one, tracks[one.name], now_s=now_s, settings=self._reaches.window(one.name)
                ),
                model_names=model_names(chain.from_iterable(by_server[one.name].values())),
            )
            for one in servers
        }
        told += [f"prometheus: {line}" for line in answer.get("warnings") or ()]
        if answer.get("isPartial"):  # VictoriaMetrics, of which a part does not answer
            told.append("prometheus: the answer is partial: series may be missing")
        told += self._renamed(answer)
        told += self._learn_percentiles(servers, tracks, at_s=at_s, now_s=now_s)
        found = {name: self._with_known(of, name, now_s=now_s) for name, of in found.items()}
        return Measurement(figures=found, warnings=tuple(told))

    def _shared(
        self, answer: Mapping[str, Any], servers: Sequence[ScrapedServer], *, epoch_s: float
    ) -> dict[str, dict[str, Sequence[Series]]]:
        """Return the series of an *answer* by server and pod. Raise PrometheusError."""
        series = read_matrix(answer, settings=self._settings, epoch_s=epoch_s)
        return share(series, servers, known={key: of for key, (of, _) in self._owners.items()})

    def _tracks(
        self,
        servers: Iterable[ScrapedServer],
        by_server: Mapping[str, Mapping[str, Sequence[Series]]],
        *,
        now_s: float,
    ) -> dict[str, dict[str, list[Track]]]:
        """Return the tracks of the pods of *servers*, each over the window of its server."""
        names, longest_s = self._settings.names, self._reaches.longest_s
        found: dict[str, dict[str, list[Track]]] = {}
        for one in servers:
            window_s = self._reaches.window(one.name).window_s
            found[one.name] = {
                pod: tracks_of(
                    of if window_s == longest_s else within(of, begin_s=now_s - window_s),
                    names=names,
                    engines=one.engines,
                )
                for pod, of in by_server[one.name].items()
            }
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
            reaches.learn(one.name, chain.from_iterable(by_server[one.name].values()))
            for one in servers
            if reaches.stretched(one.name)
        ]
        due = set(reaches.due(servers, tracks, now_s=now_s))
        blind = [one for one in servers if one.name in due]
        farther: dict[str, dict[str, Sequence[Series]]] = {}
        if blind:
            query = window_query(_spaces(blind), self._settings, reach_s=WIDEST_S)
            try:
                answer = _parsed(self._ask(query, at_s=at_s))
                farther = self._shared(answer, blind, epoch_s=at_s - now_s)
            except PrometheusError as error:
                # The others are known all the same.
                told.append(f"how often pods are scraped is not known: {error}")
        by_server |= farther
        for one in blind if farther else ():
            series = farther[one.name]
            told.append(reaches.learn(one.name, chain.from_iterable(series.values())))
            # What the longest window is now does not tell how far this answer reaches.
            begin_s = now_s - reaches.window(one.name).window_s
            cut = {pod: within(of, begin_s=begin_s) for pod, of in series.items()}
            tracks |= self._tracks([one], {one.name: cut}, now_s=now_s)
        return [f"prometheus: {line}" for line in told if line]

    def _renamed(self, answer: Mapping[str, Any]) -> list[str]:
        """Return a line if series name their pod by another label than the one that is read, once
        as long as that is so.
        """
        read = self._settings.pod_label
        renamed = {
            label
            for entry in answer["data"]["result"]
            if read not in entry["metric"] or f"exported_{read}" in entry["metric"]
            for label in entry["metric"].keys() & OTHER_POD_LABELS
            if label != read
        }
        fresh, self._told_labels = renamed - self._told_labels, renamed
        return [
            f"prometheus: series name their pod by the label {label}, and {read} is read: see "
            "--pod-label and --namespace-label"
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
        }
        due = self._turns.due(servers, served, now_s=now_s)
        if not due:
            return []
        settings = self._settings
        pods = sorted({pod for one in due for pod in served[one.name]})
        spaces = sorted({one.namespace for one in due})
        matchers = _matchers(settings.names.buckets_pattern, spaces, settings)
        by = (settings.namespace_label, settings.pod_label)
        query = buckets_query(
            [*matchers, f'{settings.pod_label}=~"{_any_of(pods)}"'],
            by,
            window_s=max(self._reaches.window(one.name).window_s for one in due),
        )
        try:
            asked = {
                "query": query,
                "time": f"{at_s:.3f}",
                "timeout": f"{PERCENTILES_S:g}s",
            }
            reply = self._fetch(self._url.path, asked, attempts=1, total_s=PERCENTILES_S)
            told = read_buckets(
                _parsed(reply),
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

    @property
    def table(self) -> Names:
        """Return the names that it reads."""
        return self._settings.names

    def show_names(self, servers: Sequence[ScrapedServer]) -> Shown:
        """Return the names of the metrics of *servers* that Prometheus has now."""
        query = names_query(sorted({server.namespace for server in servers}), self._settings)
        try:
            reply = self._ask(query, at_s=self._wall_s() + self._ahead_s)
            pods = read_names(_parsed(reply), settings=self._settings)
        except PrometheusError as error:
            return Shown(error=f"prometheus: {error}")
        known = {(pod.namespace, pod.name): one.name for one in servers for pod in one.pods}
        by_server = share(pods, servers, known=known)
        return Shown(
            names={
                server: frozenset(one.metric for series in of_pods.values() for one in series)
                for server, of_pods in by_server.items()
            }
        )

    def present_s(self) -> float:
        """Return the present of Prometheus [Unix time]. Raise PrometheusError."""
        _, at_s, _ = self._ask_at_its_now("vector(1)")
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
        answer = _parsed(self._ask(query, at_s=at_s))
        pods: dict[PodKey, list[Series]] = defaultdict(list)
        for metric, value in _latest(answer):
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
        reply = self._fetch(f"{self._url.path}_range", query)
        return read_matrix(_parsed(reply), settings=self._settings, epoch_s=0.0)

    def _remember(self, servers: Sequence[ScrapedServer], *, now_s: float) -> None:
        """Note whose each pod is: a name that Kubernetes has cut does not tell when it has gone."""
        for one in servers:
            self._owners |= {(pod.namespace, pod.name): (one.name, now_s) for pod in one.pods}
        oldest_s = now_s - FORGET_WINDOWS * self._settings.window.window_s
        self._owners = {key: of for key, of in self._owners.items() if of[1] >= oldest_s}

    def _ask_at_its_now(self, query: str) -> tuple[Mapping[str, Any], float, list[str]]:
        """Return the answer to *query* at the present of Prometheus, that present [Unix time], and
        what is to be told of its clock.

        Our clock may have been set, or be off: it would ask for the past, and be answered with it.
        """
        at_s = self._wall_s() + self._ahead_s
        reply = self._ask(query, at_s=at_s)
        its_s = _date_s(reply)
        off_s = 0.0 if its_s is None else its_s - (self._wall_s() + self._ahead_s)
        if abs(off_s) <= CLOCK_S_MAX:
            return _parsed(reply), at_s, []
        self._ahead_s += off_s
        line = (
            f"prometheus: its clock and ours have come apart by {off_s:+.0f} s: asked again for "
            "its present"
        )
        at_s = self._wall_s() + self._ahead_s
        return _parsed(self._ask(query, at_s=at_s)), at_s, [line]

    def _ask(self, query: str, *, at_s: float) -> Fetched:
        """Return the answer to *query* at a time. Raise PrometheusError."""
        return self._fetch(self._url.path, {"query": query, "time": f"{at_s:.3f}"})

    def _fetch(
        self,
        path: str,
        told: Mapping[str, str],
        *,
        attempts: int = ATTEMPTS,
        total_s: float | None = None,
    ) -> Fetched:
        """Return the answer to one question; one that was cut or refused for the moment is asked
        for again.
        """
        total_s = min(total_s or self._settings.timeout_s, self._settings.timeout_s)
        problem = PrometheusError("not asked")
        url = self._url.copy_with(path=path)
        post = self._settings.method == "POST"
        for _ in range(attempts):
            try:
                reply = fetch(
                    self._client,
                    self._settings.method,
                    url if post else url.copy_merge_params(told),
                    bounds=Bounds(total_s=total_s, bytes_max=BYTES_MAX),
                    headers=self._headers(),
                    data=told if post else None,
                )
            except FetchError as error:
                problem = PrometheusError(str(error))
                continue
            if reply.status in (429, 500, 502, 504):
                problem = PrometheusError(_complaint(reply))
                continue
            if reply.status != httpx.codes.OK:
                raise PrometheusError(_complaint(reply))
            return reply
        raise problem

    def _headers(self) -> dict[str, str]:
        """Return the headers of one request: further ones, and who asks."""
        settings = self._settings
        headers = {}
        if settings.headers_path is not None:
            for line in _secret(settings.headers_path, "headers").splitlines():
                name, colon, value = line.partition(":")
                if line.strip() and not (colon and name.strip().isascii() and name.strip()):
                    raise PrometheusError(
                        f"headers file {settings.headers_path}: expected lines of Name: value"
                    )
                if line.strip():
                    headers[name.strip()] = value.strip()
        if settings.basic_auth_path is not None:
            pair = _secret(settings.basic_auth_path, "basic auth").strip()
            if ":" not in pair or "\n" in pair:
                raise PrometheusError(
                    f"basic auth file {settings.basic_auth_path}: expected one line user:password"
                )
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        if settings.token_path is not None:
            token = _secret(settings.token_path, "token").strip()
            if not token.isascii() or not token.isprintable() or not token:
                raise PrometheusError(
                    f"token file {settings.token_path}: expected one line with a token"
                )
            headers["Authorization"] = f"Bearer {token}"
        return headers


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
    matchers = [f'__name__=~"{pattern}"', f'{settings.namespace_label}=~"{_any_of(namespaces)}"']
    return [*matchers, settings.matchers] if settings.matchers else matchers


def _spaces(servers: Iterable[ScrapedServer]) -> list[str]:
    return sorted({server.namespace for server in servers})


def _any_of(texts: Sequence[str]) -> str:
    """Return a regular expression for any of *texts*, as it stands in a query."""
    return "|".join(re.escape(text).replace("\\", "\\\\") for text in texts)


def read_names(
    answer: Mapping[str, Any], *, settings: PrometheusSettings
) -> dict[PodKey, list[Series]]:
    """Return the series by pod, without samples, of the answer to a names_query; PrometheusError if
    it is none.
    """
    pods: dict[PodKey, list[Series]] = defaultdict(list)
    try:
        for entry in answer["data"]["result"]:
            metric = entry["metric"]
            pod, namespace = metric.get(settings.pod_label), metric.get(settings.namespace_label)
            if pod and namespace:
                pods[namespace, pod].append(Series(metric["__name__"], (), []))
    except (KeyError, TypeError, AttributeError) as error:
        raise PrometheusError(
            f"expected series, found otherwise ({type(error).__name__}: {error})"
        ) from error
    return dict(pods)


def read_matrix(
    answer: Mapping[str, Any], *, settings: PrometheusSettings, epoch_s: float
) -> dict[PodKey, list[Series]]:
    """Return the series by pod of the answer to a window_query; PrometheusError where it is none.

    *epoch_s* is the date of second 0 of the run by the clock of Prometheus.
    """
    data = answer.get("data")
    if (
        answer.get("status") != "success"
        or not isinstance(data, Mapping)
        or data.get("resultType") != "matrix"
    ):
        raise PrometheusError(f"expected a matrix, found {json.dumps(answer)[:120]}")
    pod_label, namespace_label = settings.pod_label, settings.namespace_label
    pods: dict[PodKey, list[Series]] = defaultdict(list)
    # Most series of a pod have the same labels: put in order once, they are also told apart once.
    known: dict[PodKey, list[tuple[Mapping[str, str], Labels]]] = defaultdict(list)
    try:
        for entry in data["result"]:
            metric = dict(entry["metric"])
            name = metric.pop("__name__")
            pod, namespace = metric.pop(pod_label, None), metric.pop(namespace_label, None)
            if not pod or not namespace:
                continue
            of_pod = known[namespace, pod]
            labels = next((labels for alike, labels in of_pod if alike == metric), None)
            if labels is None:
                labels = tuple(sorted(metric.items()))
                of_pod.append((metric, labels))
            found = pods[namespace, pod]
            for told, points in _told(name, entry):
                found.append(
                    Series(told, labels, [(float(t) - epoch_s, float(text)) for t, text in points])
                )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PrometheusError(
            f"expected series of numbers, found otherwise ({type(error).__name__}: {error})"
        ) from error
    return dict(pods)


def _told(name: str, entry: Mapping[str, Any]) -> Iterator[tuple[str, Iterable[Any]]]:
    """Yield the series that an *entry* of a matrix tells, with the times and values of each: its
    own, and the two counters of a native histogram.
    """
    if "histograms" not in entry or "values" in entry:
        yield name, entry["values"]
    for end in OF_A_HISTOGRAM if "histograms" in entry else ():
        yield f"{name}{end}", [(t, one[end.removeprefix("_")]) for t, one in entry["histograms"]]


def _latest(answer: Mapping[str, Any]) -> Sequence[tuple[Mapping[str, str], float]]:
    """Return the labels and the value of each series of the answer to an instant query."""
    try:
        return [
            (
                {str(key): str(value) for key, value in entry["metric"].items()},
                float(entry["value"][1]),
            )
            for entry in answer["data"]["result"]
        ]
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise PrometheusError(
            f"expected series, found otherwise ({type(error).__name__}: {error})"
        ) from error


def share(
    series: Mapping[PodKey, Sequence[Series]],
    servers: Sequence[ScrapedServer],
    *,
    known: Mapping[PodKey, str],
) -> dict[str, dict[str, Sequence[Series]]]:
    """Return the series by server and pod. A pod that has gone belongs to whom it was *known* to
    belong, else to the workload that its name begins with: the longest, where several fit.
    """
    shared: dict[str, dict[str, Sequence[Series]]] = {one.name: {} for one in servers}
    for (namespace, pod), found in series.items():
        server = known.get((namespace, pod))
        if server is None:
            fitting = [
                one for one in servers if one.namespace == namespace and owns(one.workload, pod)
            ]
            server = max(fitting, key=lambda one: len(one.workload)).name if fitting else None
        if server in shared:
            shared[server][pod] = found
    return shared


def _secret(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PrometheusError(f"{what} file {path}: {error}") from error


def _date_s(reply: Fetched) -> float | None:
    """Return the time of an answer by the clock of who sent it, in the middle of its second."""
    try:
        return parsedate_to_datetime(reply.headers["Date"]).timestamp() + 0.5
    except (KeyError, TypeError, ValueError):
        return None


def _trust(settings: PrometheusSettings) -> ssl.SSLContext | bool:
    if settings.ca_path is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(settings.ca_path))
    except (OSError, ssl.SSLError) as error:
        raise SpecError(
            f"{settings.ca_path}: expected CA certificates (PEM), found {error}"
        ) from error


def _query_url(url: str) -> httpx.URL:
    """Return the address of the query API; a query in *url* stays where it belongs."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise SpecError(f"prometheus: expected a URL, found {url!r} ({error})") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise SpecError(f"prometheus: expected a URL such as http://localhost:9090, found {url!r}")
    return parsed.copy_with(path=f"{parsed.path.rstrip('/')}/api/v1/query")


def _complaint(reply: Fetched) -> str:
    """Return what a refusal says, in one line."""
    try:
        told = json.loads(reply.body)
        text = f"{told['errorType']}: {told['error']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        text = reply.reason
    return f"HTTP {reply.status}: {' '.join(text.split())[:200]}"


def _parsed(reply: Fetched) -> Mapping[str, Any]:
    try:
        answer = json.loads(reply.body)
    except (ValueError, RecursionError) as error:
        raise PrometheusError(f"expected JSON, found {reply.text[:80]!r}") from error
    if not isinstance(answer, Mapping):
        raise PrometheusError(f"expected an object, found {type(answer).__name__}")
    return answer
