"""What services log: on stderr, a line of JSON or of words for each event, which has a name. Never
what may hold a token.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TextIO

from prometheus_client import CollectorRegistry, Counter

from loop.clocks import MonotonicClock
from loop.settings import LogFormat, service_url

if TYPE_CHECKING:
    import socket

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from loop.ports import Clock
    from loop.types import Change, CycleRecord

QUIET = frozenset({"/healthz", "/readyz", "/metrics"})  # asked every few seconds, by machines
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
NOT_ANSWERED = 0
KINDS_MAX = 1000  # of lines, of which it is known how many came
NO_FIELDS: Mapping[str, object] = MappingProxyType({})

Event = Literal[
    "listening",  # where a service can be reached
    "note",  # what the data leave open
    "request",  # one was answered
    "request-failed",  # the world behind a service failed, which was told
    "refused",  # a request that may not be, or that came too slowly
    "connection-closed",  # there were too many
    "cycle",  # of the control loop
    "concern",  # what is amiss with the world as a whole
    "change",  # what an actuator asked of the world
    "not-seen",  # a message names a server that is not there
    "load",  # what the emulator wrote
    "load-failed",  # what it could not write
]
ALL_THE_SAME = frozenset({"connection-closed"})  # events of which one line tells all
LIBRARY = "library"  # the event of lines that are not ours


def set_up_logs(
    service: str,
    *,
    level: int = logging.INFO,
    stream: TextIO | None = None,
    form: LogFormat | None = None,
) -> None:
    """Let all that this process logs be lines of *form* that name *service*; None: of words if
    *stream* is a terminal, else of JSON.

    Call once, before serving.
    """
    stream = sys.stderr if stream is None else stream
    watched = stream.isatty()
    words = form == "text" or (form is None and watched)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextLines(dated=not watched) if words else JsonLines(service))
    handler.addFilter(Sparingly(MonotonicClock()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # These tell of every request they send, with its whole address, and the last of its selectors.
    for chatty in ("httpx", "httpcore", "urllib3", "kubernetes", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class Sparingly(logging.Filter):
    """Leaves out lines of a kind of which there were many just now, and says how many in the next
    one: whoever can cause a line must not be able to fill a disk.

    A kind is a logger, a level and an event (of libraries the first word). Of each, *burst* lines
    may come at once and *per_s* a second later on; a twentieth of those with a traceback, and of
    those that all say the same.
    """

    def __init__(self, clock: Clock, *, burst: float = 200.0, per_s: float = 20.0) -> None:
        super().__init__()
        self._clock = clock
        self._burst = burst
        self._per_s = per_s
        self._kinds: dict[tuple[object, ...], _Allowance] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether *record* is to be written."""
        word = getattr(record, "event", "") or str(record.msg)[:20].partition(" ")[0]
        kind = (record.name, record.levelno, word, bool(record.exc_info))
        if len(self._kinds) > KINDS_MAX:
            self._kinds.clear()
        few = record.exc_info or word in ALL_THE_SAME
        now_s, share = self._clock.now_s(), 0.05 if few else 1.0
        allowance = self._kinds.setdefault(kind, _Allowance(self._burst * share, now_s))
        gained = (now_s - allowance.since_s) * self._per_s * share
        allowance.left = min(self._burst * share, allowance.left + gained)
        allowance.since_s = now_s
        if allowance.left < 1.0:
            allowance.left_out += 1
            return False
        allowance.left -= 1.0
        if allowance.left_out:
            record.fields = {**getattr(record, "fields", {}), "leftOut": allowance.left_out}
            allowance.left_out = 0
        return True


@dataclass(slots=True)
class _Allowance:
    """How many lines of a kind may be written still, as of when, and how many were not."""

    left: float
    since_s: float
    left_out: int = 0


