"""Items of a `/v1/responses` request's `input`: what was said, called and thought so far."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Discriminator

from .items import ByType, OrText, tag, tag_of
from .values import Text


class TextPart(BaseModel):
    """Text in a message, or in what a function gave back."""

    type: Literal["input_text", "output_text", "text"]
    text: Text


class RefusalPart(BaseModel):
    """What an assistant said instead of an answer."""

    type: Literal["refusal"]
    refusal: Text

    @property
    def text(self) -> str:
        """The same name as that of other parts."""
        return self.refusal


_PARTS = ByType("content", ("input_text", "output_text", "text", "refusal"))
Part = Annotated[
    Annotated[TextPart, tag("text")] | Annotated[RefusalPart, tag("refusal")],
    Discriminator(lambda v: tag_of("refusal" if v["type"] == "refusal" else "text")),
    BeforeValidator(_PARTS.check),
]
Parts = Annotated[list[Part], OrText(lambda text: [{"type": "input_text", "text": text}])]


class MessageItem(BaseModel):
    """One turn of somebody; an answer of ours may be given back as it was."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Parts


class CallItem(BaseModel):
    """A call that the assistant made."""

    type: Literal["function_call"]
    call_id: Text
    name: Text
    arguments: Text


class CallOutputItem(BaseModel):
    """What a called function gave back."""

    type: Literal["function_call_output"]
    call_id: Text
    output: Parts


class SummaryPart(BaseModel):
    """A piece of a reasoning's summary, or of its text."""

    type: Literal["summary_text", "reasoning_text", "text"]
    text: Text


class ReasoningItem(BaseModel):
    """What the assistant thought before it answered."""

    type: Literal["reasoning"]
    summary: list[SummaryPart] = []
    content: list[SummaryPart] | None = None

    @property
    def text(self) -> str:
        """The reasoning itself, or its summary where only that is known."""
        return "".join(part.text for part in self.content or self.summary)


_ITEMS = ByType(
    "input", ("message", "function_call", "function_call_output", "reasoning"), default="message"
)
Item = Annotated[
    Annotated[MessageItem, tag("message")]
    | Annotated[CallItem, tag("function_call")]
    | Annotated[CallOutputItem, tag("function_call_output")]
    | Annotated[ReasoningItem, tag("reasoning")],
    Discriminator(_ITEMS.tag),
    BeforeValidator(_ITEMS.check),
]


def text_of(parts: list[TextPart | RefusalPart]) -> str:
    """All their text."""
    return "".join(part.text for part in parts)
