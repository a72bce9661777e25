"""The HTTP app and the process around it: socket first, then the model, then one ready line."""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any

from ..config.engine import DEFAULTS, LOG_LEVELS, EngineConfig, ServeConfig
from ..errors import LingError, RunError, UsageError
from ..text import printable

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ..llm import LLM
    from .service import Service

API_KEY_VARIABLE = "LING_API_KEY"
KEEP_ALIVE_S = 15.0
# How long a thread that runs Python keeps the others from it; the event loop and the engine take
# turns with the thread that makes text.
SWITCH_S = 0.001
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
    from .routes.router import has_endpoint, make_router
    from .service import Service

    # FastAPI's own documentation pages load scripts from foreign hosts; the schema stays.
    # The guard has brought paths to one form, so nothing is left to redirect.
    app = FastAPI(title="ling", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.service = Service(llm, served_model_name)
    router = make_router(app.state.service, keep_alive_s)
    app.include_router(router)
    install_handlers(app, [getattr(route, "path", "") for route in router.routes])
    rules = Rules(
        api_key=api_key,
        hosts=allowed_hosts,
        max_body_bytes=max_body_bytes,
        has_endpoint=partial(has_endpoint, app),
    )
    app.add_middleware(Guard, rules=rules)
    return app


def serve(
    model: str | Path,
    config: ServeConfig,
    engine: EngineConfig = DEFAULTS,
    sampling: Mapping[str, Any] = MappingProxyType({}),
) -> int:
    """Serve `model` until a signal; returns the exit code 0.

    `sampling` are fields of `SamplingParams` for requests that do not have them; they go before
    those of the model's `generation_config.json`.
    The first SIGTERM or SIGINT lets running requests end for a while, the second ends the process
    at once. A client that takes too long to send a whole request is disconnected. Raises
    `UsageError` for an unusable address or key before the model is touched, and what loading
    raises.
    """
    _require_extra()
    if config.log_level not in LOG_LEVELS:
        raise UsageError(f"`log_level` is `{config.log_level}`, expected {', '.join(LOG_LEVELS)}")
    key = _checked_key(config.api_key)
    host = config.host.removeprefix("[").removesuffix("]")  # an address may be as in a URL
    config = dataclasses.replace(config, host=host)
    name = config.served_model_name or Path(os.path.abspath(model)).name
    listener = _listen(host, config.port)
    try:
        is_local = ipaddress.ip_address(listener.getsockname()[0].split("%")[0]).is_loopback
        if not is_local and key is None and not config.allow_no_key:
            raise UsageError(
                f"`{host}` is reachable from other machines: give `api_key=KEY` or "
                f"{API_KEY_VARIABLE}"
            )
        hosts = allowed_hosts(config, open_to_pages=is_local and key is None)
        app = create_app(None, served_model_name=name, api_key=key, allowed_hosts=hosts)
        # Only our own lines: other libraries speak from warnings on.
        logging.basicConfig(format="%(levelname)s %(name)s %(message)s")
        logging.getLogger("ling").setLevel(config.log_level.upper())
        load = partial(_load, app.state.service, str(model), engine, sampling)
        _run(app, listener, load, config)
    finally:
        listener.close()
    return 0


def _run(
    app: FastAPI, listener: socket.socket, load: Callable[[], None], config: ServeConfig
) -> None:
    import uvicorn

    from .connection import Connection
    from .guard import MAX_HEAD_BYTES

    service: Service = app.state.service
    url = _url(config.host, listener)

    # uvicorn makes the connections, so their class carries the limit.
    timed = type("Timed", (Connection,), {"request_timeout_s": config.request_timeout_s})

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
                self.deadline = time.monotonic() + config.drain_s
            return not service.busy or time.monotonic() > self.deadline

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            service.stop_all()
            await super().shutdown(sockets)

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
    sys.setswitchinterval(SWITCH_S)
    threading.Thread(target=load, daemon=True).start()
    try:
        Server(settings).run(sockets=[listener])
    finally:
        service.garbage.end()
        service.close()
        if service.llm is not None:
            service.llm.close()
    if isinstance(service.failure, LingError):
        raise service.failure
    if service.failure is not None:
        raise RunError(f"the model could not be loaded: {service.failure}") from service.failure


def _load(service: Service, model: str, engine: EngineConfig, sampling: Mapping[str, Any]) -> None:
    """Body of the loading thread; the main thread reads the outcome on its next tick."""
    try:
        from ..llm import LLM

        llm = LLM(model, **dataclasses.asdict(engine))
        llm.sampling_defaults = {**llm.sampling_defaults, **sampling}
        service.garbage.begin()
        service.llm = llm
    except Exception as error:
        service.failure = error


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises `UsageError` for an address that is not available."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise UsageError(
            f"`host` is `{printable(host)}`, not a known host name or address"
        ) from None
    # asyncio sends small pieces at once (TCP_NODELAY) only on sockets that name their protocol.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Listening now keeps a second server off the port while this one still loads.
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise UsageError(f"cannot listen on {host} port {port}: {error.strerror}") from None
    return listener


def allowed_hosts(config: ServeConfig, *, open_to_pages: bool) -> frozenset[str] | None:
    """Names that a `Host` header may carry, None for any.

    Without a key a web page could reach us through a name that it points at this address.
    """
    from .guard import host_name

    given = config.allowed_host or []
    if "*" in given or not (given or open_to_pages):
        return None
    return LOOPBACK_NAMES | {config.host.lower()} | {host_name(name) for name in given}


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
