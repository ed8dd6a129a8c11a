"""What an owner may rely on, each claim on a replica small enough to compute by hand."""

from __future__ import annotations

from math import inf, isnan
from typing import Any

import pytest
import simpy

from twin.engine.replica import Replica
from twin.request import Request, RequestLog
from twin.spec import LatencyModel
from twin.testing.naive_replica import ARRIVAL, Alarm, NaiveReplica

ONE_SECOND = LatencyModel(alpha_ms=1000.0, beta_ms=0.0, gamma_ms=0.0)


def make_request(
    number: int, *, prompt: int = 4, output: int = 5, arrival_s: float = 0.0
) -> Request:
    """Return a request of *prompt* and *output* tokens."""
    return Request(id=number, prompt_tokens=prompt, output_tokens=output, arrival_s=arrival_s)


class Rig:
    """A replica whose iterations last one second unless told otherwise, and what finished when."""

    def __init__(self, **settings: Any) -> None:
        self.finished: list[tuple[int, float]] = []
        self.replica = Replica(
            **{
                "latency_model": ONE_SECOND,
                "max_batch": 8,
                "on_finish": self._on_finish,
                **settings,
            }
        )

    def _on_finish(self, request: Request, finish_s: float) -> None:
        self.finished.append((request.id, finish_s))

    def submit(self, number: int, now_s: float, **tokens: int) -> Request:
        """Submit a request that must be taken."""
        request = make_request(number, arrival_s=now_s, **tokens)
        assert self.replica.submit(request, now_s) is None
        return request

    def run(self) -> list[tuple[int, float]]:
        """Run to the end of all work."""
        self.replica.advance(inf, inclusive=True)
        return self.finished


def test_the_prefill_emits_the_first_token_and_each_decode_one_more() -> None:
    """TTFT ends with the prefill and out tokens take out - 1 decodes; all scores hang on this
    count.
    """
    latency_model = LatencyModel(alpha_ms=10.0, beta_ms=1.0, gamma_ms=0.1)
    rig = Rig(latency_model=latency_model)
    request = rig.submit(1, 2.0, prompt=100, output=3)
    finishes = rig.run()
    prefill_ms, decodes_ms = 10 + 100 + 10, (10 + 1 + 10.1) + (10 + 1 + 10.2)
    assert request.first_token_s == pytest.approx(2 + prefill_ms / 1000)
    ((number, finish_s),) = finishes
    assert number == 1
    assert finish_s == pytest.approx(2 + (prefill_ms + decodes_ms) / 1000)


def test_a_client_waits_for_the_overhead_and_the_engine_does_not() -> None:
    """HTTP, tokenizer and client add to TTFT and E2E; the next iteration begins as if they were
    nothing.
    """
    slow, bare = Rig(overhead_ms=8.0, max_batch=1), Rig(max_batch=1)
    for rig in (slow, bare):
        first = rig.submit(1, 2.0, output=3)
        second = rig.submit(2, 2.0, output=1)
        rig.run()
        shift_s = 0.008 if rig is slow else 0.0
        assert first.first_token_s == pytest.approx(3.0 + shift_s)
        assert first.last_token_s == pytest.approx(5.0 + shift_s)
        assert second.first_token_s == second.last_token_s == pytest.approx(6.0 + shift_s)
    assert slow.finished == bare.finished == [(1, 5.0), (2, 6.0)]
    with_it, without = slow.replica.read(10.0), bare.replica.read(10.0)
    assert with_it.ttft_sum_s - without.ttft_sum_s == pytest.approx(2 * 0.008)
    assert with_it.e2e_sum_s - without.e2e_sum_s == pytest.approx(2 * 0.008)
    assert (with_it.itl_sum_s, with_it.queue_sum_s) == (without.itl_sum_s, without.queue_sum_s)


@pytest.mark.parametrize(
    ("scheduling", "first_s"), [("sync", (2.0, 4.0, 4.0, 8.0)), ("async", (2.0, 5.0, 5.0, 9.0))]
)
def test_what_arrives_during_an_iteration_is_in_the_next_but_one_if_plans_are_made_ahead(
    scheduling: str, first_s: tuple[float, ...]
) -> None:
    """vLLM plans an iteration while the one before it runs; an idle engine begins at once, and an
    arrival on a boundary is in the plan that is made there.
    """
    rig = Rig(scheduling=scheduling)
    requests = [rig.submit(i, t, output=20) for i, t in enumerate((1.0, 2.5, 3.0, 6.5))]
    rig.run()
    assert tuple(request.first_token_s for request in requests) == first_s


