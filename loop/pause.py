"""The switch by which people stop the loop from acting, without stopping the loop."""

from __future__ import annotations


class Pause:
    """Whether the loop may act. Any thread may turn the switch, and any may ask."""

    def __init__(self) -> None:
        self._reason = ""

    def pause(self, reason: str) -> None:
        """Let nothing be asked of the world from now on; *reason* is told in each record."""
        assert reason, "a pause has a reason"
        self._reason = reason

    def resume(self) -> None:
        """Let the loop act again."""
        self._reason = ""

    def reason(self) -> str:
        """Return why the loop may not act; "" if it may."""
        return self._reason
