"""How the services of REST verbs answer: JSON as the Go components send it, and errors as
{"message": one line}.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Body
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BeforeValidator
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from loop.errors import SpecError
from loop.schema.models import Level, Message
from loop.schema.parsing import KindError, read
from loop.services.logs import log
from twin.datafile import parse_json

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
        log("request-failed", line, {"status": status}, level=logging.WARNING)
        return message(status, line)

    for kind in statuses:
        app.exception_handler(kind)(answer_known)

    @app.exception_handler(SpecError)
    async def answer_spec(_request: Request, problem: SpecError) -> Response:
        if compat and isinstance(problem, KindError):
            return Response(status_code=400)
        return message(400, str(problem))

    @app.exception_handler(RequestValidationError)
    async def answer_body(_request: Request, _problem: RequestValidationError) -> Response:
        # What a body holds is read in body_of: here there is none.
        if compat:
            return Response(status_code=400)
        return message(400, "body: expected JSON, found nothing")

    @app.exception_handler(HTTPException)
    async def answer_http(request: Request, problem: HTTPException) -> Response:
        if compat:
            return _as_gin(problem.status_code)
        line = f"{request.method} {request.url.path}: {problem.detail}"
        return message(problem.status_code, line, headers=problem.headers)

    @app.exception_handler(Exception)
    async def answer_bug(_request: Request, problem: Exception) -> Response:
        return message(500, f"a bug, and a traceback of it in the log: {type(problem).__name__}")


def body_of(model: type[Message], level: Level) -> Any:
    """Return the type of an argument that is the body of a request, read as a *model*."""

    def read_body(body: object) -> object:
        return read(model, json_of(body), source="body", level=level)

    return Annotated[model, BeforeValidator(read_body)]


def json_of(body: object) -> Any:
    """Return what *body* says, a JSON text in bytes. Raise KindError if it is none."""
    assert isinstance(body, bytes), "JsonBody lets nobody else take it for JSON"
    try:
        return parse_json(body.decode("utf-8-sig"), source="body")
    except UnicodeDecodeError:
        raise KindError("body: expected JSON, found bytes that are not UTF-8") from None
    except SpecError as problem:
        raise KindError(str(problem)) from None


def message(status: int, line: str, *, headers: Any = None) -> Response:
    """Return the answer {"message": line}."""
    return Json({"message": line}, status_code=status, headers=headers)


def _as_gin(status: int) -> Response:
    if status in {404, 405}:
        return PlainTextResponse(
            "404 page not found", status_code=404, headers={"content-type": "text/plain"}
        )
    return Response(status_code=status)


JsonText = Annotated[Any, Body(), BeforeValidator(json_of)]
