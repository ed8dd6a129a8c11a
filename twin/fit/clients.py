"""Whether logs of one engine were measured by clients that take a time of their own: what a request
spends outside the engine is of the client and of its day, and one fit has one overhead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from twin.fit.replay import Replayed
from twin.fit.request_csv import RequestRows, Times

# Of fewer a median says little.
REQUESTS_MIN, POINTS_MIN = 10, 3
# What is told is at least so much, as a time, as a share of TTFT, and in standard errors.
APART_MIN_S, SHARE_MIN, ERRORS_MIN = 0.002, 0.1, 3.0
# Of a normal distribution, the standard deviation over the median of what is off.
SCALE = 1.48


class Late(NamedTuple):
    """By how much later the first tokens of *file* came than was replayed, beside those of most
    files, at the median.
    """

    file: str
    late_s: float


def apart(logs: Sequence[RequestRows], replays: Sequence[Replayed]) -> tuple[Late, ...]:
    """Return the files whose first tokens differ from those of most by more than chance, and than
    what prompts of their length are off by.
    """
    late_s: dict[str, list[float]] = {}
    ttft_s: dict[str, list[float]] = {}
    for rows, replayed in zip(logs, replays, strict=True):
        missing_s = (rows.first_token_s - replayed.first_token_s).tolist()
        files = rows.files or (rows.source,) * len(rows)
        for file, missing, ttft in zip(files, missing_s, rows.ttft_s.tolist(), strict=True):
            late_s.setdefault(file, []).append(missing)
            ttft_s.setdefault(file, []).append(ttft)
    enough = POINTS_MIN if all(rows.points for rows in logs) else REQUESTS_MIN
    groups = {file: np.array(each) for file, each in late_s.items() if len(each) >= enough}
    medians = {file: float(np.median(each)) for file, each in groups.items()}
    if len(medians) < 2:
        return ()
    # Of two files the later one is told.
    usually_s = sorted(medians.values())[(len(medians) - 1) // 2]
    found = []
    for file, own_s in medians.items():
        difference_s = own_s - usually_s
        usual_s = float(np.median(ttft_s[file]))
        error_s = _error_s(groups[file])
        if abs(difference_s) > max(APART_MIN_S, SHARE_MIN * usual_s, ERRORS_MIN * error_s):
            found.append(Late(file, difference_s))
    return tuple(found)


def _error_s(values_s: Times) -> float:
    """Return the standard error of the median of *values_s*, which may hold outliers."""
    off = np.abs(values_s - np.median(values_s))
    return float(1.25 * SCALE * np.median(off) / len(values_s) ** 0.5)
