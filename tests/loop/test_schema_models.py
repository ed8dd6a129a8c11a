"""The messages of the Go components: read as Go reads them, written as Go can read them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop.errors import SpecError
from loop.schema import parsing
from loop.schema.models import (
    AcceleratorSpec,
    AllocationData,
    Level,
    Message,
    ModelAcceleratorPerfData,
    ServerLoad,
    ServerSpec,
    ServiceClassSpec,
    SystemData,
    written,
)
from loop.schema.parsing import Read


def read(model: type[Read], obj: object, *, level: Level = "go") -> Read:
    """Return *obj*, a body, as a *model*."""
    return parsing.read(model, obj, source="body", level=level)


def said(message: Message) -> dict[str, Any]:
    """Return what was said in *message*: without the zeros that stand for what was not."""
    return message.model_dump(mode="json", by_alias=True, exclude_unset=True)


FIGURES = st.floats(min_value=0.0, max_value=1e12) | st.integers(min_value=0, max_value=2**31 - 1)


@given(rate=FIGURES, tokens=FIGURES, replicas=st.integers(min_value=0, max_value=2**31 - 1))
def test_what_is_written_is_read_as_the_same(rate: float, tokens: float, replicas: int) -> None:
    """A message goes round between components, and must not drift."""
    load = {"arrivalRate": rate, "avgOutTokens": tokens}
    server = read(
        ServerSpec, {"name": "s", "currentAlloc": {"numReplicas": replicas, "load": load}}
    )
    again = read(ServerSpec, json.loads(json.dumps(written(server))))
    assert written(again) == written(server)
    assert again.current_alloc.load.arrival_rate == rate


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=100),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(value=VALUES, key=st.sampled_from(["arrivalRate", "ARRIVALRATE"]))
def test_any_value_is_a_figure_or_refused_in_one_line(value: object, key: str) -> None:
    """No JSON value may pass as something else, or end in a traceback; null is absent."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None or (number and 0 <= value <= 1e12):  # type: ignore[operator] # it is a number
        assert read(ServerLoad, {key: value}).arrival_rate == (value or 0.0)
    else:
        with pytest.raises(SpecError) as error:
            read(ServerLoad, {key: value})
        line = str(error.value)
        assert line.startswith("body: arrivalRate: expected a number >= 0")
        assert "\n" not in line
        assert len(line) < 150


@given(value=VALUES)
def test_any_value_is_a_whole_number_or_refused_in_one_line(value: object) -> None:
    """8.0 is how some writers print 8; 8.5 replicas do not exist."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # Not "in range(…)": of a float, that would be asked of one number after the other.
    if value is None or (number and 0 <= value < 2**31 and value % 1 == 0):  # type: ignore[operator]
        assert read(AllocationData, {"numReplicas": value}).num_replicas == (value or 0)
    else:
        with pytest.raises(SpecError, match=r"^body: numReplicas: expected a whole number >= 0"):
            read(AllocationData, {"numReplicas": value})


def test_whole_figures_are_written_without_a_point() -> None:
    """Go refuses 128.0 for an int; a fraction stays one."""
    load = written(read(ServerLoad, {"avgInTokens": 128.0, "avgOutTokens": 0.5}))
    assert json.dumps(load["avgInTokens"]) == "128"
    assert load["avgOutTokens"] == 0.5


def test_an_absent_field_is_written_as_zero_but_was_not_said() -> None:
    """Readers of the answer expect every field; what was not said must not look as if it was."""
    accelerator = read(
        AcceleratorSpec, {"NAME": "A100", "Power": {"idle": 50}, "unknown": 1, "cost": None}
    )
    assert said(accelerator) == {"name": "A100", "power": {"idle": 50}}
    assert written(accelerator)["cost"] == 0
    assert written(accelerator)["power"] == {"idle": 50, "full": 0, "midPower": 0, "midUtil": 0}


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ({"numTokens": 7}, {"avgInTokens": 0, "avgOutTokens": 7}),
        ({"AvgLength": 7}, {"avgInTokens": 0, "avgOutTokens": 7}),
        ({"avgLength": 7, "avgOutTokens": 9}, {"avgInTokens": 0, "avgOutTokens": 9}),
    ],
)
def test_the_older_length_of_a_request_is_its_output(
    found: dict[str, Any], wanted: dict[str, Any]
) -> None:
    """Tokens were generated one an iteration; what is said in the words of today wins."""
    assert said(read(ServerLoad, found)) == wanted


def test_older_rows_of_models_and_classes_are_read_as_those_of_today() -> None:
    """A latency model without gamma, a class with one target, a target of waiting."""
    row = read(ModelAcceleratorPerfData, {"name": "m", "acc": "A", "Alpha": 5, "beta": 0.1})
    assert said(row)["perfParms"] == {"alpha": 5, "beta": 0.1, "gamma": 0}
    flat = {"name": "P", "priority": 2, "Model": "m", "slo-ITL": 40, "slo-ttw": 500}
    nested = {
        "name": "P",
        "priority": 2,
        "modelTargets": [{"model": "m", "slo-itl": 40, "slo-ttft": 500}],
    }
    assert written(read(ServiceClassSpec, flat)) == written(read(ServiceClassSpec, nested))


def test_a_latency_without_bound_is_written_as_null() -> None:
    """Zero would be the best of all latencies. In a message that comes, null is absent, as it is
    for Go.
    """
    unbounded = AllocationData().model_copy(update={"ttft_average": None})
    assert written(unbounded)["ttftAverage"] is None
    assert written(read(AllocationData, {"ttftAverage": None}))["ttftAverage"] == 0


def test_an_error_names_its_place_in_one_line() -> None:
    """Also where the value is long."""
    count = {"type": "A", "count": "x" * 1000}
    with pytest.raises(SpecError) as caught:
        read(SystemData, {"system": {"capacityData": {"count": [count]}}})
    line = str(caught.value)
    place = (
        "body: system.capacityData.count[0] 'A': count: expected a whole number >= 0, found 'xxx"
    )
    assert line.startswith(place)
    assert len(line) < 150


def test_what_cannot_be_zero_must_be_said() -> None:
    """The place of the first that is missing is named, deep inside a message too."""
    load = {"name": "b", "currentAlloc": {"load": {"arrivalRate": 1}}}
    asked = {"serverData": {"servers": [{"name": "a"}, load]}}
    with pytest.raises(SpecError) as caught:
        read(SystemData, {"system": asked}, level="ours")
    assert str(caught.value) == (
        "body: system.serverData.servers[1] 'b': currentAlloc.load.avgOutTokens: "
        "expected a number >= 0, found nothing"
    )
    read(AcceleratorSpec, {"name": "A", "cost": 0}, level="ours")
    read(SystemData, {"system": asked}, level="go")
