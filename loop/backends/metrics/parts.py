"""A question about many metrics, put for each of them: for stores that match metrics by whole names
only, or refuse what is too much at once; pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence

from loop.backends.fetch import Fetched
from loop.signals.names import Names

PARTS_MAX = 100  # questions in the place of one
_PATTERN = re.compile(r'__name__=~"([^"]*)"')
_BUT = re.compile(r',?__name__!~"([^"]*)"')


def has_parts(query: str) -> bool:
    """Tell whether *query* asks for metrics by a pattern of their names."""
    return _PATTERN.search(query) is not None


def parts_of(query: str, *, there: Collection[str], names: Names) -> list[str]:
    """Return a question for each metric *there* is that *query* asks for; of too many metrics, for
    those of the table *names*.
    """
    wanted, left_out = (re.compile("|".join(of.findall(query))) for of in (_PATTERN, _BUT))
    found = [one for one in sorted(there) if wanted.fullmatch(one) and not left_out.fullmatch(one)]
    if len(found) > PARTS_MAX:
        table = re.compile(names.queried)
        found = [one for one in found if table.fullmatch(one)]
    without = _BUT.sub("", query)
    return [_PATTERN.sub(f'__name__="{one}"', without) for one in found[:PARTS_MAX]]


def put_together(replies: Sequence[Fetched]) -> Fetched:
    """Return the answer whose series are those of all *replies*, of which there is one at least; it
    is as old as the last of them. Raise ValueError, KeyError or TypeError where one is no answer.
    """
    answers = [json.loads(reply.body) for reply in replies]
    data = {**answers[0]["data"], "result": [one for of in answers for one in of["data"]["result"]]}
    warnings = dict.fromkeys(str(line) for of in answers for line in of.get("warnings") or ())
    whole = {
        "status": "success",
        "data": data,
        "warnings": list(warnings),
        "isPartial": any(of.get("isPartial") for of in answers),
    }
    last = replies[-1]
    return Fetched(
        status=last.status,
        reason=last.reason,
        headers=last.headers,
        body=json.dumps(whole).encode(),
    )
