"""From a decision to the changes to ask for: the difference to what is wanted already, and limits
per cycle; pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from loop.types import Change, Decision, ServerView, Snapshot, Target


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


def plan(
    decision: Decision, snapshot: Snapshot, *, limits: Limits = NO_LIMITS
) -> tuple[Change, ...]:
    """Return what to ask of the world, in the order of the snapshot: absolute wishes, none that is
    wanted already.

    A server absent from the decision is held, and a target of a server that was not seen is left
    out. No replicas (an empty accelerator means the same) keep accelerator and max batch as they
    are. The bounds that a server has of its own win over *limits*, the lower one over the upper
    one.
    """
    pairs = ((view, decision.targets.get(name)) for name, view in snapshot.servers.items())
    wishes = (
        (view, _wish(target, view, limits=limits)) for view, target in pairs if target is not None
    )
    return tuple(change for view, change in wishes if _differs(change, view))


def _wish(target: Target, view: ServerView, *, limits: Limits) -> Change:
    assert target.replicas >= 0, f"{target.server}: replicas must be >= 0, got {target.replicas}"
    aim = target.replicas if target.accelerator else 0
    replicas = _limited(aim, wanted=view.wanted, limits=limits)
    # Also where a limit makes replicas stay a while that the target has given up.
    keeps = aim == 0
    accelerator = view.accelerator if keeps else target.accelerator
    # Without an accelerator there is nothing that a lower bound could be of.
    bounded = _bounded(replicas, view) if accelerator else replicas
    return Change(
        server=view.name,
        accelerator=accelerator,
        replicas=bounded,
        max_batch=view.max_batch if keeps or target.max_batch <= 0 else target.max_batch,
        reason=target.reason
        if bounded == replicas
        else f"{target.reason}; {bounded} is the bound set for it",
    )


def _bounded(replicas: int, view: ServerView) -> int:
    upper = replicas if view.replicas_max is None else min(replicas, view.replicas_max)
    return max(upper, view.replicas_min)


def _limited(replicas: int, *, wanted: int, limits: Limits) -> int:
    if limits.step_up_max is not None:
        replicas = min(replicas, wanted + limits.step_up_max)
    if limits.step_down_max is not None:
        replicas = max(replicas, wanted - limits.step_down_max)
    return replicas


def _differs(change: Change, view: ServerView) -> bool:
    wanted = (view.accelerator, view.wanted, view.max_batch)
    return (change.accelerator, change.replicas, change.max_batch) != wanted
