"""How the services of REST verbs answer: JSON as the Go components send it, and errors as
{"message": one line}.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from loop.errors import SpecError
from loop.schema.wire import error_line
from loop.services.logs import log

if TYPE_CHECKING:
    from fastapi import FastAPI, Request


class Json(JSONResponse):
    """JSON with the type that the Go components give it."""

    def __init__(self, content: Any, status_code: int = 200, **options: Any) -> None:
        super().__init__(content, status_code, **options)
        self.headers["content-type"] = "application/json; charset=utf-8"


def add_error_answers(
    app: FastAPI, *, compat: bool, statuses: Mapping[type[Exception], int]
) -> None:
    """Let *app* answer what goes wrong in one line; *statuses* are those of errors whose own words
    are told, and logged.

    compat: as the existing service, which says nothing of a body that it cannot read, and knows a
    path by its method.
    """

    async def answer_known(_request: Request, problem: Exception) -> Response:
        status = next(statuses[kind] for kind in type(problem).__mro__ if kind in statuses)
        line = " ".join(str(problem).split())
        log(line, {"status": status}, level=logging.WARNING)
        return message(status, line)

    for kind in statuses:
        app.exception_handler(kind)(answer_known)

    @app.exception_handler(SpecError)
    async def answer_spec(_request: Request, problem: SpecError) -> Response:
        return message(400, str(problem))

    @app.exception_handler(RequestValidationError)
    async def answer_body(_request: Request, problem: RequestValidationError) -> Response:
        error = problem.errors()[0]
        if compat and error["type"] not in RANGES:
            return Response(status_code=400)
        return message(400, _body_line(error))

    @app.exception_handler(HTTPException)
    async def answer_http(request: Request, problem: HTTPException) -> Response:
        if compat:
            return _as_gin(problem.status_code)
        if problem.status_code == 400:
            # Numbers of thousands of digits, brackets nested thousands deep.
            return message(400, "body: expected JSON, found what no reader takes")
        line = f"{request.method} {request.url.path}: {problem.detail}"
        return message(problem.status_code, line, headers=problem.headers)

    @app.exception_handler(Exception)
    async def answer_bug(_request: Request, problem: Exception) -> Response:
        return message(500, f"a bug, and a traceback of it in the log: {type(problem).__name__}")


# A figure of the right kind that is out of range: the existing service takes these, and we do not
# even in compat.
RANGES = frozenset({"greater_than_equal", "less_than_equal", "finite_number", "string_too_short"})


def message(status: int, line: str, *, headers: Any = None) -> Response:
    """Return the answer {"message": line}."""
    return Json({"message": line}, status_code=status, headers=headers)


def _body_line(error: dict[str, Any]) -> str:
    if error["type"] == "json_invalid":
        return (
            f"body: expected JSON, found {error['ctx']['error']} (at character {error['loc'][-1]})"
        )
    if error["type"] == "missing" and error["loc"] == ("body",):
        return "body: expected JSON, found nothing"
    return error_line(error)


def _as_gin(status: int) -> Response:
    if status in {404, 405}:
        return PlainTextResponse(
            "404 page not found", status_code=404, headers={"content-type": "text/plain"}
        )
    return Response(status_code=status)
