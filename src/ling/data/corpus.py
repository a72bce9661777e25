"""Documents to train on: the interpreter's own library, folders of source, jsonl and text files."""

from __future__ import annotations

import ast
import hashlib
import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError
from .records import read_jsonl, read_text, require_file

MAX_SOURCE_FILE = 1 << 20
STDLIB = "stdlib"
_TOPICS = "pydoc_data/topics.py"
_SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages", "node_modules"}
# Tests and tables teach little of how Python is written.
_SKIPPED_STDLIB = {"test", "tests", "idle_test", "lib2to3", "encodings", "pydoc_data"}
_TABLES = {"html/entities.py"}
_TEXT_ENDINGS = {
    *[
        ".py",
        ".pyi",
        ".pyx",
        ".md",
        ".rst",
        ".txt",
        ".toml",
        ".yaml",
        ".yml",
        ".json",
        ".ini",
        ".cfg",
        ".c",
        ".h",
        ".cc",
        ".cpp",
        ".cxx",
        ".hpp",
    ],
    *[
        ".cu",
        ".rs",
        ".go",
        ".java",
        ".kt",
        ".scala",
        ".swift",
        ".js",
        ".jsx",
        ".ts",
        ".tsx",
        ".sh",
        ".bash",
        ".html",
        ".css",
        ".sql",
        ".jl",
    ],
    *[
        ".rb",
        ".lua",
        ".pl",
        ".php",
        ".r",
        ".hs",
        ".ml",
        ".clj",
        ".ex",
        ".erl",
        ".dart",
        ".zig",
        ".cmake",
        ".proto",
        ".tex",
    ],
}
_TEXT_NAMES = {"Makefile", "Dockerfile", "README", "LICENSE", "CHANGELOG"}
_LINE_ENDINGS = {".jsonl", ".ndjson"}


class Document(NamedTuple):
    """One text with a name that is the same on every machine."""

    name: str
    text: str


@dataclass(frozen=True)
class _Entry:
    """Something that becomes documents: a file, or a text at hand.

    A file that the user `named` must be readable; inside a folder, what is no text is passed over.
    """

    name: str
    size: int
    path: Path | None = None
    text: str | None = None
    named: bool = False

    @property
    def in_lines(self) -> bool:
        """Whether it holds one document a line."""
        ending = "" if self.path is None else self.path.suffix.lower()
        return ending in _LINE_ENDINGS or (ending == ".json" and self.named)


def documents(
    source: str | Sequence[str | Path], max_bytes: int | None = None
) -> Iterator[Document]:
    """All documents of `stdlib`, or of jsonl files, text files and folders, in a stable order.

    `max_bytes` keeps about that much, spread evenly by a hash of the names. Raises `DataError`
    naming the file and the line.
    """
    entries = _stdlib() if source == STDLIB else _listed([Path(s) for s in source])
    share = 1.0
    if max_bytes is not None:
        total = sum(e.size for e in entries)
        share = min(max_bytes / max(total, 1), 1.0)
        kept = {id(e) for e in _spread([e for e in entries if not e.in_lines], share)}
        entries = [e for e in entries if e.in_lines or id(e) in kept]
    for entry in entries:
        if entry.in_lines:
            for document in _records(entry):
                if share == 1.0 or fraction(f"{document.name}#take") < share:
                    yield document
        elif (text := _text(entry)) is not None:
            yield Document(entry.name, text)


def fraction(name: str) -> float:
    """A number in [0, 1) that depends on nothing but the name."""
    return (
        int.from_bytes(hashlib.sha256(name.encode("utf-8", "replace")).digest()[:7], "big") / 2**56
    )


def _spread(entries: Sequence[_Entry], share: float) -> list[_Entry]:
    """Entries in the order of their hash, until `share` of the bytes is reached."""
    left = share * sum(e.size for e in entries)
    kept = []
    for entry in sorted(entries, key=lambda e: (fraction(f"{e.name}#take"), e.name)):
        if entry.size <= left:
            kept.append(entry)
            left -= entry.size
    return kept


def _stdlib() -> list[_Entry]:
    """The standard library's modules and its reStructuredText topics, without tests."""
    root = Path(sysconfig.get_path("stdlib"))
    found = [
        e
        for e in _walk(root, _SKIPPED_FOLDERS | _SKIPPED_STDLIB)
        if e.name.endswith(".py") and e.name not in _TABLES
    ]
    found += _topics(root / _TOPICS)
    if not found:
        raise DataError("this Python has no standard library in source form", path=root)
    return found


def _topics(path: Path) -> list[_Entry]:
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
        _Entry(f"{_TOPICS}#{name}", len(text.encode()), text=text)
        for name, text in sorted(topics.items())
    ]


def _listed(sources: Sequence[Path]) -> list[_Entry]:
    found: list[_Entry] = []
    for source in sources:
        if source.is_dir():
            inside = [e for e in _walk(source, _SKIPPED_FOLDERS) if _is_text(Path(e.name))]
            if not inside:
                raise DataError("no text files in this folder", path=source)
            found += inside
        else:
            require_file(source)
            found.append(_Entry(source.name, source.stat().st_size, source, named=True))
    return found


def _walk(root: Path, skipped: set[str]) -> list[_Entry]:
    """Regular files below `root`, sorted; no hidden, `skipped`, linked or huge ones."""
    found = []
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(f for f in inner if f not in skipped and not f.startswith("."))
        for path in (Path(folder, name) for name in names if not name.startswith(".")):
            if path.is_symlink() or not path.is_file():
                continue
            size, name = path.stat().st_size, path.relative_to(root).as_posix()
            if size <= MAX_SOURCE_FILE or path.suffix in _LINE_ENDINGS:
                found.append(_Entry(name, size, path))
    return sorted(found, key=lambda e: e.name)


def _is_text(path: Path) -> bool:
    ending = path.suffix.lower()
    return ending in _TEXT_ENDINGS or ending in _LINE_ENDINGS or path.name in _TEXT_NAMES


def _records(entry: _Entry) -> Iterator[Document]:
    assert entry.path is not None
    for line, record in read_jsonl(entry.path):
        text = record.get("text")
        if not isinstance(text, str):
            raise DataError("expected a text under the key `text`", path=entry.path, line=line)
        if text.strip():
            yield Document(f"{entry.name}#{line}", text)


def _text(entry: _Entry) -> str | None:
    if entry.path is None:
        return entry.text
    try:
        text = read_text(entry.path)
    except DataError:
        if entry.named:
            raise
        return None  # another encoding, or no text at all
    return text if text.strip() else None
