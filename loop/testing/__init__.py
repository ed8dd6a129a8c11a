"""What tests of backends, policies and metrics sources need: contract suites for pytest, and small
real implementations of the ports. No part of the loop itself imports it.
"""

from __future__ import annotations

try:
    import pytest
except ImportError as error:
    raise ImportError("loop.testing needs pytest: pip install 'inferno-twin[test]'") from error

# The suites live outside test files: only what is named here explains its failed assertions.
pytest.register_assert_rewrite("loop.testing.backend", "loop.testing.policy", "loop.testing.source")
