"""The running server: ready line, drain on the first signal, end on the second, death of the
engine."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from ..config.engine import ServeConfig
from ..errors import LingError, RunError
from ..text import first_line, printable
from .connection import Connection
from .guard import MAX_HEAD_BYTES
from .sockets import base_url

if TYPE_CHECKING:
    from fastapi import FastAPI

    from .service import Service

log = logging.getLogger("ling.serve")

# How long a thread that runs Python keeps the others from it; the event loop and the engine take
# turns with the thread that makes text.
SWITCH_S = 0.001
# While the server ends, for how long a client may read nothing of its reply.
DRAIN_WRITE_TIMEOUT_S = 5.0
# After its engine has died, how long a server has to tell its clients.
DEAD_S = 5.0


class Server(uvicorn.Server):
    """uvicorn with our life cycle."""

    def __init__(self, settings: uvicorn.Config, service: Service, drain_s: float) -> None:
        super().__init__(settings)
        self._service, self._drain_s = service, drain_s
        self._ready_line = ""
        self._deadline: float | None = None
        self._signal = 0

    def announce(self, line: str) -> None:
        """Print a line once the model is there."""
        self._ready_line = line

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal; the second ends the process."""
        if self._service.draining:
            os._exit(128 + sig)
        self._service.draining, self._signal = True, sig
        for connection in self.server_state.connections:
            if isinstance(connection, Connection):
                connection.write_timeout_s = DRAIN_WRITE_TIMEOUT_S

    async def on_tick(self, counter: int) -> bool:
        """Whether it is time to end; called ten times a second."""
        service = self._service
        if service.llm is not None and self._ready_line:
            print(self._ready_line, flush=True)
            self._ready_line = ""
        if service.failure is not None:
            return True
        if service.draining:
            return self._is_over(self._drain_s)
        if service.engine_failure is not None:
            return self._is_over(DEAD_S)
        return await super().on_tick(counter)

    def _is_over(self, limit_s: float) -> bool:
        """Whether nothing runs any more, or too long since the first call."""
        if self._deadline is None:
            self._deadline = time.monotonic() + limit_s
        return not self._service.busy or time.monotonic() > self._deadline

    def end_loading(self) -> None:
        """End the process where a signal came before the model: Python cannot end while a thread is
        in C++ code, as that of torch's import, without an abort."""
        service = self._service
        if service.draining and service.llm is None and service.failure is None:
            os._exit(128 + self._signal)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what still runs."""
        self._service.stop_all()
        await super().shutdown(sockets)


def run(
    app: FastAPI, sockets: Sequence[socket.socket], load: Callable[[], None], config: ServeConfig
) -> None:
    """Serve on listening sockets while `load` runs in a thread; returns after a drain. A signal
    while it loads ends the process.

    Raises what loading raised, and `RunError` when the engine has died.
    """
    service: Service = app.state.service
    # uvicorn makes the connections, so their class carries the limit.
    timed = type("Timed", (Connection,), {"request_timeout_s": config.request_timeout_s})
    settings = uvicorn.Config(
        app,
        http=timed,
        # There are no WebSockets here, and their library would take connections off our clock.
        ws="none",
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=int(Connection.idle_timeout_s),
        timeout_graceful_shutdown=5,
    )
    server = Server(settings, service, config.drain_s)
    url = base_url(config.host, sockets[0])
    server.announce(f"ling: serving {printable(service.name)} on {url}")
    for other in sockets[1:]:
        log.info("metrics and probes are on port %d", other.getsockname()[1])
    sys.setswitchinterval(SWITCH_S)
    threading.Thread(target=load, daemon=True).start()
    try:
        server.run(sockets=list(sockets))
        server.end_loading()
    finally:
        service.garbage.end()
        service.close()
        if service.llm is not None:
            service.llm.close()
    _raise_failure(service)


def _raise_failure(service: Service) -> None:
    if isinstance(service.failure, LingError):
        raise service.failure
    if service.failure is not None:
        raise RunError(f"the model could not be loaded: {service.failure}") from service.failure
    if (cause := service.engine_failure) is not None:
        raise RunError(f"the engine has failed too often: {first_line(cause)}") from cause
