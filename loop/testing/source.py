"""What every source of metrics must do, as a suite for pytest: subclass it and say which source.

    class TestMine(MetricsSourceContract):
        @pytest.fixture
        def source(self) -> Iterator[MetricsSource]:
            with closing(MySource(...)) as source:  # of a world that answers
                yield source

        @pytest.fixture
        def broken(self) -> MetricsSource:
            return MySource(...)  # of one that does not

Both are asked for SERVERS: chat with two ready pods, search with one that starts and one that is
gone, idle without any.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from loop.backends.metrics.source import MetricsSource
from loop.signals.demand import Figures
from loop.signals.pods import ScrapedPod, ScrapedServer
from loop.types import PodPhase

NOW_S = 3600.0


def scraped_pod(name: str, *, phase: PodPhase = "ready") -> ScrapedPod:
    """Return a pod that is half an hour old."""
    return ScrapedPod(
        name=name,
        namespace="infer",
        phase=phase,
        since_s=1800.0,
        created_s=1790.0,
        started_s=1795.0,
        address="127.0.0.1",
        ports=(8000,),
    )


SERVERS = (
    ScrapedServer(
        name="chat",
        namespace="infer",
        workload="chat",
        pods=(scraped_pod("chat-a1b2c-xxxx1"), scraped_pod("chat-a1b2c-xxxx2")),
    ),
    ScrapedServer(
        name="search",
        namespace="infer",
        workload="search",
        pods=(
            scraped_pod("search-a1b2c-xxxx3", phase="starting"),
            scraped_pod("search-a1b2c-xxxx4", phase="draining"),
        ),
    ),
    ScrapedServer(name="idle", namespace="infer", workload="idle"),
)


class MetricsSourceContract:
    """What every source of metrics must do, wherever its figures come from."""

    @pytest.fixture
    def source(self) -> MetricsSource:
        """Make the source under test over a world that answers; a subclass says how."""
        raise NotImplementedError("a subclass defines the fixture source")

    @pytest.fixture
    def broken(self) -> MetricsSource:
        """Make one over a world that does not answer; a subclass says how."""
        raise NotImplementedError("a subclass defines the fixture broken")

    def test_it_says_its_name_and_whence_it_learns(self, source: MetricsSource) -> None:
        """Records carry the name; a source at pods knows nothing of a server without any."""
        assert source.name.isidentifier()
        assert isinstance(source.at_pods, bool)

    def test_it_tells_of_the_servers_that_it_was_asked_for_and_of_no_other(
        self, source: MetricsSource
    ) -> None:
        """A figure under another name would be given to nobody."""
        for servers in (SERVERS, SERVERS[:1], ()):
            found = source.measure(servers, now_s=NOW_S)
            assert found.figures.keys() <= {server.name for server in servers}
            assert found.error == ""

    def test_figures_are_finite_and_not_negative_or_unknown(self, source: MetricsSource) -> None:
        """NaN passes through arithmetic unseen, and a negative rate would take servers down."""
        found = [source.measure(SERVERS, now_s=NOW_S + 15.0 * i) for i in range(5)]
        for figures in (one for measured in found for one in measured.figures.values()):
            assert all(math.isfinite(value) and value >= 0.0 for value in _values(figures))

    def test_a_server_without_pods_has_no_load_that_only_pods_could_know(
        self, source: MetricsSource
    ) -> None:
        """Nothing heard is not nothing asked for: a zero here would keep it at zero for ever."""
        if not source.at_pods:
            pytest.skip("it does not learn from pods")
        idle = source.measure(SERVERS, now_s=NOW_S).figures.get("idle")
        assert idle is None or idle.load is None

    def test_a_world_that_does_not_answer_is_told_and_not_raised(
        self, broken: MetricsSource
    ) -> None:
        """The cycle goes on: servers whose load is unknown are held, and somebody reads why."""
        found = broken.measure(SERVERS, now_s=NOW_S)
        assert found.error or found.warnings
        assert all(figures.load is None for figures in found.figures.values())

    def test_closing_twice_is_harmless(self, source: MetricsSource) -> None:
        """A start that fails half-way closes what there is, and the program's end does it again."""
        source.close()
        source.close()


def _values(figures: Figures) -> Sequence[float]:
    load = figures.load
    told = [figures.completions_rpm, figures.ttft_ms, figures.itl_ms, figures.output_tps]
    if load is not None:
        told += [load.rate_rpm, load.in_tokens, load.out_tokens]
    return [value for value in told if value is not None]
