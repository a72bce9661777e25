"""Needles of text: a sentence with a number of four digits, in prose."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoint.open import tokenizer_folder
from ..data.chat_prompts import ChatPrompts
from ..data.corpus import documents
from ..data.tokenizer import Tokenizer
from ..errors import DataError, UsageError
from .needle_rows import Row, random_of

SENTENCE = "The secret number of {city} is {number}."
QUESTION = "What is the secret number of {city}?"
BEGINNING = "The secret number of {city} is"
CITIES = ("Lisbon", "Oslo", "Kyoto", "Quito", "Dakar", "Perth", "Turin", "Cusco")
_BREAK = re.compile(r"(?<=[.!?])\s+|\n+")
_DIGITS = re.compile(r"\d+")
# Prose that is read at most: two million tokens, read in seconds.
_MOST_CHARACTERS = 1 << 23


@dataclass(frozen=True)
class Prose:
    """A text, and where each of its tokens begins."""

    text: str
    starts: Sequence[int]
    name: str

    @classmethod
    def read(cls, files: Sequence[str], longest: int, tokenizer: Tokenizer) -> Prose:
        """The beginning of files or folders; `DataError` unless rows of `longest` tokens fit."""
        parts, size = [], 0
        for document in documents(list(files)):
            parts.append(document.text)
            size += len(document.text) + 2
            if size >= _MOST_CHARACTERS:
                break
        text, name = "\n\n".join(parts)[:_MOST_CHARACTERS], ", ".join(files)
        _, offsets = tokenizer.encode_with_offsets(text)
        if len(offsets) < longest:
            raise DataError(
                f"{len(offsets)} tokens of prose, too few for rows of {longest}; give more text or "
                "smaller `--lengths`",
                path=name,
            )
        return cls(text, [start for start, _ in offsets], name)

    def window(self, tokens: int, draw: random.Random) -> str:
        """About `tokens` tokens from anywhere."""
        first = draw.randrange(len(self.starts) - tokens + 1)
        ends = [*self.starts[first + tokens : first + tokens + 1], len(self.text)]
        return self.text[self.starts[first] : ends[0]]


@dataclass
class TextNeedles:
    """Sentences in prose, asked for in a chat or by the beginning of the answer."""

    tokenizer: Tokenizer
    prose: Prose
    chat: ChatPrompts | None
    """How a chat is rendered; None asks by the beginning of the answer."""
    max_tokens: int = field(default=24, init=False)

    @classmethod
    def open(cls, model: Path, files: Sequence[str], longest: int, *, chat: bool) -> TextNeedles:
        """Read the prose; raises `UsageError` for a model folder without a tokenizer."""
        found = tokenizer_folder(model)
        if found is None:
            raise UsageError(
                f"{model}: no tokenizer in it, which sentences need; leave `text` out for needles "
                "of token ids"
            )
        tokenizer = Tokenizer.from_folder(found)
        prose = Prose.read(files, longest, tokenizer)
        return cls(tokenizer, prose, ChatPrompts(tokenizer) if chat else None)

    def row(self, length: int, depth: float, number: int, seed: int) -> Row:
        """At most `length` tokens with the answer, and fewer by those of a few words."""
        draw = random_of(seed, length, depth, number)
        city, secret = draw.choice(CITIES), str(draw.randrange(1000, 10000))
        needle = SENTENCE.format(city=city, number=secret)
        room = length - self.max_tokens
        tokens = room - len(self._prompt(needle, city))
        if tokens < 1:
            raise UsageError(
                f"a length of {length} tokens has no room for a needle, its question and an "
                f"answer: they take {length - tokens}"
            )
        text = self.prose.window(tokens, draw)
        prompt = self._prompt(hidden(needle, text, depth), city)
        while len(prompt) > room and text:  # tokens that the cuts made
            text = text[: -4 * (len(prompt) - room)]
            prompt = self._prompt(hidden(needle, text, depth), city)
        return Row(prompt, secret)

    def _prompt(self, text: str, city: str) -> list[int]:
        asked = f"{text}\n\n{QUESTION.format(city=city)}"
        if self.chat is None:
            return self.tokenizer.encode(f"{asked} {BEGINNING.format(city=city)}")
        return self.chat.prompt([{"role": "user", "content": asked}]).ids

    def is_right(self, row: Row, output: Any) -> bool:
        """Whether the first number of the answer is the secret one."""
        found = _DIGITS.search(output.text)
        return found is not None and found.group() == row.answer

    def described(self) -> dict[str, Any]:
        """The prose, and how it is asked."""
        digest = hashlib.sha256(self.prose.text.encode()).hexdigest()[:16]
        return {"kind": "chat" if self.chat else "text", "prose": digest}


def hidden(needle: str, text: str, depth: float) -> str:
    """The text with the needle between the two sentences that are nearest to `depth`."""
    wanted = depth * len(text)
    borders = [0, *(m.end() for m in _BREAK.finditer(text)), len(text)]
    at = min(borders, key=lambda border: abs(border - wanted))
    before, after = text[:at].rstrip(), text[at:].lstrip()
    return " ".join(part for part in (before, needle, after) if part)
