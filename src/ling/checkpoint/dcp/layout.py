"""Where tensors lie in the files of a torch distributed checkpoint, and its `.metadata`.

An archive per box of a tensor; bytes depend on the tensors alone.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..raw.shards import Stored
from .metadata import Chunk

# Larger tensors are written in several chunks: an archive of 4 GiB would need another layout.
MAX_CHUNK_BYTES = 1 << 30

# Key of a tensor, start and shape of the box.
TensorBox = tuple[str, tuple[int, ...], tuple[int, ...]]


class FileLayout:
    """The chunks of one `.distcp` file, in the order of `boxes`.

    A box is a chunk, several when it is larger than `MAX_CHUNK_BYTES`. `tensors` are the whole
    ones by key, `length` the bytes of an archive.
    """

    def __init__(
        self,
        file: str,
        tensors: Mapping[str, Stored],
        boxes: Iterable[TensorBox],
        length: Callable[[torch.dtype, tuple[int, ...]], int],
    ) -> None:
        self.file, self.tensors, self.boxes = file, tensors, list(boxes)
        self.chunks: dict[tuple[str, tuple[int, ...]], Chunk] = {}
        self.nbytes = 0
        lengths: dict[Stored, int] = {}
        for key, start, shape in self.boxes:
            dtype = tensors[key].dtype
            for offset, part in _cut(start, shape, dtype.itemsize):
                stored = Stored(dtype, part)
                if stored not in lengths:
                    lengths[stored] = length(dtype, part)
                self.chunks[key, offset] = Chunk(offset, part, file, self.nbytes, lengths[stored])
                self.nbytes += lengths[stored]

    def pieces(
        self, key: str, start: tuple[int, ...], values: Tensor
    ) -> Iterator[tuple[Chunk, Tensor]]:
        """The chunks of one box, each with its part of the box's values."""
        row = _first_row(tuple(values.shape))
        itemsize = self.tensors[key].dtype.itemsize
        for offset, part in _cut(start, tuple(values.shape), itemsize):
            first = offset[row] - start[row] if part else 0
            yield self.chunks[key, offset], values.narrow(row, first, part[row]) if part else values


def metadata_bytes(tensors: Mapping[str, Stored], files: Sequence[FileLayout]) -> bytes:
    """`.metadata` of tensors that lie in these files."""
    from torch.distributed.checkpoint import metadata as meta
    from torch.distributed.checkpoint.filesystem import _StorageInfo

    chunks: dict[str, list[Chunk]] = {key: [] for key in tensors}
    for file in files:
        for (key, _), chunk in file.chunks.items():
            chunks[key].append(chunk)
    state: dict[str, Any] = {}
    storage = {}
    for key, stored in tensors.items():
        parts = [
            meta.ChunkStorageMetadata(torch.Size(c.offsets), torch.Size(c.sizes))
            for c in chunks[key]
        ]
        properties = meta.TensorProperties(dtype=stored.dtype)
        state[key] = meta.TensorStorageMetadata(properties, torch.Size(stored.shape), parts)
        for i, c in enumerate(chunks[key]):
            index = meta.MetadataIndex(key, c.offsets, i)
            storage[index] = _StorageInfo(c.file, c.begin, c.length)
    keys = {key: (key,) for key in tensors}
    # No storage_meta: it would hold a random id.
    return pickle.dumps(meta.Metadata(state, keys, storage), protocol=4)


def _first_row(shape: tuple[int, ...]) -> int:
    """The first dimension of more than 1, along which boxes are cut."""
    return next((i for i, n in enumerate(shape) if n > 1), 0)


def _cut(
    start: tuple[int, ...], shape: tuple[int, ...], itemsize: int
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """A box in slices along its first dimension of more than 1, each within the size limit."""
    row = _first_row(shape)
    total = torch.Size(shape).numel() * itemsize
    if total <= MAX_CHUNK_BYTES:
        return [(start, shape)]
    rows = max(1, shape[row] * MAX_CHUNK_BYTES // total)
    pieces = []
    for first in range(0, shape[row], rows):
        offset = (*start[:row], start[row] + first, *start[row + 1 :])
        pieces.append((offset, (*shape[:row], min(rows, shape[row] - first), *shape[row + 1 :])))
    return pieces
