"""A Kubernetes cluster as a world of the loop: managed Deployments become servers. (What is asked
of them is in writer.py.)
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING

from loop.backends.kube.budgets import Budget, budget_note, read_budgets, strictest
from loop.backends.kube.client import NOT_FOUND, ApiError, Json, KubeClient
from loop.backends.kube.labels import ACCELERATOR, FOUND_MAX, MODEL, STATUS
from loop.backends.kube.listing import (
    FORGET_S,
    Failed,
    LastListed,
    Lister,
    Listing,
    unlisted_lines,
)
from loop.backends.kube.missing import ending_note, is_told, missing_line, missing_of, unmade
from loop.backends.kube.nodes import (
    Capacity,
    Shortages,
    above_nodes,
    read_capacity,
    without_growth,
)
from loop.backends.kube.patches import (
    asked_before,
    batch_note,
    contest_before,
    foreign_change,
    gpus_note,
    held_by,
    manager_of,
    measured_by,
    missing_event,
    pool_text,
    stays_note,
    tenant_of,
    what_stays,
)
from loop.backends.kube.read import (
    NOT_PAUSED,
    Memory,
    Pod,
    Server,
    Servers,
    left_alone_notes,
    read_servers,
    scraped,
)
from loop.backends.kube.rivals import (
    AUTOSCALERS_S,
    Autoscaler,
    Rivals,
    read_autoscalers,
    rival_notes,
    taken_over_notes,
)
from loop.backends.kube.settings import CLOCKS_S_MAX, KubeSettings
from loop.backends.kube.views import Sight, engines_notes, models_notes, server_view, unseen_notes
from loop.backends.kube.writer import STAMP, Writer
from loop.backends.metrics.pods import PodMetrics
from loop.backends.metrics.source import ShowsNames
from loop.errors import BackendError, PausedError
from loop.replacing import replace
from loop.signals.models import matched_model
from loop.signals.survey import survey
from loop.types import Change, Missing, ServerView, Snapshot, Why
from twin.datafile import did_you_mean

if TYPE_CHECKING:
    from loop.backends.metrics.source import Measurement, MetricsSource
    from loop.ports import Clock, Epoch

SPACES_MAX = 4  # in more namespaces than that, pods are listed for the whole cluster at once
ASIDE = 4  # threads for namespaces that do not answer
SCRAPED_S = 120.0  # a pod that has been ready for so long should have been scraped
SETTLING_S = 10.0  # a controller-manager takes note of a change within a second


@contextmanager
def _without_collections() -> Iterator[None]:
    """Let the collector of reference cycles wait while lists are read.

    It would walk the half million objects of a large cluster again and again while they are made,
    which was half of the cost of a cycle; next to none of them is part of one.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a server is on the cluster."""

    uid: str
    namespace: str
    name: str


class KubeBackend:
    """Managed Deployments of one cluster.

    *epoch* is the date of second 0 of *clock*; *wall*, if any, says each time what it has become.
    *may_act* is asked before every write: a controller that no longer leads must not. Not for
    several threads at once; its own requests run on a few.
    """

    name = "kube"

    def __init__(
        self,
        client: KubeClient,
        source: MetricsSource,
        *,
        clock: Clock,
        epoch: datetime,
        settings: KubeSettings | None = None,
        may_act: Callable[[], bool] = lambda: True,
        wall: Epoch | None = None,
    ) -> None:
        self._client = client
        self._source = source
        self._clock = clock
        self._epoch = epoch
        self._wall = wall
        self._settings = settings or KubeSettings()
        self._may_act = may_act
        # Its threads do not keep a program from ending while a request of theirs hangs.
        self._pool = ThreadPool(self._settings.parallel)
        self._unsettled: dict[str, tuple[int, float]] = {}
        self._measured: frozenset[str] = frozenset()
        self._paused: str | None = None  # why nothing may be asked for; None: not known yet
        self._shortages = Shortages(give_up_s=self._settings.give_up_s)
        self._missed: Mapping[str, str] = {}
        self._unmade_s: Mapping[str, float] = {}  # since when pods were not made, by server
        self._memory = Memory()
        self._aside = ThreadPool(ASIDE)
        self._deployments, self._pods = LastListed(self._aside), LastListed(self._aside)
        # Now and then, by kind.
        self._looked: dict[str, LastListed] = defaultdict(lambda: LastListed(self._aside))
        self._rivals = Rivals()
        self._writer = Writer(
            client,
            clock=clock,
            date=self._date,
            settings=self._settings,
            source=source.name,
            may_act=may_act,
            rivals=self._rivals,
            pool=self._pool,
        )
        self._autoscalers: list[Autoscaler] = []
        self._budgets: list[Budget] = []
        self._others: list[str] = []  # what is labelled and not looked after
        self._autoscalers_s: float | None = None  # of the latest look for them
        self._allowed = self._settings.capacity  # until it is compared with the nodes
        self._noted: frozenset[str] = frozenset()
        self._surveyed: frozenset[str] = frozenset()
        self._models: dict[str, str] = {}  # of servers without a label, as their metrics say

    def close(self) -> None:
        """End what still runs."""
        self._client.close()
        self._source.close()
        self._pool.terminate()
        self._aside.terminate()

    def places(self) -> Mapping[str, Place]:
        """Return where the servers are that were seen last."""
        return {
            name: Place(uid=one.uid, namespace=one.namespace, name=one.name)
            for name, one in self._writer.seen.items()
        }

    @property
    def looks_itself(self) -> bool:
        """Tell whether the samples of the source are its own looks at the pods."""
        return isinstance(self._source, PodMetrics)

    def look_ahead(self) -> None:
        """Let the source of metrics look at the pods, so that the next observe has two looks to
        compare. What fails now is told then, if it still does.
        """
        with _without_collections(), suppress(ApiError):
            servers, _ = self._look()
            self._measure(servers, now_s=self._clock.now_s())

    def observe(self) -> Snapshot:
        """Return the managed servers as they are now: a few lists, and one question to the source
        of metrics.
        """
        with _without_collections():
            return self._observed()

    def _observed(self) -> Snapshot:
        now_s = self._clock.now_s()
        self._compare_clocks()
        paused = self._read_pause()
        try:
            servers, capacity = self._look()
        except ApiError as error:
            raise BackendError(str(error), phase="observe") from error
        # Lists may have taken seconds, and a rate is over the time between two looks at the pods.
        found = self._measure(servers, now_s=self._clock.now_s())
        servers = self._with_models(servers, found)
        self._measured |= {name for name, figures in found.figures.items() if figures.measured}
        sights = {name: self._sight(server, found) for name, server in servers.by_name.items()}
        self._look_for_autoscalers(now_s)
        others = self._compare(servers)
        missing = self._missing(servers, now_s=now_s)
        budgets = {
            name: budget
            for name, server in servers.by_name.items()
            if (budget := strictest(server.deployment, self._budgets))
        }
        views = {
            name: self._view(
                server,
                sights[name],
                missing.get(name),
                capacity,
                budgets.get(name),
                hold=self._hold(server, servers.unlisted, now_s=now_s),
            )
            for name, server in servers.by_name.items()
        }
        most = self._shortages.look(
            servers.by_name.values(),
            types=self._settings.types,
            gpus=self._settings.gpus,
            now_s=now_s,
            unlisted=servers.unlisted,
        )
        warnings = (
            *_wrong_with(servers),
            *(capacity.warnings if capacity else ()),
            *self._above_nodes(servers),
            *self._once(self._notes(servers, capacity, most, budgets, sights)),
            *(f"{name}: {missing_line(told)}" for name, told in missing.items() if is_told(told)),
            *([found.error] if found.error else []),
            *found.warnings,
            *([] if found.error else self._survey(servers, now_s=now_s)),
            *(f"{name}: {line}" for name, sight in sights.items() for line in sight.warnings),
            *others,
        )
        self._writer.look(
            {name: server.deployment for name, server in servers.by_name.items()},
            {name: view.pods for name, view in views.items()},
            measured=self._measured,
        )
        return Snapshot(
            now_s=now_s,
            servers=views,
            capacity=capacity.by_type if capacity else None,
            warnings=warnings,
            paused=paused,
            source_error=found.error,
            capacity_max=_least(most, capacity.most if capacity else {}),
            capacity_source="nodes" if capacity else "",
            shared_gpus=capacity.shared if capacity else (),
            window_s=self._settings.window_s,
        )

    def apply(self, changes: Sequence[Change]) -> None:
        """Ask for *changes*, side by side, one patch for each Deployment that they change.

        All are tried. Raise BackendError that names those that failed; what is asked for is
        absolute, so the next cycle asks again for what is missing. A Deployment that is gone is no
        failure: the next snapshot is without it.
        """
        if paused := self._read_pause():
            raise PausedError(paused)
        self._writer.apply(changes)

    def _compare_clocks(self) -> None:
        """Count dates anew where the clock of the machine has moved, and tell."""
        if self._wall is None:
            return
        if moved := self._wall.compare():
            self._writer.told.append(moved)
            if isinstance(self._source, PodMetrics):
                # Nobody knows how long ago its looks were: a machine that stood still for an hour
                # would take what came in it for what came in a period.
                self._source.forget()

    def _read_dates(self) -> None:
        """Count the dates of objects by the clock of the cluster that has written them: ours may be
        another one. Where it does not tell, by ours.
        """
        if self._wall is None:
            return
        ours_s, its_s = self._wall.date.timestamp(), self._client.take_epoch_s()
        epoch_s = ours_s if its_s is None else its_s
        # Answers tell whole seconds; and what was read of pods is of use as long as it is the same.
        if abs(epoch_s - self._epoch.timestamp()) <= CLOCKS_S_MAX:
            return
        self._epoch = datetime.fromtimestamp(epoch_s, UTC)
        if abs(epoch_s - ours_s) > CLOCKS_S_MAX:
            self._writer.told.append(
                f"the clock of the cluster is {abs(epoch_s - ours_s):.0f} s "
                f"{'ahead of' if epoch_s > ours_s else 'behind'} that of this machine: dates of "
                "its objects are read by its own"
            )

    def _read_pause(self) -> str:
        """Return why the ConfigMap for it lets nothing be asked of the cluster, "" if it does; what
        it said before counts if it cannot be read, and if nobody could ever read it the loop only
        looks on.
        """
        namespace, _, name = self._settings.pause_config_map.partition("/")
        if not namespace:
            return ""
        try:
            data = self._client.config_map(namespace, name).get("data") or {}
        except ApiError as error:
            if error.status != NOT_FOUND:
                line = f"whether the loop is paused cannot be read: {error}"
                if self._paused is None:
                    return line
                if line not in self._writer.told:
                    self._writer.told.append(line)
                return self._paused
            data = {}
        told = str(data.get("paused") or "").strip() if isinstance(data, dict) else ""
        paused = told.lower() not in NOT_PAUSED
        self._paused = (
            f'ConfigMap {namespace}/{name} has paused: "{told[:FOUND_MAX]}"' if paused else ""
        )
        return self._paused

    # --- observing --------------------------------------------------------------------------------

    def _look(self) -> tuple[Servers, Capacity | None]:
        watched = self._settings.namespaces
        nodes = self._pool.apply_async(self._client.nodes) if self._settings.from_nodes else None
        listing = self._deployments.ask(self._pool, self._client.deployment_texts, watched or ("",))
        # All at once, where it is known already which lists are needed.
        texts = self._client.pod_texts
        pods = self._pods.ask(self._pool, texts, watched) if watched else None
        listed, unlisted = self._deployments.after(listing)
        if pods is None:
            spaces = self._memory.namespaces(listed)
            # The capacity that others hold is everywhere.
            everywhere = nodes is not None or len(spaces) > SPACES_MAX
            pods = self._pods.ask(self._pool, texts, [""] if everywhere else spaces)
        listed_pods, without_pods = self._pods.after(pods)
        self._forget(unlisted.keys() & without_pods.keys())
        self._read_dates()
        servers = read_servers(
            listed, listed_pods, epoch_s=self._epoch.timestamp(), memory=self._memory
        )
        servers = self._as_before(servers, unlisted={**without_pods, **unlisted}, old=unlisted)
        if nodes is None:
            return servers, None
        capacity = self._read_capacity(nodes.get(), servers)
        if spaces_unknown := self._pods.unknown(without_pods):
            capacity = without_growth(
                capacity,
                servers.by_name.values(),
                spaces=spaces_unknown,
                types=self._settings.types,
                gpus=self._settings.gpus,
            )
        return servers, capacity

    def _read_capacity(self, nodes: Sequence[Json], servers: Servers) -> Capacity:
        return read_capacity(
            nodes,
            tenants=[
                tenant_of(server, types=self._settings.types, gpus=self._settings.gpus)
                for server in servers.by_name.values()
            ],
            others=servers.unowned,
            types=frozenset(self._settings.types.values()),
        )

    def _above_nodes(self, servers: Servers) -> list[str]:
        """Return, at the first look at servers, of which types the data allow more GPUs than there
        are. Whoever may not list the nodes is not told.
        """
        if not servers.by_name or not self._allowed:
            return []
        allowed, self._allowed = self._allowed, {}
        found = []
        with suppress(ApiError):
            found = self._client.nodes()
        if not found:
            return []
        types = self._settings.types
        used = {types.get(one.deployment.accelerator, "") for one in servers.by_name.values()}
        lines = above_nodes(allowed, self._read_capacity(found, servers), used=used)
        todo = "correct capacity-data.json, or use --capacity nodes"
        return [f"capacity: {line} ({todo})" for line in lines]

    def _measure(self, servers: Servers, *, now_s: float) -> Measurement:
        reduced_s = self._writer.reduced_s
        known = {model for model, _ in self._settings.gpus}
        loose: dict[str, list[Pod]] = defaultdict(list)  # of no Deployment, by namespace
        for pod in servers.unowned:
            if not pod.owner:
                loose[pod.namespace].append(pod)
        return self._source.measure(
            [
                scraped(
                    one,
                    reduced_s=reduced_s.get(name),
                    unowned=loose.get(one.deployment.namespace, ()),
                    known=known,
                )
                for name, one in servers.by_name.items()
            ],
            now_s=now_s,
        )

    def _forget(self, spaces: Iterable[str]) -> None:
        """Forget what is known of those of *spaces*, none of which can be listed, that are gone:
        their servers would be held for ever, and keep their GPUs from others.
        """
        now_s = self._clock.now_s()
        for space in spaces:
            kinds = (self._deployments, self._pods)
            refused_s = min(kind.refused_for_s(space, now_s=now_s) for kind in kinds)
            gone = any(kind.may_be_gone(space) for kind in kinds) and self._client.is_gone(space)
            if gone:
                why = "it is gone"
                self._pods.forget(space, gone=True)
            elif refused_s >= FORGET_S:
                # Who can see it no more cannot tell; its pods, if there are any, keep their GPUs.
                why = f"nobody has been let see it for {refused_s / 60.0:.0f} min"
            else:
                continue
            if self._deployments.forget(space, gone=gone):
                self._writer.told.append(f"namespace {space}: {why}: its servers are forgotten")

    def _as_before(self, servers: Servers, *, unlisted: Failed, old: Failed) -> Servers:
        """Return *servers* with what is held in the *unlisted* namespaces; those whose Deployments
        are *old* are as the loop left them, since it may have asked for something after the list.
        """
        if not unlisted:
            return servers
        by_name = dict(servers.by_name)
        for name, server in servers.by_name.items():
            seen = self._writer.seen.get(name)
            one = server.deployment
            if one.namespace in old and seen is not None and seen.uid == one.uid:
                # The model that metrics named is no label: _with_models finds it again.
                left = replace(seen, model=one.model)
                by_name[name] = replace(server, deployment=left)
        lines = {space: str(error) for space, error in unlisted.items()}
        return replace(servers, by_name=by_name, unlisted=lines)

    def _view(
        self,
        server: Server,
        sight: Sight,
        missing: Missing | None,
        capacity: Capacity | None,
        budget: Budget | None,
        *,
        hold: Why | None,
    ) -> ServerView:
        name = server.name
        return server_view(
            server,
            sight,
            missing=missing,
            hold=hold,
            gpus_reachable=capacity.reachable.get(name) if capacity else None,
            least=budget.least if budget else 0,
            stays=what_stays(server.deployment, date=self._date()),
        )

    def _hold(self, server: Server, unlisted: Mapping[str, str], *, now_s: float) -> Why | None:
        """Return why nothing is to be asked of *server*, None if it may be."""
        space = server.deployment.namespace
        if space in unlisted:
            return Why(kind="held-unknown", text=f"its namespace, {space}, cannot be listed")
        contest = self._settings.contest
        return None if contest else self._rivals.hold(server.name, now_s=now_s)

    def _sight(self, server: Server, found: Measurement) -> Sight:
        """Return what is known of the load of *server*, and whether it may be asked to have no
        replicas.
        """
        figures = found.figures.get(server.name)
        labelled = server.deployment.load
        if not self._source.at_pods:
            return Sight(load=labelled, source="labels")
        if labelled is not None and self._settings.labels_stand_in and not found.error:
            measured_before = measured_by(server.deployment)
            if server.name not in self._measured and not measured_before:
                note = f"nothing has ever measured it ({self._source.name}): its load labels count"
                return Sight(
                    load=labelled,
                    source="labels",
                    figures=figures,
                    note=note,
                    measured_by=self._source.name,
                )
        # Without pods nobody would ever tell that requests come again.
        return Sight(
            load=figures.load if figures else None,
            source=self._source.name,
            figures=figures,
            blind_at_zero=True,
            measured_by=self._source.name,
        )

    def _with_models(self, servers: Servers, found: Measurement) -> Servers:
        """Return *servers* with the models that their metrics name, if no label does. What they
        have named before counts as long as they do not name another.
        """
        known = {model for model, _ in self._settings.gpus}
        by_name = dict(servers.by_name)
        for name, server in servers.by_name.items():
            told = server.deployment.model
            if told:
                # An id with its organisation may stand for a model that the data call shorter.
                model = matched_model((told,), known) if "/" in told and told not in known else ""
                if model:
                    deployment = replace(server.deployment, model=model)
                    by_name[name] = replace(server, deployment=deployment)
                self._models.pop(name, None)
                continue
            figures = found.figures.get(name)
            model = matched_model(figures.model_names if figures else (), known)
            model = self._models[name] = model or self._models.get(name, "")
            by_name[name] = replace(server, deployment=replace(server.deployment, model=model))
        self._models = {name: model for name, model in self._models.items() if name in by_name}
        return replace(servers, by_name=by_name)

    def _survey(self, servers: Servers, *, now_s: float) -> list[str]:
        """Return which metrics of servers were found and which are missing, once of each server,
        as soon as its pods have been ready long enough to be scraped.
        """
        source, due = self._source, []
        for name, server in servers.by_name.items():
            since_s = [pod.since_s for pod in server.pods if pod.phase == "ready"]
            if name not in self._surveyed and since_s and now_s - min(since_s) > SCRAPED_S:
                due.append(server)
        if not due or not isinstance(source, ShowsNames):
            return []
        shown = source.show_names([scraped(server) for server in due])
        if shown.error:
            return [shown.error]
        self._surveyed |= {server.name for server in due}
        surveys = {
            server.name: survey(shown.names.get(server.name, ()), names=source.table)
            for server in due
        }
        return [
            f"{name}: metrics ({source.name}): {one.line}"
            + (f"; try {shown.elsewhere[name]}" if name in shown.elsewhere else "")
            for name, one in surveys.items()
            if one.missing and name not in shown.problems
        ]

    def _notes(
        self,
        servers: Servers,
        capacity: Capacity | None,
        most: Mapping[str, int],
        budgets: Mapping[str, Budget],
        sights: Mapping[str, Sight],
    ) -> tuple[str, ...]:
        """Return what is so and is to be told once."""
        counts, types = self._settings.gpus, self._settings.types
        figures = {name: one.figures for name, one in sights.items() if one.figures}
        told = [gpus_note(one.deployment, gpus=counts) for one in servers.by_name.values()]
        told += [batch_note(one.deployment) for one in servers.by_name.values()]
        date, now_s = self._date(), self._clock.now_s()
        told += [
            stays_note(one.deployment, what_stays(one.deployment, date=date))
            for one in servers.by_name.values()
        ]
        told += [ending_note(one, now_s=now_s) for one in servers.by_name.values()]
        told += [
            f"{name}: {line}"
            for name, one in servers.by_name.items()
            for line in one.deployment.unread
        ]
        told += [
            f"{name}: label {ACCELERATOR}: expected an accelerator of the data, found "
            f"{found[:FOUND_MAX]!r}{did_you_mean(found, types)}"
            for name, one in servers.by_name.items()
            for found in [one.deployment.accelerator]
            if found and types and found not in types
        ]
        return (
            *(capacity.notes if capacity else ()),
            *(line for line in told if line),
            *(
                f"{name}: no label {MODEL}: its metrics name the model, {model}"
                for name, model in self._models.items()
                if model
            ),
            *rival_notes([one.deployment for one in servers.by_name.values()], self._autoscalers),
            *taken_over_notes(servers),
            *(budget_note(name, one) for name, one in budgets.items()),
            *self._others,
            *engines_notes(figures),
            *models_notes(figures),
            *unseen_notes(servers.by_name.values(), sights),
            *(
                f"{kind}: the plan has no more than {count} GPUs of it for a while: pods have "
                f"waited for more in vain for {self._settings.give_up_s:g} s"
                for kind, count in most.items()
            ),
        )

    def _missing(self, servers: Servers, *, now_s: float) -> dict[str, Missing]:
        """Return the replicas that do not come, by server; tell by an Event of a reason that is
        new, if so set.
        """
        give_up_s, epoch_s = self._settings.give_up_s, self._epoch.timestamp()
        self._unmade_s = {
            name: self._unmade_s.get(name, now_s)
            for name, server in servers.by_name.items()
            if unmade(server)
        }
        missings = {
            name: missing_of(
                server,
                now_s=now_s,
                give_up_s=give_up_s,
                epoch_s=epoch_s,
                unmade_since_s=self._unmade_s.get(name),
            )
            for name, server in servers.by_name.items()
            if server.deployment.namespace not in servers.unlisted
        }
        found = {name: one for name, one in missings.items() if one is not None}
        kinds = {name: one.kind for name, one in found.items() if is_told(one)}
        for name, kind in kinds.items():
            if self._settings.events and self._may_act() and self._missed.get(name) != kind:
                deployment = servers.by_name[name].deployment
                line, stamp = missing_line(found[name]), self._date().strftime(STAMP)
                self._writer.create_event(deployment, missing_event(deployment, line, date=stamp))
        self._missed = kinds
        return found

    def _once(self, notes: Sequence[str]) -> list[str]:
        """Return those of *notes* that were not told before; what has ended may be told again."""
        fresh = [line for line in notes if line not in self._noted]
        self._noted = frozenset(notes)
        return fresh

    def _compare(self, servers: Servers) -> list[str]:
        """Return what others did since the loop last asked for something, once, and which
        Deployments the cluster has not taken note of.
        """
        told, self._writer.told = self._writer.told, []
        now_s = self._clock.now_s()
        unsettled = {}
        for name, server in servers.by_name.items():
            one = server.deployment
            if name not in self._writer.seen:
                self._rivals.begin(name, contest_before(one, epoch_s=self._epoch.timestamp()))
            if passed_on := self._writer.passed_on(name, one):
                told.append(f"{name}: the name of {one.place} now, {passed_on.place} had it before")
            if before := self._writer.made_anew(name, one):
                told.append(
                    f"{name}: deleted and made anew by someone else, as {pool_text(held_by(one))}"
                )
                if asked_before(before) is not None:
                    status = before.annotations[STATUS]
                    self._rivals.changed(name, by="someone else", now_s=now_s, status=status)
            if self._writer.overwritten(name, one):
                told.append(
                    f"{name}: another controller asked for it, too, after this one: end one of "
                    "them, or give both the same --lease"
                )
            expected = self._writer.expected(name, one)
            line = foreign_change(one, expected)
            if line and expected is not None and not self._settings.scaled_by_others:
                told.append(f"{name}: {line}")
                by = manager_of(one, replicas=expected.replicas != one.wanted)
                status = one.annotations.get(STATUS, "")
                self._rivals.changed(name, by=by, now_s=now_s, status=status)
            if not one.settled and one.namespace not in servers.unlisted:
                generation, since_s = self._unsettled.get(name, (0, now_s))
                unsettled[name] = (
                    one.generation,
                    since_s if generation == one.generation else now_s,
                )
                waited_s = now_s - unsettled[name][1]
                if waited_s >= SETTLING_S:
                    told.append(
                        f"{name}: the cluster has not taken note of its latest change for "
                        f"{waited_s:.0f} s"
                    )
        self._unsettled = unsettled
        self._rivals.forget(servers.by_name, now_s=now_s)
        return told

    def _look_for_autoscalers(self, now_s: float) -> None:
        """Look for autoscalers, PodDisruptionBudgets and what is labelled and left alone in the
        watched namespaces, now and then; that the first cannot be listed is told once, and stops
        nobody.
        """
        since_s = self._autoscalers_s
        if not self._settings.autoscalers or (
            since_s is not None and now_s - since_s < AUTOSCALERS_S
        ):
            return
        self._autoscalers_s = now_s
        told = self._writer.told
        listings = {
            "autoscalers": self._begin("autoscalers", self._client.autoscalers),
            "scaled objects": self._begin("scaled objects", self._client.scaled_objects),
        }
        budgets = self._begin("budgets", self._client.disruption_budgets)
        others = self._begin("others", self._client.left_alone)
        with suppress(ApiError):
            self._budgets = read_budgets(self._looked["budgets"].after(budgets)[0], told=told)
        with suppress(ApiError):
            self._others = left_alone_notes(self._looked["others"].after(others)[0])
        objects, refused = [], dict[str, ApiError]()
        try:
            for kind, listing in listings.items():
                found, failed = self._looked[kind].after(listing)
                objects += found
                refused |= failed
        except ApiError as error:
            if since_s is None:
                told.append(f"autoscalers that scale the same servers are not seen: {error}")
            return
        if refused and since_s is None:
            told += [
                f"namespace {space}: autoscalers that scale the same servers are not seen: {error}"
                for space, error in refused.items()
            ]
        self._autoscalers = read_autoscalers(objects, told=told)

    def _begin(self, kind: str, lister: Lister) -> Listing:
        """Begin to list a *kind* in the watched namespaces that can be listed at all."""
        spaces = self._settings.namespaces or ("",)
        failed = {**self._pods.failed, **self._deployments.failed}
        return self._looked[kind].look(self._pool, lister, spaces, failed=failed)

    def _date(self) -> datetime:
        return (self._epoch + timedelta(seconds=self._clock.now_s())).astimezone(UTC)


def _wrong_with(servers: Servers) -> Iterator[str]:
    """Yield what each look tells of what was listed and what was not."""
    yield from unlisted_lines(servers)
    yield from servers.warnings
    for name, one in servers.by_name.items():
        if not (one.deployment.model or one.deployment.problem):
            yield f"{name}: label {MODEL}: expected the name of a model, found none"


def _least(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """Return the smaller of what each says, by type."""
    pairs = sorted((*one.items(), *other.items()), reverse=True)
    return dict(sorted(dict(pairs).items()))
