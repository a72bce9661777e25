"""From an admitted request to its reply, as long as its client is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel

from ..errors import RequestError
from .guard import TOKENS
from .service import Generation
from .stream import EventStream, Shape, collect, events, usage_of

if TYPE_CHECKING:
    from ..outputs import StreamChunk

T = TypeVar("T")
# How long a stream waits for its first token before it commits itself to status 200.
SETTLE_S = 1.0


class Prepared(NamedTuple):
    """A request whose choices are queued, or answered already."""

    shape: Shape[Any]
    prompt_tokens: int
    answers: Sequence[StreamChunk] | None = None
    headers: dict[str, str] | None = None


async def reply(
    request: Request,
    generation: Generation,
    preparing: Coroutine[Any, Any, Prepared],
    *,
    stream: bool,
    keep_alive_s: float,
) -> Response:
    """Prepare, then answer whole or as a stream. A client that leaves stops the work wherever it
    is, and frees what the engine had for it."""
    deadline = generation.terms.scheduling.deadline
    try:
        prepared = await while_connected(request, preparing, deadline)
        prompt_tokens, answers = prepared.prompt_tokens, prepared.answers
        request.scope[TOKENS] = lambda: (prompt_tokens, generation.num_tokens)
        if answers is None and stream:
            await while_connected(request, generation.settle(SETTLE_S), deadline)
            return _stream(generation, prepared, keep_alive_s)
        if answers is None:
            whole = collect(generation, generation.num_choices)
            answers = await while_connected(request, whole, deadline)
        generation.close()
        spent = sum(len(a.token_ids) for a in answers)
        request.scope[TOKENS] = lambda: (prompt_tokens, spent)
        made = prepared.shape.whole(answers, usage_of(prompt_tokens, spent))
        return _json(made, prepared.headers)
    except BaseException:
        generation.close()
        raise


def _stream(generation: Generation, prepared: Prepared, keep_alive_s: float) -> Response:
    text = events(
        generation,
        prepared.shape,
        num_choices=generation.num_choices,
        prompt_tokens=prepared.prompt_tokens,
        keep_alive_s=keep_alive_s,
    )
    return EventStream(text, generation.close, prepared.headers)


async def while_connected(
    request: Request, work: Coroutine[Any, Any, T], deadline: float | None = None
) -> T:
    """The result of `work`, which is cancelled when the client leaves, or at a deadline
    (`time.monotonic()`). Raises `RequestError` for both."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_until_gone(request))
    limit_s = None if deadline is None else max(deadline - time.monotonic(), 0.0)
    try:
        first = asyncio.FIRST_COMPLETED
        await asyncio.wait({task, gone}, timeout=limit_s, return_when=first)
        if task.done():
            return task.result()
        if gone.done():
            raise RequestError("the client has left", status=499)
        raise RequestError.timed_out()
    finally:
        task.cancel()
        gone.cancel()


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _json(reply: BaseModel, headers: dict[str, str] | None) -> Response:
    return Response(reply.model_dump_json(), headers=headers, media_type="application/json")
