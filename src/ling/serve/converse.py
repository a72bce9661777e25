"""From a conversation to its reply, whichever API asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import Request
from fastapi.responses import Response

from . import prompts
from .admission import check_model, terms_of
from .conversation import Conversation
from .reply import Prepared, reply
from .service import Generation, Job, Service
from .stream import Shape
from .turn import Turn

if TYPE_CHECKING:
    from ..llm import LLM

ShapeOf = Callable[[Sequence[Turn]], Shape[Any]]


async def converse(
    service: Service,
    request: Request,
    conversation: Conversation,
    shape_of: ShapeOf,
    keep_alive_s: float,
) -> Response:
    """Admit, queue and answer; `shape_of` makes the replies' shape of the turns that its `n`
    choices will be."""
    llm = service.require()
    sampling = conversation.sampling
    check_model(service, sampling.model)
    terms = terms_of(sampling, request, is_chat_turn=True)
    generation = service.admit(sampling.n or 1, terms)
    work = _prepare(service, llm, conversation, generation, shape_of)
    stream = bool(sampling.stream)
    return await reply(request, generation, work, stream=stream, keep_alive_s=keep_alive_s)


async def _prepare(
    service: Service,
    llm: LLM,
    conversation: Conversation,
    generation: Generation,
    shape_of: ShapeOf,
) -> Prepared:
    prompt_tokens = await service.call(partial(_queue, llm, conversation, generation))
    turns = [Turn(None, conversation.tool_choice) for _ in range(generation.num_choices)]
    return Prepared(shape_of(turns), prompt_tokens)


def _queue(llm: LLM, conversation: Conversation, generation: Generation) -> int:
    """Queue the choices; returns the number of tokens of their prompt."""
    ids = prompts.encode_chat(llm, conversation).ids
    generation.start(llm, [Job(ids, p) for p in prompts.chat_params(llm, conversation, ids)])
    return len(ids)
