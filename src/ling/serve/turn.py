"""One choice of a conversation: what came of it as events, and how it ended."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..data.assistant import (
    AssistantEvent,
    AssistantParser,
    ContentDelta,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from ..data.reasoning import CLOSE
from .conversation import ToolChoice, ToolName

if TYPE_CHECKING:
    from ..infer.request import Request
    from ..outputs import StreamChunk

_CLOSE = CLOSE.encode()
_ID_CHARACTERS = string.ascii_letters + string.digits


@dataclass
class Call:
    """A tool call as far as it has come."""

    id: str
    name: str
    arguments: str = ""
    is_whole: bool = False


class ReasoningCount:
    """Tokens of the reasoning: those up to the end of its closing tag."""

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._end = b""
        self._is_over = False
        self.num_tokens = 0

    def add(self, token_ids: Sequence[int]) -> None:
        """Take new tokens of the answer; those after the closing tag are not counted."""
        for token in token_ids:
            if self._is_over:
                return
            self.num_tokens += 1
            self._end = self._end[-len(_CLOSE) :] + self._token_bytes(token)
            self._is_over = _CLOSE in self._end


class Turn:
    """One choice as far as it has come; `request` is the engine's, for its times.

    Every API makes its events from those that `add` returns, and its whole replies from `content`,
    `reasoning` and `calls`. Not `include_reasoning`, there are none of it.
    """

    def __init__(
        self,
        parser: AssistantParser,
        tool_choice: ToolChoice = "auto",
        token_bytes: Callable[[int], bytes] = lambda _: b"",
        *,
        include_reasoning: bool = True,
        prompt_token_ids: Sequence[int] = (),
        request: Request | None = None,
    ) -> None:
        self._parser, self._tool_choice, self.request = parser, tool_choice, request
        self._include_reasoning, self.prompt_token_ids = include_reasoning, prompt_token_ids
        self._count, self._has_reasoned = ReasoningCount(token_bytes), False
        self.content = self.reasoning = ""
        self.calls: list[Call] = []
        self.finish_reason: str | None = None
        """OpenAI's: "stop", "length" or "tool_calls"; None while more comes."""
        self.num_cached_tokens = 0

    @property
    def num_reasoning_tokens(self) -> int:
        """Tokens of the reasoning, its tags included; 0 where there is none."""
        return self._count.num_tokens if self._has_reasoned else 0

    def add(self, chunk: StreamChunk) -> list[AssistantEvent]:
        """Take what is new; returns what may be shown of it, all that is left at the end."""
        self.num_cached_tokens = chunk.num_cached_tokens
        self._count.add(chunk.token_ids)
        events = self._parser.push(chunk.text)
        if chunk.finish_reason is not None:
            events = events + self._parser.finish()
        shown = [event for event in events if self._keep(event)]
        if chunk.finish_reason is not None:
            self.finish_reason = self._told(chunk.finish_reason)
        return shown

    def _keep(self, event: AssistantEvent) -> bool:
        """Take an event; whether it may be shown."""
        match event:
            case ContentDelta(text):
                self.content += text
            case ReasoningDelta(text):
                self._has_reasoned = True
                if not self._include_reasoning:
                    return False
                self.reasoning += text
            case ToolCallStart(_, name):
                self.calls.append(Call(new_id("call_"), name))
            case ToolCallArguments(index, text):
                self.calls[index].arguments += text
            case ToolCallEnd(index, is_whole):
                self.calls[index].is_whole = is_whole
        return True

    def _told(self, reason: str) -> str:
        """OpenAI's reason: calls count only when they are whole, and not as the one demanded."""
        whole = bool(self.calls) and all(call.is_whole for call in self.calls)
        if reason == "stop" and whole and not isinstance(self._tool_choice, ToolName):
            return "tool_calls"
        return reason


def new_id(prefix: str) -> str:
    """A new id with 24 characters of chance."""
    return prefix + "".join(secrets.choice(_ID_CHARACTERS) for _ in range(24))
