"""What tests of routers, engines and worlds need: small clusters, the per-iteration
oracle, and checkers that watch a run. No part of the twin itself imports it.
"""

from __future__ import annotations

try:
    import pytest
except ImportError as error:
    raise ImportError("twin.testing needs pytest: pip install 'inferno-twin[test]'") from error

# The suites live outside test files: only what is named here explains its failed assertions.
pytest.register_assert_rewrite("twin.testing.checkers")
