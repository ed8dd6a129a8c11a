"""From a decision to the changes to ask for: what it may ask for at all, which servers are held,
what differs; pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loop.replacing import replace
from loop.spec import SystemData, gpus
from loop.types import Change, Decision, ServerView, SharedGpus, Snapshot, Target, Why, one_pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many replicas a server may gain or lose in one cycle; None: as many as the policy
    says.
    """

    step_up_max: int | None = None
    step_down_max: int | None = None

    def __post_init__(self) -> None:
        for step in (self.step_up_max, self.step_down_max):
            assert step is None or step > 0, f"a limit per cycle must be > 0, got {step}"


NO_LIMITS = Limits()
UNCHANGED = Why(kind="unchanged")
ASLEEP = Why(kind="asleep", text="it has no replicas, so nobody can tell whether requests come")
ROUNDING = 1e-9  # of a mean over pods, from which their sum is reckoned
LONGEST = (
    3.0  # the longest answers, in means: one in twenty of an exponential distribution is longer
)

# More requests run than this many times what the load explains: answers longer than the window, or
# counters that tell less than there is.
EXPLAINED_FACTOR, EXPLAINED_MIN = 2.0, 4.0


def plan(
    decision: Decision,
    snapshot: Snapshot,
    *,
    limits: Limits = NO_LIMITS,
    reduce_unknown: bool = False,
) -> tuple[Change, ...]:
    """Return what to ask of the world, in the order of the snapshot: absolute changes, and none
    that asks for what is desired already.

    Nothing is asked for a held server; one that is absent from the decision is held. A target of a
    server that was not seen is left out. Zero replicas keep accelerator and max batch as they are,
    and so does a target that names none. The bounds that a server has of its own win over *limits*,
    the lower one over the upper one. A server whose load is not known is not reduced or moved,
    whatever the policy says, unless *reduce_unknown* (somebody else knows the load, and decided).
    """
    changes = []
    for name, view in snapshot.servers.items():
        target = decision.targets.get(name)
        # This is the one place that decides what "held" means: no change at all.
        if target is None or target.held or view.hold is not None or _stays(target, view):
            continue
        change = change_of(target, view, limits=limits)
        if not reduce_unknown and is_refused(change, view):
            continue
        # Replicas cannot be asked for without saying on what; zero can.
        if (change.accelerator or change.replicas == 0) and _differs(change, view):
            changes.append(change)
    return tuple(changes)


def with_upper_bounds(snapshot: Snapshot, data: SystemData) -> Snapshot:
    """Return *snapshot* with the upper bounds that the data set beside those of the world: the
    smaller one holds, but never one below the minimum.
    """
    views = {}
    bounds = {name: told.max_replicas for name, told in data.servers.items()}
    for name, most in bounds.items():
        view = snapshot.servers.get(name) if most is not None else None
        if most is None or view is None:
            continue
        if view.replicas_max is None or most < view.replicas_max:
            views[name] = replace(view, replicas_max=max(most, view.replicas_min))
    return replace(snapshot, servers={**snapshot.servers, **views}) if views else snapshot


