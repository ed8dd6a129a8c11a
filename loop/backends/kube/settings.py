"""How a cluster is watched and written to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from loop.backends.kube.patches import GpuCounts

# Between the clock of the cluster and what dates are counted by: answers tell whole seconds.
CLOCKS_S_MAX = 2.5


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeSettings:
    """namespaces: which to watch, none for all. parallel: how many requests at a time. types: by
    accelerator name. gpus: of a replica, by (model, accelerator). pause_config_map: the
    NAMESPACE/NAME of the ConfigMap that may stop the loop from acting ("": none). give_up_s: how
    long to wait for pods before the plan goes on without them. autoscalers: look for those that
    scale our Deployments too. scaled_by_others: they do, by what this loop decides, and that is not
    told. contest: go on if somebody else changes back what was asked for.
    deletion_cost: before a reduction, tell the cluster what runs on each pod. window_s: how far
    back the figures of the source look (None: it has none).

    capacity: what the data allow of GPUs by type, to be compared with the nodes at the first look.
    from_nodes: the capacity is what nodes have; events: each change is told by an Event, too.
    labels_stand_in: load labels are the source of a server that the source of metrics has never
    heard of.
    """

    namespaces: tuple[str, ...] = ()
    parallel: int = 8
    from_nodes: bool = False
    events: bool = False
    labels_stand_in: bool = True
    types: Mapping[str, str] = field(default_factory=dict)
    gpus: GpuCounts = field(default_factory=dict)
    capacity: Mapping[str, int] = field(default_factory=dict)
    pause_config_map: str = ""
    give_up_s: float = 600.0
    window_s: float | None = None
    autoscalers: bool = False
    scaled_by_others: bool = False
    contest: bool = False
    deletion_cost: bool = False
