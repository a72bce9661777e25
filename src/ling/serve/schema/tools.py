"""`tools` and `tool_choice` of `/v1/chat/completions`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema

from ...errors import RequestError
from ..conversation import ToolChoice, ToolName
from .plain_json import plain_json

MAX_TOOLS = 128
_NAME = re.compile(r"[a-zA-Z0-9_.:/-]{1,128}")
_NAME_SCHEMA = {"type": "string", "pattern": "^[a-zA-Z0-9_.:/-]{1,128}$"}


def tool_name(value: Any) -> str:
    """The name of a function; raises `ValueError`."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("expected a name of 1 to 128 letters, digits, `_`, `.`, `:`, `/` or `-`")
    return value


FunctionName = Annotated[Any, PlainValidator(tool_name), WithJsonSchema(_NAME_SCHEMA)]


def _only_functions(kind: Any, where: str) -> None:
    if kind != "function":
        shown = f"`{kind[:40]}`" if isinstance(kind, str) else "missing"
        raise ValueError(f"{where}`type` is {shown}; only `function` is supported")


def _tools(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise ValueError("expected a list of objects")
    if len(value) > MAX_TOOLS:
        raise ValueError(f"{len(value)} tools, at most {MAX_TOOLS} are allowed")
    plain_json(value)
    for i, tool in enumerate(value):
        _check(tool, f"[{i}]: ")
    return value


def _check(tool: dict[str, Any], where: str) -> None:
    _only_functions(tool.get("type"), where)
    function = tool.get("function")
    if not isinstance(function, dict):
        raise ValueError(f"{where}expected a `function` object")
    for name, kind, told in (
        ("description", str, "text"),
        ("parameters", dict, "a JSON schema, which is an object"),
        ("strict", bool, "true or false"),
    ):
        if function.get(name) is not None and type(function[name]) is not kind:
            raise ValueError(f"{where}`function.{name}`: expected {told}")
    try:
        tool_name(function.get("name"))
    except ValueError as error:
        raise ValueError(f"{where}`function.name`: {error}") from None


def chat_tool(
    name: str, description: str | None, parameters: dict[str, Any] | None, strict: bool | None
) -> dict[str, Any]:
    """A tool of another API as chats have it; what was not given is not there."""
    given = {"description": description, "parameters": parameters, "strict": strict or None}
    function = {key: value for key, value in given.items() if value is not None}
    return {"type": "function", "function": {"name": name, **function}}


def name_of(tool: dict[str, Any]) -> str:
    """The function's name of a checked tool."""
    return tool["function"]["name"]


def chosen(tools: Sequence[dict[str, Any]], names: Sequence[str] | None) -> list[dict[str, Any]]:
    """The tools of these names, in their own order; None for all."""
    return [tool for tool in tools if names is None or name_of(tool) in names]


def for_template(tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tools as the model reads them: in their order, without what speaks to the server."""
    return [
        {**tool, "function": {k: v for k, v in tool["function"].items() if k != "strict"}}
        for tool in tools
    ]


# ---- tool_choice -------------------------------------------------------------------------------


def _choice(value: Any) -> Any:
    if value in ("none", "auto", "required") and isinstance(value, str):
        return value
    if not isinstance(value, dict):
        raise ValueError("expected `none`, `auto`, `required` or an object that names a function")
    plain_json(value)
    if value.get("type") == "allowed_tools":
        return _allowed(value.get("allowed_tools"))
    return ToolName(_named(value))


def _named(value: Any) -> str:
    _only_functions(value.get("type") if isinstance(value, dict) else None, "")
    function = value.get("function")
    return tool_name(function.get("name") if isinstance(function, dict) else None)


def _allowed(value: Any) -> AllowedTools:
    tools = value.get("tools") if isinstance(value, dict) else None
    if not isinstance(tools, list) or not 1 <= len(tools) <= MAX_TOOLS:
        raise ValueError(f"`allowed_tools` needs 1 to {MAX_TOOLS} `tools`")
    if value.get("mode") not in ("auto", "required"):
        raise ValueError("`allowed_tools.mode`: expected `auto` or `required`")
    return AllowedTools(value["mode"], [_named(tool) for tool in tools])


class AllowedTools:
    """Some of the tools may be called, or must be."""

    def __init__(self, mode: str, names: Sequence[str]) -> None:
        self.mode, self.names = mode, names


def settled(
    choice: Any, tools: Sequence[dict[str, Any]] | None
) -> tuple[ToolChoice, list[str] | None]:
    """The choice, and the names it is limited to (None for all); raises `RequestError` 400 for
    names that are no tool's, or of two."""
    names = [name_of(tool) for tool in tools or []]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"`tools`: two tools have the name `{twice}`", param="tools")
    if choice is None or choice == "none" or (choice == "auto" and not names):
        return ("auto" if names and choice is None else "none"), None
    if not names:
        raise RequestError("`tool_choice` needs `tools`", param="tool_choice")
    if isinstance(choice, str):
        return choice, None  # type: ignore[return-value]
    wanted = [choice.name] if isinstance(choice, ToolName) else list(choice.names)
    for name in wanted:
        if name not in names:
            raise RequestError(
                f"`tool_choice` names `{name}`, which is not among the tools", param="tool_choice"
            )
    return (choice if isinstance(choice, ToolName) else choice.mode), wanted


_FUNCTION_SCHEMA = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": _NAME_SCHEMA,
        "description": {"type": ["string", "null"]},
        "parameters": {"type": ["object", "null"]},
        "strict": {"type": ["boolean", "null"]},
    },
}


def _function_object(function: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["type", "function"],
        "properties": {"type": {"const": "function"}, "function": function},
    }


_NAMED_SCHEMA = _function_object(
    {"type": "object", "required": ["name"], "properties": {"name": _NAME_SCHEMA}}
)
_ALLOWED_SCHEMA = {
    "type": "object",
    "required": ["type", "allowed_tools"],
    "properties": {
        "type": {"const": "allowed_tools"},
        "allowed_tools": {
            "type": "object",
            "required": ["mode", "tools"],
            "properties": {
                "mode": {"enum": ["auto", "required"]},
                "tools": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": MAX_TOOLS,
                    "items": _NAMED_SCHEMA,
                },
            },
        },
    },
}
Tools = Annotated[
    Any,
    PlainValidator(_tools),
    WithJsonSchema(
        {
            "type": "array",
            "maxItems": MAX_TOOLS,
            "items": _function_object(_FUNCTION_SCHEMA),
            "description": "No two that may be called have one name.",
        }
    ),
]
Choice = Annotated[
    Any,
    PlainValidator(_choice),
    WithJsonSchema(
        {"anyOf": [{"enum": ["none", "auto", "required"]}, _NAMED_SCHEMA, _ALLOWED_SCHEMA]}
    ),
]
