"""Claims about the drift: a truth that changes is noticed, dated, and named by the coefficient that
moved; one that does not is left alone.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.config import RunConfig
from experiments.own_system.cluster import Facts
from experiments.own_system.drift import EngineDrift, Seen, drift_of, merged, predict
from experiments.own_system.points import Point
from experiments.own_system.seen import is_steady, seen_in_histories, seen_in_records, with_engines
from inferno.cli.drift import verdict
from inferno.cli.main import main
from loop.schema.reading import read_system
from loop.signals.history import History, Stretch, empty_history
from loop.signals.processes import Series
from loop.signals.series import tracks_of
from loop.types import Load
from tests.live.own_system import CHAT, PARMS, write_truth
from tests.own_history import past_of

DAY_S = 86_400.0
STEP_S = 300.0
Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.slow


@cache
def days(folder: Path, name: str, factor: float, *, seed: int) -> dict[str, dict[str, Any]]:
    """Return the series of two days of the server code by pod, with one coefficient changed, or
    several whose names are joined by +.
    """
    truth = folder / f"{name}-{factor:g}.json"
    model, accelerator = "Qwen2.5-14B", "L40S"
    parms = dict(PARMS[model, accelerator])
    parms["overheadMs"] = 8.0
    for one in name.split("+"):
        parms[one] *= factor
    rows = [{"model": model, "acc": accelerator, "perfParms": parms}]
    truth.write_text(json.dumps({"engines": rows}))
    (folder / "code.yaml").write_text(
        "alpha: 0\nload:\n  - {server: chat, scale: 0}\n"
        "  - {shape: {kind: diurnal, low: 0.2, high: 1.3, peak_hour: 15, compression: 2}}\n"
    )
    config = RunConfig(
        data=folder,
        truth=truth,
        scenario=str(folder / "code.yaml"),
        policy="static",
        hours=48,
        seed=seed,
        engine="plain",
    )
    workloads = {"code": f"code-{seed}", "chat": "chat"}
    return past_of(config, workloads=workloads, step_s=STEP_S).found["code"]


def history(folder: Path, *parts: tuple[str, float]) -> History:
    """Return the history of the server code: two days with each of these changes, one after the
    other, on pods of their own.
    """
    found = empty_history(start_s=0.0, step_s=STEP_S, steps=round(2 * len(parts) * DAY_S / STEP_S))
    for number, (name, factor) in enumerate(parts):
        begin_s = 2 * DAY_S * number
        for of_pod in days(folder, name, factor, seed=number + 1).values():
            series = [
                Series(metric, labels, [(begin_s + t_s, value) for t_s, value in points])
                for (metric, labels), points in of_pod.items()
            ]
            found.add(tracks_of(series), first_s=begin_s)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_truth(tmp_path_factory.mktemp("truth"))


def engine_drift(folder: Path, *parts: tuple[str, float]) -> EngineDrift:
    seen = seen_in_histories({"code": history(folder, *parts)}, start_up_s={})
    (found,) = drift_of(seen, read_system(folder, warn=print), window_s=DAY_S).engines
    return found


def test_a_beta_that_moves_on_the_third_day_is_named_and_dated(folder: Path) -> None:
    """By the latencies alone: TTFT rises with the prompts, ITL with what is prefilled beside."""
    found = engine_drift(folder, ("beta", 1.0), ("beta", 1.3))
    assert found.since_s == 2 * DAY_S
    assert not found.from_start
    assert found.moved is not None
    assert found.moved.name == "beta"
    assert found.moved.factor == pytest.approx(1.3, rel=0.08)
    assert "alpha" not in found.moved.others


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("alpha", 1.2),
        pytest.param("alpha", 0.75, marks=pytest.mark.fuzz),
        pytest.param("overheadMs", 6.0, marks=pytest.mark.fuzz),
        pytest.param("alpha+beta", 1.25, marks=pytest.mark.fuzz),
    ],
)
def test_what_moves_is_named_or_said_to_be_unknown(folder: Path, name: str, factor: float) -> None:
    """A driver that was updated, a GPU that is throttled, a proxy; of two at once neither alone
    explains it, and nothing wrong is said.
    """
    found = engine_drift(folder, ("beta", 1.0), (name, factor))
    assert found.since_s == 2 * DAY_S
    if "+" in name:
        assert found.moved is None
        assert "nothing alone explains it" in verdict(found)
        return
    assert found.moved is not None
    assert found.moved.name == name.removesuffix("Ms")
    assert found.moved.factor == pytest.approx(factor, rel=0.05)


def stretch(rpm: float, *, ttft_ms: float = 1.0, itl_ms: float = 1.0) -> Stretch:
    return Stretch(
        load=Load(rate_rpm=rpm, in_tokens=700.0, out_tokens=150.0),
        per_replica_rpm=rpm,
        replicas=1.0,
        requests=2000.0,
        ttft_ms=ttft_ms,
        itl_ms=itl_ms,
        completions_rpm=rpm,
        running=1.5,
        waiting=0.0,
        prefix_share=None,
        tokens_per_step=None,
    )


@cache
def predicted(folder: Path, rpm: float) -> tuple[float, float]:
    """Return the TTFT and the ITL of the server code at a load, by its data."""
    system = read_system(folder, warn=print)
    perf, server = system.perf["Qwen2.5-14B", "L40S"], system.servers["code"]
    return predict(
        perf,
        Point(server="code", stretch=stretch(rpm)),
        max_batch=48,
        prefix_share=server.prefix_share,
        token_cv=server.token_cv,
    )


@pytest.mark.parametrize(
    "ratios",
    [
        pytest.param((1.2, 1.0, 1.0, 1.0, 1.0, 1.0), id="a bad hour at the beginning"),
        pytest.param((1.0, 1.0, 1.0, 1.0, 1.0, 1.2), id="a bad hour at the end"),
        pytest.param((0.88,) * 6, id="a router that spreads bursts"),
        pytest.param((0.9, 1.3, 0.8, 1.2, 0.9, 1.2), id="queues come and go"),
    ],
)
def test_a_window_alone_and_what_the_twin_leaves_out_is_no_drift(
    folder: Path, ratios: tuple[float, ...]
) -> None:
    """TTFT of hours over what is predicted. A drift was named in each second run of a loop over a
    twin that did not drift, and --write would have spoilt good data.
    """
    seen = [
        Seen(
            t_s=3600.0 * hour + 600.0 * place,
            stretch=stretch(rpm, ttft_ms=ratio * ttft_ms, itl_ms=itl_ms),
        )
        for hour, ratio in enumerate(ratios)
        for place, rpm in enumerate((6.0, 9.0, 12.0))
        for ttft_ms, itl_ms in (predicted(folder, rpm),)
    ]
    (found,) = drift_of({"code": seen}, read_system(folder, warn=print), window_s=3600.0).engines
    assert (found.since_s, found.moved) == (None, None)


def test_the_throughput_of_a_window_is_that_of_the_minutes_that_are_compared(folder: Path) -> None:
    """With a third of an hour left out as too busy, the rest was divided by all of it."""
    usual = [stretch(rpm, ttft_ms=100.0, itl_ms=20.0) for rpm in (6.0, 6.0, 12.0, 12.0)]
    busy = replace(stretch(13.0, ttft_ms=100.0, itl_ms=20.0), running=10_000.0)
    for every in (usual, [*usual, busy], [*usual, busy, busy]):
        seen = [Seen(t_s=600.0 * place, stretch=one) for place, one in enumerate(every)]
        (found,) = drift_of({"code": seen}, read_system(folder, warn=print), window_s=4e3).engines
        assert found.windows[0].throughput_rpm == pytest.approx((9.0, 9.0))


def test_a_queue_that_nobody_saw_is_left_out_of_a_mean_and_long_prompts_are_not() -> None:
    """A minute of it is a quarter of an hour's mean."""
    usual = [stretch(9.0, ttft_ms=ms) for ms in (90.0, 100.0, 110.0, 180.0)]
    assert merged(usual).ttft_ms == pytest.approx(120.0)
    assert merged([*usual, stretch(9.0, ttft_ms=2000.0)]).ttft_ms == pytest.approx(120.0)


