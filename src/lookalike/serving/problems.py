"""Errors over HTTP as problem objects (RFC 9457), with the words of the command line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from lookalike.errors import (
    LookalikeError,
    MissingExtraError,
    MissingFileError,
    ModelError,
    RunError,
    StorageError,
    UnavailableError,
    one_line,
)
from lookalike.log import logger

MEDIA_TYPE = "application/problem+json"

_STATUS: tuple[tuple[type[LookalikeError], int], ...] = (
    (MissingFileError, 404),
    (UnavailableError, 503),
    (StorageError, 409),
    (RunError, 409),
    (MissingExtraError, 501),
    (ModelError, 500),
    (LookalikeError, 400),
)
_SHOWN = 5  # faults of a request that are named


class Problem(HTTPException):
    """A refusal of a request; `detail` is one line for the client."""

    def __init__(self, status: int, detail: str, *, retry_after: float | None = None) -> None:
        """Refuse with this status; `retry_after` is in seconds."""
        wait = {} if retry_after is None else {"Retry-After": str(max(1, math.ceil(retry_after)))}
        super().__init__(status, detail, headers=wait)


def problem_response(
    status: int, detail: str, headers: Mapping[str, str] | None = None, **more: Any
) -> JSONResponse:
    """A problem object; `more` are members of our own, such as `errors`."""
    detail = detail.encode("utf-8", "backslashreplace").decode()
    content = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    return JSONResponse({**content, **more}, status, headers, MEDIA_TYPE)


def status_of(error: LookalikeError) -> int:
    """The HTTP status of an error of ours."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


def install(app: FastAPI) -> None:
    """Answer every error of an application with a problem object.

    What is not a `LookalikeError` or a refusal is our own mistake: it is logged with its traceback,
    and the client sees none of it.
    """
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(LookalikeError, _mistaken)
    app.add_exception_handler(ClientDisconnect, _left)
    app.add_exception_handler(Exception, _failed)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return problem_response(error.status_code, str(error.detail), error.headers)


async def _mistaken(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, LookalikeError)
    return problem_response(status_of(error), str(error))


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """Faults by their place in the request, without the values, which may be whole images."""
    assert isinstance(error, RequestValidationError)
    faults = [
        {
            "place": ".".join(map(str, fault["loc"])) or "body",
            "reason": one_line(ValueError(fault["msg"])),
        }
        for fault in error.errors()[:_SHOWN]
    ]
    detail = "; ".join(f"{fault['place']}: {fault['reason']}" for fault in faults)
    return problem_response(422, detail, errors=faults)


async def _left(request: Request, error: Exception) -> JSONResponse:
    """Counted, and read by nobody."""
    return problem_response(400, "the connection ended before the request was complete")


async def _failed(request: Request, error: Exception) -> JSONResponse:
    logger.error("%s %r: failed", request.method, request.url.path, exc_info=error)
    return problem_response(500, "an error of the program; its log has the details")
