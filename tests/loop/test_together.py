"""Many pods at once are read to the last bit as one by one, whatever is odd about some of them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loop.backends.fetch import Fetched
from loop.backends.metrics.answers import Answer, Reader, parsed, read_matrix
from loop.backends.metrics.api import PrometheusError, PrometheusSettings
from loop.backends.metrics.reach import within
from loop.signals.names import NAMES
from loop.signals.series import tracks_of
from loop.signals.together import Crowd, Rows

SETTINGS = PrometheusSettings(url="http://prometheus:9090")
EPOCH_S = 1_700_000_000.0
COUNTERS = {
    "vllm:request_success_total": 1.0,
    "vllm:request_generation_tokens_count": 1.0,
    "vllm:request_generation_tokens_sum": 210.3,
    "vllm:time_to_first_token_seconds_count": 1.0,
    "vllm:time_to_first_token_seconds_sum": 0.0537,
    "vllm:prompt_tokens_total": 102.7,
    "vllm:request_prompt_tokens_count": 0.7,
    "vllm:request_prompt_tokens_sum": 71.3,
    "vllm:generation_tokens_total": 205.1,
    "vllm:inter_token_latency_seconds_sum": 1.97,
    "vllm:gpu_prefix_cache_hits_total": 11.0,
    "vllm:prefix_cache_hits_total": 12.0,
}
UNNAMED = {
    "no firsts": ("first_token", "request_generation"),
    "no lengths": ("request_prompt",),
    "no ends": ("success",),
}
GAUGES = (
    *("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:num_requests_swapped"),
    "vllm:kv_cache_usage_perc",
)
ODD = (
    *("restart", "gap", "stale", "birth", "nan", "infinite", "negative", "percent", "huge"),
    *("two engines", "two jobs", "two ports", "no firsts", "gauges alone", "late", "disorder"),
    *("contradiction", "twice", "exported", "no pod", "one sample", "histogram", "no number"),
    "parts",
)


def pod_of(rng: random.Random, name: str, odd: str) -> list[dict[str, Any]]:
    """Return the series of a pod; what is *odd* about it, "" for nothing."""
    scrapes = 1 if odd == "one sample" else rng.choice((4, 5))
    times = [EPOCH_S + rng.random() + 15.0 * k for k in range(scrapes)]
    labels = {"namespace": "infer", "pod": name, "instance": f"{name}:8000", "model_name": "m"}
    if odd == "exported":
        labels["exported_model_name"] = "n"
    if odd == "no pod":
        del labels["pod"]
        labels["pod_name"] = name
    result = []
    grown = [rng.randrange(500)]
    for _ in range(scrapes):
        grown.append(grown[-1] + rng.randrange(1, 40))

    def add(metric: str, values: Sequence[float], **more: str) -> None:
        result.append(
            {
                "metric": {"__name__": metric, **labels, **more},
                "values": [[t, repr(value)] for t, value in zip(times, values, strict=True)],
            }
        )

    for metric, each in COUNTERS.items():
        values = [each * rng.uniform(0.99, 1.0) + each * count for count in grown[1:]]
        if odd == "gauges alone" or any(part in metric for part in UNNAMED.get(odd, ())):
            continue
        if "success" in metric:
            parts = 2 if odd != "no firsts" else 6  # most clients give up, and nothing tells of it
            halves = [float(count // parts) for count in grown[1:]]
            add(metric, halves, finished_reason="stop")
            add(metric, halves, finished_reason="abort")
        else:
            add(metric, values)
    for metric in GAUGES:
        add(metric, [rng.choice((0.0, 1.0, rng.uniform(0.0, 9.0))) for _ in times])
    spoil(rng, result, odd)
    return result


def spoil(rng: random.Random, result: list[dict[str, Any]], odd: str) -> None:
    """Make *odd* what is to be odd about the series of one pod."""
    one = rng.choice(result)
    k = rng.randrange(len(one["values"]))
    texts = {
        "nan": "NaN",
        "infinite": "+Inf",
        "negative": "-1",
        "percent": "73.5",
        "huge": "1e300",
        "no number": "1_0",
    }
    if odd in texts:
        one["values"][k][1] = texts[odd]
    elif odd == "restart":
        for of in result:
            of["values"][-1][1] = "0.5"
    elif odd in ("gap", "birth", "stale"):
        del one["values"][{"gap": k, "birth": 0, "stale": -1}[odd]]
    elif odd in ("two engines", "two jobs", "two ports"):
        label, value = {
            "two engines": ("engine", "1"),
            "two jobs": ("job", "b"),
            "two ports": ("port", "9"),
        }[odd]
        result += [{**of, "metric": {**of["metric"], label: value}} for of in result]
    elif odd == "late":
        for point in one["values"]:
            point[0] += 0.25
    elif odd == "disorder":
        one["values"].reverse()
    elif odd == "contradiction":
        for i, point in enumerate(result[0]["values"]):
            point[1] = str(1000 * i)
    elif odd == "twice":
        result.append(one)
    elif odd == "parts":
        of = next(of for of in result if "swapped" in of["metric"]["__name__"])
        result.append({**of, "metric": {**of["metric"], "priority": "1"}})
    elif odd == "histogram":
        told = [
            [t, {"count": str(i), "sum": str(0.1 * i)}]
            for i, (t, _) in enumerate(one.pop("values"))
        ]
        one |= {"metric": {**one["metric"], "__name__": "vllm:e2e_request_latency_seconds"}}
        one["histograms"] = told
        result[result.index(one)] = one


def reply(result: Sequence[Any], **more: Any) -> Fetched:
    """Return the answer of a Prometheus."""
    told = {"status": "success", "data": {"resultType": "matrix", "result": result}, **more}
    return Fetched(
        status=200, reason="", headers=None, body=json.dumps(told, separators=(",", ":")).encode()
    )  # type: ignore[arg-type]


def crowd_of(seed: int, odds: Sequence[str]) -> list[dict[str, Any]]:
    """Return the series of pods, each with something odd or nothing, as Prometheus orders them."""
    rng = random.Random(seed)
    result = [one for k, odd in enumerate(odds) for one in pod_of(rng, f"p{k}", odd)]
    if rng.random() < 0.5:
        result.sort(key=lambda one: str(one["metric"]["__name__"]))
    return result


@pytest.mark.costly
@given(
    seed=st.integers(0, 2**32),
    odds=st.lists(st.sampled_from(ODD), max_size=5),
    cut=st.sampled_from((None, 0.0, 16.0, 100.0)),
    most=st.sampled_from(("", "", "no firsts", "no lengths", "no ends", "parts")),
)
@example(seed=0, odds=[], cut=None, most="parts")
def test_together_is_as_one_by_one(
    seed: int, odds: list[str], cut: float | None, most: str
) -> None:
    """A thousand servers must be decided upon as each alone would be."""
    pytest.importorskip("msgspec")
    told = reply(crowd_of(seed, [*[most] * 10, *odds]), isPartial=True, warnings=["w"])
    plain = read_matrix(parsed(told), settings=SETTINGS, epoch_s=EPOCH_S)
    reader, crowd = Reader(SETTINGS), Crowd(NAMES)
    for _ in range(2):
        answer = reader.read(told, epoch_s=EPOCH_S)
        # As text: what is no number equals no other.
        assert str({key: list(of) for key, of in answer.pods.items()}) == str(plain)
        assert answer.told == (
            "prometheus: w",
            "prometheus: the answer is partial: series may be missing",
        )
        assert answer.renamed == ({"pod_name"} if "no pod" in odds else set())
        if "no number" in odds:
            continue  # Python reads it, the decoder does not: it was read entry by entry
        pods = [of for of in answer.pods.values() if isinstance(of, Rows)]
        assert len(pods) == len(answer.pods)
        together = crowd.tracks(pods, begins_s=[cut] * len(pods))
        for of, found in zip(plain.values(), together, strict=True):
            alone = tracks_of(of if cut is None else within(of, begin_s=cut), names=NAMES)
            assert found is None or found == alone
        # The many of which nothing is odd are not left to the slow way.
        if cut != 100.0 and most != "parts":
            assert sum(found is not None for found in together) >= 4


def test_who_comes_and_goes_is_read_anew() -> None:
    """What is remembered of the answer before must not be taken for this one."""
    reader = Reader(SETTINGS)
    for names in ("ab", "b", "ba", "abc", ""):
        result = [one for name in names for one in pod_of(random.Random(1), name, "")]
        told = reply(result)
        plain = read_matrix(parsed(told), settings=SETTINGS, epoch_s=EPOCH_S)
        found: Answer = reader.read(told, epoch_s=EPOCH_S)
        assert {key: list(of) for key, of in found.pods.items()} == plain


@pytest.mark.parametrize(
    "entry",
    [
        {"metric": {"pod": "p", "namespace": "n"}, "values": []},
        {"metric": {"__name__": "a", "pod": "p", "namespace": "n"}},
        {"metric": {"__name__": "a", "pod": "p", "namespace": "n"}, "values": [[1.0]]},
        {"metric": {"__name__": "a", "pod": "p", "namespace": "n"}, "values": [[1.0, "x"]]},
        {"metric": {"__name__": "a", "pod": "p", "namespace": "n"}, "values": [["NaN", "1"]]},
        {"metric": {"__name__": "a", "pod": ["p"], "namespace": "n"}, "values": [[1.0, "1"]]},
        {"metric": {"__name__": "a", "pod": "p", "namespace": "n", "job": 1}, "values": []},
        {"metric": 1, "values": []},
        1,
    ],
)
def test_what_is_no_series_is_no_answer(entry: Any) -> None:
    """Half an answer would be taken for less load."""
    with pytest.raises(PrometheusError, match="expected series of numbers"):
        Reader(SETTINGS).read(reply([entry]), epoch_s=EPOCH_S)
