"""The table of built-in tools, and running a call of one.

They are safe to run for any model: they read a clock and compute on numbers, and neither open a
file nor a connection. Names, arguments and results are of the forms that our own small
model is trained on (`ling.nano.dialogues`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Any

from ..errors import ToolError
from .calculator import calculate
from .clock import date_of, time_of
from .units import convert

MAX_ARGUMENTS = 2000
"""Characters of arguments that are read."""
Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool and its parameters, as JSON Schema says them; all are required."""

    name: str
    description: str
    properties: Mapping[str, dict[str, Any]]
    function: Callable[..., Result]

    @property
    def parameters(self) -> dict[str, Any]:
        """JSON Schema of the arguments."""
        schema = {"type": "object", "properties": dict(self.properties)}
        return {**schema, "required": list(self.properties)} if self.properties else schema

    @property
    def definition(self) -> dict[str, Any]:
        """In OpenAI's form, as requests and training records have it."""
        function = {"name": self.name, "description": self.description}
        return {"type": "function", "function": {**function, "parameters": self.parameters}}


def _calculator(expression: str) -> Result:
    return {"result": calculate(expression)}


def _clock() -> Result:
    return {"time": time_of(datetime.now())}


def _date() -> Result:
    return {**date_of(datetime.now())}


def _convert_units(value: float, unit: str, to: str) -> Result:
    return {"result": convert(Fraction(str(value)), unit, to)}


_TEXT, _NUMBER = {"type": "string"}, {"type": "number"}
_UNITS = {"value": _NUMBER, "unit": _TEXT, "to": _TEXT}
_TOOLS = (
    Tool("calculator", "Evaluates an expression", {"expression": _TEXT}, _calculator),
    Tool("clock", "Tells the time", {}, _clock),
    Tool("date", "Tells weekday and date", {}, _date),
    Tool("convert_units", "Converts units", _UNITS, _convert_units),
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
    """What the tool gives for arguments as JSON text, as JSON; also why it gives nothing, for the
    model to read."""
    try:
        return json.dumps(tool.function(**_checked(tool, arguments)))
    except ToolError as error:
        return failed(str(error))


def failed(reason: str) -> str:
    """Why a call gives nothing, in the form of a result. A text that the reason quotes may hold
    half a surrogate pair, so it is ASCII."""
    return json.dumps({"error": reason})


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
