"""One request over HTTP that ends: so many bytes and so much time at most, whatever the other side
does."""

from __future__ import annotations

import ssl
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

import httpx

from loop.backends.deadline import Deadline, watch_opened, within
from twin.magnitudes import whole

MOVED = (301, 302, 307, 308)
PACKED = ("gzip", "x-gzip", "deflate")
# Said in each request: httpx asks for all that this Python can unpack (Brotli, Zstandard).
ASKED_PACKED = {"Accept-Encoding": "gzip, deflate"}
PIECE_BYTES = 2**20
# For clients that fetch.
NOTHING_KEPT = httpx.Limits(max_keepalive_connections=0)


@cache
def public_trust() -> ssl.SSLContext:
    """Return the trust in the public authorities, for all clients of this process: to read their
    certificates takes longer than a request, and each client read them, for http:// too.
    """
    return httpx.create_ssl_context(trust_env=False)


class FetchError(Exception):
    """The answer did not come whole: no connection, too slow, too large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """total_s: for the whole answer; bytes_max: of its body, unpacked."""

    total_s: float
    bytes_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A whole answer."""

    status: int
    reason: str
    headers: httpx.Headers
    body: bytes

    @property
    def text(self) -> str:
        """Return the body as text; what is no UTF-8 is replaced."""
        return self.body.decode("utf-8", errors="replace")


def fetch(
    client: httpx.Client,
    method: str,
    url: httpx.URL | str,
    *,
    bounds: Bounds,
    headers: Mapping[str, str] | None = None,
    data: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
) -> Fetched:
    """Return the answer to one request. Raise FetchError.

    *client* keeps no connections: a deadline knows those only that are opened for it.
    """
    with within(bounds.total_s) as deadline:
        try:
            request = client.build_request(
                method,
                url,
                headers={**ASKED_PACKED, **(headers or {})},
                data=data,
                params=params,
                timeout=bounds.total_s,
                extensions={"trace": watch_opened},
            )
            reply = client.send(request, stream=True)
            try:
                body = _read(reply, deadline=deadline, bounds=bounds)
            finally:
                reply.close()
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            if deadline.over:
                raise FetchError(f"the answer took longer than {bounds.total_s:g} s") from error
            raise FetchError(f"{type(error).__name__}: {error or 'no answer'}") from error
    return Fetched(
        status=reply.status_code, reason=reply.reason_phrase, headers=reply.headers, body=body
    )


def _read(reply: httpx.Response, *, deadline: Deadline, bounds: Bounds) -> bytes:
    pieces, size = [], 0
    for piece in unpacked(reply):
        size += len(piece)
        if size > bounds.bytes_max:
            raise FetchError(f"the answer is longer than {bounds.bytes_max:,} bytes")
        pieces.append(piece)
    if deadline.over:  # what has no length ends where the connection does
        raise FetchError(f"the answer took longer than {bounds.total_s:g} s")
    return b"".join(pieces)


def unpacked(reply: httpx.Response) -> Iterator[bytes]:
    """Yield the body of an answer as it comes, unpacked, in pieces of bounded size: a few bytes may
    stand for thousands of millions. Raise DecodingError where it is packed otherwise than by gzip,
    or more than once.
    """
    if reply.is_stream_consumed:  # somebody has read it
        yield reply.content
        return
    packed = reply.headers.get("Content-Encoding", "").strip().lower()
    if packed in ("", "identity"):
        yield from reply.iter_raw()
        return
    if packed not in PACKED:
        raise httpx.DecodingError(f"expected an answer packed by gzip, found {packed[:60]!r}")
    unpacking = zlib.decompressobj(zlib.MAX_WBITS | 32)  # with the head of gzip or of zlib
    begun = False
    try:
        for raw in reply.iter_raw():
            left, begun = raw, True
            while left and not unpacking.eof:
                yield unpacking.decompress(left, PIECE_BYTES)
                left = unpacking.unconsumed_tail
    except zlib.error as error:
        raise httpx.DecodingError(f"expected an answer packed by gzip, found {error}") from error
    if begun and not unpacking.eof:  # who says no more than a status may call even that packed
        raise httpx.DecodingError("expected an answer packed by gzip, found a part of one")


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Return for how long an answer says not to ask again, in seconds or as a date, which counts
    from that of the answer itself: clocks differ. 0 if it says nothing that can be read.
    """
    told = headers.get("Retry-After") or ""
    if (seconds := whole(told.strip())) is not None:
        return float(seconds)
    try:
        until, asked = (parsedate_to_datetime(text) for text in (told, headers.get("Date") or ""))
        return max(0.0, (until - asked).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return 0.0
