"""Fixtures that every test may use: where the repository and the shared reference material are."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
SEEDS_AT_WORK = 4  # of the seeds that a test tries, so many matter while working

# Modules and thousands of tests stay to the end: who looks for garbage among them, again and again,
# does so for a twentieth of all the time.
gc.disable()

# No deadline: what takes 2 ms alone may take a second on a busy machine. Where CI is set, the same
# examples are tried in every run; a failing example is always printed as a line that repeats it.
settings.register_profile(
    "inferno", deadline=None, print_blob=True, derandomize="CI" in os.environ, max_examples=25
)
# `make fuzz` (--hypothesis-profile fuzz) looks longer, and elsewhere each time.
settings.register_profile(
    "fuzz", settings.get_profile("inferno"), max_examples=1000, derandomize=False
)
settings.load_profile("inferno")

# What overflows, is divided by zero or is no number is a fault wherever the code does not say that
# it is meant. Where decisions are reckoned (VANISHING), so is what vanishes, but of figures that
# properties draw: the smallest of these vanish in any product.
np.seterr(divide="raise", over="raise", invalid="raise")
VANISHING = ("loop", "golden", "emulator")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Run the test with every error of floating point that is a fault in its room."""
    room = item.path.relative_to(ROOT / "tests").parts[0]
    drawn = item.get_closest_marker("hypothesis") is not None
    with np.errstate(under="raise" if room in VANISHING and not drawn else "ignore"):
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of reference data beside the checkout; skip where it is absent."""
    folder = Path(os.environ.get("SHARED_DIR", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"reference data not found beside the checkout ({folder.name}/)")
    return folder


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark as slow what tries further seeds, also in the suites that are shipped."""
    spec = getattr(item, "callspec", None)
    if spec is not None and spec.indices.get("seed", 0) >= SEEDS_AT_WORK:
        item.add_marker("slow")


@pytest.hookimpl(trylast=True)  # once Hypothesis has marked its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave slow tests and properties out of the coverage: they try what others have covered, with
    more data, and tracing them is half of what they cost.
    """
    for item in items:
        if item.get_closest_marker("slow") or item.get_closest_marker("hypothesis"):
            item.add_marker("no_cover")


def pytest_collection_finish() -> None:
    """Look for garbage among what the tests make, and no more among the tests; less often than
    Python would, which takes what a test keeps for garbage again and again.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)
    gc.enable()