def test_an_idle_replica_begins_after_all_arrivals_of_the_instant() -> None:
    """Requests that come together are prefilled together, in whatever order the events were
    inserted.
    """
    rig = Rig()
    first, second = rig.submit(1, 5.0), rig.submit(2, 5.0)
    assert rig.replica.next_boundary_s == 5.0
    assert rig.replica.waiting == 2
    rig.run()
    assert first.first_token_s == second.first_token_s == 6.0


def test_an_arrival_on_a_boundary_is_seen_by_the_iteration_that_starts_there() -> None:
    """One that comes within an iteration waits for its end: at 3.5 until 4."""
    rig = Rig()
    rig.submit(1, 0.0, output=50)
    on_boundary, within = rig.submit(2, 3.0), rig.submit(3, 3.5)
    rig.run()
    assert on_boundary.first_token_s == 4.0
    assert within.first_token_s == 5.0


def test_a_long_prompt_is_prefilled_in_chunks_beside_the_decodes() -> None:
    """With a budget of 10 tokens one decode leaves 9, so 20 tokens take three iterations while the
    decode goes on.
    """
    rig = Rig(max_num_batched_tokens=10)
    rig.submit(1, 0.0, prompt=4, output=8)
    long = rig.submit(2, 1.0, prompt=20, output=1)
    finishes = rig.run()
    assert long.first_token_s == 4.0
    assert finishes == [(2, 4.0), (1, 8.0)]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"queue_max": 2}, "queue_full"), ({"kv_tokens": 47, "block_size": 16}, "never_fits")],
)
def test_a_request_that_cannot_be_served_is_rejected_with_its_reason(
    settings: dict[str, Any], reason: str
) -> None:
    """A full queue and a request that would preempt itself for ever are misses that must be told
    apart.
    """
    rig = Rig(**settings)
    rig.submit(1, 0.0, prompt=16, output=17)
    rig.submit(2, 0.0)
    assert rig.replica.submit(make_request(3, prompt=16, output=18), 0.0) == reason
    assert rig.replica.outstanding == 2
    rig.run()
    assert rig.replica.read(100.0).rejections == 1
    assert sorted(number for number, _ in rig.finished) == [1, 2]


def test_memory_runs_out_for_the_youngest() -> None:
    """Two of 4 + 12 tokens end with 4 blocks of 4 each and there are 6: the younger starts again
    and finishes.
    """
    rig = Rig(kv_tokens=24, block_size=4)
    old, young = rig.submit(1, 0.0, output=12), rig.submit(2, 0.0, output=12)
    finishes = rig.run()
    assert (old.preemptions, young.preemptions) == (0, 1)
    assert finishes == [(1, 12.0), (2, 15.0)]
    reading = rig.replica.read(20.0)
    assert (reading.preemptions, reading.prompt_tokens, reading.generation_tokens) == (1, 8, 24)
    assert reading.ttft_count == 2
    assert reading.itl_count == 22
    # Every gap is one second but that of the victim: its token of t = 9 is followed by that of t =
    # 13.
    assert reading.itl_sum_s == 11.0 + 14.0


def test_a_lower_max_batch_lets_the_running_ones_finish() -> None:
    """Lowering preempts nobody; the next one is admitted when fewer than the new maximum run."""
    rig = Rig(max_batch=2)
    rig.submit(1, 0.0, output=4)
    rig.submit(2, 0.0, output=6)
    third = rig.submit(3, 0.0)
    rig.replica.set_max_batch(1, 2.0)
    rig.run()
    assert third.first_token_s == 7.0


def test_a_higher_max_batch_admits_at_the_next_boundary() -> None:
    """A raise in mid-segment must not wait for the segment's end."""
    rig = Rig(max_batch=1)
    rig.submit(1, 0.0, output=50)
    second = rig.submit(2, 0.0)
    rig.replica.set_max_batch(2, 10.5)
    rig.run()
    assert second.first_token_s == 12.0


def test_drain_hands_back_what_never_ran_and_finishes_the_rest() -> None:
    """What was computed is not thrown away, what was not goes to another replica at once."""
    rig = Rig(max_batch=1)
    rig.submit(1, 0.0, output=6)
    waiting = [rig.submit(2, 1.0), rig.submit(3, 1.5)]
    assert rig.replica.drain(2.0) == waiting
    assert rig.replica.submit(make_request(4), 2.5) == "draining"
    assert rig.replica.outstanding == 1
    assert rig.run() == [(1, 6.0)]
    assert rig.replica.outstanding == 0
    assert rig.replica.next_boundary_s == inf


