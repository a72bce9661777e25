"""What `POST /v1/messages` answers: a message of content blocks, and errors in its shape."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class TextBlock(BaseModel):
    """Text of an answer."""

    type: Literal["text"] = "text"
    text: str = ""
    citations: None = None


class ThinkingBlock(BaseModel):
    """What the model thought; nothing is signed here."""

    type: Literal["thinking"] = "thinking"
    thinking: str = ""
    signature: str = ""


class ToolUseBlock(BaseModel):
    """A call of a tool; of one that was cut short, `input` is what could be read."""

    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: dict[str, Any] = {}


Block = TextBlock | ThinkingBlock | ToolUseBlock


class ThinkingTokens(BaseModel):
    """Of the answer's tokens: those of its thinking."""

    thinking_tokens: int = 0


class MessagesUsage(BaseModel):
    """Tokens that a request read and wrote; those of the cache are not in `input_tokens`."""

    input_tokens: int
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    """Always 0: only tokens that are charged for count here."""
    output_tokens: int
    output_tokens_details: ThinkingTokens = ThinkingTokens()


class MessageReply(BaseModel):
    """Reply to `POST /v1/messages`."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[Block] = []
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    usage: MessagesUsage


class CountedTokens(BaseModel):
    """Reply to `POST /v1/messages/count_tokens`."""

    input_tokens: int


class MessagesProblem(BaseModel):
    """Anthropic's error object; `param` is ours."""

    type: str
    message: str
    param: str | None


class MessagesProblemReply(BaseModel):
    """Body of every error reply of these endpoints."""

    type: Literal["error"]
    error: MessagesProblem
    request_id: str
