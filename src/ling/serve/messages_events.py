"""The events of `/v1/messages`, in Anthropic's order; the whole reply is what they add up to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json

from ..data.assistant import (
    AssistantEvent,
    ContentDelta,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from .schema.messages_reply import (
    Block,
    MessageReply,
    MessagesUsage,
    StopReason,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
)
from .turn import new_id

Event = dict[str, Any]


class MessageEvents:
    """Turns what the model says into events, and keeps `message` as they have told it.

    One block is open at a time: text or thinking until something else comes, a call until its end.
    """

    def __init__(self, message: MessageReply) -> None:
        self.message = message
        self._open: Block | None = None
        self._arguments = ""
        self._are_whole: list[bool] = []  # the calls that have ended

    def begin(self) -> Event:
        """What comes first."""
        return {"type": "message_start", "message": self.message.model_copy(deep=True)}

    def add(self, event: AssistantEvent) -> Iterator[Event]:
        """Events for one thing that the model said."""
        match event:
            case ReasoningDelta(text):
                if not isinstance(self._open, ThinkingBlock):
                    yield from self._start(ThinkingBlock())
                yield self._say(text)
            case ContentDelta(text):
                if not isinstance(self._open, TextBlock):
                    yield from self._start(TextBlock())
                yield self._say(text)
            case ToolCallStart(_, name):
                yield from self._start(ToolUseBlock(id=new_id("toolu_"), name=name))
            case ToolCallArguments(_, text):
                yield self._say(text)
            case ToolCallEnd(_, is_whole):
                self._are_whole.append(is_whole)
                yield from self._end()

    def finish(
        self, *, is_cut: bool, stop_sequence: str | None, usage: MessagesUsage
    ) -> Iterator[Event]:
        """What comes last; `is_cut` when the limit of tokens ended the answer, `stop_sequence` the
        text that did."""
        if all(isinstance(block, ThinkingBlock) for block in self.message.content):
            # Clients look for an answer, be it empty.
            yield from self._start(TextBlock())
        yield from self._end()
        message = self.message
        message.stop_reason = self._stop_reason(is_cut, stop_sequence)
        if message.stop_reason == "stop_sequence":
            message.stop_sequence = stop_sequence
        message.usage = usage
        delta = {"stop_reason": message.stop_reason, "stop_sequence": message.stop_sequence}
        yield {"type": "message_delta", "delta": delta, "usage": usage}
        yield {"type": "message_stop"}

    def _stop_reason(self, is_cut: bool, stop_sequence: str | None) -> StopReason:
        if is_cut:
            return "max_tokens"
        # As in chats: a client that runs the calls would run a cut one with half its input.
        if self._are_whole and all(self._are_whole):
            return "tool_use"
        return "end_turn" if stop_sequence is None else "stop_sequence"

    def _start(self, block: Block) -> Iterator[Event]:
        yield from self._end()
        self._open, self._arguments = block, ""
        self.message.content.append(block)
        yield self._at("content_block_start", content_block=block.model_copy())

    def _say(self, text: str) -> Event:
        match self._open:
            case TextBlock() as block:
                block.text += text
                delta = {"type": "text_delta", "text": text}
            case ThinkingBlock() as block:
                block.thinking += text
                delta = {"type": "thinking_delta", "thinking": text}
            case _:
                self._arguments += text
                delta = {"type": "input_json_delta", "partial_json": text}
        return self._at("content_block_delta", delta=delta)

    def _end(self) -> Iterator[Event]:
        if self._open is None:
            return
        if isinstance(self._open, ToolUseBlock):
            self._open.input = _input(self._arguments)
        yield self._at("content_block_stop")
        self._open = None

    def _at(self, kind: str, **fields: Any) -> Event:
        return {"type": kind, "index": len(self.message.content) - 1, **fields}


def _input(arguments: str) -> dict[str, Any]:
    """The arguments as far as they can be read, as Anthropic's own clients read them."""
    try:
        value = from_json(arguments, allow_partial=True)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
