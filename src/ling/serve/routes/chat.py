"""`/v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ..chat_shape import ChatShape
from ..converse import converse
from ..published import EVENTS
from ..schema.chat import ChatRequest
from ..schema.replies import ChatCompletion
from ..service import Service
from ..timings import when
from ..turn import Turn


def add_chat(router: APIRouter, service: Service, keep_alive_s: float) -> None:
    """`/v1/chat/completions`."""

    @router.post("/v1/chat/completions", response_model=ChatCompletion, responses=EVENTS)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""

        def shape_of(turns: Sequence[Turn]) -> ChatShape:
            return ChatShape(
                body.model,
                turns,
                body.num_top_logprobs,
                body.stream_options,
                token_ids=bool(body.return_token_ids),
                timings=when(body),
            )

        return await converse(service, request, body, shape_of, keep_alive_s)
