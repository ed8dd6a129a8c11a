"""`inferno import` over the twin as a cluster and a real Prometheus with a past of days: it sees
these two APIs, and nothing else.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.columns import select
from experiments.config import RunConfig
from experiments.own_system.templates import alike, engine
from experiments.rates_file import read_rates
from experiments.run import run
from experiments.scores.verdicts import bounded_latencies_ms
from inferno.cli.main import main
from loop.backends.kube.client import KubeClient, connect
from loop.clocks import MonotonicClock
from tests.live.own_system import (
    DAY_S,
    END_S,
    PARMS,
    PREFIX_SHARES,
    SERVERS,
    TOKEN_CVS,
    TOKENS_PER_STEP,
    OwnSystem,
    own_system,
)
from tests.live.served import eventually
from tests.own_history import NAMESPACE

pytestmark = pytest.mark.slow

HELD_OUT_H = 6.0
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module", params=[26.0, pytest.param(174.0, marks=pytest.mark.fuzz)])
def system(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[OwnSystem]:
    """Return a cluster with a past of a day, or of a week with `make fuzz`."""
    with own_system(tmp_path_factory.mktemp("own"), hours=request.param) as served:
        yield served


@pytest.fixture(scope="module")
def imported(system: OwnSystem) -> Path:
    """Return the import of the past without the last hours."""
    last = f"{system.hours - HELD_OUT_H:g}h"
    return imports(system, "fitted", "--last", last, "--until", date(HELD_OUT_H))


@pytest.fixture(scope="module")
def held_out(system: OwnSystem) -> Path:
    """Return the import of the last hours, of which only the load is of interest."""
    last = f"{HELD_OUT_H:g}h"
    return imports(
        system, "held-out", "--last", last, "--until", date(0), "--latency", "data-sheet"
    )


def date(hours_before: float) -> str:
    return str(np.datetime64(int(END_S - 3600 * hours_before), "s")) + "Z"


def imports(system: OwnSystem, name: str, *more: str, code: int = 0) -> Path:
    folder = system.truth.parent / name
    words = ["import", "--kubeconfig", str(system.kubeconfig), "--prometheus", system.prometheus]
    assert main([*words, "--out", str(folder), *more]) == code
    return folder


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def test_rates_and_tokens_are_those_that_the_servers_had(system: OwnSystem, imported: Path) -> None:
    """Within 5 %, over the whole past and hour by hour, of what the simulation really sent."""
    requests = system.requests
    rates = read_rates(imported / "load.csv")
    end_s = 3600.0 * (system.hours - HELD_OUT_H)
    for index, name in enumerate(SERVERS):
        own = (requests["server"] == index) & (requests["arrival_s"] < end_s)
        count = int(own.sum())
        mean = rates[name].mean
        assert count >= 2000
        assert mean.rate_rpm == pytest.approx(60.0 * count / end_s, rel=0.05)
        for figure, column in (
            (mean.in_tokens, "prompt_tokens"),
            (mean.out_tokens, "output_tokens"),
        ):
            assert figure == pytest.approx(requests[column][own].mean(), rel=0.05)
        hours = np.bincount((requests["arrival_s"][own] // 3600.0).astype(int))
        found = (rates[name].rates_rpm.reshape(-1, 60)).sum(axis=1)
        # A request that waits or runs between two scrapes may be counted a minute later.
        assert found == pytest.approx(hours, rel=0.05, abs=10)


def test_percentiles_are_written_where_engines_have_histograms(
    system: OwnSystem, imported: Path
) -> None:
    """Within the bounds of a bucket, which are a factor of 2.5 apart at most."""
    requests = system.requests
    lines = (imported / "measured.csv").read_text().splitlines()
    rows = {row["server"]: row for row in csv.DictReader(lines)}
    assert rows.keys() == SERVERS.keys()
    for index, row in enumerate(rows[name] for name in SERVERS):
        own = (requests["server"] == index) & (
            requests["arrival_s"] < 3600.0 * (system.hours - HELD_OUT_H)
        )
        ttft_ms, _ = bounded_latencies_ms(select(requests, own), end_s=np.inf)
        for share in (50, 95):
            true = np.percentile(ttft_ms, share)
            assert true / 2.5 <= float(row[f"ttft_ms_p{share}"]) <= 2.5 * true
        assert float(row["itl_ms_p50"]) <= float(row["itl_ms_p99"])
        assert float(row["ttft_ms"]) == pytest.approx(ttft_ms.mean(), rel=0.1)


def test_held_out_hours_are_predicted(system: OwnSystem, imported: Path, held_out: Path) -> None:
    """The models of the first hours, under the load of the last ones, against what was measured
    then: TTFT and ITL within 10 %.
    """
    requests = system.requests
    begin_s = 3600.0 * (system.hours - HELD_OUT_H)
    predicted = run(
        RunConfig(data=imported, scenario=str(held_out / "trace.yaml"), policy="static")
    )
    for index, name in enumerate(SERVERS):
        found = predicted.summary["servers"][name]
        own = (requests["server"] == index) & (requests["arrival_s"] >= begin_s + 600.0)
        ttft_ms, itl_ms = bounded_latencies_ms(select(requests, own), end_s=np.inf)
        ttft_ms, itl_ms = ttft_ms.mean(), np.nanmean(itl_ms)
        assert found["ttft_ms_mean"] == pytest.approx(ttft_ms, rel=0.1)
        assert found["itl_ms_mean"] == pytest.approx(itl_ms, rel=0.1)


def test_a_coefficient_is_called_fitted_only_if_the_fit_identifies_it(
    imported: Path,
) -> None:
    """And then it is the truth's, within a fifth; the data sheet holds the others, as is told."""
    report = read(imported, "import.json")
    assert len(report["latencyModels"]) == len(PARMS)
    fitted = 0
    for row in report["latencyModels"]:
        truth = PARMS[row["model"], row["acc"]]
        told = [one["what"] for one in report["unknown"] if "latency model" in one["what"]]
        for name, source in row["sources"].items():
            low, high = row["nearlyAsGood"][name]
            assert (source == "fitted") == (high <= 1.5 * low), name
            assert source in ("fitted", "data sheet")
            if source == "fitted":
                fitted += 1
                assert row["perfParms"][name] == pytest.approx(truth[name], rel=0.2), name
            else:
                assert any(name in line for line in told)
    assert fitted >= 2, "alpha of both at least"


