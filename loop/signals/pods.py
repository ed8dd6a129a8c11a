"""Servers and their pods as a source of metrics knows them: values of no particular cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from loop.types import PodPhase
from twin.frozen import made_quickly


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapedPod:
    """One pod that has not finished. Times are seconds of the run.

    since_s: when it entered its phase; created_s: when it was asked for; started_s: when its
    process began, if known; restarts_s: when its engine began the last two times, if it came up
    again. ports are those that may show metrics, at *path*, the likeliest first; tls_ports those
    that are asked by HTTPS.
    """

    name: str
    namespace: str
    phase: PodPhase
    since_s: float
    created_s: float
    started_s: float | None = None
    restarts_s: tuple[float, ...] = ()
    address: str = ""
    ports: tuple[int, ...] = ()
    path: str = "/metrics"
    tls_ports: frozenset[int] = frozenset()


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapedServer:
    """A server and its pods. workload is the name that its pods' names begin with.

    engines: the containers that ask for GPUs; containers: those of its pods by their ports; models:
    its model, or those that it may be where none is told.
    reduced_s: when the loop last took replicas away [s of the run], if it has. released: pods that
    are named as its own are and are so no more.
    """

    name: str
    namespace: str
    workload: str
    pods: tuple[ScrapedPod, ...] = ()
    engines: frozenset[str] = frozenset()
    containers: Mapping[int, str] = field(default_factory=dict)
    models: frozenset[str] = frozenset()
    reduced_s: float | None = None
    released: frozenset[str] = frozenset()


GENERATED_MAX = 58  # Kubernetes cuts the generated part of a name so far …
SUFFIX = 5  # … and adds so many characters of its own


def template_of(pod: str) -> str:
    """Return what the names of all pods of a pod template begin with. Where Kubernetes has cut it,
    other templates of the Deployment may have the same.
    """
    return pod[:-SUFFIX]


def stem_of(replica_set: str) -> str:
    """Return what the names of the pods of a ReplicaSet begin with."""
    return f"{replica_set}-"[:GENERATED_MAX]


def owns(workload: str, pod: str) -> bool:
    """Tell whether *pod* is named as Kubernetes names the pods of the Deployment *workload*:
    workload-templatehash-suffix, of which the part before the suffix is cut at 58 characters.

    (k8s.io/apiserver, names.SimpleNameGenerator.) A name alone is the last resort: see whether the
    pod was known by its owner first.
    """
    stem = pod[:-SUFFIX]
    whole = f"{workload}-"
    if len(stem) < GENERATED_MAX:
        tail = stem.removeprefix(whole)
        is_one = stem.startswith(whole) and tail.endswith("-") and tail[:-1].isalnum()
        return is_one and not _of_a_job(tail[:-1])
    tail = stem.removeprefix(whole[:GENERATED_MAX]).removesuffix("-")
    return stem.startswith(whole[:GENERATED_MAX]) and (not tail or tail.isalnum())


def _of_a_job(tail: str) -> bool:
    """Tell whether *tail* is an index or a time, as pods of Jobs and CronJobs have it: hashes are
    written in the ten characters 456789bcdf.
    """
    return tail.isdecimal() and bool(set("0123") & set(tail))
