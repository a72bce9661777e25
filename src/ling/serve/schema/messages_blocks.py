"""Messages of a `/v1/messages` request: blocks of what was said, called and thought so far."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Discriminator, StrictBool

from ..transcript_builder import TranscriptBuilder
from .items import ByType, OrText, tag
from .plain_json import JsonObject
from .values import Text


class TextBlock(BaseModel):
    """A piece of text."""

    type: Literal["text"]
    text: Text


_TEXTS = ByType("content", ("text",))
Texts = Annotated[
    list[Annotated[TextBlock, BeforeValidator(_TEXTS.check)]],
    OrText(lambda text: [{"type": "text", "text": text}]),
]


def text_of(blocks: list[TextBlock]) -> str:
    """All their text."""
    return "".join(block.text for block in blocks)


class ToolResultBlock(BaseModel):
    """What a tool gave back. `is_error` changes nothing: the text says what went wrong."""

    type: Literal["tool_result"]
    tool_use_id: Text
    content: Texts = []
    is_error: StrictBool | None = None


class ThinkingBlock(BaseModel):
    """What the assistant thought before it answered; its signature is not looked at."""

    type: Literal["thinking"]
    thinking: Text


class RedactedBlock(BaseModel):
    """Reasoning that another server has hidden, and that nobody can read here."""

    type: Literal["redacted_thinking"]


class ToolUseBlock(BaseModel):
    """A call that the assistant made."""

    type: Literal["tool_use"]
    id: Text
    name: Text
    input: JsonObject


_USER = ByType("content", ("text", "tool_result"))
UserBlock = Annotated[
    Annotated[TextBlock, tag("text")] | Annotated[ToolResultBlock, tag("tool_result")],
    Discriminator(_USER.tag),
    BeforeValidator(_USER.check),
]
_ASSISTANT = ByType("content", ("text", "thinking", "redacted_thinking", "tool_use"))
AssistantBlock = Annotated[
    Annotated[TextBlock, tag("text")]
    | Annotated[ThinkingBlock, tag("thinking")]
    | Annotated[RedactedBlock, tag("redacted_thinking")]
    | Annotated[ToolUseBlock, tag("tool_use")],
    Discriminator(_ASSISTANT.tag),
    BeforeValidator(_ASSISTANT.check),
]


class UserMessage(BaseModel):
    """A turn of the user: texts, and what tools gave back."""

    role: Literal["user"]
    content: Annotated[list[UserBlock], OrText(lambda text: [{"type": "text", "text": text}])]

    def add_to(self, transcript: TranscriptBuilder) -> None:
        """Say it; texts that follow one another are one message."""
        texts: list[str] = []
        for block in self.content:
            if isinstance(block, TextBlock):
                texts.append(block.text)
                continue
            if texts:
                transcript.say("user", "".join(texts))
            texts = []
            transcript.result(block.tool_use_id, text_of(block.content))
        if texts or not self.content:
            transcript.say("user", "".join(texts))


class AssistantMessage(BaseModel):
    """A turn of the assistant; an answer of ours may be given back as it was."""

    role: Literal["assistant"]
    content: Annotated[list[AssistantBlock], OrText(lambda text: [{"type": "text", "text": text}])]

    def add_to(self, transcript: TranscriptBuilder) -> None:
        """Say it, block by block; one without any that can be read is a turn all the same."""
        transcript.begin_answer()
        for block in self.content:
            match block:
                case TextBlock():
                    transcript.answer(block.text)
                case ThinkingBlock():
                    transcript.think(block.thinking)
                case ToolUseBlock():
                    arguments = json.dumps(block.input, ensure_ascii=False)
                    transcript.call(block.id, block.name, arguments)


class SystemMessage(BaseModel):
    """An instruction on the way."""

    role: Literal["system"]
    content: Texts

    def add_to(self, transcript: TranscriptBuilder) -> None:
        """Say it."""
        transcript.say("system", text_of(self.content))


_MESSAGES = ByType("messages", ("user", "assistant", "system"), key="role")
Message = Annotated[
    Annotated[UserMessage, tag("user")]
    | Annotated[AssistantMessage, tag("assistant")]
    | Annotated[SystemMessage, tag("system")],
    Discriminator(_MESSAGES.tag),
    BeforeValidator(_MESSAGES.check),
]
