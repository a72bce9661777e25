"""From engine chunks to OpenAI replies: whole ones, and Server-Sent Events."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from .logprobs import chat_logprobs, completion_logprobs
from .problems import as_request_error, problem_json
from .routed import traced
from .schema import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    PromptTokens,
    StreamOptions,
    Usage,
)
from .service import Generation

if TYPE_CHECKING:
    from ..outputs import Logprob, StreamChunk

DONE = "data: [DONE]\n\n"
KEEP_ALIVE = ": keep-alive\n\n"
# Some clients split lines where Python does, not where the SSE standard does.
_LINE_ENDS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})


@dataclass(kw_only=True)
class Answer:
    """One choice as far as it has come."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Mapping[int, Logprob]] = field(default_factory=list)
    text_offsets: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    num_cached_tokens: int = 0
    routed: dict[str, Any] = field(default_factory=dict)
    """Fields of `Traced`, where they were asked for."""

    def add(self, chunk: StreamChunk) -> None:
        """Append what is new."""
        self.text += chunk.text
        self.token_ids += chunk.token_ids
        self.logprobs += chunk.logprobs or []
        self.text_offsets += chunk.text_offsets or []
        self.finish_reason = chunk.finish_reason
        self.num_cached_tokens, self.routed = chunk.num_cached_tokens, traced(chunk)


@dataclass(kw_only=True)
class Echo:
    """What `echo: true` puts before one choice: the prompt, and its log probabilities if asked."""

    text: str = ""
    logprobs: CompletionLogprobs | None = None


class Shape(Protocol):
    """What differs between the two endpoints."""

    def whole(self, answers: Sequence[Answer], usage: Usage) -> ChatCompletion | Completion: ...
    def opening(self, index: int) -> ChatChunk | Completion | None: ...
    def step(self, index: int, chunk: StreamChunk) -> Sequence[ChatChunk | Completion]: ...
    def usage_only(self, usage: Usage, cached: Sequence[int]) -> ChatChunk | Completion: ...


class ChatShape:
    """`/v1/chat/completions`; `top_logprobs` is None when no log probabilities were asked for."""

    def __init__(self, model: str, top_logprobs: int | None) -> None:
        self._id, self._created, self._model = (
            f"chatcmpl-{uuid.uuid4().hex}",
            int(time.time()),
            model,
        )
        self._top = top_logprobs

    def whole(self, answers: Sequence[Answer], usage: Usage) -> ChatCompletion:
        """The reply in one piece."""
        choices = [
            ChatChoice(
                index=i,
                message=AssistantMessage(content=a.text),
                logprobs=self._logprobs(a.token_ids, a.logprobs),
                finish_reason=a.finish_reason,
                **a.routed,
            )
            for i, a in enumerate(answers)
        ]
        usage = with_cached(usage, [a.num_cached_tokens for a in answers], len(answers))
        return ChatCompletion(
            id=self._id, created=self._created, model=self._model, choices=choices, usage=usage
        )

    def opening(self, index: int) -> ChatChunk:
        """The first event of a choice names its role."""
        return self._chunk([ChatDelta(index=index, delta={"role": "assistant", "content": ""})])

    def step(self, index: int, chunk: StreamChunk) -> list[ChatChunk]:
        """Events for what is new: text, then the reason of the end in an event of its own."""
        events: list[ChatChunk] = []
        logprobs = self._logprobs(chunk.token_ids, chunk.logprobs or [])
        if chunk.text or (logprobs is not None and logprobs.content):
            delta = ChatDelta(index=index, delta={"content": chunk.text}, logprobs=logprobs)
            events.append(self._chunk([delta]))
        if chunk.finish_reason is not None:
            end = ChatDelta(
                index=index, delta={}, finish_reason=chunk.finish_reason, **traced(chunk)
            )
            events.append(self._chunk([end]))
        return events

    def usage_only(self, usage: Usage, cached: Sequence[int]) -> ChatChunk:
        """The last event when usage was asked for; `cached` tokens of each choice."""
        chunk = self._chunk([])
        chunk.usage = with_cached(usage, cached, len(cached))
        return chunk

    def _chunk(self, choices: list[ChatDelta]) -> ChatChunk:
        return ChatChunk(id=self._id, created=self._created, model=self._model, choices=choices)

    def _logprobs(
        self, token_ids: Sequence[int], logprobs: Sequence[Mapping[int, Logprob]]
    ) -> ChatLogprobs | None:
        return None if self._top is None else chat_logprobs(token_ids, logprobs, self._top)


