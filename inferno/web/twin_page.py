"""The live page of the twin as a cluster: looks at it as its time passes, and streams what it saw
to administrators.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from inferno.web.from_twin import line_of_twin
from inferno.web.live import History, Line, Stream
from twin.kube.apiserver.errors import ApiError
from twin.kube.apiserver.server import Call

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from loop.spec import SystemData
    from twin.kube.cluster import TwinCluster

LOOK_S = 5.0
"""How often the twin is looked at, in seconds of the machine."""

PATH = "/twin/timeline"


class SeenTwin:
    """The world of *cluster* for twin.kube.apiserver.app, which keeps in *history* what it is every
    LOOK_S; *data* say what is wanted of its servers.
    """

    def __init__(
        self, cluster: TwinCluster, history: History, *, data: SystemData, speed: float
    ) -> None:
        self._cluster = cluster
        self._history = history
        self._data = data
        self._speed = speed
        self._due_s = 0.0
        self._last: Line | None = None

    @property
    def now_s(self) -> float:
        """Return the time of the twin."""
        return self._cluster.now_s

    def advance(self) -> bool:
        """Come nearer to the present; tell whether it is reached."""
        present = self._cluster.advance()
        if self.now_s >= self._due_s:
            self._due_s = self.now_s + LOOK_S * self._speed
            self._look()
        return present

    def page(self, path: str) -> tuple[str, str] | None:
        """Return a page for Prometheus."""
        return self._cluster.page(path)

    def control(self, method: str, path: str, body: bytes) -> Any:
        """Do what an administrator asks."""
        return self._cluster.control(method, path, body)

    def _look(self) -> None:
        view, deployments = self._cluster.served()
        self._last = line_of_twin(
            view,
            deployments,
            self._data,
            date=self._cluster.dates.now(),
            live=self._speed == 1.0,
            before=self._last,
        )
        self._history.add(self._last)


class WithTimeline:
    """Answers PATH with *stream*, to administrators of *cluster*, and leaves all else to *app*."""

    def __init__(self, app: ASGIApp, cluster: TwinCluster, stream: Stream) -> None:
        self._app = app
        self._cluster = cluster
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("GET", PATH):
            await self._app(scope, receive, send)
            return
        headers = dict(Request(scope).headers)
        call = Call(method="GET", path=PATH, query={}, headers=headers, body=b"")
        try:
            self._cluster.server.check_master(call)
            response = self._stream.response()
        except ApiError as error:
            response = JSONResponse(error.status(), status_code=error.code)
        await response(scope, receive, send)
