"""The load that labels ask for, and what pods and the gateway tell of it to a scraper."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.parts import first
from tests.twin.kube.clients import Client, managed
from twin.kube.apiserver.errors import ApiError
from twin.spec import Delay, Server
from twin.testing.worlds import spec_of

QUICK = spec_of(
    Server(name="dep", model="m", token_distribution="fixed"),
    capacity={"A": 8},
    start_up=Delay(mean_s=1.0),
)
LOAD = {
    "inferno.server.load.rpm": "600",
    "inferno.server.load.intokens": "100",
    "inferno.server.load.outtokens": "11",
}


def metrics(text: str) -> dict[str, float]:
    """Return the samples of a page by name, those of all labels added up; it has to be
    well-formed.
    """
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "le" not in sample.labels:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def page(client: Client, path: str) -> str:
    """Return the text of a page."""
    found = client.twin.page(path)
    assert found is not None
    return found[1]


@pytest.mark.costly
def test_the_labels_set_the_rate_and_the_tokens() -> None:
    """The load emulator of a cluster does nothing but write them."""
    client = Client(QUICK)
    client.apply(managed(replicas=2, labels=LOAD))
    client.until(100.0)
    arrived = metrics(page(client, "/metrics"))
    client.until(700.0)
    told = metrics(page(client, "/metrics"))
    assert told["inferno_gateway_requests_total"] - arrived[
        "inferno_gateway_requests_total"
    ] == pytest.approx(6000, 0.05)
    prompts = told["inferno_gateway_prompt_tokens_total"] / told["inferno_gateway_requests_total"]
    outputs = (
        told["vllm:request_generation_tokens_sum"] / told["vllm:request_generation_tokens_count"]
    )
    assert (prompts, outputs) == (100.0, 11.0)


def test_a_changed_label_changes_the_rate_from_then_on() -> None:
    """And no rate means no requests."""
    client = Client(QUICK)
    client.apply(managed(labels=LOAD))
    client.until(60.0)
    client.patch("dep", {"metadata": {"labels": {"inferno.server.load.rpm": "0"}}})
    client.until(61.0)
    stopped = metrics(page(client, "/metrics"))["inferno_gateway_requests_total"]
    client.until(200.0)
    assert metrics(page(client, "/metrics"))["inferno_gateway_requests_total"] == stopped
    client.patch("dep", {"metadata": {"labels": {"inferno.server.load.rpm": "6000"}}})
    client.until(261.0)
    more = metrics(page(client, "/metrics"))["inferno_gateway_requests_total"] - stopped
    assert more == pytest.approx(6000, 0.1)


def test_the_older_label_of_tokens_is_the_length_of_an_answer() -> None:
    """Manifests of the early loop have it."""
    client = Client(QUICK)
    client.apply(
        managed(labels={"inferno.server.load.rpm": "600", "inferno.server.load.numtokens": "7"})
    )
    client.until(100.0)
    told = metrics(page(client, "/metrics"))
    assert (
        told["vllm:request_generation_tokens_sum"] / told["vllm:request_generation_tokens_count"]
        == 7.0
    )


@pytest.mark.parametrize("text", ["much", "nan", "1.2.3", "inf", ""])
def test_a_rate_that_cannot_be_read_is_none(text: str) -> None:
    """A label is any short text."""
    client = Client(QUICK)
    client.apply(managed(labels=LOAD | {"inferno.server.load.rpm": text}))
    client.until(10.0)
    assert metrics(page(client, "/metrics"))["inferno_gateway_requests_total"] == 0


def test_each_pod_answers_with_its_own_counters() -> None:
    """Directly and through the proxy of the API server; together they are the whole."""
    client = Client(QUICK)
    client.apply(managed(replicas=2, labels=LOAD))
    client.until(60.0)
    names = [pod["metadata"]["name"] for pod in client.pods()]
    pages = [metrics(page(client, f"/pods/infer/{name}/metrics")) for name in names]
    whole = metrics(page(client, "/metrics"))
    for name in (
        "vllm:request_success_total",
        "vllm:prompt_tokens_total",
        "vllm:time_to_first_token_seconds_count",
    ):
        assert sum(each[name] for each in pages) == whole[name] > 0
    path = f"/api/v1/namespaces/infer/pods/{names[0]}:8000/proxy/metrics"
    proxied = client.reply("GET", path).text
    assert proxied == page(client, f"/pods/infer/{names[0]}/metrics")


def test_a_page_tells_what_vllm_tells_of_requests_cache_and_process() -> None:
    """Loops size by them: prompts, time per token, the KV cache, and when counters were born."""
    spec = spec_of(
        Server(name="dep", model="m", token_distribution="fixed"),
        capacity={"A": 8},
        start_up=Delay(mean_s=1.0),
        kv_tokens=1600,
    )
    client = Client(spec)
    client.until(50.0)
    client.apply(managed(labels=LOAD))
    client.until(120.0)
    (pod,) = client.pods()
    text = page(client, f"/pods/infer/{pod['metadata']['name']}/metrics")
    told = metrics(text)
    finished = told["vllm:request_success_total"]
    assert finished > 0
    assert told["vllm:request_prompt_tokens_count"] == finished
    assert told["vllm:request_prompt_tokens_sum"] == 100 * finished
    per_token_s = (
        told["vllm:request_time_per_output_token_seconds_sum"]
        / told["vllm:request_time_per_output_token_seconds_count"]
    )
    mean_s = (
        told["vllm:inter_token_latency_seconds_sum"]
        / told["vllm:inter_token_latency_seconds_count"]
    )
    assert per_token_s == pytest.approx(mean_s, rel=0.05)
    born = datetime.fromisoformat(pod["status"]["startTime"]).timestamp()
    assert told["process_start_time_seconds"] == pytest.approx(born, abs=1.0)
    families = list(text_string_to_metric_families(text))
    # A type of another name is the type of nothing.
    assert all(family.type != "unknown" for family in families)
    samples = [each for family in families for each in family.samples]
    reasons = {
        each.labels["finished_reason"]: each.value
        for each in samples
        if each.name == "vllm:request_success_total"
    }
    assert reasons == {"stop": finished, "length": 0, "abort": 0}
    (cache,) = (each for each in samples if each.name == "vllm:cache_config_info")
    assert (cache.labels["block_size"], cache.labels["num_gpu_blocks"]) == ("16", "100")
    assert cache.value == 1


def test_pods_that_do_not_serve_do_not_answer() -> None:
    """A scraper must not take a starting pod for an idle one."""
    client = Client()
    client.apply(managed(labels=LOAD))
    client.until(10.0)
    (pod,) = client.pods()
    path = f"/api/v1/namespaces/infer/pods/{pod['metadata']['name']}/proxy/metrics"
    assert client.refusal("GET", path) == (503, "ServiceUnavailable")
    assert client.refusal("GET", "/api/v1/namespaces/infer/pods/nobody/proxy/metrics") == (
        404,
        "NotFound",
    )
    with pytest.raises(ApiError):
        client.twin.page("/pods/infer/nobody/metrics")
    client.until(61.0)
    assert client.reply("GET", path).text
    assert client.refusal("GET", path.replace("metrics", "admin")) == (404, "NotFound")


def test_prometheus_is_told_where_each_pod_is() -> None:
    """Its HTTP service discovery gives the labels that a cluster's would."""
    client = Client(QUICK)
    client.apply(managed(replicas=2, labels=LOAD))
    client.until(10.0)
    targets = json.loads(page(client, "/sd/pods"))
    names = sorted(pod["metadata"]["name"] for pod in client.pods())
    assert sorted(target["labels"]["pod"] for target in targets) == names
    assert {tuple(target["targets"]) for target in targets} == {("127.0.0.1:8001",)}
    for target in targets:
        assert (
            metrics(page(client, target["labels"]["__metrics_path__"]))["vllm:num_requests_running"]
            >= 0
        )


