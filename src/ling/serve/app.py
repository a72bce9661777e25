"""The HTTP app and the process around it: socket first, then the model, then one ready line."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..errors import LingError, RunError, UsageError
from ..text import printable

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ..llm import LLM
    from .service import Service

API_KEY_VARIABLE = "LING_API_KEY"
DRAIN_S = 30.0
KEEP_ALIVE_S = 15.0
REQUEST_TIMEOUT_S = 30.0
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def create_app(
    llm: LLM | None,
    *,
    served_model_name: str,
    api_key: str | None = None,
    allowed_hosts: frozenset[str] | None = None,
    max_body_bytes: int = 8 << 20,
    keep_alive_s: float = KEEP_ALIVE_S,
) -> FastAPI:
    """The ASGI app on `llm`; its `state.service.llm` may be set later (503 until then).

    `allowed_hosts` are the names a `Host` header may carry, None for any.
    Raises `UsageError` when the `serve` extra is not installed.
    """
    _require_extra()
    from fastapi import FastAPI

    from .guard import Guard, Rules
    from .problems import install_handlers
    from .routes import make_router
    from .service import Service

    # FastAPI's own documentation pages load scripts from foreign hosts; the schema stays.
    app = FastAPI(title="ling", docs_url=None, redoc_url=None)
    app.state.service = Service(llm, served_model_name)
    app.include_router(make_router(app.state.service, keep_alive_s))
    install_handlers(app)
    rules = Rules(api_key=api_key, hosts=allowed_hosts, max_body_bytes=max_body_bytes)
    app.add_middleware(Guard, rules=rules)
    return app


def serve(
    model: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    served_model_name: str | None = None,
    api_key: str | None = None,
    allow_no_key: bool = False,
    max_model_len: int | None = None,
    dtype: str = "auto",
    format: str | None = None,
    max_memory: str | None = None,
    kv_cache_dtype: str = "bf16",
    speculative: str = "off",
    drain_s: float = DRAIN_S,
    request_timeout_s: float = REQUEST_TIMEOUT_S,
    log_level: str = "warning",
) -> int:
    """Serve `model` until a signal; returns the exit code 0.

    The key may also come from the environment variable LING_API_KEY. The first SIGTERM or SIGINT
    lets running requests end for up to `drain_s` seconds, the second ends the process at once. A
    client has `request_timeout_s` to send a whole request, else the server hangs up.
    Raises `UsageError` for an unusable address or key before the model is touched, and what loading
    raises.
    """
    _require_extra()
    key = _checked_key(api_key)
    name = served_model_name or Path(os.path.abspath(model)).name
    listener = _listen(host, port)
    try:
        is_local = ipaddress.ip_address(listener.getsockname()[0].split("%")[0]).is_loopback
        if not is_local and key is None and not allow_no_key:
            raise UsageError(
                f"`{host}` is reachable from other machines: give `--api-key` or {API_KEY_VARIABLE}"
            )
        # Without a key a web page could reach us through a name that it points at this address.
        hosts = LOOPBACK_NAMES | {host.lower()} if is_local and key is None else None
        app = create_app(None, served_model_name=name, api_key=key, allowed_hosts=hosts)
        options = {
            "max_model_len": max_model_len,
            "dtype": dtype,
            "format": format,
            "max_memory": max_memory,
            "kv_cache_dtype": kv_cache_dtype,
            "speculative": speculative,
        }
        logging.basicConfig(level=log_level.upper(), format="%(levelname)s %(name)s %(message)s")
        url = _url(host, listener)
        _run(app, listener, url, str(model), options, drain_s, request_timeout_s)
    finally:
        listener.close()
    return 0


def _run(
    app: FastAPI,
    listener: socket.socket,
    url: str,
    model: str,
    options: dict[str, Any],
    drain_s: float,
    request_timeout_s: float,
) -> None:
    import uvicorn

    from .connection import Connection
    from .guard import MAX_HEAD_BYTES

    service: Service = app.state.service

    # uvicorn makes the connections, so their class carries the limit.
    timed = type("Timed", (Connection,), {"request_timeout_s": request_timeout_s})

    class Server(uvicorn.Server):
        """uvicorn with our life cycle: ready line, drain on the first signal, end on the second."""

        is_announced = False
        deadline: float | None = None

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if service.draining:
                os._exit(128 + sig)
            service.draining = True

        async def on_tick(self, counter: int) -> bool:
            if service.llm is not None and not self.is_announced:
                self.is_announced = True
                print(f"ling: serving {printable(service.name)} on {url}", flush=True)
            if service.failure is not None:
                return True
            if not service.draining:
                return await super().on_tick(counter)
            if self.deadline is None:
                self.deadline = time.monotonic() + drain_s
            return not service.busy or time.monotonic() > self.deadline

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            service.stop_all()
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app,
        http=timed,
        # There are no WebSockets here, and their library would take connections off our clock.
        ws="none",
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    threading.Thread(target=_load, args=(service, model, options), daemon=True).start()
    try:
        Server(config).run(sockets=[listener])
    finally:
        service.close()
    if isinstance(service.failure, LingError):
        raise service.failure
    if service.failure is not None:
        raise RunError(f"the model could not be loaded: {service.failure}") from service.failure


def _load(service: Service, model: str, options: dict[str, Any]) -> None:
    """Body of the loading thread; the main thread reads the outcome on its next tick."""
    try:
        from ..llm import LLM

        service.llm = LLM(model, **options)
    except Exception as error:
        service.failure = error


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises `UsageError` if the address cannot be had."""
    if not host or not 0 <= port <= 65535:
        raise UsageError(f"`{host}` port {port} is no address; ports go from 0 to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise UsageError(
            f"`--host {printable(host)}` is not a known host name or address"
        ) from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Listening now keeps a second server off the port while this one still loads.
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise UsageError(f"cannot listen on {host} port {port}: {error.strerror}") from None
    return listener


def _url(host: str, listener: socket.socket) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}/v1"


def _checked_key(api_key: str | None) -> str | None:
    """The key from the call or the environment; raises `UsageError` if no client could send it."""
    key = os.environ.get(API_KEY_VARIABLE) or None if api_key is None else api_key
    if key is not None and (not key.strip() or key != key.strip() or not key.isprintable()):
        raise UsageError("the API key is empty or holds spaces at its ends or control characters")
    return key


def _require_extra() -> None:
    if any(find_spec(name) is None for name in ("fastapi", "uvicorn")):
        raise UsageError("serving needs two more packages: pip install 'ling[serve]'")
