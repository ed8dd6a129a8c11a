"""A part of many parameters that are alike matters while working; all of them do in the end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def first(count: int, values: Iterable[Any]) -> list[Any]:
    """Return *values* as parameters of a test, all but the first *count* marked slow."""
    return [
        value if i < count else pytest.param(value, marks=pytest.mark.slow)
        for i, value in enumerate(values)
    ]
