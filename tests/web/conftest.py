"""One browser for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.web.browser import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what draws in a browser: that takes seconds."""
    if "browser" in getattr(item, "fixturenames", ()):
        item.add_marker("costly")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return a real Chromium; skip where there is none."""
    with chromium() as found:
        yield found
