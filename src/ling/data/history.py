"""Messages and tools as templates read them, from the forms in which clients give them."""

from __future__ import annotations

from typing import Any

from ..errors import TemplateError


def plain_message(message: Any, i: int) -> dict[str, Any]:
    """The message with its content as one text; an assistant that only calls tools has none.

    Templates add texts, and print null as `None`: no content is the empty text. Arguments of a
    call stay as they are given, text or object, in their order; a call without any has `{}`.
    """
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise TemplateError(f"messages[{i}]: expected an object with a `role`")
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_part(part, i) for part in content)
    if content is None and message["role"].lower() in ("user", "system", "human"):
        raise TemplateError(f"messages[{i}].content: expected text, got null")
    if content is not None and not isinstance(content, str):
        raise TemplateError(f"messages[{i}].content: expected text or a list of text parts")
    plain = {**message, "content": content or ""}
    if message.get("tool_calls") is not None:
        plain["tool_calls"] = _calls(message["tool_calls"], f"messages[{i}].tool_calls")
    return plain


def plain_tool(tool: Any, i: int) -> dict[str, Any]:
    """The tool as `{"type": "function", "function": {...}}`; a bare function is put into one.

    A tool of another type stays as it is: the template decides.
    """
    if not isinstance(tool, dict):
        raise TemplateError(f"tools[{i}]: expected an object")
    if "function" in tool or tool.get("type", "function") != "function":
        return tool
    if not isinstance(tool.get("name"), str):
        raise TemplateError(f"tools[{i}]: expected a `function` with a `name`")
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}


def _part(part: Any, i: int) -> str:
    if isinstance(part, str):
        return part
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise TemplateError(f"messages[{i}].content: only text parts can be read")
    return text


def _calls(calls: Any, place: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise TemplateError(f"{place}: expected a list of calls")
    return [_call(call, f"{place}[{k}]") for k, call in enumerate(calls)]


def _call(call: Any, place: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise TemplateError(f"{place}: expected a `function` with a `name`")
    if function.get("arguments") in (None, ""):
        function = {**function, "arguments": {}}
    return {**call, "function": function} if "function" in call else function
