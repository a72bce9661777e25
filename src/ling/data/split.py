"""A corpus in two parts: documents to train on, and documents held out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError
from ..text import shown
from .corpus import Corpus, Document, fraction
from .plaintext import cut

# Less is not worth more text to train on: it fills no rows of a held-out loss.
_ENOUGH_BYTES, _ENOUGH_SHARE = 1 << 16, 0.2
_TRAIN, _HELD_OUT = "#train", "#held-out"
Watch = Callable[[Iterator[Document], int, str], Iterator[Document]]


class _Chosen(NamedTuple):
    """The one document that is held out, or the share at its end if it is too large for that."""

    name: str
    part: float


class SplitCorpus:
    """The documents of a corpus, held out by a hash of `seed` and their names.

    The corpus is read once when this is made, to count `documents` and `bytes`. With few documents
    one of them is held out, the one nearest in size to `share`, or only the end of a large one;
    `hint` says so. Raises `DataError` when there is no text for two parts.
    """

    def __init__(
        self,
        corpus: Corpus,
        where: str | Sequence[str | Path],
        share: float,
        seed: int,
        show: Watch,
    ) -> None:
        self._corpus, self._share, self._seed = corpus, share, seed
        self.documents = self.bytes = held = longest = 0
        for document in show(iter(corpus), corpus.size, "reading"):
            self.documents += 1
            self.bytes += len(document.text.encode())
            longest = max(longest, len(document.text.strip()))
            held += self._place(document) < share
        if self.documents < 2 and longest < 2:
            raise DataError(self._too_little(), path=_places(where))
        self.hint, self._chosen = "", None
        if not 0 < held < self.documents or self.documents == 1:
            self._chosen, self.hint = self._choose()

    def __iter__(self) -> Iterator[Document]:
        for document in self._corpus:
            if self._chosen and document.name == self._chosen.name and self._chosen.part < 1:
                yield from _cut(document, self._chosen.part)
            else:
                yield document

    def is_held_out(self, document: Document) -> bool:
        """Whether a document of this corpus is in the part that is not trained on."""
        if self._chosen is None:
            return self._place(document) < self._share
        return document.name == self._chosen.name + (_HELD_OUT if self._chosen.part < 1 else "")

    def _place(self, document: Document) -> float:
        return fraction(f"{self._seed}/{document.name}" if self._seed else document.name)

    def _choose(self) -> tuple[_Chosen, str]:
        """What is held out of few documents, and how to say it."""
        wanted = self._share * self.bytes
        sizes = ((d, len(d.text.encode())) for d in self._corpus)
        best = min((abs(math.log(n / wanted)), self._place(d), d.name, n) for d, n in sizes)
        name, size = best[2:]
        if self.documents == 1:
            part = self._share
        elif size <= max(_ENOUGH_BYTES, _ENOUGH_SHARE * self.bytes, 2 * wanted):
            part = 1.0
        else:
            part = max(wanted, _ENOUGH_BYTES) / size
        what = shown(name) if part == 1 else f"the end of {shown(name)}"
        few = "one document" if self.documents == 1 else "few documents"
        return _Chosen(name, part), f"{few}: {what} is held out, {part * size / self.bytes:.1%}"

    def _too_little(self) -> str:
        reasons = "".join(f"; left out {line}" for line in self._corpus.left_out.lines())
        few = "a single character of text" if self.documents else "0 documents with text"
        return f"{few}, need at least two words, to hold one out{reasons}"


def _cut(document: Document, part: float) -> Iterator[Document]:
    text = document.text.strip()
    at = min(max(round(len(text) * (1 - part)), 1), len(text) - 1)
    first, second = cut(text, at)
    yield Document(document.name + _TRAIN, first)
    yield Document(document.name + _HELD_OUT, second)


def _places(where: str | Sequence[str | Path]) -> str:
    return where if isinstance(where, str) else ", ".join(map(str, where))
