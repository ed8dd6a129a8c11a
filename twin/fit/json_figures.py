"""Figures of requests out of JSON, with errors that say where they stood: for the readers of what
load generators write.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from twin.fit.points import OperatingPoint
from twin.fit.request_csv import TOKENS_MAX, RequestRows, check_figures, request_rows
from twin.spec import SpecError

Figures = list[float]
# Of so many requests, as a share, a client may have lost the figures (a first token at 0 where no
# stream came, a clock that was set): more of them are a fault of the file, or of how it is read.
ODD_MAX = 0.1


def finite(value: object, *, where: str) -> float:
    """Return *value*; raise SpecError if it is no finite number."""
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max  # an int may be beyond any float
    ):
        return float(value)
    raise SpecError(f"{where}: expected a number, found {str(value)[:60]!r}")


def shape(value: object) -> str:
    """Return what *value* is, for a message."""
    if isinstance(value, Mapping):
        return "an object with " + (", ".join(list(map(str, value))[:6]) or "nothing in it")
    return f"a {type(value).__name__}"


def member(of: Mapping[str, Any], name: str, *, where: str) -> Mapping[str, Any]:
    """Return the object *name*: absent and null are an empty one. Raise SpecError for others."""
    found = of.get(name)
    if found is None or isinstance(found, Mapping):
        return found or {}
    raise SpecError(f"{where}: {name}: expected an object, found {shape(found)}")


def entries(of: Mapping[str, Any], name: str, *, where: str) -> Sequence[Any]:
    """Return the list *name*: absent and null are an empty one. Raise SpecError for others."""
    found = of.get(name)
    if found is None or isinstance(found, list):
        return found or []
    raise SpecError(f"{where}: {name}: expected a list, found {shape(found)}")


def objects(found: Sequence[Any], *, where: str) -> Sequence[Mapping[str, Any]]:
    """Return *found*; raise SpecError if one of them, a request as a rule, is no object."""
    for index, one in enumerate(found, 1):
        if not isinstance(one, Mapping):
            raise SpecError(f"{where} {index}: expected an object, found {shape(one)}")
    return found


def log_of(
    source: str, requests: Sequence[tuple[int, Figures]], *, failed: int, run: str = ""
) -> RequestRows:
    """Return the log of *requests*, each with its number in the file and its figures. Those whose
    figures cannot be are left out, if they are few. Raise SpecError.
    """
    name = f"{source} {run}".rstrip()
    if not requests:
        raise SpecError(
            f"{name}: expected requests that were answered, found {failed} that failed"
            if failed
            else f"{name}: expected requests, found none"
        )
    sound, odd = [], []
    for index, figures in requests:
        try:
            sound.append((index, check_figures(figures, where=f"{name}: request {index}")))
        except SpecError as error:
            odd.append(str(error).removeprefix(f"{name}: "))
    if len(odd) > ODD_MAX * len(requests):
        raise SpecError(f"{name}: {odd[0]}")
    numbers, values = [index for index, _ in sound], [figures for _, figures in sound]
    rows = request_rows(name, numbers, values, place="request", failed=failed)
    if not odd:
        return rows
    what = f"{len(odd)} of {len(requests)} requests have figures that cannot be"
    return replace(rows, notes=(f"{name}: {what}, and are left out ({odd[0]})",))


def point_rows(
    source: str, point: OperatingPoint, *, ttft_s: float, e2e_s: float, failed: int
) -> RequestRows:
    """Return the log of one operating point, with its mean latencies."""
    for what, tokens in (("prompt", point.input_tokens), ("answer", point.output_tokens)):
        if not 0.0 <= tokens <= TOKENS_MAX:
            raise SpecError(
                f"{source}: mean tokens of a {what}: expected 0..{TOKENS_MAX}, found {tokens:g}"
            )
    if not 0.0 < ttft_s <= e2e_s:
        raise SpecError(
            f"{source}: time to first token: expected above 0 and at most that of the answer "
            f"({e2e_s:g} s), found {ttft_s:g} s"
        )
    return RequestRows(
        source=source,
        line=np.array([1]),
        queued_s=np.zeros(1),
        first_token_s=np.array([ttft_s]),
        last_token_s=np.array([e2e_s]),
        input_tokens=np.array([max(round(point.input_tokens), 1)]),
        output_tokens=np.array([max(round(point.output_tokens), 1)]),
        place="point",
        failed=failed,
        points=(point,),
    )
