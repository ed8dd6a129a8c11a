"""Requests written by hand, one tuple each, as the columns that a run gives."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from experiments.columns import FAILED, FINISHED, REJECTED, UNFINISHED

NAN = math.nan


def finished(
    server: int, arrival_s: float, *, ttft_s: float, itl_s: float, out: int
) -> dict[str, float]:
    """Return a finished request with these latencies."""
    first_s = arrival_s + ttft_s
    return _row(server, arrival_s, first_s, first_s + itl_s * (out - 1), out, FINISHED, out)


def unfinished(
    server: int, arrival_s: float, *, out: int, first_s: float = NAN, generated: int = 0
) -> dict[str, float]:
    """Return a request in flight at the end of the run."""
    return _row(server, arrival_s, first_s, NAN, out, UNFINISHED, generated)


def rejected(server: int, arrival_s: float, *, out: int = 10) -> dict[str, float]:
    """Return a request turned away at its arrival."""
    return _row(server, arrival_s, NAN, arrival_s, out, REJECTED, 0)


def failed(server: int, arrival_s: float, *, out: int = 10) -> dict[str, float]:
    """Return a request lost in a crash half a second after it began to answer."""
    return _row(server, arrival_s, arrival_s + 0.1, arrival_s + 0.6, out, FAILED, 3)


def columns(rows: Sequence[dict[str, float]]) -> dict[str, npt.NDArray[np.generic]]:
    """Lay the rows out as columns, with the types of a run."""
    whole = ("server", "prompt_tokens", "output_tokens", "preemptions", "outcome", "generated")
    return {
        name: np.array([row[name] for row in rows], dtype=np.int64 if name in whole else float)
        for name in _NAMES
    }


_NAMES = (
    "server",
    "arrival_s",
    "first_token_s",
    "finish_s",
    "prompt_tokens",
    "output_tokens",
    "preemptions",
    "outcome",
    "generated",
)


def _row(*figures: float) -> dict[str, float]:
    """Name the figures: server, arrival, first token, finish, output tokens, outcome, generated."""
    server, arrival_s, first_s, finish_s, out, outcome, generated = figures
    return dict(
        zip(
            _NAMES,
            (server, arrival_s, first_s, finish_s, 100, out, 0, outcome, generated),
            strict=True,
        )
    )
