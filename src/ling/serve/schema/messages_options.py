"""Options of a `/v1/messages` request that are objects: tools, thinking, the answer's form."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
)

from .chat import Budget
from .items import ByType, tag
from .plain_json import JsonObject
from .tools import MAX_TOOLS, FunctionName, chat_tool
from .values import Text


class CustomTool(BaseModel):
    """A tool of the client's that the model may call."""

    type: Literal["custom"] | None = None
    name: FunctionName
    description: Text | None = None
    input_schema: JsonObject
    strict: StrictBool | None = None

    def as_chat(self) -> dict[str, Any]:
        """The form of OpenAI's chat completions, which templates print."""
        return chat_tool(self.name, self.description, self.input_schema, self.strict)


_TOOLS = ByType("tools", ("custom",), default="custom")


def _check_tool(value: Any) -> Any:
    return (
        value if isinstance(value, dict) and value.get("type", "") is None else _TOOLS.check(value)
    )


Tool = Annotated[CustomTool, BeforeValidator(_check_tool)]

# No two of one name, of which a schema can say only this.
_DISTINCT: dict[str, Any] = {"uniqueItems": True}
Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS, json_schema_extra=_DISTINCT)]


class AnyChoice(BaseModel):
    """Whether tools are called."""

    type: Literal["auto", "any", "none"]
    disable_parallel_tool_use: StrictBool | None = None


class NamedChoice(BaseModel):
    """The tool that must be called."""

    type: Literal["tool"]
    name: Text
    disable_parallel_tool_use: StrictBool | None = None


_CHOICES = ByType("a choice", ("auto", "any", "tool", "none"))
ToolChoiceObject = Annotated[
    Annotated[AnyChoice, tag("any")] | Annotated[NamedChoice, tag("tool")],
    Discriminator(lambda v: "<tool>" if v["type"] == "tool" else "<any>"),
    BeforeValidator(_CHOICES.check),
]


class Thinking(BaseModel):
    """Whether the model thinks first, and for how many tokens at most."""

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: Budget | None = None


class SchemaFormat(BaseModel):
    """JSON of a schema."""

    model_config = ConfigDict(protected_namespaces=())

    type: Literal["json_schema"]
    schema_: Annotated[JsonObject, Field(alias="schema")]


class OutputOptions(BaseModel):
    """`output_config`: the form of the answer; `effort` changes nothing here."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: SchemaFormat | None = None


class Metadata(BaseModel):
    """Whose request it is, which changes nothing here."""

    user_id: Text | None = None
