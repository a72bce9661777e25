"""Files that users hand in: refused when they are not what they should be, then read by line."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError

MAX_LINE_BYTES = 16 << 20
_KINDS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "a zip archive",
    b"PAR1": "parquet",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"(lp0": "a pickle",
    b"(dp0": "a pickle",
}


def require_file(path: Path) -> None:
    """Raise `DataError` unless `path` is a regular file; opening a fifo would wait for ever."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as err:
        reason = getattr(err, "strerror", None) or str(err)
        raise DataError(reason.lower(), path=path) from None
    if stat.S_ISDIR(mode):
        raise DataError("a folder, expected a file", path=path)
    if not stat.S_ISREG(mode):
        raise DataError("a pipe or device, expected a regular file", path=path)
    if not os.access(path, os.R_OK):
        raise DataError("permission denied", path=path)


def require_text(path: Path) -> None:
    """Raise `DataError` with the likely cause unless `path` looks like UTF-8 text."""
    require_file(path)
    with path.open("rb") as file:
        head = file.read(4096)
    if not head:
        raise DataError("empty file", path=path)
    for magic, kind in _KINDS.items():
        if head.startswith(magic):
            raise DataError(f"{kind}, expected plain UTF-8 text", path=path)
    if b"\0" in head:
        raise DataError("binary data or UTF-16, expected plain UTF-8 text", path=path)


def read_text(path: Path) -> str:
    """A whole text file; raises `DataError` naming the first line that is not UTF-8."""
    require_text(path)
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as err:
        line = raw.count(b"\n", 0, err.start) + 1
        raise DataError("not UTF-8", path=path, line=line) from None


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line that is not blank, one line in memory at a time.

    Lines end with `\\n` or `\\r\\n` only and count from 1, blank ones included. Raises `DataError`
    for the first line that is no JSON object in UTF-8, has a key twice or a lone surrogate.
    """
    require_text(path)
    with path.open("rb") as file:
        line = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            line += 1
            if len(raw) > MAX_LINE_BYTES:
                raise DataError(f"longer than {MAX_LINE_BYTES} bytes", path=path, line=line)
            text = _decode(raw, path, line)
            if not text.strip():
                continue
            yield line, _parse(text, path, line)
    if not line:
        raise DataError("empty file", path=path)


def _decode(raw: bytes, path: Path, line: int) -> str:
    try:
        return raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError:
        raise DataError("not UTF-8", path=path, line=line) from None


def _parse(text: str, path: Path, line: int) -> dict[str, Any]:
    try:
        record = json.loads(text, object_pairs_hook=_unique)
        if "\\u" in text:  # only an escape can smuggle in half a surrogate pair
            json.dumps(record, ensure_ascii=False).encode()
    except _TwiceError as err:
        raise DataError(f"the key `{err}` is there twice", path=path, line=line) from None
    except UnicodeEncodeError:
        raise DataError("a lone surrogate, which no text can hold", path=path, line=line) from None
    except RecursionError:
        raise DataError("nested too deeply", path=path, line=line) from None
    except ValueError as err:
        reason = _whole_file_cause(text) if line == 1 else None
        raise DataError(reason or f"not JSON ({err})", path=path, line=line) from None
    if isinstance(record, list) and line == 1:
        raise DataError("a JSON array; write one object a line", path=path, line=line)
    if not isinstance(record, dict):
        raise DataError("expected a JSON object", path=path, line=line)
    return record


def _whole_file_cause(text: str) -> str | None:
    """What a file is whose first line is no JSON by itself."""
    if text.lstrip().startswith("["):
        return "a JSON array; write one object a line"
    if text.strip() == "{":
        return "a JSON object over several lines; write one object a line"
    return None


class _TwiceError(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(n for n in names if names.count(n) > 1)[:40])
    return found
