"""Feeds a simulated cluster: the requests of every server, ahead of time or as SimPy events, or
users who wait for their answer before they ask again (the closed loop of a load generator).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from emulator.load import ARRIVALS, TOKENS, Batch, ServerLoad, batches
from twin.arrivals import token_counts
from twin.kernel import ARRIVAL, LOAD, Alarm, at
from twin.request import Request
from twin.traces.sessions import BLOCK, names_of

if TYPE_CHECKING:
    import simpy

    from emulator.load import LoadInterval, ServerLoad
    from emulator.walk import OfferedLoad
    from twin.request import Request, RequestBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """What was offered to one server up to until_s: requests, mean rate [rpm], mean tokens (None:
    no request).
    """

    until_s: float
    requests: int
    rate_rpm: float
    in_tokens: float | None
    out_tokens: float | None


class SimFeeder:
    """Hands the requests of *servers* to a simulated world, from 0 to *until_s* (None: for ever).

    Requests are drawn an interval at a time, all servers together. A world that can *expect* them
    (twin.serving.cluster.Cluster.expect) is told of an interval as it begins, and serves each
    server by itself. To any other they are submitted at their instants; they wait in one list, so
    that the event queue holds one arrival at a time. A new interval begins before the control
    actions of its instant, so a controller that reads offered_loads sees them without lag.

    Users wait for their answers: *watch* is given a server of such, and what to call at the end of
    each of its requests (twin.serving.cluster.Cluster.watch).
    """

    def __init__(
        self,
        env: simpy.Environment,
        submit: Callable[[Request], None],
        servers: Sequence[ServerLoad],
        *,
        interval_s: float,
        until_s: float | None = None,
        expect: Callable[[str, RequestBatch], None] | None = None,
        watch: Callable[[str, Callable[[Request, float], None]], None] | None = None,
    ) -> None:
        assert env.now == 0.0, "the load starts with the run"
        self._env = env
        self._submit = submit
        self._expect = expect
        self._until_s = until_s
        self._names = [load.server for load in servers]
        self._sources = [batches(load, interval_s=interval_s, until_s=until_s) for load in servers]
        # A load without an end must not fill the memory with its past.
        kept = 1 if until_s is None else None
        self._log: dict[str, deque[LoadInterval]] = {
            name: deque(maxlen=kept) for name in self._names
        }
        self._totals = np.zeros((len(servers), 3), dtype=np.int64)
        # The latest first: the next one is popped off the end, which costs the same however many.
        self._due: list[Request] = []
        self._arrival = Alarm(env, priority=ARRIVAL, action=self._arrive)
        if servers:
            self._begin_interval()
        for row, load in enumerate(servers):
            if load.users is not None:
                assert watch is not None, f"{load.server}: users need a world that tells the end"
                asked = partial(self._count, row)
                users = Users(env, submit, load, until_s=until_s, asked=asked)
                watch(load.server, users.ended)

    def offered_loads(self) -> Mapping[str, OfferedLoad]:
        """Return what labels would say now: by server, the offered load of the interval in
        progress.
        """
        return {name: log[-1].offered_load for name, log in self._log.items()}

    def log(self) -> Mapping[str, Sequence[LoadInterval]]:
        """Return the intervals begun so far, by server; without an end only the one in progress."""
        return self._log

    def offered(self) -> Mapping[str, Offered]:
        """Return what the intervals begun so far offer, by server."""
        result = {}
        for name, (requests, in_sum, out_sum) in zip(
            self._names, self._totals.tolist(), strict=True
        ):
            end_s = self._log[name][-1].t1_s
            result[name] = Offered(
                until_s=end_s,
                requests=requests,
                rate_rpm=60.0 * requests / end_s,
                in_tokens=in_sum / requests if requests else None,
                out_tokens=out_sum / requests if requests else None,
            )
        return result

    def _begin_interval(self) -> None:
        chunk = [next(source) for source in self._sources]
        totals = []
        for name, batch in zip(self._names, chunk, strict=True):
            self._log[name].append(batch.interval)
            # The sum of numpy, without the way to it: there are many servers.
            prompts, outputs = map(np.add.reduce, (batch.prompt_tokens, batch.output_tokens))
            totals.append((len(batch.times_s), int(prompts), int(outputs)))
            if self._expect is not None and len(batch):
                self._expect(name, batch)
        self._totals += np.array(totals, dtype=np.int64)
        if self._expect is None:
            self._due = _merged(self._names, chunk)
        if self._due:
            self._arrival.set(self._due[-1].arrival_s)
        end_s = chunk[0].interval.t1_s
        if self._until_s is None or end_s < self._until_s:
            at(self._env, end_s, priority=LOAD, action=self._begin_interval)

    def _count(self, row: int, request: Request) -> None:
        self._totals[row] += (1, request.prompt_tokens, request.output_tokens)

    def _arrive(self) -> None:
        request = self._due.pop()
        if self._due:
            self._arrival.set(self._due[-1].arrival_s)
        self._submit(request)


def _merged(names: Sequence[str], chunk: Sequence[Batch]) -> list[Request]:
    """Return the requests of all servers, the latest first; of one instant, the server named first
    comes first.
    """
    requests = [
        request
        for name, batch in zip(names, chunk, strict=True)
        for request in batch.requests(name)
    ]
    # Stable, and then turned round: of equal times, that of the first server is popped first.
    order = np.argsort(np.concatenate([batch.times_s for batch in chunk]), kind="stable")[::-1]
    return [requests[place] for place in order.tolist()]


# A user who was turned away tries again, but not at the same instant for ever.
RETRY_S = 1.0
_DRAWN = 256  # token counts drawn at once


@dataclass(frozen=True, slots=True, kw_only=True)
class _Talk:
    """A conversation: its number, the turns that were answered, and the tokens of these."""

    number: int
    turns: int = 0
    tokens: int = 0


class Users:
    """The users of one server: so many, of whom each has at most one request under way.

    After an answer a user thinks, for a time drawn from an exponential distribution of mean
    *load*.think_s, and asks again; none asks from *until_s* on. With several turns the prompt is
    then all that was said before, and new tokens after it; whoever was turned away begins anew.
    *asked* is called with each request as it is submitted.
    """

    def __init__(
        self,
        env: simpy.Environment,
        submit: Callable[[Request], None],
        load: ServerLoad,
        *,
        until_s: float | None,
        asked: Callable[[Request], None],
    ) -> None:
        assert load.users is not None
        self._env, self._submit, self._load, self._asked = env, submit, load, asked
        self._until_s = until_s
        self._rng_think = load.generator(ARRIVALS)
        self._rng_tokens = load.generator(TOKENS)
        self._drawn: list[tuple[int, int]] = []
        self._numbers = count()
        self._talks: dict[Request, _Talk] = {}  # of the requests under way, of several turns
        for _ in range(load.users):
            self._ask_at(self._think_s(), None)

    def ended(self, request: Request, end_s: float) -> None:
        """Learn that the client of *request* had its end at *end_s*: an answer, or none."""
        answered = request.last_token_s == end_s
        pause_s = self._think_s()
        talk = self._talks.pop(request, None)
        if talk is not None:
            talk = _Talk(
                number=talk.number,
                turns=talk.turns + 1,
                tokens=request.prompt_tokens + request.output_tokens,
            )
        goes_on = answered and talk is not None and talk.turns < self._load.turns
        self._ask_at(
            end_s + (pause_s if answered else max(pause_s, RETRY_S)), talk if goes_on else None
        )

    def _think_s(self) -> float:
        mean_s = self._load.think_s
        return self._rng_think.exponential(mean_s) if mean_s else 0.0

    def _ask_at(self, t_s: float, talk: _Talk | None) -> None:
        t_s = max(t_s, self._env.now)
        if self._until_s is None or t_s < self._until_s:
            at(self._env, t_s, priority=ARRIVAL, action=partial(self._ask, t_s, talk))

    def _ask(self, now_s: float, talk: _Talk | None) -> None:
        if not self._drawn:
            self._draw()
        prompt, output = self._drawn.pop()
        request = Request(
            server=self._load.server, arrival_s=now_s, prompt_tokens=prompt, output_tokens=output
        )
        if self._load.turns > 1:
            self._say(request, talk or _Talk(number=next(self._numbers)))
        self._asked(request)
        self._submit(request)

    def _say(self, request: Request, talk: _Talk) -> None:
        """Let *request* go on with *talk*."""
        request.prompt_tokens += talk.tokens
        goes_on = talk.turns + 1 < self._load.turns
        sizes = request.prompt_tokens, request.output_tokens
        request.blocks, request.block_tokens = names_of(talk.number, *sizes, goes_on=goes_on), BLOCK
        self._talks[request] = talk

    def _draw(self) -> None:
        load = self._load
        prompts, outputs = (
            token_counts(
                self._rng_tokens,
                _DRAWN,
                mean=mean,
                distribution=load.token_distribution,
                cv=load.token_cv,
            ).tolist()
            for mean in (load.nominal.in_tokens, load.nominal.out_tokens)
        )
        self._drawn = list(zip(prompts, outputs, strict=True))
