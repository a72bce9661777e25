"""A corpus in two parts: documents to train on, and documents held out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from ..text import shown
from .plaintext import cut
from .reading import Document, fraction
from .tally import Tally

# Less is not worth more text to train on: it fills no rows of a held-out loss.
_ENOUGH_BYTES, _ENOUGH_SHARE = 1 << 16, 0.2
_TRAIN, _HELD_OUT = "#train", "#held-out"


@dataclass(frozen=True)
class Split:
    """Which documents are held out: those whose hash of `seed` and name falls into `share`.

    Of few documents it is the one called `name`, or only `part` of it, at its end.
    """

    share: float
    seed: int
    name: str | None = None
    part: float = 1.0

    def divided(self, documents: Iterable[Document]) -> Iterator[Document]:
        """`documents`, of which one may come in two parts."""
        for document in documents:
            if document.name == self.name and self.part < 1:
                yield from _cut(document, self.part)
            else:
                yield document

    def is_held_out(self, document: Document) -> bool:
        """Whether a document of `divided` is in the part that is not trained on."""
        if self.name is None:
            return self.position(document) < self.share
        return document.name == self.name + (_HELD_OUT if self.part < 1 else "")

    def position(self, document: Document) -> float:
        """The hash of a document's name, in [0, 1)."""
        return fraction(f"{self.seed}/{document.name}" if self.seed else document.name)


@dataclass
class Measured:
    """What a corpus or a part of it has: `held` documents are below the share, sizes in bytes."""

    documents: int = 0
    bytes: int = 0
    held: int = 0
    longest: int = 0

    def add(self, document: Document, size: int, split: Split) -> None:
        """Count one more document of `size` bytes."""
        self.documents += 1
        self.bytes += size
        self.longest = max(self.longest, len(document.text.strip()))
        self.held += split.is_held_out(document)

    def __add__(self, other: Measured) -> Measured:
        return Measured(
            self.documents + other.documents,
            self.bytes + other.bytes,
            self.held + other.held,
            max(self.longest, other.longest),
        )


def choose_split(
    documents: Iterable[Document], measured: Measured, split: Split
) -> tuple[Split, str]:
    """The split of what was measured, and how to say it where the hash alone does not give two.

    Then one document is held out, the one nearest in size to the share, or only the end of a large
    one.
    """
    if 0 < measured.held < measured.documents and measured.documents > 1:
        return split, ""
    return _of_few(documents, measured, split)


def _of_few(documents: Iterable[Document], measured: Measured, split: Split) -> tuple[Split, str]:
    """What is held out of few documents, and how to say it."""
    wanted = split.share * measured.bytes
    sizes = ((d, len(d.text.encode())) for d in documents)
    best = min((abs(math.log(n / wanted)), split.position(d), d.name, n) for d, n in sizes)
    name, size = best[2:]
    if measured.documents == 1:
        part = split.share
    elif size <= max(_ENOUGH_BYTES, _ENOUGH_SHARE * measured.bytes, 2 * wanted):
        part = 1.0
    else:
        part = max(wanted, _ENOUGH_BYTES) / size
    what = shown(name) if part == 1 else f"the end of {shown(name)}"
    few = "one document" if measured.documents == 1 else "few documents"
    hint = f"{few}: {what} is held out, {part * size / measured.bytes:.1%}"
    return Split(split.share, split.seed, name, part), hint


def require_two_words(
    measured: Measured, left_out: Tally, where: str | Sequence[str | Path]
) -> None:
    """`DataError` when there is no text for two parts."""
    if measured.documents > 1 or measured.longest > 1:
        return
    reasons = "".join(f"; left out {line}" for line in left_out.lines())
    few = "a single character of text" if measured.documents else "0 documents with text"
    raise DataError(
        f"{few}, need at least two words, to hold one out{reasons}", path=_places(where)
    )


def _cut(document: Document, part: float) -> Iterator[Document]:
    text = document.text.strip()
    at = min(max(round(len(text) * (1 - part)), 1), len(text) - 1)
    first, second = cut(text, at)
    yield Document(document.name + _TRAIN, first)
    yield Document(document.name + _HELD_OUT, second)


def _places(where: str | Sequence[str | Path]) -> str:
    return where if isinstance(where, str) else ", ".join(map(str, where))
