"""Messages of a conversation: what was said, called and returned before."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from .. import published
from .plain_json import plain_json
from .values import Content, Text, whole_text

MAX_MESSAGES = 4096
MAX_CALLS = 128


def _arguments(value: Any) -> str | dict[str, Any]:
    """Text stays as it is, which the model wrote so; no text is no arguments."""
    if isinstance(value, str):
        return whole_text(value) if value.strip() else "{}"
    if isinstance(value, dict):
        return plain_json(value)
    raise ValueError("expected the arguments as JSON text")


Arguments = Annotated[
    Any, PlainValidator(_arguments), WithJsonSchema({"type": ["string", "object"]})
]


class CalledFunction(BaseModel):
    """What was called."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[Text, Field(min_length=1, max_length=1024)]
    arguments: Arguments


class ToolCall(BaseModel):
    """A call that an assistant made."""

    model_config = ConfigDict(extra="ignore")

    id: Text | None = None
    type: Literal["function"] = "function"
    function: CalledFunction

    def plain(self) -> dict[str, Any]:
        """The call as templates read it."""
        called = {"name": self.function.name, "arguments": self.function.arguments}
        known = {} if self.id is None else {"id": self.id}
        return {**known, "type": "function", "function": called}


class Message(BaseModel):
    """One turn of a conversation; only an assistant's may be without content."""

    model_config = ConfigDict(
        extra="ignore", json_schema_extra=lambda s: s.update(published.MESSAGE)
    )

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content | None = Field(default=None, validate_default=True)
    name: Text | None = None
    refusal: Text | None = None
    """Of an assistant; takes the place of content that is not there."""
    reasoning_content: Text | None = None
    reasoning: Text | None = None
    """vLLM's newer name for `reasoning_content`."""
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_CALLS)] | None = None
    tool_call_id: Text | None = None
    function_call: CalledFunction | None = None
    """OpenAI's older form of `tool_calls`."""
    audio: None = None

    @field_validator("content")
    @classmethod
    def _check_content(cls, value: str | None, info: ValidationInfo) -> str | None:
        # `function` messages of OpenAI's older form may be null.
        if value is None and info.data.get("role") not in ("assistant", "function"):
            raise ValueError("expected text or a list of text parts; only an assistant has none")
        return value

    @model_validator(mode="after")
    def _check_calls(self) -> Message:
        if self.role != "assistant" and (self.tool_calls or self.function_call):
            raise ValueError("only an assistant's message has `tool_calls`")
        return self

    def plain(self) -> dict[str, Any]:
        """The message as templates read it."""
        if self.role == "assistant":
            return self._assistant()
        if self.role in ("tool", "function"):
            named = {"name": self.name, "tool_call_id": self.tool_call_id}
            known = {k: v for k, v in named.items() if v is not None}
            return {"role": "tool", "content": self.content or "", **known}
        # OpenAI's newer name for the same role; templates know only the old one.
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self.content}

    def _assistant(self) -> dict[str, Any]:
        content = self.refusal if self.content is None else self.content
        plain: dict[str, Any] = {"role": "assistant", "content": content}
        reasoning = self.reasoning if self.reasoning_content is None else self.reasoning_content
        if reasoning is not None:
            plain["reasoning_content"] = reasoning
        calls = list(self.tool_calls or [])
        if self.function_call is not None:
            calls.append(ToolCall(function=self.function_call))
        if calls:
            plain["tool_calls"] = [call.plain() for call in calls]
        return plain
