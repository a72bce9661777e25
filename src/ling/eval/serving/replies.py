"""What came back: the events of a stream with the times at which they came, and what was wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ...text import one_line

MAX_LINE_BYTES = 16 << 20
CUT_BYTES = 200
SHORT = "fewer tokens than asked"


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
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict):
            reply.fault, reply.detail = "an event that is no JSON object", one_line(data[:200])
            return
        if event.get("error"):
            reply.fault, reply.detail = "error event", message_of(event)
            return
        _add(reply, at, event)
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


def _add(reply: Reply, at: float, event: dict[str, Any]) -> None:
    choices = event.get("choices") or [{}]
    delta = choices[0].get("delta") or {}
    text = choices[0].get("text") or delta.get("content") or delta.get("reasoning_content") or ""
    if text:
        reply.events_s.append(at)
        reply.text += text
    usage = event.get("usage") or {}
    reply.prompt_tokens = usage.get("prompt_tokens", reply.prompt_tokens)
    reply.completion_tokens = usage.get("completion_tokens", reply.completion_tokens)
    details = usage.get("prompt_tokens_details") or {}
    reply.cached_tokens = details.get("cached_tokens", reply.cached_tokens)


def message_of(answer: Any) -> str:
    """The words of an error in OpenAI's shape, or in another."""
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    text = error.get("message") if isinstance(error, dict) else error
    return one_line(str(text if text else answer))[:200]
