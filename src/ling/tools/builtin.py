"""The table of built-in tools, and running a call of one.

They are safe to run for any model: they read a clock and compute on numbers, and neither open a
file nor a connection. The definitions here are those that our own model is trained with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ..errors import ToolError
from .calculator import calculate
from .clock import FORMATS, tell
from .units import convert

MAX_ARGUMENTS = 2000
"""Characters of arguments that are read."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool and its parameters, as JSON Schema says them; all are required."""

    name: str
    description: str
    properties: Mapping[str, dict[str, Any]]
    function: Callable[..., str]

    @property
    def parameters(self) -> dict[str, Any]:
        """JSON Schema of the arguments."""
        names = list(self.properties)
        return {"type": "object", "properties": dict(self.properties), "required": names}

    @property
    def definition(self) -> dict[str, Any]:
        """In OpenAI's form, as requests and training records have it."""
        function = {"name": self.name, "description": self.description}
        return {"type": "function", "function": {**function, "parameters": self.parameters}}


def _convert_units(value: Any, from_unit: str, to_unit: str) -> str:
    return convert(Fraction(str(value)), from_unit, to_unit)


def _choice(values: tuple[str, ...]) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


_TOOLS = (
    Tool(
        "calculator",
        "Compute an arithmetic expression.",
        {"expression": {"type": "string"}},
        calculate,
    ),
    Tool("clock", "Tell the current time, date or weekday.", {"part": _choice((*FORMATS,))}, tell),
    Tool(
        "convert_units",
        "Convert a value to another unit.",
        {
            "value": {"type": "number"},
            "from_unit": {"type": "string"},
            "to_unit": {"type": "string"},
        },
        _convert_units,
    ),
)
BUILTIN = {tool.name: tool for tool in _TOOLS}


def builtin(definition: Mapping[str, Any]) -> Tool | None:
    """The built-in tool that a definition in OpenAI's form means: one of its name that takes the
    same parameters. None for somebody's own tool."""
    function = definition.get("function")
    if not isinstance(function, Mapping):
        return None
    tool = BUILTIN.get(str(function.get("name")))
    return tool if tool is not None and function.get("parameters") == tool.parameters else None


def run(tool: Tool, arguments: str) -> str:
    """What the tool gives for arguments as JSON text; also why it gives nothing, for the model to
    read."""
    try:
        return tool.function(**_checked(tool, arguments))
    except ToolError as error:
        return f"error: {error}"


def _checked(tool: Tool, text: str) -> dict[str, Any]:
    """The arguments, of the names and types that the tool has."""
    try:
        given = json.loads(text) if len(text) <= MAX_ARGUMENTS else None
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise ToolError("the arguments are no JSON object")
    for name in given:
        if name not in tool.properties:
            raise ToolError(f"{tool.name} has no argument {name[:40]}")
    for name, schema in tool.properties.items():
        if name not in given:
            raise ToolError(f"the argument {name} is missing")
        _check_type(name, given[name], schema["type"])
    return given


def _check_type(name: str, value: Any, type_name: str) -> None:
    if type_name == "string" and not isinstance(value, str):
        raise ToolError(f"{name} must be a text")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if type_name == "number" and not (is_number and abs(value) < 1e15):  # NaN compares false
        raise ToolError(f"{name} must be a number below 1e15")
