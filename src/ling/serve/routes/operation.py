"""Endpoints for those who run the server: readiness, metrics, what it was started with."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from ... import __version__
from ...config.engine import EngineConfig, ServeConfig
from ..guard import METRICS
from ..metrics import Metrics
from ..service import Service

SHOWN = (
    "host",
    "port",
    "metrics_port",
    "allowed_host",
    "allowed_origins",
    "drain_s",
    "request_timeout_s",
    "log_level",
    "log_format",
)
"""Fields of `ServeConfig` that `/server_info` shows: none that has, or leads to, a secret."""


def add_operation(
    router: APIRouter, service: Service, metrics: Metrics, info: Mapping[str, Any]
) -> None:
    """`/ready`, `/metrics` and `/server_info`; `info` is what `configuration` made."""
    started = time.time()

    @router.get("/ready")
    async def ready() -> dict[str, str]:
        """200 while a new request would be taken, 503 otherwise; `/health` does not look at how
        many there are."""
        service.require_room()
        return {"status": "ready"}

    @router.get(METRICS, response_class=PlainTextResponse)
    async def metrics_text() -> Response:
        """Counters in Prometheus's text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/server_info")
    async def server_info() -> dict[str, Any]:
        """Version, model and configuration of this server, and what it is doing."""
        return {
            "version": __version__,
            "served_model_name": service.name,
            "uptime_s": round(time.time() - started, 1),
            **info,
            "state": _state(service),
        }


def configuration(model: str, engine: EngineConfig, server: ServeConfig) -> dict[str, Any]:
    """What a server was started with, without secrets."""
    return {
        "model": model,
        "engine": {k: _plain(v) for k, v in dataclasses.asdict(engine).items()},
        "server": {name: getattr(server, name) for name in SHOWN},
    }


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _state(service: Service) -> dict[str, Any]:
    """What is only known, or true, at the moment."""
    llm = service.require()
    engine = llm.engine
    return {
        "max_model_len": llm.max_model_len,
        "vocab_size": llm.config.vocab_size,
        "sampling_defaults": dict(llm.sampling_defaults),
        "num_requests_running": len(engine.scheduler.running),
        "num_requests_waiting": len(engine.scheduler.waiting),
        "num_pages": engine.pool.num_pages,
        "num_free_pages": engine.pool.available,
    }
