"""The cluster: servers, pods, capacity. What a controller may ask of it, what it shows, and the
truth of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from math import inf, nextafter
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import simpy

from twin.chance import ACTUATION, Chance, node_generator
from twin.engine.compiled.visit import NO_STRETCH
from twin.kernel import CONTROL, SCRAPE, at
from twin.request import NoRequestLog, Request, RequestBatch, RequestLog
from twin.serving.capacity import CapacityChange, Ledger
from twin.serving.deployment import Deployment
from twin.serving.metrics import WindowFigures, window_figures
from twin.serving.pod import NoPodLog, Pod, PodLog
from twin.serving.rollout import DesiredState
from twin.serving.view import ClusterView, PodState, ServerState
from twin.spec import CapacityView, ClusterSpec, Pool, Server, SpecError

Ints = npt.NDArray[np.int64]

if TYPE_CHECKING:
    from twin.engine.compiled.table import ReplicaTable, Sampled, TableReplica
    from twin.engine.compiled.visit import Visit

# Requests that are served by one call, at most so many and those of one server.
TOGETHER = 16_384
# Of a world that runs for days: minutes of a busy pod, and half a megabyte of each.
WAITING_MAX = 2_000
# Scrapes whose samples are taken later, together: minutes of requests, which are in memory then.
LAG_MAX = 16


class Cluster:
    """A simulated cluster of LLM inference servers in the time of *env*.

    It starts with the pods of spec.servers ready at t = 0, as far as capacity allows (server by
    server, in order). The truth of the run: requests, pods, desired (the states asked for, those of
    t = 0 first) and capacity_history. All chance comes from *seed*, with generators of its own for
    every server, so that none shifts the draws of another.

    A world that runs for days is given *waiting_max*: it keeps no such truth of its past, and at
    most so many requests wait for a server to have a pod, and for each pod.

    *compiled* serves requests by the compiled engine (twin.engine.compiled, which must be
    installed) where it knows engine and router: the results are the same. *requests* is the log
    of their ends, if it is to be another than one of its own.
    """

    def __init__(
        self,
        env: simpy.Environment,
        spec: ClusterSpec,
        *,
        seed: np.random.SeedSequence,
        waiting_max: int | None = None,
        compiled: bool = False,
        requests: RequestLog | None = None,
    ) -> None:
        self.spec = spec
        kept = requests if requests is not None else RequestLog()
        self.requests = kept if waiting_max is None else NoRequestLog()
        self._waiting_max = waiting_max
        # A world that runs for days is one that somebody waits for: it works in small parts.
        self._lag_max = LAG_MAX if waiting_max is None else 0
        self._lag = 0  # scrapes since samples were taken
        self._table = _make_table(self.requests) if compiled else None
        # First, for it brings the table its rows.
        self.requests.sources.insert(0, self.catch_up)
        self.pods = PodLog() if waiting_max is None else NoPodLog()
        self.desired: list[DesiredState] = []
        self._desired_count = 0
        self._env = env
        self._ledger = Ledger(spec.capacity)
        self._seed = seed
        self._deployments: tuple[Deployment, ...] = ()
        self._retired: list[Deployment] = []
        self._by_name: dict[str, Deployment] = {}
        self._submits: dict[str, Callable[[Request], None]] = {}
        # By name, what was asked for last; by index, which of the states asked for is applied.
        self._asked: dict[str, DesiredState] = {}
        # By server: what was seen of it last, and after how many changes of its pods; and all of
        # them, and after what (_shown_servers).
        self._shown: dict[str, tuple[int, ServerState]] = {}
        self._shown_all: tuple[tuple[int, int, int], dict[str, ServerState]] | None = None
        self._applied: list[int] = []
        self._actuations: list[Chance] = []
        self._rng_nodes = node_generator(seed)
        for deployment in [self._add(index) for index in range(len(spec.servers))]:
            deployment.begin()
            self._note(deployment.desired)
        self._scrapes = 0
        self._await_scrape()

    # -- what a gateway, a controller and nature do

    def submit(self, request: Request) -> None:
        """Let *request* arrive now at the server that it names; with no ready pod it waits at the
        router.
        """
        self._submits[request.server](request)

    def expect(self, server: str, requests: RequestBatch) -> None:
        """Let *requests* arrive at *server* at their instants, which are not past, as `submit`
        would at each of them.

        Between two events of the world (a scrape, a pod that gets ready, an action of a controller)
        servers do not influence each other. So nothing happens at these instants: a server takes
        what has come when the next event concerns it, all at once.
        """
        self._deployment(server).expect(requests)

    def watch(self, server: str, ended: Callable[[Request, float], None]) -> None:
        """Call *ended* with each request of *server* and the instant at which its client has the
        end. It costs an event for every boundary of its pods: for clients that wait for answers.
        """
        self._deployment(server).watch(ended)

    def add_server(self, server: Server) -> None:
        """Let there be *server* from now on, without pods until it is scaled. Raise SpecError for a
        taken name.
        """
        if server.name in self._by_name:
            raise SpecError(f"{server.name}: expected a name that no other server has")
        none_yet = replace(server, pool=replace(server.pool, replicas=0))
        self.spec = replace(self.spec, servers=(*self.spec.servers, none_yet))
        deployment = self._add(len(self.spec.servers) - 1)
        self._note(deployment.desired._replace(t_s=self._env.now))

    def remove_server(self, server: str) -> None:
        """Let *server* be no more: what waits fails, what runs is finished, then its pods are gone.

        It is out of snapshots at once; its pods hold their GPUs until they are. Its name is free
        again.
        """
        deployment = self._deployment(server)
        del self._by_name[server], self._submits[server], self._asked[server]
        self._shown.pop(server, None)
        self._shown_all = None
        # No state that was asked for and is on its way may be applied any more.
        self._applied[deployment.index] = self._desired_count
        self._retired.append(deployment)
        deployment.retire()

    def scale(self, server: str, pool: Pool, *, revision: int = 0) -> None:
        """Ask for *pool* as what *server* has; applied after the actuation delay.

        It is absolute: asking twice does no harm, and a later state is never undone by a slower
        earlier one. With 0 replicas the accelerator may be empty: the server keeps the one that it
        had. Raise SpecError for a server, an accelerator or a figure that makes no sense. Another
        *revision* than before replaces all pods.
        """
        deployment = self._deployment(server)
        desired = DesiredState(self._env.now, server, self._checked(server, pool), revision)
        self._note(desired)
        number = self._desired_count
        delay_s = self._actuations[deployment.index].draw_s(self.spec.world.actuation_delay)
        if delay_s == 0.0:
            self._apply(deployment, number, desired)
            return
        apply = partial(self._apply, deployment, number, desired)
        at(self._env, self._env.now + delay_s, priority=CONTROL, action=apply)

    def set_capacity(self, type: str, gpus: int) -> None:  # noqa: A002, the word of the data files
        """Let there be *gpus* of *type* from now on. Below what is held nothing is killed, but
        nothing new granted.
        """
        self._ledger.set_total(type, gpus, now_s=self._env.now)
        self._make_room(arrived=False)

    def fail_node(self, type: str, gpus: int, *, pods: Collection[str] | None = None) -> None:  # noqa: A002, as above
        """Lose a node with *gpus* of *type*, and the pods on it: those named *pods*, if it is
        known which.

        Else the pods lie side by side on the GPUs in the order in which they were asked for, the
        free GPUs after them; the node is a stretch of GPUs drawn at random, and a pod that has
        one GPU on it is lost.
        """
        total, used = self._ledger.total(type), self._ledger.used(type)
        gpus = min(gpus, total)
        if pods is None:
            begin = int(self._rng_nodes.integers(0, max(total, used) - gpus, endpoint=True))
            lost = self._pods_on(type, begin, begin + gpus)
        else:
            lost = {
                pod
                for deployment in self._deployments
                for pod in deployment.pods
                if pod.name in pods
            }
        # First the GPUs go, then their holders, so that nobody is granted what no longer exists.
        self._ledger.set_total(type, total - gpus, now_s=self._env.now)
        hit = [
            (deployment, [pod for pod in deployment.pods if pod in lost])
            for deployment in self._deployments
        ]
        for deployment, killed in hit:
            deployment.kill(killed)
        for deployment, killed in hit:
            if killed:
                deployment.replace_lost()
        self._make_room(arrived=False)

    # -- what it shows

    def advance(self) -> None:
        """Bring every replica up to now, without what happens at this very instant. Changes when,
        never what.
        """
        for deployment in self._deployments:
            deployment.advance()

    def catch_up(self) -> None:
        """Take the samples of all scrapes up to now. Changes when, never what."""
        if not self._lag:
            return
        # Those of servers whose replicas are rows of the table together: a call for each would take
        # longer than what it does.
        self._lag = 0
        alike: dict[tuple[float, ...], list[Deployment]] = {}
        for deployment in self._deployments:
            if deployment.scrapes and deployment.compiled:
                alike.setdefault(tuple(deployment.scrapes), []).append(deployment)
            else:
                deployment.catch_up()
        for scrapes_s, deployments in alike.items():
            assert self._table is not None
            shown: list[tuple[Deployment, Sampled, int]] = []
            for others in self._visits(deployments, scrapes_s[-1]):
                sampled = self._table.sample([visit for _, visit in others], scrapes_s)
                shown += [(each, sampled, number) for number, (each, _) in enumerate(others)]
            gauges = self._table.gauges()
            for deployment, sampled, number in shown:
                deployment.show(sampled, number, *gauges)
            for deployment in deployments:
                deployment.catch_up()

    def snapshot(self) -> ClusterView:
        """Return what an observer sees now: pods and capacity as they are, figures as last
        scraped.
        """
        self.catch_up()
        return ClusterView(
            now_s=self._env.now,
            scrape_interval_s=self.spec.world.scrape_interval_s,
            window_s=self.spec.world.window_s,
            servers=self._shown_servers(),
            capacity={
                type_: _capacity_view(type_, self._ledger.total(type_), self._ledger.used(type_))
                for type_ in self._ledger.types
            },
        )

    def unfinished(self) -> list[Request]:
        """Return the requests in flight at the end of a run, server by server; what ends at this
        instant has ended.
        """
        self._go_on()
        return [request for deployment in self._deployments for request in deployment.in_flight()]

    def record_unfinished(self) -> tuple[Ints, Ints, Ints]:
        """Record what `unfinished` would return, after all that has ended. Return of each request
        its server, its number and the tokens that it has made, in the order of the records.
        """
        self._go_on()
        rows: list[TableReplica] = []
        others: list[Request] = []
        for deployment in self._deployments:
            if deployment.compiled:
                rows += deployment.rows_in_flight()
                others += deployment.gateway.backlog
            else:
                others += deployment.in_flight()
        found = np.array([(one.server_index, one.id, one.generated) for one in others], np.int64)
        first, *columns = found.reshape(-1, 3).T
        if self._table is not None:
            of_table = self._table.record_unfinished(rows, self._env.now)
            first, *columns = map(np.concatenate, zip(of_table, (first, *columns), strict=True))
        for request in others:
            self.requests.add_unfinished(request)
        numbers, generated = columns
        return first, numbers, generated

    @property
    def compiled_share(self) -> float:
        """Return the share of all requests that came to servers which the compiled engine serves,
        0 if none came.
        """
        came = [(each.gateway.arrivals, each.compiled) for each in self._deployments]
        total = sum(arrivals for arrivals, _ in came)
        return sum(arrivals for arrivals, compiled in came if compiled) / max(total, 1)

    @property
    def served_plain(self) -> dict[str, str]:
        """Return why the compiled engine cannot serve a server, of those that it cannot."""
        return {
            each.server.name: each.plain_because for each in self._deployments if each.plain_because
        }

    @property
    def capacity_history(self) -> list[CapacityChange]:
        """Return every change of capacity, the first at t = 0."""
        return self._ledger.history

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """Return the servers at run time, in the order of the spec: for checkers and the twin's own
        API.

        A server that was removed is among them until its last pod is gone.
        """
        return self._deployments

    def server(self, server: str) -> Deployment:
        """Return one server at run time."""
        return self._deployment(server)

    # -- inside

    def _add(self, index: int) -> Deployment:
        deployment = Deployment(
            self._env,
            self.spec,
            index,
            ledger=self._ledger,
            requests=self.requests,
            pod_log=self.pods,
            seed=self._seed,
            freed=self._make_room,
            waiting_max=self._waiting_max,
            table=self._table,
        )
        self._deployments += (deployment,)
        self._by_name[deployment.server.name] = deployment
        self._submits[deployment.server.name] = partial(self._submit_first, deployment)
        self._applied.append(-1)
        self._actuations.append(Chance(self._seed, index, ACTUATION))
        return deployment

    def _submit_first(self, deployment: Deployment, request: Request) -> None:
        deployment.follow_events()
        self._submits[request.server] = deployment.gateway.submit
        deployment.gateway.submit(request)

    def _note(self, desired: DesiredState) -> None:
        self._desired_count += 1
        if self._waiting_max is None:
            self.desired.append(desired)
        self._asked[desired.server] = desired

    def _shown_servers(self) -> dict[str, ServerState]:
        """Return what is seen of each server: the same mapping, as long as nothing has changed."""
        servers = self._by_name
        changes = sum([deployment.changes for deployment in servers.values()])
        # Servers come with a state that is asked for; who lets one go forgets all that was seen.
        now = self._scrapes, self._desired_count, changes
        if self._shown_all is None or self._shown_all[0] != now:
            windows = window_figures([deployment.series for deployment in servers.values()])
            states = {
                name: self._shown_server(deployment, self._asked[name], window)
                for (name, deployment), window in zip(servers.items(), windows, strict=True)
            }
            self._shown_all = now, states
        return self._shown_all[1]

    def _shown_server(
        self, deployment: Deployment, asked: DesiredState, window: WindowFigures
    ) -> ServerState:
        """Return what is seen of a server: the last one, as long as nothing of it has changed."""
        name, changes = deployment.server.name, deployment.changes
        last_changes, last = self._shown.get(name, (changes, None))
        # Figures and gauges are those of the last scrape, and change with the window.
        same = last is not None and last.window is window and last.desired is asked.pool
        if last is not None and same and last_changes == changes:
            return last
        state = _server_state(deployment, asked, window, self.spec)
        self._shown[name] = changes, state
        return state

    def _await_scrape(self) -> None:
        self._scrapes += 1
        at_s = self._scrapes * self.spec.world.scrape_interval_s
        at(self._env, at_s, priority=SCRAPE, action=self._scrape)

    def _scrape(self) -> None:
        for deployment in self._deployments:
            deployment.scrape()
        self._lag += 1
        if self._lag > self._lag_max:
            self.catch_up()
        self.requests.settle()
        self._await_scrape()

    def _visits(
        self, deployments: Sequence[Deployment], until_s: float
    ) -> Iterator[list[tuple[Deployment, Visit[TableReplica]]]]:
        """Yield what comes by *until_s* to those of *deployments* which the table can serve
        together, so many at once as make TOGETHER requests.
        """
        found: list[tuple[Deployment, Visit[TableReplica]]] = []
        requests = 0
        for deployment in deployments:
            visit = deployment.visit(until_s)
            if visit is None:
                continue
            found.append((deployment, visit))
            requests += visit.stretch.requests
            if requests > TOGETHER:
                yield found
                found, requests = [], 0
        if found:
            yield found

    def _go_on(self) -> None:
        """Serve what came before now to the servers whose replicas are rows of the table: it is
        quicker done for all of them together.
        """
        self.catch_up()
        if self._table is None:
            return
        until_s = nextafter(self._env.now, -inf)
        for others in self._visits(self._deployments, until_s):
            left = self._table.go_on([visit for _, visit in others], until_s)
            for (deployment, visit), (turn, prompt_tokens) in zip(others, left, strict=True):
                if visit.stretch is not NO_STRETCH:
                    deployment.gateway.resume(turn, prompt_tokens)

    def _apply(self, deployment: Deployment, number: int, desired: DesiredState) -> None:
        # With a random delay one may overtake another: what was asked for later counts.
        if number > self._applied[deployment.index]:
            self._applied[deployment.index] = number
            deployment.apply(desired)

    def _make_room(self, arrived: bool) -> None:  # noqa: FBT001, a callback has no names
        """Let every server look whether its next new pod can have the GPUs of its own old ones,
        until none can. *arrived* tells whether the arrivals of this instant came before.

        A server that was removed and has no pods left is forgotten.
        """
        gone = [deployment for deployment in self._retired if not deployment.pods]
        if gone:
            self._retired = [deployment for deployment in self._retired if deployment.pods]
            self._deployments = tuple(
                deployment for deployment in self._deployments if deployment not in gone
            )
        # Each server that is scaled asks for this: where no pod waits, nobody is gone through.
        while self._ledger.has_waiting and any(
            deployment.make_room(arrived=arrived) for deployment in self._deployments
        ):
            pass

    def _pods_on(self, type_: str, begin: int, end: int) -> set[Pod]:
        holders = [
            pod
            for deployment in self._deployments
            for pod in deployment.pods
            if pod.life.type == type_ and pod.phase != "pending"
        ]
        found, gpu = set(), 0
        for pod in sorted(holders, key=lambda pod: pod.created_s):
            if gpu < end and gpu + pod.life.gpus > begin:
                found.add(pod)
            gpu += pod.life.gpus
        return found

    def _deployment(self, server: str) -> Deployment:
        if server not in self._by_name:
            raise SpecError(f"{server}: expected one of {', '.join(self._by_name)}")
        return self._by_name[server]

    def _checked(self, server: str, pool: Pool) -> Pool:
        if pool.replicas < 0:
            raise SpecError(f"{server}: replicas must be >= 0, got {pool.replicas}")
        if pool.max_batch < 1:
            raise SpecError(f"{server}: max_batch must be >= 1, got {pool.max_batch}")
        if pool.replicas == 0 and not pool.accelerator:
            return replace(pool, accelerator=self._asked[server].pool.accelerator)
        model = self._by_name[server].server.model
        if (model, pool.accelerator) not in self.spec.engines:
            raise SpecError(
                f"{server}: expected an accelerator that runs {model}, got {pool.accelerator!r}"
            )
        return pool


def _make_table(requests: RequestLog) -> ReplicaTable:
    from twin.engine.compiled.table import ReplicaTable  # noqa: PLC0415, an extra

    return ReplicaTable(records=requests)


def _server_state(
    deployment: Deployment, asked: DesiredState, window: WindowFigures, spec: ClusterSpec
) -> ServerState:
    server, series = deployment.server, deployment.series
    pods = tuple([_pod_state(pod, server.model, spec) for pod in deployment.pods])
    phases = [pod.phase for pod in pods]
    return ServerState(
        name=server.name,
        model=server.model,
        service_class=server.service_class,
        desired=asked.pool,
        ready=phases.count("ready"),
        starting=phases.count("starting"),
        pending=phases.count("pending"),
        draining=phases.count("draining"),
        scraped_s=series.scraped_s,
        window=window,
        running=series.running,
        waiting=series.waiting,
        backlog=series.backlog,
        kv_usage=series.kv_usage,
        gauges=tuple(series.gauges),
        start_up_s=_start_up_s(deployment.pods),
        pooled=server.router == "least_outstanding",
        queued_prompt_tokens=series.queued_prompt_tokens,
        pods=pods,
    )


@lru_cache(maxsize=256)  # counts are those of the last look, mostly
def _capacity_view(type_: str, total: int, used: int) -> CapacityView:
    return CapacityView(type=type_, total=total, used=used)


def _start_up_s(pods: Sequence[Pod]) -> float | None:
    """Return how long *pods* took to be ready. Those of t = 0 were there, and a pod that crashed
    begins again with its GPUs and its image: neither tells.
    """
    took = [
        pod.since_s - pod.created_s
        for pod in pods
        if pod.phase == "ready" and pod.since_s > pod.created_s and not pod.restarts
    ]
    return sum(took) / len(took) if took else None


def _pod_state(pod: Pod, model: str, spec: ClusterSpec) -> PodState:
    series = pod.series
    engine = spec.engines.get((model, pod.life.accelerator))
    bound = engine.kv_tokens if engine is not None else None
    return PodState(
        name=pod.name,
        phase=pod.phase,
        since_s=pod.since_s,
        created_s=pod.created_s,
        accelerator=pod.life.accelerator,
        max_batch=pod.max_batch,
        restarts=pod.restarts,
        scraped_s=series.scraped_s,
        running=series.running,
        waiting=series.waiting,
        kv_usage=series.kv_usage,
        queued_prompt_tokens=series.queued_prompt_tokens,
        kv_tokens_used=None if bound is None else round(series.kv_usage * bound),
    )
