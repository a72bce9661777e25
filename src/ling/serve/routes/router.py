"""All endpoints in one router."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.routing import Match
from starlette.types import Scope

from ..experts import add_experts
from ..schema.common import ProblemReply
from ..service import Service
from .chat import add_chat
from .completions import add_completions
from .messages import add_messages
from .responses import add_responses
from .status import add_status
from .text import add_text

_STATUSES = (400, 401, 404, 413, 415, 429, 500, 503, 504)
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemReply} for status in _STATUSES
}


def make_router(service: Service, keep_alive_s: float) -> APIRouter:
    """All endpoints on `service`."""
    router = APIRouter(responses=_PROBLEMS)
    add_status(router, service)
    add_experts(router, service)
    add_text(router, service)
    add_chat(router, service, keep_alive_s)
    add_completions(router, service, keep_alive_s)
    add_responses(router, service, keep_alive_s)
    add_messages(router, service, keep_alive_s, _STATUSES)
    return router


def has_endpoint(app: FastAPI, scope: Scope) -> bool:
    """Whether path and method are those of an endpoint."""
    return any(route.matches(scope)[0] is Match.FULL for route in app.routes)
