"""Messages of a conversation from the pieces in which the newer APIs send it."""

from __future__ import annotations

from typing import Any

MessageDict = dict[str, Any]


class TranscriptBuilder:
    """Pieces of the assistant that follow one another become one message, as it was generated."""

    def __init__(self) -> None:
        self.messages: list[MessageDict] = []
        self._names: dict[str, str] = {}

    def say(self, role: str, text: str) -> None:
        """A whole message of anybody but the assistant."""
        # OpenAI's newer name for the same role; templates know only the old one.
        self.messages.append({"role": "system" if role == "developer" else role, "content": text})

    def think(self, text: str) -> None:
        """Reasoning, which begins a message: what the assistant says comes after it."""
        message = self._assistant()
        if message["content"] is not None or "tool_calls" in message:
            message = self._new_assistant()
        message["reasoning_content"] = message.get("reasoning_content", "") + text

    def begin_answer(self) -> None:
        """A message of the assistant, be it empty."""
        self._assistant()

    def answer(self, text: str) -> None:
        """Text of the assistant."""
        message = self._assistant()
        message["content"] = (message["content"] or "") + text

    def call(self, call_id: str, name: str, arguments: str) -> None:
        """A call of the assistant, with its arguments as JSON."""
        self._names[call_id] = name
        function = {"name": name, "arguments": arguments if arguments.strip() else "{}"}
        calls = self._assistant().setdefault("tool_calls", [])
        calls.append({"id": call_id, "type": "function", "function": function})

    def result(self, call_id: str, text: str) -> None:
        """What a call gave back."""
        message = {"role": "tool", "tool_call_id": call_id, "content": text}
        if (name := self._names.get(call_id)) is not None:
            message["name"] = name
        self.messages.append(message)

    @property
    def ends_in_answer(self) -> bool:
        """Whether the last message is the assistant's and has text only, so that it can go on."""
        last = self.messages[-1]
        return last["role"] == "assistant" and bool(last["content"]) and "tool_calls" not in last

    def _assistant(self) -> MessageDict:
        last = self.messages[-1] if self.messages else None
        return last if last is not None and last["role"] == "assistant" else self._new_assistant()

    def _new_assistant(self) -> MessageDict:
        self.messages.append({"role": "assistant", "content": None})
        return self.messages[-1]