def test_requests_wait_at_the_gateway_while_no_pod_is_ready() -> None:
    """A server at zero replicas has demand all the same."""
    client = Client(QUICK)
    client.apply(managed(replicas=0, labels=LOAD))
    client.until(60.0)
    told = metrics(page(client, "/metrics"))
    assert (
        told["inferno_gateway_backlog"]
        == told["inferno_gateway_requests_total"]
        == pytest.approx(600, 0.2)
    )
    client.patch("dep", {"spec": {"replicas": 4}})
    client.until(120.0)
    assert metrics(page(client, "/metrics"))["inferno_gateway_backlog"] == 0


def test_the_batch_that_a_command_line_tells_is_in_force() -> None:
    """As on a real cluster; a label is where that tells none. The twin and the loop read it alike,
    inside a command for a shell too.
    """

    def running(labels: dict[str, str | None], args: list[str]) -> float:
        client = Client(QUICK)
        containers = [{"name": "vllm", "image": "vllm:1", "args": args}]
        body = managed(labels=LOAD | {"inferno.server.load.outtokens": "1000", **labels})
        body["spec"]["template"]["spec"]["containers"] = containers
        client.apply(body)
        client.until(30.0)
        return metrics(page(client, "/metrics"))["vllm:num_requests_running"]

    key = "inferno.server.allocation.maxbatchsize"
    assert running({key: "3"}, []) == 3
    assert running({key: "3"}, ["--max-num-seqs=5"]) == 5
    assert running({key: None}, ["--max-num-seqs=5"]) == 5
    assert running({key: None}, ["--max-num-seqs", "6"]) == 6
    # Each engine of data parallelism has a batch of its own.
    assert running({key: None}, ["--max-num-seqs=3", "--data-parallel-size", "2"]) == 6
    assert running({key: None}, ["--max-num-seqs=3", "-dp", "4", "-dpl=2"]) == 6
    assert running({key: "3"}, ["--max-num-seqs=5", "--data-parallel-size=2"]) == 10
    assert running({key: None}, ["sh", "-c", "N=7; vllm serve m --max-num-seqs $N"]) == 7
    assert running({key: None}, ["--max-running-requests", "8"]) == 8
    # Of one given twice the last counts, and engines take _ for -.
    assert running({key: None}, ["--max-num-seqs", "6", "--max_num_seqs=4"]) == 4
    assert running({key: None}, []) > 50


