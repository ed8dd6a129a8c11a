"""Our own rules: what a server has, needs and may hold, as the data and the physics say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from loop.optimizer.batch import tune
from loop.optimizer.explain import why_unserved
from loop.optimizer.model.queueing import iteration_time
from loop.optimizer.model.rates import no_limits, tail_blocks
from loop.optimizer.model.tail import make_tail
from loop.optimizer.model.tail_rates import highest_rates_by_share
from loop.optimizer.rules import Rules
from loop.optimizer.sizing import MS_PER_MIN, size_all
from loop.optimizer.solvers.greedy import largest_share
from loop.optimizer.table import transition_value
from loop.replacing import replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loop.optimizer.catalog import Pairs, PerfColumns, ServerColumns
    from loop.optimizer.model import Bools, Floats, Ints, Rows
    from loop.optimizer.model.queueing import ReplicaColumns
    from loop.optimizer.model.rates import Limits, Targets
    from loop.optimizer.rules import OptimizerSettings
    from loop.optimizer.table import CandidateTable
    from loop.spec import OptimizerData, ServerData, SystemData

HALF_BLOCK = 8.0  # tokens
WAITS = 0.5  # of the iteration that runs as a request comes, on the mean
KV_MARGIN = 2.0  # deviations that are kept free
ROUNDING = 1e-9  # a number of replicas this little above a whole one is that one


def as_set(settings: OptimizerSettings) -> OptimizerSettings:
    """Return all settings as they are."""
    return settings


def all_flags(flags: OptimizerData) -> OptimizerData:
    """Return all flags as they are."""
    return flags


def present_cost(data: SystemData, server: ServerData) -> float:
    """Return the cost of what *server* has [cents/h]: as given, or else by the prices of the
    accelerators.

    The existing collector sends 0 for it, so a 0 beside replicas counts as not given.
    """
    current = server.current
    given = current.cost_cents_per_h or 0.0
    if given > 0.0:
        return given
    unit = data.accelerators.get(current.accelerator)
    perf = data.perf.get((server.model, current.accelerator))
    if unit is None or perf is None:
        return 0.0
    return unit.cost_cents_per_h * max(perf.acc_count, 1) * current.replicas


def seen_batch(pairs: Pairs) -> Floats:
    """Return as many tokens as were seen together on an accelerator, in requests of this length;
    but no fewer requests than were seen where the size of the KV cache says how many fit.
    """
    seen: Floats = np.where(np.isfinite(pairs.perf.kv_tokens), pairs.perf.max_batch, 0.0)
    return np.maximum(pairs.batch_by_tokens, seen)


def batch(wanted: Floats, pairs: Pairs, settings: OptimizerSettings) -> tuple[Floats, Bools]:
    """Return *wanted* cut to the KV cache and the cap, and where not even one request fits."""
    asked = pairs.asked
    # The cache holds of every running request the prompt, what is generated so far (half of the
    # answer, and it is the long ones that are met), and half a block that is not full. What they
    # hold together varies; beyond the cache requests are preempted, and their work is lost.
    out, varied = np.maximum(asked.out_tokens, 1.0), 1.0 + asked.token_cv**2
    held = asked.in_tokens + out / 2.0 * varied + HALF_BLOCK
    spread = (asked.token_cv * asked.in_tokens) ** 2 + out**2 * (varied**3 / 3.0 - varied**2 / 4.0)
    some = KV_MARGIN * np.sqrt(spread)
    room = pairs.perf.kv_tokens / held
    # The batch n for which n · held + margin · sqrt(n) fills the cache.
    root = np.sqrt(room + (some / (2.0 * held)) ** 2) - some / (2.0 * held)
    room = np.where(np.isfinite(room) & (room >= 1.0), np.maximum(np.floor(root**2), 1.0), room)
    told = np.full_like(room, np.inf)
    np.divide(pairs.perf.kv_tokens, asked.held, out=told, where=asked.held > 0.0)
    cut = np.minimum(np.minimum(wanted, room), settings.max_batch_cap)
    return np.maximum(np.minimum(cut, np.floor(told)), 1.0), room < 1.0


def queue(max_queue: Floats) -> Floats:
    """Return the bound of a replica's queue [requests]: 0 in the data says that there is none."""
    return np.where(max_queue > 0.0, max_queue, np.inf)


