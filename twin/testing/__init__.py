"""What tests of routers, engines, KV caches, arrival processes, readers of traces and worlds need:
contract suites for pytest, small clusters, the per-iteration oracle, and checkers that watch a run.
No part of the twin imports it.
"""

from __future__ import annotations

try:
    import pytest
except ImportError as error:
    raise ImportError("twin.testing needs pytest: pip install 'inferno-twin[test]'") from error

# The suites live outside test files: only what is named here explains its failed assertions.
pytest.register_assert_rewrite(
    *(
        f"twin.testing.{name}"
        for name in ("arrivals", "checkers", "engine", "kv_cache", "router", "trace_reader")
    )
)
