"""Random scripts (arrivals, control actions, scrapes) played to the replica and to the naive
oracle, and compared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields, replace
from math import inf, isclose, isnan
from random import Random
from typing import Any, Literal

import simpy

from twin.engine.port import Engine, EngineFactory
from twin.engine.replica import Replica
from twin.engine.telemetry import ReplicaReading
from twin.request import Request
from twin.spec import EngineSpec, LatencyModel
from twin.testing.naive_replica import ARRIVAL, CONTROL, SCRAPE, Alarm, NaiveReplica

Grid = Literal["none", "integer", "dyadic", "coarse"]

BLOCK_TOKENS = 8  # of a block that a request of with_prefixes names
EXACT: tuple[Grid, ...] = ("integer", "dyadic")
_SPEC_FIELDS = {field.name for field in fields(EngineSpec)}


@dataclass(frozen=True, kw_only=True)
class Script:
    """What happens to one replica: how it is made, and (t_s, priority, verb, argument) in the order
    of SimPy.
    """

    replica: dict[str, Any]
    events: tuple[tuple[float, int, str, Any], ...]


@dataclass(kw_only=True)
class Outcome:
    """What came of a script. ended: request id → (how, when); readings: one per scrape, the last at
    the very end.
    """

    ended: dict[int, tuple[str, float]] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    first_token_s: dict[int, float] = field(default_factory=dict)
    preemptions: dict[int, int] = field(default_factory=dict)
    readings: list[ReplicaReading] = field(default_factory=list)
    in_flight: list[tuple[int, int, int, float]] = field(default_factory=list)


def make_script(seed: int, grid: Grid = "none") -> Script:
    """Draw a script. On a grid all times are exact in floats, so boundaries, arrivals and actions
    coincide often.

    "integer" has alpha = 10 and beta = gamma = 0 on integer instants: milliseconds by their
    figures, called seconds here because a millisecond is no exact float. "dyadic" has coefficients
    and times that are sums of powers of two. "coarse" has rounded coefficients, so that gaps lie on
    the bounds of the histograms.
    """
    rng = Random(f"{grid}-{seed}")  # noqa: S311 scripts for tests, the same on every machine
    latency_model = _draw_latency_model(rng, grid)
    prompt_max = rng.choice([1, 8, 40, 200])
    output_max = rng.choice([1, 6, 40, 150])
    max_batch = rng.choice([1, 2, 4, 8, 16, 32])
    block_size = rng.choice([1, 3, 4, 16])
    replica: dict[str, Any] = {
        "latency_model": latency_model,
        "max_batch": max_batch,
        "max_num_batched_tokens": rng.choice([1, 3, 7, 16, 64, 256, 2048]),
        "block_size": block_size,
        "kv_tokens": _draw_kv_tokens(rng, prompt_max + output_max, max_batch, block_size),
        "queue_max": rng.choice([None, None, 1, 4, 20]),
        "admission": rng.choice(["chunk", "full_prompt"]),
    }
    mean_s = (
        latency_model.alpha_ms
        + latency_model.beta_ms * max_batch
        + latency_model.gamma_ms * max_batch * (prompt_max + output_max)
    ) / 1000
    mean_gap_s = (
        max(1e-3, mean_s) * (output_max / 2 + 1) / max_batch * rng.choice([0.3, 0.8, 1.0, 1.5, 4.0])
    )
    events: list[tuple[float, int, str, Any]] = []
    t = 0.0
    for number in range(rng.choice([10, 40, 80])):
        if rng.random() > 0.15:
            t = _on_grid(t + rng.expovariate(1 / mean_gap_s), grid)
        tokens = (rng.randint(1, prompt_max), rng.randint(1, output_max))
        events.append((t, ARRIVAL, "submit", (number, *tokens)))
    events += _draw_actions(rng, grid, span_s=t, max_batch=max_batch)
    # A stable sort keeps the order of insertion within an instant and priority, as SimPy does.
    return Script(replica=replica, events=tuple(sorted(events, key=lambda event: event[:2])))


def with_prefixes(script: Script, seed: int) -> Script:
    """Return *script* with prompts of a few families that share their beginnings, so that blocks
    are hit, shared and evicted.
    """
    rng = Random(seed)  # noqa: S311 scripts for tests, the same on every machine

    def named(event: tuple[float, int, str, Any]) -> tuple[float, int, str, Any]:
        if event[2] != "submit" or rng.random() < 0.1:
            return event
        family, count = rng.randrange(3), -(-event[3][1] // BLOCK_TOKENS)
        common = rng.randint(0, count)
        own = (1000 * (event[3][0] + 10) + index for index in range(common, count))
        return *event[:3], (*event[3], *(100 * family + index for index in range(common)), *own)

    return replace(script, events=tuple(map(named, script.events)))


def with_conversations(script: Script, seed: int) -> Script:
    """Return *script* with requests of a few conversations: each goes on, or begins anew, with as
    much as it has tokens, and of most the answer has names too.
    """
    rng = Random(seed)  # noqa: S311 as above

    def named(event: tuple[float, int, str, Any]) -> tuple[float, int, str, Any]:
        if event[2] != "submit" or rng.random() < 0.1:
            return event
        _, prompt, output = event[3]
        whole, filled = prompt // BLOCK_TOKENS, (prompt + output) // BLOCK_TOKENS
        goes_on = filled > whole and rng.random() < 0.8
        begin = 1000 * rng.randrange(3)
        return *event[:3], (*event[3], *range(begin, begin + (filled + 1 if goes_on else whole)))

    return replace(script, events=tuple(map(named, script.events)))


def _draw_latency_model(rng: Random, grid: Grid) -> LatencyModel:
    if grid == "integer":
        return LatencyModel(alpha_ms=10_000.0, beta_ms=0.0, gamma_ms=0.0)
    if grid == "dyadic":
        alpha_s, beta_s, gamma_s = (
            rng.choice([0, 4, 32]) / 4,
            rng.choice([0, 1, 3]) / 64,
            rng.choice([0, 1, 5]) / 4096,
        )
        return LatencyModel(alpha_ms=1000 * alpha_s, beta_ms=1000 * beta_s, gamma_ms=1000 * gamma_s)
    if grid == "coarse":
        return LatencyModel(
            alpha_ms=rng.choice([2.5, 10, 20]), beta_ms=rng.choice([0, 0.5]), gamma_ms=0.01
        )
    return LatencyModel(
        alpha_ms=rng.choice([0.0, 1.0, 1.0]) * rng.uniform(1, 20),
        beta_ms=rng.choice([0.0, 1.0, 1.0]) * rng.uniform(0.001, 0.2),
        gamma_ms=rng.choice([0.0, 1.0, 1.0, 100.0]) * rng.uniform(1e-5, 1e-3),
    )


def _draw_kv_tokens(rng: Random, longest: int, max_batch: int, block_size: int) -> int | None:
    """Draw a KV cache from nearly too small for one request to ample; now and then one that
    rejects long requests.
    """
    if rng.random() < 0.2:
        return None
    share = rng.choice([0.6, 1.0, 1.0, 1.5, 2.0, 0.4 * max_batch, 0.7 * max_batch, 2.0 * max_batch])
    return max(block_size, int(longest * share) + rng.randint(0, block_size))


def _draw_actions(
    rng: Random, grid: Grid, *, span_s: float, max_batch: int
) -> list[tuple[float, int, str, Any]]:
    actions: list[tuple[float, int, str, Any]] = []
    for _ in range(rng.choice([0, 0, 2, 6])):
        size = max(1, int(max_batch * rng.choice([0.25, 0.5, 1, 2])))
        actions.append(
            (_on_grid(rng.uniform(0, 1.1 * span_s), grid), CONTROL, "set_max_batch", size)
        )
    scrapes = rng.choice([0, 5, 40])
    actions += [
        (_on_grid(1.3 * span_s * i / scrapes, grid), SCRAPE, "read", None) for i in range(scrapes)
    ]
    if rng.random() < 0.3:
        actions.append((_on_grid(rng.uniform(0.2, 1) * span_s, grid), CONTROL, "drain", None))
    if rng.random() < 0.15:
        actions.append(
            (
                _on_grid(rng.uniform(1, 1.1) * span_s + 1e-3, grid) + (grid in EXACT),
                CONTROL,
                "abort",
                None,
            )
        )
    return actions


def _on_grid(t_s: float, grid: Grid) -> float:
    if grid == "integer":
        return float(round(t_s))
    return round(t_s * 4) / 4 if grid == "dyadic" else t_s


def play_replica(script: Script) -> Outcome:
    """Play *script* to the replica of the twin."""
    return play_engine(script, Replica.of_spec)


def play_engine(script: Script, factory: EngineFactory) -> Outcome:
    """Play *script* to an engine, which is advanced by its own verbs and before it is read."""
    recorder = _Recorder()
    engine = factory(
        EngineSpec(
            model="m",
            accelerator="A",
            **{name: script.replica[name] for name in script.replica.keys() & _SPEC_FIELDS},
        ),
        max_batch=script.replica["max_batch"],
        queue_max=script.replica.get("queue_max"),
        on_finish=recorder.finished,
    )
    last_s = 0.0
    for t_s, priority, verb, argument in script.events:
        last_s = t_s
        if priority == SCRAPE:
            engine.advance(t_s, inclusive=True)
        recorder.play(engine, verb, argument, t_s)
    engine.advance(inf, inclusive=True)
    reading = engine.read(last_s)
    assert engine.outstanding == reading.running == reading.waiting == 0
    return recorder.close(reading)


def play_naive(script: Script) -> Outcome:
    """Play *script* to the oracle as SimPy events."""
    recorder = _Recorder()
    env = simpy.Environment()
    oracle = _Oracle(NaiveReplica(env, **script.replica, on_finish=recorder.finished))

    def at(verb: str, argument: Any) -> Callable[[simpy.Event], None]:
        def play(_: simpy.Event) -> None:
            recorder.play(oracle, verb, argument, env.now)

        return play

    for t_s, priority, verb, argument in script.events:
        alarm = Alarm(env, delay=t_s, priority=priority)
        assert alarm.callbacks is not None
        alarm.callbacks.append(at(verb, argument))
    env.run()
    return recorder.close(oracle.naive.read())


class _Oracle:
    """The naive replica behind the verbs of the other; it takes the time from its environment, not
    from the caller.
    """

    def __init__(self, naive: NaiveReplica) -> None:
        self.naive = naive

    def submit(self, request: Request, _: float) -> str | None:
        return self.naive.submit(request)

    def set_max_batch(self, max_batch: int, _: float) -> None:
        self.naive.set_max_batch(max_batch)

    def drain(self, _: float) -> list[Request]:
        return self.naive.drain()

    def abort(self, _: float) -> list[Request]:
        lost = self.naive.abort()
        for request in lost:
            request.restart()
        return lost

    def read(self, _: float) -> ReplicaReading:
        return self.naive.read()


class _Recorder:
    """Plays verbs, and writes down what becomes of the requests."""

    def __init__(self) -> None:
        self.outcome = Outcome()
        self.requests: list[Request] = []

    def finished(self, request: Request, finish_s: float) -> None:
        assert request.id not in self.outcome.ended, f"request {request.id} ended twice"
        self.outcome.ended[request.id] = ("finished", finish_s)
        self.outcome.order.append(request.id)

    def play(self, target: Engine | _Oracle, verb: str, argument: Any, now_s: float) -> None:
        ended = self.outcome.ended
        if verb == "submit":
            number, prompt_tokens, output_tokens, *blocks = argument
            request = Request(
                id=number,
                prompt_tokens=prompt_tokens,
                output_tokens=output_tokens,
                arrival_s=now_s,
                blocks=tuple(blocks),
                block_tokens=BLOCK_TOKENS,
            )
            self.requests.append(request)
            if (reason := target.submit(request, now_s)) is not None:
                ended[number] = (reason, now_s)
        elif verb == "set_max_batch":
            target.set_max_batch(argument, now_s)
        elif verb == "read":
            self.outcome.readings.append(target.read(now_s))
            self.outcome.in_flight += _lives(target, now_s)
        elif verb == "drain":
            ended.update({request.id: ("handed_back", now_s) for request in target.drain(now_s)})
        else:
            assert verb == "abort"
            ended.update({request.id: ("lost", now_s) for request in target.abort(now_s)})

    def close(self, last: ReplicaReading) -> Outcome:
        self.outcome.readings.append(last)
        for request in self.requests:
            self.outcome.first_token_s[request.id] = request.first_token_s
            self.outcome.preemptions[request.id] = request.preemptions
        return self.outcome


def _lives(target: Engine | _Oracle, now_s: float) -> list[tuple[int, int, int, float]]:
    """Return (id, generated, context, time of the last token) of what runs and then of what
    waits.
    """
    if isinstance(target, _Oracle):
        return target.naive.in_flight()
    return [
        (one.id, one.generated, one.context, one.last_token_s) for one in target.in_flight(now_s)
    ]


def differences(
    script: Script,
    *,
    rel: float,
    ignore: Collection[str] = (),
    factory: EngineFactory = Replica.of_spec,
) -> list[str]:
    """Play *script* to both and return what differs; times and sums by more than *rel* relatively,
    the rest at all.

    *ignore* names fields of the readings that are not compared.
    """
    ours, oracle = play_engine(script, factory), play_naive(script)
    found = []
    if ours.ended.keys() != oracle.ended.keys():
        found.append(f"ended: {sorted(ours.ended.keys() ^ oracle.ended.keys())}")
    for name in ("ended", "first_token_s", "preemptions"):
        left, right = getattr(ours, name), getattr(oracle, name)
        found += [
            f"{name}[{key}]: {left[key]} != {right[key]}"
            for key in left.keys() & right.keys()
            if not _same(left[key], right[key], rel)
        ]
    if ours.order != oracle.order:
        found.append("order of finishing")
    if not _same(ours.in_flight, oracle.in_flight, rel):
        found.append("requests in flight")
    for i, (mine, theirs) in enumerate(zip(ours.readings, oracle.readings, strict=True)):
        for name in {item.name for item in fields(ReplicaReading)} - set(ignore):
            left, right = getattr(mine, name), getattr(theirs, name)
            if not _same(left, right, rel):
                found.append(f"reading {i} {name}: {left} != {right}")
    return found


def _same(left: Any, right: Any, rel: float) -> bool:
    if isinstance(left, float):
        return left == right or (isnan(left) and isnan(right)) or isclose(left, right, rel_tol=rel)
    if isinstance(left, tuple | list):
        return len(left) == len(right) and all(
            _same(a, b, rel) for a, b in zip(left, right, strict=True)
        )
    return bool(left == right)