def test_a_pod_says_in_its_log_that_it_is_simulated() -> None:
    """`kubectl logs` must not fail, nor pretend."""
    client = Client(QUICK)
    client.apply(managed())
    client.until(10.0)
    (pod,) = client.pods()
    text = client.reply("GET", f"/api/v1/namespaces/infer/pods/{pod['metadata']['name']}/log").text
    assert text is not None
    assert "simulated" in text
    assert "Ready=True" in text
    assert client.refusal("GET", "/api/v1/namespaces/infer/pods/nobody/log") == (404, "NotFound")


@pytest.mark.parametrize(
    "labels",
    first(
        2,
        [
            {"inferno.server.load.rpm": "1e300"},
            {"inferno.server.load.rpm": "1e8"},
            {"inferno.server.load.intokens": "1e300"},
            {"inferno.server.load.outtokens": "1e8"},
            {"inferno.server.load.outtokens": "9" * 63},
            {"inferno.server.allocation.maxbatchsize": "9" * 63},
        ],
    ),
)
def test_a_figure_out_of_bounds_stops_at_most_its_own_server(labels: dict[str, str]) -> None:
    """One slip of a client must not freeze the world of all others."""
    client = Client(QUICK)
    client.apply(managed("good", labels=LOAD))
    client.apply(managed("bad", labels={**LOAD, **labels}))
    client.until(60.0)
    arrived = {
        sample.labels["deployment"]: sample.value
        for family in text_string_to_metric_families(page(client, "/metrics"))
        for sample in family.samples
        if sample.name == "inferno_gateway_requests_total"
    }
    assert arrived["good"] == pytest.approx(600, rel=0.2)
    if "inferno.server.allocation.maxbatchsize" not in labels:
        assert arrived["bad"] == 0
        assert ("Deployment", "LoadIgnored", "Warning") in client.events()
    client.patch("bad", {"metadata": {"labels": LOAD}})
    client.until(120.0)
    assert metrics(page(client, "/metrics"))["inferno_gateway_requests_total"] > 1500


@pytest.mark.parametrize(
    "words", [["--max-num-seqs", "9" * 5000], ["--max-num-seqs=" + "9" * 5000]]
)
def test_an_argument_of_thousands_of_digits_is_no_batch_size(words: list[str]) -> None:
    """Python refuses to read it, which must not end the world."""
    client = Client(QUICK)
    container = {"name": "vllm", "image": "vllm:1", "args": words}
    labels = {**LOAD, "inferno.server.allocation.maxbatchsize": ""}
    client.apply(managed("dep", labels=labels, template={"containers": [container]}))
    client.until(60.0)
    assert client.words() == ["Running 1/1"]


@pytest.mark.costly
def test_latest_is_the_answer_of_the_go_server_sim() -> None:
    """A Go collector reads load, throughput and latencies of each pod from it."""
    client = Client(QUICK)
    client.apply(managed(labels=LOAD))
    client.until(1.5)
    (pod,) = client.pods()
    path = f"/pods/infer/{pod['metadata']['name']}/latest"
    with pytest.raises(ApiError, match="no result yet"):
        page(client, path)
    client.until(200.0)
    page(client, path)
    client.until(800.0)
    told = json.loads(page(client, path))
    effective, result = told["effectiveInput"], told["result"]
    assert effective["RPS"] == pytest.approx(10.0, 0.1)
    assert (effective["avgInputTokens"], effective["avgOutputTokens"]) == (100.0, 11.0)
    assert (effective["accelerator"], effective["model"]) == ("A", "m")
    assert effective["maxConcurrency"] == 4
    assert result["throughput"] == pytest.approx(effective["RPS"], 0.02)
    inside_ms = result["avgTTFT"] + 10 * result["avgITL"]
    assert result["avgRespTime"] == pytest.approx(inside_ms, 0.02)
    assert 0.0 <= result["avgWaitTime"] < result["avgTTFT"]
    assert told["completedAt"] == "2026-01-01T00:13:20Z"
