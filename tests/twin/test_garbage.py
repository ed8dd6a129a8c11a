"""How often garbage is looked for, and that whoever says so otherwise is heeded."""

from __future__ import annotations

import gc
import subprocess
import sys

from twin.garbage import rarely_collected


def test_what_was_set_before_holds_afterwards() -> None:
    """A run in a process that goes on must not leave it without collections; what is frozen there
    stays so.
    """
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    with rarely_collected(last=True):
        assert gc.get_threshold()[0] > before[0]
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == frozen


def test_nothing_is_looked_through_as_a_program_ends() -> None:
    """To look through all that a command had imported and made took a twentieth of its time, and
    the system takes it all back a moment later.
    """
    code = """
import gc
from twin.garbage import rarely_collected
with rarely_collected(last=True):
    kept = [[] for _ in range(10_000)]
    looks = []
    gc.callbacks.append(lambda phase, about: looks.append(phase))
more = [[] for _ in range(100)]
print(len(looks), gc.get_freeze_count())
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert said.stdout.split() == ["0", "0"]
