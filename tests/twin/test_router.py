"""How requests are spread over replicas."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from twin.engine.replica import Replica
from twin.request import Request
from twin.serving.router import LeastOutstanding, RandomChoice, RoundRobin, Router, make_router
from twin.spec import LatencyModel, RouterName

LAW = LatencyModel(alpha_ms=10.0, beta_ms=0.0, gamma_ms=0.0)


def _replicas(count: int) -> list[Replica]:
    return [Replica(latency_model=LAW, max_batch=8) for _ in range(count)]


def _router(name: RouterName, replicas: list[Replica]) -> Router:
    router = make_router(name, np.random.default_rng(1))
    for replica in replicas:
        router.add(replica)
    return router


def _send(router: Router, now_s: float, *, output: int = 10, number: int = 0) -> Replica:
    chosen = router.choose(now_s)
    request = Request(id=number, prompt_tokens=1, output_tokens=output, arrival_s=now_s)
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
    router = _router("round_robin", [a, b, c, d])
    assert [router.choose(0.0) for _ in range(6)] == [a, b, c, d, a, b]
    router.remove(a)
    assert [router.choose(0.0) for _ in range(4)] == [c, d, b, c]
    router.add(a)
    assert [router.choose(0.0) for _ in range(4)] == [d, a, b, c]
    router.remove(d)
    assert [router.choose(0.0) for _ in range(4)] == [a, b, c, a]


def test_random_is_uniform_and_independent_of_load() -> None:
    """Chi-square over four replicas: each gets its quarter within chance (99.9 % quantile of 3
    degrees is 16.3).
    """
    replicas = _replicas(4)
    router = _router("random", replicas)
    counts = Counter(id(router.choose(0.0)) for _ in range(8000))
    assert sum((counts[id(replica)] - 2000) ** 2 / 2000 for replica in replicas) < 16.3


def test_random_repeats_with_its_generator_only() -> None:
    """The same seed makes the same choices; a run can be repeated."""

    def choices(seed: int) -> list[int]:
        replicas = _replicas(3)
        router = RandomChoice(np.random.default_rng(seed))
        for replica in replicas:
            router.add(replica)
        return [replicas.index(router.choose(0.0)) for _ in range(50)]

    assert choices(7) == choices(7)
    assert choices(7) != choices(8)


def test_least_outstanding_fills_the_emptiest_first() -> None:
    """Requests in flight, waiting ones included, are what it evens out."""
    a, b, c = _replicas(3)
    router = _router("least_outstanding", [a, b, c])
    for number in range(3):
        b.submit(Request(id=100 + number, prompt_tokens=1, output_tokens=10, arrival_s=0.0), 0.0)
    chosen = Counter(id(_send(router, 0.0, number=number)) for number in range(6))
    assert (chosen[id(a)], chosen[id(b)], chosen[id(c)]) == (3, 0, 3)
    assert [replica.outstanding for replica in (a, b, c)] == [3, 3, 3]


def test_equals_take_turns() -> None:
    """With little load all are often idle: the first must not get everything."""
    a, b, c = _replicas(3)
    router = _router("least_outstanding", [a, b, c])
    assert [_send(router, float(t), output=1, number=t) for t in range(7)] == [a, b, c, a, b, c, a]
    router.remove(b)
    assert [_send(router, float(t), output=1, number=t) for t in range(7, 10)] == [c, a, c]


def test_least_outstanding_sees_what_finished_before_now_but_not_at_now() -> None:
    """Replicas are advanced only when asked: a stale count would send requests to the wrong one."""
    a, b = _replicas(2)
    router = _router("least_outstanding", [a, b])
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
    router = _router("least_outstanding", [a])
    assert [_send(router, 0.0, number=n) for n in range(2)] == [a, a]
    router.add(b)
    assert [_send(router, 0.0, number=n) for n in range(2, 4)] == [b, b]


@pytest.mark.parametrize("name", ["round_robin", "random", "least_outstanding"])
def test_a_replica_that_left_gets_nothing(name: RouterName) -> None:
    """It is about to drain: a request sent to it would be rejected."""
    replicas = _replicas(4)
    router = _router(name, replicas)
    for _ in range(6):
        router.choose(0.0)
    router.remove(replicas[1])
    assert all(router.choose(0.0) is not replicas[1] for _ in range(100))
    assert len({id(router.choose(0.0)) for _ in range(100)}) == 3