def test_a_preempted_request_stays_in_a_draining_replica() -> None:
    """It has tokens that a client has seen; only this replica can go on with it."""
    rig = Rig(kv_tokens=24, block_size=4)
    rig.submit(1, 0.0, output=12)
    rig.submit(2, 0.0, output=12)
    fresh = rig.submit(3, 10.0)
    rig.replica.advance(10.0, inclusive=True)
    assert (rig.replica.running, rig.replica.waiting) == (1, 2)
    assert rig.replica.drain(10.5) == [fresh]
    assert rig.run() == [(1, 12.0), (2, 15.0)]


def test_draining_an_idle_replica_leaves_it_idle() -> None:
    """Whoever waits for outstanding to be 0 must not wait for an event of a batch that never
    begins.
    """
    rig = Rig()
    waiting = rig.submit(1, 3.0)
    assert rig.replica.drain(3.0) == [waiting]
    assert rig.replica.next_boundary_s == inf
    assert rig.replica.outstanding == 0


def test_a_crash_returns_everything_ready_to_be_queued_again() -> None:
    """Tokens emitted before the crash stay counted; the requests start from nothing but their
    arrival.
    """
    rig = Rig(max_batch=1)
    rig.submit(1, 0.0, output=10)
    rig.submit(2, 1.0)
    lost = rig.replica.abort(4.5)
    assert [request.id for request in lost] == [1, 2]
    assert all(
        request.generated == request.context == 0 and isnan(request.first_token_s)
        for request in lost
    )
    assert [request.arrival_s for request in lost] == [0.0, 1.0]
    reading = rig.replica.read(5.0)
    assert (reading.generation_tokens, reading.running, reading.waiting) == (4, 0, 0)
    assert rig.replica.outstanding == 0
    assert rig.run() == []


def test_a_requeued_request_is_served_whole_and_timed_from_its_arrival() -> None:
    """The truth counts from the client's first try; the new replica's metrics from when it was
    given the request.
    """
    log = RequestLog()
    second = Replica(
        latency_model=ONE_SECOND, max_batch=8, kv_tokens=64, on_finish=log.add_finished
    )
    first = Rig()
    first.submit(1, 2.0, output=9)
    (lost,) = first.replica.abort(7.0)
    assert second.submit(lost, 10.0) is None
    second.advance(inf, inclusive=True)
    frame = log.frame()
    assert (frame["arrival_s"][0], frame["first_token_s"][0], frame["finish_s"][0]) == (
        2.0,
        11.0,
        19.0,
    )
    reading = second.read(20.0)
    assert (reading.ttft_sum_s, reading.e2e_sum_s, reading.queue_sum_s) == (1.0, 9.0, 0.0)


def test_a_replica_can_serve_again_after_a_crash() -> None:
    """Nothing of the lost batch may remain, in memory least of all."""
    rig = Rig(kv_tokens=24, block_size=4)
    for number in range(5):
        rig.submit(number, 0.0, output=9)
    rig.replica.abort(6.5)
    rig.submit(9, 8.0, prompt=4, output=20)
    assert rig.replica.read(7.9).kv_usage == 0.0
    assert rig.run() == [(9, 28.0)]


def test_a_scrape_sees_the_iteration_that_ends_at_its_instant_as_done() -> None:
    """Within a segment nothing is processed, so a read computes what stepping would have
    counted.
    """
    rig = Rig(kv_tokens=160, block_size=4)
    rig.submit(1, 0.0, output=30)
    rig.replica.advance(5.0, inclusive=True)
    at_boundary = rig.replica.read(5.0)
    assert at_boundary.generation_tokens == 5
    assert at_boundary.itl_sum_s == 4.0
    assert at_boundary.kv_usage == 3 / 40, (
        "in the iteration from 5 to 6 its context grows from 8 to 9 tokens"
    )
    assert rig.replica.read(5.9) == at_boundary
    assert rig.replica.read(6.0).generation_tokens == 6
    assert rig.replica.steps == 2


def test_a_read_of_what_was_not_processed_yet_is_an_error() -> None:
    """It would return figures of the past as if they were of now."""
    rig = Rig()
    rig.submit(1, 0.0)
    with pytest.raises(AssertionError, match=r"boundary at 0\.0 is not processed"):
        rig.replica.read(0.5)


