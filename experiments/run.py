"""One run: wires world, load and loop in virtual time, lets it go, and scores the truth of what
happened.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import simpy

from emulator.to_sim import SimFeeder
from experiments.columns import Columns, Window, scored_window
from experiments.config import RunConfig
from experiments.cycle_lines import CycleLines, FileOfLines, PackedLines
from experiments.requests import MemoryRequests, Requests, SpooledRequests
from experiments.scores import Scores, score_requests
from experiments.scores.changes import Desired, count_changes, count_reversals
from experiments.scores.costs import PRICE, pod_costs, prices_usd_per_h
from experiments.sources import Sources, read_sources
from loop.backends.sim import SimBackend
from loop.clocks import MonotonicClock
from loop.controller import Controller, ControllerSettings
from loop.data import Data, DataSource, FixedData
from loop.drivers import SimDriver
from loop.optimizer.model.compiled import is_kept
from loop.optimizer.model.within import compiled_estimate
from loop.spec import SloTarget
from loop.types import CycleRecord
from twin.engine.compiled.cache import broken, installed
from twin.engine.compiled.machine_code import ENGINE, has_code
from twin.garbage import rarely_collected
from twin.kernel import LOAD, at
from twin.request import ROW, Outcome, RequestLog
from twin.serving.cluster import WAITING_MAX, Cluster
from twin.spec import SpecError
from twin.spool import Spool

CYCLES = "cycles.jsonl"

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunResult:
    """Everything a run left: records of the cycles as lines of JSON values, requests, pods, scores.

    requests and pods are columns whose `server` is an index into names; targets are in that order
    too. Of a run that writes files, requests and cycles stay in files and are read when asked for.
    compiled_share is the share of the requests that the compiled engine served. It and cpu_s,
    the CPU time it took, are the only figures here (but for `ts` and `timing` in the records) that
    do not follow from config.
    """

    config: RunConfig
    run_id: str
    names: tuple[str, ...]
    targets: tuple[SloTarget | None, ...]
    window: Window
    cycles: CycleLines
    requests: Requests
    pods: Columns
    summary: Scores
    notes: tuple[str, ...]
    compiled_share: float
    cpu_s: float

    @property
    def timings(self) -> dict[str, float]:
        """Return what depends on the machine: CPU time, and requests simulated per CPU second."""
        return {
            "cpu_s": self.cpu_s,
            "requests_per_cpu_s": self.requests.rows / self.cpu_s,
        }


def run(config: RunConfig, *, progress: Progress | None = None) -> RunResult:
    """Simulate *config* and return what happened; *progress* is told the share that is done, after
    each cycle.

    Equal configurations (and data) give equal results. Raise SpecError, before anything is
    simulated, for bad input.
    """
    return simulate(read_sources(config), progress=progress)


def simulate(
    sources: Sources, *, progress: Progress | None = None, directory: Path | None = None
) -> RunResult:
    """Simulate what was read, see `run`. What it leaves is kept in memory, or in *directory*:
    cycles in a file CYCLES, requests in files without a name.
    """
    return _prepared(sources, progress=progress, cycles_in=directory, requests_in=directory)


def simulate_for_figures(sources: Sources, *, long_requests: float | None = None) -> RunResult:
    """Simulate what was read, see `run`, for a caller that takes some figures of it. If about
    *long_requests* are to come (None: as many as are worth it), they are kept in files without a
    name beside other temporary ones, if they can be: processes that run such days side by side are
    not to fill the memory.
    """
    place: Path | None = None
    if _expected_requests(sources) >= (LONG_REQUESTS if long_requests is None else long_requests):
        with suppress(FileNotFoundError):  # no directory for such files
            place = Path(tempfile.gettempdir())
    return _prepared(sources, progress=None, cycles_in=None, requests_in=place)


def _prepared(
    sources: Sources,
    *,
    progress: Progress | None,
    cycles_in: Path | None,
    requests_in: Path | None,
) -> RunResult:
    fast = chosen_fast(sources)
    with rarely_collected(), compiled_estimate(wanted=fast and _estimate_pays(sources)):
        return _simulated(
            sources, fast=fast, progress=progress, cycles_in=cycles_in, requests_in=requests_in
        )


def _simulated(
    sources: Sources,
    *,
    fast: bool,
    progress: Progress | None,
    cycles_in: Path | None,
    requests_in: Path | None,
) -> RunResult:
    begin_s = time.process_time()
    config, end_s = sources.config, sources.config.duration_s
    assert config.period_s is not None, "resolved"
    env = simpy.Environment()
    spool = Spool(requests_in, ROW) if requests_in is not None else None
    cluster, feeder = start_world(
        env,
        sources,
        until_s=end_s,
        compiled=fast,
        requests=RequestLog(spool),
    )
    controller = Controller(
        backend=SimBackend(cluster, metrics=config.metrics, offered_loads=feeder.offered_loads),
        policy=sources.policy,
        data=_data(config),
        clock=MonotonicClock(),
        settings=ControllerSettings(budget_usd_per_h=config.budget_usd_per_h),
    )
    cycles = PackedLines() if cycles_in is None else FileOfLines(cycles_in / CYCLES)
    tell = partial(_tell, cycles=cycles, progress=progress or _drop, end_s=end_s)
    SimDriver(
        env,
        controller,
        period_s=config.period_s,
        on_record=tell,
        keep=False,
        advance=cluster.catch_up,
    )
    env.run(until=end_s)
    requests = (
        _in_memory(cluster)
        if spool is None or requests_in is None
        else _spooled(cluster, spool, requests_in)
    )
    return _result(sources, cluster, cycles, requests, begin_s=begin_s)


def _data(config: RunConfig) -> Data:
    """Return the data of the loop. Nobody edits a file within a run of seconds, and its name stands
    for what was in the files when it began: only the dynamic mode looks at them each cycle.
    """
    source = DataSource(config.data, dynamic=config.dynamic)
    if config.dynamic:
        return source
    reading = source.load()
    return FixedData(reading.system, warnings=reading.warnings)


def start_world(
    env: simpy.Environment,
    sources: Sources,
    *,
    until_s: float | None,
    compiled: bool = False,
    requests: RequestLog | None = None,
) -> tuple[Cluster, SimFeeder]:
    """Put the cluster, its load (to *until_s*, None: for ever) and what befalls its capacity into
    *env*, at time 0. *compiled* lets the compiled engine serve the requests; *requests* is the log
    of their ends, if it is to be a certain one.
    """
    config = sources.config
    assert config.interval_s is not None, "resolved"
    cluster = Cluster(
        env,
        sources.world,
        seed=np.random.SeedSequence(config.seed),
        # A world without an end must not fill the memory with its past.
        waiting_max=WAITING_MAX if until_s is None else None,
        compiled=compiled,
        requests=requests,
    )
    feeder = SimFeeder(
        env,
        cluster.submit,
        sources.loads,
        interval_s=config.interval_s,
        until_s=until_s,
        expect=cluster.expect,
        watch=cluster.watch,
    )
    for what, events in (
        (cluster.set_capacity, sources.capacity_events),
        (cluster.fail_node, sources.node_failures),
    ):
        for event in events:
            at(env, event.t_s, priority=LOAD, action=partial(what, event.type, event.gpus))
    return cluster, feeder


def _tell(record: CycleRecord, *, cycles: CycleLines, progress: Progress, end_s: float) -> None:
    cycles.add(record)
    progress(record.now_s / end_s)


def _drop(_share: float) -> None:
    """Take the progress of a caller that wants none."""


def _result(
    sources: Sources,
    cluster: Cluster,
    cycles: CycleLines,
    requests: Requests,
    *,
    begin_s: float,
) -> RunResult:
    window = scored_window(sources.config.duration_s, warm_up_s=sources.warm_up_s)
    pods = cluster.pods.frame()
    pods |= {PRICE: prices_usd_per_h(pods, sources.world.accelerators)}
    return RunResult(
        config=sources.config,
        run_id=sources.run_id,
        names=sources.names,
        targets=sources.targets,
        window=window,
        cycles=cycles,
        requests=requests,
        pods=pods,
        summary=summarise(requests, pods, cycles, sources=sources, window=window),
        notes=(
            *sources.notes,
            *_not_fast(sources, cluster),
            *_stopped(cycles),
            *_undecided(sources.config, cycles),
        ),
        compiled_share=cluster.compiled_share,
        cpu_s=time.process_time() - begin_s,
    )


def _stopped(cycles: CycleLines) -> Iterator[str]:
    """Yield a note if cycles of a run did not go through."""
    if cycles.stopped:
        yield (
            f"{cycles.stopped} of {len(cycles)} cycles did not go through and changed nothing: "
            f"{cycles.stop}"
        )


def _undecided(config: RunConfig, cycles: CycleLines) -> Iterator[str]:
    """Yield a note if the run was over before its first cycle: no policy had a part in it."""
    if not len(cycles):
        yield (
            f"nothing was decided: the first cycle is at {config.period_s:g} s, and the run ends "
            f"at {config.duration_s:g} s"
        )


def require_decisions(result: RunResult) -> None:
    """Raise SpecError if no cycle went through: it would be taken for a policy that holds."""
    if result.cycles and result.cycles.stopped == len(result.cycles):
        raise SpecError(f"none of its cycles went through: {result.cycles.stop}")


def _in_memory(cluster: Cluster) -> MemoryRequests:
    """Return every request of the run, server by server in order of arrival; `generated` is how
    many tokens the unfinished ones had made at the end.
    """
    _, _, made = cluster.record_unfinished()
    # In the order of the records sums would differ in their last digits: it depends on when a
    # replica was asked what ended on it.
    columns, order = cluster.requests.hand_over()
    ended = len(order) - len(made)
    generated = np.where(columns["outcome"] == Outcome.FINISHED, columns["output_tokens"], 0)
    # The last that were recorded, wherever they stand now.
    places = np.flatnonzero(order >= ended)
    generated[places] = made[order[places] - ended]
    return MemoryRequests({**columns, "generated": generated})


def _spooled(cluster: Cluster, spool: Spool, directory: Path) -> SpooledRequests:
    """Return every request of the run, those that are still in memory handed on, too."""
    servers, numbers, generated = cluster.record_unfinished()
    cluster.requests.settle(all_rows=True)
    order = np.lexsort((numbers, servers))
    found, first = np.unique(servers[order], return_index=True)
    made = zip(
        np.split(numbers[order], first[1:]), np.split(generated[order], first[1:]), strict=True
    )
    return SpooledRequests(
        spool,
        servers=len(cluster.spec.servers),
        made=dict(zip(found.tolist(), made, strict=False)),
        directory=directory,
    )


def summarise(
    requests: Requests,
    pods: Columns,
    cycles: CycleLines,
    *,
    sources: Sources,
    window: Window,
) -> Scores:
    """Return the scores of a run: overall figures, and those of each server under "servers"."""
    names = sources.names
    overall, servers = score_requests(requests, names=names, targets=sources.targets, window=window)
    costs = pod_costs(pods, names=names, accelerators=sources.world.accelerators, window=window)
    desired = cycles.desired
    for name, scores in servers.items():
        scores["cost_cents_per_h"] = costs.cents_by_server[name] / window.hours
        scores["cost_usd_per_h"] = scores["cost_cents_per_h"] / 100.0
        scores.update(_restlessness(desired.get(name, []), window))
    return {
        **overall,
        **costs.summary(),
        **{
            figure: sum(scores[figure] for scores in servers.values())
            for figure in ("changes_per_h", "reversals_per_h")
        },
        "cycles": len(cycles),
        "cycles_failed": cycles.failed,
        "warm_up_s": window.start_s,
        "scored_s": window.length_s,
        "servers": servers,
    }


def _restlessness(desired: Sequence[Desired], window: Window) -> Scores:
    return {
        "changes_per_h": count_changes(desired, window) / window.hours,
        "reversals_per_h": count_reversals(desired, window) / window.hours,
    }


# It spares some 9 µs of CPU a request. To load what was compiled before takes 0.04 s, to compile
# some 15 s, and 9 s for the estimate of tails: from so many requests on it is quicker.
LOADED_PAYS, COMPILED_PAYS = 10_000, 2_500_000


LONG_REQUESTS = 1_000_000
"""So many take 50 MB, and three times as much while they are put in order and scored."""


def _not_fast(sources: Sources, cluster: Cluster) -> Iterator[str]:
    """Yield a note for each reason for which servers of a run that insists on the compiled engine
    were served by the plain one, or a note if a long run would have been by a Numba that can be
    loaded.
    """
    engine = sources.config.engine
    long = engine == "auto" and _expected_requests(sources) >= COMPILED_PAYS
    if long and installed() and not has_code(ENGINE) and broken():
        yield f"engine: served by the plain one: Numba cannot be loaded: {broken()}"
    if engine != "fast":
        return
    plain = cluster.served_plain
    for because in sorted(set(plain.values())):
        servers = ", ".join(name for name in plain if plain[name] == because)
        yield f"engine: served by the plain one, not fast: {servers} ({because})"


def chosen_fast(sources: Sources) -> bool:
    """Tell whether the compiled engine is to serve the run. Raise SpecError if it was asked for and
    cannot.
    """
    engine = sources.config.engine
    if engine == "plain":
        return False
    if not installed():
        if engine == "fast":
            raise SpecError(
                "engine: fast needs the extra of that name: pip install 'inferno-twin[fast]'"
            )
        return False
    if engine == "auto" and _expected_requests(sources) < LOADED_PAYS:
        return False
    if has_code(ENGINE):
        return True
    if engine == "fast" and broken():
        raise SpecError(f"engine: fast needs Numba, which cannot be loaded: {broken()}")
    return engine == "fast" or _compiling_pays(sources)


def _estimate_pays(sources: Sources) -> bool:
    """Tell whether a run by the compiled engine is to size by the compiled estimate."""
    return is_kept() or _compiling_pays(sources)


def _compiling_pays(sources: Sources) -> bool:
    """Tell whether the run is to wait for a compilation."""
    asked = sources.config.engine == "fast" or _expected_requests(sources) >= COMPILED_PAYS
    return asked and not broken()


def _expected_requests(sources: Sources) -> float:
    hours = sources.config.duration_s / 3600.0
    return sum(60.0 * hours * load.nominal.rate_rpm for load in sources.loads)
