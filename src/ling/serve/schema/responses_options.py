"""Options of a `/v1/responses` request that are objects: tools, reasoning, the answer's form."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, StrictBool

from .items import ByType, OrText, tag, tag_of
from .plain_json import JsonObject
from .tools import MAX_TOOLS, FunctionName, chat_tool
from .values import Effort, Text


class FunctionTool(BaseModel):
    """A function that the model may call."""

    type: Literal["function"]
    name: FunctionName
    description: Text | None = None
    parameters: JsonObject | None = None
    strict: StrictBool | None = None

    def as_chat(self) -> dict[str, Any]:
        """The form of chat completions, which templates print."""
        return chat_tool(self.name, self.description, self.parameters, self.strict)


_TOOLS = ByType("tools", ("function",))
Tool = Annotated[FunctionTool, BeforeValidator(_TOOLS.check)]

# No two of one name, of which a schema can say only this.
_DISTINCT: dict[str, Any] = {"uniqueItems": True}
Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS, json_schema_extra=_DISTINCT)]


class NamedChoice(BaseModel):
    """The function that must be called."""

    type: Literal["function"]
    name: Text


class AllowedTools(BaseModel):
    """The functions that may be called, or of which one must."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[
        list[Annotated[NamedChoice, BeforeValidator(_TOOLS.check)]], Field(min_length=1)
    ]


_MODES = ("none", "auto", "required")


class ModeChoice(BaseModel):
    """Whether functions are called; OpenAI's form of it is the text alone."""

    type: Literal["none", "auto", "required"]


_CHOICES = ByType("a choice", (*_MODES, "function", "allowed_tools"))


def _choice_tag(value: dict[str, Any]) -> str:
    return tag_of("mode") if value["type"] in _MODES else _CHOICES.tag(value)


Choice = Annotated[
    Annotated[ModeChoice, tag("mode")]
    | Annotated[NamedChoice, tag("function")]
    | Annotated[AllowedTools, tag("allowed_tools")],
    Discriminator(_choice_tag),
    BeforeValidator(_CHOICES.check),
    OrText(lambda text: {"type": text}, {"enum": list(_MODES)}),
]


class Reasoning(BaseModel):
    """Whether the model thinks first. It has one way to think, so every effort but `none` is one;
    its reasoning is shown as it is, whatever `summary` asks for."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class TextFormat(BaseModel):
    """Text of any form."""

    type: Literal["text"] = "text"


class ObjectFormat(BaseModel):
    """Any JSON object."""

    type: Literal["json_object"]


class SchemaFormat(BaseModel):
    """JSON of a schema."""

    type: Literal["json_schema"]
    name: Text
    schema_: Annotated[JsonObject, Field(alias="schema")]
    strict: StrictBool | None = None
    description: Text | None = None


_FORMATS = ByType("a format", ("text", "json_object", "json_schema"), default="text")
Format = Annotated[
    Annotated[TextFormat, tag("text")]
    | Annotated[ObjectFormat, tag("json_object")]
    | Annotated[SchemaFormat, tag("json_schema")],
    Discriminator(_FORMATS.tag),
    BeforeValidator(_FORMATS.check),
]


class TextOptions(BaseModel):
    """`text`: the form of the answer; `verbosity` changes nothing here."""

    format: Format | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class EventOptions(BaseModel):
    """`stream_options`: nothing is padded here, so there is nothing to leave out."""

    include_obfuscation: StrictBool | None = None
