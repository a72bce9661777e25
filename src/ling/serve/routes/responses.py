"""`/v1/responses`."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ..converse import converse
from ..responses_shape import ResponsesShape
from ..schema.responses import ResponsesRequest
from ..schema.responses_reply import ResponseReply
from ..service import Service
from ..turn import Turn


def add_responses(router: APIRouter, service: Service, keep_alive_s: float) -> None:
    """`/v1/responses`."""

    @router.post("/v1/responses", response_model=ResponseReply)
    async def responses(body: ResponsesRequest, request: Request) -> Response:
        """Answer a conversation; nothing of it is stored."""
        defaults = service.require().sampling_defaults

        def shape_of(turns: Sequence[Turn]) -> ResponsesShape:
            return ResponsesShape(body.model, body, turns[0], defaults)

        return await converse(service, request, body, shape_of, keep_alive_s)
