"""Extension points: routers, engines, KV caches, arrival processes and formats of traces by name,
by module:Name and as objects; what each port promises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from twin.arrivals import ArrivalStream
from twin.engine.kv_cache import KV_CACHES, BlockTable, KvCache, UnlimitedCache, make_kv_cache
from twin.engine.port import Engine, OnFinish, make_engine
from twin.engine.replica import Replica
from twin.registry import resolve
from twin.request import Request, RequestLog
from twin.serving.routers import ROUTERS, Router, make_router
from twin.spec import EngineSpec, LatencyModel, Pool, Server, SpecError
from twin.testing.worlds import arrive, cluster_of, spec_of
from twin.traces import Columns, Format, read_trace

Floats = NDArray[np.float64]

MODEL = LatencyModel(alpha_ms=10.0, beta_ms=0.1, gamma_ms=0.001)
HERE = "tests.twin.test_ports"


class ByLength(Router):
    """Sends short prompts to the first replica and long ones to the last: it must see the
    request.
    """

    def __init__(self, _rng: np.random.Generator) -> None:
        pass

    def route(self, request: Request, replicas: Sequence[Engine], now_s: float) -> Engine:  # noqa: ARG002, length is the same whenever
        return replicas[0 if request.prompt_tokens < 100 else -1]


class Halved(BlockTable):
    """Has half of the blocks that it is given."""

    def __init__(self, kv_tokens: int | None, block_size: int) -> None:
        assert kv_tokens is not None
        super().__init__(blocks=kv_tokens // block_size // 2, block_size=block_size)


def slower(
    spec: EngineSpec, *, max_batch: int, queue_max: int | None, on_finish: OnFinish
) -> Engine:
    """Return an engine whose batch is never larger than 1."""
    assert max_batch > 1
    return Replica.of_spec(spec, max_batch=1, queue_max=queue_max, on_finish=on_finish)


class InPairs:
    """Requests come two by two."""

    def __init__(self, rng: np.random.Generator, *, cv: float) -> None:
        assert cv == 1.0
        self._rng = rng
        self._odd = False

    def first(self) -> float:
        return 0.5

    def gaps(self, count: int) -> Floats:
        number = np.arange(count) + self._odd
        self._odd = bool((count + self._odd) % 2)
        return 2.0 * (number % 2)


def never(rng: np.random.Generator, *, cv: float) -> InPairs:
    """Return a process whose first request comes before the run."""
    process = InPairs(rng, cv=cv)
    process.first = lambda: -1.0  # type: ignore[method-assign]
    return process


class AllAtOnce(InPairs):
    """Never comes to an end of what arrives at the same instant."""

    def gaps(self, count: int) -> Floats:
        return np.zeros(count)


class WithoutVariation:
    """Does not take the coefficient of variation."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng


def divides(_path: Path) -> Columns:
    """Raise what nobody expects of a reader."""
    raise ZeroDivisionError("division\nby zero")


GATEWAY = Format(time="at", prompt="in", output="out", unit="ms")
QUIET = Format(time="at", prompt="in", output="out", unit="s", lines=True)


def numbers(path: Path) -> Columns:
    """Read lines of a time and tokens."""
    times_s, tokens = np.loadtxt(path, unpack=True)
    return Columns(
        times_s=times_s,
        prompt_tokens=tokens.astype(np.int32),
        output_tokens=tokens.astype(np.int32),
    )


def short(path: Path) -> Columns:
    """Lose a row of the tokens."""
    rows = numbers(path)
    return replace(rows, prompt_tokens=rows.prompt_tokens[1:])


def _replicas(count: int) -> list[Replica]:
    return [Replica(latency_model=MODEL, max_batch=8) for _ in range(count)]


@pytest.mark.parametrize("name", ROUTERS)
def test_a_router_routes_to_one_of_the_replicas_whatever_comes_and_goes(name: str) -> None:
    """A request sent to a replica that left would be rejected, as if the server were full."""
    rng = np.random.default_rng(3)
    router, replicas = make_router(name, np.random.default_rng(1)), _replicas(1)
    router.add(replicas[0])
    for number in range(400):
        if rng.random() < 0.2:
            replicas += _replicas(1)
            router.add(replicas[-1])
        elif rng.random() < 0.2 and len(replicas) > 1:
            index = int(rng.integers(len(replicas)))
            del replicas[index]
            router.remove(index)
        now_s = 0.1 * number
        request = Request(prompt_tokens=5, output_tokens=20, arrival_s=now_s)
        chosen = router.route(request, replicas, now_s)
        assert any(chosen is replica for replica in replicas)
        assert chosen.submit(request, now_s) is None


