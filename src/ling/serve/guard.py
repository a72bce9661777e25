"""What is decided before a request is read: who may ask, from where, how much and in which form."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import RequestError
from . import logs
from .keys import Keys, key_of
from .problems import as_request_error, problem_response, request_id
from .served import METRICS, PROBES, Observer, Served

# h11 stops at this size only when a head comes in several pieces.
MAX_HEAD_BYTES = 16 << 10
MAX_URL_BYTES = 8 << 10
_ABSOLUTE = re.compile(r"https?://(?:[^/@]*@)?([^/]*)", re.IGNORECASE)
# What a caller may give as the id of its request; anything else could forge a line of some log.
_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
# Keys of the request's scope: the host in an absolute-form target, a function that counts the
# tokens of prompt and answer for the log, and whose key the request showed (`Keys.tag`).
AUTHORITY, TOKENS, CLIENT = "ling.authority", "ling.tokens", "ling.client"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the guard lets through."""

    keys: Keys = field(default_factory=Keys)
    """Keys that every path but the open ones asks for; none, and nobody is asked."""
    open_paths: frozenset[str] = PROBES
    """Paths that need no key."""
    metrics_port: int | None = None
    """Port for `/metrics` and the probes alone, without a key; the other port has no metrics."""
    hosts: frozenset[str] | None = None
    """Names a `Host` header may carry (a web page that rebinds its name to us carries another)."""
    max_body_bytes: int = 8 << 20
    """Larger bodies get 413."""
    has_endpoint: Callable[[Scope], bool] = lambda _: True
    """Whether path and method are served; others get 404 or 405 whatever their body is."""
    observers: Sequence[Observer] = (logs.access,)
    """Who is told of each reply."""


class Guard:
    """ASGI middleware around the whole app; also gives each request its id, and tells the log, the
    metrics and traces of its reply."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app, self._rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check and pass on, or answer with an error."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name, start, status = _id_of(scope), time.perf_counter(), 0
        request_id.set(name)
        method, scope = scope["method"], canonical(scope)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = (b"x-request-id", name.encode())
                message["headers"] = [*message.get("headers", []), own]
            await send(message)

        try:
            self._check_head(scope)
            replay = await self._read_body(scope, receive)
        except RequestError as error:
            # The rest of the body is unread, so the connection cannot be used again.
            await problem_response(error, {"Connection": "close"})(scope, receive, send_with_id)
        else:
            await self._answer(scope, replay, send_with_id, lambda: status > 0)
        finally:
            served = _served(scope, name, method, status, time.perf_counter() - start)
            for observe in self._rules.observers:
                observe(served)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, started: Callable[[], bool]
    ) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            # Logged here under the request's id; half a reply can only be cut off.
            reply = problem_response(as_request_error(error))
            if started():
                raise
            await reply(scope, receive, send)

    def _check_head(self, scope: Scope) -> None:
        if scope["http_version"] not in ("1.0", "1.1"):
            raise RequestError("only HTTP/1.1 is spoken here")
        _check_sizes(scope)
        headers = Headers(scope=scope)
        rules = self._rules
        if "content-length" in headers and "transfer-encoding" in headers:
            # Two lengths are how one request is smuggled inside another (RFC 9112 §6.1).
            raise RequestError("both `Content-Length` and `Transfer-Encoding` were sent")
        if rules.hosts is not None:
            # HTTP/1.0 knows no `Host`: load balancers ask for `/health` so, web pages cannot.
            for name in {headers.get("host"), scope[AUTHORITY] or None}:
                if name is not None:
                    _check_host(name, rules.hosts)
        self._check_key(scope, headers)
        if scope["method"] not in ("POST", "PUT", "PATCH") or not rules.has_endpoint(scope):
            return
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise RequestError("compressed bodies are not read", status=415)
        if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            raise RequestError("`Content-Type` must be `application/json`", status=415)

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        rules, path = self._rules, scope["path"]
        if rules.metrics_port is not None:
            is_metrics_port = scope["server"][1] == rules.metrics_port
            if is_metrics_port and path not in (METRICS, *PROBES):
                raise RequestError(f"this port has only `{METRICS}` and the probes", status=404)
            if not is_metrics_port and path == METRICS:
                raise RequestError("the metrics are on another port", status=404)
            if is_metrics_port:
                return
        if rules.keys and path not in rules.open_paths:
            tag = rules.keys.tag(key_of(headers))
            if tag is None:
                raise RequestError("a valid API key is needed", status=401, code="invalid_api_key")
            scope[CLIENT] = tag

    async def _read_body(self, scope: Scope, receive: Receive) -> Receive:
        """The whole body, bounded, as a `receive` that gives it back in one piece."""
        limit = self._rules.max_body_bytes
        length = Headers(scope=scope).get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:20]) > limit:
            raise _too_large(limit)
        pieces: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise RequestError("the client left before its request was whole")
            pieces.append(message.get("body", b""))
            size, more = size + len(pieces[-1]), message.get("more_body", False)
            if size > limit:
                raise _too_large(limit)
        body: Message | None = {
            "type": "http.request",
            "body": b"".join(pieces),
            "more_body": False,
        }

        async def replay() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            first, body = body, None
            return first

        return replay


def _check_sizes(scope: Scope) -> None:
    url = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    if url > MAX_URL_BYTES:
        raise RequestError(f"the URL is longer than {MAX_URL_BYTES} bytes", status=414)
    if url + sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEAD_BYTES:
        raise RequestError(f"the headers are longer than {MAX_HEAD_BYTES} bytes", status=431)


def _too_large(limit: int) -> RequestError:
    return RequestError(f"the body is larger than {limit} bytes", status=413)


def _check_host(host: str, allowed: frozenset[str]) -> None:
    name = host_name(host)
    if name not in allowed:
        raise RequestError(
            f"this server does not answer to the name `{name[:100]}`: start it with "
            f"`--allowed-host {name[:100] or 'NAME'}`, or with an API key (`--api-key-file`)",
            status=403,
        )


def _id_of(scope: Scope) -> str:
    """The caller's `X-Request-Id` where it has one that is harmless, else a new id."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"


def _served(scope: Scope, name: str, method: str, status: int, seconds: float) -> Served:
    return Served(
        request_id=name,
        method=method,
        path=(scope.get("raw_path") or b"?")[:200].decode("ascii", "replace"),
        # The router leaves the endpoint it found.
        handler=getattr(scope.get("route"), "path", "none"),
        status=status,
        seconds=seconds,
        ended=time.time(),
        tokens=scope[TOKENS]() if TOKENS in scope else None,
        traceparent=Headers(scope=scope).get("traceparent", ""),
    )


def canonical(scope: Scope) -> Scope:
    """The request with one form of its path: no slash doubled or at the end, no scheme and host
    (proxies send those; they are kept under `AUTHORITY`). HEAD is GET without the body, which
    the connection leaves out."""
    path, authority = scope["path"], ""
    if absolute := _ABSOLUTE.match(path):
        authority, path = absolute[1], path[absolute.end() :]
    path = "/" + "/".join(part for part in path.split("/") if part)
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    return {**scope, "path": path, "method": method, AUTHORITY: authority}


def host_name(host: str) -> str:
    """Host header without its port and the dot of a full name, lower case; `[::1]:8000` gives
    `::1`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].removesuffix(".").lower()