def test_what_the_cluster_tells_is_in_the_files(imported: Path) -> None:
    """Models, GPUs, batch sizes, KV caches, classes."""
    servers = {row["name"]: row for row in read(imported, "server-data.json")["servers"]}
    for name, (model, accelerator, service_class, replicas, max_batch) in SERVERS.items():
        row = servers[name]
        assert (row["model"], row["class"]) == (model, service_class)
        now = row["currentAlloc"]
        assert now["accelerator"] == accelerator
        assert (now["numReplicas"], now["maxBatch"]) == (replicas, max_batch)
    capacity = {row["type"]: row["count"] for row in read(imported, "capacity-data.json")["count"]}
    assert capacity == {"L40S": 24, "H100": 8}
    twin = {row["name"]: row for row in read(imported, "twin-data.json")["servers"]}
    found = {name: row["tokenCv"] for name, row in twin.items()}
    assert found == pytest.approx(TOKEN_CVS, rel=0.12)
    shares = {name: row["prefixShare"] for name, row in twin.items() if "prefixShare" in row}
    assert shares == pytest.approx(PREFIX_SHARES, abs=0.04), "in whole blocks"
    engines = read(imported, "twin-data.json")["engines"]
    steps = {
        (row["model"], row["acc"]): row["tokensPerStep"]
        for row in engines
        if "tokensPerStep" in row
    }
    assert steps == pytest.approx(TOKENS_PER_STEP, rel=0.02)
    own = {(row["model"], row["acc"]): row["kvTokens"] for row in engines}
    assert {key: own[key] for key in PARMS} == dict.fromkeys(PARMS, 100_000)


def test_what_was_not_found_out_is_said_and_written(system: OwnSystem, capsys: Capture) -> None:
    """A past that is longer than what Prometheus has: the hole is named, with its begin."""
    folder = imports(system, "gap", "--last", "14d", "--until", date(0), "--latency", "data-sheet")
    said = capsys.readouterr().out
    assert "stands in for: nothing was to be fitted (--latency data-sheet)" in said
    begin = date(system.hours)[:10]
    assert "## What could not be found out" in said
    line = next(line for line in said.splitlines() if ": its load from" in line)
    assert f"for {60 * (14 * 24 - system.hours):g} min" in line
    assert line in (folder / "import.md").read_text()
    assert begin > line.split("from ")[1][:10]
    told = read(folder, "import.json")["unknown"]
    of, _, what = line.removeprefix("- ").partition(": ")
    assert {"of": of, "what": what} in told
    assert of == "chat, code"
    rates = read_rates(folder / "load.csv")
    assert rates["chat"].end_s == 14 * DAY_S
    assert rates["chat"].rates_rpm[0] > 0.0, "the mean beside the hole"


