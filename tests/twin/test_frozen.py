"""A value that is made quickly is the value that dataclasses make."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from twin.frozen import made_quickly


@made_quickly
@dataclasses.dataclass(frozen=True, slots=True)
class Quick:
    """Fields of every sort."""

    first: int
    second: float = 2.0
    words: list[str] = dataclasses.field(default_factory=list)
    last: str = dataclasses.field(default="", kw_only=True)


@dataclasses.dataclass(frozen=True, slots=True)
class Usual:
    """The same, as dataclasses make it."""

    first: int
    second: float = 2.0
    words: list[str] = dataclasses.field(default_factory=list)
    last: str = dataclasses.field(default="", kw_only=True)


def test_fields_defaults_and_repr_are_those_of_dataclasses() -> None:
    """A default that got lost would be a figure that nobody measured."""
    for given in ((1,), (1, 3.0), (1, 3.0, ["a"])):
        quick, usual = Quick(*given, last="x"), Usual(*given, last="x")
        assert dataclasses.asdict(quick) == dataclasses.asdict(usual)
        assert repr(quick) == repr(usual).replace("Usual", "Quick")
    assert Quick(1).words is not Quick(1).words
    assert Quick(1) == Quick(1, 2.0)


def test_it_is_frozen_and_of_its_class() -> None:
    """While it is filled it is of another class; nobody may see that."""
    one = Quick(1)
    assert type(one) is Quick
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.first = 2  # type: ignore[misc]


@pytest.mark.parametrize("given", [{}, {"first": 1, "other": 2}])
def test_what_does_not_fit_is_refused(given: dict[str, int]) -> None:
    """A misspelt field must not be dropped on the quiet."""
    with pytest.raises(TypeError, match=r"Quick\.__init__"):
        Quick(**given)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="positional"):
        Quick(1, 2.0, [], "x")  # type: ignore[call-arg]


def test_it_is_copied_replaced_and_sent() -> None:
    """Runs go to other processes."""
    one = Quick(1, words=["a"], last="x")
    assert dataclasses.replace(one, first=2) == Quick(2, words=["a"], last="x")
    assert copy.deepcopy(one) == one
    assert pickle.loads(pickle.dumps(one)) == one
