"""What is settled before a request's prompt is made: which model, when, and with whom it shares."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fastapi import Request

from ..errors import RequestError
from .guard import CLIENT
from .keys import key_of
from .schema.common import Sampling
from .service import Service, Terms

if TYPE_CHECKING:
    from ..llm import LLM


def model_for(service: Service, name: str | None) -> LLM:
    """The model of a request; raises `RequestError` 503 while there is none to be had, and 404 as
    `check_model` does."""
    llm = service.require()
    check_model(service, name)
    return llm


def check_model(service: Service, name: str | None) -> None:
    """Raise `RequestError` 404 for what is neither the model here nor one of its adapters; None is
    the model."""
    known = [service.name, *service.adapters]
    if name is not None and name not in known:
        listed = ", ".join(f"`{here}`" for here in known)
        raise RequestError(
            f"the model `{name[:200]}` is not here; this server has {listed}",
            status=404,
            code="model_not_found",
            param="model",
        )


def terms_of(body: Sampling, request: Request, *, adapter: str | None, is_chat_turn: bool) -> Terms:
    """Requests share the engine, and cached prefixes, by API key and salt. Raises `RequestError`
    for fields that do not go together."""
    body.check_pairs()
    from ..infer.request import SchedulingParams

    salt = " ".join(filter(None, (request.scope.get(CLIENT), body.cache_salt)))
    scheduling = SchedulingParams(
        priority=body.priority or 0,
        share_key=f"{key_of(request.headers)!r} {salt}",
        deadline=None if body.timeout_s is None else time.monotonic() + body.timeout_s,
        is_chat_turn=is_chat_turn,
    )
    return Terms(scheduling, salt, adapter)


def adapter_of(service: Service, name: str | None) -> str | None:
    """The adapter that a request's `model` names; None where that is the model itself."""
    return name if name in service.adapters else None
