"""Bits per byte of text under a model: comparable between models of any tokenizer.

All are asked for the same bytes with the same bytes before them. A document is cut into windows,
each scored alone behind the mark of a document's beginning; of conversations the words of the
assistant are scored, behind what was said before, in the model's own chat template.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .scorer import Row, Scorer

WINDOW_BYTES = 1024


@dataclass(frozen=True)
class Bits:
    """Negative log-likelihood in nats of `bytes` bytes of text, which are `tokens` tokens."""

    nats: float = 0.0
    bytes: int = 0
    tokens: int = 0

    def __add__(self, other: Bits) -> Bits:
        return Bits(self.nats + other.nats, self.bytes + other.bytes, self.tokens + other.tokens)

    @property
    def per_byte(self) -> float | None:
        """Bits per byte; None of no text."""
        return bits_per_byte(self.nats, self.bytes)

    def as_dict(self) -> dict[str, Any]:
        """With the rate."""
        return {"bits_per_byte": self.per_byte, "bytes": self.bytes, "tokens": self.tokens}


def bits_per_byte(nats: float, nbytes: int) -> float | None:
    """Of a text of `nbytes` bytes; None where there is none."""
    return nats / math.log(2) / nbytes if nbytes else None


@dataclass(frozen=True)
class Reply:
    """Words of an assistant, and the messages before them."""

    messages: list[dict[str, Any]]
    text: str


def windows(texts: Iterable[str], limit: int = WINDOW_BYTES) -> Iterator[str]:
    """Each text in parts of at most `limit` bytes, cut between characters."""
    for text in texts:
        raw, at = text.encode(), 0
        while at < len(raw):
            end = min(at + limit, len(raw))
            while end < len(raw) and raw[end] & 0xC0 == 0x80:  # inside a character
                end -= 1
            yield raw[at:end].decode()
            at = end


def replies(records: Iterable[dict[str, Any]]) -> Iterator[Reply]:
    """The worded turns of the assistant in conversations without tools, whose calls and tool heads
    each model would write otherwise."""
    for record in records:
        if record.get("tools"):
            continue
        messages = record["messages"]
        for i, message in enumerate(messages):
            if message["role"] == "assistant" and message.get("content"):
                yield Reply(messages[:i], message["content"])


def text_bits(scorer: Scorer, texts: Iterable[str]) -> Bits:
    """Of texts, which `windows` has cut."""
    return _scored(scorer, [(Row([scorer.end_id], scorer.encode(t)), t) for t in texts if t])


def reply_bits(scorer: Scorer, asked: Iterable[Reply]) -> Bits:
    """Of words behind a conversation; the end of the turn is not scored."""
    rows = [
        (Row(scorer.encode(scorer.render(r.messages), special=True), scorer.encode(r.text)), r.text)
        for r in asked
    ]
    return _scored(scorer, rows)


def _scored(scorer: Scorer, rows: Sequence[tuple[Row, str]]) -> Bits:
    found = scorer.score([row for row, _ in rows])
    return Bits(
        -math.fsum(one.logprob for one in found),
        sum(len(text.encode()) for _, text in rows),
        sum(len(row.continuation) for row, _ in rows),
    )
