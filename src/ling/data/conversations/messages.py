"""Lists of messages in the forms people write them: OpenAI's and ShareGPT's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...text import as_json, nearest
from .fields import RecordError
from .parts import Content, read_content
from .tools import called_in_text, read_call, read_calls

# `call` is an assistant turn whose text is one call or a list of them, in JSON.
ROLES: Mapping[str, str] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function", "tool_response"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
}
WEIGHTS = ("weight", "loss", "train", "loss_weight")
_WEIGHT_KEYS = frozenset(WEIGHTS)
_PLAIN = {"role", "content"}
_REASONING = ("reasoning_content", "reasoning", "thinking")


@dataclass(frozen=True)
class Tags:
    """Keys and values by which a file tells who says what; None for a key tells by the message."""

    role: str | None = None
    content: str | None = None
    roles: Mapping[str, str] = field(default_factory=lambda: ROLES)


@dataclass
class Turns:
    """Messages in OpenAI's form, and which of them are kept in the loss."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    in_loss: list[bool] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, role: str, content: str, in_loss: bool = False) -> None:
        """Append a message of text."""
        self.messages.append({"role": role, "content": content})
        self.in_loss.append(in_loss)

    def __add__(self, other: Turns) -> Turns:
        return Turns(
            self.messages + other.messages,
            self.in_loss + other.in_loss,
            self.notes + other.notes,
        )


def read_turns(value: Any, where: str, tags: Tags, trained: bool = True) -> Turns:
    """The messages of a list; `trained` says whether answers without a weight are in the loss."""
    if not isinstance(value, list):
        raise RecordError(f"`{where}` is {as_json(value)}, expected a list of messages")
    turns = Turns()
    for i, item in enumerate(value):
        _add(turns, item, f"{where}[{i}]", tags, trained)
    return turns


def check_order(turns: Turns, where: str) -> None:
    """Raise `RecordError` unless a system message is the first and the assistant is not."""
    roles = [m["role"] for m in turns.messages]
    if roles[:1] == ["assistant"]:
        raise RecordError(
            f"`{where}[0]` is of the assistant, but a conversation begins with a system or a user "
            "message"
        )
    if "system" in roles[1:]:
        at = roles.index("system", 1)
        raise RecordError(f"`{where}[{at}]` is a system message, which only the first may be")


def _add(turns: Turns, item: Any, where: str, tags: Tags, trained: bool) -> None:
    if (role := _plain_role(item, tags)) is not None:
        turns.add(role, item["content"], trained and role == "assistant")
        return
    if not isinstance(item, dict):
        raise RecordError(f"`{where}` is {as_json(item)}, expected an object with a role")
    role, key = _role(item, where, tags)
    weight = _weight(item, where)
    content = read_content(item.get(key), f"{where}.{key}")
    if role == "assistant":
        message = _answer(item, content, where)
    elif role == "call":
        role, message = "assistant", _called(content, f"{where}.{key}")
    else:
        message = _said(item, role, content, f"{where}.{key}")
    if role != "assistant" and weight:
        turns.notes.append(f"{where} asks for a loss, but only answers of the assistant have one")
    if message == {"role": "assistant", "content": ""}:
        turns.notes.append(f"{where} is an empty answer")
    turns.messages.append(message)
    turns.in_loss.append(role == "assistant" and (trained if weight is None else weight))


def _plain_role(item: Any, tags: Tags) -> str | None:
    """The role of a message that is a role and a text only, as most are: nothing else to read."""
    if not isinstance(item, dict) or item.keys() != _PLAIN or tags.role not in (None, "role"):
        return None
    content, given = item["content"], item["role"]
    if not content or not isinstance(content, str) or not isinstance(given, str):
        return None
    role = tags.roles.get(given) if tags.content in (None, "content") else None
    return None if role == "call" else role


def _role(item: dict[str, Any], where: str, tags: Tags) -> tuple[str, str]:
    """The role of a message, and the key of its content."""
    key = tags.role or ("from" if item.get("role") is None and "from" in item else "role")
    given = item.get(key)
    role = tags.roles.get(given) if isinstance(given, str) else None
    if role is None:
        if given is None:
            raise RecordError(f"`{where}` has no `{key}`; its keys are {', '.join(item)[:100]}")
        hint = nearest(given, list(tags.roles)) if isinstance(given, str) else ""
        known = ", ".join(sorted({"assistant", "system", "tool", "user"}))
        raise RecordError(f"`{where}.{key}` is {as_json(given)}{hint}, expected {known}")
    if tags.content is not None:
        return role, tags.content
    return role, "value" if "value" in item and item.get("content") is None else "content"


def _weight(item: dict[str, Any], where: str) -> bool | None:
    """Whether a message is in the loss, None where it does not say."""
    found = None
    if _WEIGHT_KEYS.isdisjoint(item):
        return None
    for key in WEIGHTS:
        value = item.get(key)
        if value is None:
            continue
        if not isinstance(value, (bool, int, float)) or value not in (0, 1):
            raise RecordError(f"`{where}.{key}` is {as_json(value)}, expected 0 or 1")
        if found not in (None, bool(value)):
            raise RecordError(f"`{where}.{key}` contradicts another of {', '.join(WEIGHTS)}")
        found = bool(value)
    return found


def _answer(item: dict[str, Any], content: Content, where: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant"}
    reasoning = _reasoning(item, content, where)
    if reasoning is not None:
        message["reasoning_content"] = reasoning
    message["content"] = content.text or ""
    calls = content.calls + read_calls(item.get("tool_calls"), f"{where}.tool_calls")
    if item.get("function_call") is not None:
        calls = [*calls, read_call(item["function_call"], f"{where}.function_call")]
    if calls:
        message["tool_calls"] = calls
    elif content.text is None and reasoning is None:
        raise RecordError(f"`{where}` is an answer without content and without calls")
    return message


def _reasoning(item: dict[str, Any], content: Content, where: str) -> str | None:
    found = content.reasoning
    for key in _REASONING:
        value = item.get(key)
        if value is None:
            continue
        if not isinstance(value, str):
            raise RecordError(f"`{where}.{key}` is {as_json(value)}, expected a text")
        if found not in (None, value):
            raise RecordError(f"`{where}.{key}` contradicts other reasoning of the message")
        found = value
    return found


def _called(content: Content, where: str) -> dict[str, Any]:
    """The turn of ShareGPT's `function_call`."""
    if content.text is None:
        raise RecordError(f"`{where}` is null, expected a call as JSON in a text")
    reasoning, calls = called_in_text(content.text, where)
    thought = {} if reasoning is None else {"reasoning_content": reasoning}
    return {"role": "assistant", **thought, "content": "", "tool_calls": calls}


def _said(item: dict[str, Any], role: str, content: Content, where: str) -> dict[str, Any]:
    """A turn that is not the assistant's."""
    if content.text is None or content.reasoning is not None or content.calls:
        what = "null" if content == Content(None) else "not only text"
        raise RecordError(f"`{where}` is {what}, expected a text")
    message = {"role": role, "content": content.text}
    for key in ("name", "tool_call_id"):
        if isinstance(item.get(key), str):
            message[key] = item[key]
    return message
