"""`/v1/messages`, in Anthropic's form."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from .. import prompts
from ..admission import model_for
from ..converse import converse
from ..messages_shape import MessagesShape
from ..problems import MESSAGES_PATH
from ..schema.messages import CountTokensRequest, MessagesRequest
from ..schema.messages_reply import CountedTokens, MessageReply, MessagesProblemReply
from ..service import Service
from ..turn import Turn

Problems = dict[int | str, dict[str, Any]]


def add_messages(
    router: APIRouter, service: Service, keep_alive_s: float, statuses: Sequence[int]
) -> None:
    """`/v1/messages` and `/v1/messages/count_tokens`; errors have one of `statuses`."""
    problems: Problems = {status: {"model": MessagesProblemReply} for status in statuses}

    @router.post(MESSAGES_PATH, response_model=MessageReply, responses=problems)
    async def messages(body: MessagesRequest, request: Request) -> Response:
        """Answer a conversation."""

        def shape_of(turns: Sequence[Turn]) -> MessagesShape:
            return MessagesShape(body.model, turns[0])

        return await converse(service, request, body, shape_of, keep_alive_s)

    @router.post(f"{MESSAGES_PATH}/count_tokens", responses=problems)
    async def count_tokens(body: CountTokensRequest) -> CountedTokens:
        """How many tokens a conversation has as a prompt."""
        llm = model_for(service, body.model)
        work = partial(prompts.encode_chat, llm, body.transcript())
        return CountedTokens(input_tokens=len((await service.call_text(work)).ids))
