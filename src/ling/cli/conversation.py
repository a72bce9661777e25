"""The turns of a chat in the terminal: as far as they fit into a context, and in files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files.atomic import write_atomic
from ..files.guarded import loads, read_regular
from ..text import shown_path

Message = dict[str, Any]
Turns = list[Message]
FORMAT = "ling-chat"
MAX_FILE_BYTES = 50 << 20
# Half a surrogate pair: JSON can say it, UTF-8 cannot.
_LONE = re.compile("[\ud800-\udfff]")
_ROLES = ("user", "assistant", "tool")
_TEXTS = ("content", "reasoning_content", "tool_call_id")


class Conversation:
    """A system message, if any, and the turns after it: messages as chat templates read them."""

    def __init__(self, system: str | None = None) -> None:
        self.system = system
        self.turns: Turns = []

    @property
    def messages(self) -> Turns:
        """What the model reads."""
        head = [{"role": "system", "content": self.system}] if self.system else []
        return [*head, *self.turns]

    def clear(self) -> None:
        """Start over, with the same system message."""
        self.turns = []

    def add(self, role: str, content: str | None, **fields: Any) -> None:
        """Add a turn."""
        self.turns.append({"role": role, "content": content, **fields})

    def undo(self) -> str | None:
        """Take back the last question with all that came after it; returns it, None if there is
        none."""
        for at in reversed(range(len(self.turns))):
            if self.turns[at]["role"] == "user":
                question = str(self.turns[at]["content"])
                del self.turns[at:]
                return question
        return None

    def fit(self, length: Callable[[Turns], int], room: int) -> int:
        """Drop the oldest questions, each with all that came before the next, until the messages
        have a `length` of at most `room`; the last question stays. Returns how many were dropped.
        """
        dropped = 0
        while length(self.messages) > room:
            later = [i for i, t in enumerate(self.turns) if i and t["role"] == "user"]
            if not later:
                break
            del self.turns[: later[0]]
            dropped += 1
        return dropped

    def save(self, path: Path) -> None:
        """Write it as JSON; raises `UsageError` where that cannot be."""
        head = {"format": FORMAT, "version": 1, "system": self.system}
        text = json.dumps({**head, "messages": self.turns}, indent=1, ensure_ascii=False)
        write_atomic(path, _LONE.sub(lambda half: f"\\u{ord(half[0]):04x}", text) + "\n")

    def load(self, path: Path) -> None:
        """Become what `save` wrote, or what a list of messages in OpenAI's form says.

        Raises `UsageError` for anything else, and is left as it was.
        """
        try:
            given = loads(read_regular(path, MAX_FILE_BYTES))
        except OSError as error:
            raise UsageError(f"{shown_path(path)}: {error.strerror or error}") from None
        except ValueError as error:
            raise UsageError(f"{shown_path(path)}: {error}") from None
        if isinstance(given, dict) and given.get("format") == FORMAT:
            system, messages = given.get("system"), given.get("messages")
        else:
            system, messages = None, given
        if not isinstance(messages, list) or not (system is None or isinstance(system, str)):
            raise UsageError(f"{shown_path(path)} holds no conversation that `/save` wrote")
        if messages and isinstance(messages[0], dict) and messages[0].get("role") == "system":
            first, *messages = messages
            system = str(first.get("content") or "")
        turns = [_checked(message, i) for i, message in enumerate(messages)]
        self.system, self.turns = system, turns


def _checked(message: Any, i: int) -> Message:
    """A message of a file, with the fields that templates read."""
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise UsageError(f"message {i} of the file has none of the roles {', '.join(_ROLES)}")
    made: Message = {"role": message["role"], "content": None}
    for name in _TEXTS:
        value = message.get(name)
        if value is None:
            continue
        if not isinstance(value, str):
            raise UsageError(f"message {i} of the file: `{name}` is no text")
        made[name] = value
    if calls := message.get("tool_calls"):
        made["tool_calls"] = _checked_calls(calls, i)
    elif made["content"] is None:
        raise UsageError(f"message {i} of the file has no `content`")
    return made


def _checked_calls(calls: Any, i: int) -> list[Message]:
    made = []
    for call in calls if isinstance(calls, list) else [calls]:
        try:
            function = {name: call["function"][name] for name in ("name", "arguments")}
            texts = {"id": call["id"], **function}
        except (LookupError, TypeError):
            texts = {"": None}
        if not all(isinstance(text, str) for text in texts.values()):
            raise UsageError(
                f"message {i} of the file: `tool_calls` is no list of calls with an `id`, and a "
                "`function` with `name` and `arguments` as text"
            )
        made.append({"id": texts["id"], "type": "function", "function": function})
    return made
