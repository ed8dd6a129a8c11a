"""Our extensions pass the suites that anybody's have to pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from twin.arrivals import ArrivalFactory, Renewal
from twin.engine.kv_cache import KV_CACHES, KvCacheFactory
from twin.engine.port import ENGINES, EngineFactory
from twin.serving.routers import ROUTERS, RouterFactory
from twin.testing.arrivals import ArrivalProcessContract
from twin.testing.engine import EngineContract
from twin.testing.kv_cache import KvCacheContract
from twin.testing.router import RouterContract
from twin.testing.trace_reader import TraceReaderContract
from twin.traces import Columns, TraceReader


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


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 2.0])
class TestArrivalProcesses(ArrivalProcessContract):
    """What data may ask for of the process that we have."""

    @pytest.fixture
    def factory(self, cv: float) -> ArrivalFactory:
        """Return it at one coefficient of variation."""
        return lambda rng, **_: Renewal(rng, cv=cv)


def pairs(path: Path) -> Columns:
    """Read lines of a time and one number of tokens, as nobody else writes them."""
    times_s, tokens = np.loadtxt(path, unpack=True)
    return Columns(
        times_s=times_s,
        prompt_tokens=tokens.astype(np.int32),
        output_tokens=tokens.astype(np.int32),
    )


class TestOwnReader(TraceReaderContract):
    """A reader as somebody else would write it."""

    @pytest.fixture
    def reader(self) -> TraceReader:
        """Return it."""
        return pairs

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        """Write a file of it, not in order."""
        path = tmp_path / "pairs.txt"
        path.write_text("7 20\n5 10\n9.5 30\n")
        return path
