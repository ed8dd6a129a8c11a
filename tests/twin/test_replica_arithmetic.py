"""The closed forms that the replica rests on, each against the loop that it replaces."""

from __future__ import annotations

from math import inf, nextafter

from hypothesis import example, given
from hypothesis import strategies as st

from twin.engine.kv_cache import BlockTable
from twin.engine.latency import boundaries_before, duration_s
from twin.engine.telemetry import ITL_BOUNDS_S, ReplicaTelemetry, add_progression

SECONDS = st.floats(1e-4, 10.0)
STEPS = st.one_of(st.just(0.0), st.floats(1e-9, 1.0))


@given(c0_s=SECONDS, c1_s=STEPS, k=st.integers(0, 200))
def test_a_segment_lasts_as_long_as_its_iterations(c0_s: float, c1_s: float, k: int) -> None:
    """T(k) = k·c0 + c1·k·(k-1)/2 replaces k additions."""
    total = sum(c0_s + c1_s * j for j in range(k))
    assert abs(duration_s(k, c0_s, c1_s) - total) <= 1e-12 * total


@given(
    start_s=st.one_of(st.just(0.0), st.floats(0, 1e6)),
    c0_s=SECONDS,
    c1_s=STEPS,
    k=st.integers(0, 10**7),
    towards_s=st.sampled_from([-inf, 0.0, inf]),
)
@example(start_s=0.0, c0_s=0.001, c1_s=0.001, k=6, towards_s=inf)  # the root is rounded to below 6
@example(start_s=0.0, c0_s=0.25, c1_s=1.0, k=0, towards_s=inf)  # 0 over 0, to the last digit
def test_an_arrival_finds_the_last_boundary_before_it(
    start_s: float, c0_s: float, c1_s: float, k: int, towards_s: float
) -> None:
    """One iteration too many or too few shifts an admission; beside a boundary, one digit of
    rounding is enough.
    """
    boundary_s = start_s + duration_s(k, c0_s, c1_s)
    now_s = nextafter(boundary_s, towards_s) if towards_s else boundary_s
    done = boundaries_before(now_s, start_s, c0_s, c1_s)
    assert done == 0 or start_s + duration_s(done, c0_s, c1_s) < now_s
    assert start_s + duration_s(done + 1, c0_s, c1_s) >= now_s


@given(
    contexts=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    block_size=st.integers(1, 17),
    spare=st.integers(0, 40),
    g=st.integers(0, 100),
    ahead=st.integers(0, 50),
)
def test_residues_know_use_demand_and_the_end_of_memory(
    contexts: list[int], block_size: int, spare: int, g: int, ahead: int
) -> None:
    """Blocks are never counted while a segment runs, so the residues must say exactly what counting
    would.
    """
    blocks_now = sum(-(-context // block_size) for context in contexts)
    table = BlockTable(blocks=blocks_now + spare, block_size=block_size)
    for context in [*contexts, 5]:
        table.join(context - g)
    table.leave(5 - g)
    n, total = len(contexts), sum(contexts)
    held = [sum(-(-(context + k) // block_size) for context in contexts) for k in range(2000)]
    assert table.used(g, n, total) == blocks_now
    assert table.used(g + ahead, n, total + n * ahead) == held[ahead]
    assert table.demand(g) == held[1] - held[0]
    left = table.iterations_left(g, n, total)
    assert held[left] <= table.blocks < held[left + 1]


@given(c0_s=SECONDS, c1_s=STEPS, k=st.integers(1, 300), n=st.integers(1, 5))
def test_a_segment_fills_the_buckets_that_its_gaps_would(
    c0_s: float, c1_s: float, k: int, n: int
) -> None:
    """The histogram of a progression must be that of its terms, across any number of bounds."""
    expected = [0] * (len(ITL_BOUNDS_S) + 1)
    for j in range(k):
        gap_s = c0_s + c1_s * j
        expected[sum(bound < gap_s for bound in ITL_BOUNDS_S)] += n
    buckets = [0] * (len(ITL_BOUNDS_S) + 1)
    add_progression(buckets, n, k, c0_s, c1_s)
    telemetry = ReplicaTelemetry()
    telemetry.decoded(n, k, c0_s, c1_s, duration_s(k, c0_s, c1_s))
    assert telemetry.itl_buckets == buckets
    # A gap that lies on a bound to the last digit may fall on either side of it.
    on_bound = sum(
        n
        for j in range(k)
        if any(abs(c0_s + c1_s * j - bound) <= 1e-12 * bound for bound in ITL_BOUNDS_S)
    )
    assert sum(abs(a - b) for a, b in zip(buckets, expected, strict=True)) <= 2 * on_bound
