"""One question to a Prometheus, and its answer as it came: where it is, who asks, and by whose
clock.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Literal

import httpx

from loop.backends.fetch import (
    MOVED,
    NOTHING_KEPT,
    Bounds,
    Fetched,
    FetchError,
    fetch,
    retry_after_s,
)
from loop.backends.metrics.parts import has_parts, parts_of, put_together
from loop.backends.metrics.trust import proxy_at, stamp_of, trust
from loop.clocks import MonotonicClock
from loop.errors import LoopError, SpecError
from loop.signals.demand import WindowSettings
from loop.signals.names import NAMES, Names
from twin.magnitudes import whole

ATTEMPTS = 2
BYTES_MAX = 256 * 2**20  # a thousand servers of three pods are some 20 MB
# The clock of an HTTP answer is in whole seconds, and the answer takes some time.
CLOCK_S_MAX = 2.5
# Who says when to come back is not asked before, but not for longer than so.
WAIT_S_MAX = 300.0
NO_POST = (405, 501)
REFUSED = (400, 422)
# Who takes questions about one metric at a time only is asked so for a while before the whole is
# tried again; who answers not even these is asked for the whole alone for as long.
PARTS_S = 600.0
PARALLEL = 8
NOTHING = b'{"status": "success", "data": {"resultType": "matrix", "result": []}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusSettings:
    """Where Prometheus is and how it names things.

    url may carry a query, which every request repeats (OpenShift's tenancy asks for a namespace).
    token_path, basic_auth_path (user:password) and headers_path (lines of "Name: value") are read
    for every request, since secrets are renewed in place; so are ca_path, and our own certificate
    and its key (cert_path alone where one file has both), once they have changed. proxy is the URL
    of an HTTP proxy, with a password if it wants one. matchers are further ones for every query,
    such as cluster="east". The labels are those that a series carries of its pod.
    """

    url: str
    token_path: Path | None = None
    basic_auth_path: Path | None = None
    headers_path: Path | None = None
    ca_path: Path | None = None
    cert_path: Path | None = None
    key_path: Path | None = None
    proxy: str = field(default="", repr=False)
    method: Literal["POST", "GET"] = "POST"
    window: WindowSettings = field(default_factory=WindowSettings)
    timeout_s: float = 10.0
    matchers: str = ""
    namespace_label: str = "namespace"
    pod_label: str = "pod"
    names: Names = NAMES

    @property
    def certificates(self) -> tuple[Path | None, Path | None, Path | None]:
        """Return the files of those whom we trust, of our own certificate and of its key."""
        return self.ca_path, self.cert_path, self.key_path


class PrometheusError(LoopError):
    """Prometheus did not answer, or not with what was asked for."""


class RefusedError(PrometheusError):
    """It takes no such question: what it cannot read, does not know, or finds too much."""


class Api:
    """Asks one Prometheus. Raise SpecError where its address or a file of certificates cannot be
    used.

    *wall_s* tells our date [Unix time]; *transport* stands in for the network.
    """

    def __init__(
        self,
        settings: PrometheusSettings,
        *,
        wall_s: Callable[[], float],
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._settings = settings
        self._wall_s = wall_s
        self._transport = transport
        self._stamp = stamp_of(*settings.certificates)
        self._client = self._connected()
        self._url = _api_url(settings.url)
        self._ahead_s = 0.0  # by how much its clock is ahead of ours
        self._clock = MonotonicClock()
        self._from_s = float("-inf")  # no sooner it is to be asked, by the clock of the machine
        self._why = ""
        self._method: Literal["POST", "GET"] = settings.method
        self._in_parts, self._news = False, list[str]()
        self._parts_until_s = float("-inf")  # until then it is known whether to ask in parts

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def _connected(self) -> httpx.Client:
        return httpx.Client(
            verify=trust(*self._settings.certificates),
            timeout=self._settings.timeout_s,
            trust_env=False,
            limits=NOTHING_KEPT,
            transport=self._transport,
            proxy=proxy_at(self._settings.proxy),
        )

    def _renew_trust(self) -> None:
        """Read the certificates anew if they have changed: they are renewed in place, too."""
        stamp = stamp_of(*self._settings.certificates)
        if stamp == self._stamp:
            return
        try:
            fresh = self._connected()
        except SpecError:
            return  # it is being written: those of before count until it can be read
        self._client.close()
        self._client, self._stamp = fresh, stamp

    @property
    def now_s(self) -> float:
        """Return the present of Prometheus, as far as it is known [Unix time]."""
        return self._wall_s() + self._ahead_s

    def ask_at_its_now(self, query: str) -> tuple[Fetched, float, list[str]]:
        """Return the answer to *query* at the present of Prometheus, that present [Unix time], and
        what is to be told of its clock and of how it is asked.

        Our clock may have been set, or be off: it would ask for the past, and be answered with it.
        """
        at_s = self.now_s
        reply = self.ask(query, at_s=at_s, may_divide=True)
        news, self._news = self._news, []
        its_s = _date_s(reply)
        off_s = 0.0 if its_s is None else its_s - self.now_s
        if abs(off_s) <= CLOCK_S_MAX:
            return reply, at_s, news
        self._ahead_s += off_s
        line = (
            f"prometheus: its clock and ours have come apart by {off_s:+.0f} s: asked again for "
            "its present"
        )
        at_s = self.now_s
        return self.ask(query, at_s=at_s), at_s, [*news, line]

    def ask(self, query: str, *, at_s: float, may_divide: bool = False) -> Fetched:
        """Return the answer to *query* at a time (fetch). Raise PrometheusError."""
        return self.fetch({"query": query, "time": f"{at_s:.3f}"}, may_divide=may_divide)

    def fetch(
        self,
        told: Mapping[str, str],
        *,
        over: str = "",
        attempts: int = ATTEMPTS,
        total_s: float | None = None,
        may_divide: bool = False,
    ) -> Fetched:
        """Return the answer to one question, "_range" if it is *over* some time; one that was cut
        or refused for the moment is asked for again. One that *may_divide* and is not taken is put
        for each metric, and if these are taken so are all others later. Raise PrometheusError.
        """
        self._renew_trust()
        total_s = min(total_s or self._settings.timeout_s, self._settings.timeout_s)
        divisible = has_parts(told.get("query", ""))
        known = self._clock.now_s() < self._parts_until_s
        if divisible and known and self._in_parts:
            return self._put_together(
                told, path=f"/query{over}", attempts=attempts, total_s=total_s
            )
        try:
            return self._whole(told, path=f"/query{over}", attempts=attempts, total_s=total_s)
        except RefusedError as refusal:
            if known or not (divisible and may_divide):
                raise
            self._parts_until_s = self._clock.now_s() + PARTS_S
            try:
                answer = self._put_together(
                    told, path=f"/query{over}", attempts=attempts, total_s=total_s
                )
            except PrometheusError:
                self._in_parts = False
                raise refusal from None
            if not self._in_parts:
                self._news = [f"prometheus: {refusal}: asked for one metric after the other"]
            self._in_parts = True
            return answer

    def _put_together(
        self, told: Mapping[str, str], *, path: str, attempts: int, total_s: float
    ) -> Fetched:
        """Return the answer to a question, put together of those to one for each metric that it
        asks for. Raise PrometheusError.
        """
        until_s = self._clock.now_s() + total_s

        def asked(query: str) -> Fetched:
            left_s = max(0.1, until_s - self._clock.now_s())
            return self._whole(
                {**told, "query": query}, path=path, attempts=attempts, total_s=left_s
            )

        there, reply = self._metrics(total_s=total_s)
        parts = parts_of(told["query"], there=there, names=self._settings.names)
        if not parts:
            if self._in_parts:
                return replace(reply, body=NOTHING)
            raise PrometheusError("it has none of the metrics that it was asked for")
        first, *others = parts
        replies = [asked(first)]
        if others:
            with ThreadPool(min(PARALLEL, len(others))) as pool:
                replies += pool.map(asked, others, chunksize=1)
        try:
            return put_together(replies)
        except (ValueError, KeyError, TypeError) as error:
            raise PrometheusError(f"expected series, found otherwise ({error})") from error

    def _metrics(self, *, total_s: float) -> tuple[list[str], Fetched]:
        """Return the names of all metrics that it has, and its answer. Raise PrometheusError."""
        path = "/label/__name__/values"  # which nobody posts to
        reply = self._whole({}, path=path, attempts=1, total_s=total_s, method="GET")
        try:
            return [str(name) for name in json.loads(reply.body)["data"]], reply
        except (ValueError, KeyError, TypeError) as error:
            raise PrometheusError(f"expected names of metrics, found otherwise ({error})") from None

    def _whole(
        self,
        told: Mapping[str, str],
        *,
        path: str,
        attempts: int,
        total_s: float,
        method: Literal["POST", "GET"] | None = None,
    ) -> Fetched:
        """Return the answer to one question as it stands. Raise PrometheusError, RefusedError where
        it is none that is taken.
        """
        problem = PrometheusError("not asked")
        left_s = self._from_s - self._clock.now_s()
        if left_s > 0.0:
            raise PrometheusError(f"{self._why}: not asked for {left_s:.0f} s more, as it said")
        url = self._url.copy_with(path=f"{self._url.path}{path}")
        while attempts:
            attempts -= 1
            post = (method or self._method) == "POST"
            try:
                reply = fetch(
                    self._client,
                    method or self._method,
                    url if post else url.copy_merge_params(told),
                    bounds=Bounds(total_s=total_s, bytes_max=BYTES_MAX),
                    headers=self._headers(),
                    data=told if post else None,
                )
            except FetchError as error:
                problem = PrometheusError(str(error))
                continue
            wait_s = retry_after_s(reply.headers)
            if reply.status in (429, 503) and wait_s > 0.0:
                self._from_s = self._clock.now_s() + min(wait_s, WAIT_S_MAX)
                self._why = _complaint(reply)
                raise PrometheusError(self._why)
            if post and reply.status in NO_POST:
                # Some that stand before it let reading pass only.
                self._method = "GET"
                attempts += 1
                continue
            if reply.status in (429, 500, 502, 504):
                problem = PrometheusError(_complaint(reply))
                continue
            if reply.status in REFUSED:
                raise RefusedError(_complaint(reply))
            if reply.status != httpx.codes.OK:
                raise PrometheusError(_complaint(reply))
            return reply
        raise problem

    def _headers(self) -> dict[str, str]:
        """Return the headers of one request: further ones, and who asks."""
        settings = self._settings
        headers = {}
        if settings.headers_path is not None:
            for line in _secret(settings.headers_path, "headers").splitlines():
                name, colon, value = line.partition(":")
                if line.strip() and not (colon and name.strip().isascii() and name.strip()):
                    raise PrometheusError(
                        f"headers file {settings.headers_path}: expected lines of Name: value"
                    )
                if line.strip():
                    headers[name.strip()] = value.strip()
        if settings.basic_auth_path is not None:
            pair = _secret(settings.basic_auth_path, "basic auth").strip()
            if ":" not in pair or "\n" in pair:
                raise PrometheusError(
                    f"basic auth file {settings.basic_auth_path}: expected one line user:password"
                )
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        if settings.token_path is not None:
            token = _secret(settings.token_path, "token").strip()
            if not token.isascii() or not token.isprintable() or not token:
                raise PrometheusError(
                    f"token file {settings.token_path}: expected one line with a token"
                )
            headers["Authorization"] = f"Bearer {token}"
        return headers


def _secret(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PrometheusError(f"{what} file {path}: {error}") from error


def _date_s(reply: Fetched) -> float | None:
    """Return the time of an answer by the clock of who sent it, in the middle of its second; what a
    cache on the way has kept is older by its Age.
    """
    try:
        made_s = parsedate_to_datetime(reply.headers["Date"]).timestamp()
        return made_s + float(whole(reply.headers.get("Age", "0")) or 0) + 0.5
    except (KeyError, TypeError, ValueError):
        return None


def _api_url(url: str) -> httpx.URL:
    """Return the address of the API; a query in *url* stays where it belongs. Consoles show the
    whole address that queries go to, which is taken, too.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise SpecError(f"prometheus: expected a URL, found {url!r} ({error})") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise SpecError(f"prometheus: expected a URL such as http://localhost:9090, found {url!r}")
    base = parsed.path.rstrip("/").removesuffix("/api/v1/query").removesuffix("/api/v1")
    return parsed.copy_with(path=f"{base}/api/v1")


SAID_MAX = 200  # of a plain text


def _said(body: bytes) -> str:
    """Return what the *body* of a refusal says in words: Prometheus and those who speak as it does
    in two fields, gateways before them in one (those of clouds in an object), or in plain text; ""
    if it is a page for a browser.
    """
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        text = body[:SAID_MAX].decode("utf-8", errors="ignore").strip()
        return text if text.isprintable() and text[:1] not in ("<", "{", "[") else ""
    if not isinstance(told, dict):
        return ""
    kind, error = told.get("errorType"), told.get("error") or told.get("message")
    if isinstance(error, dict):
        error = error.get("message")
    if not isinstance(error, str):
        return ""
    return f"{kind}: {error}" if isinstance(kind, str) else error


def _complaint(reply: Fetched) -> str:
    """Return what a refusal says, in one line."""
    said = _said(reply.body)
    text = reply.reason if not said else said if ": " in said else f"{reply.reason}: {said}"
    if reply.status in MOVED:
        text += f": it sends us to {reply.headers.get('Location', 'nowhere')}: give that address?"
    return f"HTTP {reply.status}: {' '.join(text.split())[:200]}"
