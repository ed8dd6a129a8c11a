"""One server at run time: it makes pods and takes them away until it has what is desired.

Requests come in by its gateway.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import simpy

from twin.chance import CRASH, ROUTER, START_UP, Chance, server_generator
from twin.engine.compiled.visit import NO_STRETCH, Visit, unfit
from twin.engine.port import Engine, OnFinish, make_engine
from twin.engine.replica import Replica
from twin.engine.telemetry import Scraped
from twin.kernel import BOUNDARY, CONTROL, Call, at
from twin.request import Request, RequestBatch, RequestLog
from twin.serving.capacity import Claim, Ledger
from twin.serving.gateway import Gateway, arrival_order
from twin.serving.metrics import Arrivals, Growth, ServerSeries, TableTotals, scraped_of
from twin.serving.pod import LifeEnd, Pod, PodLife, PodLog
from twin.serving.rollout import DesiredState, make_room, plan
from twin.spec import ClusterSpec, GaugeSample, Server

if TYPE_CHECKING:
    from twin.engine.compiled.table import ReplicaTable, Sampled, TableReplica

_HOUR_S = 3600.0


class Deployment:
    """The pods of one server, from the first to the last, and what a scraper saw of them.

    *freed* is called after GPUs may have come free, so that other servers which need room can look
    again; with whether the arrivals of this instant came before. At most *waiting_max* requests
    wait for a pod to come, and for each pod.

    What a method does to the server or shows of it is as of now: it first takes what was expected
    to arrive before (`_arrive`), and the samples of scrapes that nobody has asked for yet.
    """

    def __init__(
        self,
        env: simpy.Environment,
        spec: ClusterSpec,
        index: int,
        *,
        ledger: Ledger,
        requests: RequestLog,
        pod_log: PodLog,
        seed: np.random.SeedSequence,
        freed: Callable[[bool], None],
        waiting_max: int | None = None,
        table: ReplicaTable | None = None,
    ) -> None:
        self.server: Server = spec.servers[index]
        self.index = index
        none_yet = replace(self.server.pool, replicas=0)
        self.desired = DesiredState(0.0, self.server.name, none_yet)
        self.pods: list[Pod] = []
        # How often one of them was made, has gone, or came into another phase or to another batch.
        self.changes = 0
        rng_router = server_generator(seed, index, ROUTER)
        self.gateway = Gateway(
            env, self.server, index, requests=requests, rng=rng_router, backlog_max=waiting_max
        )
        bounds = [each for each in (self.server.queue_max, waiting_max) if each is not None]
        self._queue_max = min(bounds, default=None)
        self.series = ServerSeries(
            scrape_interval_s=spec.world.scrape_interval_s, window_s=spec.world.window_s
        )
        # The instants of scrapes whose samples are still to be taken.
        self.scrapes: deque[float] = deque()
        # Whether its requests are known ahead, so that samples may be taken later.
        self._ahead = True
        self._ended: Callable[[Request, float], None] | None = None
        self._next_look: Call | None = None
        self._env = env
        self._spec = spec
        self._ledger = ledger
        self._add_finished = requests.add_finished
        self._pod_log = pod_log
        self._freed = freed
        self._live = self.server.max_batch_change == "live"
        self._pods_made = 0
        self.plain_because = self._unfit()  # why the compiled engine cannot serve it
        self._table = None if self.plain_because else table
        if self._table is not None:
            self._table.make_server(index)
        self.gateway.table, self.gateway.leave_table = self._table, self._leave_table_for_blocks
        self._start_ups = Chance(seed, index, START_UP)
        self._crashes = Chance(seed, index, CRASH)

    def _unfit(self) -> str:
        """Return why a replica that this server may get cannot be a row of a table."""
        engines = (
            engine
            for (model, _), engine in self._spec.engines.items()
            if model == self.server.model
        )
        return next(filter(None, map(unfit, engines)), "")

    def expect(self, requests: RequestBatch) -> None:
        """Let *requests* arrive at their instants; none of them was there at a scrape before."""
        if self.scrapes and requests.times_s[0] <= self.scrapes[-1]:
            self.catch_up()
        self.gateway.expect(requests)

    def watch(self, ended: Callable[[Request, float], None]) -> None:
        """Call *ended* with each request from now on and the instant at which its client has the
        end, as soon as the engine made it: pods are then followed from boundary to boundary.
        """
        self.follow_events()
        self._ended = self.gateway.ended = ended
        self._leave_table("each of its users waits for an answer")
        self.gateway.dispatched = self._follow

    @property
    def compiled(self) -> bool:
        """Tell whether the compiled engine serves the requests."""
        return self._table is not None

    def follow_events(self) -> None:
        """Take samples at their instants from now on: requests will come that nobody told of."""
        self.catch_up()
        self._ahead = False

    def _leave_table_for_blocks(self) -> None:
        self.catch_up()
        self._leave_table("its trace has the blocks of prompts")

    def _leave_table(self, because: str) -> None:
        """Let the plain engine serve this server from now on; nothing may be in flight."""
        self.plain_because = because
        self._table = self.gateway.table = None
        for pod in self.pods:
            if pod.replica is not None:
                assert not pod.replica.outstanding, f"{pod.name} has begun to serve"
                self.gateway.close(pod.replica)
                pod.replica = self._make_engine(pod)
                self.gateway.open(pod.replica)

    def _make_engine(self, pod: Pod) -> Engine:
        if self._table is not None:
            return self._table.add(
                pod.engine,
                server=self.server.name,
                index=self.index,
                max_batch=pod.max_batch,
                queue_max=self._queue_max,
            )
        return make_engine(
            pod.engine,
            max_batch=pod.max_batch,
            queue_max=self._queue_max,
            on_finish=self._on_finish(pod),
        )

    def _follow(self) -> None:
        """Look again at the next boundary of any pod."""
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        engines = [pod.replica for pod in self.pods if pod.replica is not None]
        soonest_s = min((engine.next_boundary_s for engine in engines), default=inf)
        if soonest_s < inf:
            self._next_look = at(
                self._env,
                max(soonest_s, self._env.now),
                priority=BOUNDARY,
                action=self._look,
            )

    def _look(self) -> None:
        for pod in tuple(self.pods):
            if pod.replica is not None:
                pod.replica.advance(self._env.now, inclusive=True)
        self._follow()

    def advance(self) -> None:
        """Bring every replica up to now, without what happens at this very instant."""
        self._arrive()
        self._bring_up_to_now()

    def _bring_up_to_now(self) -> None:
        """Advance every replica: which pod is the idlest must not depend on who looked when."""
        now_s = self._env.now
        for pod in self.pods:
            if pod.replica is not None:
                pod.replica.advance(now_s, inclusive=False)

    def in_flight(self) -> list[Request]:
        """Return the requests that have neither finished nor gone, oldest first. Includes what ends
        at this instant.
        """
        self._finish_now()
        held: list[Request] = []
        for pod in self.pods:
            if pod.replica is not None:
                held += pod.replica.in_flight(self._env.now)
        return sorted((*self.gateway.backlog, *held), key=arrival_order)

    def rows_in_flight(self) -> list[TableReplica]:
        """Return the rows of the table that hold what `in_flight` would return, but for what waits
        at the router; they are at this instant.
        """
        self._finish_now()
        return self._rows()

    def _finish_now(self) -> None:
        now_s = self._env.now
        self._arrive()
        for pod in self.pods:
            if pod.replica is not None:
                pod.replica.advance(now_s, inclusive=True)

    def scrape(self) -> None:
        """Have a sample taken of the router and of every pod that serves, as of now; what happens
        at this instant is in it.

        It is taken when somebody looks at this server or changes it: until then it stays the same,
        and several samples one after the other find what the replicas hold in the caches of the
        processor.
        """
        self.scrapes.append(self._env.now)
        if not self._ahead:
            self.catch_up()

    def catch_up(self) -> None:
        """Take the samples of the scrapes up to now."""
        while self.scrapes:
            self._sample(self.scrapes[0])

    def _sample(self, now_s: float) -> None:
        """Take the next sample, as of *now_s*."""
        self.gateway.arrive(now_s, inclusive=True)
        if self._table is not None:
            rows = self._rows()
            sampled = self._table.sample([Visit(self.index, NO_STRETCH, (), rows)], [now_s])
            self.show(sampled, 0, *(self._table.gauges() if rows else ([], [])))
            return
        self.scrapes.popleft()
        growths: list[Growth] = []
        for pod in self.pods:
            if pod.replica is not None:
                pod.replica.advance(now_s, inclusive=True)
                growths.append(pod.series.scrape(_scraped(pod, pod.replica, now_s), now_s))
        self.series.add(now_s, self._arrivals(), growths)
        self.series.queued_prompt_tokens = self._queued_prompt_tokens()
        self._add_up(now_s)

    def visit(self, until_s: float) -> Visit[TableReplica] | None:
        """Return what the scrapes up to *until_s* do to this server, if it may be done together
        with others; then `show` is told. None if it is to be done by `catch_up`. What comes by
        *until_s* is in it.
        """
        if self._table is None:
            return None
        stretch = self.gateway.stretch(until_s)
        if stretch is None:
            return None
        # With a table, all replicas are rows of it.
        routed: Any = self.gateway.replicas
        return Visit(self.index, stretch, routed, self._rows())

    def show(
        self, sampled: Sampled, number: int, gauges: list[list[int]], usages: list[float]
    ) -> None:
        """Take in the next samples as the table took them, in its visit *number*, and by row the
        *gauges* and *usages* of ReplicaTable.gauges.
        """
        gateway, series = self.gateway, self.series
        rest, backlog = sampled.rest[number], len(gateway.backlog)
        came_now, tokens_now, _, _ = rest[-1]
        # What has come is counted by the gateway already, their tokens are not.
        came_before, tokens_before = gateway.arrivals - came_now, gateway.arrived_tokens
        counted, sums_s = sampled.counted[number], sampled.sums_s[number]
        for k, (came, tokens, running, waiting) in enumerate(rest):
            now_s = self.scrapes.popleft()
            arrivals = Arrivals(came_before + came, tokens_before + tokens)
            series.add_totals(now_s, arrivals, TableTotals(counted[k], sums_s[k]))
            series.gauges.append(GaugeSample(now_s, running, waiting + backlog))
        series.running, series.waiting, series.backlog = running, waiting, waiting + backlog
        if came_now:
            gateway.resume(sampled.turns[number], tokens_now)
        self._show_pods(now_s, gauges, usages)

    def _show_pods(self, now_s: float, gauges: list[list[int]], usages: list[float]) -> None:
        backlog = self.gateway.backlog
        queued = sum([request.prompt_tokens for request in backlog]) if backlog else 0
        ready: list[float] = []
        for pod in self.pods:
            replica: TableReplica | None = pod.replica  # type: ignore[assignment] # a row of it
            series = pod.series
            usage = series.kv_usage
            if replica is not None:
                row = replica.row
                usage = usages[row]
                # Counters are kept by the table.
                series.running, series.waiting, tokens = gauges[row]
                series.queued_prompt_tokens = tokens
                series.kv_usage, series.scraped_s = usage, now_s
                queued += tokens
            if pod.phase == "ready":
                ready.append(usage)
        self.series.queued_prompt_tokens = queued
        self.series.kv_usage = sum(ready) / len(ready) if ready else 0.0

    def _rows(self) -> list[TableReplica]:
        replicas = [pod.replica for pod in self.pods if pod.replica is not None]
        return cast("list[TableReplica]", replicas)

    def _arrivals(self) -> Arrivals:
        return Arrivals(self.gateway.arrivals, self.gateway.arrived_tokens)

    def _add_up(self, now_s: float) -> None:
        """Add up the gauges of the pods as scraped at *now_s*."""
        running = waiting = 0
        ready: list[float] = []
        for pod in self.pods:
            if pod.replica is not None:
                running += pod.series.running
                waiting += pod.series.waiting
            if pod.phase == "ready":
                ready.append(pod.series.kv_usage)
        series = self.series
        series.running, series.waiting = running, waiting
        series.backlog = waiting + len(self.gateway.backlog)
        series.gauges.append(GaugeSample(now_s, running, series.backlog))
        series.kv_usage = sum(ready) / len(ready) if ready else 0.0

    def _queued_prompt_tokens(self) -> int | None:
        """Return the prompt tokens that wait, in pods and at the router; None if an engine does not
        tell.
        """
        total = sum([request.prompt_tokens for request in self.gateway.backlog])
        for pod in self.pods:
            if pod.replica is not None:
                queued: int | None = getattr(pod.replica, "queued_prompt_tokens", None)
                pod.series.queued_prompt_tokens = queued
                if queued is None:
                    return None
                total += queued
        return total

    def _on_finish(self, pod: Pod) -> OnFinish:
        """Return what is called with each request that this life of *pod* has finished."""
        count, record, ended = pod.finished.add, self._add_finished, self._ended

        def finished(request: Request, _finish_s: float) -> None:
            count(request)
            record(request, request.last_token_s)
            if ended is not None:
                ended(request, request.last_token_s)

        return finished

    # -- pods

    def begin(self) -> None:
        """Make the pods of t = 0: those that get GPUs are ready at once, the others pending."""
        self.desired = self.desired._replace(pool=self.server.pool)
        for _ in range(self.server.pool.replicas):
            pod = self._make_pod()
            if pod.phase == "starting":
                pod.cancel_calls()
                self._become_ready(pod)

    def apply(self, desired: DesiredState) -> None:
        """Go to the *desired* state, as fast as capacity and delays allow. Asking for the same
        again changes nothing.
        """
        self._arrive()
        self.desired = desired
        if self._live:
            self._retune()
        self._reconcile()
        self._freed(False)  # noqa: FBT003, a callback has no names

    def make_room(self, *, arrived: bool) -> bool:
        """Give up old pods if the next new one can only have their GPUs; tell whether any was
        given up. *arrived* tells whether the arrivals of this instant came before.
        """
        waiting = next((pod for pod in self.pods if pod.phase == "pending"), None)
        if waiting is None:
            return False
        self._arrive(inclusive=arrived)
        claim = waiting.claim
        assert claim is not None
        free = self._ledger.free(claim.type)
        if free > 0 and not self._ledger.is_next(claim):
            free = 0
        self._bring_up_to_now()
        given_up = make_room(self.pods, self.desired, live=self._live, free=free)
        if given_up:
            # The GPUs that this server gives back are for its own new pod, not for who has waited
            # longer.
            self._ledger.put_first(claim)
            self._remove(given_up)
        return bool(given_up)

    def crash(self, pod: Pod) -> None:
        """Lose what *pod* serves, and restart it on the GPUs that it holds."""
        now_s = self._env.now
        self._arrive()
        self._stop_routing([pod])
        lost = self._abort(pod)
        pod.cancel_calls()
        pod.life.released_s, pod.life.end = now_s, "crash"
        pod.life = pod.life.restarted(now_s)
        pod.restarts += 1
        pod.begin_series()
        self._pod_log.add(pod.life)
        self._start(pod, after_s=0.0)
        self.gateway.lose(lost, "crashed")

    def kill(self, pods: Sequence[Pod]) -> None:
        """Lose *pods* with the node they ran on; what they served is re-queued or failed. They will
        be replaced.
        """
        lost: list[Request] = []
        self._arrive()
        self._stop_routing(pods)
        for pod in pods:
            lost += self._abort(pod)
            self._end(pod, "node_loss")
        self.gateway.lose(lost, "node_lost")

    def evict(self, pods: Sequence[Pod]) -> None:
        """Take *pods* away as a scale-down does, and make others for them."""
        self._arrive()
        self._remove([pod for pod in pods if pod.phase != "draining"])
        self._reconcile()
        self._freed(False)  # noqa: FBT003, as above

    def hold_start(self, pod: Pod) -> None:
        """Let a starting *pod* not get ready, until `start_again`."""
        assert pod.phase == "starting", (
            f"{pod.name}: only a start can be held up, it is {pod.phase}"
        )
        pod.cancel_calls()

    def start_again(self, pod: Pod) -> None:
        """Let a *pod* whose start was held up begin it anew."""
        self._start(pod, after_s=0.0)

    def retire(self) -> None:
        """Serve no request any more: what waits fails, what runs is finished, and all pods go."""
        self._arrive()
        self.gateway.shut()
        none = replace(self.desired.pool, replicas=0)
        self.apply(self.desired._replace(t_s=self._env.now, pool=none))

    def replace_lost(self) -> None:
        """Make pods for those that were killed."""
        self._arrive()
        self._reconcile()

    def _arrive(self, *, inclusive: bool = False) -> None:
        """Take what came before this instant, and with *inclusive* at it: control actions come
        before its arrivals.
        """
        self.catch_up()
        self.gateway.arrive(self._env.now, inclusive=inclusive)

    def _reconcile(self) -> None:
        if len(self.pods) > self.desired.pool.replicas:  # else none is taken away
            self._bring_up_to_now()
        step = plan(self.pods, self.desired, live=self._live)
        for _ in range(step.create):
            self._make_pod()
        self._remove(step.remove)

    def _retune(self) -> None:
        now_s, pool = self._env.now, self.desired.pool
        for pod in self.pods:
            if (
                pod.phase == "draining"
                or pod.life.accelerator != pool.accelerator
                or pod.max_batch == pool.max_batch
            ):
                continue
            pod.max_batch = pool.max_batch
            self.changes += 1
            if pod.replica is not None:
                pod.replica.advance(now_s, inclusive=False)
                pod.replica.set_max_batch(pool.max_batch, now_s)

    def _make_pod(self) -> Pod:
        pool, model = self.desired.pool, self.server.model
        life = PodLife(
            pod=f"{self.server.name}-{self._pods_made}",
            server=self.index,
            accelerator=pool.accelerator,
            type=self._spec.accelerators[pool.accelerator].type,
            gpus=self._spec.gpus(model=model, accelerator=pool.accelerator),
            asked_s=float(self._env.now),
        )
        self._pods_made += 1
        self._pod_log.add(life)
        engine = self._spec.engines[model, pool.accelerator]
        if self.server.prefix_share is not None:
            engine = replace(engine, prefix_share=self.server.prefix_share)
        revision = self.desired.revision
        pod = Pod(engine=engine, max_batch=pool.max_batch, life=life, revision=revision)
        pod.claim = Claim(type=life.type, gpus=life.gpus, granted=partial(self._schedule, pod))
        self.pods.append(pod)
        self.changes += 1
        self._ledger.ask(pod.claim)
        return pod

    def _schedule(self, pod: Pod) -> None:
        """Begin a pod that has just been given its GPUs."""
        pod.life.granted_s = self._env.now
        self._start(pod, after_s=self._start_ups.draw_s(self._spec.world.scheduling_delay))

    def _start(self, pod: Pod, *, after_s: float) -> None:
        now_s = self._env.now
        pod.enter("starting", now_s)
        self.changes += 1
        ready_s = now_s + after_s + self._start_ups.draw_s(pod.engine.start_up)
        pod.due = at(self._env, ready_s, priority=CONTROL, action=partial(self._get_ready, pod))

    def _get_ready(self, pod: Pod) -> None:
        self._arrive()
        self._become_ready(pod)
        self._reconcile()
        self._freed(False)  # noqa: FBT003, as above

    def _become_ready(self, pod: Pod) -> None:
        now_s = self._env.now
        pod.enter("ready", now_s)
        self.changes += 1
        pod.life.ready_s = now_s
        pod.replica = self._make_engine(pod)
        self.gateway.open(pod.replica)
        if self.server.crash_rate_per_h > 0.0:
            crash_s = now_s + self._crashes.rng.exponential(_HOUR_S / self.server.crash_rate_per_h)
            pod.mishap = at(self._env, crash_s, priority=CONTROL, action=partial(self.crash, pod))

    # -- the ways in which a pod ends

    def _remove(self, pods: Sequence[Pod]) -> None:
        """Take *pods* away: at once those that serve nothing, the others when what they run has
        finished.
        """
        self._stop_routing(pods)
        handed_back: list[Request] = []
        for pod in pods:
            if pod.replica is None:
                self._end(pod, "withdrawn" if pod.phase == "pending" else "scaled_down")
            else:
                handed_back += self._drain(pod)
        self.gateway.take_back(handed_back)

    def _drain(self, pod: Pod) -> list[Request]:
        now_s, replica, timeout_s = self._env.now, pod.replica, self._spec.world.drain_timeout_s
        assert replica is not None
        pod.cancel_calls()
        pod.enter("draining", now_s)
        self.changes += 1
        pod.life.draining_s = now_s
        replica.advance(now_s, inclusive=False)
        handed_back = replica.drain(now_s)
        if not replica.outstanding:
            self._end(pod, "drained")
            return handed_back
        self._await_boundary(pod)
        if timeout_s is not None:
            timeout = partial(self._time_out, pod)
            pod.mishap = at(self._env, now_s + timeout_s, priority=CONTROL, action=timeout)
        return handed_back

    def _await_boundary(self, pod: Pod) -> None:
        assert pod.replica is not None
        again = partial(self._pass_boundary, pod)
        pod.due = at(self._env, pod.replica.next_boundary_s, priority=BOUNDARY, action=again)

    def _pass_boundary(self, pod: Pod) -> None:
        """End a draining pod at the exact instant at which it has nothing left to do."""
        assert pod.replica is not None
        self.catch_up()
        pod.replica.advance(self._env.now, inclusive=True)
        if pod.replica.outstanding:
            self._await_boundary(pod)
            return
        self._end(pod, "drained")
        self._freed(True)  # noqa: FBT003, as above; boundaries come after the arrivals

    def _time_out(self, pod: Pod) -> None:
        self._arrive()
        lost = self._abort(pod)
        self._end(pod, "drain_timeout")
        self.gateway.lose(lost, "drain_timeout")
        self._freed(False)  # noqa: FBT003, as above

    def _end(self, pod: Pod, end: LifeEnd) -> None:
        pod.cancel_calls()
        pod.life.released_s, pod.life.end = self._env.now, end
        self.pods.remove(pod)
        self.changes += 1
        pod.replica = None
        assert pod.claim is not None
        if pod.phase == "pending":
            self._ledger.withdraw(pod.claim)
        else:
            self._ledger.give_back(pod.claim)

    def _stop_routing(self, pods: Sequence[Pod]) -> None:
        for pod in pods:
            if pod.phase == "ready" and pod.replica is not None:
                self.gateway.close(pod.replica)

    def _abort(self, pod: Pod) -> list[Request]:
        replica, pod.replica = pod.replica, None
        if replica is None:
            return []
        now_s = self._env.now
        replica.advance(now_s, inclusive=False)
        return replica.abort(now_s)


def _scraped(pod: Pod, replica: Engine, now_s: float) -> Scraped:
    """Return what a scraper keeps of the *replica* of *pod*, whichever engine it is."""
    if isinstance(replica, Replica):
        return replica.scraped(now_s)
    return scraped_of(replica.read(now_s), finished_tokens=pod.finished.output_tokens)
