"""The owner of a world: what it is asked, what goes wrong, and its end; without a thread."""

from __future__ import annotations

import pytest

from loop.actors import Owner
from loop.errors import BackendError, InboxFullError, StoppedError


def test_acts_are_done_one_by_one_and_their_errors_are_for_who_asked() -> None:
    """One client's mistake is no other client's."""
    owner, done = Owner(), list[str]()

    def fail() -> None:
        raise BackendError("the world refuses", phase="apply")

    first, second = owner.ask(lambda: done.append("first")), owner.ask(fail)
    third = owner.ask(lambda: done.append("third"))
    owner.ask(owner.stop)
    owner.run()
    assert done == ["first", "third"]
    assert isinstance(second.exception(), BackendError)
    assert (first.exception(), third.exception()) == (None, None)
    assert owner.healthy


def test_time_that_goes_wrong_is_told_and_tried_again() -> None:
    """The thread of a world must survive any exception, and say so while it lasts."""
    problems: list[Exception | None] = [RuntimeError("a bug")] * 3 + [None] * 2
    owner = Owner(advance=lambda: raise_one(problems.pop(0)), wait_s_max=0.0)
    health: list[bool] = []
    asked = [owner.ask(lambda: health.append(owner.healthy)) for _ in range(4)]
    asked[2].add_done_callback(lambda _: health.append(owner.healthy))
    owner.ask(owner.stop)
    owner.run()
    assert [str(each.exception()) for each in asked] == ["a bug"] * 3 + ["None"]
    assert health == [False, True]


def raise_one(problem: Exception | None) -> None:
    """Raise *problem*, if it is one."""
    if problem is not None:
        raise problem


def test_who_waits_at_the_end_is_told_and_so_is_who_comes_later() -> None:
    """A client must not hang on a service that is gone."""
    owner = Owner(size_max=2)
    stopping, left = owner.ask(owner.stop), owner.ask(raise_one)
    with pytest.raises(InboxFullError, match="2 requests wait already"):
        owner.ask(raise_one)
    owner.run()
    for each in (stopping, left):
        assert isinstance(each.exception(), StoppedError)
    with pytest.raises(StoppedError):
        owner.ask(raise_one)


def test_an_act_that_nobody_waits_for_is_not_done() -> None:
    """Its client has gone: to act now would surprise everybody."""
    owner, done = Owner(), list[str]()
    gone = owner.ask(lambda: done.append("gone"))
    gone.cancel()
    owner.ask(owner.stop)
    owner.run()
    assert done == []
