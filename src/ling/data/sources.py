"""Which files a corpus has: sources are listed, and what is no text is told apart before use."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..errors import DataError
from .folder import SKIPPED_FOLDERS, Found, walk
from .parquet import read_parquet_records
from .plaintext import (
    BLOCK_BYTES,
    ENCODING_NAMES,
    EXPECTED,
    UTF8,
    find_encoding,
    inner_suffix,
    require_file,
    text_bytes,
)
from .records import (
    NoTextKeyError,
    RecordText,
    read_json_lines,
    read_json_records,
    record_texts,
)
from .tally import Tally, file_label

STDLIB = "stdlib"
_TOPICS = "pydoc_data/topics.py"
# Tests and tables teach little of how Python is written.
_SKIPPED_STDLIB = {"test", "tests", "idle_test", "lib2to3", "encodings", "pydoc_data"}
_TABLES = {"html/entities.py"}
_MAX_STDLIB_FILE = 1 << 20
LINE_ENDINGS = {".jsonl", ".ndjson"}
_Kind = Literal["text", "json", "parquet"]


@dataclass(frozen=True)
class Cut:
    """A part of a file of records: whole lines from byte `start` to `stop`, or parquet row groups.

    `line` lines and `before` records come before it; `key` is where the file has its texts.
    """

    start: int
    stop: int
    line: int
    before: int
    key: str | None


@dataclass(frozen=True)
class Entry:
    """Something that becomes documents: a file or a part of one, or a text in memory."""

    name: str
    size: int
    path: Path | None = None
    kind: _Kind = "text"
    text: str | None = None
    encoding: str = UTF8
    cut: Cut | None = None

    @property
    def is_one_document(self) -> bool:
        """Whether it is small enough for one document; a longer text is read in pieces."""
        return self.kind == "text" and self.size <= BLOCK_BYTES

    def record_texts(self, json_key: str | None) -> Iterator[RecordText]:
        """The texts of the records of a JSON or parquet file."""
        assert self.path is not None
        cut, path = self.cut, self.path
        if self.kind == "parquet":
            part = None if cut is None else (cut.start, cut.stop, cut.before)
            return record_texts(path, read_parquet_records(path, json_key, part), json_key)
        if cut is None:
            return record_texts(path, read_json_records(path), json_key)
        lines = read_json_lines(path, cut.start, cut.stop, line=cut.line, number=cut.before)
        return record_texts(path, lines, json_key, known=cut.key)


class Sources:
    """The entries of files and folders; tallies of the files left out and of unusual encodings.

    A file that the user named must be readable (`DataError`); one inside a folder is counted.
    """

    def __init__(self, sources: Sequence[str | Path], json_key: str | None = None) -> None:
        self._json_key = json_key
        self.left_out, self.encodings = Tally(), Tally()
        self.entries = _distinct([e for s in sources for e in self._source(Path(s))])

    def _source(self, path: Path) -> list[Entry]:
        if path.is_dir():
            return self._folder(path)
        require_file(path)
        entry = _entry(file_label(path.name), path)
        return [self._decodable(entry) if entry.kind == "text" else entry]

    def _folder(self, root: Path) -> list[Entry]:
        inside = [e for file in walk(root, self.left_out) if (e := self._inside(file))]
        if not inside:
            reasons = "; ".join(f"left out {line}" for line in self.left_out.lines())
            cause = "no text files in this folder" + (f", {reasons}" if reasons else "")
            raise DataError(cause, path=root)
        return inside

    def _inside(self, file: Found) -> Entry | None:
        """A file of a folder, unless it is no text or its records have none."""
        entry = _entry(file.name, file.path)
        try:
            if entry.kind == "json" and not _in_lines(file.path):
                # Mostly settings and the like, which are text as source code is.
                entry = entry if self._has_records(entry) else replace(entry, kind="text")
            elif entry.kind != "text":
                next(entry.record_texts(self._json_key), None)
            return self._decodable(entry) if entry.kind == "text" else entry
        except NoTextKeyError as err:
            self.left_out.add(f"without a text key (keys: {err.keys})", file.name)
        except DataError as err:
            if entry.kind != "text" and err.line is not None:
                raise
            self.left_out.add(err.reason.removesuffix(EXPECTED), file.name)
        return None

    def _has_records(self, entry: Entry) -> bool:
        """Whether a `.json` file is records with text, rather than one text itself."""
        try:
            first = next(entry.record_texts(self._json_key), None)
        except DataError:
            return False
        return first is not None and first.key is not None

    def _decodable(self, entry: Entry) -> Entry:
        assert entry.path is not None
        encoding = find_encoding(entry.path)
        if encoding != UTF8:
            self.encodings.add(f"in {ENCODING_NAMES[encoding]}, not UTF-8", entry.name)
        return replace(entry, encoding=encoding)


def _entry(name: str, path: Path) -> Entry:
    kind: _Kind = "text"
    if _in_lines(path) or inner_suffix(path) == ".json":
        kind = "json"
    elif path.suffix.lower() == ".parquet":
        kind = "parquet"
    return Entry(name, text_bytes(path), path, kind)


def _in_lines(path: Path) -> bool:
    return inner_suffix(path) in LINE_ENDINGS


def _distinct(entries: list[Entry]) -> list[Entry]:
    """The same name in two sources gets a number, so that documents are told apart."""
    times: dict[str, int] = {}
    found = []
    for entry in entries:
        count = times[entry.name] = times.get(entry.name, 0) + 1
        found.append(entry if count == 1 else replace(entry, name=f"{entry.name}~{count}"))
    return found


def standard_library() -> list[Entry]:
    """The standard library's modules and its reStructuredText topics, without tests."""
    root = Path(sysconfig.get_path("stdlib"))
    found = [
        Entry(f.name, f.size, f.path)
        for f in walk(root, Tally(), SKIPPED_FOLDERS | _SKIPPED_STDLIB)
        if f.name.endswith(".py") and f.name not in _TABLES
        if f.size <= _MAX_STDLIB_FILE and not f.is_link
    ]
    found += _topics(root / _TOPICS)
    if not found:
        raise DataError("this Python has no standard library in source form", path=root)
    return found


def _topics(path: Path) -> list[Entry]:
    """The language reference behind `help("keyword")`, read without running it."""
    try:
        tree = ast.parse(path.read_text("utf-8"))
        table = next(n.value for n in tree.body if isinstance(n, ast.Assign))
        topics = ast.literal_eval(table)
    except (OSError, ValueError, SyntaxError, StopIteration):
        return []
    if not isinstance(topics, dict):
        return []
    return [
        Entry(f"{_TOPICS}#{name}", len(text.encode()), text=text)
        for name, text in sorted(topics.items())
    ]
