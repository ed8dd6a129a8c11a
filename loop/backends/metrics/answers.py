"""What Prometheus answers: from its JSON to series by pod and server.

An answer as the documentation has it is decoded into arrays where msgspec is installed (the extra
`fast`); any other is read entry by entry, to the same values.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from loop.backends.fetch import Fetched
from loop.backends.metrics.api import PrometheusError, PrometheusSettings
from loop.signals.names import OF_A_HISTOGRAM, called
from loop.signals.pods import ScrapedServer, owns
from loop.signals.processes import Labels, Points, Series
from loop.signals.together import Name, PodNames, Rows, Samples

try:
    import msgspec
except ImportError:  # an extra
    msgspec = None

PodKey = tuple[str, str]  # namespace, name
WARNINGS_MAX, WARNING_MAX = 5, 300  # of an answer, and the characters of each

# What scrapers call the pod of a series where it is not called pod.
OTHER_POD_LABELS = frozenset(
    {"kubernetes_pod_name", "kubernetes_pod", "pod_name", "exported_pod", "k8s_pod_name"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The series by pod, by which other labels series name their pod, and what is to be told."""

    pods: Mapping[PodKey, Sequence[Series]]
    renamed: frozenset[str] = frozenset()
    told: tuple[str, ...] = ()


class _Known(NamedTuple):
    """What the labels of a series say."""

    pod: PodKey | None
    name: Name
    renamed: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which series of an answer are of which pod."""

    texts: Sequence[bytes]  # of their labels, in the order of the answer
    pods: Mapping[PodKey, PodNames]
    renamed: frozenset[str]


class Reader:
    """Reads the answers to one query, time after time. It remembers what series are called: next to
    all are called so in the next answer, too.
    """

    def __init__(self, settings: PrometheusSettings) -> None:
        self._settings = settings
        self._known: dict[bytes, _Known] = {}
        self._labels: dict[Labels, Labels] = {}  # most series of a pod have the same
        self._layout = _Layout((), {}, frozenset())

    def read(self, reply: Fetched, *, epoch_s: float) -> Answer:
        """Return what *reply* to a window_query tells. Raise PrometheusError where it is none.

        *epoch_s* is the date of second 0 of the run by the clock of Prometheus.
        """
        found = self._decoded(reply.body, epoch_s=epoch_s)
        if found is not None:
            return found
        answer = parsed(reply)
        pods = read_matrix(answer, settings=self._settings, epoch_s=epoch_s)
        metrics = (entry["metric"] for entry in answer["data"]["result"])
        renamed = frozenset[str]().union(*map(self._renamed, metrics))
        told = _told_besides(answer.get("warnings"), answer.get("isPartial"))
        return Answer(pods=pods, renamed=renamed, told=told)

    def _decoded(self, body: bytes, *, epoch_s: float) -> Answer | None:
        """Return what *body* tells, its samples as arrays; None if it has to be read entry by
        entry.
        """
        answer = _decode(body)
        if answer is None or (answer.status, answer.data.resultType) != ("success", "matrix"):
            return None
        try:
            texts, points = _told_by(answer.data.result)
            samples = Samples(points, epoch_s=epoch_s)
            if texts != self._layout.texts:
                self._layout = self._laid_out(texts)
        except (KeyError, ValueError, TypeError, AttributeError):
            return None
        return Answer(
            pods={key: Rows(samples, of) for key, of in self._layout.pods.items()},
            renamed=self._layout.renamed,
            told=_told_besides(answer.warnings, answer.isPartial),
        )

    def _laid_out(self, texts: Sequence[bytes]) -> _Layout:
        """Return whose the series are whose labels are *texts*. Raise KeyError, ValueError,
        TypeError or AttributeError where one has no name.
        """
        known = {text: self._known.get(text) or self._name(text) for text in texts}
        rows: dict[PodKey, list[int]] = defaultdict(list)
        for row, text in enumerate(texts):
            if (pod := known[text].pod) is not None:
                rows[pod].append(row)
        names = [known[text].name for text in texts]
        before = self._layout.pods
        pods = {}
        for pod, of in rows.items():
            called = PodNames(tuple([names[row] for row in of]), tuple(of))
            pods[pod] = before[pod] if before.get(pod) == called else called
        self._known = known
        self._labels = {one.labels: one.labels for one in names}
        renamed = frozenset[str]().union(*{one.renamed for one in known.values()})
        return _Layout(texts, pods, renamed)

    def _name(self, text: bytes) -> _Known:
        labels, _, end = text.rpartition(b"}")
        metric = _labels(json.loads(labels + b"}"))
        renamed = self._renamed(metric)
        name = called(metric.pop("__name__"), metric) + end.decode()
        pod = metric.pop(self._settings.pod_label, None)
        namespace = metric.pop(self._settings.namespace_label, None)
        told = tuple(sorted(metric.items()))
        return _Known(
            (namespace, pod) if pod and namespace else None,
            Name(name, self._labels.setdefault(told, told)),
            renamed,
        )

    def _renamed(self, metric: Mapping[str, Any]) -> frozenset[str]:
        """Return by which other labels a series names its pod."""
        read = self._settings.pod_label
        if read in metric and f"exported_{read}" not in metric:
            return frozenset()
        return OTHER_POD_LABELS.intersection(metric) - {read}


def _told_by(entries: Sequence[Any]) -> tuple[list[bytes], list[Points]]:
    """Return the labels and the points of the series that the *entries* of a decoded matrix tell,
    as `_told` does: behind the labels of a native histogram stands which of its counters it is.
    """
    texts = list(map(bytes, [one.metric for one in entries]))
    points = [one.values for one in entries]
    if [one.histograms for one in entries].count(None) < len(entries):
        texts, points = [], []
        for one in entries:
            text = bytes(one.metric)
            if one.values is not None or one.histograms is None:
                texts.append(text)
                points.append(one.values)
            for end in OF_A_HISTOGRAM if one.histograms is not None else ():
                of = end.removeprefix("_")
                texts.append(text + end.encode())
                points.append([(t, getattr(told, of)) for t, told in one.histograms])
    return texts, points


def _decode(body: bytes) -> Any:
    """Return a matrix as decoded, None if it is none or cannot be."""
    if msgspec is None:
        return None
    try:
        return _MATRIX.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    try:
        # It reads infinity without its sign only.
        return _MATRIX.decode(body.replace(b',"+Inf"]', b',"Inf"]'))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _told_besides(warnings: Any, partial: Any) -> tuple[str, ...]:
    lines = [warnings] if isinstance(warnings, str) else list(warnings or ())
    told = [
        f"prometheus: {' '.join(str(line).split())[:WARNING_MAX]}" for line in lines[:WARNINGS_MAX]
    ]
    if len(lines) > WARNINGS_MAX:
        told.append(f"prometheus: {len(lines) - WARNINGS_MAX} more warnings")
    if partial:  # VictoriaMetrics, of which a part does not answer
        told.append("prometheus: the answer is partial: series may be missing")
    return tuple(told)


def parsed(reply: Fetched) -> Mapping[str, Any]:
    """Return an answer as JSON. Raise PrometheusError where it is none."""
    try:
        answer = json.loads(reply.body)
    except (ValueError, RecursionError) as error:
        raise PrometheusError(f"expected JSON, found {reply.text[:80]!r}") from error
    if not isinstance(answer, Mapping):
        raise PrometheusError(f"expected an object, found {type(answer).__name__}")
    return answer


def read_names(
    answer: Mapping[str, Any], *, settings: PrometheusSettings
) -> dict[PodKey, list[Series]]:
    """Return the series by pod, without samples, of the answer to a names_query; PrometheusError if
    it is none.
    """
    pods: dict[PodKey, list[Series]] = defaultdict(list)
    try:
        for entry in answer["data"]["result"]:
            metric = _labels(entry["metric"])
            name = called(metric.pop("__name__"), metric)
            pod, namespace = metric.get(settings.pod_label), metric.get(settings.namespace_label)
            if pod and namespace:
                pods[namespace, pod].append(Series(name, (), []))
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
            metric = _labels(entry["metric"])
            name = called(metric.pop("__name__"), metric)
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
                    Series(
                        told, labels, [(_time_s(t) - epoch_s, float(text)) for t, text in points]
                    )
                )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PrometheusError(
            f"expected series of numbers, found otherwise ({type(error).__name__}: {error})"
        ) from error
    return dict(pods)


def _labels(metric: Mapping[str, Any]) -> dict[str, str]:
    """Return the labels of a series. Raise TypeError where one is no text."""
    if not all(isinstance(value, str) for value in metric.values()):
        raise TypeError("a label is no text")
    return dict(metric)


def _time_s(time: Any) -> float:
    """Return the time of a sample. Raise ValueError where it is none."""
    time_s = float(time)
    if not math.isfinite(time_s):
        raise ValueError(f"a time is {time_s}")
    return time_s


def _told(name: str, entry: Mapping[str, Any]) -> Iterator[tuple[str, Iterable[Any]]]:
    """Yield the series that an *entry* of a matrix tells, with the times and values of each: its
    own, and the two counters of a native histogram.
    """
    if "histograms" not in entry or "values" in entry:
        yield name, entry["values"]
    for end in OF_A_HISTOGRAM if "histograms" in entry else ():
        yield f"{name}{end}", [(t, one[end.removeprefix("_")]) for t, one in entry["histograms"]]


def read_latest(answer: Mapping[str, Any]) -> Sequence[tuple[Mapping[str, str], float]]:
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


if msgspec is not None:
    _HISTOGRAM: Any = msgspec.defstruct("Histogram", [("count", float), ("sum", float)])
    _ENTRY: Any = msgspec.defstruct(
        "Entry",
        [
            ("metric", msgspec.Raw),
            ("values", list[tuple[float, float]] | None, None),
            ("histograms", list[tuple[float, _HISTOGRAM]] | None, None),
        ],
    )
    _DATA: Any = msgspec.defstruct("Data", [("resultType", str), ("result", list[_ENTRY])])
    _ANSWER = msgspec.defstruct(
        "Answer",
        [("status", str), ("data", _DATA), ("warnings", Any, None), ("isPartial", Any, None)],
    )
    # Prometheus writes numbers as texts.
    _MATRIX = msgspec.json.Decoder(_ANSWER, strict=False)
