"""Answer every failure as one problem details document (RFC 9457), and describe it in OpenAPI.

Exceptions of the whole application enter, ``application/problem+json`` leaves; nothing else of this
room writes an error by hand. Called by ``app.py`` at assembly and by FastAPI afterwards.
"""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from osteon.errors import OsteonError

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 10
# What is the state of the server or of the network, and not the request (RFC 9110 section 15).
_PASSING = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
        HTTPStatus.INSUFFICIENT_STORAGE,
    }
)
log = structlog.get_logger(__name__)


class Problem(BaseModel):
    """What went wrong, as RFC 9457 section 3.1 names its members; some problems have more."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="A page that explains this kind, or `about:blank`.")
    title: str = Field(description="The kind of problem; the same words every time.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What was wrong this time, with what, and what to do.")
    instance: str = Field(description="The path that was asked for.")
    retryable: bool = Field(description="Whether the same call may succeed later.")


def slug_of(error: type[OsteonError]) -> str:
    """Return the name under which `/api/docs` explains an error: ``stale-transition``."""
    words = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z][a-z]+|[A-Z]+", error.__name__)
    return "-".join(words).lower().removesuffix("-error")


def title_of(error: type[OsteonError]) -> str:
    """Return an error's kind in words: ``Stale transition``."""
    return slug_of(error).replace("-", " ").capitalize().replace("uid", "UID")


def problem(
    path: str,
    status: int,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> JSONResponse:
    """Build the answer to a call that failed.

    Parameters
    ----------
    path : str
        The path that was asked for.
    members : Any
        ``type``, ``title`` and ``retryable`` where the kind has its own, and extension members.
    """
    standard = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "retryable": status in _PASSING,
    }
    content = standard | members | {"detail": detail, "instance": path}
    return JSONResponse(content, status, headers=headers, media_type=MEDIA_TYPE)


def problem_of(
    request: Request, error: OsteonError | HTTPException, **members: Any
) -> JSONResponse:
    """Build the answer to an error of the tree or of FastAPI."""
    path = request.url.path
    if isinstance(error, HTTPException):
        detail = str(error.detail)
        if error.status_code == HTTPStatus.NOT_FOUND and detail == HTTPStatus.NOT_FOUND.phrase:
            detail = f"nothing is at {path}: see /api/docs"
        return problem(path, error.status_code, detail, headers=error.headers, **members)
    kind = type(error)
    again = error.retryable and kind.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return problem(
        path,
        kind.http_status,
        error.message,
        headers={"Retry-After": str(RETRY_AFTER_S)} if again else None,
        type=f"/api/docs#{slug_of(kind)}",
        title=title_of(kind),
        retryable=kind.retryable,
        **members,
    )


def answer_problems(app: FastAPI) -> None:
    """Make every failure of an application a problem details document."""
    app.add_exception_handler(OsteonError, _on_error)
    app.add_exception_handler(HTTPException, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_unexpected)


def describe_problems(schema: dict[str, Any]) -> None:
    """Let an OpenAPI document say that every failure is a `Problem`."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for operations in schema["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if status.startswith(("4", "5")):
                    response["content"] = content
                if response["description"] == "Validation Error":
                    response["description"] = "A parameter is not valid."
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Problem"] = Problem.model_json_schema()


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, OsteonError | HTTPException)
    if isinstance(error, OsteonError) and error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("call refused", path=request.url.path, why=error.message)
    return problem_of(request, error)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [{"where": list(e["loc"]), "what": e["msg"]} for e in error.errors()]
    first = errors[0]
    detail = f"{'.'.join(map(str, first['where']))}: {first['what']}"
    return problem(request.url.path, HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=errors)


async def _on_disconnect(request: Request, error: Exception) -> Response:  # noqa: ARG001 - its call
    detail = "the client went away before its request was complete"
    return problem(request.url.path, HTTPStatus.BAD_REQUEST, detail, retryable=True)


async def _on_unexpected(request: Request, error: Exception) -> Response:
    # The server logs the traceback; this line says which call it belongs to.
    log.error("call failed", path=request.url.path, why=repr(error))
    detail = "an unexpected error, recorded in the node's log: report it with the time of this call"
    return problem(request.url.path, HTTPStatus.INTERNAL_SERVER_ERROR, detail)
