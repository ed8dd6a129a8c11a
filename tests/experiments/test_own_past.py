"""Claims about the past of an import where it is no even one: a server that moved to another
accelerator, pods that nobody scrapes, metrics that an engine does not have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from experiments.own_system.cluster import facts_of, read_nodes
from experiments.own_system.directory import Imported, Measured, imported
from experiments.own_system.importing import Asked, Period, asked_past
from experiments.own_system.templates import alike, engine, model_and_gpus
from experiments.own_system.writing import write_import
from loop.backends.metrics.api import PrometheusSettings
from loop.backends.metrics.prometheus import Prometheus
from loop.signals.history import History
from tests.experiments.test_own_system import KNOWN, SHEETS
from tests.loop.kube_objects import EPOCH_S, TEMPLATE_HASH, node, pod, server

Json = dict[str, Any]

HOURS = 8.0
MOVED_S = 14_400.0
DAY_S = 86_400.0
OLD, NEW = "dep1-5f6d7c8b9-", f"dep1-{TEMPLATE_HASH}-"
COUNTERS = {
    "vllm:request_success_total": 1.0,
    "vllm:time_to_first_token_seconds_count": 1.0,
    "vllm:prompt_tokens_total": 100.0,
    "vllm:request_generation_tokens_count": 1.0,
    "vllm:request_generation_tokens_sum": 100.0,
    "vllm:generation_tokens_total": 100.0,
    "vllm:inter_token_latency_seconds_count": 99.0,
}


STARTED = "process_start_time_seconds"


@dataclass(frozen=True, kw_only=True)
class Told:
    """A pod that served 60 requests a minute from *begin_s* to *end_s* of the past."""

    begin_s: float = 0.0
    end_s: float = HOURS * 3600.0
    itl_s: float = 0.01
    without: tuple[str, ...] = ()
    workers: tuple[float, ...] = (0.0,)

    def value(self, metric: str, t_s: float) -> float:
        """Return what *metric* has at a time of the past; it repeats itself by load, hour by
        hour, so that there are several steady loads.
        """
        rate = [0.5, 1.0, 1.5, 2.0]
        hours = int((t_s - self.begin_s) // 3600.0)
        whole = sum(rate[hour % 4] for hour in range(hours)) * 3600.0
        served = whole + rate[hours % 4] * (t_s - self.begin_s - 3600.0 * hours)
        if metric == "vllm:num_requests_running":
            return 3.0
        # Who answers at the port at this minute: of several each has done a share, besides what it
        # had before.
        number = int(t_s // 60.0 * 7919.0) % 13 % len(self.workers)
        if metric == STARTED:
            return EPOCH_S + self.workers[number]
        served = served / len(self.workers) + self.workers[number]
        each = COUNTERS | {
            "vllm:time_to_first_token_seconds_sum": 5.0 * self.itl_s,
            "vllm:inter_token_latency_seconds_sum": 99.0 * self.itl_s,
        }
        return each[metric] * served


METRICS = (
    *COUNTERS,
    "vllm:time_to_first_token_seconds_sum",
    "vllm:inter_token_latency_seconds_sum",
    "vllm:num_requests_running",
)


def past_of(
    pods: Mapping[str, Told],
    *,
    present: tuple[str, ...] = ("aaaaa", "bbbbb"),
    sets: Sequence[Json] = (),
    refuses: str = "",
) -> Measured:
    """Return the past of a Deployment of which Prometheus knew *pods*, and the cluster *present*
    ones that are two days old, and ReplicaSets. Questions for what it *refuses* fail.
    """

    def handle(request: httpx.Request) -> httpx.Response:
        asked = {key: value[0] for key, value in parse_qs(request.content.decode()).items()}
        if refuses and refuses in asked["query"]:
            return httpx.Response(503, text="overloaded")
        first_s, last_s, step_s = (float(asked[key]) for key in ("start", "end", "step"))
        times_s = [first_s + k * step_s for k in range(int((last_s - first_s) / step_s) + 1)]
        result = [
            {
                "metric": {"__name__": metric, "namespace": "infer", "pod": name},
                "values": [
                    [at_s, f"{told.value(metric, at_s - EPOCH_S)}"]
                    for at_s in times_s
                    if told.begin_s <= at_s - EPOCH_S <= told.end_s
                ],
            }
            for name, told in pods.items()
            for metric in ([STARTED] if STARTED in asked["query"] else METRICS)
            if metric not in told.without
        ]
        data = {"resultType": "matrix", "result": [row for row in result if row["values"]]}
        return httpx.Response(200, json={"status": "success", "data": data})

    end_s = EPOCH_S + HOURS * 3600.0
    asked = Asked(period=Period(last_s=HOURS * 3600.0, end_s=end_s))
    one = server(*(pod(name, since_s=-2 * DAY_S, created_s=-2 * DAY_S) for name in present))
    transport = httpx.MockTransport(handle)
    settings = PrometheusSettings(url="http://prometheus:9090")
    with closing(Prometheus(settings, wall_s=lambda: end_s, transport=transport)) as source:
        # Seconds of pods are those since EPOCH_S.
        measured, _ = asked_past(
            source,
            [one],
            asked,
            same=alike(sets, of=engine),
            now_s=EPOCH_S,
            progress=lambda _share: None,
        )
    return measured


def itl_ms(history: History) -> float | None:
    whole = history.over(slice(None))
    return whole and whole.itl_ms


def import_of(measured: Measured) -> Imported:
    """Return an import of the Deployment with what was *measured*."""
    one = server(pod("aaaaa"), pod("bbbbb"))
    nodes = read_nodes([node(product="NVIDIA-H100-80GB-HBM3")], types=SHEETS, told=[])
    found = facts_of(one, nodes=nodes, models_told=("llama-3.1-8b",))
    return imported([found], capacity={"H100": 8}, known=KNOWN, measured=measured, fit=True)


def test_a_server_that_moved_has_the_latencies_of_where_it_is() -> None:
    """Half of the past on slower GPUs made a latency model of neither; the load is that of all."""
    slow = Told(end_s=MOVED_S, itl_s=0.05)
    fast = Told(begin_s=MOVED_S, itl_s=0.01)
    measured = past_of(
        {f"{OLD}aaaaa": slow, f"{OLD}bbbbb": slow, f"{NEW}aaaaa": fast, f"{NEW}bbbbb": fast}
    )
    whole = measured.histories["s1"].over(slice(None))
    assert whole is not None
    assert whole.load.rate_rpm == pytest.approx(150.0, rel=0.01)
    assert itl_ms(measured.latencies["s1"]) == pytest.approx(10.0)
    (line,) = measured.problems
    assert line.startswith("s1: its latencies before ")
    assert "which are left out: pods of another template had them" in line


def test_pods_of_one_template_that_come_and_go_are_one_engine() -> None:
    """Nothing is left out of a server that was only scaled, and nothing is told."""
    half = Told(end_s=MOVED_S)
    measured = past_of({f"{NEW}aaaaa": Told(), f"{NEW}bbbbb": Told(), f"{NEW}ended": half})
    assert measured.problems == ()
    assert measured.latencies["s1"] is measured.histories["s1"]


def replica_set(stem: str, *, revision: int, batch: int = 64, **template: Json) -> Json:
    """Return the ReplicaSet of pods whose names begin with *stem*."""
    name = stem.removesuffix("-")
    containers = [
        {
            "name": "vllm",
            "image": "vllm/vllm-openai:v0.11.0",
            "args": ["serve", "m", "--max-num-seqs", str(batch)],
            "resources": {"limits": {"nvidia.com/gpu": "1"}},
        }
    ]
    metadata = {"labels": {"app": "dep1", "pod-template-hash": name.rpartition("-")[2]}}
    return {
        "metadata": {
            "name": name,
            "namespace": "infer",
            "annotations": {"deployment.kubernetes.io/revision": str(revision)},
            "ownerReferences": [{"kind": "Deployment", "name": "dep1", "controller": True}],
        },
        "spec": {
            "template": {
                "metadata": {**metadata, **template.get("metadata", {})},
                "spec": {"containers": containers, **template.get("spec", {})},
            }
        },
    }


RESTARTED = {"annotations": {"kubectl.kubernetes.io/restartedAt": "2026-11-29T10:00:00Z"}}
SETTINGS = {"volumes": [{"name": "settings", "configMap": {"name": "vllm"}}]}
TOKEN = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}}


def fetching(model: str, *, token: bool = False, **how: Any) -> Json:
    """Return a template in which an init container fetches the model."""
    first = {"name": "storage-initializer", "args": [f"s3://b/{model}", "/mnt/models"], **how}
    return {"spec": {"initContainers": [{**first, "env": [TOKEN]} if token else first]}}


def with_sidecar(image: str, *, container: Json | None = None, gpus: str = "0") -> Json:
    """Return a template with a sidecar before *container* (else the engine)."""
    sidecar = {
        "name": "beside",
        "image": image,
        "restartPolicy": "Always",
        "resources": {"limits": {"nvidia.com/gpu": gpus}},
    }
    spec: Json = {"initContainers": [sidecar]}
    if container is not None:
        spec["containers"] = [container]
    return {"spec": spec}


def with_weights_of(image: str) -> Json:
    """Return a template in which a container beside the engine has the weights."""
    mounts = {"volumeMounts": [{"name": "weights", "mountPath": "/mnt"}]}
    engine = {"name": "vllm", "resources": {"limits": {"nvidia.com/gpu": "1"}}, **mounts}
    return {"spec": {"containers": [engine, {"name": "weights", "image": image, **mounts}]}}


PROXY = {"name": "proxy", "image": "envoy:1"}


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (fetching("llama-70b"), fetching("llama-8b"), False),
        (fetching("m", image="llama:70b"), fetching("m", image="llama:8b"), False),
        (
            with_sidecar("vllm:1", container=PROXY, gpus="1"),
            with_sidecar("sglang:1", container=PROXY, gpus="1"),
            False,
        ),
        (with_weights_of("llama:70b"), with_weights_of("llama:8b"), False),
        (with_sidecar("proxy:1"), with_sidecar("proxy:2"), True),
        # A restart reads a Secret anew; a token is no setting.
        *(
            (before, {**before, "metadata": RESTARTED}, same)
            for before, same in (
                (fetching("m", envFrom=[{"secretRef": {"name": "settings"}}]), False),
                ({"spec": {"volumes": [{"name": "s", "secret": {"secretName": "s"}}]}}, False),
                (fetching("m", token=True), True),
            )
        ),
    ],
)
def test_what_is_fetched_for_an_engine_is_of_the_engine(
    before: Json, after: Json, same: bool
) -> None:
    """Of an engine that serves /mnt/models only who fetches them says which model it is: two were
    fitted together.
    """
    sets = [replica_set(OLD, revision=1, **before), replica_set(NEW, revision=2, **after)]
    assert alike(sets, of=engine).stems["infer"] == {NEW: NEW, OLD: NEW if same else OLD}


def serving_pods(image: str, *arguments: str, gpus: str = "1", **spec: Any) -> Json:
    """Return a template whose engine is *image* with *arguments*."""
    limits = {"limits": {"nvidia.com/gpu": gpus}}
    one = {"name": "vllm", "image": image, "args": list(arguments), "resources": limits}
    return {"spec": {"containers": [one], **spec}}


@pytest.mark.parametrize(
    ("after", "same"),
    [
        (serving_pods("vllm:2", "serve", "m"), True),
        (serving_pods("vllm:1", "serve", "m", "--quantization=fp8"), True),
        (serving_pods("vllm:1", "serve", "other"), False),
        (serving_pods("vllm:2", "serve", "m", gpus="2"), False),
        (serving_pods("vllm:2", "serve", "m", nodeSelector={"gpu": "H100"}), False),
        (serving_pods("vllm:2"), False),
    ],
)
def test_another_version_of_the_engine_is_what_drift_is_to_find(after: Json, same: bool) -> None:
    """A rollout at the moment at which latencies moved left nothing to compare them with."""
    before = serving_pods("vllm:1", "serve", "m")
    sets = [replica_set(OLD, revision=1, **before), replica_set(NEW, revision=2, **after)]
    assert alike(sets, of=engine).stems["infer"][OLD] == OLD
    assert alike(sets, of=model_and_gpus).stems["infer"][OLD] == (NEW if same else OLD)


@pytest.mark.parametrize(
    ("after", "same"),
    [
        (("serve", "m", "--served-model-name", "other"), True),
        (("serve", "other", "--served-model-name", "chat"), False),
        (("--model=other", "--served-model-name=chat"), False),
        (("--model=m",), True),
    ],
)
def test_what_clients_call_a_model_is_not_what_is_loaded(
    after: tuple[str, ...], same: bool
) -> None:
    """Who keeps the name while the model becomes another one has no drift of the engine."""
    before = serving_pods("vllm:1", "serve", "m", "--served-model-name", "chat")
    sets = [
        replica_set(OLD, revision=1, **before),
        replica_set(NEW, revision=2, **serving_pods("vllm:1", *after)),
    ]
    assert alike(sets, of=model_and_gpus).stems["infer"][OLD] == (NEW if same else OLD)


@pytest.mark.parametrize("batch", [64, 96])
def test_a_restart_or_another_batch_leaves_the_latencies_of_before(batch: int) -> None:
    """A rollout of minutes ago left a week out: by ReplicaSets it is known to be the same engine,
    and its points may have the larger batch of the two.
    """
    last_s = HOURS * 3600.0 - 300.0
    pods = {
        **{f"{OLD}{name}": Told(end_s=last_s) for name in ("aaaaa", "bbbbb")},
        **{f"{NEW}{name}": Told(begin_s=last_s) for name in ("aaaaa", "bbbbb")},
    }
    sets = [
        replica_set(OLD, revision=9, batch=batch),
        replica_set(NEW, revision=10, metadata=RESTARTED),
    ]
    without = past_of(pods)
    assert any("which are left out" in line for line in without.problems)
    measured = past_of(pods, sets=sets)
    assert measured.problems == ()
    assert measured.latencies["s1"] is measured.histories["s1"]
    assert measured.batches == {"s1": batch}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"spec": {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-L4"}}}),
        ({}, {"metadata": {"annotations": {"checksum/config": "b0"}}}),
        # A restart reads the map anew, and nobody knows what it had.
        ({"spec": SETTINGS}, {"spec": SETTINGS, "metadata": RESTARTED}),
        # Templates that are equal in all: something else tells them apart.
        ({}, {}),
    ],
)
def test_what_may_be_another_engine_stays_apart(before: Json, after: Json) -> None:
    """Other GPUs, or settings that stand elsewhere, make other latencies."""
    slow, fast = Told(end_s=MOVED_S, itl_s=0.05), Told(begin_s=MOVED_S)
    sets = [replica_set(OLD, revision=1, **before), replica_set(NEW, revision=2, **after)]
    measured = past_of({f"{OLD}aaaaa": slow, f"{NEW}aaaaa": fast}, sets=sets)
    assert itl_ms(measured.latencies["s1"]) == pytest.approx(10.0)
    assert any("which are left out" in line for line in measured.problems)


@pytest.mark.costly
def test_latencies_of_pods_that_have_gone_are_told() -> None:
    """A rollout of today makes the pods of the whole past those of another template."""
    measured = past_of({f"{OLD}aaaaa": Told(), f"{OLD}bbbbb": Told()})
    assert itl_ms(measured.latencies["s1"]) == pytest.approx(10.0)
    assert any("whether its latencies are those of its pods of now" in s for s in measured.problems)
    told = [of for of, what in import_of(measured).unknown if "those of its pods of now" in what]
    assert told == ["s1"], "not of the cluster"


@pytest.mark.parametrize("births", [True, False])
def test_workers_that_answer_by_turns_are_told_apart_or_left_out(births: bool) -> None:
    """What one shows after another was taken for requests: several times what came was imported."""
    told = Told(workers=(1000.0, 40.0), without=() if births else (STARTED,))
    measured = past_of({f"{NEW}aaaaa": told}, present=("aaaaa",))
    (history,) = measured.histories.values()
    whole = history.over(slice(None))
    if births:
        assert whole is not None
        assert whole.load.rate_rpm == pytest.approx(75.0, rel=0.05)
    else:
        assert whole is None
    line = "s1: counters of a pod fall again and again, and nobody tells when its processes began"
    assert any(one.startswith(line) for one in measured.problems) != births


def test_births_that_could_not_be_asked_for_are_told() -> None:
    """That nobody tells them is no reason to think that they are not to be had."""
    told = Told(workers=(1000.0, 40.0))
    measured = past_of({f"{NEW}aaaaa": told}, present=("aaaaa",), refuses=STARTED)
    (history,) = measured.histories.values()
    assert history.over(slice(None)) is None
    failed = [one for one in measured.problems if "when processes began" in one]
    assert failed
    assert all("503" in one for one in failed)


def test_the_load_of_pods_that_nobody_scrapes_is_told() -> None:
    """One of four, and a quarter of the requests looked like all of them."""
    four = ("aaaaa", "bbbbb", "ccccc", "ddddd")
    assert past_of({f"{NEW}{name}": Told() for name in four}, present=four).problems == ()
    (line,) = past_of({f"{NEW}aaaaa": Told()}, present=four).problems
    assert line.startswith("s1: the load of 3 of its 4 ready pods, which Prometheus has no metrics")


@pytest.mark.parametrize(
    ("without", "said"),
    [
        (("vllm:prompt_tokens_total",), "the tokens of its prompts: 512 is taken"),
        (
            (
                "vllm:generation_tokens_total",
                "vllm:request_generation_tokens_count",
                "vllm:request_generation_tokens_sum",
            ),
            "the tokens of its answers: 128 is taken",
        ),
        (
            ("vllm:inter_token_latency_seconds_count", "vllm:inter_token_latency_seconds_sum"),
            "nobody measured its ITL",
        ),
    ],
)
def test_a_metric_that_an_engine_does_not_have_is_no_zero(
    tmp_path: Path, without: tuple[str, ...], said: str
) -> None:
    """Prompts of no tokens, and latencies of none, stood in the files without a word."""
    told = Told(without=without)
    found = import_of(past_of({f"{NEW}aaaaa": told, f"{NEW}bbbbb": told}))
    assert any(said in line for _, line in found.unknown)
    (row,) = found.files["server-data.json"]["servers"]
    load = row["currentAlloc"]["load"]
    assert load["arrivalRate"] == pytest.approx(150.0, rel=0.01)
    assert min(load["avgInTokens"], load["avgOutTokens"]) >= 100.0
    write_import(found, tmp_path / "out", told=())
    text = (tmp_path / "out" / "measured.csv").read_text()
    assert ",0," not in text
