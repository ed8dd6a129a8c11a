"""What every arrival process must do, as a suite for pytest: subclass it and say how it is made.

class TestMine(ArrivalProcessContract):
    @pytest.fixture
    def factory(self) -> ArrivalFactory:
        return MyProcess
"""

from __future__ import annotations

import numpy as np
import pytest

from twin.arrivals import ArrivalFactory, ArrivalProcess, ArrivalStream

GAPS = 100_000
RUNS = 1_000
FAR = 5.0  # standard errors: once in a million times by chance


def begun(factory: ArrivalFactory, *, seed: int = 1) -> ArrivalProcess:
    """Return a process at its beginning."""
    return factory(np.random.default_rng(seed), cv=1.0)


class ArrivalProcessContract:
    """What every arrival process must do, however its requests bunch."""

    @pytest.fixture
    def factory(self) -> ArrivalFactory:
        """Return what makes the process under test; a subclass says what."""
        raise NotImplementedError("a subclass defines the fixture factory")

    def test_gaps_are_numbers_from_0_on(self, factory: ArrivalFactory) -> None:
        """With another one time would go back, or stand still."""
        process = begun(factory)
        gaps = np.array([process.first(), *process.gaps(GAPS)])
        assert gaps.size == 1 + GAPS
        assert np.isfinite(gaps).all()
        assert (gaps >= 0.0).all()

    def test_the_mean_gap_is_one(self, factory: ArrivalFactory) -> None:
        """The rate is the scenario's; a process of another mean would change it unseen."""
        assert begun(factory).gaps(GAPS).mean() == pytest.approx(1.0, rel=0.1)

    def test_a_seed_fixes_every_gap(self, factory: ArrivalFactory) -> None:
        """A run can be repeated: all chance comes from the generator."""
        once, again = (begun(factory, seed=7) for _ in range(2))
        assert once.first() == again.first()
        assert once.gaps(100).tolist() == again.gaps(100).tolist()

    def test_gaps_do_not_depend_on_how_many_are_asked_for(self, factory: ArrivalFactory) -> None:
        """The times of a run would depend on the period of its policy."""
        whole, parts = (begun(factory, seed=7) for _ in range(2))
        assert whole.first() == parts.first()
        in_parts = np.concatenate([parts.gaps(size) for size in (1, 29, 70)])
        assert whole.gaps(100).tolist() == in_parts.tolist()

    def test_it_is_stationary_from_its_first_instant(self, factory: ArrivalFactory) -> None:
        """A run must begin amid the load, not with a burst or with a pause."""
        counts = [
            len(ArrivalStream(np.random.default_rng(seed), process=factory).until(0.0, 0.5, 1.0))
            for seed in range(RUNS)
        ]
        assert abs(np.mean(counts) - 0.5) <= FAR * np.std(counts) / RUNS**0.5
