"""Megatron `.bin/.idx` token files, read and written bit-compatibly (spec: training §4.2)."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError

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


def token_dtype(vocab_size: int) -> Any:
    """The dtype that Megatron picks: uint16 where ids fit, int32 otherwise."""
    return np.uint16 if vocab_size < 65500 else np.int32


class IndexedDataset:
    """Sequences of token ids by number; every number of the index is checked before use.

    Raises `DataError` naming the file.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.idx, self.bin = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
        for path in (self.idx, self.bin):
            if not path.is_file():
                raise DataError("no such file", path=path)
        raw = self.idx.read_bytes()
        if len(raw) < _HEADER.size or raw[:9] != MAGIC:
            raise DataError("not a Megatron index (bad magic)", path=self.idx)
        _, version, code, n, m = _HEADER.unpack_from(raw)
        if version != 1 or code not in DTYPES:
            raise DataError(f"version {version}, dtype code {code}: not readable", path=self.idx)
        want = _HEADER.size + 12 * n + 8 * m
        if len(raw) not in (want, want + n):
            raise DataError(f"{len(raw)} bytes, but its counts need {want}", path=self.idx)
        self.dtype = np.dtype(DTYPES[code])
        at = _HEADER.size
        self.sequence_lengths = np.frombuffer(raw, "<i4", n, at)
        self.pointers = np.frombuffer(raw, "<i8", n, at + 4 * n)
        self.document_indices = np.frombuffer(raw, "<i8", m, at + 12 * n)
        self._check()
        self._file = self.bin.open("rb")

    def _check(self) -> None:
        lengths, docs = self.sequence_lengths.astype(np.int64), self.document_indices
        if (lengths < 0).any() or (self.pointers < 0).any():
            raise DataError("negative length or offset", path=self.idx)
        size = self.bin.stat().st_size
        # Divide rather than multiply: a hostile offset could overflow.
        if len(lengths) and (self.pointers > size - lengths * self.dtype.itemsize).any():
            raise DataError(f"points past the end of {self.bin.name} ({size} bytes)", path=self.idx)
        sound = len(docs) > 0 and docs[0] == 0 and docs[-1] == len(lengths)
        if not sound or (np.diff(docs) < 0).any():
            raise DataError("document borders are not sorted from 0 to the count", path=self.idx)

    def __len__(self) -> int:
        return len(self.sequence_lengths)

    @property
    def num_tokens(self) -> int:
        """Tokens in all."""
        return int(self.sequence_lengths.sum(dtype=np.int64))

    def get(self, i: int, offset: int = 0, length: int | None = None) -> np.ndarray:
        """Tokens of sequence `i`, from `offset`, `length` of them (all the rest by default)."""
        count = int(self.sequence_lengths[i]) - offset if length is None else length
        start = int(self.pointers[i]) + offset * self.dtype.itemsize
        # pread, not a map: a file that shrank gives a short read instead of a SIGBUS.
        raw = os.pread(self._file.fileno(), count * self.dtype.itemsize, start)
        if len(raw) != count * self.dtype.itemsize:
            raise DataError("shorter than when it was opened", path=self.bin)
        return np.frombuffer(raw, self.dtype)


class IndexedWriter:
    """Writes one sequence per document; the files appear under their names on a clean exit."""

    def __init__(self, prefix: str | Path, dtype: Any) -> None:
        self.prefix, self.dtype = str(prefix), np.dtype(dtype)
        self.lengths: list[int] = []

    def __enter__(self) -> IndexedWriter:
        self._bin = open(f"{self.prefix}.bin.tmp", "wb")
        return self

    def add_document(self, ids: Sequence[int]) -> None:
        """Append one document."""
        self._bin.write(np.asarray(ids, self.dtype).tobytes())
        self.lengths.append(len(ids))

    def __exit__(self, kind: object, *rest: object) -> None:
        self._bin.close()
        if kind is not None:
            os.remove(f"{self.prefix}.bin.tmp")
            return
        n = len(self.lengths)
        lengths = np.asarray(self.lengths, "<i4")
        pointers = np.zeros(n, "<i8")
        pointers[1:] = np.cumsum(lengths[:-1], dtype=np.int64) * self.dtype.itemsize
        with open(f"{self.prefix}.idx.tmp", "wb") as file:
            file.write(_HEADER.pack(MAGIC, 1, CODES[self.dtype], n, n + 1))
            file.write(lengths.tobytes() + pointers.tobytes())
            file.write(np.arange(n + 1, dtype="<i8").tobytes())
        for end in ("bin", "idx"):
            os.replace(f"{self.prefix}.{end}.tmp", f"{self.prefix}.{end}")
