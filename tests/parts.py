"""A part of many parameters that are alike matters while working; all of them do in the end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def first(count: int, values: Iterable[Any]) -> list[Any]:
    """Return *values* as parameters of a test, all but the first *count* marked slow."""
    return first_rows(count, ((value,) for value in values))


def first_rows(count: int, rows: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Return *rows*, a value for each parameter in them, as `first` returns single values."""
    return [
        pytest.param(*row, marks=() if i < count else pytest.mark.slow)
        for i, row in enumerate(rows)
    ]
