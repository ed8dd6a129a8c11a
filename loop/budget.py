"""What all servers together may cost: a decision cut to the money that there is; pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from loop.actuator import (
    NO_LIMITS,
    ROUNDING,
    Limits,
    change_of,
    is_refused,
    needed_in_flight,
    within_limits,
)
from loop.replacing import replace
from loop.spec import SystemData, cost_cents_per_h
from loop.types import Decision, ServerView, Snapshot, Target, Why


def within_budget(
    decision: Decision,
    snapshot: Snapshot,
    data: SystemData,
    *,
    budget_cents_per_h: float,
    limits: Limits = NO_LIMITS,
) -> Decision:
    """Return *decision* with so few replicas that all servers together cost no more than the
    budget; where they do nevertheless, it notes so.

    First are paid the minimum of each server and what runs in it, then the replicas that there are,
    then growth: highest class first, and in a class whom the least money completes per request that
    comes. Growth waits for the money of pods that end; what buys no replica of a class goes to the
    next one. Then moves to dearer accelerators are given up, lowest class first. Held servers keep
    what they have, and count; so does what *limits*, a bound or an unknown load leave a server. A
    server whose price is not known counts for nothing.
    """
    changes = {}
    for name, view in snapshot.servers.items():
        target = decision.targets.get(name)
        if target is not None and not target.held and target.pools:
            change = change_of(target, view, limits=limits)
            if not is_refused(change, view):
                changes[name] = change
    wanted = {name: change.replicas for name, change in changes.items()}
    each = {
        name: cost_cents_per_h(
            data,
            model=view.model,
            accelerator=changes.get(name, view).accelerator,
            replicas=1,
        )
        or 0.0
        for name, view in snapshot.servers.items()
    }

    def spent(replicas: dict[str, int]) -> float:
        views = snapshot.servers.items()
        return sum(each[name] * replicas.get(name, view.wanted) for name, view in views)

    def ending(replicas: dict[str, int]) -> float:
        views = snapshot.servers.items()
        return sum(each[name] * _ending(view, replicas.get(name)) for name, view in views)

    if spent(wanted) + ending(wanted) <= budget_cents_per_h:
        return decision
    left = {
        name: min(replicas, _least(decision.targets[name], snapshot.servers[name], data, limits))
        if each[name]
        else replicas
        for name, replicas in wanted.items()
    }
    money = budget_cents_per_h - spent(left)
    _buy(left, wanted, each, snapshot, data, money=money, ending=ending)
    targets, ends = dict(decision.targets), ending(left)
    for name, replicas in left.items():
        if replicas < wanted[name]:
            targets[name] = _cut(targets[name], replicas, wanted[name], ends_cents_per_h=ends)
    over = spent(left) - budget_cents_per_h * (1.0 + ROUNDING)
    over = _stay_at_home(targets, left, each, snapshot, data, over=over) + ends
    if over <= 0.0:
        return replace(decision, targets=targets)
    note = (
        f"the budget of $ {budget_cents_per_h / 100.0:.6g}/h is not kept: minimums, held servers "
        f"and what runs cost $ {(budget_cents_per_h + over) / 100.0:.6g}/h"
    )
    return replace(decision, targets=targets, notes=(*decision.notes, note))


def _buy(
    left: dict[str, int],
    wanted: dict[str, int],
    each: dict[str, float],
    snapshot: Snapshot,
    data: SystemData,
    *,
    money: float,
    ending: Callable[[dict[str, int]], float],
) -> None:
    """Add to the replicas *left* what *money* [cents/h] buys of those *wanted*, each server's at
    the price *each*: what there is, then growth, which waits for what pods that end cost, *ending*
    [cents/h] by what is left.

    A server that is short of its load lets nearly all its requests wait too long, so it is better
    that some servers of a class are whole than that all are short: slo meets 2 to 4 points more
    than with equal shares (27 servers, three seeds, an hour of a day at 220 $/h and of a code trace
    at 350). Nobody swaps: who has replicas keeps them. To give those of servers that are far from
    whole to others brings 5 points more on that day, but costs 19 on the code trace: its loads
    wobble, and pods that start and drain cost and serve nothing.
    """
    views = snapshot.servers
    present = {
        name: min(replicas, max(views[name].wanted, views[name].replicas_min))
        for name, replicas in wanted.items()
    }

    def first(name: str) -> tuple[int, float, str]:
        load = views[name].load
        missing_cents_per_h = (wanted[name] - left[name]) * each[name]
        requests_per_cent = (load.rate_rpm if load else 0.0) / missing_cents_per_h
        return _priority(name, snapshot, data), -requests_per_cent, name

    def buy(names: Iterable[str], ceiling: dict[str, int]) -> None:
        nonlocal money
        for name in sorted((name for name in names if left[name] < ceiling[name]), key=first):
            bought = ceiling[name] - left[name]
            if bought * each[name] > money:
                bought = max(math.floor(money / each[name] + ROUNDING), 0)
            left[name] += bought
            money -= bought * each[name]

    buy(wanted, present)
    ends = ending(left)
    money -= ends
    classes: dict[int, list[str]] = {}
    for name in wanted:
        classes.setdefault(_priority(name, snapshot, data), []).append(name)
    for _, names in sorted(classes.items()):
        buy(names, wanted)
        short = [each[name] for name in names if left[name] < wanted[name]]
        if short and min(short) <= money + ends:
            return  # its next replica is paid once the pods have ended, with this money too


def _stay_at_home(
    targets: dict[str, Target],
    left: dict[str, int],
    each: dict[str, float],
    snapshot: Snapshot,
    data: SystemData,
    *,
    over: float,
) -> float:
    """Give up moves among *targets* to dearer accelerators, lowest class first, as long as the
    replicas *left*, at the prices *each*, are *over* the budget [cents/h]; return how far they
    still are.
    """
    for name in sorted(left, key=lambda name: (_priority(name, snapshot, data), name))[::-1]:
        view = snapshot.servers[name]
        now = cost_cents_per_h(data, model=view.model, accelerator=view.accelerator, replicas=1)
        saved = left[name] * (each[name] - now) if now else 0.0
        if over > 0.0 and saved > 0.0:
            targets[name] = _stay(targets[name], view, left[name])
            over -= saved
    return over


def _ending(view: ServerView, replicas: int | None) -> int:
    """Return how many pods hold GPUs beyond those wanted, in drain or replaced by a move, and how
    many at least will as they end what runs in them, if so many *replicas* stay (None: as now).
    """
    beyond = max(view.ready + view.starting + view.draining - view.wanted, 0)
    if replicas is None:
        return beyond
    return beyond + max(min(view.running, view.ready, view.wanted) - replicas, 0)


def _priority(name: str, snapshot: Snapshot, data: SystemData) -> int:
    return data.priority(snapshot.servers[name].service_class)


def _least(target: Target, view: ServerView, data: SystemData, limits: Limits) -> int:
    """Return how many replicas a server keeps, however little money there is."""
    if view.load is None:
        return max(view.wanted, view.replicas_min)
    told = data.servers.get(view.name)
    asked = max(told.min_replicas if told else 0, 1, needed_in_flight(target, view))
    return max(view.replicas_min, within_limits(asked, wanted=view.wanted, limits=limits))


def _stay(target: Target, view: ServerView, replicas: int) -> Target:
    """Return *target* on the accelerator that the server has."""
    pool = replace(
        target.pools[0],
        accelerator=view.accelerator,
        replicas=replicas,
        max_batch=view.max_batch,
    )
    text = f"{target.why.text}; {target.pools[0].accelerator} is beyond the budget"
    why = Why(kind="budget", text=text, details=target.why.details)
    return replace(
        target,
        pools=(pool,),
        cost_cents_per_h=None,
        itl_ms=None,
        ttft_ms=None,
        rho=None,
        why=why,
    )


def _cut(target: Target, replicas: int, wanted: int, *, ends_cents_per_h: float) -> Target:
    (pool, *_) = target.pools
    text = f"{target.why.text}; {replicas} of {wanted} replicas are within the budget"
    if ends_cents_per_h > 0.0:
        text = f"{text}, of which pods that end take $ {ends_cents_per_h / 100.0:.6g}/h"
    why = Why(kind="budget", text=text, details=target.why.details)
    return replace(
        target,
        pools=(replace(pool, replicas=replicas),),
        cost_cents_per_h=None,
        itl_ms=None,
        ttft_ms=None,
        rho=None,
        why=why,
    )
