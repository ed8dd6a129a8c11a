"""What every router must do, as a suite for pytest: subclass it and say which router.

class TestMine(RouterContract):
    @pytest.fixture
    def factory(self) -> RouterFactory:
        return MyRouter
"""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from twin.engine.port import Engine
from twin.engine.replica import Replica
from twin.request import Request
from twin.serving.routers import RouterFactory
from twin.spec import LatencyModel

CONSTANT = LatencyModel(alpha_ms=10.0, beta_ms=0.0, gamma_ms=0.0)


class Front:
    """A router with the list of replicas that a gateway keeps for it."""

    def __init__(self, factory: RouterFactory, *, replicas: int = 0, seed: int = 1) -> None:
        self.router = factory(np.random.default_rng(seed))
        self.replicas: list[Engine] = []
        for _ in range(replicas):
            self.add()

    def add(self) -> Engine:
        """Let one more replica receive requests."""
        replica = Replica(latency_model=CONSTANT, max_batch=8)
        self.replicas.append(replica)
        self.router.add(replica)
        return replica

    def remove(self, index: int) -> Engine:
        """Let the replica at *index* receive nothing any more."""
        replica = self.replicas.pop(index)
        self.router.remove(index)
        return replica

    def send(self, now_s: float, *, prompt: int = 1, output: int = 10) -> Engine:
        """Send a request to whom the router chooses, and return it."""
        request = Request(prompt_tokens=prompt, output_tokens=output, arrival_s=now_s)
        chosen = self.router.route(request, tuple(self.replicas), now_s)
        assert any(chosen is replica for replica in self.replicas), "chose a replica not listed"
        assert chosen.submit(request, now_s) is None
        return chosen


class RouterContract:
    """What every router must do, however it chooses."""

    @pytest.fixture
    def factory(self) -> RouterFactory:
        """Return what makes the router under test; a subclass says what."""
        raise NotImplementedError("a subclass defines the fixture factory")

    @pytest.mark.parametrize("seed", range(10))
    def test_it_chooses_among_the_replicas_that_there_are(
        self, factory: RouterFactory, seed: int
    ) -> None:
        """Replicas come and go all the time; one that left is about to drain and would refuse."""
        rng = Random(seed)  # noqa: S311 a script for a test, the same on every machine
        front, now_s = Front(factory, replicas=1, seed=seed), 0.0
        for _ in range(200):
            act = rng.random()
            if act < 0.1:
                front.add()
            elif act < 0.2 and len(front.replicas) > 1:
                front.remove(rng.randrange(len(front.replicas)))
            now_s += rng.expovariate(20.0)
            front.send(now_s, prompt=rng.randint(1, 50), output=rng.randint(1, 50))

    def test_a_single_replica_gets_everything(self, factory: RouterFactory) -> None:
        """Also the one that is left of several."""
        front = Front(factory, replicas=3)
        front.remove(0)
        front.remove(1)
        assert all(front.send(0.1 * i) is front.replicas[0] for i in range(10))

    def test_a_new_replica_is_not_left_out(self, factory: RouterFactory) -> None:
        """It was started because the others are too few."""
        front = Front(factory, replicas=1)
        for i in range(20):
            front.send(0.01 * i)
        new = front.add()
        assert any(front.send(1.0 + 0.01 * i) is new for i in range(200))

    def test_choosing_changes_neither_the_request_nor_the_replicas(
        self, factory: RouterFactory
    ) -> None:
        """The gateway submits; a router that did it, too, would serve requests twice."""
        front = Front(factory, replicas=3)
        for i in range(9):
            front.send(0.01 * i)
        held = sum(replica.outstanding for replica in front.replicas)
        request = Request(prompt_tokens=7, output_tokens=5, arrival_s=0.09)
        front.router.route(request, tuple(front.replicas), 0.09)
        assert (request.prompt_tokens, request.output_tokens, request.admitted) == (7, 5, False)
        assert sum(replica.outstanding for replica in front.replicas) == held

    def test_a_seed_fixes_every_choice(self, factory: RouterFactory) -> None:
        """A run can be repeated: all chance comes from the generator."""

        def choices() -> list[int]:
            front = Front(factory, replicas=4, seed=7)
            return [front.replicas.index(front.send(0.02 * i)) for i in range(100)]

        assert choices() == choices()
