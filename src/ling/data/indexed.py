"""Megatron `.bin/.idx` token files, bit for bit (docs/concepts/training.md#token-files)."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import DataError, RunError, UsageError
from ..files.guarded import pread_into
from .plaintext import require_file

MAGIC = b"MMIDIDX\x00\x00"
DTYPES: dict[int, Any] = {
    1: np.uint8,
    2: np.int8,
    3: np.int16,
    4: np.int32,
    5: np.int64,
    6: np.float64,
    7: np.float32,
    8: np.uint16,
}
CODES = {np.dtype(d): c for c, d in DTYPES.items()}
_HEADER = struct.Struct("<9sQBQQ")
_SCAN_BYTES = 16 << 20
_INDEX_BLOCK = 1 << 16
# Larger indexes are mapped, so that all processes of a machine share one copy.
_MAP_BYTES = 64 << 20


def token_dtype(vocab_size: int) -> Any:
    """The smallest dtype that Megatron writes for a vocabulary: uint16 up to 65500, then int32."""
    return np.uint16 if vocab_size <= 65500 else np.int32


class IndexedDataset:
    """Sequences of token ids by number; every number of the index is checked before use.

    `sequence_lengths` i32 and `pointers` i64 (bytes) have one entry a sequence,
    `document_indices` i64 one a document and one more. Raises `DataError` naming the file.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.idx, self.bin = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
        require_file(self.idx)
        require_file(self.bin)
        with self.idx.open("rb") as file:
            n, m = self._read_header(file.read(_HEADER.size), os.fstat(file.fileno()).st_size)
            raw, at = self._read_index(file, 12 * n + 8 * m)
        self.sequence_lengths = np.frombuffer(raw, "<i4", n, at)
        self.pointers = np.frombuffer(raw, "<i8", n, at + 4 * n)
        self.document_indices = np.frombuffer(raw, "<i8", m, at + 12 * n)
        self._file = self.bin.open("rb")
        self._check(os.fstat(self._file.fileno()).st_size)

    def _read_header(self, raw: bytes, size: int) -> tuple[int, int]:
        """Counts of sequences and document borders, once the file's length agrees with them."""
        if len(raw) < _HEADER.size or not raw.startswith(MAGIC):
            raise DataError("not a Megatron index (its first bytes differ)", path=self.idx)
        _, version, code, n, m = _HEADER.unpack(raw)
        if version != 1 or code not in DTYPES:
            raise DataError(f"version {version}, dtype code {code}: not readable", path=self.idx)
        want = _HEADER.size + 12 * n + 8 * m
        if size not in (want, want + n):  # n more bytes: the modes of multimodal data
            raise DataError(f"{size} bytes, but its counts need {want}", path=self.idx)
        self.dtype = np.dtype(DTYPES[code]).newbyteorder("<")
        return n, m

    def _read_index(self, file: Any, count: int) -> tuple[Any, int]:
        """What is behind the header, as a buffer and where it begins in it."""
        if count > _MAP_BYTES:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), _HEADER.size
        raw = file.read(count)
        if len(raw) != count:
            raise DataError("shorter than a moment ago", path=self.idx)
        return raw, 0

    def _check(self, size: int) -> None:
        for start in range(0, len(self), _INDEX_BLOCK):
            self._check_sequences(slice(start, start + _INDEX_BLOCK), size)
        docs = self.document_indices
        sound = len(docs) > 0 and docs[0] == 0 and docs[-1] == len(self)
        starts = range(0, len(docs), _INDEX_BLOCK)
        if not sound or any((np.diff(docs[k : k + _INDEX_BLOCK + 1]) < 0).any() for k in starts):
            raise DataError("document borders do not rise from 0 to the count", path=self.idx)

    def _check_sequences(self, block: slice, size: int) -> None:
        lengths, pointers = self.sequence_lengths[block].astype(np.int64), self.pointers[block]
        if (lengths < 0).any() or (pointers < 0).any():
            raise DataError("a length or an offset is negative", path=self.idx)
        # Subtract rather than add: a hostile offset could overflow.
        past = pointers > size - lengths * self.dtype.itemsize
        if past.any():
            raise DataError(
                f"sequence {block.start + int(past.argmax())} ends behind the {size} bytes of "
                f"{self.bin.name}",
                path=self.idx,
            )

    def __len__(self) -> int:
        return len(self.sequence_lengths)

    @cached_property
    def num_tokens(self) -> int:
        """Tokens in all."""
        return int(self.sequence_lengths.sum(dtype=np.int64))

    def get(self, i: int, offset: int = 0, length: int | None = None) -> np.ndarray:
        """Tokens of sequence `i`, from `offset`, `length` of them (all the rest by default)."""
        whole = int(self.sequence_lengths[i])
        count = whole - offset if length is None else length
        if not 0 <= offset <= offset + count <= whole:
            raise IndexError(f"{offset} + {count} tokens of sequence {i}, which has {whole}")
        start = int(self.pointers[i]) + offset * self.dtype.itemsize
        return np.frombuffer(self._pread(start, count * self.dtype.itemsize), self.dtype)

    def check_ids(self, vocab_size: int) -> None:
        """Read all tokens once; raises `DataError` if one is not in [0, vocab_size)."""
        size, step = os.fstat(self._file.fileno()).st_size, _SCAN_BYTES
        used = size - size % self.dtype.itemsize
        for start in range(0, used, step):
            ids = np.frombuffer(self._pread(start, min(step, used - start)), self.dtype)
            low, high = ids.min(), ids.max()
            if not 0 <= low <= high < vocab_size:
                bad = high if high >= vocab_size else low
                raise DataError(
                    f"token id {bad} is outside the vocabulary of {vocab_size}", path=self.bin
                )

    def _pread(self, start: int, count: int) -> bytearray:
        # Not a map: of a file that shrank we get a short read, and no SIGBUS.
        data = bytearray(count)
        if pread_into(self._file.fileno(), memoryview(data), start) < count:
            raise DataError("shorter than when it was opened", path=self.bin)
        return data


