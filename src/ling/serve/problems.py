"""Errors in the shape of the API that was asked: one function makes the reply, handlers bring every
failure to it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from ..errors import InputError, LingError, RequestError
from ..text import nearest, one_line

log = logging.getLogger("ling.serve")
request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""Id of the request being served; each log line has it (`logs.py`)."""

RETRY_AFTER_S = 5
_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
_CODES = {
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "request_too_large",
    414: "url_too_long",
    415: "unsupported_media_type",
    429: "rate_limit_exceeded",
    431: "headers_too_large",
    500: "internal_error",
}
# Of pydantic's complaints: the name of the bound, and what to say before it.
_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "greater than or equal to"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "less than or equal to"),
}
MESSAGES_PATH = "/v1/messages"
"""What is under it speaks as Anthropic's API does."""
_MESSAGES_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
MAX_MESSAGE = 500
MAX_PATH = 100


def as_request_error(error: BaseException) -> RequestError:
    """Any failure as something that may be told to a client.

    What is not the input's fault is logged and told without details.
    """
    if isinstance(error, RequestError):
        if error.status == 500:
            log.error("%s", one_line(str(error)))
        return error
    if isinstance(error, InputError):
        return RequestError(str(error))
    if isinstance(error, LingError):
        log.error("%s", one_line(str(error)))
    else:
        log.error("unexpected %s", type(error).__name__, exc_info=error)
    return RequestError("the server failed on this request", status=500)


def shown_message(error: RequestError) -> str:
    """What a client is told: one line of bounded length."""
    return one_line(str(error))[:MAX_MESSAGE]


def problem_json(error: RequestError) -> str:
    """Body of an error reply; ASCII only, so that no input can break it."""
    status = error.status
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    body = {
        "message": shown_message(error),
        "type": kind,
        "param": error.param,
        "code": error.code or _CODES.get(status),
    }
    return json.dumps({"error": body})


def messages_problem_json(error: RequestError) -> str:
    """`problem_json` in Anthropic's shape; `param` is ours."""
    other = "api_error" if error.status >= 500 else "invalid_request_error"
    body = {
        "type": _MESSAGES_TYPES.get(error.status, other),
        "message": shown_message(error),
        "param": error.param,
    }
    return json.dumps({"type": "error", "error": body, "request_id": request_id.get()})


class ProblemResponse(Response):
    """The reply for an error; which shape it has is known when it is sent."""

    def __init__(self, error: RequestError, headers: dict[str, str]) -> None:
        super().__init__(problem_json(error), error.status, headers, media_type="application/json")
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send, in the shape of the path."""
        if (scope["path"] + "/").startswith(MESSAGES_PATH + "/"):
            self.body = messages_problem_json(self._error).encode()
            self.headers["content-length"] = str(len(self.body))
        await super().__call__(scope, receive, send)


def problem_response(error: RequestError, headers: dict[str, str] | None = None) -> Response:
    """The reply for `error`, with the headers its status asks for."""
    headers = dict(headers or {})
    if error.status in (429, 503):
        headers["Retry-After"] = str(error.retry_after_s or RETRY_AFTER_S)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return ProblemResponse(error, headers)


def install_handlers(app: FastAPI, paths: Sequence[str]) -> None:
    """Make every failure of `app`, which serves `paths`, answer in OpenAI's shape."""

    async def on_ling(_: Request, error: Exception) -> Response:
        return problem_response(as_request_error(error))

    async def on_invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return problem_response(_first_fault(error.errors()[0]))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        message = str(error.detail).lower()
        if error.status_code == 404:
            message = _no_such_path(request.scope["path"], paths)
        if error.status_code == 405:
            path = request.scope["path"][:MAX_PATH]
            message = f"`{request.method}` is not allowed on `{path}`; use {headers.get('Allow')}"
        return problem_response(RequestError(message, status=error.status_code), headers)

    app.add_exception_handler(LingError, on_ling)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)


def _no_such_path(path: str, paths: Sequence[str]) -> str:
    """What to ask for instead: most often a base URL lacks `/v1`, or has it twice."""
    known = [p for p in paths if "{" not in p]
    ends = [p for p in known if path.endswith(p) or p == f"/v1{path}"]
    hint = f"; use `{max(ends, key=len)}`" if ends else nearest(path, known)
    base = "" if path.startswith("/v1/") else " (a base URL ends in `/v1`)"
    return f"there is no `{path[:MAX_PATH]}` here{hint}{base}; `/openapi.json` lists the endpoints"


def _first_fault(fault: dict[str, Any]) -> RequestError:
    """pydantic's first complaint; our own checks carry a `RequestError`."""
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, RequestError):
        return cause
    # Without "body", and without the tags of unions (`schema/items.py`).
    where = [part for part in fault["loc"][1:] if not str(part).startswith("<")]
    if fault["type"] == "json_invalid":
        return RequestError(f"the body is not valid JSON: {cause}".rstrip(": "))
    if where[-1:] == ["[key]"]:  # a name is wrong, not the value that it has
        where = where[:-1]
    parts = (f"[{p}]" if isinstance(p, int) else f".{p[:MAX_PATH]}" for p in where)
    param = "".join(parts).lstrip(".")
    message = str(cause) if isinstance(cause, ValueError) else _message(fault)
    if not param:
        return RequestError("the body is not a JSON object")
    return RequestError(f"`{param}`: {message[:1].lower()}{message[1:]}", param=param)


def _message(fault: dict[str, Any]) -> str:
    """pydantic's words, with bounds as they are: it rounds whole numbers above 2^53."""
    if fault["type"] not in _BOUNDS:
        return str(fault["msg"])
    name, words = _BOUNDS[fault["type"]]
    bound = fault["ctx"][name]
    return f"input should be {words} {int(bound) if bound == int(bound) else bound}"
