"""A corpus in units of work: parts in the order of its documents that can be done anywhere.

Units depend on the corpus alone, so that processes, machines and later tries agree on them. Small
files share a unit, and large files of records are cut at lines or row groups. What can only be
read from its start (packed files, arrays, one long text) is a unit by itself.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError
from .corpus import Corpus
from .packed import is_packed
from .parquet import row_groups
from .plaintext import UTF8, inner_suffix, marked_encoding
from .reading import Document, Reading, Seen
from .records import read_json_records, text_key
from .sources import LINE_ENDINGS, Cut, Entry

# At the end of the work some cores wait for the last unit: the smallest is half a second's work.
MIN_UNIT_BYTES, MAX_UNIT_BYTES = 2 << 20, 1 << 30
# Each unit makes a handful of files.
_MAX_UNITS = 2048
_LINE_BYTES = 1 << 20
# What a line of JSON begins with; another one may be white space of any alphabet.
_SURE = b'{["tfn-0123456789'


class Unit(NamedTuple):
    """The entries of a unit, or one part of an entry; `size` in bytes of text, about.

    `dropped` are the numbers, from 0, of documents that are passed over.
    """

    number: int
    entries: list[Entry]
    size: int
    dropped: Sequence[int] = ()

    def documents(self, reading: Reading, seen: Seen) -> Iterator[Document]:
        """The documents of this unit; raises `DataError` naming the file and the line."""
        dropped = frozenset(self.dropped)
        for number, document in enumerate(reading.documents(self.entries, seen)):
            if number not in dropped:
                yield document

    def as_json(self) -> dict[str, Any]:
        """For a file; paths become absolute."""
        entries = [_entry_json(e) for e in self.entries]
        return {"entries": entries, "size": self.size, "dropped": list(self.dropped)}

    @classmethod
    def from_json(cls, number: int, value: dict[str, Any]) -> Unit:
        """The unit that `as_json` described."""
        return cls(number, [_entry(e) for e in value["entries"]], value["size"], value["dropped"])


def _entry_json(entry: Entry) -> dict[str, Any]:
    path = None if entry.path is None else os.path.abspath(entry.path)
    return {**dataclasses.asdict(entry), "path": path}


def _entry(value: dict[str, Any]) -> Entry:
    path, cut = value["path"], value["cut"]
    return Entry(
        **{**value, "path": None if path is None else Path(path), "cut": cut and Cut(**cut)}
    )


def units(corpus: Corpus) -> list[Unit]:
    """The corpus in units; files of records that are to be cut are read once, unparsed."""
    size = max(MIN_UNIT_BYTES, min(MAX_UNIT_BYTES, corpus.size // _MAX_UNITS))
    groups = _groups(_parts(corpus.entries, corpus.reading.json_key, size), size)
    return [Unit(k, group, sum(e.size for e in group)) for k, group in enumerate(groups)]


def _groups(entries: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    group: list[Entry] = []
    have = 0
    for entry in entries:
        if group and have + entry.size > size:
            yield group
            group, have = [], 0
        group.append(entry)
        have += entry.size
    if group:
        yield group


def _parts(entries: Iterable[Entry], json_key: str | None, size: int) -> Iterator[Entry]:
    for entry in entries:
        path = entry.path
        if path is None or entry.kind == "text" or entry.size < 2 * size:
            yield entry
        elif entry.kind == "parquet":
            yield from _parquet_parts(entry, path, size)
        else:
            yield from _line_parts(entry, path, json_key, size)


def _parquet_parts(entry: Entry, path: Path, size: int) -> Iterator[Entry]:
    rows = row_groups(path)
    share = entry.size / max(sum(rows), 1)
    start = before = count = 0
    for group, number in enumerate(rows, 1):
        count += number
        if count * share >= size or group == len(rows):
            cut = Cut(start, group, before, before, None)
            yield dataclasses.replace(entry, size=int(count * share), cut=cut)
            start, before, count = group, before + count, 0


def _line_parts(entry: Entry, path: Path, json_key: str | None, size: int) -> Iterator[Entry]:
    if is_packed(path) or inner_suffix(path) not in LINE_ENDINGS or marked_encoding(path) != UTF8:
        yield entry
        return
    try:
        first = next(read_json_records(path), None)
    except DataError:  # it is said when the file is read
        first = None
    value = None if first is None else first.value
    key = (json_key or text_key(value)) if isinstance(value, dict) else None
    if key is None or _begins_an_array(path):
        yield entry
        return
    for cut in _line_cuts(path, key, size):
        yield dataclasses.replace(entry, size=cut.stop - cut.start, cut=cut)


def _begins_an_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(_LINE_BYTES).decode(UTF8, "replace").lstrip().startswith("[")


def _line_cuts(path: Path, key: str, size: int) -> Iterator[Cut]:
    start = at = lines = records = first_line = first_record = 0
    begin = b""
    with path.open("rb") as file:
        # A line may be longer than memory.
        while piece := file.readline(_LINE_BYTES):
            begin = begin or piece
            at += len(piece)
            if not piece.endswith(b"\n"):
                continue
            lines += 1
            records += not _is_blank(begin)
            begin = b""
            if at - start >= size:
                yield Cut(start, at, first_line, first_record, key)
                start, first_line, first_record = at, lines, records
    if at > start:
        yield Cut(start, at, first_line, first_record, key)


def _is_blank(line: bytes) -> bool:
    return line[0] not in _SURE and not line.decode("utf-8-sig", "replace").strip()
