"""Sizing of one server on one accelerator: batch, rate, replicas, reasons; ours, and where asked
for the original's.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop.optimizer.front import SizingCache, optimize
from loop.optimizer.means import means_at
from loop.optimizer.model.queueing import analyze, make_model
from loop.optimizer.model.steady import full_batch_rate
from loop.optimizer.model.tail import make_tail
from loop.optimizer.model.tail_rates import SAFETY
from loop.optimizer.model.within import make_goals, shares_within
from loop.optimizer.rules import OptimizerSettings, Rules
from loop.optimizer.rules.go_2025 import GO_2025
from loop.optimizer.rules.go_today import GO_TODAY
from loop.optimizer.rules.ours import OURS
from loop.optimizer.sizing import size_all
from loop.optimizer.table import GOOD, CandidateTable, Means
from loop.spec import Allocation, ServerData, SystemData
from loop.types import Load
from tests.loop.small_systems import (
    LATENCIES,
    LOADS,
    server,
    several_servers,
    small_system,
)

PLAIN = OptimizerSettings(rules=OURS, solver="greedy", hysteresis=0.0)
COMPAT = OptimizerSettings(solver="greedy", rules=GO_TODAY)


def table(
    data: SystemData, settings: OptimizerSettings = PLAIN, cache: SizingCache | None = None
) -> CandidateTable:
    """Return the candidates of all servers of *data*."""
    cache = SizingCache() if cache is None else cache
    return size_all(data, settings, servers=list(data.servers.values()), cache=cache)


def row(found: CandidateTable, accelerator: str = "H100") -> int:
    """Return the row of the first server on *accelerator*."""
    index = found.accelerators.index(accelerator)
    return next(
        int(k) for k in range(found.start[0], found.start[1]) if found.accelerator[k] == index
    )


def everyone(found: CandidateTable) -> Means:
    """Return the mean latencies of all candidates."""
    return found.means(np.arange(len(found.server)))


def test_replicas_take_the_load_within_the_targets_less_headroom() -> None:
    """The whole of sizing: each replica gets its share, and meets the targets at it."""
    found = table(small_system(server(rpm=3000.0), itl_ms=60.0))
    for accelerator in LATENCIES:
        k = row(found, accelerator)
        assert found.verdict[k] == GOOD
        assert found.means(np.array([k])).itl[0] <= 0.9 * 60.0 * (1.0 + 1e-5)
        assert found.means(np.array([k])).ttft[0] <= 0.9 * 800.0 * (1.0 + 1e-5)
        assert found.replicas[k] * found.rate_max[k] >= found.need[k] * (1.0 - 1e-9)
        assert (found.replicas[k] - 1) * found.rate_max[k] < found.need[k]


def test_the_overhead_is_part_of_the_time_to_the_first_token_and_of_nothing_else() -> None:
    """A client waits for it, the engine does not: only the TTFT target gets tighter."""
    bare = small_system(server(rpm=3000.0), itl_ms=60.0)
    slow = replace(
        bare, perf={key: replace(one, overhead_ms=8.0) for key, one in bare.perf.items()}
    )
    one, other = table(bare), table(slow)
    assert everyone(other).ttft == pytest.approx(everyone(one).ttft + 8.0)
    assert (everyone(other).itl == everyone(one).itl).all()
    tight = {
        key: replace(each, slo_ttft_ms=60.0)
        for key, each in bare.classes["Premium"].targets.items()
    }
    classes = {"Premium": replace(bare.classes["Premium"], targets=tight)}
    k = row(one)
    rates = [table(replace(data, classes=classes)).rate_max[k] for data in (bare, slow)]
    assert rates[1] < rates[0]


def test_the_go_optimizer_knows_no_overhead() -> None:
    """Its tools ignore the key, and --compat must answer as they do."""
    bare = small_system(
        server(rpm=3000.0), server(name="idle", rpm=0.0, min_replicas=1), itl_ms=60.0
    )
    slow = replace(
        bare, perf={key: replace(one, overhead_ms=8.0) for key, one in bare.perf.items()}
    )
    for rules in (GO_TODAY, GO_2025):
        settings = replace(COMPAT, rules=rules)
        one, other = (
            rules.size(data, settings, servers=list(data.servers.values()), cache=SizingCache())
            for data in (bare, slow)
        )
        assert (everyone(one).ttft == everyone(other).ttft).all()
        assert (one.replicas == other.replicas).all()


def test_a_roofline_is_sized_to_its_targets() -> None:
    """The search for the highest rate has to end on the target, whatever the latency model."""
    bare = small_system(server(rpm=30_000.0), itl_ms=60.0)
    for p in (1.0, 1.3, 2.0):
        perf = {key: replace(one, launch_ms=1.0, p=p) for key, one in bare.perf.items()}
        found = table(replace(bare, perf=perf))
        assert (found.verdict == GOOD).all()
        tail, asked = make_tail(found.columns), found.asked
        goals = make_goals(tail, ttft=asked.slo_ttft, itl=asked.slo_itl)
        at = shares_within(tail, found.rate_max / SAFETY, goals)
        full = found.rate_max == pytest.approx(PLAIN.utilisation_max * full_batch_rate(tail))
        assert ((np.abs(at.both - 0.95) < 2e-3) | full).all()


@pytest.mark.parametrize("out_tokens", [1.0, 1.5])
def test_an_answer_of_one_token_meets_the_time_between_tokens(out_tokens: float) -> None:
    """Prefill halves, classifiers and embeddings have nothing between tokens, and the scores count
    the target as met: sizing may not be bound by it. The Go optimizer is.
    """
    one = server(rpm=120.0, tokens=(4000.0, out_tokens))
    with_it, without = (small_system(one, itl_ms=itl_ms, ttft_ms=500.0) for itl_ms in (5.0, 0.0))
    assert (table(with_it).rate_max == table(without).rate_max).all()
    assert (table(with_it).verdict == table(without).verdict).all()
    assert (table(with_it, COMPAT).rate_max != table(without, COMPAT).rate_max).any()
    two = small_system(server(rpm=120.0, tokens=(4000.0, 2.0)), itl_ms=5.0, ttft_ms=500.0)
    assert (table(two).rate_max != table(without).rate_max).any()


def test_less_headroom_needs_no_more_replicas() -> None:
    """Headroom is a margin on the targets, and costs what it costs."""
    data = small_system(server(rpm=3000.0), itl_ms=9.0)
    wide, none = (table(data, replace(PLAIN, headroom=headroom)) for headroom in (0.25, 0.0))
    assert wide.replicas[row(wide)] > none.replicas[row(none)]


def test_the_original_offers_replicas_more_than_they_serve() -> None:
    """Its queue is bounded at 0 and it counts by what is left after loss: up to 12 % of requests
    are turned away.
    """
    data = small_system(server(rpm=3000.0, max_batch=8), itl_ms=40.0)
    for how, least, most in ((COMPAT, 0.02, 1.0), (PLAIN, 0.0, 0.0)):
        found = table(data, how)
        k = row(found)
        model = make_model(found.columns.take(np.array([k])))
        loss = analyze(model, np.array([found.need[k] / found.replicas[k]])).loss[0]
        assert least <= loss <= most


def test_a_bounded_queue_loses_at_most_what_the_setting_allows() -> None:
    """Requests that are turned away are not served, whatever the others' latencies."""
    data = small_system(server(rpm=3000.0, max_batch=8, max_queue=2), itl_ms=40.0)
    found = table(data)
    k = row(found)
    model = make_model(found.columns.take(np.array([k])))
    assert analyze(model, np.array([found.need[k] / found.replicas[k]])).loss[0] <= 0.01 * (
        1.0 + 1e-5
    )


