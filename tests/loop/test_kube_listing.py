"""Namespaces that cannot be listed: how long a cycle waits for them, when they are forgotten."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.pool import ThreadPool

import pytest

from loop.backends.kube.client import FORBIDDEN, ApiError
from loop.backends.kube.listing import ASIDE_TIMEOUT_S, UNBROKEN_S, LastListed

SPACES = ("infer", "other")


class Cluster:
    """Namespaces of one object each. failing: the status that each of them says instead; 0 stands
    for no answer at all. Those *hanging* say it once *answering* is set.
    """

    def __init__(self) -> None:
        self.failing: dict[str, int] = {}
        self.hanging: set[str] = set()
        self.answering = threading.Event()

    def lister(self, space: str, *, once: bool = False) -> list[str]:
        if once and space in self.hanging:
            self.answering.wait(20.0)
        if space in self.failing:
            raise ApiError("no", status=self.failing[space])
        return [space]


@pytest.fixture
def pools() -> Iterator[tuple[ThreadPool, ThreadPool]]:
    with ThreadPool(2) as pool, ThreadPool(4) as aside:
        yield pool, aside


def look(listed: LastListed, pool: ThreadPool, cluster: Cluster, spaces: Sequence[str]) -> None:
    with suppress(ApiError):
        listed.after(listed.ask(pool, cluster.lister, spaces))


def test_a_cycle_waits_for_all_that_hang_at_once(pools: tuple[ThreadPool, ThreadPool]) -> None:
    """It waited for each in turn: 10 s for ten of them."""
    pool, aside = pools
    cluster, listed = Cluster(), LastListed(aside)
    slow = [f"slow-{k}" for k in range(6)]
    cluster.failing = dict.fromkeys(slow, 0)
    look(listed, pool, cluster, ["infer", *slow])
    cluster.hanging = set(slow)
    begin_s = time.monotonic()
    look(listed, pool, cluster, ["infer", *slow])
    assert time.monotonic() - begin_s < 3.0 * ASIDE_TIMEOUT_S
    assert set(listed.failed) == set(slow)
    cluster.answering.set()


@pytest.mark.parametrize(
    ("between", "period_s", "refused_s"),
    [
        ({"other": FORBIDDEN}, 60.0, 240.0),
        (dict.fromkeys(SPACES, 0), 60.0, 0.0),
        ({"other": 0}, 60.0, 0.0),
        ({"other": FORBIDDEN}, UNBROKEN_S + 1.0, 0.0),
    ],
)
def test_only_refusals_that_were_heard_count(
    pools: tuple[ThreadPool, ThreadPool],
    between: dict[str, int],
    period_s: float,
    refused_s: float,
) -> None:
    """An hour in which nothing could be listed counted, too, and the servers were forgotten."""
    pool, aside = pools
    cluster, listed = Cluster(), LastListed(aside)
    refused = {"other": FORBIDDEN}
    found = None
    for k, failing in enumerate([{}, refused, between, between, between, refused]):
        cluster.failing = failing
        look(listed, pool, cluster, SPACES)
        if set(failing) != set(SPACES):
            found = listed.refused_for_s("other", now_s=k * period_s)
    assert found == refused_s


def test_who_was_refused_once_and_then_hangs_is_not_refused(
    pools: tuple[ThreadPool, ThreadPool],
) -> None:
    """What was said last counts: a try that has ended without an answer is one."""
    pool, _ = pools
    aside = ThreadPool(1)
    cluster, listed = Cluster(), LastListed(aside)
    look(listed, pool, cluster, SPACES)
    cluster.failing = {"other": FORBIDDEN}
    look(listed, pool, cluster, SPACES)
    assert listed.refused_for_s("other", now_s=0.0) == 0.0
    cluster.failing, cluster.hanging = {"other": 0}, {"other"}
    look(listed, pool, cluster, SPACES)  # a try begins, and is waited for no longer
    cluster.answering.set()
    aside.apply(int)  # its one thread comes to it when that try has ended
    cluster.failing, cluster.hanging = {"other": FORBIDDEN}, set()
    look(listed, pool, cluster, SPACES)
    assert listed.refused_for_s("other", now_s=600.0) == 0.0
    aside.terminate()
