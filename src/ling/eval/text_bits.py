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

from ..data.chat_prompts import template_of
from ..data.tokenizer import Tokenizer
from ..errors import RequestError
from ..infer.request import SamplingParams
from ..llm import LLM

WINDOW_BYTES = 1024
_ONLY_SCORES = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
# Requests in the engine at once: all of a large text would keep all their scores.
_GROUP = 64


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


def text_bits(llm: LLM, texts: Iterable[str]) -> Bits:
    """Of texts, which `windows` has cut; raises `RequestError` without a mark between documents."""
    tok = _tokenizer(llm)
    if tok.eod_token_id is None:
        raise RequestError("the tokenizer has no token that ends a document")
    begin = [tok.eod_token_id]
    return _scored(llm, ((begin, tok.encode(text), len(text.encode())) for text in texts))


def reply_bits(llm: LLM, asked: Iterable[Reply]) -> Bits:
    """Of words behind a conversation; the end of the turn is not scored."""
    tok = _tokenizer(llm)
    template = template_of(tok)
    return _scored(
        llm,
        (
            (template.encode(tok, r.messages).ids, tok.encode(r.text), len(r.text.encode()))
            for r in asked
        ),
    )


def _tokenizer(llm: LLM) -> Tokenizer:
    if llm.tokenizer is None:
        raise RequestError("bits per byte need a model with a tokenizer")
    return llm.tokenizer


def _scored(llm: LLM, rows: Iterable[tuple[list[int], list[int], int]]) -> Bits:
    """Of (ids before, ids that are scored, bytes of these)."""
    total, group = Bits(), list[tuple[list[int], list[int], int]]()
    for row in rows:
        group.append(row)
        if len(group) == _GROUP:
            total, group = total + _of_group(llm, group), []
    return total + _of_group(llm, group)


def _of_group(llm: LLM, group: Sequence[tuple[list[int], list[int], int]]) -> Bits:
    prompts = [{"prompt_token_ids": before + ids} for before, ids, _ in group]
    found = Bits()
    for (before, ids, nbytes), output in zip(
        group, llm.generate(prompts, _ONLY_SCORES) if prompts else [], strict=True
    ):
        rows = output.prompt_logprobs
        assert rows is not None
        behind = zip(rows[len(before) :], ids, strict=True)
        nats = -math.fsum(row[i].logprob for row, i in behind if row is not None)
        found += Bits(nats, nbytes, len(ids))
    return found
