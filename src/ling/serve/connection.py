"""One HTTP connection: uvicorn's, with a clock on requests and refusals in OpenAI's shape."""

from __future__ import annotations

import asyncio
import sys
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import RequestError
from .problems import problem_json

# How often a client that reads slowly is looked at.
WRITE_CHECK_S = 0.5


class Connection(H11Protocol):
    """Hangs up on a client that takes longer than `request_timeout_s` over one request, or that
    reads nothing of its reply for `write_timeout_s`.

    uvicorn's own time limit begins after the first reply, so that clients which send half a
    request would hold their connections, and open files, for ever; and those that do not read would
    hold what is written for them.
    """

    request_timeout_s = 30.0
    write_timeout_s = 60.0
    idle_timeout_s = 75.0
    """Longer than the minute that proxies and clients keep a connection for their next request."""
    _is_idle = False
    _clock: asyncio.TimerHandle | None = None
    _write_check: asyncio.TimerHandle | None = None
    _unread_bytes = 0
    _unread_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock: also a client that sends nothing must go."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Parse; the clock stops once a request is whole."""
        if self._is_idle:  # the next request begins, and with it its own clock
            self._is_idle = False
            self._stop_clock()
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Go on with the next request, which may have come in part already."""
        self._is_idle = not self.conn.trailing_data[0]
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks with the connection."""
        super().connection_lost(exc)
        self._watch()
        self._stop_write_check()

    def pause_writing(self) -> None:
        """The client reads slower than we write: begin to look whether it reads at all."""
        super().pause_writing()
        self._unread_since, self._unread_bytes = self.loop.time(), sys.maxsize
        self._check_writing()

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        self._stop_write_check()

    def _check_writing(self) -> None:
        unread, now = self.transport.get_write_buffer_size(), self.loop.time()
        if unread < self._unread_bytes:
            self._unread_since = now
        self._unread_bytes = unread
        if now - self._unread_since > self.write_timeout_s:
            self.transport.abort()
        else:
            self._write_check = self.loop.call_later(WRITE_CHECK_S, self._check_writing)

    def _stop_write_check(self) -> None:
        if self._write_check is not None:
            self._write_check.cancel()
            self._write_check = None

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, once, and hang up; called while h11's error is handled."""
        if self.cycle is not None:
            self.cycle.disconnected = True  # its reply would be a second one
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(getattr(sys.exc_info()[1], "error_status_hint", 400))
        self.transport.close()

    def _refuse(self, hint: int) -> None:
        """h11 also hints at 501, but nothing that a client sends is the server's failure."""
        too_long = hint == 431
        message = "the head of the request is too long" if too_long else "this is not valid HTTP"
        error = RequestError(message, status=431 if too_long else 400)
        body = problem_json(error).encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        reason = HTTPStatus(error.status).phrase
        head = h11.Response(status_code=error.status, headers=headers, reason=reason)
        for event in (head, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")

    def _watch(self) -> None:
        """Let the clock run exactly while a request is awaited or on its way in."""
        awaited = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        if awaited and not self.transport.is_closing():
            if self._clock is None:
                limit_s = self.idle_timeout_s if self._is_idle else self.request_timeout_s
                self._clock = self.loop.call_later(limit_s, self.transport.close)
        else:
            self._stop_clock()

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
