"""What a server gets whose targets nothing can meet: its load comes all the same, and replicas that
are too few for it meet no target of any other kind either.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from loop.policies.slo.room import FreeGpus
from loop.replacing import replace
from loop.types import Target, Why, one_pool

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from loop.optimizer.rules import OptimizerSettings
    from loop.optimizer.solution import Assignment
    from loop.policies.slo.ask import Optimize
    from loop.policies.slo.case import Case
    from loop.policies.slo.demand import Memory
    from loop.spec import SystemData


def grown_targets(
    case: Case,
    system: SystemData,
    infeasible: Mapping[str, Why],
    *,
    free: FreeGpus,
    ask: Optimize,
    settings: OptimizerSettings,
) -> Iterator[tuple[str, Target]]:
    """Yield a target for each server of *infeasible* whose load needs more replicas than it has,
    without the targets that nothing meets and where it is, as far as there are *free* GPUs; and for
    each that was grown so, and has not needed as many for down_s.

    None of those is taken away that it had before: with all of them it may yet come near its
    targets.
    """
    for name in free.by_class(infeasible):
        view = case.snapshot.servers[name]
        one = None if view.hold is not None else _for_its_load(system, name, ask, settings)
        if one is None:
            continue
        room = free.room(name, view.accelerator)
        most = one.replicas if room is None else min(one.replicas, view.wanted + room)
        replicas = max(most, _kept(case, name, one))
        if replicas == view.wanted:
            continue
        free.take(name, view.accelerator, max(0, replicas - view.wanted))
        text = f"{infeasible[name].text}; {one.replicas} replicas take its load without that target"
        yield (
            name,
            Target(
                server=name,
                pools=one_pool(
                    accelerator=view.accelerator, replicas=replicas, max_batch=view.max_batch
                ),
                why=replace(infeasible[name], text=text),
            ),
        )


def growth(
    case: Case, targets: Mapping[str, Target], infeasible: Mapping[str, Why]
) -> Iterator[tuple[str, Memory]]:
    """Yield what is remembered of those of *infeasible* that *targets* grow, or did before: how
    many replicas they had then, and nothing once they are back there.
    """
    for name in infeasible:
        memory, wanted = case.memories[name], case.snapshot.servers[name].wanted
        before = memory.grown_from
        if targets[name].replicas > wanted:
            before = wanted if before is None else min(before, wanted)
        elif before is not None and wanted <= before:
            before = None
        if before != memory.grown_from:
            yield name, replace(memory, grown_from=before)


def _kept(case: Case, name: str, one: Assignment) -> int:
    """Return how many replicas *name* keeps: of those that it was grown by, as many as *one* says
    that what was asked for in the last down_s needs.
    """
    memory, wanted = case.memories[name], case.snapshot.servers[name].wanted
    lately = memory.demands.latest(case.sizing.down_s)
    if memory.grown_from is None or not lately or one.rate_max_rpm <= 0.0:
        return wanted
    needed = math.ceil(max(lately) / one.rate_max_rpm * (1.0 - 1e-9))
    return min(wanted, max(memory.grown_from, needed))


def _for_its_load(
    system: SystemData, name: str, ask: Optimize, settings: OptimizerSettings
) -> Assignment | None:
    """Return what *name* needs on the accelerator that it has, at the batch that it has; None if
    nothing takes its load.
    """
    server = system.servers[name]
    current, of_class = server.current, system.classes.get(server.service_class)
    target = None if of_class is None else of_class.targets.get(server.model)
    if of_class is None or target is None or not current.accelerator or current.load is None:
        return None
    stays = replace(server, keep_accelerator=True, max_batch=current.max_batch or server.max_batch)
    # No more is left out of the targets than has to be.
    without_ttft, without_itl = replace(target, slo_ttft_ms=0.0), replace(target, slo_itl_ms=0.0)
    for eased in (without_ttft, without_itl, replace(without_itl, slo_ttft_ms=0.0)):
        targets = {**of_class.targets, server.model: eased}
        alone = replace(
            system,
            servers={name: stays},
            classes={**system.classes, server.service_class: replace(of_class, targets=targets)},
            optimizer=replace(system.optimizer, unlimited=True),
        )
        try:
            found = ask(alone, settings).allocations.get(name)
        except ArithmeticError:  # whose figures are beyond all bounds
            return None
        if found is not None:
            return found
    return None