class CompletionShape:
    """`/v1/completions`; `echoes` has one entry for each choice, empty without `echo`; `n` choices
    in a row are of one prompt."""

    def __init__(self, model: str, with_logprobs: bool, echoes: Sequence[Echo], n: int = 1) -> None:
        self._id, self._created, self._model = f"cmpl-{uuid.uuid4().hex}", int(time.time()), model
        self._with_logprobs, self._echoes, self._n = with_logprobs, echoes, n

    def whole(self, answers: Sequence[Answer], usage: Usage) -> Completion:
        """The reply in one piece."""
        choices = []
        for i, (answer, echo) in enumerate(zip(answers, self._echoes, strict=True)):
            logprobs = self._logprobs(i, answer.token_ids, answer.logprobs, answer.text_offsets)
            choices.append(
                CompletionChoice(
                    index=i,
                    text=echo.text + answer.text,
                    logprobs=_joined(echo.logprobs, logprobs),
                    finish_reason=answer.finish_reason,
                    **answer.routed,
                )
            )
        cached = [a.num_cached_tokens for a in answers]
        return self._chunk(choices, with_cached(usage, cached, self._n))

    def opening(self, index: int) -> Completion | None:
        """The prompt, if it is to be echoed."""
        echo = self._echoes[index]
        if not echo.text and echo.logprobs is None:
            return None
        choice = CompletionChoice(index=index, text=echo.text, logprobs=echo.logprobs)
        return self._chunk([choice])

    def step(self, index: int, chunk: StreamChunk) -> list[Completion]:
        """One event for what is new, if anything is."""
        logprobs = self._logprobs(
            index, chunk.token_ids, chunk.logprobs or [], chunk.text_offsets or []
        )
        if not (chunk.text or chunk.finish_reason or (logprobs is not None and logprobs.tokens)):
            return []
        choice = CompletionChoice(
            index=index,
            text=chunk.text,
            logprobs=logprobs,
            finish_reason=chunk.finish_reason,
            **(traced(chunk) if chunk.finish_reason is not None else {}),
        )
        return [self._chunk([choice])]

    def usage_only(self, usage: Usage, cached: Sequence[int]) -> Completion:
        """The last event when usage was asked for; `cached` tokens of each choice."""
        return self._chunk([], with_cached(usage, cached, self._n))

    def _chunk(self, choices: list[CompletionChoice], usage: Usage | None = None) -> Completion:
        return Completion(
            id=self._id, created=self._created, model=self._model, choices=choices, usage=usage
        )

    def _logprobs(
        self,
        index: int,
        token_ids: Sequence[int],
        logprobs: Sequence[Mapping[int, Logprob]],
        offsets: Sequence[int],
    ) -> CompletionLogprobs | None:
        if not self._with_logprobs:
            return None
        start = len(self._echoes[index].text)
        return completion_logprobs(token_ids, logprobs, [start + i for i in offsets])


def _joined(
    first: CompletionLogprobs | None, second: CompletionLogprobs | None
) -> CompletionLogprobs | None:
    if first is None or second is None:
        return second if first is None else first
    return CompletionLogprobs(
        tokens=first.tokens + second.tokens,
        token_logprobs=first.token_logprobs + second.token_logprobs,
        top_logprobs=first.top_logprobs + second.top_logprobs,
        text_offset=first.text_offset + second.text_offset,
    )


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


async def collect(generation: Generation, num_choices: int) -> list[Answer]:
    """Wait for every choice."""
    answers = [Answer() for _ in range(num_choices)]
    async for piece in generation.pieces():
        assert piece is not None
        answers[piece[0]].add(piece[1])
    return answers


async def events(
    generation: Generation,
    shape: Shape,
    *,
    num_choices: int,
    prompt_tokens: int,
    options: StreamOptions | None,
    keep_alive_s: float,
) -> AsyncIterator[str]:
    """SSE text of a whole reply, `[DONE]` included; a failure on the way becomes an error event."""
    options = options or StreamOptions()
    spent, cached = 0, [0] * num_choices
    hidden = None if options.include_usage or options.continuous_usage_stats else {"usage"}

    def line(event: ChatChunk | Completion) -> str:
        if options.continuous_usage_stats:
            event.usage = usage_of(prompt_tokens, spent)
        return sse_data(event.model_dump_json(exclude=hidden))

    try:
        for index in range(num_choices):
            if (opening := shape.opening(index)) is not None:
                yield line(opening)
        async for piece in generation.pieces(keep_alive_s):
            if piece is None:
                yield KEEP_ALIVE
                continue
            index, chunk = piece
            spent += len(chunk.token_ids)
            cached[index] = chunk.num_cached_tokens
            for event in shape.step(index, chunk):
                yield line(event)
        if options.include_usage:
            yield line(shape.usage_only(usage_of(prompt_tokens, spent), cached))
    except Exception as error:
        yield sse_data(problem_json(as_request_error(error)))
    yield DONE


def sse_data(json_text: str) -> str:
    """One SSE event; JSON has no raw line break, so one `data:` line holds it."""
    return f"data: {json_text.translate(_LINE_ENDS)}\n\n"


class EventStream(StreamingResponse):
    """SSE reply that calls `on_close` however it ends, also when it never began."""

    media_type = "text/event-stream"

    def __init__(self, content: AsyncIterator[str], on_close: Callable[[], None]) -> None:
        super().__init__(content, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send; a client that leaves ends it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_close()
