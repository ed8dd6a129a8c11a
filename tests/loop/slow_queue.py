"""The queueing model of one replica in plain Python, state by state: the oracle of the columnar
one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class SlowReplica:
    """Parameters as in loop.optimizer.model.queueing.ReplicaColumns, of one replica with a bounded
    queue.
    """

    alpha: float
    beta: float
    gamma: float
    in_tokens: float
    out_tokens: float
    max_batch: int
    max_queue: int
    token_budget: float = 8192.0

    def chunks(self, batch: int) -> int:
        """Return the prefill iterations at *batch*, found by counting up."""
        k = 1
        while True:
            room = (k + self.out_tokens) * (self.token_budget - self.in_tokens / k)
            if math.floor(max(0.0, room / (self.in_tokens + self.out_tokens))) >= batch:
                return k
            k += 1

    def prefill_work(self, chunks: int) -> float:
        """Return the work of a prefill [ms]."""
        return (self.beta + self.gamma * (chunks + 1) / 2.0) * self.in_tokens

    def delta(self, chunks: int) -> float:
        """Return the work that a request adds to an iteration [ms]."""
        m = self.out_tokens
        decode = self.beta * m + self.gamma * m * (self.in_tokens + (m + 1.0) / 2.0)
        return (self.prefill_work(chunks) + decode) / (chunks + m)

    def service_rate(self, batch: int) -> float:
        """Return the rate at which *batch* requests are served [requests/ms]."""
        chunks = self.chunks(batch)
        return batch / ((chunks + self.out_tokens) * (self.alpha + batch * self.delta(chunks)))

    def figures(self, rate: float) -> dict[str, float]:
        """Return the metrics at *rate* [requests/ms], by sums over every state."""
        states = self.max_batch + self.max_queue
        logs = [0.0]
        for n in range(1, states + 1):
            logs.append(
                logs[-1] + math.log(rate) - math.log(self.service_rate(min(n, self.max_batch)))
            )
        top = max(logs)
        weights = [math.exp(log - top) for log in logs]
        share = [weight / sum(weights) for weight in weights]
        in_service = sum(min(n, self.max_batch) * p for n, p in enumerate(share))
        waiting = sum(max(n - self.max_batch, 0) * p for n, p in enumerate(share))
        throughput = sum(
            p * self.service_rate(min(n, self.max_batch)) for n, p in enumerate(share) if n > 0
        )
        service, wait = in_service / throughput, waiting / throughput
        chunks = self.chunks(min(max(int(in_service + 0.5), 1), self.max_batch))
        fixed = max(0.0, self.alpha + (in_service - 1.0) * self.delta(chunks))
        prefill = chunks * fixed + self.prefill_work(chunks)
        itl = (service - prefill) / self.out_tokens
        return {
            "throughput": throughput,
            "wait": wait,
            "response": service + wait,
            "in_service": in_service,
            "prefill": prefill,
            "itl": itl,
            "ttft": wait + prefill + itl,
            "loss": share[-1],
            "idle": share[0],
        }