def cycle(t_s: float, *, rpm: float = 60.0, waiting: int = 0, starting: int = 0) -> str:
    figures = {"rpm": rpm, "avgInTok": 9.0, "avgOutTok": 9.0, "itl": 9.0, "ttft": 9.0}
    row = {"name": "code", **figures, "ready": 1, "running": 4, "waiting": waiting}
    servers = [{**row, "starting": starting}]
    return json.dumps({"t_s": t_s, "backend": "sim", "servers": servers})


def test_a_server_that_the_data_do_not_name_is_compared_by_its_model(folder: Path) -> None:
    """A loop decides about what the cluster has: of a system made by inferno init, or the sample
    data over a cluster, no server was compared.
    """
    system = read_system(folder, warn=print)
    ttft_ms, itl_ms = predicted(folder, 9.0)
    figures = {"rpm": 9.0, "avgInTok": 700.0, "avgOutTok": 150.0, "itl": itl_ms, "ttft": ttft_ms}
    row = {"name": "vllm-7", "model": "Qwen2.5-14B", "currentAccelerator": "L40S", "ready": 1}
    lines = [
        json.dumps({"t_s": 60.0 * k, "backend": "sim", "servers": [row | figures]})
        for k in range(120)
    ]
    found = drift_of(seen_in_records(lines, source="cycles"), system, window_s=3600.0)
    (engine,) = found.engines
    assert (engine.model, engine.accelerator, found.notes) == ("Qwen2.5-14B", "L40S", ())
    assert {window.server for window in engine.windows} == {"vllm-7"}
    assert engine.itl_ratio == pytest.approx(1.0, abs=0.02)
    unknown = [
        json.dumps({**json.loads(text), "servers": [figures | {"name": "x", "ready": 1}]})
        for text in lines
    ]
    told = drift_of(seen_in_records(unknown, source="cycles"), system, window_s=3600.0).notes
    assert told == ("x: not in the data, and nothing tells its model",)


