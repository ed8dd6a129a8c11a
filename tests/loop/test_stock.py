"""Rows that are taken from a stock are those that would be made anew, to the last bit."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest

from loop.optimizer import stock
from loop.optimizer.cache import row_keys
from loop.optimizer.model import Rows
from loop.optimizer.model.queueing import (
    Model,
    ReplicaColumns,
    analyze,
    make_model,
    replica_columns,
)
from loop.optimizer.model.tail import Tail, make_tail
from loop.optimizer.stock import Stock
from loop.replacing import replace

WIDTH = 64


@pytest.fixture
def columns() -> ReplicaColumns:
    """Thirty replicas: long and short prompts, rooflines, mixtures of experts, batches to 64."""
    rng = np.random.default_rng(7)
    return replica_columns(
        alpha=rng.uniform(5.0, 20.0, 30),
        beta=0.02,
        gamma=1e-4,
        in_tokens=rng.uniform(100.0, 20_000.0, 30),
        out_tokens=rng.uniform(1.0, 400.0, 30),
        max_batch=rng.integers(1, WIDTH + 1, 30),
        p=rng.choice([1.0, 3.0], 30),
        experts=rng.choice([0.0, 2.0], 30),
        unread=0.9,
        token_cv=0.8,
    )


def test_rows_of_a_stock_are_those_made_beside_others(columns: ReplicaColumns) -> None:
    """A row that stood beside others before must not bring another answer."""
    known, tails = Stock[Any](), Stock[Tail]()
    rng = np.random.default_rng(8)
    for _ in range(6):
        some = columns.take(rng.choice(30, 12))

        def model_of(rows: Rows, some: ReplicaColumns = some) -> Any:
            return make_model(some.take(rows), width=WIDTH)

        def tail_of(rows: Rows, some: ReplicaColumns = some) -> Tail:
            return make_tail(some.take(rows), width=WIDTH)

        keys, rate = row_keys("", some.parts), np.full(12, 1e-3)
        model = known.rows(keys, model_of, width=WIDTH, kind="unbounded")
        assert_same(analyze(model, rate), analyze(make_model(some), rate))
        assert_same(tails.rows(keys, tail_of, width=WIDTH), make_tail(some, width=WIDTH))


def test_only_rows_that_are_not_known_are_made(
    columns: ReplicaColumns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept saves the making of it, and does not grow for ever."""
    monkeypatch.setattr(stock, "CELLS_MAX", 20 * WIDTH)
    monkeypatch.setattr(stock, "GROUPS_MAX", 1)
    tails, made = Stock[Tail](), list[int]()

    def ask(first: int, last: int, *, width: int = WIDTH) -> None:
        some = columns.take(np.arange(first, last))

        def make(rows: Rows) -> Tail:
            made.append(len(rows))
            return make_tail(some.take(rows), width=width)

        found = tails.rows(row_keys("", some.parts), make, width=width)
        assert_same(found, make_tail(some, width=width))

    ask(0, 10)
    ask(5, 15)  # five are known
    ask(0, 15)  # all
    ask(10, 25)  # with ten more there are too many: all are forgotten
    ask(0, 30)  # more than a stock may have: nothing is kept
    ask(10, 25)
    ask(0, 5, width=128)  # another group, and the oldest goes
    ask(10, 15)
    assert made == [10, 5, 15, 30, 5, 5]


def test_what_belongs_to_all_rows_stays_as_it_is_after_many_other_widths(
    columns: ReplicaColumns,
) -> None:
    """States are made once for a width, and anew when many other widths came between: those of rows
    that come then are equal, and not the same object.
    """
    models, tails = Stock[Model](), Stock[Tail]()

    def ask(first: int, last: int) -> None:
        some = columns.take(np.arange(first, last))

        def model_of(rows: Rows) -> Model:
            return make_model(some.take(rows), width=WIDTH)

        def tail_of(rows: Rows) -> Tail:
            return make_tail(some.take(rows), width=WIDTH)

        keys = row_keys("", some.parts)
        assert_same(models.rows(keys, model_of, width=WIDTH), make_model(some, width=WIDTH))
        assert_same(tails.rows(keys, tail_of, width=WIDTH), make_tail(some, width=WIDTH))

    ask(0, 5)
    for width in range(WIDTH + 1, WIDTH + 100):
        make_model(columns.take(np.arange(1)), width=width)
        make_tail(columns.take(np.arange(1)), width=width)
    ask(3, 8)


def test_narrow_rows_are_no_more_than_those_of_some_width(columns: ReplicaColumns) -> None:
    """A row of one state has figures besides: a group of them must not grow for ever."""
    some = columns.take(np.zeros(3000, dtype=np.intp))
    some = replace(some, in_tokens=np.arange(3000.0) + 1.0, max_batch=np.ones(3000, dtype=np.int64))
    keys, tails = row_keys("", some.parts), Stock[Tail]()
    made = list[int]()

    def ask(first: int, last: int) -> None:
        def make(rows: Rows) -> Tail:
            made.append(len(rows))
            return make_tail(some.take(first + rows), width=1)

        tails.rows(keys[first:last], make, width=1)

    for first in range(0, 3000, 500):
        ask(first, first + 500)
    ask(0, 500)
    assert made == [500] * 7, "what came first is forgotten"


def assert_same(one: Any, other: Any) -> None:
    """Hold that all that *one* has is what the *other* has, to the last bit."""
    if is_dataclass(one):
        for field in fields(one):
            if field.name not in ("curved", "sparse"):  # whether others beside it are
                assert_same(getattr(one, field.name), getattr(other, field.name))
    else:
        np.testing.assert_array_equal(one, other)
