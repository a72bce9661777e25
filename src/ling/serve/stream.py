"""From engine chunks to replies: whole ones, and Server-Sent Events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
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
    async for pieces in generation.pieces():
        for index, chunk in pieces.items():
            answers[index].extend(chunk)
    return answers


async def events(
    generation: Generation,
    shape: Shape[E],
    *,
    num_choices: int,
    prompt_tokens: int,
    keep_alive_s: float,
) -> AsyncIterator[str]:
    """SSE text of a whole reply; a failure on the way becomes an error event.

    What is new at a time is one text, and so one write, which costs as much as making an event. It
    also keeps the log quiet: asyncio warns of the fifth write in a row to a client that has left.
    """
    spent, new = 0, ""

    def text(events: Iterable[E]) -> str:
        return "".join([shape.line(event, usage_of(prompt_tokens, spent)) for event in events])

    try:
        begun = text(event for index in range(num_choices) for event in shape.opening(index))
        if begun:
            yield begun
        async for pieces in generation.pieces(keep_alive_s):
            for index, chunk in pieces.items():
                spent += len(chunk.token_ids)
                new += text(shape.step(index, chunk))
            if generation.num_open and (new or not pieces):
                yield new or shape.keep_alive
                new = ""
        new += text(shape.closing(usage_of(prompt_tokens, spent)))
    except Exception as error:
        new += shape.failure(as_request_error(error))
    yield new + shape.done


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
    # Most text is ASCII, and looking for line ends in it costs as much as making the JSON.
    text = json_text if json_text.isascii() else json_text.translate(_LINE_ENDS)
    return f"{event}data: {text}\n\n"


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