def test_a_server_that_was_moved_is_compared_where_the_cluster_has_it(folder: Path) -> None:
    """Its latencies were held against the model of the accelerator that it had in the data."""
    system = read_system(folder, warn=print)
    there = replace(system.perf[CHAT, "H100"], model="Qwen2.5-14B")
    system = replace(system, perf={**system.perf, ("Qwen2.5-14B", "H100"): there})
    seen = {"code": [Seen(t_s=0.0, stretch=stretch(9.0))]}
    for accelerator, expected in (("H100", "H100"), ("NVIDIA-H100", None), ("L40S", "L40S")):
        ((one,),) = with_engines(seen, [facts("code", accelerator)], system).values()
        assert (one.model, one.accelerator, one.max_batch) == ("Qwen2.5-14B", expected, None)
    ((other,),) = with_engines({"new": seen["code"]}, [facts("new", "H100")], system).values()
    assert (other.model, other.accelerator, other.max_batch) == (CHAT, "H100", 48)


def facts(name: str, accelerator: str) -> Facts:
    """Return what a cluster tells of a server."""
    return Facts(
        name=name,
        place=f"infer/{name}",
        service_class="Premium",
        model=CHAT,
        accelerator=accelerator,
        type=accelerator,
        gpus=1,
        replicas=1,
        max_batch=48,
        token_budget=8192,
        start_up_s=None,
        kv_tokens=None,
        scheduling=None,
        replicas_min=0,
        replicas_max=None,
    )


def test_cycles_that_remember_a_queue_or_a_pod_that_came_are_left_out() -> None:
    """Their figures are means of the last minute."""
    lines = [
        cycle(0.0),
        cycle(30.0, waiting=9),
        *(cycle(30.0 * place) for place in range(2, 8)),
        cycle(240.0, starting=1),
        *(cycle(30.0 * place) for place in range(9, 13)),
    ]
    ((found,),) = seen_in_records(lines, source="cycles").values()
    kept = 1 + 3 + 1  # before the queue; from 150 s to 210 s; from 360 s on
    assert found.stretch.requests == pytest.approx(60.0 * kept)


