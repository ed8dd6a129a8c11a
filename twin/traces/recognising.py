"""Which format a trace has, by its columns or keys: one of ours, or one that is made of what they
call the time, the prompt and the answer of a request.

Such names are those of Vidur (arrived_at, num_prefill_tokens, num_decode_tokens), splitwise-sim
(arrival_timestamp, prompt_size, token_size), LLMServingSim (arrival_time_ns, input_toks,
output_toks), LiteLLM's logs of spending (startTime, prompt_tokens, completion_tokens), and kin.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from twin.datafile import LONGEST_FOUND
from twin.spec import SpecError
from twin.traces.formats import (
    FORMATS,
    LOG_COLUMNS,
    LOG_KEYS,
    Format,
    TraceUnit,
    as_written,
    folded,
)

TIMES = frozenset(
    {
        *("timestamp", "time", "arrival", "arrivaltime", "arrivaltimestamp", "arrivedat"),
        *("starttime", "startedat", "requesttime", "requesttimestamp", "createdat", "ts"),
    }
)
PROMPTS = frozenset(
    {
        *("inputtokens", "inputlength", "inputlen", "inputtoks", "numinputtokens", "isl"),
        *("prompttokens", "promptlength", "promptlen", "promptsize", "numprompttokens"),
        *("numprefilltokens", "prefilltokens", "contexttokens", "requesttokens"),
    }
)
ANSWERS = frozenset(
    {
        *("outputtokens", "outputlength", "outputlen", "outputtoks", "numoutputtokens", "osl"),
        *("completiontokens", "generatedtokens", "responsetokens", "tokensize"),
        *("numdecodetokens", "decodetokens"),
    }
)
MODELS = frozenset({"model", "modelname"})
_UNIT = re.compile(r"(?<=.)_(ns|us|ms|s)$")


def recognise_columns(source: str, header: set[str], first_line: str) -> str | Format:
    """Return the CSV format that has all of its columns in *header*, or one made of what these are
    called. Raise SpecError.
    """
    of_csv = {name: form for name, form in FORMATS.items() if not form.lines}
    for name, form in of_csv.items():
        if header.issuperset(form.columns):
            return name
    for name, form in of_csv.items():
        if header.issuperset(as_written(form, header).columns):
            return name
    if {name.lower() for name in header}.issuperset(LOG_COLUMNS):
        return "log"
    if named := named_format(header, lines=False):
        return named
    known = "; ".join(f"{name}: {', '.join(form.columns)}" for name, form in of_csv.items())
    known += f"; log: {', '.join(LOG_COLUMNS)}"
    raise SpecError(
        f"{source}: line 1: expected JSON lines or the columns of a known format ({known}), found "
        f"{first_line[:LONGEST_FOUND]!r}"
    )


def recognise_keys(keys: set[str]) -> str | Format:
    """Return the format of JSON of whose first line these are the *keys*."""
    if keys & LOG_KEYS:
        return "log"
    if keys.issuperset(FORMATS["bailian"].columns):
        return "bailian"
    known = keys.issuperset(FORMATS["mooncake"].columns)
    return "mooncake" if known else named_format(keys, lines=True) or "mooncake"


def named_format(names: Collection[str], *, lines: bool) -> Format | None:
    """Return how a trace with the columns (or keys) *names* is read: *lines* of JSON, or else CSV;
    None if one of time, prompt and answer has no column, or more than one.

    Times without a unit in their name are in seconds.
    """
    time, prompt, output = (
        [name for name in names if _folded(name) in known] for known in (TIMES, PROMPTS, ANSWERS)
    )
    if not len(time) == len(prompt) == len(output) == 1:
        return None
    told = _UNIT.search(time[0])
    models = [name for name in names if _folded(name) in MODELS]
    return Format(
        time=time[0],
        prompt=prompt[0],
        output=output[0],
        unit=_unit(told[1]) if told else "s",
        model=models[0] if len(models) == 1 and not lines else "",
        hashes="hash_ids" if lines else "",
        lines=lines,
    )


def _unit(text: str) -> TraceUnit:
    units: dict[str, TraceUnit] = {"s": "s", "ms": "ms", "us": "us", "ns": "ns"}
    return units[text]


def _folded(name: str) -> str:
    return folded(_UNIT.sub("", name))
