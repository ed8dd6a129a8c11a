"""An import: what the API server and Prometheus are asked, and what is made of their answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from experiments.dates import date_of
from experiments.own_system.cluster import facts_of, places_of, read_nodes, selected
from experiments.own_system.directory import Imported, Measured, imported
from experiments.own_system.known import Known
from experiments.own_system.load import ANSWERS, PROMPTS, rates_of, variation_of
from experiments.own_system.points import measured_percentiles
from experiments.own_system.templates import Alike, alike, engine, model_and_gpus
from loop.backends.kube.client import ApiError, KubeClient
from loop.backends.kube.nodes import Node, read_capacity
from loop.backends.kube.patches import tenant_of
from loop.backends.kube.read import Pod, Server, read_servers, scraped
from loop.backends.metrics.api import PrometheusError
from loop.backends.metrics.past import Past, date_text, read_past
from loop.backends.metrics.prometheus import Prometheus
from twin.spec import SpecError

Json = Mapping[str, Any]

STEP_S = 60.0
STEP_S_MIN, STEP_S_MAX = 15.0, 3600.0
STEPS_MAX = 20_160  # two weeks by minute: of a longer past steps are longer
LAST_S_MAX = 366 * 86_400.0
BEFORE_S = 600.0  # so old may be what a counter had when the past began
CACHE_INFO = ("vllm:cache_config_info", "vllm_cache_config_info")
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """The past that is asked for [Unix time]; end_s None: until now. step_s None: as it fits."""

    last_s: float
    end_s: float | None = None
    step_s: float | None = None

    def __post_init__(self) -> None:
        """Raise SpecError for a time that cannot be."""
        if not 10 * STEP_S <= self.last_s <= LAST_S_MAX:
            raise SpecError(f"last: expected 10m to 366d, found {self.last_s:g} s")
        if self.step_s is not None and not STEP_S_MIN <= self.step_s <= STEP_S_MAX:
            raise SpecError(
                f"step: expected {STEP_S_MIN:g} to {STEP_S_MAX:g} seconds, found {self.step_s:g}"
            )

    @property
    def step(self) -> float:
        """Return the step [s]: a minute, or more if the past is long."""
        if self.step_s is not None:
            return self.step_s
        return STEP_S * max(1, -int(-self.last_s // (STEPS_MAX * STEP_S)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be imported: namespaces ("" alone: all), the managed Deployments, or those that
    *select* names. vllm is its version, if the user says it. Without *fit* latency models are those
    of data sheets. Of a twin that runs at *speed*, Prometheus saw as much of its time in a second.
    """

    namespaces: Sequence[str] = ("",)
    select: str = ""
    vllm: str | None = None
    fit: bool = True
    speed: float = 1.0
    period: Period