@pytest.mark.parametrize(("speed", "blocks"), [(1.0, 2), (10.0, 12)])
def test_a_sped_cluster_is_looked_at_in_its_own_time(speed: float, blocks: int) -> None:
    """Two hours of a twin at 10 are twelve minutes of records: one window, of which drift said
    that it had to look at a longer past.
    """
    start = datetime(2026, 1, 1, tzinfo=UTC)
    lines = []
    for place in range(120):
        at = (start + timedelta(seconds=6.0 * place)).isoformat()
        lines.append(json.dumps({**json.loads(cycle(0.0)), "backend": "kube", "ts": at}))
    (found,) = seen_in_records(lines, source="cycles", speed=speed).values()
    assert len(found) == blocks


def test_minutes_that_differ_are_no_steady_load() -> None:
    """Twice ten and twice a hundred requests a minute are not as fifty-five."""
    even = [cycle(60.0 * place, rpm=rpm) for place, rpm in enumerate((50.0, 60.0, 55.0, 58.0))]
    wild = [cycle(60.0 * place, rpm=rpm) for place, rpm in enumerate((10.0, 100.0, 12.0, 98.0))]
    assert seen_in_records(even, source="cycles")
    assert not seen_in_records(wild, source="cycles")


@pytest.mark.parametrize("rate", [0.5, 2.0, 10.0, 200.0])
def test_what_chance_makes_of_one_rate_is_steady(rate: float) -> None:
    """A server of two requests a minute has minutes of none and of five."""
    rng = np.random.default_rng(3)
    found = [is_steady(rng.poisson(rate, 10).tolist()) for _ in range(200)]
    assert sum(found) >= 190
    bursts = [is_steady((rng.poisson(rate, 10) * ([0, 8] * 5)).tolist()) for _ in range(200)]
    assert sum(bursts) <= (100 if rate < 1.0 else 10)


def test_pods_that_start_slowly_are_told(folder: Path) -> None:
    """They do not change a latency, and need other room."""
    seen = seen_in_histories({"code": history(folder, ("beta", 1.0))}, start_up_s={"code": 40.0})
    (found,) = drift_of(seen, read_system(folder, warn=print), window_s=2 * DAY_S).engines
    assert verdict(found).endswith("; pods start in 40 s, by the data in 5")


def test_a_truth_that_stays_does_not_drift(folder: Path) -> None:
    """Chance is not a change."""
    found = engine_drift(folder, ("beta", 1.0), ("alpha", 1.0))
    assert found.since_s is None
    assert found.moved is None
    assert found.ttft_ratio == pytest.approx(1.0, abs=0.05)
    assert found.itl_ratio == pytest.approx(1.0, abs=0.02)
    assert len(found.windows) == 4


def test_one_window_says_nothing_about_a_drift(folder: Path) -> None:
    """A queue of ten minutes is no other coefficient: who looks must look at a longer past."""
    seen = seen_in_histories({"code": history(folder, ("alpha", 1.3))}, start_up_s={})
    (found,) = drift_of(seen, read_system(folder, warn=print), window_s=2 * DAY_S).engines
    assert found.unsure
    assert found.since_s is None
    assert found.moved is None
    assert "1 window of measurements; look at a longer past" in verdict(found)


def records(folder: Path, out: Path, *, truth: Path | None) -> Path:
    """Return the records of two hours of a loop over the truth."""
    words = ["sim", "--data", str(folder), "--scenario", "steady", "--policy", "static"]
    more = ["--truth", str(truth)] if truth else []
    assert main([*words, "--hours", "2", "--out", str(out), "--quiet", *more]) == 0
    return out / "cycles.jsonl"


