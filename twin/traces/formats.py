"""The formats of traces: by which columns each is known, and in what unit its times are; and what
reads traces of a form of one's own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

from twin.registry import is_elsewhere, resolve
from twin.spec import SpecError
from twin.traces.sessions import NAMES as SESSIONS
from twin.traces.trace import Columns

TraceFormat = Literal["azure", "mooncake", "bailian", "burstgpt", "servegen", "own", "log"]
TraceUnit = Literal["s", "ms", "us", "ns", "date"]

# Of the logs of requests that inferno fit reads (twin.fit.request_csv).
LOG_COLUMNS = ("queued_s", "input_tokens", "output_tokens")
LOG_KEYS = frozenset({"input_lens", "benchmarks", "experiments", "metrics", "info"})
TOKENS_MAX = 10**9  # far above any context length; catches a column of times taken for tokens
PER_SECOND: Mapping[TraceUnit, float] = MappingProxyType(
    {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
)
# The years 2001 to 2096 in seconds since 1970. In milliseconds from 0 they are days 12 to 46.
SINCE_1970_S = (1e9, 4e9)
# Those of 2017 to 2039, in which a trace is recorded: nobody begins one at days 17 to 25.
OF_TODAY_S = (1.5e9, 2.2e9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """Columns of a format: its time, prompt tokens, output tokens, and where it has one, the model
    and the hashes of its prompt's blocks, of block_tokens each. also: further columns that tell it
    from others. session is the column of conversations (without it, any that is called so), and
    parent that of the row which each goes on with, if each has a session of its own.
    """

    time: str
    prompt: str
    output: str
    unit: TraceUnit
    model: str = ""
    hashes: str = ""
    session: str = ""
    parent: str = ""
    block_tokens: int = 512
    also: tuple[str, ...] = ()
    lines: bool = False  # JSON lines instead of CSV

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that must be there."""
        told = [name for name in (self.model, self.session) if name and name not in self.also]
        return (self.time, *told, self.prompt, self.output, *self.also)


# Of formats that share columns the more particular one comes first.
FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        # Azure LLM inference traces 2023, 2024; 2025 (multimodal) has more columns.
        "azure": Format(
            time="TIMESTAMP", prompt="ContextTokens", output="GeneratedTokens", unit="date"
        ),
        "burstgpt": Format(
            time="Timestamp",
            model="Model",
            prompt="Request tokens",
            output="Response tokens",
            unit="s",
        ),
        "own": Format(time="arrival_s", prompt="input_tokens", output="output_tokens", unit="s"),
        # As ServeGen writes what it generates, and many exports of gateways.
        "servegen": Format(
            time="timestamp", prompt="input_tokens", output="output_tokens", unit="s"
        ),
        # Qwen's traces of Alibaba's Bailian: Mooncake's columns, but times in seconds, and a block
        # has 16 tokens.
        "bailian": Format(
            time="timestamp",
            prompt="input_length",
            output="output_length",
            unit="s",
            hashes="hash_ids",
            session="chat_id",
            parent="parent_chat_id",
            block_tokens=16,
            also=("chat_id",),
            lines=True,
        ),
        "mooncake": Format(
            time="timestamp",
            prompt="input_length",
            output="output_length",
            unit="ms",
            hashes="hash_ids",
            lines=True,
        ),
    }
)


TraceReader = Callable[[Path], Columns]
"""Reads a file into rows with times in seconds. What it raises is told in a line.
"""

KIND = "trace format"
NAMES = get_args(TraceFormat)


def reads_traces(one: object) -> bool:
    """Tell whether *one* may be a format or a reader."""
    return isinstance(one, Format) or callable(one)


def format_of(given: str | Format | TraceReader, *, source: str) -> str | Format | TraceReader:
    """Return the name of a format of ours, or the format or reader of one's own that *given* means:
    an object, module:Name, or what a package brings. Raise SpecError.
    """
    if reads_traces(given) or given in NAMES:
        return given
    if not isinstance(given, str):
        raise SpecError(f"{source}: format: expected a format or a reader, found {given!r:.60}")
    if is_elsewhere(given, KIND):
        own: Format | TraceReader = resolve(given, kind=KIND, known={})
        if reads_traces(own):
            return own
        raise SpecError(f"{source}: format: expected a format or a reader, found {given!r}")
    known = ", ".join(NAMES)
    raise SpecError(f"{source}: format: expected one of {known}, found {given!r}")


def unit_since_1970(first: float) -> TraceUnit | None:
    """Return the unit of times since 1970 of which *first* is one, None if it is of another
    clock.
    """
    low, high = SINCE_1970_S
    units = (unit for unit, per_second in PER_SECOND.items() if low <= first / per_second < high)
    return next(units, None)


def as_written(form: Format, header: Collection[str]) -> Format:
    """Return *form* with its columns named as *header* has them: in any case, with or without
    spaces and underscores.
    """

    def written(column: str) -> str:
        same = [name for name in header if folded(name) == folded(column)]
        return same[0] if column not in header and len(same) == 1 else column

    return replace(
        form,
        time=written(form.time),
        prompt=written(form.prompt),
        output=written(form.output),
        model=form.model and written(form.model),
        session=written(form.session) if form.session else session_column(form, header),
        parent=form.parent and written(form.parent),
        also=tuple(map(written, form.also)),
    )


def session_column(form: Format, header: Collection[str]) -> str:
    """Return the column of *header* that tells conversations, "" if there is none."""
    taken = {form.time, form.prompt, form.output, form.model}
    found = {folded(name): name for name in header if name not in taken}
    return next((found[name] for name in SESSIONS if name in found), "")


def folded(name: str) -> str:
    """Return *name* without what its writing may differ by: case, spaces and underscores."""
    return "".join(letter for letter in name.lower() if letter.isalnum())
