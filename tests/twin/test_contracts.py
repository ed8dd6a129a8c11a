"""Our routers, engines and KV caches pass the suites that anybody's have to pass."""

from __future__ import annotations

import pytest

from twin.engine.kv_cache import KV_CACHES, KvCacheFactory
from twin.engine.port import ENGINES, EngineFactory
from twin.serving.routers import ROUTERS, RouterFactory
from twin.testing.engine import EngineContract
from twin.testing.kv_cache import KvCacheContract
from twin.testing.router import RouterContract


@pytest.mark.parametrize("name", ROUTERS)
class TestRouters(RouterContract):
    """All routers that a data file may name."""

    @pytest.fixture
    def factory(self, name: str) -> RouterFactory:
        """Return it by its name."""
        return ROUTERS[name]


@pytest.mark.parametrize("name", ENGINES)
class TestEngines(EngineContract):
    """All engines that a data file may name."""

    @pytest.fixture
    def factory(self, name: str) -> EngineFactory:
        """Return it by its name."""
        return ENGINES[name]


@pytest.mark.parametrize("name", KV_CACHES)
class TestKvCaches(KvCacheContract):
    """All KV caches that a data file may name."""

    @pytest.fixture
    def factory(self, name: str) -> KvCacheFactory:
        """Return it by its name."""
        return KV_CACHES[name]
