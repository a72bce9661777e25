"""Content of a message that is a list of parts: OpenAI's, and LLaMA-Factory's v1 format."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...text import as_json, shown
from .fields import RecordError
from .tools import read_call


class Content(NamedTuple):
    """What a message says: None for what is not there."""

    text: str | None
    reasoning: str | None = None
    calls: list[dict[str, Any]] = []  # noqa: RUF012  # never changed


def read_content(value: Any, where: str) -> Content:
    """The content of a message, a text or a list of parts."""
    if value is None or isinstance(value, str):
        return Content(value)
    if not isinstance(value, list):
        raise RecordError(f"`{where}` is {as_json(value)}, expected a text or a list of parts")
    return _joined(value, where)


def _joined(parts: list[Any], where: str) -> Content:
    """A server sends reasoning, text and calls in this order, so parts in another one are wrong."""
    texts: dict[str, list[str]] = {"reasoning": [], "text": []}
    calls: list[dict[str, Any]] = []
    before = "reasoning"
    for i, part in enumerate(parts):
        kind, value = _part(part, f"{where}[{i}]")
        if _ORDER[kind] < _ORDER[before]:
            raise RecordError(f"`{where}[{i}]` is {kind} behind {before}, expected it before")
        before = kind
        if kind == "tool_call":
            calls.append(read_call(value, f"{where}[{i}].value"))
        elif isinstance(value, str):
            texts[kind].append(value)
        else:
            raise RecordError(f"`{where}[{i}]` holds {as_json(value)}, expected a text")
    text, reasoning = ("".join(texts[k]) if texts[k] else None for k in ("text", "reasoning"))
    return Content(text, reasoning, calls)


_ORDER = {"reasoning": 0, "text": 1, "tool_call": 2}


def _part(part: Any, where: str) -> tuple[str, Any]:
    if isinstance(part, str):
        return "text", part
    if not isinstance(part, dict):
        raise RecordError(f"`{where}` is {as_json(part)}, expected a part with a `type`")
    kind, value = part.get("type"), part.get("value")
    if kind == "text" and value is None:
        value = part.get("text")
    if kind not in _ORDER:
        raise RecordError(f"`{where}` is of the type {shown(kind)}: only text can be trained on")
    return kind, value
