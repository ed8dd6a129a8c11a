"""Engines of one pod that serve several models: what counts for a server is what its own engine is
asked for, and where nobody can tell which that is, its load is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

import httpx
import pytest

from loop.backends.kube import labels as names
from loop.backends.kube.read import Server, scraped
from loop.backends.kube.views import Sight, models_notes, server_view
from loop.backends.metrics.api import PrometheusSettings
from loop.backends.metrics.pods import PodMetrics
from loop.backends.metrics.prometheus import Prometheus
from loop.backends.metrics.source import Measurement
from loop.replacing import replace
from loop.signals.demand import Figures
from loop.signals.models import OwnEngines
from loop.signals.names import NAMES
from loop.signals.pods import ScrapedPod
from loop.signals.processes import Series
from tests.loop.kube_objects import EPOCH_S, pod, server
from tests.loop.test_prometheus_answers import matrix
from tests.loop.test_prometheus_answers import series as of_answer

NOW_S = 600.0
SETTINGS = PrometheusSettings(url="http://prometheus:9090")
LLAMA, EMBED = "meta-llama/Llama_8B", "BAAI/bge-m3"
# By port: the model that an engine serves, and how many requests a second it gets.
Engines = Mapping[int, tuple[str, float]]
BOTH: Engines = {8000: (LLAMA, 1.0), 8001: (EMBED, 20.0)}
QUANTITIES = {
    "vllm:request_success_total": 1.0,
    "vllm:time_to_first_token_seconds_count": 1.0,
    "vllm:time_to_first_token_seconds_sum": 0.05,
    "vllm:prompt_tokens_total": 100.0,
    "vllm:generation_tokens_total": 200.0,
    "vllm:request_generation_tokens_count": 1.0,
    "vllm:request_generation_tokens_sum": 200.0,
}


def told(rps: float, *, t_s: float) -> dict[str, float]:
    """Return what an engine shows at a time that has been asked *rps* times a second since 0."""
    counters = {name: each * rps * t_s for name, each in QUANTITIES.items()}
    return {**counters, "vllm:num_requests_running": 2.0, "vllm:kv_cache_usage_perc": 0.5}


def of_pods(one: Server, engines: Engines) -> Measurement:
    """Return what pages of the pods tell of *one* after ten looks."""

    class Pages:
        now_s = 0.0

        def page(self, pod: ScrapedPod, port: int) -> str:  # noqa: ARG002 all are alike
            model, rps = engines[port]
            lines = told(rps, t_s=self.now_s).items()
            return "".join(f'{name}{{model_name="{model}"}} {value}\n' for name, value in lines)

        def close(self) -> None:
            """Hold nothing."""

    pages = Pages()
    seen = replace(scraped(one), pods=tuple(replace(p, ports=(*engines,)) for p in _pods(one)))
    with closing(PodMetrics(pages)) as source:
        for k in range(10):
            pages.now_s = NOW_S - 10.0 * (9 - k)
            found = source.measure([seen], now_s=pages.now_s)
    return found


def _pods(one: Server) -> Sequence[ScrapedPod]:
    return scraped(one).pods


def of_prometheus(
    one: Server, engines: Engines, *, of_target: Callable[[int], Mapping[str, str]] | None = None
) -> Measurement:
    """Return what Prometheus tells of *one*."""
    times_s = [NOW_S - 15.0 * k for k in range(4)][::-1]
    result = [
        of_answer(
            name,
            [(t_s, str(told(rps, t_s=t_s)[name])) for t_s in times_s],
            pod_name=each.name,
            model_name=model,
            **(of_target(port) if of_target else {"instance": f"10.0.0.1:{port}"}),
        )
        for each in _pods(one)
        for port, (model, rps) in engines.items()
        for name in told(rps, t_s=0.0)
    ]
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=matrix(*result)))
    source = Prometheus(SETTINGS, wall_s=lambda: EPOCH_S + NOW_S, transport=transport)
    with closing(source):
        return source.measure([scraped(one)], now_s=NOW_S)


@pytest.fixture(params=[of_pods, of_prometheus], ids=["pods", "prometheus"])
def measured(request: pytest.FixtureRequest) -> Callable[[Server, Engines], Measurement]:
    """Return how a source measures a server of given engines."""
    of: Callable[[Server, Engines], Measurement] = request.param
    return of


def figures(found: Measurement) -> Figures:
    """Return the figures of the server."""
    return found.figures["s1"]


def test_only_requests_for_the_model_of_a_server_are_its_load(
    measured: Callable[[Server, Engines], Measurement],
) -> None:
    """A chat model beside one for embeddings in each pod: 2,520 rpm were read for 120."""
    found = figures(measured(server(pod("a"), pod("b")), BOTH))
    assert found.load is not None
    assert found.load.rate_rpm == pytest.approx(120.0, rel=0.01)
    assert found.further_models == {EMBED}
    assert [one.running for one in found.pods.values()] == [2, 2]
    assert found.percentiles_ms == {}


@pytest.mark.parametrize(
    "engines", [{8000: ("a", 1.0), 8001: ("b", 20.0)}, {**BOTH, 8002: BOTH[8000]}]
)
def test_where_no_engine_or_another_one_too_is_the_models_the_figures_are_true_or_unknown(
    measured: Callable[[Server, Engines], Measurement], engines: Engines
) -> None:
    """Neither may be the sum over models: that is no load of anybody's."""
    found = figures(measured(server(pod("a")), engines))
    if LLAMA in {model for model, _ in engines.values()}:
        assert found.load is not None
        assert found.load.rate_rpm == pytest.approx(120.0, rel=0.01)
    else:
        assert found.load is None
        assert found.measured  # no labels stand in for it
        assert "its pods serve a, b: expected exactly one that is its model" in found.warnings[0]