class JsonLines(logging.Formatter):
    """ts, level, service, event, logger, message, then what the caller gave as fields, and a
    traceback if there is one.
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        line: dict[str, Any] = {
            "ts": _date(record),
            "level": record.levelname.lower(),
            "service": self._service,
            "event": getattr(record, "event", LIBRARY),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for key, value in getattr(record, "fields", {}).items():
            line.setdefault(key, value)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        # ASCII: some take U+2028 for the end of a line.
        return json.dumps(line, default=str)


def _date(record: logging.LogRecord) -> str:
    date = datetime.fromtimestamp(record.created, UTC)
    return date.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextLines(logging.Formatter):
    """The time, the event, the message and the fields that say something. dated: with date and
    level, for a file; else for somebody who watches.
    """

    def __init__(self, *, dated: bool) -> None:
        super().__init__()
        self._dated = dated

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, and a traceback below it if there is one."""
        if self._dated:
            head = [_date(record), record.levelname.lower()]
        else:
            head = [datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")]
        event = getattr(record, "event", LIBRARY)
        # One line, whatever somebody else's words are.
        message = " ".join(record.getMessage().split())
        if not message.startswith(event):
            head.append(event)
        fields = {
            key: value
            for key, value in getattr(record, "fields", {}).items()
            if _says_something(value)
        }
        told = [
            f"{key}={json.dumps(value, ensure_ascii=False, default=str)}"
            for key, value in fields.items()
        ]
        line = " ".join([*head, message, *told])
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _says_something(value: object) -> bool:
    """Tell whether somebody who watches wants it: not what is empty, and not what the message says
    in short.
    """
    return value not in ("", None) and not (
        isinstance(value, list) and not any(isinstance(one, str) for one in value)
    )


def log(
    event: Event,
    message: str = "",
    fields: Mapping[str, object] = NO_FIELDS,
    *,
    level: int = logging.INFO,
) -> None:
    """Log that *event* has happened: *message* says it in words (else its name does), *fields* to
    programs.
    """
    # Not as a format: somebody else's words may have a % in them.
    extra = {"event": event, "fields": fields}
    logging.getLogger("inferno").log(level, "%s", message or event, extra=extra)


def log_listening(
    host: str,
    sockets: Sequence[socket.socket],
    *,
    verb: str,
    about: Mapping[str, object] = NO_FIELDS,
) -> None:
    """Log where a service can be reached; its port is known once it listens."""
    url = f"{service_url(host, sockets[0].getsockname()[1])}/{verb}"
    log("listening", fields={"url": url, **about})


def log_cycle(record: CycleRecord, *, concern: str = "") -> None:
    """Log what one cycle did, in short; its whole record is the answer of /invoke and a line of
    --records. *concern* is what is amiss with the world as a whole: then it is a warning.
    """
    fields: dict[str, object] = {
        "cycle": record.cycle,
        "trigger": record.trigger,
        "mode": record.mode,
        "error": record.error,
        "concern": concern,
        "failedPhase": record.failed_phase,
        "applied": record.applied,
        "changes": [change_fields(change) for change in record.changes],
        "warnings": list(record.warnings),
        "totalCost": record.total_cost_cents_per_h,
        "totalMs": round(record.timing.total_ms, 3),
    }
    if record.traceback:
        fields["traceback"] = record.traceback
    what = (
        record.error
        or concern
        or ", ".join(f"{one.server} {one.replicas}x{one.accelerator}" for one in record.changes)
    )
    # Who reads the line alone must not take advice for a change.
    only = ", advice only" if record.changes and not (record.applied or record.error) else ""
    line = (
        f"cycle {record.cycle} ({record.trigger}) at {record.now_s:.0f} s{only}: "
        f"{what or 'no change'}"
    )
    level = logging.WARNING if concern else logging.INFO
    log("cycle", line, fields, level=logging.ERROR if record.failed else level)


def change_fields(change: Change) -> dict[str, object]:
    """Return *change* in the words of the wire."""
    return {
        "server": change.server,
        "accelerator": change.accelerator,
        "replicas": change.replicas,
        "maxBatch": change.max_batch,
        "reason": change.why.text,
    }


class RequestLog:
    """Logs method, path, status and duration of every request, and counts it. Status 0: it was cut
    before it was answered. Those of probes and scrapers are not counted, and logged as details.
    """

    def __init__(self, app: ASGIApp, *, registry: CollectorRegistry) -> None:
        self._app = app
        self._count = Counter(
            "inferno_requests",
            "Requests by method and status (0: cut before the answer), but for probes and scrapes.",
            ["method", "status"],
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, clock = NOT_ANSWERED, MonotonicClock()

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            machine = scope["path"] in QUIET
            if not machine:
                # Whoever asks may invent methods; series are kept for ever.
                method = scope["method"] if scope["method"] in METHODS else "other"
                self._count.labels(method, status).inc()
            took_ms = round(1000 * clock.now_s(), 3)
            log(
                "request",
                fields={
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "tookMs": took_ms,
                },
                level=logging.DEBUG if machine else logging.INFO,
            )
