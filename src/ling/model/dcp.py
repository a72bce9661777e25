"""Torch distributed checkpoints (DCP) read and written as data, chunk by chunk.

A folder holds `.metadata` (a pickle: tensors, their chunks, where each lies) and `.distcp` files
of small archives, one per chunk. Nothing in them is executed and no other file is opened. A region
of a tensor is read at its place, so that an expert costs an expert and not its stack.
"""

from __future__ import annotations

import math
import os
import pickle
import stat
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import DCPError
from ..files import inside
from .archive import Placed, archive_around, place_tensor
from .pickle_data import Global, Record, read_pickle
from .shards import Extent, Stored, raw_bytes, write_all

MAX_METADATA_BYTES = 256 << 20
# Larger tensors are written in several chunks: an archive of 4 GiB would need another layout.
MAX_CHUNK_BYTES = 1 << 30
_MAX_DIM = 1 << 40
# Of the grid that all borders of the chunks of one reading make; regular chunks are a cell each.
_MAX_CELLS = 1 << 24
# Chunks that one reading joins when that grid is larger; every pair of them is compared.
_MAX_PARTS = 2048

_META, _PLAN = "torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.planner"
_MCORE = "megatron.core.dist_checkpointing.strategies.torch"
_ALLOWED = {
    *(
        Global(_META, name)
        for name in (
            "Metadata",
            "TensorStorageMetadata",
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "TensorProperties",
            "MetadataIndex",
            "StorageMeta",
            "_MEM_FORMAT_ENCODING",
        )
    ),
    # Megatron keeps the plans of all ranks beside its metadata.
    *(
        Global(_PLAN, name)
        for name in (
            "SavePlan",
            "WriteItem",
            "WriteItemType",
            "TensorWriteData",
            "BytesIOWriteData",
        )
    ),
    Global(_MCORE, "MCoreMetadata"),
    Global(_MCORE, "MCoreSavePlan"),
    Global("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    Global("torch", "Size"),
    Global("torch.serialization", "_get_layout"),
    Global("collections", "OrderedDict"),
    Global("collections", "defaultdict"),
    Global("pathlib", "PosixPath"),
    Global("pathlib._local", "PosixPath"),
}
_DTYPES = {
    Global("torch", str(d).removeprefix("torch.")): d
    for d in vars(torch).values()
    if isinstance(d, torch.dtype)
}


class Chunk(NamedTuple):
    """A box of a tensor, and the archive that holds it."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    begin: int
    length: int


class DCPTensor(NamedTuple):
    """Type, shape and chunks (by their offsets) of one tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    chunks: dict[tuple[int, ...], Chunk]

    @property
    def nbytes(self) -> int:
        return Stored(self.dtype, self.shape).nbytes


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
            self.tensors = _read_metadata(folder / ".metadata")
            sizes = {c.file: 0 for t in self.tensors.values() for c in t.chunks.values()}
            for file in sizes:
                sizes[file] = os.fstat(self._open(file)).st_size
            for key, tensor in self.tensors.items():
                _check_tensor(key, tensor, sizes)
        except DCPError as err:
            self.close()
            raise DCPError(f"{folder}: {err}") from None

    def _open(self, file: str) -> int:
        with self._lock:
            if file not in self._fds:
                self._fds[file] = _open_regular(self.folder / file)
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
        """Where the box lies, if it does so in one piece."""
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
        _pread_into(fd, raw_bytes(flat), at)
        return flat.as_strided(shape, placed.strides)

    def _place(self, held: DCPTensor, chunk: Chunk) -> Placed:
        where = (chunk.file, chunk.begin)
        placed = self._placed.get(where)
        if placed is None:
            fd = self._open(chunk.file)
            placed = place_tensor(lambda at, n: _pread(fd, chunk.begin + at, n), chunk.length)
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


def read_tensors(folder: Path, into: Mapping[str, Tensor]) -> None:
    """Fill the given tensors from a checkpoint, by key; `DCPError` for another shape or dtype."""
    held = DCPFolder(folder)
    try:
        for key, target in into.items():
            if key not in held.tensors:
                raise DCPError(f"{folder}: tensor `{key}` is missing")
            found = held.tensors[key]
            if found.shape != tuple(target.shape):
                raise DCPError(
                    f"{folder}: tensor `{key}` has shape {list(found.shape)}, "
                    f"expected {list(target.shape)}"
                )
            with torch.no_grad():
                target.copy_(held.tensor(key))
    finally:
        held.close()


# ---- .metadata ---------------------------------------------------------------------------------


def _read_metadata(path: Path) -> dict[str, DCPTensor]:
    fd = _open_regular(path)
    try:
        size = os.fstat(fd).st_size
        if size > MAX_METADATA_BYTES:
            raise DCPError(f".metadata: {size} bytes, the limit is {MAX_METADATA_BYTES}")
        data = _pread(fd, 0, size)
    finally:
        os.close(fd)
    try:
        return _tensors(read_pickle(data, lambda g: g in _ALLOWED or g in _DTYPES))
    except DCPError as err:
        raise DCPError(f".metadata: {err}") from None
    except (AttributeError, TypeError, ValueError, IndexError, KeyError, RecursionError):
        raise DCPError(".metadata: not the metadata of a checkpoint") from None


def _tensors(metadata: Record) -> dict[str, DCPTensor]:
    infos = {}
    for index, info in (metadata.field("storage_data") or {}).items():
        key, offset = index.field("fqn"), index.field("offset")
        # Only text: hashing a tuple of a million tuples would end the process, here and below.
        if isinstance(key, str) and offset is not None:
            infos[key, _size(offset)] = info
    found = {}
    for key, record in metadata.field("state_dict_metadata").items():
        if record.kind.name != "TensorStorageMetadata" or not isinstance(key, str):
            continue  # bytes: state that is not a tensor is never read
        chunks = {}
        for part in record.field("chunks"):
            offsets, sizes = _size(part.field("offsets")), _size(part.field("sizes"))
            chunks[offsets] = _chunk(offsets, sizes, infos.get((key, offsets)), key)
        properties = record.field("properties").state
        dtype = properties["dtype"] if isinstance(properties, dict) else properties[0]
        if not isinstance(dtype, Global):
            raise ValueError
        found[key] = DCPTensor(_DTYPES[dtype], _size(record.field("size")), chunks)
    return found


def _chunk(
    offsets: tuple[int, ...], sizes: tuple[int, ...], info: Record | None, key: str
) -> Chunk:
    if info is None:
        raise DCPError(f"no data for the chunk at {list(offsets)} of `{key[:200]}`")
    if info.field("transform_descriptors"):
        raise DCPError(f"`{key[:200]}` is compressed, which is not supported")
    file, begin, length = (info.field(k) for k in ("relative_path", "offset", "length"))
    if not isinstance(file, str) or not file or "/" in file or "\0" in file or file in (".", ".."):
        raise DCPError(f"data file {file!r:.200} lies outside the folder")
    if not all(type(n) is int and 0 <= n < 1 << 62 for n in (begin, length)):
        raise DCPError(f"the chunk at {list(offsets)} of `{key[:200]}` lies nowhere")
    return Chunk(offsets, sizes, file, begin, length)


def _size(value: Any) -> tuple[int, ...]:
    """A `torch.Size` as its numbers."""
    (numbers,) = value.args
    numbers = tuple(numbers)
    if len(numbers) > 8 or any(type(n) is not int or not 0 <= n < _MAX_DIM for n in numbers):
        raise DCPError("impossible shape")
    return numbers


def _check_tensor(key: str, tensor: DCPTensor, file_sizes: Mapping[str, int]) -> None:
    """Chunks lie inside the tensor and inside their files, and could fill it."""
    filled = 0
    for chunk in tensor.chunks.values():
        if len(chunk.sizes) != len(tensor.shape) or any(
            o + n > d for o, n, d in zip(chunk.offsets, chunk.sizes, tensor.shape, strict=True)
        ):
            raise DCPError(f"tensor `{key[:200]}` has a chunk outside its shape")
        nbytes = Stored(tensor.dtype, chunk.sizes).nbytes
        if chunk.begin + chunk.length > file_sizes[chunk.file]:
            raise DCPError(
                f"{chunk.file} has {file_sizes[chunk.file]} bytes, tensor `{key[:200]}` should end "
                f"at {chunk.begin + chunk.length}"
            )
        if nbytes > chunk.length:
            raise DCPError(f"tensor `{key[:200]}` has a chunk larger than its data")
        filled += nbytes
    if filled != tensor.nbytes:
        raise DCPError(f"the chunks of tensor `{key[:200]}` do not fill its shape")


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


# ---- data files --------------------------------------------------------------------------------


def _open_regular(path: Path) -> int:
    """Descriptor of a regular file; a fifo does not block."""
    try:
        fd = os.open(inside(path.parent, path.name), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as err:
        reason = getattr(err, "strerror", None) or "impossible name"
        raise DCPError(f"{path.name}: {reason}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise DCPError(f"{path.name}: not a regular file")
    return fd


def _pread(fd: int, at: int, count: int) -> bytes:
    data = bytearray(count)
    _pread_into(fd, memoryview(data), at)
    return bytes(data)


def _pread_into(fd: int, target: memoryview, at: int) -> None:
    while target:
        try:
            count = os.preadv(fd, [target], at)
        except OSError as err:
            raise DCPError(f"cannot be read: {err.strerror}") from None
        if not count:
            raise DCPError("data file ends early")
        target, at = target[count:], at + count


# ---- writing -----------------------------------------------------------------------------------


class DCPWriter:
    """Writes `__0_0.distcp` and `.metadata`; the boxes come in any order, by several threads.

    `boxes` lists, per tensor, the boxes (start, shape) that `put` will bring; each becomes a chunk
    (several when it is larger than `MAX_CHUNK_BYTES`). The bytes depend on the tensors alone.
    """

    FILE = "__0_0.distcp"

    def __init__(
        self,
        folder: Path,
        tensors: Mapping[str, Stored],
        boxes: Iterable[tuple[str, tuple[int, ...], tuple[int, ...]]],
    ) -> None:
        self.folder, self.tensors = folder, dict(tensors)
        self._chunks: dict[str, list[Chunk]] = {key: [] for key in tensors}
        self._at: dict[tuple[str, tuple[int, ...]], Chunk] = {}
        lengths: dict[tuple[torch.dtype, tuple[int, ...]], int] = {}
        end = 0
        for key, start, shape in boxes:
            dtype = self.tensors[key].dtype
            for offset, part in _cut(start, shape, dtype.itemsize):
                if (dtype, part) not in lengths:
                    around = archive_around(dtype, part, None)
                    lengths[dtype, part] = sum(map(len, around)) + Stored(dtype, part).nbytes
                chunk = Chunk(offset, part, self.FILE, end, lengths[dtype, part])
                self._chunks[key].append(chunk)
                self._at[key, offset] = chunk
                end += chunk.length
        self._metadata = self._pickle_metadata()
        self.files = {self.FILE: end, ".metadata": len(self._metadata)}
        self._fd: int | None = None
        self._lock = threading.Lock()

    def put(self, key: str, start: tuple[int, ...], tensor: Tensor) -> None:
        """Write one of the announced boxes, cast to its tensor's dtype."""
        dtype = self.tensors[key].dtype
        row = next((i for i, n in enumerate(tensor.shape) if n > 1), 0)
        for offset, part in _cut(start, tuple(tensor.shape), dtype.itemsize):
            first = offset[row] - start[row] if part else 0
            values = tensor.narrow(row, first, part[row]) if part else tensor
            data = raw_bytes(values.to(dtype))
            chunk = self._at[key, offset]
            head, tail = archive_around(dtype, part, data)
            assert len(head) + len(data) + len(tail) == chunk.length
            fd = self._open()
            write_all(fd, memoryview(head), chunk.begin)
            write_all(fd, data, chunk.begin + len(head))
            write_all(fd, memoryview(tail), chunk.begin + len(head) + len(data))

    def _open(self) -> int:
        with self._lock:
            if self._fd is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                self._fd = os.open(self.folder / self.FILE, flags, 0o644)
            return self._fd

    def finish(self) -> None:
        """All boxes are there: close the data, write what describes it."""
        os.close(self._open())
        (self.folder / ".metadata").write_bytes(self._metadata)

    def _pickle_metadata(self) -> bytes:
        from torch.distributed.checkpoint import metadata as meta
        from torch.distributed.checkpoint.filesystem import _StorageInfo

        state: dict[str, Any] = {}
        storage = {}
        for key, stored in self.tensors.items():
            chunks = [
                meta.ChunkStorageMetadata(torch.Size(c.offsets), torch.Size(c.sizes))
                for c in self._chunks[key]
            ]
            properties = meta.TensorProperties(dtype=stored.dtype)
            size = torch.Size(stored.shape)
            state[key] = meta.TensorStorageMetadata(properties, size, chunks)
            for i, c in enumerate(self._chunks[key]):
                index = meta.MetadataIndex(key, c.offsets, i)
                storage[index] = _StorageInfo(c.file, c.begin, c.length)
        keys = {key: (key,) for key in self.tensors}
        # No storage_meta: it would hold a random id.
        return pickle.dumps(meta.Metadata(state, keys, storage), protocol=4)


def _cut(
    start: tuple[int, ...], shape: tuple[int, ...], itemsize: int
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """A box in slices along its first dimension of more than 1, each within the size limit."""
    row = next((i for i, n in enumerate(shape) if n > 1), 0)
    total = torch.Size(shape).numel() * itemsize
    if total <= MAX_CHUNK_BYTES:
        return [(start, shape)]
    rows = max(1, shape[row] * MAX_CHUNK_BYTES // total)
    pieces = []
    for first in range(0, shape[row], rows):
        offset = (*start[:row], start[row] + first, *start[row + 1 :])
        pieces.append((offset, (*shape[:row], min(rows, shape[row] - first), *shape[row + 1 :])))
    return pieces