@pytest.mark.parametrize("router", [ByLength, f"{HERE}:ByLength"])
def test_a_router_of_ones_own_sees_the_request(router: object) -> None:
    """Routing by prefix, session or length needs more than the counts of the replicas."""
    server = Server(
        name="s",
        model="m",
        pool=Pool(accelerator="A", replicas=3, max_batch=8),
        router=router,  # type: ignore[arg-type]
    )
    env, cluster = cluster_of(spec_of(server, capacity={"A": 3}))
    arrive(env, cluster, [1.0, 2.0], prompt=10, output=1000)
    arrive(env, cluster, [3.0], prompt=500, output=1000)
    env.run(until=4.0)
    assert [pod.outstanding for pod in cluster.deployments[0].pods] == [2, 0, 1]


@pytest.mark.parametrize("engine", [slower, f"{HERE}:slower"])
def test_an_engine_of_ones_own_serves_the_requests(engine: object) -> None:
    """A compiled engine, or one of another scheduler, stands beside the plain one."""
    spec = EngineSpec(model="m", accelerator="A", latency_model=MODEL, engine=engine)  # type: ignore[arg-type]
    log = RequestLog()
    made = make_engine(spec, max_batch=8, queue_max=None, on_finish=log.add_finished)
    for number in range(3):
        made.submit(Request(id=number, prompt_tokens=5, output_tokens=2, arrival_s=0.0), 0.0)
    made.advance(inf, inclusive=True)
    first_s = log.frame()["first_token_s"]
    assert len(set(first_s.tolist())) == 3


def test_a_kv_cache_of_ones_own_is_asked_for_room() -> None:
    """With half of the blocks the second request has to wait for the first."""

    def first_tokens(kv_cache: str | type[Halved]) -> list[float]:
        replica = Replica(latency_model=MODEL, max_batch=8, kv_tokens=64, kv_cache=kv_cache)
        requests = [
            Request(id=number, prompt_tokens=20, output_tokens=2, arrival_s=0.0)
            for number in range(2)
        ]
        for request in requests:
            assert replica.submit(request, 0.0) is None
        replica.advance(inf, inclusive=True)
        return [request.first_token_s for request in requests]

    together, apart = first_tokens("counted"), first_tokens(Halved)
    assert together[0] == together[1]
    assert apart[0] < apart[1]
    assert apart == first_tokens(f"{HERE}:Halved")  # type: ignore[arg-type]


def test_a_cache_without_bounds_serves_as_one_that_is_never_full() -> None:
    """It is an object of its own, not a branch: the same requests get the same times."""

    def served(kv_tokens: int | None) -> tuple[bytes, float]:
        log, rng = RequestLog(), np.random.default_rng(7)
        replica = Replica(
            latency_model=MODEL, max_batch=6, kv_tokens=kv_tokens, on_finish=log.add_finished
        )
        times_s = np.cumsum(rng.exponential(0.2, 300)).tolist()
        for number, now_s in enumerate(times_s):
            prompt, output = (int(tokens) for tokens in rng.integers(1, 300, 2))
            request = Request(
                id=number, prompt_tokens=prompt, output_tokens=output, arrival_s=now_s
            )
            assert replica.submit(request, now_s) is None
        replica.advance(times_s[-1], inclusive=True)
        usage = replica.read(times_s[-1]).kv_usage
        replica.advance(inf, inclusive=True)
        return b"".join(column.tobytes() for column in log.frame().values()), usage

    unbounded, ample = served(None), served(10_000_000)
    assert unbounded[0] == ample[0]
    assert unbounded[1] == 0.0 < ample[1]


@pytest.mark.parametrize("process", [InPairs, f"{HERE}:InPairs"])
def test_arrivals_of_ones_own_come_when_they_say(process: object) -> None:
    """Batches, feedback and correlated bursts are not in any coefficient of variation."""
    stream = ArrivalStream(np.random.default_rng(1), process=process)  # type: ignore[arg-type]
    assert stream.until(0.0, 3.0, 2.0).tolist() == [0.25, 0.25, 1.25, 1.25, 2.25, 2.25]


def test_gaps_that_are_none_are_refused_in_one_line() -> None:
    """Time would go back, and the run would wait for ever or end in a traceback."""
    with pytest.raises(SpecError, match=r"^arrival process: expected finite gaps >= 0, found -1"):
        ArrivalStream(np.random.default_rng(1), process=never)


def test_gaps_of_0_without_end_are_refused_in_one_line() -> None:
    """No sum of them reaches the end of a minute: the run never ended, and grew."""
    stream = ArrivalStream(np.random.default_rng(1), process=AllAtOnce)
    with pytest.raises(SpecError, match=r"^arrival process: expected gaps of mean 1, found 1\d{5}"):
        stream.until(0.0, 5.0, 1.0)