def test_requests_in_flight_show_how_far_they_are() -> None:
    """At the end of a run, who is unfinished is scored by what the client had."""
    rig = Rig(max_batch=1)
    rig.submit(1, 0.0, prompt=4, output=50)
    rig.submit(2, 0.0)
    rig.replica.advance(7.5, inclusive=True)
    running, waiting = rig.replica.in_flight(7.5)
    assert (
        running.id,
        running.generated,
        running.context,
        running.first_token_s,
        running.last_token_s,
    ) == (
        *(1, 7, 10),
        *(1.0, 7.0),
    )
    assert (waiting.id, waiting.generated) == (2, 0)
    assert isnan(waiting.first_token_s)
    assert [number for number, _ in rig.run()] == [1, 2]


def test_steps_do_not_grow_with_the_output() -> None:
    """A segment is one step, however long."""
    steps = []
    for output in (100, 100_000):
        rig = Rig(kv_tokens=1_000_000)
        rig.submit(1, 0.0, output=output)
        assert rig.run() == [(1, float(output))]
        steps.append(rig.replica.steps)
    assert steps == [3, 3]


def test_an_engine_that_takes_no_time_comes_to_an_end() -> None:
    """A latency model of zeros is no reason to divide by zero or to run for ever."""
    rig = Rig(latency_model=LatencyModel(alpha_ms=0.0, beta_ms=0.0, gamma_ms=0.0), max_batch=1)
    rig.submit(1, 1.0)
    rig.submit(2, 1.0)
    rig.submit(3, 2.0)
    assert rig.run() == [(1, 1.0), (2, 1.0), (3, 2.0)]


@pytest.mark.parametrize("clients", [1, 3])
def test_clients_that_ask_again_at_each_answer_see_the_times_of_the_naive_replica(
    clients: int,
) -> None:
    """on_finish may submit: a closed loop of clients needs it, as benchmarks with a fixed
    concurrency do.
    """
    settings: dict[str, Any] = {
        "latency_model": ONE_SECOND,
        "max_batch": 2,
        "kv_tokens": 40,
        "block_size": 4,
    }
    sizes = [(1 + 5 * number % 7, 1 + 11 * number % 13) for number in range(40)]

    def play(submit: Any, finishes: list[tuple[int, float]]) -> Any:
        todo = iter(range(len(sizes)))

        def ask(now_s: float) -> None:
            if (number := next(todo, None)) is not None:
                prompt, output = sizes[number]
                submit(make_request(number, prompt=prompt, output=output, arrival_s=now_s), now_s)

        def answered(request: Request, finish_s: float) -> None:
            finishes.append((request.id, finish_s))
            ask(finish_s)

        return ask, answered

    def submit(request: Request, now_s: float) -> None:
        assert replica.submit(request, now_s) is None

    ours: list[tuple[int, float]] = []
    ask, answered = play(submit, ours)
    replica = Replica(**settings, on_finish=answered)
    for _ in range(clients):
        ask(0.0)
    replica.advance(inf, inclusive=True)

    def submit_naive(request: Request, _: float) -> None:
        assert naive.submit(request) is None

    theirs: list[tuple[int, float]] = []
    ask_naive, answered = play(submit_naive, theirs)
    env = simpy.Environment()
    naive = NaiveReplica(env, **settings, on_finish=answered)
    alarm = Alarm(env, delay=0.0, priority=ARRIVAL)
    assert alarm.callbacks is not None
    for _ in range(clients):
        alarm.callbacks.append(lambda _: ask_naive(0.0))
    env.run()
    assert len(ours) == len(sizes)
    assert ours == theirs


def test_a_change_of_max_batch_can_be_seen() -> None:
    """A snapshot carries the value in force."""
    rig = Rig(max_batch=4)
    rig.replica.set_max_batch(6, 1.0)
    assert rig.replica.max_batch == 6
    with pytest.raises(AssertionError, match="max_batch must be >= 1, got 0"):
        rig.replica.set_max_batch(0, 2.0)


def _turn(number: int, *, blocks: tuple[int, ...], prompt: int, arrival_s: float) -> Request:
    return Request(
        id=number,
        prompt_tokens=prompt,
        output_tokens=2,
        arrival_s=arrival_s,
        blocks=blocks,
        block_tokens=100,
    )


