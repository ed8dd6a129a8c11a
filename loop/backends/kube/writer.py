"""Asking a cluster for changes: one patch for each Deployment, and what is told of it there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from loop.backends.kube.client import CONFLICT, FORBIDDEN, NOT_FOUND, ApiError, KubeClient
from loop.backends.kube.labels import DELETION_COST, STATUS
from loop.backends.kube.patches import (
    MANAGER,
    UnfitError,
    as_the_template_allows,
    asked_before,
    asked_of,
    change_event,
    held_by,
    others_changed,
    patch_of,
    pool_text,
)
from loop.backends.kube.read import Deployment, read_deployment
from loop.backends.kube.rivals import QUIET_S
from loop.errors import BackendError, RefusedError
from loop.replacing import replace

if TYPE_CHECKING:
    from datetime import datetime
    from multiprocessing.pool import ThreadPool

    from loop.backends.kube.rivals import Rivals
    from loop.backends.kube.settings import KubeSettings
    from loop.ports import Clock
    from loop.types import Change, PodView, Pool

Json = dict[str, Any]

# How often a patch is made anew because something else of the Deployment has changed.
CONFLICTS_MAX = 5
STAMP = "%Y-%m-%dT%H:%M:%SZ"  # of a date in an Event
FAILURES_NAMED = 5
# Refusals that are of what was sent for one object; how a server says that an account lacks a
# permission, and that it could not ask a webhook, which it tells as an error of its own.
OF_AN_OBJECT = (400, 413, 422)
MAY_NOT, WEBHOOK = " cannot patch resource ", "failed calling webhook"
# After that no further change is tried: a cluster that does not answer must not hold up the loop.
APPLY_S = 30.0


class Writer:
    """Writes to the Deployments that were *seen* last, and remembers what it asked of each.

    *date* tells the date, *source* the word for who measured a server's load. *may_act* is asked
    before every write. told are lines for the next record.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        clock: Clock,
        date: Callable[[], datetime],
        settings: KubeSettings,
        source: str,
        may_act: Callable[[], bool],
        rivals: Rivals,
        pool: ThreadPool,
    ) -> None:
        self._client = client
        self._clock = clock
        self._date = date
        self._settings = settings
        self._source = source
        self._may_act = may_act
        self._rivals = rivals
        self._pool = pool
        self.seen: dict[str, Deployment] = {}
        self.told: list[str] = []
        self.reduced_s: dict[str, float] = {}  # when replicas were last taken away, by server
        self._left: dict[str, tuple[Deployment, float]] = {}  # those that are gone, since when
        self._asked: dict[str, Pool] = {}
        self._measured: frozenset[str] = frozenset()
        self._pods: Mapping[str, tuple[PodView, ...]] = {}
        self._costs: dict[str, int] = {}  # what was last told of a pod
        # The servers that last took a change, and those that took one in this round, with their
        # namespaces.
        self._writable: dict[str, str] = {}
        self._took: dict[str, str] = {}
        # Of which Deployment, and with which note, this process wrote last.
        self._wrote: dict[str, tuple[str, str]] = {}

    def look(
        self,
        seen: Mapping[str, Deployment],
        pods: Mapping[str, tuple[PodView, ...]],
        *,
        measured: frozenset[str],
    ) -> None:
        """Note what there is now: Deployments and pods by server, and whose load was *measured*."""
        now_s = self._clock.now_s()
        left = {name: (one, now_s) for name, one in self.seen.items() if name not in seen}
        self._left = {
            name: (one, at_s)
            for name, (one, at_s) in (self._left | left).items()
            if name not in seen and now_s - at_s < QUIET_S
        }
        there = seen.keys() | self._left.keys()
        self._writable = {name: at for name, at in self._writable.items() if name in there}
        self.seen, self._pods, self._measured = dict(seen), pods, measured
        self._asked = {name: held_by(one) for name, one in seen.items()}
        alive = {pod.name for of_server in pods.values() for pod in of_server}
        self._costs = {pod: cost for pod, cost in self._costs.items() if pod in alive}
        self.reduced_s = {name: at_s for name, at_s in self.reduced_s.items() if name in seen}

    def expected(self, name: str, now: Deployment) -> Pool | None:
        """Return what the loop last asked of a server: another process of it, an actuator, may have
        done so since.
        """
        before = self.seen.get(name)
        told = asked_before(now)
        if before is None or before.uid != now.uid:
            return told
        if told is not None and before.annotations.get(STATUS) != now.annotations.get(STATUS):
            return told
        return self._asked.get(name)

    def overwritten(self, name: str, now: Deployment) -> bool:
        """Tell, once for each time, whether another controller has written its note over the one
        of this process. Of two that share a Lease that is as it should be.
        """
        if name not in self._wrote:
            return False
        uid, wrote = self._wrote[name]
        found = now.annotations.get(STATUS, "")
        ours = uid == now.uid and self._may_act()
        if ours and found in ("", wrote):
            return False
        del self._wrote[name]
        return ours

    def made_anew(self, name: str, now: Deployment) -> Deployment | None:
        """Return the Deployment that was before in the place of *now*, if that is another one."""
        before = self._before(name)
        anew = before is not None and before.uid != now.uid and before.place == now.place
        return before if anew else None

    def passed_on(self, name: str, now: Deployment) -> Deployment | None:
        """Return the Deployment that had the name of *now* before, if it has another place."""
        before = self._before(name)
        return before if before is not None and before.place != now.place else None

    def _before(self, name: str) -> Deployment | None:
        """Return the Deployment of that name that was seen last; who deletes one and makes it anew
        takes a moment.
        """
        left, _ = self._left.get(name, (None, 0.0))
        return self.seen.get(name, left)

    def apply(self, changes: Sequence[Change]) -> None:
        """Ask for *changes*, side by side, one patch for each Deployment that they change; see
        KubeBackend.apply.
        """
        until_s = self._clock.now_s() + APPLY_S
        self._took = {}
        problems = self._pool.map(partial(self._ask, until_s=until_s), changes, chunksize=1)
        failed = {
            change.server: problem
            for change, problem in zip(changes, problems, strict=True)
            if problem is not None
        }
        self._note_writable({server for server, one in failed.items() if one.role})
        if failed:
            more = (
                f" and {len(failed) - FAILURES_NAMED} more" if len(failed) > FAILURES_NAMED else ""
            )
            named = [f"{server}: {one.line}" for server, one in failed.items()][:FAILURES_NAMED]
            line = f"{len(failed)} of {len(changes)} changes failed: {'; '.join(named)}{more}"
            if all(one.own or (one.role and self._writable) for one in failed.values()):
                servers = {server: one.line for server, one in failed.items()}
                raise RefusedError(line, servers=servers)
            raise BackendError(line, phase="apply")

    def _note_writable(self, refused: set[str]) -> None:
        """Note which servers can be written to, of which the role of this account *refused* some:
        one that took changes before tells that its namespace has lost the role, one that never did
        tells of itself only.
        """
        lost = {at for server, at in self._writable.items() if server in refused}
        kept = {server: at for server, at in self._writable.items() if at not in lost}
        self._writable = kept | self._took

    def _ask(self, change: Change, *, until_s: float) -> _Problem | None:
        """Ask for one change; return what went wrong, if anything did."""
        seen = self.seen.get(change.server)
        if seen is None:
            return _Problem("not seen among the managed Deployments", own=False)
        date = self._date()
        try:
            allowed, note = as_the_template_allows(
                seen,
                change,
                date=date,
                types=self._settings.types,
                gpus=self._settings.gpus,
            )
            if note:
                self.told.append(f"{change.server}: {note}")
            change = replace(change, pools=(allowed,))
            if self._settings.deletion_cost and allowed.replicas < seen.wanted:
                self._tell_costs(seen)
            now = self._write(seen, change, until_s=until_s)
        except (ApiError, UnfitError) as error:
            if isinstance(error, ApiError) and error.status == NOT_FOUND:
                asked = pool_text(asked_of(change))
                self.told.append(f"{change.server}: deleted before it could be asked for {asked}")
                return None
            return _Problem(str(error), own=_is_its_own(error), role=_is_of_a_role(error))
        self.seen[change.server] = now
        self._asked[change.server] = held_by(now)
        return None

    def _tell_costs(self, seen: Deployment) -> None:
        """Tell the cluster what runs on each pod of *seen*, so that it ends those that do least;
        that this cannot be told is no reason to fail.
        """
        for pod, cost in costs_of(self._pods.get(seen.server, ())):
            if pod.phase != "ready" or self._costs.get(pod.name, 0) == cost:
                continue
            body = {"metadata": {"annotations": {DELETION_COST: str(cost)}}}
            if not self._may_act():
                return
            try:
                self._client.patch_pod(seen.namespace, pod.name, body, manager=MANAGER)
            except ApiError as error:
                if error.status == NOT_FOUND:
                    continue
                self.told.append(f"{seen.server}: what runs on its pods could not be told: {error}")
                return
            self._costs[pod.name] = cost

    def _write(self, seen: Deployment, change: Change, *, until_s: float) -> Deployment:
        """Return the Deployment as it is once *change* is written to it; raise ApiError or
        UnfitError.
        """
        date, now = self._date(), seen
        contest = self._rivals.contest(change.server)
        undone_date = date - timedelta(seconds=self._clock.now_s() - contest.last_s)
        for _ in range(CONFLICTS_MAX):
            patch = patch_of(
                now,
                change,
                date=date.isoformat(timespec="seconds"),
                types=self._settings.types,
                gpus=self._settings.gpus,
                source=self._source if change.server in self._measured else "",
                undone=contest.undone,
                undone_date=undone_date.isoformat(timespec="seconds"),
            )
            if patch is None:
                return now
            if self._clock.now_s() > until_s:
                raise _NotAskedError(f"not asked for: no time left of {APPLY_S:g} s")
            if not self._may_act():
                raise _NotAskedError("not asked for: this controller leads no longer, or is paused")
            try:
                answer = self._client.patch_deployment(
                    now.namespace, now.name, patch, manager=MANAGER, go_on=self._may_act
                )
            except ApiError as error:
                if error.status != CONFLICT:
                    raise
                now = self._after_conflict(seen, change)
                continue
            self._rivals.asked(change.server)
            self._took[change.server] = now.namespace
            if asked_of(change).replicas < now.wanted:
                self.reduced_s[change.server] = self._clock.now_s()
            self._tell(now, change, date)
            made = _as_seen(read_deployment(answer), seen)
            self._read_back(made, change)
            self._wrote[change.server] = made.uid, made.annotations.get(STATUS, "")
            return made
        raise UnfitError(f"changed by others {CONFLICTS_MAX} times while it was written to")

    def _read_back(self, made: Deployment, change: Change) -> None:
        """Tell if the API server has made something else of what was asked for: who lets things in
        may change them, and would do so each time.
        """
        asked, status = asked_of(change), made.annotations.get(STATUS, "")
        if held_by(made) == asked:
            return
        by = "an admission webhook"
        self.told.append(
            f"{change.server}: {pool_text(asked)} was asked for, {by} made it "
            f"{pool_text(held_by(made))}"
        )
        self._rivals.changed(change.server, by=by, now_s=self._clock.now_s(), status=status)

    def _after_conflict(self, seen: Deployment, change: Change) -> Deployment:
        """Return the Deployment as it is now, when it may be written to: nothing that the loop sets
        was changed.

        A patch whose answer was lost may be what has changed: then it is what it was asked to be
        already.
        """
        found = read_deployment(self._client.deployment(seen.namespace, seen.name))
        now = _as_seen(found, seen)
        if held_by(now) == asked_of(change) and now.uid == seen.uid:
            return now
        if problem := others_changed(now, seen):
            raise UnfitError(f"left as it is: {problem}")
        return now

    def _tell(self, deployment: Deployment, change: Change, date: datetime) -> None:
        """Tell of a change by an Event, if so set; that it could not be told is no reason to
        fail.
        """
        if not self._settings.events:
            return
        stamp = date.strftime(STAMP)
        event = change_event(deployment, asked_of(change), reason=change.why.text, date=stamp)
        self.create_event(deployment, event)

    def create_event(self, deployment: Deployment, event: Json) -> None:
        """Create an Event; that it could not be written is told."""
        try:
            self._client.create_event(deployment.namespace, event)
        except ApiError as error:
            self.told.append(f"{deployment.server}: its Event could not be written: {error}")


