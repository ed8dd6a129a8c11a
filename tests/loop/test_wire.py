"""The messages of the Go components: read as Go reads them, written as Go can read them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from loop.errors import SpecError
from loop.schema.wire import (
    AcceleratorSpec,
    AllocationData,
    ModelAcceleratorPerfData,
    ServerLoad,
    ServerSpec,
    ServiceClassSpec,
    SystemData,
    error_line,
    require_essentials,
    written,
)
from loop.schema.wire import given as said

FIGURES = st.floats(min_value=0.0, max_value=1e12) | st.integers(min_value=0, max_value=10**9)


@given(rate=FIGURES, tokens=FIGURES, replicas=st.integers(min_value=0, max_value=10**9))
@settings(max_examples=50)
def test_what_is_written_is_read_as_the_same(rate: float, tokens: float, replicas: int) -> None:
    """A message goes round between components, and must not drift."""
    load = {"arrivalRate": rate, "avgOutTokens": tokens}
    server = ServerSpec.model_validate(
        {"name": "s", "currentAlloc": {"numReplicas": replicas, "load": load}}
    )
    again = ServerSpec.model_validate(json.loads(json.dumps(written(server))))
    assert written(again) == written(server)
    assert again.current_alloc.load.arrival_rate == rate


def test_whole_figures_are_written_without_a_point() -> None:
    """Go refuses 128.0 for an int; a fraction stays one."""
    load = written(ServerLoad.model_validate({"avgInTokens": 128.0, "avgOutTokens": 0.5}))
    assert json.dumps(load["avgInTokens"]) == "128"
    assert load["avgOutTokens"] == 0.5


def test_an_absent_field_is_written_as_zero_but_was_not_said() -> None:
    """Readers of the answer expect every field; what was not said must not look as if it was."""
    accelerator = AcceleratorSpec.model_validate(
        {"NAME": "A100", "Power": {"idle": 50}, "unknown": 1, "cost": None}
    )
    assert said(accelerator) == {"name": "A100", "power": {"idle": 50}}
    assert written(accelerator)["cost"] == 0
    assert written(accelerator)["power"] == {"idle": 50, "full": 0, "midPower": 0, "midUtil": 0}


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ({"numTokens": 7}, {"avgOutTokens": 7}),
        ({"AvgLength": 7}, {"avgOutTokens": 7}),
        ({"avgLength": 7, "avgOutTokens": 9}, {"avgOutTokens": 9}),
    ],
)
def test_the_older_length_of_a_request_is_its_output(
    found: dict[str, Any], wanted: dict[str, Any]
) -> None:
    """Tokens were generated one an iteration; what is said in the words of today wins."""
    assert said(ServerLoad.model_validate(found)) == wanted


def test_older_rows_of_models_and_classes_are_read_as_those_of_today() -> None:
    """A latency model without gamma, a class with one target, a target of waiting."""
    row = ModelAcceleratorPerfData.model_validate(
        {"name": "m", "acc": "A", "Alpha": 5, "beta": 0.1}
    )
    assert said(row)["perfParms"] == {"alpha": 5, "beta": 0.1}
    flat = {"name": "P", "priority": 2, "Model": "m", "slo-ITL": 40, "slo-ttw": 500}
    nested = {
        "name": "P",
        "priority": 2,
        "modelTargets": [{"model": "m", "slo-itl": 40, "slo-ttft": 500}],
    }
    assert written(ServiceClassSpec.model_validate(flat)) == written(
        ServiceClassSpec.model_validate(nested)
    )


def test_a_latency_without_bound_is_written_as_null() -> None:
    """Zero would be the best of all latencies. In a message that comes, null is absent, as it is
    for Go.
    """
    unbounded = AllocationData().model_copy(update={"ttft_average": None})
    assert written(unbounded)["ttftAverage"] is None
    assert written(AllocationData.model_validate({"ttftAverage": None}))["ttftAverage"] == 0


def test_an_error_names_its_place_in_one_line() -> None:
    """Also where the value is long."""
    with pytest.raises(ValidationError) as caught:
        SystemData.model_validate(
            {"system": {"capacityData": {"count": [{"type": "A", "count": "x" * 1000}]}}}
        )
    line = error_line(caught.value.errors()[0])
    assert line.startswith(
        'system.capacityData.count[0].count: expected a valid integer, found "xxx'
    )
    assert line.endswith("…")
    assert len(line) < 150


def test_what_cannot_be_zero_must_be_said() -> None:
    """The place of the first that is missing is named, deep inside a message too."""
    asked = {
        "serverData": {
            "servers": [{"name": "a"}, {"name": "b", "currentAlloc": {"load": {"arrivalRate": 1}}}]
        }
    }
    with pytest.raises(
        SpecError,
        match=r"^body\.serverData\.servers\[1\]\.currentAlloc\.load\.avgOutTokens: expected a",
    ):
        require_essentials(SystemData.model_validate({"system": asked}).system)
    require_essentials(AcceleratorSpec.model_validate({"name": "A", "cost": 0}))
