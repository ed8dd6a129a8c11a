"""An autoscaling run on real GPUs that others published (llm-d, Qwen3-32B, an HPA on saturation),
again on the twin; for experiments.validation.validate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from experiments.config import SAMPLE_DATA, RunConfig
from experiments.run import RunResult, run
from twin.engine.port import Engine
from twin.request import Outcome, Request
from twin.serving.routers.port import Router

DATA = SAMPLE_DATA / "llm-d-autoscaling"
# One pod more at once, and none for 180 s after it, while two requests wait for each replica. Its
# second metric, 70 % of the KV cache, never asks for more than the queue of this run does.
HPA = (
    ("form", "external"),
    ("metric", "waiting"),
    ("scale_up_period_s", 180.0),
    ("scale_up_pods", 1),
    ("target", 2.0),
)
SEEDS = (1, 2, 3, 4, 5)
FIRST_SHARE = 0.85  # seen on two replicas by those who ran it


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What is told of a run. replicas and kv_share are means over the run of the replicas that are
    ready; latencies are of the requests that were answered.
    """

    replicas: float
    replicas_most: float
    kv_share: float
    sent: float
    answered: float
    ttft_s_p99: float
    itl_ms_p99: float


# The mean of three runs: https://github.com/llm-d/llm-d-autoscaling/pull/1230, prefill heavy.
RECORDED = Figures(
    replicas=2.30,
    replicas_most=4.0,
    kv_share=0.465,
    sent=682.0,
    answered=171.0,
    ttft_s_p99=555.5,
    itl_ms_p99=59.1,
)


class MostlyFirst(Router):
    """Gives FIRST_SHARE of the requests to the oldest replica, and the rest to any other."""

    __slots__ = ("_rng",)

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def route(self, request: Request, replicas: Sequence[Engine], now_s: float) -> Engine:  # noqa: ARG002, chance needs neither
        others = len(replicas) - 1
        if others == 0 or self._rng.random() < FIRST_SHARE:
            return replicas[0]
        return replicas[1 + int(self._rng.integers(others))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A reading of what the page leaves open: how the load came, and who got it."""

    name: str
    scenario: str
    truth: str | None = None


READINGS = (
    Reading(name="20 requests/s whatever happens", scenario="told.yaml"),
    Reading(name="at most 512 in flight", scenario="sent.yaml"),
    Reading(
        name="at most 512 in flight, 85 % to the first pod",
        scenario="sent.yaml",
        truth="mostly-first.json",
    ),
)


def published() -> None:
    """Print the figures of the run, recorded and on the twin in each reading."""
    print(f"llm-d, Qwen3-32B, recorded: {_told(RECORDED)}")
    for reading in READINGS:
        found = [repeat(reading, seed) for seed in SEEDS]
        print(f"llm-d, Qwen3-32B, twin, {reading.name}: {_told(mean(found))}")


def repeat(reading: Reading, seed: int) -> Figures:
    """Return the figures of the run on the twin."""
    config = RunConfig(
        data=DATA,
        scenario=str(DATA / reading.scenario),
        policy="hpa",
        policy_options=HPA,
        seed=seed,
    )
    if reading.truth is not None:
        config = replace(config, truth=DATA / reading.truth)
    return figures_of(run(config))


def figures_of(result: RunResult) -> Figures:
    """Return the figures of *result*, a run of one server."""
    rows = [row for cycle in result.cycles for row in cycle["servers"]]
    ready = np.array([row["ready"] for row in rows], dtype=float)
    requests = result.requests
    answered = requests["outcome"] == Outcome.FINISHED
    first_s, tokens = requests["first_token_s"][answered], requests["output_tokens"][answered]
    ttft_s = first_s - requests["arrival_s"][answered]
    itl_s = (requests["finish_s"][answered] - first_s) / np.maximum(tokens - 1, 1)
    return Figures(
        replicas=float(ready.mean()),
        replicas_most=float(ready.max()),
        # The first cycle comes before the first scrape.
        kv_share=float(np.mean([row["kvUsage"] for row in rows[1:]])),
        sent=float(answered.size),
        answered=float(np.count_nonzero(answered)),
        ttft_s_p99=float(np.percentile(ttft_s, 99.0)),
        itl_ms_p99=1e3 * float(np.percentile(itl_s, 99.0)),
    )


def mean(found: Sequence[Figures]) -> Figures:
    """Return the means over runs."""
    means = {
        field.name: float(np.mean([getattr(one, field.name) for one in found]))
        for field in fields(Figures)
    }
    return Figures(**means)


def _told(one: Figures) -> str:
    return (
        f"{one.replicas:.2f} replicas on the mean, {one.replicas_most:.1f} at most, KV cache "
        f"{one.kv_share:.1%}, {one.sent:.0f} requests sent, {one.answered:.0f} answered, TTFT p99 "
        f"{one.ttft_s_p99:.0f} s, ITL p99 {one.itl_ms_p99:.1f} ms"
    )
