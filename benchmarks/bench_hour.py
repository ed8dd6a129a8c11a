"""What an hour of a whole system costs: sample-data/large, scenario steady, a cycle a minute,
records and scores.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from time import process_time
from typing import Any

from experiments import RunConfig, run
from experiments.config import SAMPLE_DATA

HOUR = RunConfig(data=SAMPLE_DATA / "large", scenario="steady", period_s=60.0, hours=1.0)
ROUNDS = 2


def figures() -> Iterator[dict[str, Any]]:
    """Yield `hour_large_cpu_s`, CPU of one process from reading the data to the scores (least of
    two rounds), and `requests_per_cpu_s_hour`, the requests that were simulated in it per second of
    that.
    """
    rounds = [_measured() for _ in range(ROUNDS)]
    cpu_s, requests = min(rounds)
    yield {"name": "hour_large_cpu_s", "value": round(cpu_s, 2), "unit": "s"}
    yield {
        "name": "requests_per_cpu_s_hour",
        "value": round(requests / cpu_s),
        "unit": "requests/s",
    }


def _measured() -> tuple[float, int]:
    gc.collect()
    begin_s = process_time()
    result = run(HOUR)
    return process_time() - begin_s, result.requests["id"].size