def seconds(text: str, *, option: str) -> float:
    """Return the seconds that a text such as 7d or 1h30m says. Raise SpecError if it says none."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if not parts or "".join(f"{number}{unit}" for number, unit in parts) != text.strip():
        raise SpecError(f"{option}: expected a time such as 7d, 36h or 90m, found {text[:60]!r}")
    return sum(float(number) * UNITS_S[unit] for number, unit in parts)


def date_s(text: str) -> float:
    """Return the Unix time of a date; without a zone it is UTC. Raise SpecError if it is none."""
    try:
        return date_of(text).timestamp()
    except ValueError:
        raise SpecError(
            f"until: expected a date such as 2026-11-28T06:00Z, found {text[:60]!r}"
        ) from None


def read_system_of(
    client: KubeClient,
    prometheus: Prometheus | None,
    asked: Asked,
    *,
    known: Known,
    now_s: float,
    progress: Callable[[float], None],
) -> Imported:
    """Return what the cluster of *client* and *prometheus* tell of the servers *asked* for. Raise
    SpecError if there are none.
    """
    told: list[tuple[str, str]] = []
    servers, others = asked_servers(client, asked, now_s=now_s, told=told)
    if not servers:
        which = (
            f"with labels {asked.select}" if asked.select else "with inferno.server.managed=true"
        )
        raise SpecError(
            f"expected Deployments {which}, found none (--select key=value names others)"
        )
    objects, nodes, capacity = _nodes(client, servers, others, known=known, told=told)
    measured, past = asked_past(
        prometheus,
        servers,
        asked,
        same=same_engines(client, servers),
        now_s=now_s,
        progress=progress,
    )
    kv_tokens = _kv_tokens(prometheus, servers, past, told=told)
    variations = _variations(prometheus, servers, past, told=told)
    percentiles = _percentiles(prometheus, servers, past, told=told)
    facts = [
        facts_of(
            server,
            nodes=nodes,
            places=places_of(server.deployment.pod_spec, objects),
            models_told=past.model_names.get(server.name, frozenset()) if past else (),
            kv_tokens=kv_tokens.get(server.name),
            vllm=asked.vllm,
            speed=asked.speed,
        )
        for server in servers
    ]
    problems = (*(f"{of}: {line}" if of else line for of, line in told), *measured.problems)
    return imported(
        facts,
        capacity=capacity,
        known=known,
        measured=replace(
            measured, problems=problems, variations=variations, percentiles_ms=percentiles
        ),
        fit=asked.fit,
    )


def asked_servers(
    client: KubeClient, asked: Asked, *, now_s: float, told: list[tuple[str, str]]
) -> tuple[list[Server], list[Pod]]:
    """Return the servers *asked* for, and the pods of nobody; lines on them are added to *told*."""
    deployments: list[Json] = []
    pods: list[Json] = []
    for namespace in asked.namespaces or ("",):
        if asked.select:
            deployments += selected(client.all_deployments(namespace), asked.select)
        else:
            deployments += client.deployments(namespace)
        pods += client.pods(namespace)
    # Seconds of the run are seconds before now.
    found = read_servers(deployments, pods, epoch_s=now_s)
    told += [("", line) for line in found.warnings]
    return list(found.by_name.values()), list(found.unowned)


def _nodes(
    client: KubeClient,
    servers: Sequence[Server],
    others: Sequence[Pod],
    *,
    known: Known,
    told: list[tuple[str, str]],
) -> tuple[Sequence[Json], list[Node], dict[str, int]]:
    types = known.types
    try:
        objects = client.nodes()
    except ApiError as error:
        told.append(("nodes", f"the GPUs of the cluster: {error}"))
        return [], [], {}
    lines: list[str] = []
    nodes = read_nodes(objects, types=types, told=lines)
    found = read_capacity(
        objects, tenants=[tenant_of(server) for server in servers], others=others, types=types
    )
    told += [("", line) for line in (*lines, *found.notes)]
    return objects, nodes, {kind: view.total for kind, view in found.by_type.items() if view.total}


def same_engines(client: KubeClient, servers: Sequence[Server]) -> Alike:
    """Return which pod templates of *servers* are one engine, as far as ReplicaSets tell it."""
    return alike(_replica_sets(client, servers), of=engine)


def same_models(client: KubeClient, servers: Sequence[Server]) -> Alike:
    """Return which pod templates of *servers* are one model on the same GPUs, whatever the version
    of the engine and its settings are.
    """
    return alike(_replica_sets(client, servers), of=model_and_gpus)


def _replica_sets(client: KubeClient, servers: Sequence[Server]) -> Iterator[Json]:
    for namespace in sorted({one.deployment.namespace for one in servers}):
        yield from client.replica_sets(namespace)


def asked_past(
    prometheus: Prometheus | None,
    servers: Sequence[Server],
    asked: Asked,
    *,
    same: Alike,
    now_s: float,
    progress: Callable[[float], None],
) -> tuple[Measured, Past | None]:
    """Return the past of *servers*, read at *now_s*, none without *prometheus*; *same* says which
    pod templates are one engine. Raise SpecError if it does not answer at all.
    """
    if prometheus is None:
        line = "the load and the latencies of the past: no Prometheus was given (--prometheus)"
        return Measured(histories={}, source="the cluster alone", problems=(line,)), None
    period = asked.period
    step_s = period.step
    try:
        end_s = prometheus.present_s() if period.end_s is None else period.end_s
    except PrometheusError as error:
        raise SpecError(f"prometheus: expected an answer, found none: {error}") from None
    end_s = step_s * (end_s // step_s)
    past = read_past(
        prometheus,
        [scraped(server) for server in servers],
        start_s=end_s - step_s * round(period.last_s / step_s),
        end_s=end_s,
        step_s=step_s,
        progress=progress,
        alike=same.stems,
        speed=asked.speed,
    )
    source = f"Prometheus, {date_text(end_s - period.last_s)} to {date_text(end_s)} by {step_s:g} s"
    if asked.speed != 1.0:
        source += f", of a twin {asked.speed:g} times as fast (dates of its load: its own)"
    histories = {name: history.sped(asked.speed) for name, history in past.histories.items()}
    engines = {name: of.history.sped(asked.speed) for name, of in past.engines.items() if of.others}
    problems = [*past.problems, *_silent(servers, past, now_s=now_s), *_replaced(past)]
    past = replace(past, histories=histories)
    batches = {
        one.name: batch
        for one in servers
        if (batch := same.batches.get((one.deployment.namespace, past.engines[one.name].template)))
    }
    return Measured(
        histories=histories,
        engines=engines,
        batches=batches,
        source=source,
        problems=tuple(problems),
    ), past


def _silent(servers: Sequence[Server], past: Past, *, now_s: float) -> Iterator[str]:
    """Tell of pods that were ready in the past and that Prometheus has nothing of."""
    for server in servers:
        ready = {
            pod.name
            for pod in server.pods
            if pod.phase == "ready" and pod.since_s + now_s < past.end_s - BEFORE_S
        }
        told = past.pods.get(server.name, frozenset())
        # Of a server of which nothing at all is known that is told.
        if told and (silent := ready - told):
            yield (
                f"{server.name}: the load of {len(silent)} of its {len(ready)} ready pods, which "
                f"Prometheus has no metrics of ({min(silent)}): only that of the others is counted"
            )


def _replaced(past: Past) -> Iterator[str]:
    """Tell of servers of whose engine of now a part of the past tells."""
    for name, of in past.engines.items():
        if of.others:
            begin = of.history.start_s + of.history.step_s * int(of.history.known.argmax())
            date = datetime.fromtimestamp(begin, UTC).strftime("%Y-%m-%dT%H:%MZ")
            yield (
                f"{name}: its latencies before {date_text(begin)}, which are left out: pods of "
                f"another template had them, perhaps on other GPUs (--until {date} takes them)"
            )
        elif of.wanted and of.template and of.wanted != of.template:
            yield (
                f"{name}: whether its latencies are those of its pods of now: pods of a template "
                "that has gone had them, perhaps on other GPUs"
            )


def _kv_tokens(
    prometheus: Prometheus | None,
    servers: Sequence[Server],
    past: Past | None,
    *,
    told: list[tuple[str, str]],
) -> dict[str, int]:
    """Return the KV cache of a replica of each server, as its engines tell it: the smallest."""
    if prometheus is None or past is None:
        return {}
    try:
        series = prometheus.latest(
            CACHE_INFO,
            [scraped(server) for server in servers],
            at_s=past.end_s,
            last_s=past.end_s - past.start_s,
        )
    except PrometheusError as error:
        told.append(("prometheus", f"the KV caches of engines: {error}"))
        return {}
    found: dict[str, int] = {}
    for server, of_server in series.items():
        of = past.engines[server]
        for labels, _ in of_server:
            pod = str(labels.get("pod", ""))
            if of.others and pod and of.of(pod) != of.template:
                continue
            blocks, size = (labels.get(key, "") for key in ("num_gpu_blocks", "block_size"))
            if blocks.isdigit() and size.isdigit() and int(blocks) * int(size) > 0:
                tokens = int(blocks) * int(size)
                found[server] = min(found.get(server, tokens), tokens)
    return found


def _variations(
    prometheus: Prometheus | None,
    servers: Sequence[Server],
    past: Past | None,
    *,
    told: list[tuple[str, str]],
) -> dict[str, float]:
    """Return how token counts vary about their means, of the servers whose engines tell it."""
    if prometheus is None or past is None:
        return {}
    try:
        buckets = prometheus.latest(
            (*PROMPTS, *ANSWERS),
            [scraped(server) for server in servers],
            at_s=past.end_s,
            last_s=past.end_s - past.start_s,
        )
    except PrometheusError as error:
        told.append(("prometheus", f"how token counts vary: {error}"))
        return {}
    found = {}
    for server, of_server in buckets.items():
        history = past.histories[server]
        cv = variation_of(of_server, rates_of(history), several=history.has_several)
        if cv is not None:
            found[server] = round(cv, 3)
    return found


def _percentiles(
    prometheus: Prometheus | None,
    servers: Sequence[Server],
    past: Past | None,
    *,
    told: list[tuple[str, str]],
) -> dict[str, dict[str, dict[str, float]]]:
    """Return the percentiles of the latencies of each server over the past, by latency; of those
    whose engines have histograms.
    """
    if prometheus is None or past is None:
        return {}
    names, asked = prometheus.table, [scraped(server) for server in servers]
    last_s = past.end_s - past.start_s
    try:
        now = prometheus.latest(list(names.buckets), asked, at_s=past.end_s, last_s=last_s)
        before = prometheus.latest(list(names.buckets), asked, at_s=past.start_s, last_s=BEFORE_S)
    except PrometheusError as error:
        told.append(("prometheus", f"percentiles of latencies: {error}"))
        return {}
    found = {
        server: measured_percentiles(
            before.get(server, ()), buckets, names, zeros=past.histories[server].zeros
        )
        for server, buckets in now.items()
    }
    return {server: of_server for server, of_server in found.items() if of_server}