def perf(given: PerfColumns) -> PerfColumns:
    """Return *given* with the fixed time of our latency model, in the place of the sum's, and all
    of it a token instead of a step.

    A step of speculative decoding computes as many tokens as it adds, but launches, and reads
    weights and KV cache, once for them: by the token that is so much less. A prompt takes a whole
    step still, and waits for whole ones; what that is more goes to the overhead, as of a small
    batch.
    """
    steps = 1.0 / given.per_step
    whole = (1.0 - steps) * given.fixed * (WAITS + 1.0 + given.ahead)
    return replace(
        given,
        alpha=steps * given.fixed,
        gamma=steps * given.gamma,
        launch=steps * given.launch,
        experts=steps * given.experts,
        sequence=steps * given.sequence,
        unread=given.unread**given.per_step,
        overhead=given.overhead + whole,
    )


def asked(given: ServerColumns) -> ServerColumns:
    """Return *given* without targets on what there is not: one token has no time to the next. Of
    two bounds that exclude each other the upper one holds.
    """
    return replace(
        given,
        slo_itl=np.where(given.out_tokens < 2.0, 0.0, given.slo_itl),
        least=np.minimum(given.least, given.most),
    )


def need(asked: ServerColumns) -> Floats:
    """Return the rate that the replicas of a server must take together [requests/ms].

    Output tokens at the lower of a TPS target and the demand (semantics of slo-tps) come with the
    load; the target's margin bounds the rate of a replica.
    """
    return asked.rate_rpm / MS_PER_MIN


def idle(pairs: Pairs, max_batch: Floats) -> tuple[Floats, Floats, Floats]:
    """Return ITL and TTFT of a lone request [ms], and no rate: without load none was sought."""
    perf, asked = pairs.perf, pairs.asked
    read = perf.gamma * (asked.in_tokens + asked.out_tokens / 2.0)
    itl = perf.sequence + iteration_time(
        perf, compute=perf.beta, read=read - perf.experts * perf.unread
    )
    prefill = perf.sequence + iteration_time(
        perf,
        compute=perf.beta
        * (asked.in_tokens - asked.cached)
        * (1.0 + perf.attention * (asked.in_tokens + asked.cached) / 2.0),
        read=perf.gamma * asked.in_tokens,
    )
    ttft = perf.overhead + prefill + itl
    return itl, ttft, np.zeros_like(max_batch)


def invalid(columns: ReplicaColumns) -> Bools:
    """Return that no parameters are beyond the model."""
    return np.zeros(len(columns), dtype=np.bool_)


def highest_rates(
    columns: ReplicaColumns,
    targets: Targets,
    *,
    percentile: Floats,
    utilisation_max: float,
    guess: Floats,
) -> Limits:
    """Return the highest rates at which the share *percentile* of requests meets the latencies."""
    limits = no_limits(len(columns))
    for rows in tail_blocks(columns.max_batch):
        tail, asked = make_tail(columns.take(rows)), percentile[rows]
        found = highest_rates_by_share(
            tail,
            targets.take(rows),
            asked,
            utilisation_max=utilisation_max,
            guess=guess[rows],
        )
        limits.set(rows, found)
    return limits


def count_replicas(
    *,
    share: Floats,
    least: Floats,
    now: Floats,
    settings: OptimizerSettings,
) -> Floats:
    """Return how many replicas take the load; the present number if a load that is higher by the
    hysteresis would need as many.

    There is none upward: replicas that take more than they should miss their targets.
    """
    wanted = np.maximum(np.ceil(share * (1.0 - ROUNDING)), np.maximum(least, 1.0))
    most = np.ceil(share * (1.0 + settings.hysteresis) * (1.0 - ROUNDING))
    return np.where((now >= wanted) & (now <= most), now, wanted)


def lower_itl(table: CandidateTable, rows: Rows) -> Floats:
    """Return what decides between options of equal score: the latency of a token."""
    return table.means(rows).itl


def no_weight(priority: Sequence[int]) -> None:
    """Return nothing: a higher class comes first, whatever that costs a lower one."""


def part_values(table: CandidateTable, rows: Rows, replicas: Ints) -> Floats:
    """Return the value of each row with so many replicas: its own cost, and its own transition."""
    return transition_value(
        table.asked.take(rows),
        accelerator=table.accelerator[rows],
        replicas=replicas,
        cost=table.unit_costs[rows] * replicas,
    )


OURS = Rules(
    name="ours",
    in_force=as_set,
    flags=all_flags,
    size=size_all,
    absent_load=None,
    present_cost=present_cost,
    seen_batch=seen_batch,
    batch=batch,
    queue=queue,
    perf=perf,
    asked=asked,
    need=need,
    idle=idle,
    invalid=invalid,
    highest_rates=highest_rates,
    counted_rate=None,
    count_replicas=count_replicas,
    tie_break=lower_itl,
    weight=no_weight,
    pick_part=largest_share,
    idle_dropped=None,
    part_values=part_values,
    tune=tune,
    why_unserved=why_unserved,
)
