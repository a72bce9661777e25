"""Writing files and folders so that a half-written one never has its final name."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import RunError, UsageError

# Not the input's fault: a full disk, a quota, a limit on file sizes.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """Yield `<final>.tmp`; rename it to `final` when the block ends well, else remove it.

    Raises `UsageError` if the place is not writable, `RunError` if writing fails (full disk).
    """
    tmp = final.with_name(final.name + ".tmp")
    try:
        shutil.rmtree(tmp, ignore_errors=True)
        tmp.mkdir(parents=True)
    except OSError as err:
        raise UsageError(f"{final}: cannot write here: {err.strerror}") from None
    try:
        yield tmp
        for path in tmp.rglob("*"):
            if path.is_file():
                _fsync(path)
        os.rename(tmp, final)
        _fsync(final.parent)
    except OSError as err:
        raise RunError(f"could not save {final}: {err.strerror or err}") from None
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def write_atomic(path: Path, text: str) -> None:
    """Replace `path` in one step."""
    tmp = path.with_name(path.name + ".tmp")
    try:
        tmp.write_text(text, "utf-8")
        _fsync(tmp)
        os.replace(tmp, path)
    except OSError as err:
        if err.errno in _NO_SPACE:
            tmp.unlink(missing_ok=True)
            raise RunError(f"could not save {path}: {err.strerror}") from None
        raise UsageError(f"{path}: cannot write here: {err.strerror}") from None


def make_folder(path: Path) -> Path:
    """Create an output folder; `UsageError` when it cannot be written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise UsageError(f"{path}: cannot write here: {err.strerror}") from None
    if not os.access(path, os.W_OK):
        raise UsageError(f"{path}: cannot write here: permission denied")
    return path


def hash_tree(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder`, by relative path."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    hashes = {}
    for path in files:
        with path.open("rb") as file:
            hashes[str(path.relative_to(folder))] = (
                hashlib.file_digest(file, "sha256").hexdigest()
                if hasattr(hashlib, "file_digest")
                else hashlib.sha256(file.read()).hexdigest()
            )
    return hashes


def read_json(path: Path) -> Any:
    """Parse a JSON file of ours; `UsageError` when it is damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as err:
        raise UsageError(f"{path}: unreadable ({err})") from None


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
