"""Which files a task's data are: results of others must not be taken for theirs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from ...errors import DataError


def file_id(path: Path) -> str:
    """A hash of a file's content; raises `DataError` where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as err:
        raise DataError(f"{err.strerror or err}", path=path) from None


def files_id(paths: Iterable[str | Path]) -> str:
    """A hash that differs when files, or files in folders or of token prefixes, differ in name,
    size or time; raises `DataError` for one that does not exist."""
    whole = hashlib.sha256()
    for path in paths:
        for file in _files(path):
            known = file.stat()
            whole.update(f"{file}\0{known.st_size} {known.st_mtime_ns}\n".encode())
    return whole.hexdigest()[:16]


def _files(path: str | Path) -> list[Path]:
    token_files = [Path(f"{path}.idx"), Path(f"{path}.bin")]
    if token_files[0].is_file():
        return token_files
    if not os.path.exists(path):
        raise DataError("no such file or folder", path=path)
    found = Path(path)
    return sorted(p for p in found.rglob("*") if p.is_file()) if found.is_dir() else [found]
