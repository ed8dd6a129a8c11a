"""Users who wait for their answer before they ask again: the closed loop of a load generator."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from emulator.load import ARRIVALS, TOKENS
from twin.arrivals import token_counts
from twin.kernel import ARRIVAL, at
from twin.request import Request

if TYPE_CHECKING:
    import simpy

    from emulator.load import ServerLoad

# A user who was turned away tries again, but not at the same instant for ever.
RETRY_S = 1.0
_DRAWN = 256  # token counts drawn at once


class Users:
    """The users of one server: so many, of whom each has at most one request under way.

    After an answer a user thinks, for a time drawn from an exponential distribution of mean
    *load*.think_s, and asks again; none asks from *until_s* on. *asked* is called with each request
    as it is submitted.
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
        for _ in range(load.users):
            self._ask_at(self._think_s())

    def ended(self, request: Request, end_s: float) -> None:
        """Learn that the client of *request* had its end at *end_s*: an answer, or none."""
        answered = request.last_token_s == end_s
        pause_s = self._think_s()
        self._ask_at(end_s + (pause_s if answered else max(pause_s, RETRY_S)))

    def _think_s(self) -> float:
        mean_s = self._load.think_s
        return self._rng_think.exponential(mean_s) if mean_s else 0.0

    def _ask_at(self, t_s: float) -> None:
        t_s = max(t_s, self._env.now)
        if self._until_s is None or t_s < self._until_s:
            at(self._env, t_s, priority=ARRIVAL, action=partial(self._ask, t_s))

    def _ask(self, now_s: float) -> None:
        if not self._drawn:
            self._draw()
        prompt, output = self._drawn.pop()
        request = Request(
            server=self._load.server, arrival_s=now_s, prompt_tokens=prompt, output_tokens=output
        )
        self._asked(request)
        self._submit(request)

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
