"""One safetensors file, checked in full before any of its tensors is read.

A file is an 8-byte little-endian header length, the header (JSON: name to dtype, shape and byte
range) and the data. Here the ranges must tile the data exactly, and shape times item size must be
the length of each. A file made by any current writer is like that; the rest is damaged or hostile.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import SafetensorsError
from ...files.guarded import HEAD_BYTES, check_genuine, loads, open_regular, pread_into
from ...text import shown

# About 110 000 tensors. The format's own limit, 100 MB, would let a header cost us gigabytes.
MAX_HEADER_BYTES = 16 << 20
_MAX_DIMS = 8
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Entry(NamedTuple):
    """A tensor's type, and where its bytes are in the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class SafetensorsFile:
    """The tensors of one file by name. Reads nothing but the header until asked; thread-safe.

    `read` copies with `pread`, so a file that shrinks or changes meanwhile is a `SafetensorsError`.
    `view` maps the file instead: nothing is copied, but bytes cut off later would end the process
    (SIGBUS), so it is for weights that stay where they are. No descriptor stays open; each reading
    checks that the path still is the file whose header was checked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open_regular(path) as fd:
                self._identity = _identity(fd)
                self.entries, self.metadata = _parse(fd, os.fstat(fd).st_size)
        except (OSError, ValueError) as err:
            raise self._error(err) from None
        self._map: mmap.mmap | None = None
        self._lock = threading.Lock()

    def _error(self, err: Exception) -> SafetensorsError:
        return SafetensorsError(f"{self.path}: {getattr(err, 'strerror', None) or err}")

    def read(self, name: str, into: Tensor | None = None) -> Tensor:
        """A tensor's values in memory of their own or in `into`: same dtype, shape, contiguous."""
        entry = self.entries[name]
        if into is None:
            into = torch.empty(entry.shape, dtype=entry.dtype)
        assert (into.dtype, into.shape) == (entry.dtype, entry.shape)
        assert into.is_contiguous()
        return self._read(entry, into)

    def rows(self, name: str, first: int, into: Tensor) -> Tensor:
        """As many rows as `into` has, a contiguous matrix of the tensor's type, from `first` on."""
        dtype, shape, offset, nbytes = self.entries[name]
        assert (into.dtype, into.shape[1:]) == (dtype, torch.Size(shape[1:]))
        assert 0 <= first <= shape[0] - len(into)
        assert into.is_contiguous()
        at = offset + first * (nbytes // shape[0]) if shape[0] else offset
        return self._read(Entry(dtype, tuple(into.shape), at, into.nbytes), into)

    def part(self, name: str, index: int) -> Tensor:
        """Slice `index` of a tensor that is a stack, in memory of its own."""
        dtype, shape, offset, nbytes = self.entries[name]
        size = nbytes // shape[0]
        one = Entry(dtype, shape[1:], offset + index * size, size)
        return self._read(one, torch.empty(one.shape, dtype=dtype))

    def _read(self, entry: Entry, into: Tensor) -> Tensor:
        if not entry.nbytes:
            return into
        target = into.detach().view(-1).view(torch.uint8).numpy().data
        try:
            with open_regular(self.path) as fd:
                self._check_same(fd)
                _fill(fd, target, entry.offset)
                self._check_same(fd)
        except (OSError, ValueError) as err:
            raise self._error(err) from None
        return into

    def view(self, name: str) -> Tensor:
        """A tensor over the mapped file; writing to it changes memory, never the file."""
        entry = self.entries[name]
        # torch wants items on their own boundary; files by old writers do not have them there.
        if not entry.nbytes or entry.offset % entry.dtype.itemsize:
            return self.read(name)
        count = entry.nbytes // entry.dtype.itemsize
        flat = torch.frombuffer(self._mapped(), dtype=entry.dtype, count=count, offset=entry.offset)
        return flat.view(entry.shape)

    def _mapped(self) -> mmap.mmap:
        with self._lock:
            if self._map is None:
                # Private and without reserved swap: a map larger than memory is fine.
                flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0)
                try:
                    with open_regular(self.path) as fd:
                        self._check_same(fd)
                        self._map = mmap.mmap(fd, 0, flags, mmap.PROT_READ | mmap.PROT_WRITE)
                except (OSError, ValueError) as err:
                    raise self._error(err) from None
            return self._map

    def _check_same(self, fd: int) -> None:
        if _identity(fd) != self._identity:
            raise ValueError("changed since it was opened")


def _identity(fd: int) -> tuple[int, ...]:
    now = os.fstat(fd)
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns


def _fill(fd: int, target: memoryview, offset: int) -> None:
    if pread_into(fd, target, offset) < len(target):
        raise ValueError("ends early: it shrank while being read")


def _parse(fd: int, file_size: int) -> tuple[dict[str, Entry], dict[str, str]]:
    """Entries in file order and `__metadata__`; `ValueError` says what is wrong."""
    check_genuine(os.pread(fd, HEAD_BYTES, 0))
    if file_size < 8:
        raise ValueError(f"{file_size} bytes, too short for a safetensors file")
    length = int.from_bytes(os.pread(fd, 8, 0), "little")
    if not 2 <= length <= file_size - 8:
        raise ValueError(f"header of {length} bytes in a file of {file_size}")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"header of {length} bytes, the limit is {MAX_HEADER_BYTES}")
    text = bytearray(length)
    _fill(fd, memoryview(text), 8)
    if not text.startswith(b"{"):  # as the format has it, so that all readers agree
        raise ValueError("header is not an object")
    header = loads(text)
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("`__metadata__` is not an object of texts")
    start = 8 + length
    entries = {name: _entry(name, value, start) for name, value in header.items()}
    return _check_tiling(entries, start, file_size), metadata


def _entry(name: str, value: Any, start: int) -> Entry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {shown(name)} is not given by dtype, shape and data_offsets")
    dtype = _DTYPES.get(value["dtype"]) if isinstance(value["dtype"], str) else None
    if dtype is None:
        raise ValueError(f"tensor {shown(name)} has the unknown dtype {shown(value['dtype'])}")
    shape, offsets = value["shape"], value["data_offsets"]
    if not _whole(shape) or len(shape) > _MAX_DIMS:
        raise ValueError(f"tensor {shown(name)} has the impossible shape {shown(shape)}")
    if not _whole(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"tensor {shown(name)} has the impossible data_offsets {shown(offsets)}")
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes != offsets[1] - offsets[0]:
        raise ValueError(
            f"tensor {shown(name)} of shape {shown(shape)} needs {nbytes} bytes, "
            f"its data_offsets give {offsets[1] - offsets[0]}"
        )
    return Entry(dtype, tuple(shape), start + offsets[0], nbytes)


def _whole(values: Any) -> bool:
    """Whether this is a list of whole numbers from 0 to 2^63 - 1 (`true` is none)."""
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in values)


def _check_tiling(entries: dict[str, Entry], start: int, file_size: int) -> dict[str, Entry]:
    """The entries in file order, without overlap, hole or leftover."""
    ordered = sorted(entries.items(), key=lambda item: (item[1].offset, item[1].nbytes))
    at = start
    for name, entry in ordered:
        if entry.offset != at:
            kind = "overlaps the one before" if entry.offset < at else "leaves a hole before it"
            raise ValueError(f"tensor {shown(name)} {kind}")
        at += entry.nbytes
    if at != file_size:
        raise ValueError(f"data should end at byte {at}, the file has {file_size}")
    return dict(ordered)
