"""What is learnt of full KV caches in which requests lose their places, and what follows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loop.optimizer.cache import SizingCache
from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.rules.ours import OURS
from loop.optimizer.sizing import size_all
from loop.policies.slo.crowd import KEPT_S, ROOM, Crowd, held_tokens, with_sample
from loop.testing.fakes import pod_view, server_view
from loop.types import ServerView
from tests.loop.small_systems import server, small_system

FULL = tuple(pod_view(f"p{i}", running=49, kv_usage=0.98) for i in range(2))
EMPTY = pod_view("new", running=3, kv_usage=0.05)
SEEN = Crowd(50.0, "H100", 100.0)


def seen(**fields: object) -> ServerView:
    """Return a server of two full pods in which twice as many requests lose their place as end."""
    told = {"preemptions": 40, "completions_rpm": 20.0, "running": 98, "pods": FULL, **fields}
    return server_view(**told)


def at(view: ServerView, *, known: Crowd | None = None, now_s: float = 100.0) -> Crowd | None:
    """Return what is known after *view*."""
    return with_sample(known, view, now_s=now_s, window_s=60.0)


def test_full_caches_in_which_places_are_lost_say_how_many_fill_one() -> None:
    """Pods that have just begun say nothing of it."""
    assert at(seen(pods=(*FULL, EMPTY))) == Crowd(pytest.approx(50.0), "H100", 100.0)


@pytest.mark.parametrize(
    "told",
    [
        {"preemptions": 20},
        {"preemptions": None},
        {"completions_rpm": None},
        {"pods": (EMPTY,)},
        {"pods": ()},
        {"pods": tuple(replace(pod, unknown_gauges=("kv_usage",)) for pod in FULL)},
        {"pods": tuple(replace(pod, sample_age_s=None) for pod in FULL)},
        {"pods": tuple(replace(pod, phase="draining") for pod in FULL)},
    ],
)
def test_nothing_is_learnt_of_few_losses_or_of_gauges_that_nobody_told(
    told: dict[str, object],
) -> None:
    """What was known stays."""
    assert at(seen(**told)) is None
    assert at(seen(**told), known=SEEN, now_s=130.0) is SEEN


def test_what_is_a_little_less_changes_nothing_and_all_is_forgotten() -> None:
    """A change of the batch is a rollout."""
    fewer = [tuple(replace(pod, running=running) for pod in FULL) for running in (46, 30, 80)]
    little, less, more = (at(seen(pods=pods), known=SEEN, now_s=160.0) for pods in fewer)
    assert little == more == replace(SEEN, seen_s=160.0)
    assert less == Crowd(pytest.approx(30 / 0.98), "H100", 160.0)
    quiet = seen(preemptions=0)
    assert at(quiet, known=SEEN, now_s=100.0 + KEPT_S) is SEEN
    assert at(quiet, known=SEEN, now_s=101.0 + KEPT_S) is None
    moved = seen(accelerator="A100", pods=fewer[2])
    assert at(moved, known=SEEN, now_s=160.0) == Crowd(pytest.approx(80 / 0.98), "A100", 160.0)


def test_a_batch_has_no_more_than_caches_were_seen_to_hold() -> None:
    """On another accelerator by the tokens that each needs; and at least one, wherever one fits."""
    data = small_system(server(), kv_tokens=10_000)
    model = data.servers["s"].model
    tokens = held_tokens(Crowd(10.0, "H100", 0.0), data, model)
    assert tokens == 10_000 / (ROOM * 10.0)
    assert held_tokens(None, data, model) == 0.0
    assert held_tokens(Crowd(10.0, "unheard-of", 0.0), data, model) == 0.0
    assert held_tokens(Crowd(10.0, "H100", 0.0), small_system(server()), model) == 0.0

    def batches(held: float) -> set[int]:
        one = replace(data.servers["s"], held_tokens=held)
        table = size_all(data, OptimizerSettings(rules=OURS), servers=[one], cache=SizingCache())
        return set(table.columns.max_batch.tolist())

    assert batches(tokens) == {8}
    assert batches(20_000.0) == {1}
    assert min(batches(0.0)) > 8