def test_the_load_counts_beside_a_tps_target() -> None:
    """The original sizes for the target alone: far too much for little load, far too little for
    much.
    """
    little, much = (
        small_system(server(rpm=rpm), itl_ms=0.0, ttft_ms=0.0, tps=20_000.0)
        for rpm in (10.0, 18_000.0)
    )
    ours = [int(found.replicas[row(found)]) for found in (table(little), table(much))]
    theirs = [
        int(found.replicas[row(found)]) for found in (table(little, COMPAT), table(much, COMPAT))
    ]
    assert theirs[0] == theirs[1]
    assert ours[0] == 1 < theirs[0]
    assert ours[1] > theirs[1]
    found = table(little)
    full = full_batch_rate(make_tail(found.columns))
    assert found.rate_max[row(found)] == pytest.approx(PLAIN.utilisation_max * full[row(found)])


def test_a_batch_of_one_is_served() -> None:
    """The original calls the model invalid where one place and no queue make one state."""
    data = small_system(server(max_batch=1))
    assert table(data).verdict[row(table(data))] == GOOD
    assert "invalid" in optimize(data, COMPAT).unserved["s"].text


def test_memory_caps_the_batch() -> None:
    """A request holds its prompt and, on the mean, half of a long output, and half a block; what
    does not fit cannot run.
    """
    found = table(small_system(server(), kv_tokens=6800))
    assert found.columns.max_batch[row(found)] == 7  # 10 of 512 + 160 + 8 tokens, but they vary
    fixed = small_system(server(), kv_tokens=6480)
    fixed = replace(fixed, servers={"s": replace(fixed.servers["s"], token_cv=0.0)})
    assert table(fixed).columns.max_batch[row(found)] == 9  # each of 512 + 128 + 8, and older ones
    assert found.wanted_batch[row(found)] == 64
    compat = table(small_system(server(), kv_tokens=6400), COMPAT)
    assert compat.columns.max_batch[row(compat)] == 64