def test_records_tell_the_drift_and_a_refit_ends_it(
    folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    """What --write puts into the data predicts what was measured."""
    model, accelerator = CHAT, "H100"
    parms = {**PARMS[model, accelerator]}
    parms["alpha"] *= 1.25
    truth = tmp_path / "truth.json"
    row = {"model": model, "acc": accelerator, "perfParms": parms}
    truth.write_text(json.dumps({"engines": [row]}))
    data = write_truth(tmp_path / "data")
    file = records(data, tmp_path / "out", truth=truth)
    asked = ["drift", "--data", str(data), "--records", str(file)]
    capsys.readouterr()
    assert main([*asked, "--json"]) == 0
    engines = {one["model"]: one for one in json.loads(capsys.readouterr().out)["engines"]}
    assert engines["Qwen2.5-14B"]["sinceS"] is None
    found = engines[model]
    assert found["fromStart"]
    assert found["moved"]["coefficient"] == "alpha"
    assert found["moved"]["factor"] == pytest.approx(1.25, rel=0.04)
    assert found["windows"][0]["throughputRpm"]["measured"] == pytest.approx(15.0, rel=0.3)
    assert main([*asked, "--write"]) == 0
    said = capsys.readouterr().out
    assert f"{CHAT} on H100: from the beginning" in said
    assert "alpha moved, 10.2 →" in said
    rows = json.loads((data / "model-data.json").read_text())["models"]
    written = {one["name"]: one["perfParms"] for one in rows}
    assert written[model]["alpha"] == pytest.approx(parms["alpha"], rel=0.04)
    assert written[model]["beta"] == parms["beta"]
    assert main([*asked, "--quiet"]) == 0
    assert capsys.readouterr().out.count("no drift") == 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "expected --records or --prometheus, found neither"),
        (("--records", "none.jsonl"), "none.jsonl: expected the records of a loop"),
        (("--records", "wrong.jsonl"), "wrong.jsonl: line 2: expected a record of a cycle"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    more: tuple[str, ...],
    said: str,
) -> None:
    """Exit code 2."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.jsonl").write_text('{"ts": "2026-01-01T00:00:00Z", "servers": []}\n[1]\n')
    assert main(["drift", "--data", str(folder), *more]) == 2
    assert said in capsys.readouterr().err


def test_a_record_that_is_being_written_is_left_out(
    folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    """A loop was stopped while it wrote, and an editor began the file with a byte order mark."""
    line = '{"ts": "2026-01-01T00:00:00Z", "servers": []}'
    (tmp_path / "cut.jsonl").write_text(f"\ufeff{line}\n{line[:20]}", encoding="utf-8")
    words = ["drift", "--data", str(folder), "--records", str(tmp_path / "cut.jsonl")]
    assert main(words) == 0
    assert "nothing could be compared" in capsys.readouterr().err


@pytest.mark.parametrize(("backend", "start_up_s"), [("kube", 60.0), ("sim", 6.0)])
def test_start_ups_in_records_of_a_sped_twin_are_in_its_own_time(
    backend: str, start_up_s: float
) -> None:
    """Its pods have dates of the machine, those of a simulated run have not."""
    row = {"rpm": 60.0, "avgInTok": 9.0, "avgOutTok": 9.0, "itl": 9.0, "ttft": 9.0, "replicas": 1}
    servers = [{"name": "code", "startUpS": 6.0, **row}]
    line = {"ts": "2026-01-01T00:00:00Z", "t_s": 0.0, "backend": backend, "servers": servers}
    ((found,),) = seen_in_records([json.dumps(line)], source="cycles", speed=10.0).values()
    assert (found.start_up_s, found.stretch.load.rate_rpm) == (start_up_s, 60.0)


def test_records_of_nothing_say_that_nothing_could_be_compared(
    folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Nothing at all would read as "no drift"."""
    line = {"ts": "2026-01-01T00:00:00Z", "t_s": 0.0, "cycle": 1, "servers": []}
    (tmp_path / "idle.jsonl").write_text(f"{json.dumps(line)}\n")
    words = ["drift", "--data", str(folder), "--records", str(tmp_path / "idle.jsonl")]
    assert main(words) == 0
    assert "nothing could be compared" in capsys.readouterr().err


def test_an_overload_is_told_as_a_multiple() -> None:
    """TTFT of ten minutes where 33 ms are predicted was +1782289%."""
    found = EngineDrift(
        model="m", accelerator="a", windows=(), ttft_ratio=17_824.0, itl_ratio=4.0, unsure=True
    )
    assert "TTFT ×17,824, ITL +300% of what is predicted" in verdict(found)
