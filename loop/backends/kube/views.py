"""From a server of the cluster and what is known of its load to what the loop sees of it; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loop.backends.kube import labels as names
from loop.backends.kube.patches import NOTHING_STAYS, Stays
from loop.backends.kube.read import Deployment, Pod, Server, batch_in_force
from loop.signals.demand import GAUGES_SHOWN, MODELS_TOLD, Figures, Gauges
from loop.types import Load, Missing, PodView, ServerView, Why, one_pool

NO_FIGURES = Figures()
NO_GAUGES = Gauges()
LEAVING = Why(kind="paused", text="it is being deleted")
COMMAND = ("command", "args", "env", "name")
PAUSED = Why(kind="paused", text=f'annotation {names.PAUSED} is "true"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What is known of one server. blind_at_zero: without pods nobody could tell that requests
    come. measured_by: who told the figures.
    """

    load: Load | None = None
    source: str = ""
    figures: Figures | None = None
    blind_at_zero: bool = False
    note: str = ""
    measured_by: str = ""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what is amiss with its metrics, where they are what counts."""
        own = self.figures.warnings if self.figures is not None and self.blind_at_zero else ()
        return (*own, self.note) if self.note else own


def server_view(
    server: Server,
    sight: Sight,
    *,
    missing: Missing | None = None,
    hold: Why | None = None,
    gpus_reachable: Mapping[str, int] | None = None,
    least: int = 0,
    stays: Stays = NOTHING_STAYS,
) -> ServerView:
    """Return what the loop sees of *server*, of which people want at *least* so many pods. One
    whose labels or annotations are wrong has no load: it is held. *stays* is what its pod template
    does not let change.
    """
    one, figures = server.deployment, sight.figures or NO_FIGURES
    counts = Counter(pod.phase for pod in server.pods)
    # What is wanted and not there in any form: the cluster has yet to make these pods, or may not.
    unmade = max(0, one.wanted - counts["ready"] - counts["starting"] - counts["pending"])
    pods = tuple(_pod_view(pod, one, figures.pods.get(pod.name, NO_GAUGES)) for pod in server.pods)
    reporting = _reporting(server, figures)
    unknown = _unknown_gauges(server, reporting)
    caches = [gauges.kv_usage for gauges in reporting if "kv_usage" not in gauges.unknown]
    holding = [*reporting, *_ending(server, figures)]
    low, high = _bounds(one, sight, least=least)
    return ServerView(
        name=one.server,
        model=one.model,
        service_class=one.service_class,
        pools=one_pool(accelerator=one.accelerator, replicas=one.wanted, max_batch=one.max_batch),
        ready=counts["ready"],
        starting=counts["starting"],
        pending=counts["pending"] + unmade,
        draining=counts["draining"],
        load=None if one.problem else sight.load,
        latest=figures.latest if sight.load is figures.load else None,
        load_source="" if one.problem or sight.load is None else sight.source,
        load_age_s=figures.age_s,
        sample_age_s=min([one.age_s for one in reporting if one.age_s is not None], default=None),
        start_up_s=start_up_s(server.pods),
        preemptions=figures.preemptions,
        waiting_pods=None
        if "waiting" in unknown
        else sum(gauges.waiting > 0 for gauges in reporting),
        cache_hit_share=figures.cache_hit_share,
        fetched_share=figures.fetched_share,
        completions_rpm=figures.completions_rpm,
        ttft_ms=figures.ttft_ms,
        itl_ms=figures.itl_ms,
        percentiles_ms=figures.percentiles_ms,
        percentiles_source=sight.measured_by if figures.percentiles_ms else "",
        percentiles_age_s=figures.percentiles_age_s,
        output_tps=figures.output_tps,
        running=sum([gauges.running for gauges in holding]),
        waiting=sum([gauges.waiting for gauges in holding]),
        # What waits in a pod that ends waits for no other one.
        backlog=sum([gauges.waiting for gauges in reporting]),
        kv_usage=sum(caches) / len(caches) if caches else 0.0,
        unknown_gauges=unknown,
        replicas_min=low,
        replicas_max=high,
        gpus_per_replica=one.gpus_fixed,
        batch_fixed=bool(one.batch_fixed) or stays.batch,
        accelerator_fixed=stays.accelerator,
        gpus_reachable=gpus_reachable,
        grace_s=one.grace_s,
        missing=missing,
        hold=LEAVING if one.leaving else PAUSED if one.paused else hold,
        pods=pods,
    )


def _reporting(server: Server, figures: Figures) -> list[Gauges]:
    """Return the gauges of the pods that serve and told theirs."""
    return [
        figures.pods[pod.name]
        for pod in server.pods
        if pod.name in figures.pods and _serves(pod, figures.pods[pod.name])
    ]


def _unknown_gauges(server: Server, reporting: Sequence[Gauges]) -> tuple[str, ...]:
    """Return which gauges of *server* are not known, by those of its pods that report."""
    if server.pods and not reporting:
        return GAUGES_SHOWN
    return _in_order(frozenset[str]().union(*[gauges.unknown for gauges in reporting]))


def _in_order(gauges: frozenset[str]) -> tuple[str, ...]:
    # Nearly always none.
    return tuple(gauge for gauge in GAUGES_SHOWN if gauge in gauges) if gauges else ()


def _serves(pod: Pod, gauges: Gauges) -> bool:
    """Tell whether what is in *pod* is the server's: under load pods fail their probes, and what
    runs and waits in them is there still.
    """
    return pod.phase == "ready" or (pod.phase == "starting" and gauges.running + gauges.waiting > 0)


def _ending(server: Server, figures: Figures) -> list[Gauges]:
    """Return the gauges of pods that end: what came to them is load of the server until it has
    ended, as on the twin.
    """
    return [
        figures.pods[pod.name]
        for pod in server.pods
        if pod.phase == "draining" and pod.name in figures.pods
    ]


def _bounds(one: Deployment, sight: Sight, *, least: int) -> tuple[int, int | None]:
    """Return the bounds of a server: as annotated; else its last replica stays where zero could not
    be left again, none of the *least* that people want is taken away, and none at all that serves
    further models, for which nobody plans.
    """
    if one.problem:
        return one.wanted, one.wanted
    low, high = one.bounds.replicas_min, one.bounds.replicas_max
    if low is None:
        if sight.figures is not None and sight.figures.further_models:
            least = one.wanted
        low = min(max(least, int(sight.blind_at_zero)), one.wanted)
        low = low if high is None else min(low, high)
    return low, high


def _pod_view(pod: Pod, one: Deployment, gauges: Gauges) -> PodView:
    return PodView(
        name=pod.name,
        phase=pod.phase,
        since_s=pod.since_s,
        created_s=pod.created_s,
        accelerator=one.accelerator,
        max_batch=_max_batch(pod, one),
        running=gauges.running,
        waiting=gauges.waiting,
        kv_usage=gauges.kv_usage,
        rate_rpm=gauges.rate_rpm,
        completions_rpm=gauges.completions_rpm,
        ttft_ms=gauges.ttft_ms,
        itl_ms=gauges.itl_ms,
        sample_age_s=gauges.age_s,
        unknown_gauges=_in_order(gauges.unknown),
        restarts=pod.restarts,
    )


def start_up_s(pods: Sequence[Pod]) -> float | None:
    """Return how long *pods* took from when they were asked for to ready, by those that are, and
    have been since.
    """
    took = [
        pod.since_s - pod.created_s
        for pod in pods
        if pod.phase == "ready" and not pod.restarts and pod.since_s > pod.created_s
    ]
    return sum(took) / len(took) if took else None


def _max_batch(pod: Pod, one: Deployment) -> int:
    """Return the batch size in force in a pod: that of its command line, if it says one."""
    if _started_alike(pod.spec, one.pod_spec):
        return one.max_batch  # as nearly always
    in_force = batch_in_force(one.annotations, pod.spec)
    return one.max_batch if in_force is None else in_force


def _started_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether the containers of two pod specs have the same command lines."""
    ours, theirs = one.get("containers") or (), other.get("containers") or ()
    if len(ours) != len(theirs):
        return False
    for mine, of in zip(ours, theirs, strict=True):
        # There are thousands of pods: an expression for each costs more than what it compares.
        for key in COMMAND:
            if mine.get(key) != of.get(key):
                return False
    return True


