"""Text files as people have them: opened without a hang, unpacked, decoded and cut into pieces."""

from __future__ import annotations

import codecs
import os
import re
import stat
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from ..errors import DataError
from .packed import claimed_bytes, is_packed, open_unpacked

BLOCK_BYTES = 1 << 20
PIECE_CHARS = 1 << 18
# Deflate packs zeros 1,000 : 1. Text seldom reaches 20 : 1; short files of one phrase reach more.
MAX_RATIO, _RATIO_FREE_BYTES = 200, 64 << 20
_HEAD_BYTES = 4096
_KINDS = {
    b"\x1f\x8b": "gzip, which is read only under a name that ends in `.gz`",
    b"\x28\xb5\x2f\xfd": "zstandard, which is read only under a name that ends in `.zst`",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "a zip archive",
    b"PAR1": "parquet, which is read only under a name that ends in `.parquet`",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"(lp0": "a pickle",
    b"(dp0": "a pickle",
    b"%PDF-": "a PDF",
    b"version https://git-lfs": "a git-lfs pointer; `git lfs pull` fetches the file",
}
EXPECTED = ", expected plain text"
UTF8 = "utf-8-sig"
NOT_UTF8 = "not UTF-8; iconv converts other encodings"
WESTERN = "cp1252"
# The longer mark first: that of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
ENCODING_NAMES = {
    UTF8: "UTF-8",
    WESTERN: "Windows-1252 (Latin-1)",
    "utf-16": "UTF-16",
    "utf-32": "UTF-32",
}


def require_file(path: Path) -> None:
    """Raise `DataError` unless `path` is a regular file; opening a fifo would wait for ever."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as err:
        raise DataError(_reason(err), path=path) from None
    if stat.S_ISDIR(mode):
        raise DataError("a folder, expected a file", path=path)
    if not stat.S_ISREG(mode):
        raise DataError("a pipe or device, expected a regular file", path=path)
    if not os.access(path, os.R_OK):
        raise DataError("permission denied", path=path)


def inner_suffix(path: Path) -> str:
    """The ending in small letters, without a last `.gz` or `.zst`."""
    return Path(path.stem).suffix.lower() if is_packed(path) else path.suffix.lower()


def text_bytes(path: Path) -> int:
    """About how many bytes of text a file holds."""
    return claimed_bytes(path, MAX_RATIO) if is_packed(path) else path.stat().st_size


def read_blocks(path: Path, size: int = BLOCK_BYTES) -> Iterator[bytes]:
    """A file in blocks, unpacked if its name ends in `.gz` or `.zst`; raises `DataError` for a bad
    one."""
    require_file(path)
    packed = is_packed(path)
    limit = max(path.stat().st_size * MAX_RATIO, _RATIO_FREE_BYTES) if packed else None
    total = 0
    try:
        with open_unpacked(path) if packed else path.open("rb") as file:
            while block := file.read(size):
                total += len(block)
                if limit is not None and total > limit:
                    raise DataError(
                        f"unpacks to more than {MAX_RATIO} times its size, as no text does",
                        path=path,
                    )
                yield block
    except OSError as err:
        raise DataError(_reason(err), path=path) from None


def read_range(path: Path, start: int, stop: int, size: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Bytes `start` to `stop` of a file as it is on disk, in blocks; `DataError` if it has less."""
    require_file(path)
    try:
        with path.open("rb") as file:
            file.seek(start)
            while start < stop:
                block = file.read(min(size, stop - start))
                if not block:
                    raise DataError("shorter than a moment ago", path=path)
                start += len(block)
                yield block
    except OSError as err:
        raise DataError(_reason(err), path=path) from None


def marked_encoding(path: Path) -> str:
    """The encoding that a byte order mark tells, else UTF-8.

    Raises `DataError` with the likely cause when the file begins as no text does.
    """
    head = next(read_blocks(path, _HEAD_BYTES), b"")
    if not head:
        raise DataError("empty file", path=path)
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return name
    for magic, kind in _KINDS.items():
        if head.startswith(magic):
            raise DataError(f"{kind}{EXPECTED}", path=path)
    if b"\0" in head:
        raise DataError("binary data, or UTF-16 without a byte order mark", path=path)
    return UTF8


