"""`replace` of the loop gives what that of dataclasses gives."""

from __future__ import annotations

import dataclasses

import pytest

from loop.actuator import Limits
from loop.replacing import replace, replacer, same_in
from loop.types import Load, ServerView, one_pool

VIEW = ServerView(
    name="one",
    model="model",
    service_class="Premium",
    pools=one_pool(accelerator="A100", replicas=2, max_batch=8),
    ready=2,
)


@dataclasses.dataclass(frozen=True)
class Open:
    """A value with fields beside its own."""

    first: int
    second: int


@pytest.mark.parametrize(
    "changes", [{}, {"ready": 3}, {"load": Load(rate_rpm=1.0, in_tokens=2.0, out_tokens=3.0)}]
)
def test_a_value_is_replaced_as_by_dataclasses(changes: dict[str, object]) -> None:
    """A quick copy that forgets a field would decide by what was not seen."""
    before = dataclasses.asdict(VIEW)
    made = replace(VIEW, **changes)  # type: ignore[arg-type]
    assert type(made) is ServerView
    assert made == dataclasses.replace(VIEW, **changes)  # type: ignore[arg-type]
    assert hash(made.pools) == hash(VIEW.pools)
    assert dataclasses.asdict(VIEW) == before
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.ready = 4  # type: ignore[misc]


def test_what_checks_itself_is_checked_again() -> None:
    """A limit of none would let nothing be asked for."""
    with pytest.raises(AssertionError, match="must be > 0"):
        replace(Limits(step_up_max=1), step_up_max=0)


def test_a_value_without_slots_is_replaced() -> None:
    """Policies of users are of any kind."""
    assert replace(Open(first=1, second=2), second=3) == Open(first=1, second=3)


def test_a_field_that_is_not_there_is_refused() -> None:
    """A misspelt field must not be set on the quiet."""
    with pytest.raises(TypeError, match="wanted"):
        replace(VIEW, wanted=3)  # type: ignore[call-arg]


def test_fields_that_are_given_each_time_are_replaced() -> None:
    """Views are made anew every second, and only their ages differ."""
    aged = replacer(ServerView, "sample_age_s", "ready")
    assert aged(VIEW, 7.0, 3) == dataclasses.replace(VIEW, sample_age_s=7.0, ready=3)
    with pytest.raises(AssertionError, match="age"):
        replacer(ServerView, "age")


def test_values_are_the_same_in_the_fields_that_are_named() -> None:
    """What is written is told from what is only equal: 1 and 1.0 are other words of a record."""
    is_same = same_in("name", "ready")
    assert is_same(VIEW, dataclasses.replace(VIEW, sample_age_s=7.0))
    assert not is_same(VIEW, dataclasses.replace(VIEW, ready=float(VIEW.ready)))