def test_long_answers_shrink_a_batch_only_where_the_memory_is_not_known() -> None:
    """A batch of 64 was seen at 256 tokens. At 2048 that is one of 8 by the tokens, and of 64 where
    so many are known to fit; the Go optimizer knows no memory.
    """
    long = server(tokens=(64.0, 2048.0), rpm=60.0)

    def batches(kv_tokens: int | None, rules: Rules = OURS) -> set[int]:
        system = small_system(long, kv_tokens=kv_tokens, itl_ms=100.0)
        settings = OptimizerSettings(rules=rules)
        table = size_all(system, settings, servers=[long], cache=SizingCache())
        return set(table.columns.max_batch.tolist())

    assert batches(None) == {8}
    assert batches(10_000_000) == {64}
    assert all(8 < batch < 64 for batch in batches(60_000))
    assert batches(10_000_000, GO_TODAY) == {8}


def test_a_request_that_never_fits_says_so() -> None:
    """More replicas would not help."""
    answer = optimize(small_system(server(), kv_tokens=600), PLAIN)
    assert "does not fit the KV cache" in answer.unserved["s"].text


def test_the_cap_on_the_batch_is_told() -> None:
    """Short outputs make the derived batch explode; where it is cut the reason says by what."""
    data = small_system(server(tokens=(512.0, 2.0), rpm=60.0))
    answer = optimize(data, PLAIN)
    assert "batch cut from 8192 to 512 by the cap of 512" in answer.allocations["s"].why.text


def test_the_cap_on_replicas_gives_up_with_the_figure() -> None:
    """A target barely above the idle latency makes a million replicas look feasible."""
    data = small_system(server(rpm=3000.0))
    floor = table(data).best_itl[row(table(data), "H100")]
    tight = small_system(server(rpm=30_000.0), itl_ms=float(floor) * 1.0001, unlimited=True)
    assert "more than the cap of 1000" in optimize(tight, PLAIN).unserved["s"].text
    assert optimize(tight, replace(PLAIN, replicas_cap=1_000_000)).allocations["s"].replicas > 1000


