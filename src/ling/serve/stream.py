"""From engine chunks to replies: whole ones, and Server-Sent Events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from ..errors import RequestError
from .problems import as_request_error, problem_json
from .schema.common import PromptTokens, StreamOptions, Usage
from .schema.replies import ChatChunk, Completion
from .service import Generation

if TYPE_CHECKING:
    from ..outputs import StreamChunk

DONE = "data: [DONE]\n\n"
KEEP_ALIVE = ": keep-alive\n\n"
# Some clients split lines where Python does, not where the SSE standard does.
_LINE_ENDS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})

E = TypeVar("E")


class Shape(Protocol[E]):
    """The replies of one endpoint to one request; it keeps what it must know of each choice.

    A stream is the `opening` of every choice, `step` for what is new of one, `closing` when all
    have ended, and `done`; `line` is the text of an event, `spent` the usage up to it. `keep_alive`
    fills silence.
    """

    done: str
    keep_alive: str

    def whole(self, answers: Sequence[StreamChunk], usage: Usage) -> BaseModel: ...
    def opening(self, index: int) -> Sequence[E]: ...
    def step(self, index: int, chunk: StreamChunk) -> Sequence[E]: ...
    def closing(self, usage: Usage) -> Sequence[E]: ...
    def line(self, event: E, spent: Usage) -> str: ...
    def failure(self, error: RequestError) -> str: ...


def usage_of(prompt_tokens: int, completion_tokens: int) -> Usage:
    """Usage with its sum."""
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    )


def with_cached(usage: Usage, cached: Sequence[int], n: int) -> Usage:
    """Usage that says how many prompt tokens no choice computed, from the `cached` tokens of each
    choice; `n` choices in a row are of one prompt."""
    least = (min(cached[i : i + n]) for i in range(0, len(cached), n))
    details = PromptTokens(cached_tokens=sum(least))
    return usage.model_copy(update={"prompt_tokens_details": details})


async def collect(generation: Generation, num_choices: int) -> list[StreamChunk]:
    """Wait for every choice; all of each is one chunk."""
    from ..outputs import StreamChunk

    answers = [StreamChunk("") for _ in range(num_choices)]
    async for piece in generation.pieces():
        assert piece is not None
        answers[piece[0]].extend(piece[1])
    return answers


async def events(
    generation: Generation,
    shape: Shape[E],
    *,
    num_choices: int,
    prompt_tokens: int,
    keep_alive_s: float,
) -> AsyncIterator[str]:
    """SSE text of a whole reply; a failure on the way becomes an error event."""
    spent = 0

    def usage() -> Usage:
        return usage_of(prompt_tokens, spent)

    try:
        for index in range(num_choices):
            for event in shape.opening(index):
                yield shape.line(event, usage())
        async for piece in generation.pieces(keep_alive_s):
            if piece is None:
                yield shape.keep_alive
                continue
            index, chunk = piece
            spent += len(chunk.token_ids)
            for event in shape.step(index, chunk):
                yield shape.line(event, usage())
        for event in shape.closing(usage()):
            yield shape.line(event, usage())
    except Exception as error:
        yield shape.failure(as_request_error(error))
    if shape.done:
        yield shape.done


def openai_line(event: ChatChunk | Completion, spent: Usage, options: StreamOptions) -> str:
    """An event's text, with the usage up to it where that was asked for."""
    if options.continuous_usage_stats and event.usage is None:
        event.usage = spent
    shows = options.include_usage or options.continuous_usage_stats
    return sse_data(event.model_dump_json(exclude=None if shows else {"usage"}))


def openai_failure(error: RequestError) -> str:
    """An error event as OpenAI's clients read it."""
    return sse_data(problem_json(error))


def sse_data(json_text: str, name: str | None = None) -> str:
    """One SSE event; JSON has no raw line break, so one `data:` line holds it."""
    event = "" if name is None else f"event: {name}\n"
    return f"{event}data: {json_text.translate(_LINE_ENDS)}\n\n"


class EventStream(StreamingResponse):
    """SSE reply that calls `on_close` however it ends, also when it never began."""

    media_type = "text/event-stream"

    def __init__(
        self,
        content: AsyncIterator[str],
        on_close: Callable[[], None],
        headers: dict[str, str] | None = None,
    ) -> None:
        always = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(content, headers={**always, **(headers or {})})
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send; a client that leaves ends it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_close()
