"""What about the rows of a trace is in doubt: each a note, and nothing is changed for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Times = NDArray[np.float64]
    Tokens = NDArray[np.int32]

PART = 2**20  # rows looked at together, so that what is made of them takes little memory
FEW_REQUESTS = 20  # say nothing of how the others come
# Rows of two orders (of two servers, say) go back at every second row, those of two recordings one
# behind the other once, and so do those of a clock that was set back. Who writes requests down as
# they are answered goes back by as long as these take.
BACK_MAX, BACK_S_MIN = 0.01, 60.0
# A night is quiet, and a file of which a part is missing is empty.
HOLE_OF_SPAN, HOLE_OF_MEAN = 0.2, 100.0
ALIKE_MAX = 0.1


def went_back(name: str, times_s: Times) -> Iterator[str]:
    """Yield a note where *times_s*, as they stand in the file, go back a few times only."""
    steps, furthest_s = 0, 0.0
    for first in range(0, len(times_s), PART):
        gaps = np.diff(times_s[first : first + PART + 1])
        steps += int(np.count_nonzero(gaps < 0.0))
        furthest_s = min(furthest_s, float(gaps.min(initial=0.0)))
    if 0 < steps <= max(BACK_MAX * len(times_s), 1.0) and -furthest_s >= BACK_S_MIN:
        often = "once" if steps == 1 else f"{steps} times"
        yield (
            f"trace {name}: its times go back {often}, by up to {-furthest_s:,.0f} s, and its "
            "requests come as these say: recordings one behind the other come at once, and so "
            "does the hour in which clocks are put back"
        )


def doubts(name: str, times_s: Times, prompts: Tokens, outputs: Tokens) -> Iterator[str]:
    """Yield notes about requests in order of time, *times_s* from 0: a long time without any, many
    that are alike, prompts of nothing.
    """
    count = len(times_s)
    empty = int(np.count_nonzero(prompts <= 0))
    if empty:
        yield (
            f"trace {name}: {empty:,} of its {count:,} rows have a prompt of no tokens: it is "
            "taken for one"
        )
    if count < FEW_REQUESTS:
        return
    hole_s, at, alike = 0.0, 0, 0
    for first in range(0, count, PART):
        part = slice(first, first + PART + 1)
        gaps = np.diff(times_s[part])
        if len(gaps) and gaps.max() > hole_s:
            hole_s, at = float(gaps.max()), first + int(gaps.argmax())
        same = (np.diff(prompts[part]) == 0) & (np.diff(outputs[part]) == 0)
        alike += int(np.count_nonzero(same & (gaps == 0.0)))
    span_s = float(times_s[-1])
    if hole_s > max(HOLE_OF_SPAN * span_s, HOLE_OF_MEAN * (span_s - hole_s) / count):
        yield (
            f"trace {name}: no request comes for {hole_s:,.0f} s of its {span_s:,.0f}, from "
            f"{times_s[at]:,.0f} s on: is a part missing?"
        )
    if alike > ALIKE_MAX * count and not _is_of_one_size(prompts, outputs):
        yield (
            f"trace {name}: {alike:,} of its {count:,} rows are like the one before in time and "
            "tokens: if the file holds requests twice, so does the load"
        )


def _is_of_one_size(prompts: Tokens, outputs: Tokens) -> bool:
    """Tell whether requests are of a few sizes, so that two are alike by chance."""
    sizes = np.unique(np.stack([prompts[:PART], outputs[:PART]], axis=1), axis=0)
    return len(sizes) < ALIKE_MAX * min(len(prompts), PART)
