"""Claims about an import: what a Deployment tells of its model, its GPUs and its engine, and what
is made of names and of a past.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest

from emulator.rates import Rates
from experiments.own_system.base import read_base
from experiments.own_system.cluster import Facts, facts_of, places_of, read_nodes, selected
from experiments.own_system.directory import Imported, Measured, imported
from experiments.own_system.importing import Period, seconds
from experiments.own_system.known import Known, find_config, find_sheet
from experiments.own_system.load import ANSWERS, PROMPTS, rates_of, variation_of
from experiments.own_system.points import measured_percentiles, points_of
from experiments.own_system.writing import write_import
from inferno.cli.datasheets import accelerators, find_model
from loop.backends.kube import labels as names
from loop.backends.kube.read import read_servers
from loop.schema.reading import read_system
from loop.signals.history import History, empty_history
from loop.signals.names import NAMES
from loop.signals.processes import Series
from loop.signals.series import tracks_of
from tests.loop.kube_objects import EPOCH_S, deployment, node, pod
from twin.arrivals import token_counts
from twin.engine.replica import Replica
from twin.request import Request
from twin.serving.metrics import FinishedTotals, exposition
from twin.spec import LatencyModel, SpecError

SMALL = Path(__file__).resolve().parents[2] / "sample-data" / "small"
SHEETS = accelerators()
MODELS = ("llama-3.1-8b", "llama-2-13b", "llama-2-7b", "qwen2.5-14b", "mixtral-8x7b")
KNOWN = Known(sheets=SHEETS, configs={name: find_model(name) for name in MODELS})
NO_LABELS = (names.MODEL, names.ACCELERATOR, names.MAX_BATCH)


def facts(container: dict[str, Any], *, without: tuple[str, ...] = NO_LABELS, **more: Any) -> Facts:
    """Return what is found of a Deployment with this container, two pods on a node of H100."""
    template = {"spec": {"containers": [{"name": "vllm", **container}]}}
    obj = deployment(
        without=without, spec={"template": {"metadata": {"labels": {"app": "dep1"}}, **template}}
    )
    pods = [pod("a"), pod("b", since_s=-540.0)]
    found = read_servers([obj], pods, epoch_s=EPOCH_S)
    nodes = read_nodes([node(product="NVIDIA-H100-80GB-HBM3")], types=SHEETS, told=[])
    return facts_of(found.by_name["s1"], nodes=nodes, **more)


def test_a_command_line_tells_model_batch_budget_and_version() -> None:
    """As people write them: words, equals signs, a command for a shell."""
    limits = {"resources": {"limits": {"nvidia.com/gpu": "2"}}}
    for words in (
        {"args": ["serve", "org/llama-3.1-8b", "--max-num-seqs", "64"]},
        {"command": ["vllm", "serve"], "args": ["--model=org/llama-3.1-8b", "--max_num_seqs=64"]},
        {
            "command": [
                "sh",
                "-c",
                "exec vllm serve 'org/llama-3.1-8b' --max-num-seqs 64 # --model x",
            ]
        },
    ):
        image = "registry:5000/vllm/vllm-openai:v0.16.1"
        found = facts({**words, **limits, "image": image})
        assert (found.model, found.max_batch) == ("org/llama-3.1-8b", 64)
        assert (found.type, found.gpus, found.accelerator) == ("H100", 2, "2xH100")
        assert found.scheduling == "async"
        assert found.start_up_s == pytest.approx(80.0)
        (budget,) = found.unknown
        assert budget.startswith("the tokens of an iteration")


def begun(found: Facts, *, capacity: dict[str, int]) -> Imported:
    """Return an import of *found* that begins with the small sample system."""
    known = Known(sheets=SHEETS, configs={}, base=read_base(SMALL))
    return imported(
        [found], capacity=capacity, known=known, measured=Measured(histories={}, source="tests")
    )


def test_an_import_keeps_the_data_that_it_begins_with(tmp_path: Path) -> None:
    """Who has measured an engine, and negotiated prices, has better figures than data sheets."""
    base = read_base(SMALL)
    template = {"args": ["serve", "Llama-3.1-8B"], "resources": {"limits": {"nvidia.com/gpu": 1}}}
    found = replace(facts(template), name="Premium-Llama-3.1-8B", service_class="Premium")
    told = begun(found, capacity={"H100": 5})
    write_import(told, tmp_path, told=())
    system = read_system(tmp_path)
    models = {(row["name"], row["acc"]): row for row in told.files["model-data.json"]["models"]}
    assert models == base.models
    assert told.files["accelerator-data.json"]["accelerators"] == [*base.accelerators.values()]
    assert system.classes == read_system(SMALL).classes
    # What the cluster tells: replicas, start-up, GPUs.
    (server,) = told.files["server-data.json"]["servers"]
    assert server["currentAlloc"]["numReplicas"] == found.replicas
    assert server["maxBatchSize"] == read_system(SMALL).servers[found.name].max_batch
    engines = {(row["model"], row["acc"]): row for row in told.files["twin-data.json"]["engines"]}
    assert engines["Llama-3.1-8B", "H100"]["startUp"]["meanS"] == found.start_up_s
    assert system.capacity["H100"] == 5
    assert system.capacity["L40S"] == 0
    assert told.kept[-1].startswith("nothing of Premium-llama_13b, Bronze-Qwen2.5-14B")
    assert not [line for _, line in told.unknown if "tokens of an iteration" in line]


def test_what_the_data_lack_is_taken_and_told() -> None:
    """A class without the model, nodes that nobody may read, another name of the same GPUs."""
    found = replace(
        facts({"args": ["serve", "Llama-3.1-8B"], "resources": {"limits": {"nvidia.com/gpu": 1}}}),
        accelerator="H100-SXM",
        service_class="Bronze",
    )
    told = begun(found, capacity={})
    (server,) = told.files["server-data.json"]["servers"]
    assert server["currentAlloc"]["accelerator"] == "H100"
    assert {row["type"]: row["count"] for row in told.files["capacity-data.json"]["count"]} == dict(
        read_base(SMALL).capacity
    )
    (line,) = [line for of, line in told.unknown if of == "Bronze"]
    assert line.startswith("its objectives for Llama-3.1-8B: those of ")


def test_start_ups_of_a_sped_twin_are_told_in_its_own_time() -> None:
    """Its engines of a minute were written as six seconds beside loads in its own time."""
    took_s, sped_s = facts({}).start_up_s, facts({}, speed=10.0).start_up_s
    assert took_s is not None
    assert sped_s == pytest.approx(10.0 * took_s)


def test_what_nobody_tells_is_said() -> None:
    """One line each, with what is assumed."""
    found = facts({})
    assert found.model == ""
    assert [line.split(":")[0] for line in found.unknown] == [
        "which model it serves",
        "how many GPUs a replica has",
        "the batch size",
        "the tokens of an iteration",
        "the version of its engine, so how it plans its iterations",
    ]
    assert facts({}, models_told={"m"}).model == "m"
    told = begun(replace(found, type=""), capacity={})
    assert (found.name, "which model it serves and what it runs on, so it is left out") in (
        told.unknown
    )
    assert told.files["server-data.json"]["servers"] == []
    several = facts({}, models_told={"m", "n"})
    assert "its engines serve m, n" in several.unknown[0]


@pytest.mark.parametrize(
    ("model", "kind", "said"),
    [
        ("llama-2-13b", "G2", "no data sheet of G2 GPUs (--data DIR, a data directory that knows"),
        ("own-7b", "H100", "no config of this name is known (give --config own-7b=FILE)"),
    ],
)
def test_a_server_without_a_data_sheet_is_told_what_would_help(
    model: str, kind: str, said: str
) -> None:
    """A config does not help where the GPUs are those that nobody knows."""
    found = replace(facts({}), model=model, type=kind, accelerator=kind)
    told = begun(found, capacity={})
    (line,) = [line for _, line in told.unknown if "its latency model" in line]
    assert said in line
    assert line.endswith("and too little was measured; it is left out")


def test_a_server_without_pods_runs_on_what_its_pods_may_be_put_on() -> None:
    """Scaled to zero for the night, or waiting for GPUs: its node selector still says it."""
    told: list[str] = []
    objects = [
        node(product="NVIDIA-H100-80GB-HBM3"),
        node("l40s", product="NVIDIA-L40S"),
        node("bare", gpus=0, product=""),
    ]
    nodes = read_nodes(objects, types=SHEETS, told=told)
    for product, kind in (("NVIDIA-L40S", "L40S"), ("NVIDIA-B200", ""), (None, "")):
        spec: dict[str, Any] = {"containers": [{"name": "vllm"}]}
        if product is not None:
            spec["nodeSelector"] = {"nvidia.com/gpu.product": product}
        template = {"metadata": {"labels": {"app": "dep1"}}, "spec": spec}
        obj = deployment(without=NO_LABELS, spec={"template": template})
        server = read_servers([obj], [], epoch_s=EPOCH_S).by_name["s1"]
        found = facts_of(server, nodes=nodes, places=places_of(spec, objects))
        assert found.type == kind
        line = next(line for line in found.unknown if line.startswith("what it runs on: "))
        assert ("L40S is assumed" in line) == (kind == "L40S")


def test_a_node_that_is_none_stops_no_import() -> None:
    """It is told of, and left alone, where the GPUs of nodes are read."""
    spec = {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-L40S"}}
    objects = [{}, {"metadata": {}}, node("l40s", product="NVIDIA-L40S")]
    assert places_of(spec, objects) == {"l40s"}


def test_labels_come_before_what_is_guessed() -> None:
    """A managed Deployment says what it is."""
    found = facts({"args": ["serve", "other"]}, without=())
    assert (found.model, found.accelerator, found.max_batch) == ("llama_8b", "H100", 64)


def test_deployments_are_selected_by_labels() -> None:
    """Others than the managed ones."""
    objects = [
        deployment("a", labels={"app": "vllm", "tier": "x"}, without=(names.MANAGED,)),
        deployment("b", labels={"app": "web"}, without=(names.MANAGED,)),
    ]
    assert [one["metadata"]["name"] for one in selected(objects, "app=vllm,tier")] == ["a"]
    assert len(selected(objects, "app")) == 2
    with pytest.raises(SpecError, match="expected key=value"):
        selected(objects, "=x")


@pytest.mark.parametrize(
    ("model", "config"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("llama_13b", "llama-2-13b"),
        ("Qwen/Qwen2.5-14B-Instruct-AWQ", "qwen2.5-14b"),
        ("mistralai/Mixtral-8x7B-v0.1", "mixtral-8x7b"),
        ("mixtral_8_7b", "mixtral-8x7b"),
        ("Llama-2-7b-chat-hf", "llama-2-7b"),
        ("llama-3-8b", None),  # another generation
        ("granite_13b", None),
        ("llama", None),  # of which size?
        ("", None),
    ],
)
def test_a_model_is_known_by_the_words_of_its_name(model: str, config: str | None) -> None:
    """Of two that would fit none is taken."""
    found = find_config(model, KNOWN)
    assert (found.name if found else None) == (config and KNOWN.configs[config].name)


@pytest.mark.parametrize(
    ("product", "sheet"),
    [
        ("NVIDIA-H100-80GB-HBM3", "H100"),
        ("NVIDIA-A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA-GeForce-RTX-4090", "RTX4090"),
        ("NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition", "RTXPRO6000"),
        ("AMD_Instinct_MI300X_OAM", "MI300X"),
        ("Tesla-T4", None),
        ("", None),
    ],
)
def test_gpus_are_known_by_what_nodes_call_them(product: str, sheet: str | None) -> None:
    """Product names of drivers, not of data sheets."""
    found = find_sheet(product, SHEETS)
    assert (found.name if found else None) == sheet


@pytest.mark.parametrize(
    ("text", "told"), [("7d", 604_800.0), ("1h30m", 5400.0), ("2w", 1_209_600.0)]
)
def test_times_are_read_as_people_write_them(text: str, told: float) -> None:
    """As Prometheus does."""
    assert seconds(text, option="last") == told
    with pytest.raises(SpecError):
        seconds(text + "!", option="last")


def test_a_long_past_has_longer_steps() -> None:
    """So many points would be of no use to anybody."""
    assert Period(last_s=604_800.0).step == 60.0
    assert Period(last_s=90 * 86_400.0).step == 420.0


@pytest.mark.parametrize("cv", [0.1, 0.5, 1.2])
def test_how_lengths_vary_is_read_from_buckets(cv: float) -> None:
    """Within a tenth, by the bounds that vLLM has; too few, or all in one bucket, tell nothing."""
    lengths = token_counts(
        np.random.default_rng(1), 5000, mean=700.0, distribution="lognormal", cv=cv
    )
    bounds = [float(step * 10**power) for power in range(5) for step in (1, 2, 5)] + [np.inf]

    def buckets(name: str, values: np.ndarray) -> list[tuple[dict[str, str], float]]:
        return [
            ({"__name__": name, "le": f"{bound:g}".replace("inf", "+Inf")}, (values <= bound).sum())
            for bound in bounds
        ]

    def load(*means: float) -> Rates:
        """Return a load of minutes of these mean lengths."""
        tokens = np.array(means)
        return Rates(
            times_s=60.0 * np.arange(len(means)),
            rates_rpm=np.ones(len(means)),
            in_tokens=tokens,
            out_tokens=np.ones(len(means)),
            end_s=60.0 * len(means),
        )

    told = [*buckets(PROMPTS[0], lengths), *buckets(ANSWERS[0], lengths[:0])]
    assert variation_of(told, load(700.0, 700.0)) == pytest.approx(cv, rel=0.1)
    moving = variation_of(told, load(630.0, 770.0))
    assert moving == pytest.approx(max(cv**2 - 0.01, 0.0) ** 0.5, rel=0.1, abs=0.06)
    assert variation_of(buckets(PROMPTS[0], lengths[:50]), load(700.0, 700.0)) is None
    last = [one for one in told if one[0]["le"] == "+Inf"]
    assert variation_of(last, load(700.0, 700.0)) is None


@pytest.mark.parametrize(("mean", "told"), [(1.05, False), (4.0, True)])
def test_answers_of_a_token_do_not_hide_how_prompts_vary(mean: float, told: bool) -> None:
    """A classifier answers with one token: what its answers vary by is no property of prompts."""
    rng = np.random.default_rng(1)
    bounds = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, np.inf]
    values = token_counts(rng, 5000, mean=mean, distribution="lognormal", cv=0.5)
    buckets = [
        ({"__name__": ANSWERS[0], "le": f"{bound:g}"}, float((values <= bound).sum()))
        for bound in bounds
    ]
    tokens = np.full(2, mean)
    load = Rates(
        times_s=np.array([0.0, 60.0]),
        rates_rpm=np.ones(2),
        in_tokens=tokens,
        out_tokens=tokens,
        end_s=120.0,
    )
    found = variation_of(buckets, load)
    assert found == (pytest.approx(0.5, rel=0.1) if told else None)


# -- the past


def page(minutes: list[float], *, rate: float = 10.0, inside: float = 0.0) -> list[Series]:
    """Return the series of one process that was scraped at these minutes and serves *rate*
    requests a minute, 100 tokens each way, from its minute 0 on.
    """

    def column(metric: str, each: float, more: float = 0.0) -> Series:
        return Series(metric, (), [(60.0 * m, each * rate * m + more) for m in minutes])

    return [
        column("vllm:request_success_total", 1.0),
        column("vllm:time_to_first_token_seconds_count", 1.0),
        column("vllm:time_to_first_token_seconds_sum", 0.05),
        column("vllm:prompt_tokens_total", 100.0),
        column("vllm:request_generation_tokens_count", 1.0),
        column("vllm:request_generation_tokens_sum", 100.0),
        column("vllm:generation_tokens_total", 100.0),
        column("vllm:inter_token_latency_seconds_count", 99.0),
        column("vllm:inter_token_latency_seconds_sum", 0.99),
        Series("vllm:num_requests_running", (), [(60.0 * m, 3.0 + inside) for m in minutes]),
    ]


def history_of(*pods: list[Series], steps: int = 20) -> History:
    found = empty_history(start_s=0.0, step_s=60.0, steps=steps)
    for series in pods:
        found.add(tracks_of(series), first_s=0.0)
    return found


def test_the_past_of_two_pods_adds_up() -> None:
    """Rates are sums; latencies, tokens and what runs are means."""
    every = [float(minute) for minute in range(21)]
    whole = history_of(page(every), page(every, rate=30.0)).over(slice(None))
    assert whole is not None
    assert whole.load.rate_rpm == pytest.approx(40.0)
    assert whole.per_replica_rpm == pytest.approx(20.0)
    assert whole.load.in_tokens == whole.load.out_tokens == pytest.approx(100.0)
    assert (whole.ttft_ms, whole.itl_ms) == (pytest.approx(50.0), pytest.approx(10.0))
    assert (whole.replicas, whole.running) == (2.0, 3.0)


def test_tokens_of_one_engine_and_requests_of_another_make_no_mean() -> None:
    """A version of the engine that has no more this counter halved every prompt and latency."""
    every = [float(minute) for minute in range(21)]
    cut = {"vllm:prompt_tokens_total", "vllm:time_to_first_token_seconds_sum"}
    other = [series for series in page(every) if series.metric not in cut]
    answers = [series for series in page(every) if "request_generation" not in series.metric]
    for beside in (other, answers):
        whole = history_of(page(every), beside).over(slice(None))
        assert whole is not None
        assert whole.load.rate_rpm == pytest.approx(20.0)
        assert whole.load.in_tokens == whole.load.out_tokens == pytest.approx(100.0)
        assert (whole.ttft_ms, whole.itl_ms) == (pytest.approx(50.0), pytest.approx(10.0))
        assert whole.completions_rpm == pytest.approx(20.0, rel=0.06)
        assert rates_of(history_of(page(every), beside)).in_tokens[5] == pytest.approx(100.0)


@pytest.mark.parametrize("turned", [False, True])
def test_an_engine_of_another_time_does_not_silence_the_one_of_now(turned: bool) -> None:
    """The counters that a later version had besides made the tokens of all before it 0, and a day
    of an import was that of the later one.
    """
    every = [float(minute) for minute in range(21)]
    more = {"vllm:time_to_first_token_seconds_count", "vllm:request_generation_tokens_count"}
    before, after = [], []
    for metric, labels, points in page(every, rate=300.0):
        if metric not in more:
            before.append(Series(metric, labels, points[:11]))
        times = 2.0 if metric.endswith(("tokens_total", "tokens_sum")) else 1.0
        after.append(Series(metric, labels, [(at_s, times * told) for at_s, told in points[10:]]))
    history = history_of(*([after, before] if turned else [before, after]))
    rates = rates_of(history)
    for half, tokens in ((slice(0, 10), 100.0), (slice(10, 20), 200.0)):
        stretch = history.over(half)
        assert stretch is not None
        assert stretch.load.rate_rpm == pytest.approx(300.0)
        assert stretch.load.in_tokens == stretch.load.out_tokens == pytest.approx(tokens)
        assert rates.in_tokens[half] == pytest.approx(tokens)
        assert rates.out_tokens[half] == pytest.approx(tokens)


def test_the_answers_of_requests_that_have_several_are_all_of_the_past() -> None:
    """With n = 4 an engine counts four ends and one first token: three quarters of the tokens were
    nobody's.
    """
    of_answers = ("success", "request_generation", "generation_tokens_total", "inter_token")
    several = [
        one._replace(points=[(at_s, 4.0 * told) for at_s, told in one.points])
        if any(name in one.metric for name in of_answers)
        else one
        for one in page([float(minute) for minute in range(21)])
    ]
    history = history_of(several)
    whole, rates = history.over(slice(None)), rates_of(history)
    assert whole is not None
    assert (whole.load.rate_rpm, whole.load.in_tokens) == pytest.approx((10.0, 100.0))
    assert whole.load.out_tokens == pytest.approx(400.0)
    assert rates.rates_rpm == pytest.approx(10.0)
    assert rates.out_tokens == pytest.approx(400.0)
    assert not history_of(page([float(minute) for minute in range(21)])).has_several


def test_long_answers_that_end_after_a_load_has_fallen_are_not_those_of_others() -> None:
    """More end than come, for they were inside: each has one answer all the same."""
    came = np.array([20.0] * 10 + [2.0] * 10)
    ended = np.concatenate([np.zeros(3), came[:-3]])  # after three minutes, 100 tokens in each
    young = [np.concatenate([np.zeros(k), came[: len(came) - k]]) for k in range(3)]
    found = empty_history(start_s=0.0, step_s=60.0, steps=len(came))
    found.arrived[:], found.pods[:] = came, 1.0
    found.running[:] = np.cumsum(came) - np.cumsum(ended)
    found.grown[frozenset({"firsts"})] = {
        "firsts": came,
        "ends": ended,
        "answers": ended,
        "answer_tokens": 300.0 * ended,
        "generation": 100.0 * np.sum(young, axis=0),
        "prompt": 500.0 * came,
    }
    after = found.over(slice(10, 20))
    assert after is not None
    assert after.load.out_tokens == pytest.approx(300.0)
    assert not found.has_several


def test_the_past_of_a_sped_twin_is_told_in_its_own_time() -> None:
    """Ten of its minutes pass in one of Prometheus: every rate was ten times too large."""
    series = page([float(minute) for minute in range(21)], rate=40.0)
    history = history_of(series).sped(10.0)
    whole = history.over(slice(None))
    assert whole is not None
    assert whole.load.rate_rpm == pytest.approx(4.0)
    assert whole.load.in_tokens == pytest.approx(100.0)
    assert history.start_s + history.steps * history.step_s == 1200.0
    assert rates_of(history).end_s == 12_000.0


@pytest.mark.parametrize("per_step", [1.0, 1.63, 2.3, 4.1])
@pytest.mark.parametrize("tokens", [13.0, 200.0])
def test_the_last_step_of_an_answer_does_not_hide_what_a_step_adds(
    per_step: float, tokens: float
) -> None:
    """It is cut where the answer ends: of short answers a tenth seemed lacking, and a fit put it
    upon the latency model.
    """
    replica = Replica(
        latency_model=LatencyModel(alpha_ms=1.0, beta_ms=0.0, gamma_ms=0.0),
        max_batch=8,
        tokens_per_step=per_step,
    )
    rng = np.random.default_rng(1)
    counts = token_counts(rng, 2000, mean=tokens, distribution="lognormal", cv=0.3)
    for number, count in enumerate(counts.tolist()):
        replica.submit(Request(id=number, prompt_tokens=9, output_tokens=count, arrival_s=0.0), 0.0)
    replica.advance(3600.0, inclusive=True)
    series = [
        Series(one.name, (), [(0.0, 0.0), (60.0, float(one.value))])
        for one in exposition(replica.read(3600.0), finished=FinishedTotals(), labels={})
        if one.name in NAMES.ranks
    ]
    whole = history_of(series, steps=1).over(slice(None))
    assert whole is not None
    assert whole.tokens_per_step == pytest.approx(per_step, rel=0.03)


def test_a_queue_of_a_minute_is_not_taken_for_a_slow_prefill() -> None:
    """A KV cache without room makes one every few hours, and its seconds are most of a mean: a fit
    that explains them by beta is half as slow again in all other hours.
    """
    every = [float(minute) for minute in range(201)]
    series = page(every)
    for index, one in enumerate(series):
        if one.metric == "vllm:time_to_first_token_seconds_sum":
            jammed = [(t_s, value + 60.0 * (t_s >= 6000.0)) for t_s, value in one.points]
            series[index] = Series(one.metric, one.labels, jammed)
    points = points_of([("s", history_of(series, steps=200))])
    assert len(points) == 5
    for point in points:
        assert point.stretch.ttft_ms == pytest.approx(50.0)


def test_what_came_in_a_hole_is_known_together() -> None:
    """Prometheus was away for five minutes, the engine was not."""
    minutes = [float(minute) for minute in range(21) if not 5 < minute < 11]
    found = history_of(page(minutes))
    assert found.holes() == []
    assert found.arrived.sum() == pytest.approx(200.0)
    assert found.spread.tolist() == [0.0] * 5 + [1.0] * 6 + [0.0] * 9
    assert rates_of(found).rates_rpm == pytest.approx(10.0)


def test_of_a_time_without_any_pod_nothing_is_known() -> None:
    """And the mean rate beside it stands in for that."""
    found = history_of(
        page([0.0, 1.0, 2.0, 3.0]), page([10.0, 11.0, 12.0, 13.0], rate=30.0), steps=13
    )
    assert found.holes() == [(180.0, 600.0)]
    filled = rates_of(found).rates_rpm
    assert filled[:3] == pytest.approx(10.0)
    assert filled[3:10] == pytest.approx(filled[3])
    assert 10.0 < filled[3] < 30.0


def test_a_pod_that_begins_brings_what_it_served_before_its_first_scrape() -> None:
    """Of a process that had run for long before, that says nothing of this minute."""
    young, old = page([1.0, 2.0, 3.0]), page([1.0, 2.0, 3.0])
    assert history_of(young, steps=3).arrived.tolist() == pytest.approx([13.0, 10.0, 10.0])
    for place, one in enumerate(old):
        points = [(at_s, value + 1e6) for at_s, value in one.points]
        old[place] = one._replace(points=points)
    assert history_of(old, steps=3).arrived[0] == 0.0


def test_steps_that_take_back_requests_correct_those_before() -> None:
    """What runs is counted too, and a gauge may be read late."""
    found = history_of(page([0.0, 1.0, 2.0]), steps=4)
    found.arrived[:] = [10.0, -4.0, 10.0, 10.0]
    found.pods[:] = 1.0
    rates = rates_of(found).rates_rpm
    assert rates.min() >= 0.0
    assert rates.sum() == pytest.approx(26.0)


def test_a_server_without_requests_has_a_load_of_nothing() -> None:
    """Its tokens are some, for a scenario needs them."""
    found = history_of(page([0.0, 1.0, 2.0, 3.0], rate=0.0), steps=3)
    rates = rates_of(found)
    assert not rates.rates_rpm.any()
    assert (rates.in_tokens > 0.0).all()
    assert np.isfinite(rates.mean.out_tokens)


def test_percentiles_are_those_of_the_past_alone() -> None:
    """What pods had counted before says nothing of it; a pod that began anew began at nothing."""

    def buckets(pod: str, *counts: float) -> list[tuple[dict[str, str], float]]:
        metric = "vllm:time_to_first_token_seconds_bucket"
        return [
            ({"__name__": metric, "pod": pod, "le": bound}, count)
            for bound, count in zip(("0.1", "1.0", "+Inf"), counts, strict=True)
        ]

    before = [*buckets("a", 100, 100, 100), *buckets("b", 900, 900, 900)]
    now = [*buckets("a", 100, 200, 200), *buckets("b", 0, 100, 100), *buckets("c", 0, 0, 0)]
    found = measured_percentiles(before, now, NAMES)
    assert found == {"ttft": {"p50": pytest.approx(550), "p95": pytest.approx(955), "p99": ANY}}
    assert measured_percentiles((), [({"__name__": "up"}, 1.0)], NAMES) == {}


def test_of_an_engine_that_observes_zeros_no_latencies_are_imported() -> None:
    """Its servers had a TTFT of 0 ms, and percentiles of parts of the first bucket."""
    every = [float(minute) for minute in range(21)]
    zeros = [
        Series(one.metric, (), [(t_s, 0.0) for t_s, _ in one.points])
        if one.metric.endswith("seconds_sum")
        else one
        for one in page(every)
    ]
    found = history_of(zeros)
    whole = found.over(slice(None))
    assert whole is not None
    assert (whole.ttft_ms, whole.itl_ms) == (None, None)
    assert history_of(page(every)).zeros == frozenset()
    now = [
        ({"__name__": f"vllm:{name}_seconds_bucket", "le": le}, 100.0)
        for name in ("time_to_first_token", "e2e_request_latency")
        for le in ("0.1", "+Inf")
    ]
    assert measured_percentiles((), now, NAMES, zeros=found.zeros).keys() == {"e2e"}
