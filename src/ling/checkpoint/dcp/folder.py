"""The tensors of a torch distributed checkpoint (DCP), read box by box.

A folder holds `.metadata` (a pickle: tensors, their chunks, where each is stored) and `.distcp`
files of small archives, one per chunk. A region of a tensor is read where it is, so that an
expert costs an expert and not its stack.
"""

from __future__ import annotations

import math
import os
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import DCPError
from ..checks import check_float, check_shape
from ..raw.shards import Extent, Stored, raw_bytes
from ..raw.torch_zip import Placed, place_tensor
from ..slices import Slice
from .local import Deferred, local_box, local_part
from .metadata import (
    Chunk,
    DCPTensor,
    check_tensor,
    open_data_file,
    read_bytes,
    read_into,
    read_metadata,
)

# Of the grid that all borders of the chunks of one reading make; regular chunks are a cell each.
_MAX_CELLS = 1 << 24


# Chunks that one reading joins when that grid is larger; every pair of them is compared.
_MAX_PARTS = 2048


class DCPFolder:
    """The tensors of a checkpoint folder by key; several threads may read.

    `.metadata` is read and checked against the data files here, tensors when asked for. Raises
    `DCPError` for damage, for classes that do not belong there and for files outside the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._fds: dict[str, int] = {}
        self._placed: dict[tuple[str, int], Placed] = {}
        self._indexes: dict[str, _ChunkIndex] = {}
        self._lock = threading.Lock()
        try:
            self.tensors = read_metadata(folder / ".metadata")
            sizes = {c.file: 0 for t in self.tensors.values() for c in t.chunks.values()}
            for file in sizes:
                sizes[file] = os.fstat(self._open(file)).st_size
            for key, tensor in self.tensors.items():
                check_tensor(key, tensor, sizes)
        except DCPError as err:
            self.close()
            raise DCPError(f"{folder}: {err}") from None

    def _open(self, file: str) -> int:
        with self._lock:
            if file not in self._fds:
                self._fds[file] = open_data_file(self.folder / file)
            return self._fds[file]

    def close(self) -> None:
        """Close the data files; nothing can be read afterwards."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def tensor(self, key: str) -> Tensor:
        """One whole tensor."""
        return self.region(key, (), self.tensors[key].shape)

    def region(self, key: str, start: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
        """The box of `shape` at `start` (missing offsets are 0) of one tensor."""
        held = self.tensors[key]
        start = start + (0,) * (len(shape) - len(start))
        assert all(s + n <= d for s, n, d in zip(start, shape, held.shape, strict=True)), key
        try:
            only = held.chunks.get(start)
            if only is not None and only.sizes == shape:
                return self._read(held, only, start, shape)
            return self._gather(key, held, start, shape)
        except DCPError as err:
            raise DCPError(f"{self.folder}: tensor `{key}`: {err}") from None

    def extent(self, key: str, start: tuple[int, ...], shape: tuple[int, ...]) -> Extent | None:
        """Where the box is stored, if it is so in one piece."""
        held = self.tensors[key]
        near = held.chunks.get(start)
        candidates = self._near(key, start, shape) if near is None else (near,)
        chunk = next((c for c in candidates if _contains(c, start, shape)), None)
        if chunk is None or 0 in shape:
            return None
        try:
            placed = self._place(held, chunk)
        except DCPError as err:
            raise DCPError(f"{self.folder}: tensor `{key}`: {err}") from None
        expected, step = [], 1
        for n in reversed(shape):
            expected.append(step)
            step *= n
        strides = zip(shape, placed.strides, reversed(expected), strict=True)
        if any(n > 1 and stride != wanted for n, stride, wanted in strides):
            return None
        first = _distance(start, chunk, placed)
        at = chunk.begin + placed.position + first * held.dtype.itemsize
        return Extent(self._open(chunk.file), at, Stored(held.dtype, shape))

    # ---- tensors of a model --------------------------------------------------------------------

    def check(self, place: Slice) -> None:
        """`DCPError` unless there is a floating-point tensor of the slice's whole shape."""
        if place.key not in self.tensors:
            raise DCPError(f"{self.folder}: tensor `{place.key}` is missing")
        found = self.tensors[place.key]
        check_shape(self.folder, place.key, found.shape, place.whole, DCPError)
        check_float(self.folder, place.key, found.dtype, DCPError)

    def slice(self, place: Slice) -> Tensor:
        """The box that a slice is."""
        return self.region(place.key, place.start, place.shape)

    def slice_extent(self, place: Slice, shape: tuple[int, ...]) -> Extent | None:
        """Where a slice is in its file, if it is contiguous, as a tensor of another shape."""
        found = self.extent(place.key, place.start, place.shape)
        return found and found._replace(stored=Stored(found.stored.dtype, shape))

    def slice_bytes(self, place: Slice) -> int:
        """Bytes of a slice on disk."""
        return Stored(self.tensors[place.key].dtype, place.shape).nbytes

    # ---- chunks --------------------------------------------------------------------------------

    def _near(self, key: str, start: tuple[int, ...], shape: tuple[int, ...]) -> Iterable[Chunk]:
        with self._lock:
            if key not in self._indexes:
                self._indexes[key] = _ChunkIndex(self.tensors[key])
            index = self._indexes[key]
        return index.near(start, shape)

    def _gather(
        self, key: str, held: DCPTensor, start: tuple[int, ...], shape: tuple[int, ...]
    ) -> Tensor:
        parts = []
        for chunk in self._near(key, start, shape):
            box = [
                (max(s, o), min(s + n, o + c))
                for s, n, o, c in zip(start, shape, chunk.offsets, chunk.sizes, strict=True)
            ]
            if all(low < high for low, high in box):
                parts.append((chunk, tuple(b[0] for b in box), tuple(h - lo for lo, h in box)))
        if len(parts) == 1 and parts[0][2] == shape:
            return self._read(held, *parts[0])
        _check_cover(parts, shape)
        out = torch.empty(shape, dtype=held.dtype)
        for chunk, low, size in parts:
            place = tuple(
                slice(lo - s, lo - s + n) for lo, s, n in zip(low, start, size, strict=True)
            )
            out[place] = self._read(held, chunk, low, size)
        return out

    def _read(
        self, held: DCPTensor, chunk: Chunk, start: tuple[int, ...], shape: tuple[int, ...]
    ) -> Tensor:
        """A box inside one chunk: only the bytes from its first to its last element."""
        placed = self._place(held, chunk)
        fd = self._open(chunk.file)
        first = _distance(start, chunk, placed)
        span = 1 + sum((n - 1) * s for n, s in zip(shape, placed.strides, strict=True))
        flat = torch.empty(0 if 0 in shape else span, dtype=held.dtype)
        at = chunk.begin + placed.position + first * held.dtype.itemsize
        read_into(fd, raw_bytes(flat), at)
        return flat.as_strided(shape, placed.strides)

    def _place(self, held: DCPTensor, chunk: Chunk) -> Placed:
        where = (chunk.file, chunk.begin)
        placed = self._placed.get(where)
        if placed is None:
            fd = self._open(chunk.file)
            placed = place_tensor(lambda at, n: read_bytes(fd, chunk.begin + at, n), chunk.length)
            if (placed.dtype, placed.shape) != (held.dtype, chunk.sizes):
                raise DCPError(
                    f"{chunk.file} holds shape {list(placed.shape)} of {placed.dtype}, "
                    f".metadata says {list(chunk.sizes)} of {held.dtype}"
                )
            self._placed[where] = placed
        return placed


class _ChunkIndex:
    """The chunks of a tensor in the order of each dimension: a reading looks at few of them."""

    def __init__(self, tensor: DCPTensor) -> None:
        self._by_dim = []
        for dim in range(len(tensor.shape)):
            chunks = sorted(tensor.chunks.values(), key=lambda c: c.offsets[dim])
            widest = max((c.sizes[dim] for c in chunks), default=0)
            self._by_dim.append(([c.offsets[dim] for c in chunks], widest, chunks))
        self._all = list(tensor.chunks.values())

    def near(self, start: tuple[int, ...], shape: tuple[int, ...]) -> list[Chunk]:
        """All chunks that reach into the box, and some more."""
        found = self._all
        for first, count, (offsets, widest, chunks) in zip(start, shape, self._by_dim, strict=True):
            low = bisect_right(offsets, first - widest)
            high = bisect_left(offsets, first + max(count, 1))
            if high - low < len(found):
                found = chunks[low:high]
        return found


def _contains(chunk: Chunk, start: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    boxes = zip(start, shape, chunk.offsets, chunk.sizes, strict=True)
    return all(o <= s and s + n <= o + c for s, n, o, c in boxes)


def _distance(start: tuple[int, ...], chunk: Chunk, placed: Placed) -> int:
    """Elements from the first of a chunk's archive to that at `start`."""
    steps = zip(start, chunk.offsets, placed.strides, strict=True)
    return sum((s - o) * stride for s, o, stride in steps)


def read_tensors(
    folder: Path, into: Mapping[str, Tensor | Deferred], *, may_lack: Collection[str] = ()
) -> None:
    """Fill the given tensors from a checkpoint, in order; `DCPError` for another shape or dtype.

    Of a sharded tensor only this process's part is read, in whatever parts it was written. Tensors
    of `may_lack` stay as they are where the checkpoint has none.
    """
    held = DCPFolder(folder)
    try:
        for key, target in into.items():
            if key not in held.tensors:
                if key in may_lack:
                    continue
                raise DCPError(f"{folder}: tensor `{key}` is missing")
            check_shape(folder, key, held.tensors[key].shape, target.shape, DCPError)
            if target.dtype.is_floating_point:
                check_float(folder, key, held.tensors[key].dtype, DCPError)
            if isinstance(target, Deferred):
                _take(folder, key, target, held.region(key, *local_box(target.like)))
                continue
            with torch.no_grad():
                local_part(target).copy_(held.region(key, *local_box(target)))
    finally:
        held.close()


def _take(folder: Path, key: str, target: Deferred, values: Tensor) -> None:
    try:
        target.take(values)
    except DCPError as err:
        raise DCPError(f"{folder}: tensor `{key}` {err}") from None


def _check_cover(
    parts: list[tuple[Chunk, tuple[int, ...], tuple[int, ...]]], shape: tuple[int, ...]
) -> None:
    """Boxes that are disjoint and together have the volume of the region."""
    volume = sum(math.prod(size) for _, _, size in parts)
    if volume != math.prod(shape) or not _apart([(low, size) for _, low, size in parts]):
        raise DCPError("its chunks overlap or leave a hole")


def _apart(boxes: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> bool:
    """Whether no two boxes (start, shape) share an element."""
    borders = [
        sorted({edge for low, size in boxes for edge in (low[d], low[d] + size[d])})
        for d in range(len(boxes[0][0]) if boxes else 0)
    ]
    counts = [len(edges) for edges in borders]
    if math.prod(counts) > _MAX_CELLS:
        return _pairs_apart(boxes)
    cell_of = [{edge: i for i, edge in enumerate(edges)} for edges in borders]
    taken = np.zeros(counts, dtype=bool)
    for low, size in boxes:
        cells = tuple(
            slice(cells[a], cells[a + n]) for a, n, cells in zip(low, size, cell_of, strict=True)
        )
        if taken[cells].any():
            return False
        taken[cells] = True
    return True


def _pairs_apart(boxes: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> bool:
    if len(boxes) > _MAX_PARTS:
        raise DCPError(f"in {len(boxes)} irregular chunks, the limit is {_MAX_PARTS}")
    return all(
        any(
            a + n <= b or b + m <= a
            for a, n, b, m in zip(low, size, other, other_size, strict=True)
        )
        for i, (low, size) in enumerate(boxes)
        for other, other_size in boxes[:i]
    )
