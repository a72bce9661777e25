"""Files packed by gzip or zstandard, told by their names.

Zstandard is Python's own from 3.14 on, before that the package `zstandard` (the extra `zstd`).
"""

from __future__ import annotations

import contextlib
import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import DataError, UsageError

_SUFFIXES = (".gz", ".zst")
# A file asks for a window of this much memory at most: what `zstd` itself grants.
_MAX_WINDOW_LOG = 27
# What this many bytes can unpack to at once still is little memory.
_READ_BYTES = 1 << 12


def is_packed(path: Path) -> bool:
    """Whether the name announces a packed file."""
    return path.suffix.lower() in _SUFFIXES


def claimed_bytes(path: Path, max_ratio: int) -> int:
    """About how many bytes a packed file holds: what gzip's end claims, else a guess."""
    size = path.stat().st_size
    if path.suffix.lower() != ".gz" or size < 18:
        return size * 4
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        claimed = int.from_bytes(file.read(4), "little")
    return claimed if size // 2 <= claimed <= size * max_ratio else size * 4


@contextlib.contextmanager
def open_unpacked(path: Path) -> Iterator[BinaryIO]:
    """The content of a packed file as a stream; reading it raises `DataError` when it is damaged.

    Raises `UsageError` where zstandard is not installed.
    """
    if path.suffix.lower() == ".zst":
        with _zstandard(path) as file:
            yield file
        return
    try:
        with gzip.open(path, "rb") as file:
            yield file  # type: ignore[misc]
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise DataError("gzip that is damaged or cut off", path=path) from None


@contextlib.contextmanager
def _zstandard(path: Path) -> Iterator[BinaryIO]:
    open_file, errors = _library(path)
    try:
        with open_file(path) as file:
            yield file
    except errors:
        raise DataError("zstandard that is damaged or cut off", path=path) from None


def _library(path: Path) -> tuple[Any, tuple[type[Exception], ...]]:
    """How to open a file, and what is raised for a damaged one."""
    try:
        from compression import zstd
    except ImportError:
        pass
    else:
        options = {zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG}
        return lambda p: zstd.open(p, "rb", options=options), (zstd.ZstdError, EOFError)
    try:
        import zstandard
    except ImportError:
        raise UsageError(f"{path}: zstandard needs a package: pip install 'ling[zstd]'") from None
    return _Stream, (zstandard.ZstdError, EOFError)


class _Stream:
    """All frames of a file; unlike the package's own reader it notices that a file was cut off."""

    def __init__(self, path: Path) -> None:
        import zstandard

        self._new = zstandard.ZstdDecompressor(max_window_size=1 << _MAX_WINDOW_LOG).decompressobj
        self._file, self._frame = path.open("rb"), self._new()
        self._ready, self._is_inside = b"", False

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end."""
        while not self._ready:
            packed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame, self._is_inside = self._new(), False
            packed = packed or self._file.read(_READ_BYTES)
            if not packed:
                if self._is_inside:
                    raise EOFError
                return b""
            self._is_inside = True
            self._ready = self._frame.decompress(packed)
            self._is_inside = not self._frame.eof
        block, self._ready = self._ready[:size], self._ready[size:]
        return block