def engines_notes(figures: Mapping[str, Figures]) -> list[str]:
    """Return a line for each server whose pods have several engines: whether the data of its model
    are of one of them or of all, no metric tells.
    """
    most = {
        name: max((pod.engines for pod in one.pods.values()), default=0)
        for name, one in figures.items()
    }
    return [
        f"{name}: its pods have {count} engines: their load is added up, and a replica is planned "
        "for as one engine of the data: these should be of a whole pod"
        for name, count in most.items()
        if count > 1
    ]


def models_notes(figures: Mapping[str, Figures]) -> list[str]:
    """Return a line for each server in whose pods further engines serve other models."""
    return [
        f"{name}: its pods serve further models ({', '.join(told[:MODELS_TOLD])}): their requests "
        "do not count here, and no replica is taken away, since nobody plans for them: give each a "
        f"Deployment of its own, or say by {names.REPLICAS_MIN} how few are enough"
        for name, one in figures.items()
        if one.model_names and (told := sorted(one.further_models))
    ]


def unseen_notes(servers: Iterable[Server], sights: Mapping[str, Sight]) -> list[str]:
    """Return a line for each of *servers* that has no replicas, where pods alone tell the load."""
    return [
        f"{server.name}: it has no replicas, so nobody can tell whether requests come: it is held "
        "there until somebody gives it one"
        for server in servers
        if server.deployment.wanted == 0 and not server.pods
        for sight in [sights[server.name]]
        if sight.blind_at_zero and sight.load is None
    ]