class SharedRoom:
    """What is left of the GPUs of each of the *shared* sets: GPUs that several servers reach and
    nobody else can use.

    The capacity of a type may be ample, and each of two servers may reach four GPUs of it: if these
    are the same four, the two cannot have four each.
    """

    def __init__(self, shared: Sequence[SharedGpus]) -> None:
        self._left = {one: one.count for one in shared}

    def take(self, server: str, kind: str, count: int, *, each: int = 1) -> int:
        """Give *server* up to *count* GPUs of a type, in units of *each*; return how many it gets
        at most.
        """
        sets = [one for one in self._left if one.type == kind and server in one.servers]
        room = min((max(self._left[one], 0) for one in sets), default=count)
        got = min(count, room // each * each)
        for one in sets:
            self._left[one] -= got
        return got

    def keep(self, server: str, kind: str, count: int) -> None:
        """Give *server* what it has, whether or not there is room for it."""
        for one in self._left:
            if one.type == kind and server in one.servers:
                self._left[one] -= count


def within_shared(decision: Decision, snapshot: Snapshot, data: SystemData) -> Decision:
    """Return *decision* without the growth for which servers that share GPUs have no room together:
    all keep what they have of it and still want, then the highest class grows first. GPUs of which
    no more can be had for a while all servers share.
    """
    everybody = frozenset(snapshot.servers)
    scarce = [
        SharedGpus(type=kind, servers=everybody, count=count)
        for kind, count in snapshot.capacity_max.items()
    ]
    if not snapshot.shared_gpus and not scarce:
        return decision
    room = SharedRoom((*snapshot.shared_gpus, *scarce))
    grows = []
    for name in _by_class(snapshot, data):
        view, target = snapshot.servers[name], decision.targets.get(name)
        held = _gpus(view, data, accelerator=view.accelerator, replicas=view.wanted)
        asked = _asked(target, view, data)
        if asked is None or asked[0] != (held and held[0]):
            # On the way to other GPUs it has those of now until the new ones are there.
            if held is not None:
                room.keep(name, *held)
            kept = 0
        else:
            kept = min(held[1] if held else 0, asked[1])
            room.keep(name, asked[0], kept)
        if asked is not None and asked[1] > kept:
            grows.append((name, asked, kept))
    targets = dict(decision.targets)
    for name, (kind, count), kept in grows:
        each = count // targets[name].replicas
        got = kept + room.take(name, kind, count - kept, each=each)
        if got < count:
            where = "GPUs that it shares with other servers"
            if kind in snapshot.capacity_max:
                where = f"the {snapshot.capacity_max[kind]} {kind} that can be had for now"
            targets[name] = _cut_shared(
                targets[name], snapshot.servers[name], got // each, where=where
            )
    return replace(decision, targets=targets)


def _asked(target: Target | None, view: ServerView, data: SystemData) -> tuple[str, int] | None:
    if target is None or target.held or not target.pools or not target.replicas:
        return None
    accelerator = target.accelerator or view.accelerator  # one that names none keeps it
    return _gpus(view, data, accelerator=accelerator, replicas=target.replicas)


def _gpus(
    view: ServerView, data: SystemData, *, accelerator: str, replicas: int
) -> tuple[str, int] | None:
    """Return the type and how many GPUs *replicas* of a server hold: as many as its pods ask for,
    else as the data say; where these do not know the model, they hold at least one unit each.
    """
    if not accelerator:
        return None
    unit = data.accelerators.get(accelerator)
    told = gpus(data, model=view.model, accelerator=accelerator, replicas=1)
    each = view.gpus_per_replica or (told[1] if told else unit.multiplicity if unit else 1)
    return unit.type if unit else accelerator, each * replicas


def _by_class(snapshot: Snapshot, data: SystemData) -> Iterable[str]:
    servers = snapshot.servers
    return sorted(servers, key=lambda name: (data.priority(servers[name].service_class), name))


def _cut_shared(target: Target, view: ServerView, replicas: int, *, where: str) -> Target:
    """Return *target* with so many *replicas*; without room for one, what the server has."""
    text = f"{target.why.text}; {replicas} of {target.replicas} replicas have a place on {where}"
    why = Why(kind="capacity", text=text, details=target.why.details)
    pool = replace(target.pools[0], replicas=replicas)
    return replace(
        target,
        pools=(pool,) if replicas else view.pools,
        held=not replicas,
        cost_cents_per_h=None,
        itl_ms=None,
        ttft_ms=None,
        rho=None,
        why=why,
    )


def with_holds(decision: Decision, snapshot: Snapshot) -> Decision:
    """Return *decision* with each server held for which nothing may be asked, whatever the policy
    says.
    """
    targets = dict(decision.targets)
    for name, view in snapshot.servers.items():
        target = targets.get(name)
        if view.hold is not None and not (target is not None and target.held):
            targets[name] = Target(server=name, pools=view.pools, why=view.hold, held=True)
    return replace(decision, targets=targets)


def with_sleepers(decision: Decision, snapshot: Snapshot) -> Decision:
    """Return *decision* in which servers that are asleep are told as that, whatever the policy
    calls them, or where it says nothing of them: no data are missing that could come.
    """
    asleep = snapshot.asleep
    if not asleep:  # nearly always, and it is asked for in each cycle
        return decision
    targets = dict(decision.targets)
    for name in asleep:
        target, view = targets.get(name), snapshot.servers[name]
        if view.hold is not None:
            continue
        if target is None:
            targets[name] = Target(server=name, pools=view.pools, why=ASLEEP, held=True)
        elif target.held and target.why.kind == "held-unknown":
            targets[name] = replace(target, why=ASLEEP)
    return replace(decision, targets=targets)


def with_room_for_what_runs(decision: Decision, snapshot: Snapshot, data: SystemData) -> Decision:
    """Return *decision* with room for what runs in the pods, whatever the policy says: it is demand
    as well as what comes.

    A pod that is ended loses its requests, and zero is for servers where nothing runs or waits.
    The accelerator stays if the policy gave up all replicas, or if a move has no room for what runs
    and the load does not explain it. A server whose GPUs others are to have gives all but one
    replica: where more comes than it can take, its batches are always full.
    """
    targets = dict(decision.targets)
    growing: dict[str, str] | None = None
    for name, view in snapshot.servers.items():
        target = targets.get(name)
        # What runs needs no more than all replicas that it runs in.
        if target is None or target.held or target.replicas >= view.wanted:
            continue
        needed = needed_in_flight(target, view)
        if target.why.kind == "capacity":
            if growing is None:
                growing = _growing(decision, snapshot, data)
            held = gpus(data, model=view.model, accelerator=view.accelerator, replicas=1)
            wanted = (kind for other, kind in growing.items() if other != name)
            needed = min(needed, 1) if held is not None and held[0] in wanted else needed
        if target.replicas >= needed:
            continue
        text = f"{needed} of {view.wanted} replicas stay: {_in_flight(view)}"
        details = {**target.why.details, "policyReplicas": target.replicas}
        # To stay where it runs: a move would interrupt it.
        gives_up = target.replicas == 0 or _moves(target, view)
        targets[name] = replace(
            target,
            pools=one_pool(
                accelerator=view.accelerator if gives_up else target.accelerator,
                replicas=needed,
                max_batch=view.max_batch if gives_up else target.max_batch,
            ),
            cost_cents_per_h=None,
            itl_ms=None,
            ttft_ms=None,
            rho=None,
            why=Why(kind="in-flight", text=text, details=details),
        )
    return replace(decision, targets=targets)


def replicas_only(decision: Decision, snapshot: Snapshot) -> Decision:
    """Return *decision* for somebody who can change the number of replicas and nothing else: a
    server that is to move is held, for its replicas were counted for another accelerator.
    """
    targets = dict(decision.targets)
    for name, view in snapshot.servers.items():
        target = targets.get(name)
        if target is None or target.held or target.replicas == 0:
            continue
        if target.accelerator == view.accelerator:
            pools = one_pool(
                accelerator=view.accelerator, replicas=target.replicas, max_batch=view.max_batch
            )
            targets[name] = replace(target, pools=pools)
        else:
            text = (
                f"held on {view.accelerator or 'no accelerator'}: the policy would move it to "
                f"{target.accelerator}, and only replicas are exported"
            )
            why = Why(kind="unchanged", text=text)
            targets[name] = Target(server=name, pools=view.pools, why=why, held=True)
    return replace(decision, targets=targets)


def planned(snapshot: Snapshot, changes: Iterable[Change]) -> dict[str, Change]:
    """Return what every server of *snapshot* is to have once *changes* are carried out."""
    present = {
        name: Change(server=name, pools=view.pools, why=UNCHANGED)
        for name, view in snapshot.servers.items()
    }
    return present | {change.server: change for change in changes}


def below_minimum(snapshot: Snapshot, changes: Iterable[Change]) -> tuple[str, ...]:
    """Return a line for each server that *changes* leave below the minimum set for it, because it
    is held or has no accelerator.
    """
    asked = {change.server: change for change in changes}
    return tuple(
        f"{name}: stays at {replicas} replicas, below its minimum of "
        f"{view.replicas_min}: nothing is asked for it"
        for name, view in snapshot.servers.items()
        if (replicas := asked.get(name, view).replicas) < view.replicas_min
    )


def shut_out(snapshot: Snapshot, changes: Iterable[Change]) -> tuple[str, ...]:
    """Return a line for each server that *changes* leave without replicas, because none is all that
    it may have, while requests come or are in its pods.
    """
    lines = []
    asked = {change.server: change for change in changes}
    for name, view in snapshot.servers.items():
        if view.replicas_max != 0 or asked.get(name, view).replicas != 0:
            continue
        rate_rpm = view.load.rate_rpm if view.load is not None else 0.0
        inside = view.running + view.waiting
        if rate_rpm > 0.0 or inside > 0:
            lines.append(
                f"{name}: its maximum is 0 replicas, so nobody serves the {rate_rpm:.4g} "
                f"requests/min that come and the {inside} in its pods"
            )
    return tuple(lines)


def cut_answers(snapshot: Snapshot, changes: Iterable[Change]) -> tuple[str, ...]:
    """Return a line for each server whose pods *changes* end, if these have less time to end in
    than its longest answers take.
    """
    lines = []
    for change in changes:
        view = snapshot.servers[change.server]
        moves = change.accelerator != view.accelerator
        if view.grace_s is None or not (change.replicas < view.wanted or moves):
            continue
        load, itl_ms = view.load, view.itl_ms
        if load is None or itl_ms is None or (view.running == 0 and not _may_run(view)):
            continue
        longest_s = LONGEST * load.out_tokens * itl_ms / 1000.0
        if longest_s > view.grace_s:
            lines.append(
                f"{view.name}: answers of up to {longest_s:.0f} s may be cut: its pods end within "
                f"{view.grace_s:g} s (terminationGracePeriodSeconds)"
            )
    return tuple(lines)


def needed_in_flight(target: Target, view: ServerView) -> int:
    """Return how many of the present replicas what is in flight needs, at the batch it may have."""
    if view.running + view.waiting + view.backlog <= 0:
        return min(view.wanted, 1) if _may_run(view) else 0
    if _moves(target, view) and _explained(view):
        # A move brings new pods before the old ones finish what they run, and another accelerator
        # runs as many requests in another time: what runs here says nothing of how many it needs.
        return 1
    # At the smaller one of both: until its template is changed a pod has the batch it has.
    batch = min((size for size in (target.max_batch, view.max_batch) if size > 0), default=0)
    if _explained(view):
        inside, caches = view.running, 0
    else:
        # The KV caches of several do not fit into one, whatever the batch is.
        inside, caches = view.running + view.waiting, math.ceil(_caches(view) - ROUNDING)
    held = -(-inside // batch) if batch > 0 else 0
    return min(view.wanted, max(held, caches, 1))


def _may_run(view: ServerView) -> bool:
    """Tell whether something may run in pods that told of themselves, but not of that."""
    return view.sample_age_s is not None and "running" in view.unknown_gauges


def _in_flight(view: ServerView) -> str:
    if _may_run(view):
        return "not all of its pods tell what runs in them"
    return f"{view.running} requests run and {max(view.waiting, view.backlog)} wait"


def _caches(view: ServerView) -> float:
    """Return how many full KV caches what runs in *view* fills."""
    if not view.pods:  # a world, or a recording, that tells of them together
        return view.ready * view.kv_usage
    return sum(pod.kv_usage for pod in view.pods if pod.phase in ("ready", "starting"))


def _growing(decision: Decision, snapshot: Snapshot, data: SystemData) -> dict[str, str]:
    """Return the servers that are to have more GPUs of a type than they have, and of which."""
    found = {
        name: _grows_on(decision.targets.get(name), view, data)
        for name, view in snapshot.servers.items()
    }
    return {name: kind for name, kind in found.items() if kind is not None}


def _grows_on(target: Target | None, view: ServerView, data: SystemData) -> str | None:
    """Return the type of which *target* asks for more GPUs than *view* has, None if of none."""
    asked = _asked(target, view, data)
    if asked is None:
        return None
    kind, count = asked
    held = gpus(data, model=view.model, accelerator=view.accelerator, replicas=view.wanted)
    return kind if held is None or held[0] != kind or held[1] < count else None


def _moves(target: Target, view: ServerView) -> bool:
    return target.replicas > 0 and target.accelerator not in ("", view.accelerator)


def _explained(view: ServerView) -> bool:
    """Tell whether the load explains what runs (Little's law: as many as come while one is served):
    then who was sized for the load was sized for what runs.
    """
    load = view.load
    if load is None or load.rate_rpm == 0.0 or view.itl_ms is None or view.ttft_ms is None:
        return False
    served_s = (view.ttft_ms + view.itl_ms * max(load.out_tokens - 1.0, 0.0)) / 1000.0
    return view.running <= EXPLAINED_FACTOR * load.rate_rpm / 60.0 * served_s + EXPLAINED_MIN


def _stays(target: Target, view: ServerView) -> bool:
    """Tell whether *target* is what *view* has, within its bounds: nearly all are, in most cycles.
    Of several pools `change_of` makes one.
    """
    most = view.replicas_max
    return (
        target.pools == view.pools
        and len(view.pools) == 1
        and view.wanted >= view.replicas_min
        and (most is None or view.wanted <= most)
    )


def change_of(target: Target, view: ServerView, *, limits: Limits) -> Change:
    """Return what *target* asks of the server that *view* shows, within its bounds and *limits*."""
    assert target.replicas >= 0, f"{target.server}: replicas must be >= 0, got {target.replicas}"
    replicas = within_limits(target.replicas, wanted=view.wanted, limits=limits)
    # A limit may let replicas stay a while that the target has given up: these do not move either.
    keeps = target.replicas == 0
    accelerator = view.accelerator if keeps else target.accelerator or view.accelerator
    stuck = _stuck(view, accelerator)
    if stuck and replicas > view.wanted:
        replicas = view.wanted
    # Without an accelerator nothing can be added; what runs is still protected by its minimum.
    lower = view.replicas_min if accelerator else min(view.replicas_min, view.wanted)
    upper = replicas if view.replicas_max is None else min(replicas, view.replicas_max)
    bounded = max(upper, lower)
    max_batch = view.max_batch if keeps or target.max_batch <= 0 else target.max_batch
    why = target.why
    if stuck and target.replicas > view.wanted:
        why = replace(why, kind="not-coming", text=f"{why.text}; {stuck} replicas do not come")
    if bounded != replicas:
        text = f"{why.text}; {bounded} is the bound set for it"
        why = replace(why, kind="bound", text=text)
    return Change(
        server=view.name,
        pools=one_pool(accelerator=accelerator, replicas=bounded, max_batch=max_batch),
        why=why,
    )


def _stuck(view: ServerView, accelerator: str) -> int:
    """Return how many replicas do not come on *accelerator*, if these are as many as are ready:
    more of the same would not come either.
    """
    if view.missing is None or accelerator != view.accelerator:
        return 0
    given_up = view.missing.given_up
    return given_up if given_up >= max(view.ready, 1) else 0


def is_refused(change: Change, view: ServerView) -> bool:
    """Tell whether *change* takes away from a server whose load is not known."""
    return view.load is None and _takes_away(change, view)


def _takes_away(change: Change, view: ServerView) -> bool:
    """Tell whether *change* removes replicas, or replaces those that run by others elsewhere."""
    moves = change.accelerator != view.accelerator
    return view.wanted > 0 and (change.replicas < view.wanted or moves)


def within_limits(replicas: int, *, wanted: int, limits: Limits) -> int:
    """Return *replicas*, no further from those *wanted* now than *limits* let one cycle go."""
    if limits.step_up_max is not None:
        replicas = min(replicas, wanted + limits.step_up_max)
    if limits.step_down_max is not None:
        replicas = max(replicas, wanted - limits.step_down_max)
    return replicas


def _differs(change: Change, view: ServerView) -> bool:
    return change.pools != view.pools
