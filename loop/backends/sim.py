"""The twin as a world of the loop: its views become snapshots, changes become desired pools.

Nothing else in the loop reaches the twin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

from loop.errors import BackendError, SpecError
from loop.replacing import replace, replacer
from loop.types import (
    AGES,
    Ages,
    Change,
    Latest,
    Load,
    OlderViews,
    PodView,
    ServerView,
    Snapshot,
    Views,
)
from twin.kernel import CONTROL, at

if TYPE_CHECKING:
    import simpy

    from twin.serving.cluster import Cluster
    from twin.serving.metrics import WindowFigures
    from twin.serving.view import PodState, ServerState

Metrics = Literal["measured", "labels"]


class OfferedLoad(Protocol):
    """What labels would say of the load of one server: offered loads of the emulator, without noise
    or lag.
    """

    @property
    def rate_rpm(self) -> float:
        """Return the rate [requests/min]."""
        ...

    @property
    def in_tokens(self) -> float:
        """Return the mean input tokens of a request."""
        ...

    @property
    def out_tokens(self) -> float:
        """Return the mean output tokens of a request."""
        ...


class SimBackend:
    """A cluster of the twin. metrics "measured": the load as scraped; "labels": the offered loads,
    which it then needs.
    """

    name = "sim"

    def __init__(
        self,
        cluster: Cluster,
        *,
        metrics: Metrics = "measured",
        offered_loads: Callable[[], Mapping[str, OfferedLoad]] | None = None,
    ) -> None:
        if metrics not in ("measured", "labels"):
            raise SpecError(f"metrics: expected measured or labels, found {metrics!r}")
        if metrics == "labels" and offered_loads is None:
            raise SpecError("metrics: expected a source of offered loads for labels, found none")
        self._cluster = cluster
        self._offered_loads = offered_loads if metrics == "labels" else None
        # The states of all, as they were when something was new, and the views made of them then.
        self._states: Mapping[str, ServerState] = {}
        self._views = Views({}, since=object())

    def observe(self) -> Snapshot:
        """Return the cluster as an observer sees it now."""
        view = self._cluster.snapshot()
        labels = self._offered_loads() if self._offered_loads else None
        return Snapshot(
            now_s=view.now_s,
            window_s=view.window_s,
            scrape_interval_s=view.scrape_interval_s,
            servers=self._seen(view.servers, labels, now_s=view.now_s),
            capacity=view.capacity,
        )

    def _seen(
        self,
        states: Mapping[str, ServerState],
        labels: Mapping[str, OfferedLoad] | None,
        *,
        now_s: float,
    ) -> Views | OlderViews:
        """Return what is seen of each server: the last view, but older, if nothing has changed."""
        before, last = self._states, self._views
        if labels is None and states is before:
            return OlderViews(
                last,
                make=partial(_all_later, last, states, now_s=now_s),
                ages=partial(_all_ages, states, now_s=now_s),
            )
        views = {}
        for name, state in states.items():
            # What was measured is of the state; labels tell of their own.
            told = None if labels is None else _labelled(labels, name)
            if before.get(name) is state and (labels is None or last[name].load == told):
                views[name] = _later(last[name], state, now_s=now_s)
            elif labels is None:
                view = _server_view(
                    state, load=_measured(state.window), source="router", now_s=now_s
                )
                was = before.get(name)
                views[name] = view if was is None else _with_known(view, last[name], state, was)
            else:
                views[name] = _server_view(state, load=told, source="labels", now_s=now_s)
        self._states, self._views = states, Views(views, since=object())
        return self._views

    def apply(self, changes: Sequence[Change]) -> None:
        """Ask for *changes*; the twin applies them after its actuation delay. Raise BackendError at
        the first it refuses.
        """
        for change in changes:
            # A server of the twin is one pool.
            (pool,) = change.pools
            try:
                self._cluster.scale(change.server, pool)
            except SpecError as error:
                raise BackendError(str(error), phase="apply") from error


class SimWorld:
    """The twin's time, for a driver that lives in the machine's: `advance` lets it pass."""

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env

    def advance(self, now_s: float) -> None:
        """Run the world up to *now_s*, but not what happens at that very instant: control comes
        first.
        """
        if now_s > self._env.now:
            # Not run(until=now_s): that may miss the instant by its last digit, and then run what
            # comes after control.
            self._env.run(until=at(self._env, now_s, priority=CONTROL, action=_nothing))


def _nothing() -> None:
    """Let an instant pass."""


def _measured(window: WindowFigures) -> Load | None:
    """Return the load as scraped; None before the first scrape."""
    if window.rate_rpm is None:
        return None
    return Load(
        rate_rpm=window.rate_rpm,
        in_tokens=window.in_tokens or 0.0,
        out_tokens=window.out_tokens or 0.0,
    )


def _with_known(
    view: ServerView, last: ServerView, state: ServerState, was: ServerState
) -> ServerView:
    """Return *view*, which is of *state*, with what it has from the *last* one, which is of what
    *was*: what does not change is the same object.
    """
    pools = last.pools if state.desired is was.desired else view.pools
    if state.window is not was.window:
        return replace(view, pools=pools)
    return replace(view, pools=pools, load=last.load, latest=last.latest)


def _latest(window: WindowFigures) -> Latest | None:
    if window.latest_rpm is None:
        return None
    return Latest(window.latest_rpm, window.latest_s)


def _labelled(offered_loads: Mapping[str, OfferedLoad], name: str) -> Load | None:
    point = offered_loads.get(name)
    if point is None:
        return None
    return Load(rate_rpm=point.rate_rpm, in_tokens=point.in_tokens, out_tokens=point.out_tokens)


def _server_view(state: ServerState, *, load: Load | None, source: str, now_s: float) -> ServerView:
    percentiles_age_s, load_age_s, sample_age_s = _ages(state, now_s=now_s)
    return ServerView(
        name=state.name,
        model=state.model,
        service_class=state.service_class,
        pools=(state.desired,),
        ready=state.ready,
        starting=state.starting,
        pending=state.pending,
        draining=state.draining,
        load=load,
        latest=_latest(state.window) if source == "router" else None,
        load_source="" if load is None else source,
        load_age_s=load_age_s,
        sample_age_s=sample_age_s,
        completions_rpm=state.window.completions_rpm,
        ttft_ms=state.window.ttft_ms,
        itl_ms=state.window.itl_ms,
        percentiles_ms=state.window.percentiles_ms,
        percentiles_source="pods" if state.window.percentiles_ms else "",
        percentiles_age_s=percentiles_age_s,
        output_tps=state.window.output_tps,
        running=state.running,
        waiting=state.waiting,
        backlog=state.backlog,
        kv_usage=state.kv_usage,
        start_up_s=state.start_up_s,
        pooled=state.pooled,
        queued_prompt_tokens=state.queued_prompt_tokens,
        preemptions=state.window.preemptions,
        cache_hit_share=state.window.prefix_hit_share,
        waiting_pods=sum(pod.waiting > 0 and pod.phase != "draining" for pod in state.pods),
        gauges=state.gauges,
        pods=tuple(_pod_view(pod, now_s=now_s) for pod in state.pods),
    )


def _all_later(
    views: Mapping[str, ServerView], states: Mapping[str, ServerState], *, now_s: float
) -> dict[str, ServerView]:
    """Return *views*, which are of *states*, as they are at *now_s*."""
    return {name: _later(views[name], state, now_s=now_s) for name, state in states.items()}


def _all_ages(states: Mapping[str, ServerState], *, now_s: float) -> list[Ages]:
    """Return the ages of the views of *states* at *now_s*."""
    return [_ages(state, now_s=now_s) for state in states.values()]


def _ages(state: ServerState, *, now_s: float) -> Ages:
    if state.scraped_s is None:
        return None, None, None
    age_s = now_s - state.scraped_s
    return age_s if state.window.percentiles_ms else None, age_s, age_s


def _later(view: ServerView, state: ServerState, *, now_s: float) -> ServerView:
    """Return *view*, which is of *state*, as it is at *now_s*."""
    if state.scraped_s is None:
        return view
    return _aged_view(
        view,
        *_ages(state, now_s=now_s),
        tuple(
            [
                pod if one.scraped_s is None else _aged_pod(pod, now_s - one.scraped_s)
                for pod, one in zip(view.pods, state.pods, strict=True)
            ]
        ),
    )


_aged_view = replacer(ServerView, *AGES, "pods")
_aged_pod = replacer(PodView, "sample_age_s")


def _pod_view(state: PodState, *, now_s: float) -> PodView:
    return PodView(
        name=state.name,
        phase=state.phase,
        since_s=state.since_s,
        created_s=state.created_s,
        accelerator=state.accelerator,
        max_batch=state.max_batch,
        running=state.running,
        waiting=state.waiting,
        kv_usage=state.kv_usage,
        sample_age_s=None if state.scraped_s is None else now_s - state.scraped_s,
        restarts=state.restarts,
        queued_prompt_tokens=state.queued_prompt_tokens,
        kv_tokens_used=state.kv_tokens_used,
    )
