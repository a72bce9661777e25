"""Safetensors files written tensor by tensor: the header first, then each at its place.

Nothing but the tensor in hand is in memory, and the bytes do not depend on the order of writing.
"""

from __future__ import annotations

import errno
import json
import math
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

# Code on disk, in the order in which the safetensors library lays a file out: widest first, so
# that every tensor is aligned.
DTYPE_CODES = {
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int8: "I8",
    torch.uint8: "U8",
}
_ORDER = {dtype: i for i, dtype in enumerate(DTYPE_CODES)}


class Stored(NamedTuple):
    """One tensor as it is stored."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)  # torch's product would wrap around


class Extent(NamedTuple):
    """A tensor stored contiguously in an open file."""

    fd: int
    offset: int
    stored: Stored


class ShardFile:
    """One safetensors file; `put` may be called by several threads in any order.

    Data starts at a multiple of `align` bytes; 8 is what the safetensors library writes. The file
    is closed when its last tensor is there, for small shards are more than a process may hold open.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Stored], align: int = 8) -> None:
        self.path, self.tensors = path, dict(tensors)
        self._offsets: dict[str, int] = {}
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in sorted(tensors, key=lambda n: (_ORDER[tensors[n].dtype], n)):
            dtype, shape = tensors[name]
            begin, end = end, end + tensors[name].nbytes
            header[name] = {
                "dtype": DTYPE_CODES[dtype],
                "shape": list(shape),
                "data_offsets": [begin, end],
            }
            self._offsets[name] = begin
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-(len(text) + 8) % align)
        self._header = len(text).to_bytes(8, "little") + text
        self.nbytes = len(self._header) + end
        self._missing = end
        self._fd: int | None = None
        self._lock = threading.Lock()

    def _open(self) -> int:
        """The file, created with its header and in full size by whoever comes first."""
        with self._lock:
            if self._fd is None:
                self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
                write_all(self._fd, memoryview(self._header), 0)
                os.truncate(self._fd, self.nbytes)
            return self._fd

    def put(self, name: str, tensor: Tensor) -> None:
        """Write one tensor; its dtype and shape are those announced."""
        assert (tensor.dtype, tuple(tensor.shape)) == self.tensors[name], name
        self._write(raw_bytes(tensor), self._offsets[name])

    def put_extent(self, name: str, extent: Extent) -> bool:
        """Let the kernel copy one tensor from another file; False where it cannot."""
        assert extent.stored == self.tensors[name], name
        at = len(self._header) + self._offsets[name]
        if not copy_extent(extent, self._open(), at):
            return False
        self._wrote(extent.stored.nbytes)
        return True

    def put_piece(self, name: str, at: int, tensor: Tensor) -> None:
        """Write contiguous values of a tensor, from byte `at` of it."""
        held = self.tensors[name]
        assert tensor.dtype == held.dtype, name
        assert 0 <= at <= held.nbytes - tensor.nbytes, name
        self._write(raw_bytes(tensor), self._offsets[name] + at)

    def _write(self, data: memoryview, offset: int) -> None:
        nbytes = len(data)
        write_all(self._open(), data, len(self._header) + offset)
        self._wrote(nbytes)

    def _wrote(self, nbytes: int) -> None:
        with self._lock:
            self._missing -= nbytes
            if not self._missing:
                self.close()

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def plan_shards(sizes: Mapping[str, int], max_bytes: int) -> list[list[str]]:
    """Names in order, cut into shards of at most `max_bytes` (one tensor may be larger)."""
    shards: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if shards[-1] and used + size > max_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def shard_name(number: int, count: int) -> str:
    """File name of shard `number` (from 1) of `count`."""
    return f"model-{number:05d}-of-{count:05d}.safetensors"


def raw_bytes(tensor: Tensor) -> memoryview:
    """The tensor's memory; copied only if it is not contiguous."""
    flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
    return memoryview(flat.numpy())  # type: ignore[arg-type]


def write_all(fd: int, data: memoryview, offset: int) -> None:
    """`pwrite` until all is written: one call takes at most 2 GiB."""
    while data:
        count = os.pwrite(fd, data, offset)
        data, offset = data[count:], offset + count


def copy_extent(extent: Extent, fd: int, offset: int) -> bool:
    """Copy within the kernel; False when these two files do not allow it."""
    done, nbytes = 0, extent.stored.nbytes
    while done < nbytes:
        try:
            count = os.copy_file_range(
                extent.fd, fd, nbytes - done, extent.offset + done, offset + done
            )
        except OSError as err:
            if err.errno in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                return False
            raise
        if not count:  # the file ends early, or its kind reads as empty here
            return False
        done += count
    return True
