"""Documents to train on: the interpreter's own library, folders, text, JSON and parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import UsageError
from .reading import Document, Reading, Seen, fraction
from .sources import STDLIB, Entry, Sources, standard_library
from .tally import Tally


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
        self._sources = Sources([] if source == STDLIB else list(source), json_key)
        self.seen = Seen()
        entries = standard_library() if source == STDLIB else self._sources.entries
        share, total = 1.0, sum(e.size for e in entries)
        if max_bytes is not None:
            share = min(max_bytes / max(total, 1), 1.0)
        # One text is cut at paragraphs: there have to be parts to train on and to hold out.
        by_paragraph = len(entries) == 1 and entries[0].kind == "text"
        self.reading = Reading(json_key, share, by_paragraph)
        self.entries = entries if by_paragraph else _limited(entries, share)
        self.size = int(total * share)

    @property
    def left_out(self) -> Tally:
        """Files that cannot be read, and records without text."""
        return self._sources.left_out + self.seen.without_text

    @property
    def notes(self) -> Tally:
        """Files in another encoding than UTF-8, or with another key than `text`."""
        return self._sources.encodings + self.seen.keys

    def __iter__(self) -> Iterator[Document]:
        self.seen = Seen()
        return self.reading.documents(self.entries, self.seen)


def documents(
    source: str | Sequence[str | Path], max_bytes: int | None = None, json_key: str | None = None
) -> Iterator[Document]:
    """The documents of a `Corpus`, once."""
    return iter(Corpus(source, max_bytes, json_key))


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
