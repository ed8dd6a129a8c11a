"""Prices and GPUs of replicas: units count, and what the data do not know is unknown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loop.spec import cost_cents_per_h, gpus
from loop.testing.fakes import system


def test_a_price_counts_the_units_of_a_replica_but_not_their_gpus_again() -> None:
    """The price of an accelerator is of the whole unit; a replica may take several units, each of
    several GPUs.
    """
    data = system()
    double = replace(data.perf["llama_8b", "2xA100"], acc_count=3)
    data = replace(data, perf={**data.perf, ("llama_8b", "2xA100"): double})
    assert (
        cost_cents_per_h(data, model="llama_8b", accelerator="2xA100", replicas=4) == 3 * 500.0 * 4
    )
    assert gpus(data, model="llama_8b", accelerator="2xA100", replicas=4) == ("A100", 3 * 2 * 4)


@pytest.mark.parametrize(
    ("model", "accelerator"), [("unheard_of", "H100"), ("llama_8b", "TPU"), ("qwen_14b", "2xA100")]
)
def test_what_the_data_do_not_know_has_no_price(model: str, accelerator: str) -> None:
    """An unknown price is not zero: it would make the total look cheap."""
    assert cost_cents_per_h(system(), model=model, accelerator=accelerator, replicas=1) is None
    assert gpus(system(), model=model, accelerator=accelerator, replicas=1) is None


def test_nothing_costs_nothing() -> None:
    """No replicas are free whatever they are called."""
    assert cost_cents_per_h(system(), model="unheard_of", accelerator="TPU", replicas=0) == 0.0
    assert cost_cents_per_h(system(), model="llama_8b", accelerator="", replicas=0) == 0.0
