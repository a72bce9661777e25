"""The head of a GGUF file, read as untrusted input.

Layout: magic, version, counts, then metadata (key, type, value), then tensor infos (name, sizes
with the fastest first, type, offset), then the tensors themselves, one after the other, aligned.
Every length is held against the file's size before anything is allocated for it.
"""

from __future__ import annotations

import os
import struct
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ...errors import GGUFError
from ...files.guarded import HEAD_BYTES, impostor, open_regular
from ...text import shown

MAGIC = b"GGUF"
ALIGNMENT = 32
MAX_HEADER_BYTES = 128 << 20
MAX_ENTRIES = 1 << 16
MAX_ITEMS = 1 << 21
"""List items in all metadata together; a released vocabulary with its merges has 471,000."""
MAX_NAME = 64
MAX_KEY = 256
MAX_STRING = 4 << 20
MAX_DIM = 1 << 40


class Kind(NamedTuple):
    """A tensor type: `block` weights of one row take `size` bytes."""

    name: str
    block: int
    size: int


KINDS = {
    0: Kind("f32", 1, 4),
    1: Kind("f16", 1, 2),
    2: Kind("q4_0", 32, 18),
    3: Kind("q4_1", 32, 20),
    6: Kind("q5_0", 32, 22),
    7: Kind("q5_1", 32, 24),
    8: Kind("q8_0", 32, 34),
    10: Kind("q2_k", 256, 84),
    11: Kind("q3_k", 256, 110),
    12: Kind("q4_k", 256, 144),
    13: Kind("q5_k", 256, 176),
    14: Kind("q6_k", 256, 210),
    20: Kind("iq4_nl", 32, 18),
    23: Kind("iq4_xs", 256, 136),
    30: Kind("bf16", 1, 2),
}
KIND_IDS = {kind.name: i for i, kind in KINDS.items()}

# Value types of fixed size; 8 is a string, 9 a list.
_NUMBERS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4"}
_NUMBERS |= {6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
_FLOAT32, _STRING, _ARRAY = 6, 8, 9


class TensorInfo(NamedTuple):
    """One tensor: shape as in torch (slowest first), where its bytes are in the file."""

    shape: tuple[int, ...]
    kind: Kind
    offset: int
    nbytes: int


class Header(NamedTuple):
    """Metadata by key and tensors by name, in the file's order."""

    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]


def nbytes(shape: tuple[int, ...], kind: Kind) -> int:
    """Bytes of a tensor whose rows are whole blocks."""
    return prod(shape) // kind.block * kind.size