def test_a_target_below_the_best_attainable_says_both() -> None:
    """A user sees how far the target is out of reach, on the accelerator that comes nearest."""
    reason = optimize(small_system(server(), itl_ms=5.0), PLAIN).unserved["s"].text
    assert reason.startswith("slo-itl 5 ms below the best attainable 6.")
    less = optimize(small_system(server(), itl_ms=5.0), replace(PLAIN, headroom=0.1))
    assert "slo-itl 5 ms (less 10% headroom) below" in less.unserved["s"].text
    assert "on H100" in reason
    assert (
        "slo-ttft 20 ms" in optimize(small_system(server(), ttft_ms=20.0), PLAIN).unserved["s"].text
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"model": "unknown"}, "no target for model 'unknown' in service class 'Premium'"),
        ({"service_class": "None"}, "no service class 'None'"),
        ({"current": Allocation()}, "no load is known"),
        (
            {"keep_accelerator": True, "now": ("B200", 1)},
            "no perf data of model 'm' on 'B200', which it must keep",
        ),
    ],
)
def test_a_server_without_candidates_says_what_is_missing(
    fields: dict[str, object], reason: str
) -> None:
    """And the others are served all the same."""
    data = small_system(server("broken", **fields), server("well"))  # type: ignore[arg-type]
    answer = optimize(data, PLAIN)
    assert {name: why.text for name, why in answer.unserved.items()} == {"broken": reason}
    assert set(answer.allocations) == {"well"}


def test_a_model_without_perf_data_says_so() -> None:
    """The class may have a target for it all the same."""
    data = replace(small_system(server()), perf={})
    assert (
        optimize(data, PLAIN).unserved["s"].text == "no perf data of model 'm' on any accelerator"
    )


def test_no_load_needs_nothing_or_the_least() -> None:
    """Scaling to zero is an answer, and not a failure to find one."""
    none, one = (small_system(server(rpm=0.0, min_replicas=least)) for least in (0, 2))
    found = optimize(none, PLAIN).allocations["s"]
    assert found.why.kind == "no-load"
    assert (found.accelerator, found.replicas, found.cost_cents_per_h) == ("", 0, 0.0)
    found = optimize(one, PLAIN).allocations["s"]
    assert (found.accelerator, found.replicas) == ("L4", 2)
    assert "dropped" in optimize(none, COMPAT).unserved["s"].text


def test_the_least_number_of_replicas_holds_under_load() -> None:
    """Two for safety stay two when one would do."""
    found = table(small_system(server(rpm=1.0, min_replicas=2)))
    assert found.replicas[row(found)] == 2


def test_fractional_tokens_are_sized_like_whole_ones_nearby() -> None:
    """The loop measures means; the message of the original holds integers."""
    rates = [
        table(small_system(server(tokens=(512.0 + d, 256.0 + d)))).rate_max[0]
        for d in (-0.25, 0.0, 0.25)
    ]
    assert rates[0] > rates[1] > rates[2]
    # A batch of 63 for one of 64.
    assert rates[2] == pytest.approx(rates[0], rel=0.02)


def test_the_present_cost_comes_from_the_prices_where_nobody_tells_it() -> None:
    """The collector of the original sends 0, and so makes any change look like 1.1 times its whole
    cost.
    """
    data = small_system(server(rpm=3000.0, now=("H100", 1)))
    ours, theirs = table(data), table(data, COMPAT)
    k = row(ours)
    assert ours.value[k] == pytest.approx(300.0 * (ours.replicas[k] - 1))
    assert theirs.value[k] == pytest.approx(300.0 * theirs.replicas[k])


def test_the_cache_answers_as_the_search_does_and_stays_bounded() -> None:
    """Speed must not change an answer, nor eat the memory of a loop that runs for months."""
    cache = SizingCache(limit=10)
    data = small_system(*(server(f"s{i}", tokens=(500.0 + i, 256.0)) for i in range(5)))
    first = table(data, cache=cache)
    assert len(cache) <= 10
    again = table(data, cache=cache)
    assert again.rate_max.tolist() == first.rate_max.tolist()
    assert table(data).rate_max.tolist() == pytest.approx(first.rate_max.tolist(), rel=1e-6)


