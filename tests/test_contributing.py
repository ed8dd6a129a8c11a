"""The first policy of CONTRIBUTING.md is one: it passes what every policy must pass."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from loop.ports import Policy
from loop.testing.policy import PolicyContract

ROOT = Path(__file__).resolve().parent.parent


def first_policy() -> ModuleType:
    """Return the policy of the page as a module, as a reader would write it."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    module = ModuleType("first_policy")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    exec(compile(code, "CONTRIBUTING.md", "exec"), module.__dict__)
    return module


class TestFirstPolicy(PolicyContract):
    """The suite that the page names, over the policy that it shows."""

    @pytest.fixture
    def policy(self) -> Policy:
        """Return the policy of the page."""
        made: Policy = first_policy().BusyPolicy()
        return made


def test_every_place_that_the_page_names_is_there() -> None:
    """Who follows the table must find the file."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(
        re.findall(r"`((?:inferno|twin|loop|emulator|experiments|docs|tests)/[\w/.]*)`", page)
    )
    assert len(named) > 20
    missing = [name for name in sorted(named) if "NAME" not in name and not (ROOT / name).exists()]
    assert missing == ["loop/policies/busy.py"]
