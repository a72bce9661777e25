"""What came back: the events of a stream with the times at which they came, and what was wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ...text import one_line

MAX_LINE_BYTES = 16 << 20
CUT_BYTES = 200
MAX_COUNT = 1 << 53
SHORT = "fewer tokens than asked"
T = TypeVar("T", str, list[Any], dict[str, Any])


@dataclass(kw_only=True)
class Reply:
    """One answered or failed request; times are seconds of one clock."""

    asked: int
    """Tokens that were asked for."""
    sent_s: float
    end_s: float = 0.0
    events_s: list[float] = field(default_factory=list)
    """When each event that has text came."""
    text: str = ""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    """From the server's usage; None where it sends none."""
    status: int | None = None
    fault: str | None = None
    """The name of what was wrong, the same for all answers that fail alike."""
    detail: str = ""
    """The server's own words."""

    @property
    def tokens(self) -> int:
        """Tokens of the answer; events with text where the server does not count."""
        found = self.completion_tokens
        return len(self.events_s) if found is None else found

    @property
    def first_token_s(self) -> float | None:
        """Seconds from sending to the first text."""
        return self.events_s[0] - self.sent_s if self.events_s else None

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between neighbouring events."""
        return [b - a for a, b in zip(self.events_s, self.events_s[1:], strict=False)]

    @property
    def per_token_s(self) -> float | None:
        """Mean seconds a token after the first."""
        if len(self.events_s) < 2 or self.tokens < 2:
            return None
        return (self.events_s[-1] - self.events_s[0]) / (self.tokens - 1)


def read_stream(reply: Reply, received: Iterable[tuple[float, bytes]], stop_at_eos: bool) -> None:
    """Fill `reply` from the pieces of an event stream, each with the time at which it came."""
    is_done = False
    for at, data in events(received):
        if data == "[DONE]":
            is_done = True
            continue
        event = event_of(data)
        if event is None:
            reply.fault, reply.detail = "an event that is no JSON object", one_line(data[:200])
            return
        if event.get("error"):
            reply.fault, reply.detail = "error event", message_of(event)
            return
        try:
            _add(reply, at, event)
        except TypeError:
            reply.fault, reply.detail = "an event not in OpenAI's form", one_line(data[:200])
            return
    if not is_done:
        reply.fault = "the stream ended before [DONE]"
    elif reply.tokens < reply.asked and not stop_at_eos:
        reply.fault, reply.detail = SHORT, f"{reply.tokens} of {reply.asked}"
    elif reply.tokens > reply.asked:
        reply.fault, reply.detail = "more tokens than asked", f"{reply.tokens} of {reply.asked}"
    elif not reply.events_s:
        reply.fault = "an answer without text"


def events(received: Iterable[tuple[float, bytes]]) -> Iterator[tuple[float, str]]:
    """Data of each event, with the time of the piece that completed it. A line that does not end
    is the last, and cut: no event, and no reader takes it for one."""
    rest = bytearray()
    for at, piece in received:
        rest += piece
        if b"\n" not in piece:
            if len(rest) > MAX_LINE_BYTES:
                yield at, rest[:CUT_BYTES].decode("utf-8", "replace")
                return
            continue
        *lines, rest = rest.split(b"\n")
        for line in lines:
            # llama.cpp's server has sent failures in a field of their own.
            name, _, value = line.strip().partition(b":")
            if name in (b"data", b"error"):
                yield at, value.strip().decode("utf-8", "replace")


def event_of(data: str) -> dict[str, Any] | None:
    """The JSON object that an event is; None where it is none."""
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def _add(reply: Reply, at: float, event: dict[str, Any]) -> None:
    """Take in what an event says; raises `TypeError` where a field of it is of another type."""
    choices = _typed(list, event.get("choices"))
    choice = _typed(dict, choices[0] if choices else None)
    delta = _typed(dict, choice.get("delta"))
    places = choice.get("text"), delta.get("content"), delta.get("reasoning_content")
    texts = [_typed(str, place) for place in places]
    if text := next(filter(None, texts), ""):
        reply.events_s.append(at)
        reply.text += text
    usage = _typed(dict, event.get("usage"))
    details = _typed(dict, usage.get("prompt_tokens_details"))
    reply.prompt_tokens = _count(usage.get("prompt_tokens"), reply.prompt_tokens)
    reply.completion_tokens = _count(usage.get("completion_tokens"), reply.completion_tokens)
    reply.cached_tokens = _count(details.get("cached_tokens"), reply.cached_tokens)


def _typed(kind: type[T], value: Any) -> T:
    """A value of an event; an empty one where it has none."""
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise TypeError
    return value


def _count(value: Any, known: int | None) -> int | None:
    """A number of tokens, or what was `known` before where an event has none."""
    if value is None:
        return known
    if type(value) is not int or not 0 <= value < MAX_COUNT:
        raise TypeError
    return value


def message_of(answer: Any) -> str:
    """The words of an error in OpenAI's shape, or in another."""
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    text = error.get("message") if isinstance(error, dict) else error
    return one_line(str(text if text else answer))[:200]
