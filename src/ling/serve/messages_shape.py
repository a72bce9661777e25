"""Replies of `/v1/messages`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic_core import to_json

from ..errors import RequestError
from .messages_events import Event, MessageEvents
from .problems import messages_problem_json
from .schema.common import Usage
from .schema.messages_reply import MessageReply, MessagesUsage, ThinkingTokens
from .stream import sse_data
from .turn import Turn, new_id

if TYPE_CHECKING:
    from ..outputs import StreamChunk


class MessagesShape:
    """The reply to a request that has one choice, `turn`; see `stream.Shape`."""

    done = ""
    keep_alive = sse_data('{"type":"ping"}', "ping")

    def __init__(self, model: str, turn: Turn) -> None:
        self._turn = turn
        usage = MessagesUsage(input_tokens=0, output_tokens=0)
        self._events = MessageEvents(MessageReply(id=new_id("msg_"), model=model, usage=usage))
        self._has_begun = False
        self._stop_sequence: str | None = None

    def whole(self, answers: Sequence[StreamChunk], usage: Usage) -> MessageReply:
        """What the events of a stream add up to."""
        self.step(0, answers[0])
        self.closing(usage)
        return self._events.message

    def opening(self, index: int) -> list[Event]:
        """Nothing: how much of the prompt was cached is known only with the first token."""
        return []

    def step(self, index: int, chunk: StreamChunk) -> list[Event]:
        """Events for what is new."""
        if isinstance(chunk.stop_reason, str):
            self._stop_sequence = chunk.stop_reason
        said = self._turn.add(chunk)
        begun = [] if self._has_begun else [self._events.begin()]
        self._has_begun = True
        return begun + [event for piece in said for event in self._events.add(piece)]

    def closing(self, usage: Usage) -> list[Event]:
        """The end of the last block, why the answer ended, and the tokens."""
        events = self._events.finish(
            is_cut=self._turn.finish_reason == "length",
            stop_sequence=self._stop_sequence,
            usage=_usage(usage, self._turn),
        )
        return list(events)

    def line(self, event: Event, spent: Usage) -> str:
        """Text of an event; the first one has the usage so far."""
        if event["type"] == "message_start":
            event["message"].usage = _usage(spent, self._turn)
        return sse_data(to_json(event, inf_nan_mode="null").decode(), event["type"])

    def failure(self, error: RequestError) -> str:
        """An error event, which ends the stream."""
        return sse_data(messages_problem_json(error), "error")


def _usage(usage: Usage, turn: Turn) -> MessagesUsage:
    cached = turn.num_cached_tokens
    return MessagesUsage(
        input_tokens=usage.prompt_tokens - cached,
        cache_read_input_tokens=cached,
        output_tokens=usage.completion_tokens,
        output_tokens_details=ThinkingTokens(thinking_tokens=turn.num_reasoning_tokens),
    )
