"""The desired state of a Deployment: its labels and template as a server, an allocation and a load.

Pure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from twin.kube.apiserver.objects import Json, at_path, labels_of, name_of
from twin.kube.apiserver.storage import suffix
from twin.magnitudes import (
    SIMULATED_BATCH_MAX,
    SIMULATED_RATE_RPM_MAX,
    SIMULATED_REPLICAS_MAX,
    SIMULATED_TOKENS_MAX,
    whole,
)
from twin.spec import ClusterSpec, Pool, Server

PREFIX = "inferno.server."
MANAGED = f"{PREFIX}managed"
MAX_BATCH_DEFAULT = 256
"""Requests that vLLM lets run together without --max-num-seqs."""

BatchOf = Callable[[Sequence[Mapping[str, Any]]], int | None]
"""Reads out of containers the batch size that command lines tell their engines, None if they tell
none.
"""


def untold(_containers: Sequence[Mapping[str, Any]]) -> None:
    """Read no command line: the batch size is that of the label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The load that labels tell of: requests a minute and mean tokens; none where they tell of
    none.
    """

    rate_rpm: float = 0.0
    in_tokens: float = 0.0
    out_tokens: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredState:
    """The desired state of one Deployment. managed: the twin simulates it; problem says why it
    cannot, although it is managed.

    load_problem says why its load is ignored. revision tells templates apart.
    """

    managed: bool
    server: str
    model: str
    service_class: str
    accelerator: str
    max_batch: int
    replicas: int
    revision: str
    node_selector: Mapping[str, str]
    load: Load
    problem: str = ""
    load_problem: str = ""


def desired_state(deployment: Json, spec: ClusterSpec, *, batch_of: BatchOf) -> DesiredState:
    """Return the desired state of *deployment* in the world of *spec*. As on a real cluster the
    batch size that its command line tells is in force, and a label is where that tells none.
    """
    labels = labels_of(deployment)
    model, accelerator = (
        labels.get(f"{PREFIX}model", ""),
        labels.get(f"{PREFIX}allocation.accelerator", ""),
    )
    managed = labels.get(MANAGED) == "true"
    load_problem = _load_problem(labels) if managed else ""
    template, replicas = deployment["spec"]["template"], deployment["spec"].get("replicas", 1)
    return DesiredState(
        managed=managed,
        server=labels.get(f"{PREFIX}name") or name_of(deployment),
        model=model,
        service_class=labels.get(f"{PREFIX}class") or "Free",
        accelerator=accelerator,
        max_batch=_max_batch(labels, template, batch_of),
        replicas=min(replicas, SIMULATED_REPLICAS_MAX),
        revision=sha256(json.dumps(template, sort_keys=True).encode()).hexdigest(),
        node_selector=at_path(template, "spec.nodeSelector") or {},
        load=load_of(labels) if managed and not load_problem else Load(),
        problem=_problem(model, accelerator, spec) if managed else "",
        load_problem=load_problem,
    )


def load_of(labels: Mapping[str, str]) -> Load:
    """Return the load that *labels* tell of; a figure that cannot be read is none."""
    return Load(
        rate_rpm=_figure(labels.get(_RATE)),
        in_tokens=_figure(labels.get(_IN_TOKENS)),
        out_tokens=_figure(labels.get(_out_tokens(labels))),
    )


_RATE, _IN_TOKENS = f"{PREFIX}load.rpm", f"{PREFIX}load.intokens"


def _out_tokens(labels: Mapping[str, str]) -> str:
    """Return the label of the output tokens: older Deployments have another one."""
    label = f"{PREFIX}load.outtokens"
    return label if label in labels else f"{PREFIX}load.numtokens"


def _load_problem(labels: Mapping[str, str]) -> str:
    bounds = {
        _RATE: SIMULATED_RATE_RPM_MAX,
        _IN_TOKENS: SIMULATED_TOKENS_MAX,
        _out_tokens(labels): SIMULATED_TOKENS_MAX,
    }
    for label, most in bounds.items():
        if _figure(labels.get(label)) > most:
            return f"label {label}: expected at most {most}, found {labels[label]}"
    return ""


def server_of(desired: DesiredState, name: str, spec: ClusterSpec) -> Server:
    """Return the server to simulate, called *name*; the data of the world may say more about one of
    its own name.
    """
    known = next((server for server in spec.servers if server.name == desired.server), None)
    template = known or Server(name=name, model=desired.model)
    return Server(
        name=name,
        model=desired.model,
        service_class=desired.service_class,
        pool=Pool(accelerator=desired.accelerator, replicas=0, max_batch=desired.max_batch),
        queue_max=template.queue_max,
        router=template.router,
        token_distribution=template.token_distribution,
        token_cv=template.token_cv,
        arrivals=template.arrivals,
        arrival_cv=template.arrival_cv,
        crash_rate_per_h=template.crash_rate_per_h,
        crash_policy=template.crash_policy,
        max_batch_change=template.max_batch_change,
    )


def template_hash(revision: str, accelerator: str) -> str:
    """Return what names the ReplicaSet of a template on an accelerator."""
    return suffix(f"{revision}/{accelerator}", length=10)


def _problem(model: str, accelerator: str, spec: ClusterSpec) -> str:
    if (model, accelerator) in spec.engines:
        return ""
    if not any(model == known for known, _ in spec.engines):
        return f"the twin has no data for model {model!r}"
    if not accelerator:
        return f"no label {PREFIX}allocation.accelerator says which accelerator to use"
    return f"the twin has no data for model {model!r} on accelerator {accelerator!r}"


def _max_batch(labels: Mapping[str, str], template: Mapping[str, Any], batch_of: BatchOf) -> int:
    containers = at_path(template, "spec.containers") or ()
    label = whole(labels.get(f"{PREFIX}allocation.maxbatchsize") or "")
    told = batch_of(containers) or label or 0
    # A larger batch than is simulated counts as none.
    return told if 0 < told <= SIMULATED_BATCH_MAX else MAX_BATCH_DEFAULT


def _figure(text: str | None) -> float:
    try:
        figure = float(text or 0.0)
    except ValueError:
        return 0.0
    return figure if math.isfinite(figure) and figure > 0.0 else 0.0
