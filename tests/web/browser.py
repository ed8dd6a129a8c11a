"""A real headless Chromium for tests: the one on PATH, else the one that make test unpacks."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[2]
UNPACKED = ROOT / ".venv" / "chromium" / "run"
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


TIMEOUT_MS = 180_000.0  # a page of a thousand servers takes its time where others use the cores


def program() -> str:
    """Return the path of a Chromium; skip the test, saying why, where there is none."""
    pytest.importorskip("playwright", reason="no playwright here: install the extra test")
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None and not UNPACKED.exists():
        pytest.skip("no Chromium on PATH, and scripts/get-chromium.sh could not get one")
    return found or str(UNPACKED)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Give a running browser: a start takes a second, so the tests of a file share one."""
    path = program()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Browser, address: str, *, width: int = 1400, height: int = 1000
) -> Iterator[tuple[Page, list[str]]]:
    """Give a page of *browser* at *address*, and the list of what went wrong on it: what its
    console says, exceptions, requests that failed.
    """
    problems: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(TIMEOUT_MS)
    page.on("console", lambda one: problems.append(f"{one.type}: {one.text}"))
    page.on("pageerror", lambda error: problems.append(f"exception: {error}"))
    page.on("requestfailed", lambda one: problems.append(f"failed: {one.url[:100]}"))
    page.goto(address)
    try:
        yield page, problems
    finally:
        page.close()


def until(page: Page, expression: str, arg: object = None) -> None:
    """Wait until *expression* (of JavaScript; a function gets *arg*) is true on *page*.

    It is asked from here again and again. Playwright's own wait evaluates text within the page, and
    where it must look twice the content security policy of our pages refuses that.
    """
    end_s = time.monotonic() + TIMEOUT_MS / 1000.0
    while not page.evaluate(expression, arg):
        assert time.monotonic() < end_s, f"never true: {expression}"
        page.wait_for_timeout(20.0)
