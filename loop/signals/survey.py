"""Which metrics of engines are there, which that the loop reads are missing, and which others were
seen in their place; pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from loop.signals.names import Names

# What the loop reads, in the words of an operator, and the quantities of which any one tells it.
NEEDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "requests": ("ends", "answers", "firsts"),
        "prompt tokens": ("prompt",),
        "generated tokens": ("answer_tokens", "generation"),
        "TTFT": ("ttft_s",),
        "ITL": ("per_token_s", "steps_s"),
        "running requests": ("running",),
        "waiting requests": ("waiting",),
        "KV cache usage": ("kv_usage",),
    }
)
# Without these a load is not known, and its server is held.
NECESSARY = frozenset({"requests", "prompt tokens", "generated tokens"})

# Names that may be what is missing, of an exporter that the loop does not know.
RELATED = "[a-zA-Z0-9_:]*(?:request|token)[a-zA-Z0-9_:]*"
_RELATED = re.compile(RELATED)
_NO_FIGURE = re.compile(r".*_(?:bucket|created)")
OTHERS_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What the metrics of one server tell: the name of the metric by what it tells, what none
    tells, and other names of requests or tokens.
    """

    found: Mapping[str, str]
    missing: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def sufficient(self) -> bool:
        """Tell whether a load can be known."""
        return NECESSARY.isdisjoint(self.missing)

    @property
    def line(self) -> str:
        """Return what was found and missing, in words."""
        if not self.found and not self.others:
            return "no metrics of an engine were found"
        found = ", ".join(f"{need} ({name})" for need, name in self.found.items()) or "nothing"
        parts = [f"found {found}"]
        if self.missing:
            parts.append(f"missing: {', '.join(self.missing)}")
            more = len(self.others) - OTHERS_NAMED
            if self.others:
                named = ", ".join(self.others[:OTHERS_NAMED])
                parts.append(f"seen instead: {named}{f' and {more} more' if more > 0 else ''}")
        return "; ".join(parts)


def survey(seen: Iterable[str], *, names: Names) -> Survey:
    """Return what metrics of the names *seen* tell by the table *names*."""
    there = set(seen)
    found = {}
    for need, quantities in NEEDS.items():
        telling = [
            name
            for quantity in quantities
            for name in names.by_quantity.get(quantity, ())
            if name in there
        ]
        if telling:
            found[need] = telling[0]
    others = sorted(
        name
        for name in there - names.ranks.keys()
        if _RELATED.fullmatch(name) and not _NO_FIGURE.fullmatch(name)
    )
    missing = tuple(need for need in NEEDS if need not in found)
    return Survey(found=found, missing=missing, others=tuple(others))
