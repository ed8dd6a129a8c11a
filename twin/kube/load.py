"""The load that labels ask for, as requests in the simulation: drawn a slice of time at a time."""

from __future__ import annotations

from functools import partial

import numpy as np
import simpy

from twin.arrivals import ArrivalStream, token_counts
from twin.kernel import ARRIVAL, at
from twin.kube.desired import Load
from twin.request import Request
from twin.serving.cluster import Cluster
from twin.spec import Server

_KEY = 3_000_000  # spawn keys of this load, apart from those of the world and of the emulator


class _Source:
    """One server's requests: unit-rate arrivals and token counts, each from a generator of its
    own.
    """

    def __init__(self, server: Server, seed: np.random.SeedSequence, number: int) -> None:
        keys = [(*seed.spawn_key, _KEY + number, purpose) for purpose in (0, 1)]
        generators = [
            np.random.default_rng(np.random.SeedSequence(entropy=seed.entropy, spawn_key=key))
            for key in keys
        ]
        self.server = server
        self.load = Load()
        self.stream = ArrivalStream(generators[0], cv=server.arrival_cv, process=server.arrivals)
        self.rng_tokens = generators[1]

    def tokens(self, count: int, mean: float) -> list[int]:
        server = self.server
        counts = token_counts(
            self.rng_tokens,
            count,
            mean=mean,
            distribution=server.token_distribution,
            cv=server.token_cv,
        )
        return [int(each) for each in counts]


class LoadFeeder:
    """Submits the requests of every server that has a load, as long as feed is called."""

    def __init__(
        self, env: simpy.Environment, cluster: Cluster, *, seed: np.random.SeedSequence
    ) -> None:
        self._env = env
        self._cluster = cluster
        self._seed = seed
        self._sources: dict[str, _Source] = {}
        self._made = 0

    def add(self, server: Server) -> None:
        """Begin with *server*, without load."""
        self._sources[server.name] = _Source(server, self._seed, self._made)
        self._made += 1

    def remove(self, server: str) -> None:
        """Submit nothing to *server* any more; nothing of it may be on its way."""
        del self._sources[server]

    def set_load(self, server: str, load: Load) -> None:
        """Let *load* be that of *server* from now on."""
        self._sources[server].load = load

    def feed(self, until_s: float) -> None:
        """Put the requests from now to *until_s* into the simulation; each call goes on where the
        last one ended.
        """
        for source in self._sources.values():
            if source.load.rate_rpm > 0.0:
                times_s = source.stream.until(self._env.now, until_s, source.load.rate_rpm / 60.0)
                prompts = source.tokens(len(times_s), source.load.in_tokens)
                outputs = source.tokens(len(times_s), source.load.out_tokens)
                for at_s, prompt, output in zip(times_s.tolist(), prompts, outputs, strict=True):
                    request = Request(
                        server=source.server.name,
                        arrival_s=at_s,
                        prompt_tokens=prompt,
                        output_tokens=output,
                    )
                    submit = partial(self._cluster.submit, request)
                    at(self._env, at_s, priority=ARRIVAL, action=submit)
