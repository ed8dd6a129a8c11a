"""The live page of a service: the page and its files, the records of the last hours, and the stream
that brings them and each further one to a browser. docs/services.md says who may see what.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.resources import files
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from starlette.responses import Response, StreamingResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

Line = Mapping[str, Any]

KEEP_S = 6 * 3600.0
# Of few servers many cycles, of many fewer: packed, a server of a cycle is some 200 bytes.
LINES_MAX, ROWS_MAX = 2_000, 40_000
STREAMS_MAX = 32
LOOK_S, STILL_THERE_S = 0.1, 15.0

FOLDER = "/web/"
FILES: Mapping[str, str] = MappingProxyType(
    {
        "plotly-cartesian.min.js": "text/javascript",
        "look.js": "text/javascript",
        "draw.js": "text/javascript",
        "live.js": "text/javascript",
        "twin.js": "text/javascript",
        "page.css": "text/css",
    }
)
# Plotly writes styles of its own. No script but those above runs, whatever a name may hold.
POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Packed:
    number: int
    t_s: float
    rows: int
    data: bytes


class History:
    """The records of the last hours, as loop.records writes them, with numbers from 1 on. Any
    thread may add one, and any may read.
    """

    def __init__(
        self, *, keep_s: float = KEEP_S, lines_max: int = LINES_MAX, rows_max: int = ROWS_MAX
    ) -> None:
        self._keep_s, self._lines_max, self._rows_max = keep_s, lines_max, rows_max
        self._lines: deque[_Packed] = deque()
        self._lock = Lock()
        self._number = self._rows = 0

    @property
    def number(self) -> int:
        """Return the number of the latest record, 0 if there is none."""
        return self._number

    def add(self, line: Line) -> None:
        """Add the record *line*, and forget what is too old or too much."""
        text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
        data = zlib.compress(text.encode(), 1)
        with self._lock:
            self._number += 1
            rows = len(line["servers"])
            self._lines.append(_Packed(number=self._number, t_s=line["t_s"], rows=rows, data=data))
            self._rows += rows
            while len(self._lines) > 1 and (
                len(self._lines) > self._lines_max
                or self._rows > self._rows_max
                or self._lines[0].t_s < line["t_s"] - self._keep_s
            ):
                self._rows -= self._lines.popleft().rows

    def after(self, number: int) -> tuple[int, list[Line]]:
        """Return the number of the latest record, and the records after that of *number*, as far as
        they are still there.
        """
        with self._lock:
            latest = self._number
            packed = [one.data for one in self._lines if one.number > number]
        return latest, [json.loads(zlib.decompress(data)) for data in packed]


class Stream:
    """Gives browsers the timeline of *history* as server-sent events: `whole` first, then a `part`
    for what has come since. It ends when *closed* says so.
    """

    def __init__(self, history: History, *, title: str, closed: Callable[[], bool]) -> None:
        self._history = history
        self._title = title
        self._closed = closed
        self._open = 0

    def response(self) -> Response:
        """Return the answer to one browser."""
        if self._open >= STREAMS_MAX:
            return Response(f"{STREAMS_MAX} pages are open: close one", status_code=503)
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(self.events(), media_type="text/event-stream", headers=headers)

    async def events(self) -> AsyncIterator[str]:
        """Yield events until the service ends."""
        self._open += 1
        try:
            number, last, quiet_s = -1, None, 0.0
            while not self._closed():
                if self._history.number > number:
                    kind = "whole" if number < 0 else "part"
                    # Not here: of hours of many servers it takes a second.
                    text, last, number = await asyncio.to_thread(self._text, number, last)
                    quiet_s = 0.0
                    yield f"event: {kind}\nid: {number}\ndata: {text}\n\n"
                elif quiet_s >= STILL_THERE_S:
                    quiet_s = 0.0
                    yield ": nothing new\n\n"
                await asyncio.sleep(LOOK_S)
                quiet_s += LOOK_S
        finally:
            self._open -= 1

    def _text(self, number: int, last: Line | None) -> tuple[str, Line | None, int]:
        from inferno.web.from_records import timeline_of_records
        from inferno.web.thinning import thinned
        from inferno.web.timeline import as_json

        upto, lines = self._history.after(number)
        timeline = timeline_of_records(lines, title=self._title, origin="live", before=last)
        shown = thinned(timeline) if number < 0 else timeline
        # What a page that appends can say of means: those of the latest cycle.
        latest = timeline_of_records(lines[-1:], title=self._title)
        by_name = {server.name: server for server in latest.servers}
        shown = replace(
            shown,
            attainment=latest.attainment,
            cost_usd_per_h=latest.cost_usd_per_h,
            servers=[
                replace(
                    server,
                    attainment=by_name[server.name].attainment if server.name in by_name else None,
                    cost_usd_per_h=(
                        by_name[server.name].cost_usd_per_h if server.name in by_name else None
                    ),
                )
                for server in shown.servers
            ],
        )
        return as_json(shown), lines[-1] if lines else last, upto


class WithPage:
    """Serves *page* at `/` and its files below FOLDER, and leaves all else to *app*. There is
    nothing in them that is not in the package, so they are for everybody.
    """

    def __init__(self, app: ASGIApp, page: str) -> None:
        self._app = app
        self._page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["method"] in {"GET", "HEAD"}:
            path = scope["path"]
            name = path.removeprefix(FOLDER)
            if path == "/":
                await _file(scope, self._page, "text/html")(scope, receive, send)
                return
            if path.startswith(FOLDER) and name in FILES:
                await _file(scope, name, FILES[name])(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _file(scope: Scope, name: str, media_type: str) -> Response:
    data = files("inferno.web").joinpath("static", name).read_bytes()
    mark = f'"{sha256(data).hexdigest()[:32]}"'
    headers = {
        "etag": mark,
        "cache-control": "no-cache",
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
    if (b"if-none-match", mark.encode()) in scope["headers"]:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=media_type, headers=headers)