@given(load=LOADS, more=st.floats(1.0, 3.0))
@pytest.mark.costly
def test_more_load_never_needs_fewer_replicas(
    load: tuple[float, tuple[float, float]], more: float
) -> None:
    """On any accelerator, for any tokens."""
    rpm, tokens = load
    low, high = (table(small_system(server(rpm=rate, tokens=tokens))) for rate in (rpm, rpm * more))
    assert (high.replicas >= low.replicas).all()


@pytest.mark.costly
@given(load=LOADS, tighter=st.floats(0.5, 1.0), which=st.sampled_from(["itl_ms", "ttft_ms"]))
def test_a_tighter_target_is_never_cheaper(
    load: tuple[float, tuple[float, float]], tighter: float, which: str
) -> None:
    """Where both can be met."""
    base = {"itl_ms": 30.0, "ttft_ms": 1500.0}
    loose, tight = (
        table(small_system(server(rpm=load[0], tokens=load[1]), **targets))
        for targets in (base, {**base, which: base[which] * tighter})
    )
    both = (loose.verdict == GOOD) & (tight.verdict == GOOD)
    assert (tight.replicas[both] >= loose.replicas[both]).all()
    assert not ((loose.verdict != GOOD) & (tight.verdict == GOOD)).any()


def test_loads_are_taken_from_the_current_allocation() -> None:
    """The loop replaces it by what it has seen."""
    quiet = server(rpm=10.0)
    busy = replace(
        quiet,
        current=replace(
            quiet.current, load=Load(rate_rpm=9000.0, in_tokens=512.0, out_tokens=256.0)
        ),
    )
    assert table(small_system(busy)).replicas[0] > table(small_system(quiet)).replicas[0]


@pytest.mark.costly
@given(data=st.data())
def test_a_table_of_which_few_have_changed_is_as_one_made_anew(data: st.DataObject) -> None:
    """Servers that go idle or are to stay have other rows, and of nobody a digit may change."""
    servers = data.draw(several_servers(most=6))
    cache = SizingCache()
    table(small_system(*servers), cache=cache)
    place = data.draw(st.integers(0, len(servers) - 1))
    (other,) = data.draw(several_servers(most=1))
    keep, queue = data.draw(st.booleans()), data.draw(st.sampled_from([0, 20]))
    servers[place] = replace(
        other, name=servers[place].name, keep_accelerator=keep, max_queue=queue
    )
    found, anew = table(small_system(*servers), cache=cache), table(small_system(*servers))
    rows = np.flatnonzero(anew.verdict == GOOD)
    for one in (found, anew):
        assert one.servers == tuple(server.name for server in servers)
    for name in ("server", "accelerator", "replicas", "score", "rate_max", "binding", "start"):
        assert np.array_equal(getattr(found, name), getattr(anew, name)), name
    seen, meant = found.means(rows), anew.means(rows)
    for name in ("itl", "ttft", "rho"):
        assert np.array_equal(getattr(seen, name), getattr(meant, name)), name


@pytest.mark.costly
@given(servers=several_servers(most=5), queues=st.lists(st.sampled_from([0, 3, 50]), min_size=5))
def test_means_of_a_replica_do_not_depend_on_those_beside_it(
    servers: list[ServerData], queues: list[int]
) -> None:
    """A cycle looks at a few of them, and must find what one that looks at all of them does."""
    busy = [
        replace(one, max_queue=queue, max_batch=7 + queue)
        for one, queue in zip(servers, queues, strict=False)
    ]
    found = table(small_system(*busy))
    rows = np.flatnonzero((found.verdict == GOOD) & (found.need > 0.0))
    columns, rate = found.columns.take(rows), found.need[rows] / found.replicas[rows]
    together = means_at(columns, rate, SizingCache())
    for k in range(len(rows)):
        alone = means_at(columns.take(np.array([k])), rate[[k]], SizingCache())
        assert alone.itl[0] == together.itl[k]
        assert alone.ttft[0] == together.ttft[k]
        assert alone.rho[0] == together.rho[k]