def test_the_drift_against_prometheus_is_named(
    system: OwnSystem, imported: Path, tmp_path: Path, capsys: Capture
) -> None:
    """None against what was imported; alpha, if somebody had written another one."""
    words = ["--kubeconfig", str(system.kubeconfig), "--prometheus", system.prometheus]
    asked = ["drift", *words, "--last", "6h", "--until", date(0), "--quiet", "--data"]
    capsys.readouterr()
    assert main([*asked, str(imported)]) == 0
    assert capsys.readouterr().out.count("no drift") == len(PARMS)
    other = shutil.copytree(imported, tmp_path / "other")
    models = read(other, "model-data.json")
    for row in models["models"]:
        row["perfParms"]["alpha"] *= 0.8
    (other / "model-data.json").write_text(json.dumps(models))
    assert main([*asked, str(other)]) == 0
    assert capsys.readouterr().out.count("alpha moved") == len(PARMS)


def test_the_templates_of_a_restart_are_one_engine(system: OwnSystem) -> None:
    """As ReplicaSets of the cluster tell it; those of another image are two."""

    def told(client: KubeClient, stems: int, newest: int) -> bool:
        of_all = alike(client.replica_sets(NAMESPACE), of=engine).stems[NAMESPACE]
        found = [of for stem, of in of_all.items() if stem.startswith("code-vllm-")]
        return (len(found), len(set(found))) == (stems, newest)

    clock = MonotonicClock()
    with closing(KubeClient(partial(connect, str(system.kubeconfig)), clock=clock)) as client:
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/code-vllm"
        restarted = {"kubectl.kubernetes.io/restartedAt": "2026-11-29T10:00:00Z"}
        image = {"containers": [{"name": "vllm", "image": "vllm/vllm-openai:v0.12.0"}]}
        changes = [{"metadata": {"annotations": restarted}}, {"spec": image}]
        for change, stems, newest in zip(changes, (2, 3), (1, 2), strict=True):
            answer = system.http.patch(
                path,
                json={"spec": {"template": change}},
                headers={"Content-Type": "application/strategic-merge-patch+json"},
            )
            assert answer.status_code == 200, answer.text
            eventually(partial(told, client, stems, newest), f"{stems} templates")


def test_without_prometheus_the_cluster_alone_makes_a_data_directory(
    system: OwnSystem, capsys: Capture
) -> None:
    """It simulates; the load is what is missing."""
    folder = system.truth.parent / "alone"
    words = ["import", "--kubeconfig", str(system.kubeconfig), "--out", str(folder)]
    assert main(words) == 0
    assert "no Prometheus was given" in capsys.readouterr().out
    assert not (folder / "trace.yaml").exists()
    assert len(read(folder, "server-data.json")["servers"]) == len(SERVERS)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--last", "soon"), "last: expected a time such as 7d, 36h or 90m, found 'soon'"),
        (("--last", "1m"), "last: expected 10m to 366d, found 60 s"),
        (("--until", "now"), "until: expected a date such as"),
        (("--step", "1"), "step: expected 15 to 3600 seconds, found 1"),
        (("--select", "app=none"), "expected Deployments with labels app=none, found none"),
        (("--config", "llama"), "config: expected MODEL=FILE, found 'llama'"),
    ],
)
def test_bad_input_is_one_line(
    system: OwnSystem, capsys: Capture, tmp_path: Path, more: tuple[str, ...], said: str
) -> None:
    """Exit code 2, and nothing is written."""
    words = ["import", "--kubeconfig", str(system.kubeconfig), "--prometheus", system.prometheus]
    assert main([*words, "--out", str(tmp_path / "out"), *more]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_prometheus_that_does_not_answer_is_one_line(
    system: OwnSystem, capsys: Capture, tmp_path: Path
) -> None:
    """Exit code 2."""
    words = ["import", "--kubeconfig", str(system.kubeconfig), "--out", str(tmp_path / "out")]
    assert main([*words, "--prometheus", "http://127.0.0.1:1"]) == 2
    assert "prometheus: expected an answer, found none" in capsys.readouterr().err