def test_engines_that_differ_in_the_model_alone_are_told_apart_by_their_caches() -> None:
    """Relabelling may drop port and container: the requests of both were one engine's."""
    found = figures(of_prometheus(server(pod("a")), BOTH, of_target=lambda _: {}))
    assert found.load is not None
    assert found.load.rate_rpm == pytest.approx(60.0, rel=0.01)


def test_an_engine_that_tells_alone_does_not_stand_in_for_one_that_does_not() -> None:
    """While the container of the chat model is being restarted the other one goes on."""
    own = OwnEngines(NAMES)
    one = scraped(server(pod("a")))
    (name,) = (each.name for each in one.pods)

    def shown(*models: str) -> dict[str, Sequence[Series]]:
        labels = [(("instance", model), ("model_name", model)) for model in models]
        return {name: [Series("vllm:kv_cache_usage_perc", of, [(0.0, 0.5)]) for of in labels]}

    assert [len(of) for of in own.of(one, shown(LLAMA, EMBED)).values()] == [1]
    assert own.further("s1") == {EMBED}
    assert [len(of) for of in own.of(one, shown(EMBED)).values()] == [0]
    assert [len(of) for of in own.of(one, shown(LLAMA)).values()] == [1]
    assert own.further("s1") == {EMBED}
    renewed = scraped(server(pod("b")))
    (name,) = (each.name for each in renewed.pods)
    assert [len(of) for of in own.of(renewed, shown(EMBED)).values()] == [1]
    assert own.further("s1") == frozenset()


def test_adapters_and_new_names_are_no_further_engines() -> None:
    """Adapters of an engine share its KV cache; a rollout may call the same model otherwise."""
    own = OwnEngines(NAMES)
    one = scraped(server(pod("a"), pod("b")))
    a, b = (each.name for each in one.pods)
    page = [("vllm:kv_cache_usage_perc", LLAMA)]
    page += [("vllm:request_success_total", model) for model in (LLAMA, "lora")]
    adapters: dict[str, Sequence[Series]] = {
        a: [Series(metric, (("model_name", of),), []) for metric, of in page]
    }
    assert own.of(one, adapters) == adapters
    renamed: dict[str, Sequence[Series]] = {
        pod: [Series("vllm:kv_cache_usage_perc", (("model_name", of),), [])]
        for pod, of in ((a, "chat"), (b, "chat-v2"))
    }
    assert own.of(one, renamed) == renamed
    assert own.further("s1") == frozenset()


def test_no_replica_is_taken_away_that_serves_further_models() -> None:
    """Their load is in no plan; an annotation says how few are enough."""
    one = server(pod("a"), pod("b"))
    found = figures(of_pods(one, BOTH))
    sight = Sight(load=found.load, source="pods", figures=found, blind_at_zero=True)
    assert server_view(one, sight).replicas_min == 2
    told_less = server(pod("a"), pod("b"), annotations={names.REPLICAS_MIN: "1"})
    assert server_view(told_less, sight).replicas_min == 1
    (note,) = models_notes({"s1": found})
    assert note.startswith(f"s1: its pods serve further models ({EMBED}): ")
