"""How requests are spread over replicas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.engine.port import Engine
from twin.engine.replica import Replica
from twin.engine.written_out import WrittenOut
from twin.request import Request
from twin.serving.routers import LeastOutstanding, RandomChoice, RoundRobin, make_router
from twin.serving.routers.least_outstanding import Order
from twin.serving.routers.port import Route
from twin.serving.routers.prefix_aware import MORE
from twin.spec import EngineSpec, LatencyModel

MODEL = LatencyModel(alpha_ms=10.0, beta_ms=0.0, gamma_ms=0.0)


def _replicas(count: int) -> list[Replica]:
    return [Replica(latency_model=MODEL, max_batch=8) for _ in range(count)]


class Front:
    """A router with the list of replicas that a gateway keeps for it."""

    def __init__(self, name: str, replicas: list[Replica], *, seed: int = 1) -> None:
        self.router = make_router(name, np.random.default_rng(seed))
        self.replicas: list[Replica] = []
        for replica in replicas:
            self.add(replica)

    def add(self, replica: Replica) -> None:
        self.replicas.append(replica)
        self.router.add(replica)

    def remove(self, replica: Replica) -> None:
        index = self.replicas.index(replica)
        del self.replicas[index]
        self.router.remove(index)

    def choose(self, now_s: float, *, output: int = 10) -> tuple[Request, Replica]:
        request = Request(prompt_tokens=1, output_tokens=output, arrival_s=now_s)
        return request, self.router.route(request, self.replicas, now_s)


def _choose(front: Front, now_s: float = 0.0) -> Replica:
    return front.choose(now_s)[1]


def _send(front: Front, now_s: float, *, output: int = 10) -> Replica:
    request, chosen = front.choose(now_s, output=output)
    assert chosen.submit(request, now_s) is None
    return chosen


def test_each_name_makes_its_router() -> None:
    """The names stand in data files."""
    rng = np.random.default_rng(1)
    assert isinstance(make_router("round_robin", rng), RoundRobin)
    assert isinstance(make_router("random", rng), RandomChoice)
    assert isinstance(make_router("least_outstanding", rng), LeastOutstanding)


def test_round_robin_takes_turns_and_skips_nobody_when_one_leaves() -> None:
    """A replica that leaves must not shift the turn of the others, or one would get two requests in
    a row.
    """
    a, b, c, d = _replicas(4)
    router = Front("round_robin", [a, b, c, d])
    assert [_choose(router) for _ in range(6)] == [a, b, c, d, a, b]
    router.remove(a)
    assert [_choose(router) for _ in range(4)] == [c, d, b, c]
    router.add(a)
    assert [_choose(router) for _ in range(4)] == [d, a, b, c]
    router.remove(d)
    assert [_choose(router) for _ in range(4)] == [a, b, c, a]


def test_random_is_uniform_and_independent_of_load() -> None:
    """Chi-square over four replicas: each gets its quarter within chance (99.9 % quantile of 3
    degrees is 16.3).
    """
    replicas = _replicas(4)
    router = Front("random", replicas)
    counts = Counter(id(_choose(router)) for _ in range(8000))
    assert sum((counts[id(replica)] - 2000) ** 2 / 2000 for replica in replicas) < 16.3


def test_random_repeats_with_its_generator_only() -> None:
    """The same seed makes the same choices; a run can be repeated."""

    def choices(seed: int) -> list[int]:
        replicas = _replicas(3)
        router = Front("random", replicas, seed=seed)
        return [replicas.index(_choose(router)) for _ in range(50)]

    assert choices(7) == choices(7)
    assert choices(7) != choices(8)


def test_least_outstanding_fills_the_emptiest_first() -> None:
    """Requests in flight, waiting ones included, are what it evens out."""
    a, b, c = _replicas(3)
    router = Front("least_outstanding", [a, b, c])
    for number in range(3):
        b.submit(Request(id=100 + number, prompt_tokens=1, output_tokens=10, arrival_s=0.0), 0.0)
    chosen = Counter(id(_send(router, 0.0)) for _ in range(6))
    assert (chosen[id(a)], chosen[id(b)], chosen[id(c)]) == (3, 0, 3)
    assert [replica.outstanding for replica in (a, b, c)] == [3, 3, 3]


def test_equals_take_turns() -> None:
    """With little load all are often idle: the first must not get everything."""
    a, b, c = _replicas(3)
    router = Front("least_outstanding", [a, b, c])
    assert [_send(router, float(t), output=1) for t in range(7)] == [a, b, c, a, b, c, a]
    router.remove(b)
    assert [_send(router, float(t), output=1) for t in range(7, 10)] == [c, a, c]


def test_least_outstanding_sees_what_finished_before_now_but_not_at_now() -> None:
    """Replicas are advanced only when asked: a stale count would send requests to the wrong one."""
    a, b = _replicas(2)
    router = Front("least_outstanding", [a, b])
    assert _send(router, 0.0, output=5) is a  # until 0.05
    assert _send(router, 0.0, output=100) is b
    assert _send(router, 0.0, output=100) is a
    assert (
        _send(router, 0.05, output=1) is b
    )  # a finishes one at this instant, after the arrivals of the instant
    assert (a.outstanding, b.outstanding) == (2, 2)
    assert _send(router, 0.055, output=1) is a
    assert (a.outstanding, b.outstanding) == (2, 2)


def test_a_single_replica_gets_everything() -> None:
    """The short cut for one replica must not break the round when a second one comes."""
    a, b = _replicas(2)
    router = Front("least_outstanding", [a])
    assert [_send(router, 0.0) for n in range(2)] == [a, a]
    router.add(b)
    assert [_send(router, 0.0) for n in range(2, 4)] == [b, b]


@pytest.mark.parametrize("name", ["round_robin", "random", "least_outstanding", "prefix_aware"])
def test_a_replica_that_left_gets_nothing(name: str) -> None:
    """It is about to drain: a request sent to it would be rejected."""
    replicas = _replicas(4)
    router = Front(name, replicas)
    for _ in range(6):
        _choose(router)
    router.remove(replicas[1])
    assert all(_choose(router) is not replicas[1] for _ in range(100))
    assert len({id(_choose(router)) for _ in range(100)}) == 3


def _prompt(*blocks: int) -> Request:
    return Request(
        prompt_tokens=64 * len(blocks) + 1,
        output_tokens=50,
        arrival_s=0.0,
        blocks=blocks,
        block_tokens=64,
    )


def test_prefix_aware_sends_a_prompt_where_its_beginning_is_cached() -> None:
    """Its prefill is the shorter, and the memory of the others is left to others."""
    front = Front("prefix_aware", _replicas(3))
    first = _prompt(1, 2, 3)
    home = front.router.route(first, front.replicas, 0.0)
    assert home.submit(first, 0.0) is None
    for i in range(6):
        again = _prompt(1, 2, 10 + i)
        assert front.router.route(again, front.replicas, 1.0) is home
        assert home.cached_tokens(again) == 128
    another = _prompt(7, 8)
    assert front.router.route(another, front.replicas, 1.0) is not home


def test_prefix_aware_spares_a_replica_that_is_overloaded() -> None:
    """A popular beginning must not queue up on one replica while others idle."""
    front = Front("prefix_aware", _replicas(2))
    home = front.router.route(_prompt(1, 2), front.replicas, 0.0)
    for _ in range(MORE + 1):
        home.submit(_prompt(1, 2), 0.0)
    home.advance(0.0, inclusive=True)
    assert home.cached_tokens(_prompt(1, 2)) > 0
    assert front.router.route(_prompt(1, 2), front.replicas, 0.0) is not home


# What decides when a request ends: memory that runs out, prompts in parts, full batches, …
KINDS: tuple[dict[str, object], ...] = (
    {},
    {"scheduling": "async", "overhead_ms": 8.0},
    {"prefix_share": 0.4},
    {"kv_tokens": 160},
    {"max_num_batched_tokens": 48},
    {"latency_model": replace(MODEL, beta_ms=0.02, launch_ms=1.5, p=2.5)},
    {"latency_model": replace(MODEL, beta_ms=0.1, gamma_ms=0.01, sequence_ms=0.3)},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """Requests for some replicas: when they come, of how many tokens."""

    spec: EngineSpec
    arrivals_s: list[float]
    sizes: list[list[int]]
    replicas: int = 13
    max_batch: int = 4
    queue_max: int | None = None

    def by(self, how: Callable[[LeastOutstanding, list[Engine]], Route]) -> Played:
        """Choose a replica for each request by what *how* makes."""
        ends: list[tuple[float, ...]] = []

        def ended(request: Request, finish_s: float) -> None:
            ends.append((request.id, request.first_token_s, finish_s, request.preemptions))

        replicas: list[Engine] = [
            WrittenOut.of_spec(
                self.spec, max_batch=self.max_batch, queue_max=self.queue_max, on_finish=ended
            )
            for _ in range(self.replicas)
        ]
        router = LeastOutstanding(np.random.default_rng(1))
        for replica in replicas:
            router.add(replica)
        route = how(router, replicas)
        choices: list[tuple[int, str | None]] = []
        foreseen = 0
        for number, now_s in enumerate(self.arrivals_s):
            prompt, output = self.sizes[number]
            request = Request(prompt, output, now_s, id=number)
            chosen: Any = route(request, now_s)
            choices.append((replicas.index(chosen), chosen.submit(request, now_s)))
            foreseen += chosen.then_until_s > chosen.quiet_until_s
        for replica in replicas:
            replica.advance(inf, inclusive=False)
        return Played(choices, sorted(ends), foreseen)


class Played(NamedTuple):
    """Who got each request, how each ended, and how often it was known when the next one ends."""

    choices: list[tuple[int, str | None]]
    ends: list[tuple[float, ...]]
    foreseen: int


def _in_order(router: LeastOutstanding, replicas: list[Engine]) -> Route:
    return Order(replicas).route(router)


def _by_looks(router: LeastOutstanding, replicas: list[Engine]) -> Route:
    # For one request no order is made.
    return router.stretch(replicas, 1)


@pytest.mark.parametrize("changes", KINDS)
@pytest.mark.parametrize("rate_rps", [20.0, 200.0])
def test_an_order_of_replicas_chooses_as_a_look_at_all_of_them(
    changes: dict[str, object], rate_rps: float
) -> None:
    """It looks at a replica only when it cannot know what ended there: who gets each request, and
    how each ends, are those of looking always. It knows the ends before they come.
    """
    rng = np.random.default_rng(5)
    spec = replace(
        EngineSpec(model="m", accelerator="A", latency_model=MODEL),
        **changes,  # type: ignore[arg-type]  # each for its field
    )
    play = Play(
        spec=spec,
        arrivals_s=np.cumsum(rng.exponential(1.0 / rate_rps, 400)).tolist(),
        sizes=rng.integers(1, 60, (400, 2)).tolist(),
    )
    ordered = play.by(_in_order)
    assert ordered[:2] == play.by(_by_looks)[:2]
    plain = changes.keys().isdisjoint({"scheduling", "prefix_share"})
    can = plain and not spec.latency_model.launch_ms
    assert (ordered.foreseen > 0) == can


@given(seed=st.integers(0, 2**32 - 1))
def test_an_order_of_replicas_chooses_so_whatever_they_are(seed: int) -> None:
    """What is foreseen must hold where memory runs out, queues are full, many end at once, and
    arrivals fall on boundaries.
    """
    rng = np.random.default_rng(seed)
    alpha_ms, count, output = rng.choice([0.5, 6.0, 20.0]), rng.integers(2, 30), rng.integers(2, 90)
    model = LatencyModel(
        alpha_ms=alpha_ms,
        beta_ms=rng.choice([0.0, 0.02, 0.3]),
        gamma_ms=rng.choice([0.0, 5e-5, 1e-3]),
        sequence_ms=rng.choice([0.0, 0.0, 0.2]),
    )
    gap_s = alpha_ms / 1000.0 * output / count / rng.choice([1.0, 3.0, 12.0])
    times_s = np.cumsum(rng.exponential(gap_s, 200))
    if rng.random() < 0.3:
        times_s = np.round(times_s / alpha_ms * 1000.0) * (alpha_ms / 1000.0)
    play = Play(
        spec=EngineSpec(
            model="m",
            accelerator="A",
            latency_model=model,
            kv_tokens=int(rng.choice([220, 600, 9000])),
            max_num_batched_tokens=int(rng.choice([40, 512])),
        ),
        arrivals_s=times_s.tolist(),
        sizes=np.stack([rng.integers(1, 99, 200), rng.integers(1, output + 1, 200)], 1).tolist(),
        replicas=int(count),
        max_batch=int(rng.choice([2, 16])),
        queue_max=None if rng.random() < 0.7 else 2,
    )
    assert play.by(_in_order)[:2] == play.by(_by_looks)[:2]
