"""Mean latencies of replicas at a rate, remembered. What is found of one does not depend on those
beside it, to the last bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from loop.optimizer.cache import row_keys
from loop.optimizer.model.queueing import analyze, make_model
from loop.optimizer.model.rates import blocks
from loop.optimizer.table import Means

if TYPE_CHECKING:
    from loop.optimizer.cache import SizingCache
    from loop.optimizer.model import Floats
    from loop.optimizer.model.queueing import ReplicaColumns


def means_at(columns: ReplicaColumns, rate: Floats, cache: SizingCache) -> Means:
    """Return the means of each row at *rate* > 0 [requests/ms]."""
    if not len(rate):
        return Means(rate, rate, rate)
    keys = row_keys("", [*columns.parts, rate])
    known = cache.means.get(keys)
    found = np.array([one or (0.0, 0.0, 0.0) for one in known]).reshape(-1, 3)
    new = np.array([place for place, one in enumerate(known) if one is None], dtype=np.intp)
    queue = columns.max_queue[new]
    # Queues that are none, or have no bound, have formulas of their own.
    for some in (queue == 0.0, np.isinf(queue), (queue > 0.0) & np.isfinite(queue)):
        rows = new[some]
        for part in blocks(columns.max_batch[rows]) if len(rows) else ():
            here = rows[part]
            seen = analyze(make_model(columns.take(here)), rate[here])
            found[here] = np.stack([seen.itl, seen.ttft, seen.rho], axis=1)
    cache.means.put([keys[place] for place in new], [(a, b, c) for a, b, c in found[new].tolist()])
    itl, ttft, rho = np.ascontiguousarray(found.T)
    return Means(itl, ttft, rho)
