"""A question and its answer, behind the result of a tool where one is called, as messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple
from zlib import crc32

Split = Literal["train", "held_out"]
_ONE_IN = 16


class Call(NamedTuple):
    """Of a tool, and what it returns: an object, or a text."""

    tool: str
    arguments: dict[str, Any]
    result: dict[str, Any] | str


class Turn(NamedTuple):
    """What a user says and what may be said to it; the first answer of several that are right."""

    text: str
    answers: tuple[str, ...]
    call: Call | None = None
    key: str = ""
    """By what it is held out; the text itself where nothing else is given."""
    is_always_trained: bool = False
    """Never held out: what nobody may be surprised that the model knows, such as "hello"."""
    is_new: bool = False
    """Its wording is in no training text."""


def is_held_out(turn: Turn) -> bool:
    """Whether a turn is kept from training: one in sixteen keys is."""
    return (
        not turn.is_always_trained and crc32(plain(turn.key or turn.text).encode()) % _ONE_IN == 0
    )


def plain(text: str) -> str:
    """A text without what may differ between two ways to type it: case and punctuation."""
    return re.sub(r"[^\w+*/-]+", " ", text.lower()).strip()


def turn(text: str, *answers: str, **more: Any) -> Turn:
    """A turn without a call."""
    return Turn(text, answers, **more)


def messages_of(turns: Sequence[Turn], system: str = "") -> list[dict[str, Any]]:
    """The conversation in OpenAI's form."""
    first = [{"role": "system", "content": system}] if system else []
    return [*first, *(message for each in turns for message in _messages(each))]


def _messages(turn: Turn) -> Iterator[dict[str, Any]]:
    yield {"role": "user", "content": turn.text}
    if turn.call is not None:
        name, arguments, result = turn.call
        function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
        yield {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}
        text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
        yield {"role": "tool", "content": text}
    yield {"role": "assistant", "content": turn.answers[0]}
