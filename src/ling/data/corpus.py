"""Documents to train on: the interpreter's own library, folders of source, jsonl and text files."""

from __future__ import annotations

import hashlib
import json
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError

MAX_SOURCE_FILE = 1 << 20
MAX_LINE = 16 << 20
_SKIPPED_FOLDERS = {"__pycache__", "site-packages", "node_modules", "dist-packages"}
_TEXT_ENDINGS = {
    ".c",
    ".cc",
    ".cpp",
    ".css",
    ".go",
    ".h",
    ".hpp",
    ".html",
    ".java",
    ".jl",
    ".js",
    ".json",
    ".lua",
    ".md",
    ".py",
    ".pyi",
    ".rb",
    ".rs",
    ".rst",
    ".sh",
    ".sql",
    ".toml",
    ".ts",
    ".txt",
    ".yaml",
    ".yml",
}


class Document(NamedTuple):
    """One text with a name that is the same on every machine."""

    name: str
    text: str


def documents(
    source: str | Sequence[str | Path], max_bytes: int | None = None
) -> Iterator[Document]:
    """All documents of `stdlib` or of jsonl files, text files and folders, in a stable order.

    `max_bytes` keeps about that much, spread evenly over the files.
    """
    files = stdlib_files() if source == "stdlib" else _files([Path(s) for s in source])
    share = 1.0
    if max_bytes is not None:
        total = sum(p.stat().st_size for _, p in files) or 1
        share = max_bytes / total
    for name, path in files:
        if fraction(name + "#take") < share or path.suffix == ".jsonl":
            yield from _read(name, path)


def stdlib_files() -> list[tuple[str, Path]]:
    """The standard library's modules and its reStructuredText topics (`pydoc_data`), no tests.

    Tests and generated tables teach little of how Python is written.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {*_SKIPPED_FOLDERS, "test", "tests", "idle_test", "lib2to3", "encodings"}
    found = [
        (str(p.relative_to(root)), p)
        for p in root.rglob("*.py")
        if not skipped & set(p.relative_to(root).parts[:-1]) and p.stat().st_size <= MAX_SOURCE_FILE
    ]
    return sorted(found)


def _files(sources: Sequence[Path]) -> list[tuple[str, Path]]:
    found: list[tuple[str, Path]] = []
    for source in sources:
        if source.is_file():
            found.append((source.name, source))
        elif source.is_dir():
            found += sorted(
                (str(p.relative_to(source)), p) for p in source.rglob("*") if _wanted(source, p)
            )
        else:
            raise DataError("no such file or folder", path=source)
    return found


def _wanted(root: Path, path: Path) -> bool:
    parts = path.relative_to(root).parts
    hidden = any(p.startswith(".") or p in _SKIPPED_FOLDERS for p in parts)
    plain = path.is_file() and not path.is_symlink()
    ending = path.suffix.lower() in _TEXT_ENDINGS or path.suffix == ".jsonl"
    return plain and ending and not hidden and path.stat().st_size <= MAX_SOURCE_FILE


def _read(name: str, path: Path) -> Iterator[Document]:
    if path.suffix == ".jsonl":
        for n, text in enumerate(read_jsonl(path), 1):
            yield Document(f"{name}#{n}", text)
        return
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        return  # another encoding, or no text at all
    if text.strip() and "\0" not in text:
        yield Document(name, text)


def read_jsonl(path: Path) -> Iterator[str]:
    """The `text` of each line, streaming; `DataError` names the first bad line."""
    with path.open("rb") as file:
        head = file.read(2)
        if head in (b"\x1f\x8b", b"\xff\xfe", b"\xfe\xff"):
            raise DataError("compressed or UTF-16, expected plain UTF-8 lines", path=path)
        file.seek(0)
        line = 0
        while raw := file.readline(MAX_LINE):
            line += 1
            if len(raw) >= MAX_LINE:
                raise DataError(f"line longer than {MAX_LINE} bytes", path=path, line=line)
            if not raw.strip():
                continue
            try:
                record = json.loads(raw.decode("utf-8"))
            except (ValueError, RecursionError):
                raise DataError("not a JSON object in UTF-8", path=path, line=line) from None
            if not isinstance(record, dict) or not isinstance(record.get("text"), str):
                raise DataError("expected an object with a string `text`", path=path, line=line)
            yield record["text"]


def fraction(name: str) -> float:
    """A number in [0, 1) that depends on nothing but the name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
