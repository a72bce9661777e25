"""Tools and tool calls of a record: objects or JSON in a text, in OpenAI's form or bare."""

from __future__ import annotations

import json
import re
from typing import Any

from ...text import as_json
from ..records import parse_json
from .fields import RecordError

_PLAIN = json.JSONEncoder(allow_nan=False)
_THINKS = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)


def read_tools(value: Any, where: str) -> list[dict[str, Any]] | None:
    """The tools, wrapped as `{"type": "function", "function": {...}}`; None without any."""
    value = _parsed(value, where)
    if not value:
        return None
    if not isinstance(value, list):
        raise RecordError(f"`{where}` is {as_json(value)}, expected a list of tools")
    return [_tool(tool, f"{where}[{i}]") for i, tool in enumerate(value)]


def read_calls(value: Any, where: str) -> list[dict[str, Any]]:
    """The calls of a message, each with a `function` with `name` and `arguments`."""
    value = _parsed(value, where)
    if not value:
        return []
    if not isinstance(value, list):
        raise RecordError(f"`{where}` is {as_json(value)}, expected a list of calls")
    return [read_call(call, f"{where}[{i}]") for i, call in enumerate(value)]


def read_call(value: Any, where: str) -> dict[str, Any]:
    """One call, an object or JSON in a text."""
    value = _parsed(value, where)
    call = value if isinstance(value, dict) else {}
    function = _parsed(call.get("function") or call, f"{where}.function")
    if not isinstance(function, dict):
        function = {}
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise RecordError(f"`{where}` is {as_json(value)}, expected a `name` and `arguments`")
    arguments = read_arguments(function.get("arguments"), f"{where}.arguments")
    known = {} if call.get("id") is None else {"id": call["id"]}
    return {**known, "type": "function", "function": {"name": name, "arguments": arguments}}


def read_arguments(value: Any, where: str) -> str | dict[str, Any]:
    """Arguments as they are given: an object, or a text that holds one and is kept as it is."""
    parsed = _parsed(value, where)
    if parsed is None or parsed == []:
        return {}
    if not isinstance(parsed, dict):
        raise RecordError(f"`{where}` is {as_json(value)}, expected an object")
    if isinstance(value, dict):
        _check_plain(value, where)
    return value if isinstance(value, str) else parsed


def called_in_text(text: str, where: str) -> tuple[str | None, list[dict[str, Any]]]:
    """Reasoning (None without) and calls of a text that is a call or a list of calls."""
    thinks = _THINKS.match(text)
    body = text[thinks.end() :] if thinks else text
    value = _parsed(body, where)
    calls = read_calls(value, where) if isinstance(value, list) else [read_call(value, where)]
    if not calls:
        raise RecordError(f"`{where}` has no call")
    return (thinks[1].strip("\n") if thinks else None), calls


def _tool(tool: Any, where: str) -> dict[str, Any]:
    tool = _parsed(tool, where)
    if not isinstance(tool, dict):
        raise RecordError(f"`{where}` is {as_json(tool)}, expected an object")
    kind, function = tool.get("type", "function"), tool.get("function")
    if kind != "function" and not isinstance(tool.get("name"), str):
        raise RecordError(f"`{where}.type` is {as_json(kind)}, expected `function`")
    if function is None:
        inner = {k: v for k, v in tool.items() if k != "type" or kind != "function"}
        tool = {"type": "function", "function": inner}
    elif "type" not in tool:
        tool = {"type": "function", **tool}
    _check_function(tool["function"], f"{where}.function")
    _check_plain(tool, where)
    return tool


def _check_function(function: Any, where: str) -> None:
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise RecordError(f"`{where}` is {as_json(function)}, expected an object with a `name`")


def _check_plain(value: dict[str, Any], where: str) -> None:
    """Parquet has dates and bytes, and Python's JSON has NaN: nothing that a server sends."""
    try:
        _PLAIN.encode(value)
    except (TypeError, ValueError) as err:
        raise RecordError(f"`{where}` is not JSON ({err})") from None


def _parsed(value: Any, where: str) -> Any:
    """The value of JSON in a text, None for an empty one; other values as they are."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return parse_json(value)
    except ValueError as err:
        raise RecordError(f"`{where}` does not parse: {err}") from None
