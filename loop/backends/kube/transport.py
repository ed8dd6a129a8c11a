"""The transport under the official client: answers of an API server come whole, within so many
bytes and so much time, or fail. Knows no Kubernetes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import urllib3

from loop.backends.deadline import Deadline, watch, within

ANSWER_BYTES_MAX, PAGE_BYTES_MAX = 256 * 2**20, 16 * 2**20
PIECE_BYTES = 2**16
ANSWER_S_MAX = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """A whole answer, as the official client takes it."""

    status: int
    reason: str | None
    headers: Mapping[str, str]
    data: bytes

    def getheaders(self) -> Mapping[str, str]:
        """Return the headers, by the name that older clients ask by."""
        return self.headers


class _Watched(urllib3.connection.HTTPConnection):
    """A connection that the deadline of a request ends."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def getresponse(self) -> Any:
        """Return the answer, once its head has come."""
        watch(self.sock)
        return super().getresponse()


class _WatchedTls(_Watched, urllib3.connection.HTTPSConnection):
    """The same, over TLS."""


class _WatchedPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Watched


class _WatchedTlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _WatchedTls


class WholeAnswers:
    """Connections whose answers come whole, within so many bytes and so much time, or fail: the
    timeouts of urllib3 are per read, which what drips or never ends does not run into.
    """

    def __init__(self, pool: urllib3.PoolManager) -> None:
        pool.pool_classes_by_scheme = {"http": _WatchedPool, "https": _WatchedTlsPool}
        self._pool = pool

    def request(self, method: str, url: str, **how: Any) -> _Answer:
        """Return the answer to a request. Raise HTTPError of urllib3."""
        timeout = how.get("timeout")
        read_s = timeout.read_timeout if isinstance(timeout, urllib3.Timeout) else None
        total_s = read_s if isinstance(read_s, int | float) else ANSWER_S_MAX
        with within(total_s) as deadline:
            try:
                return self._whole(method, url, deadline, **how)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                if deadline.over:
                    raise urllib3.exceptions.HTTPError("the answer takes too long") from error
                raise

    def _whole(self, method: str, url: str, deadline: Deadline, **how: Any) -> _Answer:
        # What a pod answers is anybody's; lists come from the API server itself.
        bytes_max = PAGE_BYTES_MAX if "/proxy" in url else ANSWER_BYTES_MAX
        reply: Any = self._pool.request(method, url, **{**how, "preload_content": False})
        body = bytearray()
        try:
            while piece := reply.read1(PIECE_BYTES, decode_content=True):
                body += piece
                if len(body) > bytes_max:
                    raise urllib3.exceptions.HTTPError(
                        f"the answer is longer than {bytes_max:,} bytes"
                    )
            if deadline.over:
                raise urllib3.exceptions.HTTPError("the answer takes too long")
        except BaseException:
            reply.close()
            raise
        reply.release_conn()
        return _Answer(
            status=reply.status, reason=reply.reason, headers=reply.headers, data=bytes(body)
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)