def test_a_cached_prefix_is_context_that_nobody_computes() -> None:
    """The second turn of a conversation prefills its new part only, in whole blocks, and reads
    all.
    """
    per_token = LatencyModel(alpha_ms=0.0, beta_ms=1.0, gamma_ms=0.01)
    rig = Rig(latency_model=per_token, block_size=16)
    first = _turn(1, blocks=(1, 2), prompt=200, arrival_s=0.0)
    second = _turn(2, blocks=(1, 2, 3), prompt=300, arrival_s=10.0)
    same = _turn(3, blocks=(1, 2, 3), prompt=300, arrival_s=20.0)
    for request in (first, second, same):
        rig.replica.submit(request, request.arrival_s)
        rig.run()
    assert [each.cached_tokens for each in (first, second, same)] == [0, 192, 288]
    ttft_s = [each.first_token_s - each.arrival_s for each in (first, second, same)]
    assert ttft_s == pytest.approx([0.2 + 0.002, 0.108 + 0.003, 0.012 + 0.003])
    reading = rig.replica.read(30.0)
    assert (reading.prefix_queries, reading.prefix_hits) == (800, 480)
    assert reading.prompt_tokens == 800


def test_at_least_one_token_of_a_prompt_is_computed() -> None:
    """Something has to give the first token, also where all of the prompt is cached."""
    rig = Rig(block_size=16, prefix_share=1.0)
    whole, short = rig.submit(1, 0.0, prompt=32, output=1), rig.submit(2, 0.0, prompt=1, output=1)
    rig.run()
    assert (whole.cached_tokens, short.cached_tokens) == (16, 0)


def test_blocks_that_two_requests_use_are_held_once() -> None:
    """Ten users of one long system prompt need its memory once."""
    rig = Rig(block_size=10, kv_tokens=1200)
    for number in range(8):
        request = _turn(number, blocks=tuple(range(10)), prompt=1009, arrival_s=0.0)
        request.output_tokens = 5
        assert rig.replica.submit(request, 0.0) is None
    rig.replica.advance(2.0, inclusive=True)
    reading = rig.replica.read(2.0)
    assert (reading.running, reading.waiting, reading.preemptions) == (8, 0, 0)
    # 100 blocks of the common part, and two of each: nine tokens and what is generated.
    assert reading.kv_usage == pytest.approx((100 + 8 * 2) / 120)


def test_what_nobody_uses_goes_when_the_memory_is_needed_the_oldest_first() -> None:
    """A cache costs nothing: memory that is needed is there."""
    rig = Rig(block_size=10, kv_tokens=250)
    for t, blocks in ((0.0, (1,)), (10.0, (2,)), (20.0, (3,))):
        request = _turn(int(t), blocks=blocks, prompt=100, arrival_s=t)
        assert rig.replica.submit(request, t) is None
        rig.run()
    found = [
        rig.replica.cached_tokens(_turn(9, blocks=(name,), prompt=101, arrival_s=30.0))
        for name in (1, 2, 3)
    ]
    assert found == [0, 100, 100]


def test_a_step_of_speculative_decoding_adds_several_tokens() -> None:
    """301 tokens at three a step are a hundred steps after the first; the gap is observed once a
    step, and the tokens are all there.
    """
    rig = Rig(
        latency_model=LatencyModel(alpha_ms=36.0, beta_ms=0.0, gamma_ms=0.0), tokens_per_step=3.0
    )
    request = rig.submit(1, 0.0, prompt=50, output=301)
    rig.run()
    assert request.last_token_s == pytest.approx(0.036 * 101)
    reading = rig.replica.read(9.0)
    assert (reading.itl_count, reading.generation_tokens) == (100, 301)
    assert reading.itl_sum_s / reading.itl_count == pytest.approx(0.036)
    assert reading.tokens_per_step == pytest.approx(3.0)


def test_a_fraction_of_a_token_is_carried_from_step_to_step() -> None:
    """2.6 tokens a step are 13 in five."""
    rig = Rig(
        latency_model=LatencyModel(alpha_ms=1000.0, beta_ms=0.0, gamma_ms=0.0), tokens_per_step=2.6
    )
    request = rig.submit(1, 0.0, prompt=50, output=100)
    seen = []
    for second in range(1, 7):
        rig.replica.advance(second, inclusive=True)
        rig.replica.in_flight(second)
        seen.append((request.generated, rig.replica.read(second).generation_tokens))
    assert seen == [(n, n) for n in (1, 3, 6, 8, 11, 14)]
