"""Documents to train on: the interpreter's own library, folders, text, JSON and parquet files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from ..errors import UsageError
from .plaintext import BLOCK_BYTES, decoded, paragraphs, pieces
from .sources import STDLIB, Entry, Sources, standard_library
from .tally import Tally


class Document(NamedTuple):
    """One text with a name that is the same on every machine."""

    name: str
    text: str


class Corpus:
    """The documents of `stdlib`, or of files and folders, read again at each iteration.

    Their order is stable. `max_bytes` keeps about that much, spread evenly by a hash of the names.
    `json_key` is the key or the column that has the text. `left_out` counts what folders have and
    the corpus has not, `notes` what was read in a special way; both are complete after an
    iteration. Raises `DataError` naming the file and the line.
    """

    def __init__(
        self,
        source: str | Sequence[str | Path],
        max_bytes: int | None = None,
        json_key: str | None = None,
    ) -> None:
        if json_key is not None and not json_key:
            raise UsageError("`--json-key` is empty, expected the name of a key")
        self._json_key = json_key
        self._sources = Sources([] if source == STDLIB else list(source), json_key)
        self._without_text, self._keys = Tally(), Tally()
        entries = standard_library() if source == STDLIB else self._sources.entries
        self._share, total = 1.0, sum(e.size for e in entries)
        if max_bytes is not None:
            self._share = min(max_bytes / max(total, 1), 1.0)
        # One text is cut at paragraphs: there have to be parts to train on and to hold out.
        self._by_paragraph = len(entries) == 1 and entries[0].kind == "text"
        self._entries = entries if self._by_paragraph else _limited(entries, self._share)
        self.size = int(total * self._share)

    @property
    def left_out(self) -> Tally:
        """Files that cannot be read, and records without text."""
        return self._sources.left_out + self._without_text

    @property
    def notes(self) -> Tally:
        """Files in another encoding than UTF-8, or with another key than `text`."""
        return self._sources.encodings + self._keys

    def __iter__(self) -> Iterator[Document]:
        self._without_text, self._keys = Tally(), Tally()
        for entry in self._entries:
            all_of_it = self._share == 1 or (entry.is_one_document and not self._by_paragraph)
            empty = True
            for document in self._documents(entry):
                if document.text.strip():
                    empty = False
                    if all_of_it or fraction(f"{document.name}#take") < self._share:
                        yield document
            if empty and entry.kind == "text":
                self._without_text.add("file without text", entry.name)

    def _documents(self, entry: Entry) -> Iterator[Document]:
        if entry.kind != "text":
            yield from self._records(entry)
        elif entry.path is None:
            yield Document(entry.name, entry.text or "")
        elif self._by_paragraph:
            yield from _numbered(entry.name, paragraphs(decoded(entry.path, entry.encoding)))
        else:
            yield from _file(entry, entry.path)

    def _records(self, entry: Entry) -> Iterator[Document]:
        key = None
        for record in entry.record_texts(self._json_key):
            if record.key not in (None, "text", self._json_key, key):
                key = record.key
                self._keys.add(f"with the text under the key `{key}`", entry.name)
            name = f"{entry.name}#{record.number}"
            if not record.text.strip():
                self._without_text.add("record without text", name)
            yield Document(name, record.text)


def documents(
    source: str | Sequence[str | Path], max_bytes: int | None = None, json_key: str | None = None
) -> Iterator[Document]:
    """The documents of a `Corpus`, once."""
    return iter(Corpus(source, max_bytes, json_key))


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


def _limited(entries: list[Entry], share: float) -> list[Entry]:
    """Entries with several documents, and of the others a `share` of the bytes, by their hash."""
    if share == 1:
        return entries
    single = [e for e in entries if e.is_one_document]
    left, kept = share * sum(e.size for e in single), set()
    for entry in sorted(single, key=lambda e: (fraction(f"{e.name}#take"), e.name)):
        if entry.size <= left:
            kept.add(id(entry))
            left -= entry.size
    return [e for e in entries if not e.is_one_document or id(e) in kept]