def padded(size: int, alignment: int = ALIGNMENT) -> int:
    """`size` up to the next multiple of the alignment."""
    return -(-size // alignment) * alignment


def read_header(path: Path) -> Header:
    """Read and check everything before the tensors; raises `GGUFError` naming the file."""
    try:
        with open_regular(path) as fd, open(fd, "rb", buffering=1 << 20, closefd=False) as file:
            return _Reader(file, os.fstat(fd).st_size).header()
    except GGUFError as err:
        raise GGUFError(f"{path}: {err}") from None
    except OSError as err:
        raise GGUFError(f"{path}: {err.strerror}") from None


class _Reader:
    """A cursor that refuses to leave the file or to read more head than anyone needs."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size, self.at, self.items = file, size, 0, 0

    def header(self) -> Header:
        if (magic := self.take(4)) != MAGIC:
            what = impostor(magic + self.file.read(HEAD_BYTES))
            raise GGUFError(what or "not a GGUF file")
        version = self.number("<I")
        if version not in (2, 3):
            big = version & 0xFFFF == 0
            raise GGUFError(
                "big-endian; only little-endian files can be read"
                if big
                else f"version {version}, expected 2 or 3"
            )
        tensors, entries = self.number("<Q"), self.number("<Q")
        for what, count in (("tensors", tensors), ("metadata entries", entries)):
            if count > MAX_ENTRIES:
                raise GGUFError(f"claims {count} {what}, the limit is {MAX_ENTRIES}")
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = self.string(MAX_KEY, "a key")
            if key in metadata:
                raise GGUFError(f"key {shown(key)} appears twice")
            metadata[key] = self.value(key, self.number("<I"))
        infos = [self.tensor() for _ in range(tensors)]
        return Header(metadata, self.placed(infos, _alignment(metadata)))

    def take(self, n: int) -> bytes:
        if n > self.size - self.at:
            raise GGUFError(f"truncated: {n} bytes wanted at {self.at} of {self.size}")
        if self.at + n > MAX_HEADER_BYTES:
            raise GGUFError(f"the head is larger than {MAX_HEADER_BYTES} bytes")
        data = self.file.read(n)
        if len(data) != n:
            raise GGUFError(f"shrank while it was read, at byte {self.at}")
        self.at += n
        return data

    def number(self, form: str) -> int:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def string(self, limit: int, what: str) -> str:
        n = self.number("<Q")
        if n > limit:
            raise GGUFError(f"{what} of {n} bytes at byte {self.at}, the limit is {limit}")
        try:
            return self.take(n).decode("utf-8")
        except UnicodeDecodeError:
            raise GGUFError(f"{what} before byte {self.at} is not UTF-8") from None

    def value(self, key: str, kind: int) -> Any:
        what = f"the value of {shown(key)}"
        if kind == _STRING:
            return self.string(MAX_STRING, what)
        if kind == _ARRAY:
            return self.array(what)
        return self.numbers(kind, 1, what)[0]

    def array(self, what: str) -> list[Any]:
        kind, count = self.number("<I"), self.number("<Q")
        self.items += count
        if self.items > MAX_ITEMS:
            raise GGUFError(f"{what} brings the lists to {self.items} items, limit {MAX_ITEMS}")
        if kind == _STRING:
            return [self.string(MAX_STRING, what) for _ in range(count)]
        return self.numbers(kind, count, what)

    def numbers(self, kind: int, count: int, what: str) -> list[Any]:
        if kind not in _NUMBERS:
            raise GGUFError(f"{what} has type {kind}, which does not exist or is nested")
        dtype = np.dtype(_NUMBERS[kind])
        values = np.frombuffer(self.take(count * dtype.itemsize), dtype)
        # The decimal that was written, not the binary neighbour of it: 1e-06, not 9.99999997e-07.
        return [float(str(x)) for x in values] if kind == _FLOAT32 else values.tolist()

    def tensor(self) -> tuple[str, tuple[int, ...], Kind, int]:
        name = self.string(MAX_NAME, "a tensor name")
        rank = self.number("<I")
        if not 1 <= rank <= 4:
            raise GGUFError(f"tensor {shown(name)} has {rank} dimensions, expected 1 to 4")
        shape = struct.unpack(f"<{rank}Q", self.take(8 * rank))
        kind_id, offset = self.number("<I"), self.number("<Q")
        if kind_id not in KINDS:
            raise GGUFError(f"tensor {shown(name)} has type {kind_id}, which cannot be read")
        kind = KINDS[kind_id]
        if not all(0 < n <= MAX_DIM for n in shape) or shape[0] % kind.block:
            raise GGUFError(f"tensor {shown(name)} of {kind.name} has sizes {list(shape)}")
        return name, shape[::-1], kind, offset

    def placed(self, infos: list[Any], alignment: int) -> dict[str, TensorInfo]:
        """Give every tensor its place; each must start where the one before it ends."""
        start, expected = padded(self.at, alignment), 0
        tensors: dict[str, TensorInfo] = {}
        for name, shape, kind, offset in infos:
            if name in tensors:
                raise GGUFError(f"tensor {shown(name)} appears twice")
            if offset != expected:
                raise GGUFError(f"tensor {shown(name)} is at {offset}, expected {expected}")
            size = nbytes(shape, kind)
            if start + offset + size > self.size:
                raise GGUFError(
                    f"truncated: tensor {shown(name)} ends at byte {start + offset + size} "
                    f"of {self.size}"
                )
            tensors[name] = TensorInfo(shape, kind, start + offset, size)
            expected = padded(offset + size, alignment)
        if self.size > start + expected:
            raise GGUFError(f"{self.size - start - expected} bytes after the last tensor")
        return tensors


def _alignment(metadata: dict[str, Any]) -> int:
    value = metadata.get("general.alignment", ALIGNMENT)
    if type(value) is not int or not 8 <= value <= 1 << 16 or value & (value - 1):
        raise GGUFError(f"`general.alignment` is {shown(value)}, expected a power of two from 8")
    return value
