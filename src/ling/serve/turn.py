"""One choice of a conversation: what came of it as events, and how it ended."""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..data.assistant import (
    AssistantEvent,
    ContentDelta,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from .conversation import ToolChoice, ToolName

if TYPE_CHECKING:
    from ..outputs import StreamChunk

_ID_CHARACTERS = string.ascii_letters + string.digits


class Parser(Protocol):
    """Finds reasoning and tool calls in an answer's text."""

    def push(self, text: str) -> list[AssistantEvent]: ...
    def finish(self) -> list[AssistantEvent]: ...


@dataclass
class Call:
    """A tool call as far as it has come."""

    id: str
    name: str
    arguments: str = ""
    is_whole: bool = False


class Turn:
    """One choice as far as it has come; `parser` None leaves all text as it is.

    Every API makes its events from those that `add` returns, and its whole replies from `content`,
    `reasoning` and `calls`.
    """

    def __init__(self, parser: Parser | None, tool_choice: ToolChoice = "auto") -> None:
        self._parser, self._tool_choice = parser, tool_choice
        self.content = self.reasoning = ""
        self.calls: list[Call] = []
        self.finish_reason: str | None = None
        """OpenAI's: "stop", "length" or "tool_calls"; None while more comes."""
        self.num_cached_tokens = self.num_reasoning_tokens = 0

    def add(self, chunk: StreamChunk) -> list[AssistantEvent]:
        """Take what is new; returns what may be shown of it, all that is left at the end."""
        self.num_cached_tokens = chunk.num_cached_tokens
        events = self._parse(chunk.text, ended=chunk.finish_reason is not None)
        for event in events:
            self._keep(event)
        if chunk.finish_reason is not None:
            self.finish_reason = self._told(chunk.finish_reason)
        return events

    def _parse(self, text: str, *, ended: bool) -> list[AssistantEvent]:
        if self._parser is None:
            return [ContentDelta(text)] if text else []
        return self._parser.push(text) + (self._parser.finish() if ended else [])

    def _keep(self, event: AssistantEvent) -> None:
        match event:
            case ContentDelta(text):
                self.content += text
            case ReasoningDelta(text):
                self.reasoning += text
            case ToolCallStart(_, name):
                self.calls.append(Call(new_id("call_"), name))
            case ToolCallArguments(index, text):
                self.calls[index].arguments += text
            case ToolCallEnd(index, is_whole):
                self.calls[index].is_whole = is_whole

    def _told(self, reason: str) -> str:
        """OpenAI's reason: calls count only when they are whole, and not as the one demanded."""
        whole = bool(self.calls) and all(call.is_whole for call in self.calls)
        if reason == "stop" and whole and not isinstance(self._tool_choice, ToolName):
            return "tool_calls"
        return reason


def new_id(prefix: str) -> str:
    """A new id with 24 characters of chance."""
    return prefix + "".join(secrets.choice(_ID_CHARACTERS) for _ in range(24))