class _NotAskedError(UnfitError):
    """A change was not asked for, for a reason that any other would have had, too."""


class _Problem(NamedTuple):
    """Why a change did not go through; own: for a reason that is that of one Deployment. role: the
    account may not change it, which may be so of it or of its namespace only.
    """

    line: str
    own: bool
    role: bool = False


def _is_its_own(error: ApiError | UnfitError) -> bool:
    """Tell whether what kept a change from one Deployment says nothing of the others: what it is,
    what others did to it, or whoever decides what is let in.
    """
    if isinstance(error, UnfitError):
        return not isinstance(error, _NotAskedError)
    if error.status == FORBIDDEN:
        return not _is_of_a_role(error)
    return error.status in OF_AN_OBJECT or WEBHOOK in str(error)


def _is_of_a_role(error: ApiError | UnfitError) -> bool:
    return isinstance(error, ApiError) and error.status == FORBIDDEN and MAY_NOT in str(error)


def _as_seen(now: Deployment, seen: Deployment) -> Deployment:
    """Return *now* with the names by which the loop knows what it has *seen*."""
    return replace(now, server=seen.server, model=now.model or seen.model)


def costs_of(pods: Sequence[PodView]) -> list[tuple[PodView, int]]:
    """Return what it costs to end each of *pods*, in requests: one that does not tell what runs on
    it may be the busiest.
    """
    told = [None if _is_blind(pod) else pod.running + pod.waiting for pod in pods]
    most = max((cost for cost in told if cost is not None), default=0)
    return [(pod, most if cost is None else cost) for pod, cost in zip(pods, told, strict=True)]


def _is_blind(pod: PodView) -> bool:
    return pod.sample_age_s is None or "running" in pod.unknown_gauges
