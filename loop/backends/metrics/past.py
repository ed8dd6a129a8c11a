"""The past of servers from Prometheus, in pieces that an answer can hold; gaps are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from loop.backends.metrics.answers import share
from loop.backends.metrics.api import PrometheusError
from loop.backends.metrics.prometheus import Prometheus
from loop.signals.history import History, empty_history
from loop.signals.pods import ScrapedServer
from loop.signals.processes import model_names
from loop.signals.series import tracks_of

PIECE_STEPS = 360  # of one question; Prometheus answers 11,000 at most
PIECE_STEPS_MIN = 15
# Of the steps before a piece, so many are asked for again: a process that was not scraped for a
# while is known again.
OVERLAP_STEPS = 10
FAILURES_MAX = 6  # in a row, after which nothing more is asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What Prometheus knew of each server from start_s to end_s [Unix time], what engines call the
    models that they served, and what it did not answer, a line each.
    """

    start_s: float
    end_s: float
    histories: Mapping[str, History]
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
) -> Past:
    """Return the past of *servers* from *start_s* to *end_s* [Unix time] by steps of *step_s*.

    A piece that is too much for one answer is halved; *progress* is told the share that is done.
    """
    steps = int((end_s - start_s) / step_s + 1e-6)
    assert steps >= 1, f"expected at least one step, got {start_s} to {end_s} by {step_s}"
    histories = {
        one.name: empty_history(start_s=start_s, step_s=step_s, steps=steps) for one in servers
    }
    known = {(pod.namespace, pod.name): one.name for one in servers for pod in one.pods}
    namespaces = sorted({one.namespace for one in servers})
    models: dict[str, frozenset[str]] = {}
    problems: list[str] = []
    todo = [(begin, min(begin + PIECE_STEPS, steps)) for begin in range(0, steps, PIECE_STEPS)][
        ::-1
    ]
    failures = 0
    while todo and servers:
        begin, end = todo.pop()
        first_s = start_s + begin * step_s
        try:
            series = source.history(
                namespaces,
                start_s=first_s - OVERLAP_STEPS * step_s,
                end_s=start_s + end * step_s,
                step_s=step_s,
            )
        except PrometheusError as error:
            failures += 1
            if end - begin > PIECE_STEPS_MIN and failures < FAILURES_MAX:
                middle = (begin + end) // 2
                todo += [(middle, end), (begin, middle)]
                continue
            problems.append(f"{_span(first_s, start_s + end * step_s)}: prometheus: {error}")
            if failures >= FAILURES_MAX:
                if todo:
                    last_s = start_s + todo[0][1] * step_s
                    problems.append(f"{_span(first_s, last_s)}: not asked for any more")
                break
            continue
        failures = 0
        for server, pods in share(series, servers, known=known).items():
            for of_pod in pods.values():
                models[server] = models.get(server, frozenset()) | model_names(
                    one.labels for one in of_pod
                )
                tracks = tracks_of(of_pod, names=source.table)
                histories[server].add(tracks, first_s=first_s)
        progress(end / steps)
    return Past(
        start_s=start_s,
        end_s=start_s + steps * step_s,
        histories=histories,
        model_names=models,
        problems=tuple(problems),
    )


def _span(begin_s: float, end_s: float) -> str:
    return f"{date_text(begin_s)} to {date_text(end_s)}"


def date_text(at_s: float) -> str:
    """Return a time as people read it, to the minute."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%MZ")
