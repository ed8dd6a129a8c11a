"""What is handed to the table of replicas: requests that come to a server, and a look at it. Needs
no compiler.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from twin.request import RequestBatch
from twin.spec import EngineSpec

# A row of the table, which imports this.
Row = TypeVar("Row")


def fits_table(spec: EngineSpec) -> bool:
    """Tell whether a replica of *spec* can be a row of a table."""
    return not unfit(spec)


def unfit(spec: EngineSpec) -> str:
    """Return why a replica of *spec* cannot be a row of a table, nothing if it can."""
    if spec.engine != "plain":
        return f"its engine is {spec.engine}"
    if spec.kv_cache != "counted":
        return f"its KV cache is {spec.kv_cache}"
    return "" if spec.tokens_per_step == 1.0 else "a step of its engine makes several tokens"


class Stretch(NamedTuple):
    """Requests that come to one server, between whose arrivals nothing else happens to it: those of
    *batch* from *begin* to before *end*, the first with this *number*; *route* is how to choose (of
    twin.engine.compiled.columns), whose turn it is, and what chance drew. *more* are further
    batches, and from where to before where, that come after it.
    """

    batch: RequestBatch
    begin: int
    end: int
    number: int
    route: tuple[int, int, npt.NDArray[np.float64]]
    more: tuple[tuple[RequestBatch, int, int], ...] = ()

    @property
    def requests(self) -> int:
        """Return how many requests come."""
        return self.end - self.begin + sum(end - begin for _, begin, end in self.more)


_NONE = np.empty(0, np.int64)
NO_DRAWS = np.empty(0)
NO_STRETCH = Stretch(
    RequestBatch(times_s=np.empty(0), prompt_tokens=_NONE, output_tokens=_NONE),
    *(0, 0, 0),
    (0, 0, NO_DRAWS),
)


class Visit(NamedTuple, Generic[Row]):
    """What happens to the *server* of this index at a scrape: a *stretch* arrives at the replicas
    that it is routed to, then those to be *read* are.
    """

    server: int
    stretch: Stretch
    routed: Sequence[Row]
    read: Sequence[Row]
