"""The turns of a chat in the terminal, as far as they fit into the model's context."""

from __future__ import annotations

from typing import Any

from ..data.chat import encode_chat

Turns = list[dict[str, str]]


class Conversation:
    """A system message, if any, and the turns after it; the oldest turns go when room is short."""

    def __init__(self, system: str | None) -> None:
        self._head: Turns = [{"role": "system", "content": system}] if system else []
        self.turns: Turns = []

    @property
    def messages(self) -> Turns:
        """What the model reads."""
        return [*self._head, *self.turns]

    def clear(self) -> None:
        """Start over, with the same system message."""
        self.turns = []

    def add(self, role: str, content: str) -> None:
        """Add a turn."""
        self.turns.append({"role": role, "content": content})

    def fit(self, llm: Any, max_tokens: int | None) -> int:
        """Drop the oldest questions with their answers until an answer has room: `max_tokens`, but
        at most a quarter of the context. Returns how many were dropped; the last question stays.
        """
        quarter = llm.max_model_len // 4
        room = llm.max_model_len - min(max_tokens or quarter, quarter)
        dropped = 0
        while len(self.turns) > 1 and self._length(llm) > room:
            self.turns = self.turns[2:]
            dropped += 1
        return dropped

    def _length(self, llm: Any) -> int:
        return len(encode_chat(llm.render, llm.tokenizer, self.messages).ids)
