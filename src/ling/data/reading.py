"""From the entries of a corpus to its documents; the same for all of it and for any part of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from .plaintext import BLOCK_BYTES, decoded, paragraphs, pieces
from .sources import Entry
from .tally import Tally


class Document(NamedTuple):
    """One text with a name that is the same on every machine."""

    name: str
    text: str


@dataclass
class Seen:
    """What was met while reading: records and files without text, unusual keys."""

    without_text: Tally = field(default_factory=Tally)
    keys: Tally = field(default_factory=Tally)

    def __add__(self, other: Seen) -> Seen:
        return Seen(self.without_text + other.without_text, self.keys + other.keys)


@dataclass(frozen=True)
class Reading:
    """How documents are read: the key of their text, the share that is kept, the cut of a text.

    A document is kept by a hash of its name, so that parts of a corpus can be read in any order.
    """

    json_key: str | None = None
    share: float = 1.0
    by_paragraph: bool = False

    def documents(self, entries: Iterable[Entry], seen: Seen) -> Iterator[Document]:
        """The documents of `entries` in order; raises `DataError` naming the file and the line."""
        for entry in entries:
            all_of_it = self.share == 1 or (entry.is_one_document and not self.by_paragraph)
            empty = True
            for document in self._documents(entry, seen):
                if document.text.strip():
                    empty = False
                    if all_of_it or fraction(f"{document.name}#take") < self.share:
                        yield document
            if empty and entry.kind == "text":
                seen.without_text.add("file without text", entry.name)

    def _documents(self, entry: Entry, seen: Seen) -> Iterator[Document]:
        if entry.kind != "text":
            yield from self._records(entry, seen)
        elif entry.path is None:
            yield Document(entry.name, entry.text or "")
        elif self.by_paragraph:
            yield from _numbered(entry.name, paragraphs(decoded(entry.path, entry.encoding)))
        else:
            yield from _file(entry, entry.path)

    def _records(self, entry: Entry, seen: Seen) -> Iterator[Document]:
        key, is_first = None, entry.cut is None or not entry.cut.before
        for record in entry.record_texts(self.json_key):
            if is_first and record.key not in (None, "text", self.json_key, key):
                key = record.key
                seen.keys.add(f"with the text under the key `{key}`", entry.name)
            name = f"{entry.name}#{record.number}"
            if not record.text.strip():
                seen.without_text.add("record without text", name)
            yield Document(name, record.text)


def fraction(name: str) -> float:
    """A number in [0, 1) that depends on nothing but the name."""
    return (
        int.from_bytes(hashlib.sha256(name.encode("utf-8", "replace")).digest()[:7], "big") / 2**56
    )


def _file(entry: Entry, path: Path) -> Iterator[Document]:
    """A text file as one document, or as several when it is long."""
    texts, head = decoded(path, entry.encoding), ""
    for text in texts:
        head += text
        if len(head) > BLOCK_BYTES:
            yield from _numbered(entry.name, pieces(chain([head], texts)))
            return
    yield Document(entry.name, head)


def _numbered(name: str, texts: Iterator[str]) -> Iterator[Document]:
    for number, text in enumerate(texts, 1):
        yield Document(f"{name}#{number}", text)
