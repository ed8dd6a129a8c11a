"""Cost is what pods held, clipped to the scored window; restlessness is counted on what was
wanted.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from experiments.columns import Window
from experiments.scores.changes import (
    Desired,
    count_changes,
    count_reversals,
    overshoot,
    settling_s,
)
from experiments.scores.costs import held_s, pod_costs
from twin.spec import Accelerator

NAN = math.nan
WINDOW = Window(start_s=600.0, end_s=4200.0)
ACCELERATORS = {
    "A100": Accelerator(name="A100", type="A100", cost_cents_per_h=40.0),
    "4xA100": Accelerator(name="4xA100", type="A100", multiplicity=4, cost_cents_per_h=160.0),
}


def pods(*rows: tuple[int, str, int, float, float]) -> dict[str, np.ndarray]:
    """Return columns of pods: server, accelerator, GPUs, granted_s, released_s."""
    names = ("server", "accelerator", "gpus", "granted_s", "released_s")
    return {
        name: np.array(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)
    }


@pytest.mark.parametrize(
    ("granted_s", "released_s", "expected_s"),
    [
        (0.0, NAN, 3600.0),  # held from before the window to beyond its end
        (0.0, 700.0, 100.0),
        (4000.0, NAN, 200.0),
        (0.0, 500.0, 0.0),  # gone in the warm-up
        (4200.0, NAN, 0.0),
        (NAN, NAN, 0.0),  # pending to the end
        (NAN, 900.0, 0.0),  # pending until it was taken back
    ],
)
def test_a_pod_costs_from_grant_to_release_within_the_window(
    granted_s: float, released_s: float, expected_s: float
) -> None:
    """Starting and draining pods hold their units; a pending pod holds none."""
    assert held_s(pods((0, "A100", 1, granted_s, released_s)), WINDOW).tolist() == [expected_s]


def test_cost_is_price_times_accelerators_of_a_replica_times_hours() -> None:
    """Two 4xA100 a replica cost twice the price of one; hours are counted in GPUs of the type."""
    rows = pods((0, "A100", 1, 0.0, NAN), (1, "4xA100", 8, 0.0, 2400.0))
    costs = pod_costs(rows, names=["a", "b"], accelerators=ACCELERATORS, window=WINDOW)
    assert costs.cents_by_server == pytest.approx({"a": 40.0, "b": 2 * 160.0 * 0.5})
    assert costs.gpu_hours_by_type == pytest.approx({"A100": 1.0 + 8 * 0.5})
    assert costs.summary()["cost_cents_per_h"] == pytest.approx(200.0)


def desired(*replicas: int, period_s: float = 60.0, accelerator: str = "A100") -> list[Desired]:
    """Return what was wanted before the first cycle and after each."""
    return [
        Desired(t_s=period_s * i, accelerator=accelerator, replicas=n)
        for i, n in enumerate(replicas)
    ]


EVERYTHING = Window(start_s=0.0, end_s=1e9)


def test_a_change_is_a_difference_of_replicas_or_accelerator_to_the_cycle_before() -> None:
    """One change a cycle, however large, and an exchange of the accelerator is one."""
    assert count_changes(desired(1, 1, 4, 4, 3), EVERYTHING) == 2
    exchanged = [*desired(2, 2), Desired(t_s=120.0, accelerator="4xA100", replicas=2)]
    assert count_changes(exchanged, EVERYTHING) == 1
    assert count_changes(desired(1, 2, 3), Window(start_s=100.0, end_s=200.0)) == 1


def test_a_reversal_is_a_change_of_the_other_sign_within_fifteen_minutes() -> None:
    """Up and down again within a quarter of an hour is what start-up times make expensive."""
    assert count_reversals(desired(2, 3, 2, 3), EVERYTHING) == 2
    assert count_reversals(desired(2, 3, 3, 4, 5), EVERYTHING) == 0
    assert count_reversals(desired(2, 3, 2, period_s=900.0), EVERYTHING) == 1
    assert count_reversals(desired(2, 3, 2, period_s=901.0), EVERYTHING) == 0


def test_overshoot_and_settling_are_read_after_the_step() -> None:
    """Overshoot is the peak over the final value; settled means within one replica of it for
    good.
    """
    t_s = np.arange(8) * 60.0
    wanted = np.array([2, 2, 5, 9, 8, 5, 6, 6.0])
    assert overshoot(t_s, wanted, step_s=100.0) == 3.0
    assert settling_s(t_s, wanted, step_s=100.0) == 200.0
    assert settling_s(t_s, np.full(8, 4.0), step_s=100.0) == 0.0
