"""Which pods of a server to make and which to take away, so that it reaches its desired state.

Pure: it reads pods and moves none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from twin.serving.pod import Pod
from twin.spec import Pool


class DesiredState(NamedTuple):
    """What was asked for one server at t_s; absolute. Pods of another revision, whatever it means,
    are replaced.
    """

    t_s: float
    server: str
    pool: Pool
    revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How many pods to make, and which to take away, in that order."""

    create: int
    remove: tuple[Pod, ...]


def fits(pod: Pod, desired: DesiredState, *, live: bool) -> bool:
    """Tell whether *pod* is of the desired kind; a max batch that is changed *live* makes no other
    kind.
    """
    pool = desired.pool
    return (
        pod.life.accelerator == pool.accelerator
        and (live or pod.max_batch == pool.max_batch)
        and pod.revision == desired.revision
    )


def plan(pods: Sequence[Pod], desired: DesiredState, *, live: bool) -> Plan:
    """Return the next step from *pods* to the *desired* state.

    It has as many pods of the desired kind as are desired. Of the pods of other kinds those without
    GPUs go at once. The others stay as long as they and the ready ones of the desired kind are no
    more than desired: a change begins with new pods, and each that gets ready replaces an old one.
    A pod that drains cannot be called back and counts for nothing.
    """
    replicas = desired.pool.replicas
    staying = [pod for pod in pods if pod.phase != "draining"]
    new = [pod for pod in staying if fits(pod, desired, live=live)]
    old = [pod for pod in staying if not fits(pod, desired, live=live)]
    waiting = [pod for pod in old if pod.phase == "pending"]
    holding = [pod for pod in old if pod.phase != "pending"]
    ready = sum(pod.phase == "ready" for pod in new)
    surplus = len(new) - replicas
    return Plan(
        create=max(-surplus, 0),
        remove=(
            *_first_to_go(new, surplus),
            *waiting,
            *_first_to_go(holding, len(holding) - max(replicas - ready, 0)),
        ),
    )


def make_room(
    pods: Sequence[Pod], desired: DesiredState, *, live: bool, free: int
) -> tuple[Pod, ...]:
    """Return old pods to give up so that one of the desired kind gets GPUs; none if waiting is
    enough or giving up is no use.

    *free* are the GPUs that this server would get now. One replacement is under way at a time:
    nothing is given up while a new pod starts, or while GPUs come back that suffice. Old pods
    without a use for it (they hold another type, or too few GPUs all together) go on serving.
    """
    new = [pod for pod in pods if pod.phase != "draining" and fits(pod, desired, live=live)]
    waiting = [pod for pod in new if pod.phase == "pending"]
    if not waiting or any(pod.phase == "starting" for pod in new):
        return ()
    need = waiting[0].life
    of_type = [pod for pod in pods if pod.life.type == need.type and pod.phase != "pending"]
    missing = need.gpus - free - sum(pod.life.gpus for pod in of_type if pod.phase == "draining")
    old = [pod for pod in of_type if pod.phase != "draining" and not fits(pod, desired, live=live)]
    given_up: list[Pod] = []
    for pod in _first_to_go(old, len(old)):
        if missing <= 0:
            break
        given_up.append(pod)
        missing -= pod.life.gpus
    return tuple(given_up) if missing <= 0 else ()


def _first_to_go(pods: Sequence[Pod], count: int) -> list[Pod]:
    """Return *count* of *pods* (none below 1): pending before starting before ready, youngest
    first, idlest of ties.
    """
    order = ("pending", "starting", "ready")
    ranked = sorted(
        enumerate(pods),
        key=lambda item: (
            order.index(item[1].phase),
            -item[1].since_s,
            item[1].outstanding,
            -item[0],
        ),
    )
    return [pod for _, pod in ranked[: max(count, 0)]]