@pytest.mark.parametrize("given", [WithoutVariation, f"{HERE}:WithoutVariation", f"{HERE}:short"])
def test_what_makes_no_arrival_process_is_told_in_one_line(given: object) -> None:
    """It is somebody's first try, and a traceback through our files does not say whose fault."""
    name = given if isinstance(given, str) else "WithoutVariation"
    with pytest.raises(SpecError, match=f"^arrival process {name}: .*argument 'cv'$"):
        ArrivalStream(np.random.default_rng(1), process=given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (f"{HERE}:GATEWAY", "at,in,out\n1000,5,7\n3000,6,8\n"),
        (GATEWAY, "at;in;out\n1000;5;7\n3000;6;8\n"),
        (f"{HERE}:QUIET", '{"at": 1.0, "in": 5, "out": 7}\n{"at": 3.0, "in": 6, "out": 8}\n'),
    ],
)
def test_a_format_of_ones_own_is_its_columns(
    given: str | Format, text: str, tmp_path: Path
) -> None:
    """Every gateway names them otherwise, and all else is as with the known ones."""
    path = tmp_path / "log"
    path.write_text(text)
    trace = read_trace(path, given)
    assert trace.times_s.tolist() == [0.0, 2.0]
    assert (trace.prompt_tokens.tolist(), trace.output_tokens.tolist()) == ([5, 6], [7, 8])


@pytest.mark.parametrize("given", [numbers, f"{HERE}:numbers"])
def test_a_reader_of_ones_own_gives_rows(given: object, tmp_path: Path) -> None:
    """Some are no table at all."""
    path = tmp_path / "log"
    path.write_text("5 20\n4 10\n")
    trace = read_trace(path, given)  # type: ignore[arg-type]
    assert trace.times_s.tolist() == [0.0, 1.0]
    assert trace.prompt_tokens.tolist() == [10, 20]


@pytest.mark.parametrize(
    ("given", "text", "message"),
    [
        (numbers, "five 20\n", "log: its reader numbers failed: ValueError: could not .*'five'"),
        (short, "5 20\n4 10\n", r"log: expected of its reader as many times .* \[1, 2\] rows"),
        (numbers, "5 -20\n4 10\n", r"log: expected of its reader .* from 0 to 1,000,000,000"),
        (numbers, "nan 20\n4 10\n", "log: expected of its reader"),
        (divides, "5 20\n", "log: its reader divides failed: ZeroDivisionError: division by zero$"),
        (5, "5 20\n", "log: format: expected a format or a reader, found 5$"),
        (f"{HERE}:nobody", "5 20\n", "trace format: cannot load .*nobody"),
        ("gateway", "5 20\n", "log: format: expected one of azure, .*, found 'gateway'"),
    ],
)
def test_what_a_reader_cannot_read_is_told_in_one_line(
    given: object, text: str, message: str, tmp_path: Path
) -> None:
    """Columns of two lengths would give each request another one's tokens."""
    path = tmp_path / "log"
    path.write_text(text)
    with pytest.raises(SpecError, match=rf"^(.*/)?{message}") as error:
        read_trace(path, given)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cache", [BlockTable(blocks=100, block_size=16), UnlimitedCache()])
def test_a_cache_that_was_cleared_holds_nothing(cache: KvCache) -> None:
    """After a crash the next process begins with an empty one."""
    cache.join(40)
    cache.leave(40)
    cache.join(3)
    cache.clear()
    assert cache.used(17, 0, 0) == 0
    assert cache.demand(17) == 0
    assert cache.usage(0) == 0.0


def test_the_counted_cache_has_whole_blocks_and_none_means_no_bound() -> None:
    """The rest of a block is of no use; a world that does not know is not a world without room."""
    assert tuple(KV_CACHES) == ("counted",)
    made = make_kv_cache("counted", kv_tokens=47, block_size=16)
    assert (made.blocks, made.tokens) == (2, 32)
    assert make_kv_cache("counted", kv_tokens=None, block_size=16).tokens == inf


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("fastest", "router: expected one of round_robin, .* or module:Name, found 'fastest'"),
        ("no.such.module:Router", "router: cannot load 'no.such.module:Router': No module named"),
        (f"{HERE}:Nothing", "router: cannot load .* has no attribute 'Nothing'"),
        (":", "router: cannot load ':'"),
    ],
)
def test_a_name_that_means_nothing_is_refused_in_one_line(given: str, message: str) -> None:
    """It comes from a file or the command line: whose value, what was expected, what came."""
    with pytest.raises(SpecError, match=message) as error:
        resolve(given, kind="router", known=ROUTERS)
    assert "\n" not in str(error.value)
