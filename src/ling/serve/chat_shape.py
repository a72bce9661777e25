"""Replies of `/v1/chat/completions`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .logprobs import chat_logprobs
from .routed import traced
from .schema.common import StreamOptions, Usage
from .schema.replies import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
)
from .stream import DONE, openai_failure, openai_line, with_cached
from .turn import Turn

if TYPE_CHECKING:
    from ..outputs import Logprob, StreamChunk


class ChatShape:
    """One reply to choices that are `turns`; `top_logprobs` is None when no log probabilities were
    asked for."""

    done = DONE

    def __init__(
        self,
        model: str,
        turns: Sequence[Turn],
        top_logprobs: int | None,
        options: StreamOptions | None = None,
    ) -> None:
        self._id, self._created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
        self._model, self._turns, self._top = model, turns, top_logprobs
        self._options = options or StreamOptions()

    def whole(self, answers: Sequence[StreamChunk], usage: Usage) -> ChatCompletion:
        """The reply in one piece."""
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[self._choice(i, answer) for i, answer in enumerate(answers)],
            usage=self._detailed(usage),
        )

    def _choice(self, index: int, answer: StreamChunk) -> ChatChoice:
        turn = self._turns[index]
        turn.add(answer)
        return ChatChoice(
            index=index,
            message=AssistantMessage(content=turn.content),
            logprobs=self._logprobs(answer.token_ids, answer.logprobs or []),
            finish_reason=turn.finish_reason,
            **traced(answer),
        )

    def opening(self, index: int) -> list[ChatChunk]:
        """The first event of a choice names its role."""
        return [self._chunk([ChatDelta(index=index, delta={"role": "assistant", "content": ""})])]

    def step(self, index: int, chunk: StreamChunk) -> list[ChatChunk]:
        """Events for what is new: text, then the reason of the end in an event of its own."""
        turn = self._turns[index]
        before = len(turn.content)
        turn.add(chunk)
        events: list[ChatChunk] = []
        logprobs = self._logprobs(chunk.token_ids, chunk.logprobs or [])
        text = turn.content[before:]
        if text or (logprobs is not None and logprobs.content):
            delta = ChatDelta(index=index, delta={"content": text}, logprobs=logprobs)
            events.append(self._chunk([delta]))
        if chunk.finish_reason is not None:
            end = ChatDelta(index=index, delta={}, finish_reason=turn.finish_reason)
            events.append(self._chunk([end]))
        if experts := traced(chunk):
            events = events or [self._chunk([ChatDelta(index=index, delta={})])]
            events[-1].choices[0].take(experts)
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

    def _detailed(self, usage: Usage) -> Usage:
        cached = [turn.num_cached_tokens for turn in self._turns]
        return with_cached(usage, cached, len(cached))

    def _logprobs(
        self, token_ids: Sequence[int], logprobs: Sequence[Mapping[int, Logprob]]
    ) -> ChatLogprobs | None:
        return None if self._top is None else chat_logprobs(token_ids, logprobs, self._top)
