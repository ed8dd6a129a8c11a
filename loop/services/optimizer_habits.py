"""In what optimizer services differ besides the rules of optimizing: ours, and the Go optimizer's
mistakes. Whoever asks a service asks its habits, and not whose it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from loop.optimizer.rules import Rules
from loop.optimizer.rules.ours import OURS as OUR_RULES
from loop.schema.models import Level


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How a service reads, keeps and answers.

    level: how leniently it reads a body. explains: answers say why, how good they are, and who got
    nothing; else they hold allocations alone, and are an error if somebody got nothing.
    reads_wrapped_flags: the body of /optimize is a wrapper, as /optimizeOne has it; else its flags
    in a wrapper are none. adding_keeps: a model or class that is added again keeps its rows or
    targets. corrects_priority: targets may come without a priority, and with one out of range, as
    it is kept; else it is compared as it was sent. unserved_keeps: a server that the optimizer gave
    nothing desires nothing, and keeps what it has. bounds_batches: a system is refused whose
    batches would take all memory. wraps_refusals: a refusal is a message; else it is a bare text.
    """

    level: Level
    explains: bool
    reads_wrapped_flags: bool
    adding_keeps: bool
    corrects_priority: bool
    unserved_keeps: bool
    bounds_batches: bool
    wraps_refusals: bool


OURS = Habits(
    level="ours",
    explains=True,
    reads_wrapped_flags=True,
    adding_keeps=True,
    corrects_priority=True,
    unserved_keeps=True,
    bounds_batches=False,
    wraps_refusals=True,
)
GO = Habits(
    level="go",
    explains=False,
    reads_wrapped_flags=False,
    adding_keeps=False,
    corrects_priority=False,
    unserved_keeps=False,
    bounds_batches=True,
    wraps_refusals=False,
)


def habits_of(rules: Rules) -> Habits:
    """Return the habits of the service that optimizes by *rules*."""
    return OURS if rules is OUR_RULES else GO
