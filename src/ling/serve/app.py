"""The HTTP app and the process around it: socket first, then the model, then one ready line."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..config.engine import DEFAULTS, EngineConfig, ServeConfig
from ..errors import UsageError
from .sockets import is_loopback, listen

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ..llm import LLM
    from .guard import Rules
    from .keys import Keys
    from .served import Observer
    from .service import Service

KEEP_ALIVE_S = 15.0
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def create_app(
    llm: LLM | None,
    *,
    served_model_name: str,
    api_key: str | Keys | None = None,
    allowed_hosts: frozenset[str] | None = None,
    allowed_origins: Sequence[str] = (),
    metrics_port: int | None = None,
    max_body_bytes: int = 8 << 20,
    keep_alive_s: float = KEEP_ALIVE_S,
    info: Mapping[str, Any] = MappingProxyType({}),
    observers: Sequence[Observer] = (),
) -> FastAPI:
    """The ASGI app on `llm`; its `state.service.llm` may be set later (503 until then).

    `api_key` is one key, or several. `allowed_hosts` are the names a `Host` header may carry, None
    for any; `allowed_origins` those of web pages that browsers let ask. With a `metrics_port` the
    metrics are on that one of its ports alone. `info` is what `/server_info` shows of the
    configuration; `observers` are told of each reply, beside the log and the metrics. Raises
    `UsageError` when the `serve` extra is not installed.
    """
    _require_extra()
    from fastapi import FastAPI

    from . import logs, published
    from .guard import Rules
    from .keys import Keys
    from .metrics import Metrics
    from .page import PATHS, make_page
    from .problems import install_handlers
    from .routes.operation import add_operation
    from .routes.router import has_endpoint, make_router
    from .served import PROBES
    from .service import Service

    # FastAPI's own documentation pages load scripts from foreign hosts; the schema stays.
    # The guard has brought paths to one form, so nothing is left to redirect.
    app = FastAPI(title="ling", docs_url=None, redoc_url=None, redirect_slashes=False)
    service = app.state.service = Service(llm, served_model_name)
    metrics = Metrics(service)
    router = make_router(service, keep_alive_s)
    add_operation(router, service, metrics, info)
    app.include_router(router)
    app.include_router(make_page())
    install_handlers(app, [getattr(route, "path", "") for route in router.routes])
    make = app.openapi
    app.openapi = lambda: published.openapi(make, service.vocab_size)  # type: ignore[method-assign]
    rules = Rules(
        keys=api_key if isinstance(api_key, Keys) else Keys([api_key] if api_key else []),
        hosts=allowed_hosts,
        open_paths=PROBES | PATHS,
        metrics_port=metrics_port,
        max_body_bytes=max_body_bytes,
        has_endpoint=partial(has_endpoint, app),
        observers=(logs.access, metrics.observe, *observers),
    )
    _add_middleware(app, rules, allowed_origins)
    return app


def _add_middleware(app: FastAPI, rules: Rules, allowed_origins: Sequence[str]) -> None:
    """The guard around the app, and around it what lets pages of other hosts ask, if any may."""
    from fastapi.middleware.cors import CORSMiddleware

    from .guard import Guard

    app.add_middleware(Guard, rules=rules)
    if allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(allowed_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )


def serve(
    model: str | Path,
    config: ServeConfig,
    engine: EngineConfig = DEFAULTS,
    sampling: Mapping[str, Any] = MappingProxyType({}),
) -> int:
    """Serve `model` until a signal; returns the exit code 0.

    `sampling` are fields of `SamplingParams` for requests that do not have them; they go before
    those of the model's `generation_config.json`.
    The first SIGTERM or SIGINT lets running requests end for a while; the second ends the process
    at once, as does one while the model loads. A client that takes too long to send a whole
    request, or to read its reply, is disconnected. Raises `UsageError` for an unusable address or
    key before the model is touched, what loading raises, and `RunError` when the engine has died.
    """
    _require_extra()
    from . import logs
    from .keys import API_KEY_VARIABLE, read_keys
    from .routes.operation import configuration
    from .server import run
    from .tracing import tracer

    keys = read_keys(config)
    host = config.host.removeprefix("[").removesuffix("]")  # an address may be as in a URL
    config = dataclasses.replace(config, host=host)
    name = config.served_model_name or Path(os.path.abspath(model)).name
    _check_adapters(engine, name)
    with ExitStack() as stack:
        ports = [config.port] if config.metrics_port is None else [config.port, config.metrics_port]
        sockets = [stack.enter_context(closing(listen(host, port))) for port in ports]
        is_local = is_loopback(sockets[0])
        if not is_local and not keys and not config.allow_no_key:
            raise UsageError(
                f"`{host}` is reachable from other machines: give `api_key_file=FILE` or "
                f"{API_KEY_VARIABLE}"
            )
        logs.install(config.log_level, config.log_format)
        spans = tracer(config.otlp_traces_endpoint)
        if spans is not None:
            stack.callback(spans.close)
        app = create_app(
            None,
            served_model_name=name,
            api_key=keys,
            allowed_hosts=allowed_hosts(config, open_to_pages=is_local and not keys),
            allowed_origins=config.allowed_origins or (),
            metrics_port=sockets[1].getsockname()[1] if len(sockets) > 1 else None,
            info=configuration(str(model), engine, config),
            observers=() if spans is None else (spans.observe,),
        )
        load = partial(_load, app.state.service, str(model), engine, sampling)
        run(app, sockets, load, config)
    return 0


def _check_adapters(engine: EngineConfig, name: str) -> None:
    """Requests choose adapters by name, so that each has one that is not the model's."""
    if engine.default_adapter is not None:
        raise UsageError(f"`lora` is `{(engine.lora or [''])[0]}`, expected NAME=FOLDER")
    if name in engine.adapter_folders:
        raise UsageError(
            f"`lora` has an adapter `{name}`, which is the model's own name; give another, or "
            "`served_model_name`"
        )


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


def allowed_hosts(config: ServeConfig, *, open_to_pages: bool) -> frozenset[str] | None:
    """Names that a `Host` header may carry, None for any.

    Without a key a web page could reach us through a name that it points at this address.
    """
    from .guard import host_name

    given = config.allowed_host or []
    if "*" in given or not (given or open_to_pages):
        return None
    return LOOPBACK_NAMES | {config.host.lower()} | {host_name(name) for name in given}


def _require_extra() -> None:
    if any(find_spec(name) is None for name in ("fastapi", "uvicorn", "prometheus_client")):
        raise UsageError("serving needs more packages: pip install 'ling[serve]'")
