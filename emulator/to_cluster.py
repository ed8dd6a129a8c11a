"""Disturbs the load of managed Deployments on a cluster: their load labels walk about the original
ones.
"""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import kubernetes.client as official
import numpy as np
import urllib3
import yaml
from kubernetes import config as official_config
from kubernetes.client.exceptions import ApiException

from emulator.load_labels import (
    NAME,
    SELECTOR,
    LabelledLoad,
    labels_of,
    read_load,
    restored_labels,
    says,
)
from emulator.walk import OfferedLoad, Walk, check_interval, step
from twin.spec import SpecError

Json = Mapping[str, Any]
Labels = Mapping[str, "str | None"]

TIMEOUT_S = (3.0, 10.0)  # to connect, to answer
ATTEMPTS = 3
PAUSE_S = 0.2
REPEATABLE = (429, 500, 502, 503, 504)
NOT_FOUND = 404


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


def connect(kubeconfig: str = "") -> official.ApiClient:
    """Return a client of the cluster of *kubeconfig*; without one: of the pod's own, else of the
    default file.

    Raise SpecError, one line, if there is no such thing.
    """
    settings = official.Configuration()
    configs: Any = official_config  # its functions have no types
    try:
        if kubeconfig:
            configs.load_kube_config(config_file=kubeconfig, client_configuration=settings)
        else:
            try:
                configs.load_incluster_config(client_configuration=settings)
            except official_config.ConfigException:
                configs.load_kube_config(client_configuration=settings)
    except (
        official_config.ConfigException,
        OSError,
        yaml.YAMLError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        where = kubeconfig or "kubernetes"
        raise SpecError(
            f"{where}: expected a cluster to talk to, found {' '.join(str(error).split())}"
        ) from error
    settings.retries = False
    return official.ApiClient(settings)


class ClusterEmulator:
    """Moves the load labels of the managed Deployments in *namespaces* (none: all of them).

    A server's walk depends on *seed* and on its own name alone. The original load is kept in labels
    at first sight, so another emulator, or this one started again, walks about the same. wait is
    how to pause between attempts [s].
    """

    def __init__(
        self,
        api: official.ApiClient,
        *,
        walk: Walk,
        seed: int,
        namespaces: Sequence[str] = (),
        stopped: threading.Event | None = None,
    ) -> None:
        self._apps = official.AppsV1Api(api)
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
                listed = self._list(namespace)
            except _RefusedError as error:
                problems.append(f"{namespace or 'all namespaces'}: {error}")
                continue
            for one in listed:
                meta = one["metadata"]
                labels: Mapping[str, str] = meta.get("labels") or {}
                load = read_load(labels)
                server = labels.get(NAME) or meta["name"]
                made = change(f"{meta['namespace']}/{meta['name']}", labels, load) if load else None
                if made is None:
                    continue
                point, patch = made
                try:
                    self._patch(meta, patch)
                    written[server] = point
                except _RefusedError as error:
                    # One that was deleted meanwhile needs no load.
                    if error.status != NOT_FOUND:
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

    def _list(self, namespace: str) -> list[Json]:
        method = (
            self._apps.list_namespaced_deployment
            if namespace
            else self._apps.list_deployment_for_all_namespaces
        )
        where = (namespace,) if namespace else ()
        items: list[Json] = self._call(method, *where, label_selector=SELECTOR).get("items") or []
        return items

    def _patch(self, meta: Json, labels: Labels) -> None:
        body = {"metadata": {"labels": dict(labels)}}
        self._call(
            self._apps.patch_namespaced_deployment,
            meta["name"],
            meta["namespace"],
            body,
            field_manager="inferno-emulator",
        )

    def _call(self, method: Callable[..., Any], *args: Any, **query: Any) -> Json:
        """Return the answer as JSON. What may pass is tried again: labels are absolute."""
        problem = _RefusedError("not asked", status=0)
        for attempt in range(ATTEMPTS):
            if attempt and self._stopped.wait(PAUSE_S * 2**attempt):
                break
            try:
                answer = json.loads(
                    method(*args, **query, _preload_content=False, _request_timeout=TIMEOUT_S).data
                )
            except ApiException as error:
                problem = _RefusedError(
                    f"{error.status} {_message(error)}", status=int(error.status or 0)
                )
                if problem.status not in (0, *REPEATABLE):
                    break
            except (urllib3.exceptions.HTTPError, ValueError) as error:
                problem = _RefusedError(
                    f"no answer: {' '.join(str(error).split())[:200]}", status=0
                )
            else:
                if isinstance(answer, dict):
                    return answer
                problem = _RefusedError("expected a JSON object", status=0)
        raise problem


class _RefusedError(Exception):
    """The API server refused, with its status, or did not answer: status 0."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


def _message(error: ApiException) -> str:
    """Return what a refusal says, in one line."""
    body = error.body
    text = body.decode("utf-8", errors="replace") if isinstance(body, bytes) else body or ""
    try:
        message = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        message = str(error.reason or "")
    return " ".join(message.split())[:300]