def find_encoding(path: Path) -> str:
    """The encoding in which a whole file is text; raises `DataError` when it is none."""
    encoding = marked_encoding(path)
    try:
        if any("\0" in text for text in decoded(path, encoding)):
            raise DataError("binary data", path=path)
    except _EncodingError:
        if encoding != UTF8 or not _is_western(path):
            raise
        return WESTERN
    return encoding


class _EncodingError(DataError):
    pass


def decoded(
    path: Path,
    encoding: str,
    start: int = 0,
    stop: int | None = None,
    skipped: int = 0,
    errors: str = "strict",
) -> Iterator[str]:
    """The text in parts of about a mebibyte, `\\r\\n` as `\\n`.

    Of an unpacked file, bytes `start` to `stop` only, with `skipped` lines before them. Raises
    `DataError` with the line of the first byte that is not `encoding`, unless `errors` says, as for
    codecs, what becomes of it.
    """
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    line, held = skipped + 1, ""
    blocks = read_blocks(path) if stop is None else read_range(path, start, stop)
    for block in chain(blocks, [b""]):
        try:
            text = held + decoder.decode(block, final=not block)
        except UnicodeError as err:
            before = err.object[: err.start] if isinstance(err, UnicodeDecodeError) else b""
            line += before.count(b"\n")
            reason = NOT_UTF8 if encoding == UTF8 else f"not {ENCODING_NAMES[encoding]}"
            raise _EncodingError(reason, path=path, line=line) from None
        held = "\r" if block and text.endswith("\r") else ""  # its `\n` may be in the next block
        text = text[: len(text) - len(held)].replace("\r\n", "\n")
        line += text.count("\n")
        yield text


_HIGH = re.compile(rb"[\x80-\xff]")
# Other alphabets and East Asian encodings are runs of high bytes; in those of Central Europe,
# letters are where Windows-1252 has signs such as `³`.
_ODD = re.compile(
    rb"[\x80-\xff]{4,}|(?<=[A-Za-z])[\xa1-\xa9\xab\xac\xae-\xb6\xb8\xb9\xbb-\xbf](?=[a-z])"
)
_NEVER = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f\x81\x8d\x8f\x90\x9d]")


def _is_western(path: Path) -> bool:
    """Whether bytes that are not UTF-8 look like a Western European language in Windows-1252."""
    high = odd = 0
    for block in read_blocks(path):
        if _NEVER.search(block):
            return False
        high += len(_HIGH.findall(block))
        odd += sum(len(run) for run in _ODD.findall(block))
    return odd * 10 <= high


def pieces(texts: Iterable[str], size: int = PIECE_CHARS) -> Iterator[str]:
    """Cut a stream of text to at most `size` characters: at paragraphs, else lines, else words."""
    rest = ""
    for text in texts:
        rest += text
        start = 0
        while len(rest) - start > size:
            end = _border(rest, start, start + size)
            yield rest[start:end]
            start = end
        rest = rest[start:]
    if rest:
        yield rest


def paragraphs(texts: Iterable[str]) -> Iterator[str]:
    """The parts between blank lines."""
    for piece in pieces(texts):
        yield from re.split(r"\n(?:[ \t]*\n)+", piece.strip("\n"))


def cut(text: str, at: int) -> tuple[str, str]:
    """Two parts, the first of about `at` characters, cut after a line or a word where possible."""
    border = _border(text, 0, at)
    return text[:border], text[border:]


def _border(text: str, start: int, end: int) -> int:
    """Where to cut before `end`, in the later half of the range."""
    for mark in ("\n\n", "\n", " "):
        at = text.rfind(mark, start + (end - start) // 2, end)
        if at > start:
            return at + len(mark)
    return end


def _reason(err: Exception) -> str:
    return (getattr(err, "strerror", None) or str(err)).lower()