class IndexedWriter:
    """Writes one sequence per document; the files get their names on a clean exit only.

    Raises `UsageError` where it cannot write, `DataError` for ids that the dtype cannot hold,
    `RunError` for a full disk.
    """

    def __init__(self, prefix: str | Path, dtype: Any) -> None:
        self.prefix, self.dtype = str(prefix), np.dtype(dtype).newbyteorder("<")
        self._count = 0

    def __enter__(self) -> IndexedWriter:
        try:
            Path(self.prefix).parent.mkdir(parents=True, exist_ok=True)
            self._bin = open(f"{self.prefix}.bin.tmp", "wb")
            self._lengths = open(f"{self.prefix}.len.tmp", "w+b")
        except OSError as err:
            raise UsageError(f"{self.prefix}.bin: cannot write here: {err.strerror}") from None
        return self

    def add_document(self, ids: Sequence[int] | np.ndarray) -> None:
        """Append one document."""
        wide = np.asarray(ids, np.int64)
        narrow = wide.astype(self.dtype)
        if not np.array_equal(narrow, wide):
            raise DataError(f"an id does not fit {self.dtype.name}", path=f"{self.prefix}.bin")
        self.add_tokens(narrow)
        self.add_lengths(np.array([len(wide)]))

    def add_tokens(self, ids: np.ndarray) -> None:
        """Append ids of the dtype, of any number of documents."""
        with self._disk():
            self._bin.write(ids.astype(self.dtype, copy=False).data)

    def add_lengths(self, lengths: np.ndarray) -> None:
        """Append documents of these lengths, whose ids were or will be added."""
        self._count += len(lengths)
        with self._disk():
            self._lengths.write(lengths.astype("<i4").tobytes())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with self._disk():
                if kind is None:
                    _sync(self._bin)
                self._bin.close()
                if kind is None:
                    self._write_index()
                    self._publish()
        finally:
            self._lengths.close()
            for end in ("bin", "idx", "len"):
                with contextlib.suppress(FileNotFoundError):
                    os.remove(f"{self.prefix}.{end}.tmp")

    def _write_index(self) -> None:
        n = self._count
        with open(f"{self.prefix}.idx.tmp", "wb") as file:
            code = CODES[self.dtype.newbyteorder("=")]
            file.write(_HEADER.pack(MAGIC, 1, code, n, n + 1))
            for lengths in self._length_blocks():
                file.write(lengths.astype("<i4").tobytes())
            at = 0
            for lengths in self._length_blocks():
                ends = at + np.cumsum(lengths, dtype=np.int64) * self.dtype.itemsize
                file.write((ends - lengths * self.dtype.itemsize).astype("<i8").tobytes())
                at = int(ends[-1])
            for start in range(0, n + 1, _INDEX_BLOCK):
                stop = min(start + _INDEX_BLOCK, n + 1)
                file.write(np.arange(start, stop, dtype="<i8").tobytes())
            _sync(file)

    def _length_blocks(self) -> Iterator[np.ndarray]:
        self._lengths.seek(0)
        while block := self._lengths.read(4 * _INDEX_BLOCK):
            yield np.frombuffer(block, "<i4").astype(np.int64)

    def _publish(self) -> None:
        # An old index must not meet the new tokens, whenever we are interrupted.
        with contextlib.suppress(FileNotFoundError):
            os.remove(f"{self.prefix}.idx")
        for end in ("bin", "idx"):
            os.replace(f"{self.prefix}.{end}.tmp", f"{self.prefix}.{end}")

    @contextlib.contextmanager
    def _disk(self) -> Any:
        try:
            yield
        except OSError as err:
            raise RunError(f"{self.prefix}.bin: could not write: {err.strerror}") from None


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
