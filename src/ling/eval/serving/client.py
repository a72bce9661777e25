"""An HTTP client of one OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ...errors import RunError, UsageError
from ...text import one_line, shown
from .replies import Reply, event_of, events, message_of, read_stream

CONNECT_TIMEOUT_S = 10.0


def require_httpx() -> Any:
    """The HTTP client; raises `UsageError` where it is not installed."""
    try:
        import httpx
    except ImportError:
        raise UsageError("talking to a server needs httpx: pip install 'ling[serve]'") from None
    return httpx


class Client:
    """Requests to a server, whose `url` may end in `/v1` or not."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        *,
        key_hint: str = "`api_key=KEY` or OPENAI_API_KEY",
    ) -> None:
        self._httpx = httpx = require_httpx()
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, TypeError):
            parsed = httpx.URL("")
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise UsageError(f"{shown(url)} is no URL of a server, such as http://127.0.0.1:8000")
        self.root = str(parsed).rstrip("/").removesuffix("/v1")
        self.host = parsed.host
        self.port = parsed.port or {"http": 80, "https": 443}[parsed.scheme]
        # Compressed pieces would come when the compressor has enough, not when a token is there.
        self._headers = {"Accept-Encoding": "identity"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout_s, self._key_hint = timeout_s, key_hint
        self._ssl = httpx.create_ssl_context()  # shared: to make one takes as long as a token

    def _connection(self) -> Any:
        """A connection of its own for one request, as each of many users has one; one that is kept
        may be closed by the server the moment a request is sent."""
        timeout = self._httpx.Timeout(self._timeout_s, connect=CONNECT_TIMEOUT_S)
        # Neither a proxy nor keys of other sites from the environment.
        return self._httpx.AsyncClient(
            headers=self._headers, timeout=timeout, verify=self._ssl, trust_env=False
        )

    async def models(self) -> list[str]:
        """Names of the models that the server has; errors as in `listed`."""
        return [entry["id"] for entry in await self.listed()]

    async def listed(self) -> list[dict[str, Any]]:
        """What the server says of each model that it has; `id` is the name.

        Raises `RunError` where none answers there, `UsageError` for a refused key or where the
        answer is not that of an OpenAI-compatible server.
        """
        url = f"{self.root}/v1/models"
        try:
            async with self._connection() as connection:
                response = await connection.get(url)
        except self._httpx.HTTPError as error:
            raise Unreachable(f"{self.root}: no server answers there ({reason(error)})") from None
        if response.status_code in (401, 403):
            raise UsageError(
                f"{url}: HTTP {response.status_code}, the key is refused; give {self._key_hint}"
            )
        if response.status_code == 503:
            raise Unreachable(f"{self.root}: the server is not ready (HTTP 503)")
        try:
            found = [{**entry, "id": str(entry["id"])} for entry in response.json()["data"]]
        except (ValueError, LookupError, TypeError, RecursionError):
            found = []
        if response.status_code != 200 or not found:
            raise UsageError(
                f"{url}: HTTP {response.status_code} and no list of models; is it the URL of an "
                "OpenAI-compatible server?"
            )
        return found

    async def ask(self, path: str, body: dict[str, Any], *, stop_at_eos: bool = False) -> Reply:
        """One streamed request; what goes wrong is the reply's fault. Raises `Unreachable` where no
        connection can be made."""
        # Made before the clock starts; a piece is read when its stream has ended, so that reading
        # one answer delays no other's times.
        content, made = json.dumps(body).encode(), self._connection()
        reply = Reply(asked=int(body["max_tokens"]), sent_s=time.perf_counter())
        received: list[tuple[float, bytes]] = []
        try:
            async with made as connection:
                await self._stream(connection, path, content, reply, received)
        except self._httpx.ConnectError as error:
            raise Unreachable(f"{self.root}: no server answers there ({reason(error)})") from None
        except self._httpx.TimeoutException:
            reply.fault = f"no answer within {self._timeout_s:g} s"
        except self._httpx.HTTPError as error:
            reply.fault, reply.detail = "connection lost", reason(error)
        reply.end_s = time.perf_counter()
        if reply.fault is None:
            read_stream(reply, received, stop_at_eos)
        return reply

    async def _stream(
        self,
        connection: Any,
        path: str,
        content: bytes,
        reply: Reply,
        received: list[tuple[float, bytes]],
    ) -> None:
        headers = {"Content-Type": "application/json"}
        url = f"{self.root}/v1{path}"
        async with connection.stream("POST", url, content=content, headers=headers) as response:
            reply.status = response.status_code
            if response.status_code != 200:
                reply.fault = f"HTTP {response.status_code}"
                reply.detail = _refusal(await response.aread())
                return
            async for piece in response.aiter_raw():
                received.append((time.perf_counter(), piece))

    def events(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Events of one streamed request as they come; closing the iterator hangs up.

        Raises `RunError` for a refusal, an event that says an error, and a stream that breaks off.
        """
        timeout = self._httpx.Timeout(self._timeout_s, connect=CONNECT_TIMEOUT_S)
        connection = self._httpx.Client(
            headers=self._headers, timeout=timeout, verify=self._ssl, trust_env=False
        )
        url, headers = f"{self.root}/v1{path}", {"Content-Type": "application/json"}
        # ASCII: a text may have half a surrogate pair, which has no UTF-8.
        content = json.dumps(body).encode()
        try:
            with (
                connection,
                connection.stream("POST", url, content=content, headers=headers) as response,
            ):
                if response.status_code != 200:
                    detail = _refusal(response.read())
                    raise RunError(f"the server answers HTTP {response.status_code}: {detail}")
                yield from _checked(events((0.0, piece) for piece in response.iter_raw()))
        except self._httpx.HTTPError as error:
            raise RunError(f"{self.root}: the connection broke ({reason(error)})") from None

    def post(self, path: str, body: dict[str, Any]) -> Answer:
        """One request to a path below the root; raises `Unreachable` where no answer comes."""
        timeout = self._httpx.Timeout(self._timeout_s, connect=CONNECT_TIMEOUT_S)
        connection = self._httpx.Client(
            headers=self._headers, timeout=timeout, verify=self._ssl, trust_env=False
        )
        # ASCII, as in `events`.
        content, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        try:
            with connection:
                response = connection.post(self.root + path, content=content, headers=headers)
        except self._httpx.HTTPError as error:
            raise Unreachable(f"{self.root}: no answer ({reason(error)})") from None
        detail = "" if response.status_code == 200 else _refusal(response.content)
        try:
            value = response.json()
        except (ValueError, RecursionError):
            value = None
        return Answer(response.status_code, value if isinstance(value, dict) else {}, detail)

    async def seconds(self, method: str, path: str, body: dict[str, Any] | None = None) -> float:
        """How long one short request takes; infinite where it fails."""
        made, start = self._connection(), time.perf_counter()
        try:
            async with made as connection:
                response = await connection.request(method, self.root + path, json=body)
        except self._httpx.HTTPError:
            return float("inf")
        return time.perf_counter() - start if response.status_code == 200 else float("inf")

    async def wait_until_ready(self, limit_s: float, check: Callable[[], None]) -> None:
        """Wait for a server that is starting; `check` is called between tries and may raise."""
        end = time.monotonic() + limit_s
        while True:
            check()
            try:
                await self.models()
                # Some list their model before they have loaded it.
                if await self.status("/health") != 503:
                    return
                last = "not ready (HTTP 503)"
            except Unreachable as error:
                last = str(error)
            if time.monotonic() > end:
                raise RunError(f"{last}; waited {limit_s:g} s")
            await asyncio.sleep(0.1)

    async def status(self, path: str) -> int:
        """The status of a GET; raises `Unreachable` where no server answers."""
        try:
            async with self._connection() as connection:
                return (await connection.get(self.root + path)).status_code
        except self._httpx.HTTPError as error:
            raise Unreachable(f"{self.root}: no server answers there ({reason(error)})") from None


class Answer(NamedTuple):
    """A reply: its JSON object, empty where it is none, and what a refusal says."""

    status: int
    value: dict[str, Any]
    detail: str


class Unreachable(RunError):
    """No connection can be made, or the server is not ready."""


def reason(error: BaseException) -> str:
    """The words of a network error, or of what caused it."""
    seen = error
    while not str(seen) and seen.__cause__ is not None:
        seen = seen.__cause__
    return one_line(str(seen)) or type(error).__name__


def _checked(received: Iterator[tuple[float, str]]) -> Iterator[dict[str, Any]]:
    """The JSON of each event, up to the end that a whole stream has."""
    for _, data in received:
        if data == "[DONE]":
            return
        event = event_of(data)
        if event is None:
            raise RunError(f"the server sent {shown(data)}, which is no JSON object")
        if event.get("error"):
            raise RunError(f"the server says: {message_of(event)}")
        yield event
    raise RunError("the stream ended before its end was said")


def _refusal(content: bytes) -> str:
    with contextlib.suppress(ValueError, RecursionError):
        return message_of(json.loads(content))
    return one_line(content[:200].decode("utf-8", "replace"))
