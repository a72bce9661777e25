"""Replies of `/v1/chat/completions`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..data.assistant import (
    AssistantEvent,
    ContentDelta,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallStart,
)
from .logprobs import chat_logprobs
from .routed import traced
from .schema.common import CompletionTokens, StreamOptions, Timings, Usage
from .schema.replies import (
    AssistantMessage,
    CallDelta,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    Delta,
    FunctionCall,
    FunctionDelta,
    ToolCall,
)
from .stream import DONE, KEEP_ALIVE, openai_failure, openai_line, with_cached
from .timings import When, timings_of
from .turn import Turn

if TYPE_CHECKING:
    from ..outputs import StreamChunk


class ChatShape:
    """One reply to choices that are `turns`; `top_logprobs` is None when no log probabilities were
    asked for; `token_ids` and `timings` put ids and times into the reply."""

    done, keep_alive = DONE, KEEP_ALIVE

    def __init__(
        self,
        model: str,
        turns: Sequence[Turn],
        top_logprobs: int | None,
        options: StreamOptions | None = None,
        *,
        token_ids: bool = False,
        timings: When = "never",
    ) -> None:
        self._id, self._created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
        self._model, self._turns, self._top = model, turns, top_logprobs
        self._options, self._token_ids = options or StreamOptions(), token_ids
        self._when = timings

    def whole(self, answers: Sequence[StreamChunk], usage: Usage) -> ChatCompletion:
        """The reply in one piece."""
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[self._choice(i, answer) for i, answer in enumerate(answers)],
            usage=self._detailed(usage),
            prompt_token_ids=self._prompt_ids(),
            timings=None if self._when == "never" else self._timings(self._turns),
        )

    def _choice(self, index: int, answer: StreamChunk) -> ChatChoice:
        turn = self._turns[index]
        turn.add(answer)
        return ChatChoice(
            index=index,
            message=message_of(turn),
            logprobs=self._logprobs(answer),
            finish_reason=turn.finish_reason,
            token_ids=answer.token_ids if self._token_ids else None,
            **traced(answer),
        )

    def opening(self, index: int) -> list[ChatChunk]:
        """The first event of a choice names its role."""
        event = self._event(index, Delta(role="assistant", content=""))
        event.prompt_token_ids = self._prompt_ids() if index == 0 else None
        return [event]

    def step(self, index: int, chunk: StreamChunk) -> list[ChatChunk]:
        """Events for what is new, and the reason of the end in an event of its own."""
        turn = self._turns[index]
        deltas = deltas_of(turn.add(chunk), turn)
        logprobs = self._logprobs(chunk)
        scored = logprobs is not None and bool(logprobs.content)
        if not deltas and (scored or (self._token_ids and chunk.token_ids)):
            deltas = [Delta(content="")]  # tokens without text of their own
        events = [self._event(index, delta) for delta in deltas]
        if events:
            first = events[0].choices[0]
            first.logprobs = logprobs
            first.token_ids = chunk.token_ids if self._token_ids else None
        if chunk.finish_reason is not None:
            end = ChatDelta(index=index, delta=Delta(), finish_reason=turn.finish_reason)
            events.append(self._chunk([end]))
        if experts := traced(chunk):
            events = events or [self._event(index, Delta())]
            events[-1].choices[0].take(experts)
        if events and (self._when == "always" or (self._when == "end" and chunk.finish_reason)):
            events[-1].timings = self._timings([turn])
        return events

    def closing(self, usage: Usage) -> list[ChatChunk]:
        """The usage, where it was asked for."""
        if not self._options.include_usage:
            return []
        chunk = self._chunk([])
        chunk.usage = self._detailed(usage)
        return [chunk]

    def line(self, event: ChatChunk, spent: Usage) -> str:
        """Text of an event, with the usage up to it where that was asked for."""
        return openai_line(event, spent, self._options)

    failure = staticmethod(openai_failure)

    def _chunk(self, choices: list[ChatDelta]) -> ChatChunk:
        return ChatChunk(id=self._id, created=self._created, model=self._model, choices=choices)

    def _timings(self, turns: Sequence[Turn]) -> Timings:
        return timings_of([turn.request for turn in turns if turn.request is not None])

    def _prompt_ids(self) -> list[int] | None:
        return list(self._turns[0].prompt_token_ids) if self._token_ids else None

    def _event(self, index: int, delta: Delta) -> ChatChunk:
        return self._chunk([ChatDelta(index=index, delta=delta)])

    def _detailed(self, usage: Usage) -> Usage:
        cached = [turn.num_cached_tokens for turn in self._turns]
        reasoning = CompletionTokens(
            reasoning_tokens=sum(turn.num_reasoning_tokens for turn in self._turns)
        )
        usage = with_cached(usage, cached, len(cached))
        return usage.model_copy(update={"completion_tokens_details": reasoning})

    def _logprobs(self, chunk: StreamChunk) -> ChatLogprobs | None:
        if self._top is None:
            return None
        return chat_logprobs(chunk.token_ids, chunk.logprobs or [], self._top)


def message_of(turn: Turn) -> AssistantMessage:
    """The whole message of a turn that has ended."""
    calls = [
        ToolCall(id=c.id, function=FunctionCall(name=c.name, arguments=c.arguments))
        for c in turn.calls
    ]
    # An answer of no text at all is the empty text, unless something else came instead.
    others = calls or turn.reasoning
    return AssistantMessage(
        content=turn.content or (None if others else ""),
        reasoning_content=turn.reasoning or None,
        tool_calls=calls or None,
    )


def deltas_of(events: Sequence[AssistantEvent], turn: Turn) -> list[Delta]:
    """What a stream says of events that `turn` has taken."""
    deltas = []
    for event in events:
        match event:
            case ContentDelta(text):
                deltas.append(Delta(content=text))
            case ReasoningDelta(text):
                deltas.append(Delta(reasoning_content=text))
            case ToolCallStart(index, name):
                function = FunctionDelta(name=name, arguments="")
                call_id = turn.calls[index].id
                call = CallDelta(index=index, id=call_id, type="function", function=function)
                deltas.append(Delta(tool_calls=[call]))
            case ToolCallArguments(index, text):
                function = FunctionDelta(arguments=text)
                deltas.append(Delta(tool_calls=[CallDelta(index=index, function=function)]))
    return deltas
