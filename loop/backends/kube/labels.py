"""The labels and annotations of a managed Deployment: their names, and what each of them says;
pure.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from loop.types import Load
from twin import magnitudes
from twin.datafile import did_you_mean

MANAGED = "inferno.server.managed"
SELECTOR = f"{MANAGED}=true"
NAME = "inferno.server.name"
MODEL = "inferno.server.model"
CLASS = "inferno.server.class"
CLASS_DEFAULT = "Free"
ACCELERATOR = "inferno.server.allocation.accelerator"
MAX_BATCH = "inferno.server.allocation.maxbatchsize"
LOAD_RPM = "inferno.server.load.rpm"
LOAD_IN_TOKENS = "inferno.server.load.intokens"
LOAD_OUT_TOKENS = "inferno.server.load.outtokens"
LOAD_TOKENS = "inferno.server.load.numtokens"  # older: the length of an answer

# Annotations: what a user says of one Deployment, and what the loop says back.
REPLICAS_MIN = "inferno.server.replicas.min"
REPLICAS_MAX = "inferno.server.replicas.max"
APPLY_NODE_SELECTOR = "inferno.server.apply.nodeselector"
APPLY_MAX_BATCH = "inferno.server.apply.maxbatchsize"
APPLY_GPUS = "inferno.server.apply.gpus"
APPLY_CONTAINER = "inferno.server.apply.container"
PAUSED = "inferno.server.paused"
MODEL_ID = "inferno.server.model-id"  # a name that no label can hold, such as org/model
STATUS = "inferno.server.status"
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"  # Kubernetes' own

OWN = "inferno.server."
LABELS = frozenset(
    {MANAGED, NAME, MODEL, CLASS, ACCELERATOR, MAX_BATCH}
    | {LOAD_RPM, LOAD_IN_TOKENS, LOAD_OUT_TOKENS, LOAD_TOKENS}
)
# Where a label has one of these names it is meant as well.
ANNOTATIONS = frozenset(
    {REPLICAS_MIN, REPLICAS_MAX, PAUSED, MODEL_ID, STATUS}
    | {APPLY_NODE_SELECTOR, APPLY_MAX_BATCH, APPLY_GPUS, APPLY_CONTAINER}
)
# The emulator keeps the original load there.
LOADS = f"{OWN}load."

VALUE_MAX = 63
FOUND_MAX = 60  # of what is told of a wrong value
_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How many replicas a Deployment may have by its annotations; None: they do not say."""

    replicas_min: int | None = None
    replicas_max: int | None = None


def value_problem(value: str) -> str:
    """Say why *value* cannot be the value of a label, or nothing."""
    if len(value) <= VALUE_MAX and _VALUE.fullmatch(value):
        return ""
    return (
        f"{value!r} cannot be a label: at most {VALUE_MAX} of A-Z, a-z, 0-9, '.', '_' and '-' are"
    )


def unread_keys(labels: Iterable[str], annotations: Iterable[str]) -> list[str]:
    """Return a line for each key that looks like one of the loop's, and is none: nobody would
    notice a bound that does not bind.
    """
    lines = []
    for keys, word, known, other in (
        (labels, "label", LABELS | ANNOTATIONS, frozenset()),
        (annotations, "annotation", ANNOTATIONS, LABELS),
    ):
        for key in keys:
            if not key.startswith(OWN) or key in known or key.startswith(LOADS):
                continue
            meant = "; it is a label" if key in other else did_you_mean(key, known)
            lines.append(f"{word} {key[:FOUND_MAX]}: the loop reads no such {word}{meant}")
    return lines


def load_of(labels: Mapping[str, str]) -> tuple[Load | None, str]:
    """Return the load that *labels* tell of, and what is wrong with them; None where they tell of
    none.

    Tokens that are not told of are 0: nobody counted them.
    """
    if LOAD_RPM not in labels:
        return None, ""
    out_key = LOAD_OUT_TOKENS if LOAD_OUT_TOKENS in labels else LOAD_TOKENS
    figures = {}
    for key in (LOAD_RPM, LOAD_IN_TOKENS, out_key):
        largest = magnitudes.RATE_RPM_MAX if key == LOAD_RPM else magnitudes.TOKENS_MAX
        figure = magnitudes.figure(labels.get(key, "0"), largest=largest)
        if figure is None:
            return None, f"label {key}: expected a number >= 0{_found(labels[key], largest)}"
        figures[key] = figure
    return Load(
        rate_rpm=figures[LOAD_RPM], in_tokens=figures[LOAD_IN_TOKENS], out_tokens=figures[out_key]
    ), ""


def max_batch_of(labels: Mapping[str, str]) -> tuple[int, str]:
    """Return the batch size that *labels* name, 0 for none, and what is wrong with it."""
    text, largest = labels.get(MAX_BATCH, ""), magnitudes.BATCH_MAX
    if not text:
        return 0, ""
    number = magnitudes.whole(text, largest=largest)
    if number is None:
        return 0, f"label {MAX_BATCH}: expected a whole number{_found(text, largest)}"
    return number, ""


def bounds_of(annotations: Mapping[str, str]) -> tuple[Bounds, str]:
    """Return the bounds that *annotations*, or labels of the same names, set, and what is wrong
    with them; none are set where something is.
    """
    numbers: list[int | None] = []
    largest = magnitudes.REPLICAS_MAX
    for key in (REPLICAS_MIN, REPLICAS_MAX):
        text = annotations.get(key)
        number = None if text is None else magnitudes.whole(text, largest=largest)
        if text is not None and number is None:
            return Bounds(), f"annotation {key}: expected a whole number{_found(text, largest)}"
        numbers.append(number)
    low, high = numbers
    if low is not None and high is not None and low > high:
        return (
            Bounds(),
            f"annotation {REPLICAS_MIN}: expected at most the maximum of {high}, found {low}",
        )
    return Bounds(replicas_min=low, replicas_max=high), ""


def _found(text: str, largest: float) -> str:
    """Return the end of a line about *text*, which is no number that is expected; the bound is told
    if that is what is wrong.
    """
    beyond = magnitudes.figure(text, largest=sys.float_info.max) is not None
    bound = f" and <= {largest:g}" if beyond and text.isascii() and "." not in text else ""
    return f"{bound}, found {text[:FOUND_MAX]!r}"
