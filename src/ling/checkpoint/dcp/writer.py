"""Writing torch distributed checkpoints, in one of two ways.

`write_tensors` is torch's own writer: a training saves with it, since it also writes the shards of
several ranks. `DCPWriter` writes box by box as a conversion brings them, so that no whole tensor is
in memory, and bytes that depend on the tensors alone.
"""

from __future__ import annotations

import os
import pickle
import threading
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from ...errors import RunError
from ...files.atomic import final_name
from ..raw.shards import Stored, raw_bytes, write_all
from ..raw.torch_zip import archive_around
from .metadata import Chunk

# Larger tensors are written in several chunks: an archive of 4 GiB would need another layout.
MAX_CHUNK_BYTES = 1 << 30


class DCPWriter:
    """Writes `__0_0.distcp` and `.metadata`; the boxes come in any order, by several threads.

    `boxes` are what `put` will bring (key, start, shape); each becomes a chunk, several when it is
    larger than `MAX_CHUNK_BYTES`.
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


def write_tensors(folder: Path, state: dict[str, Tensor], group: Any = None) -> None:
    """Write tensors as a torch distributed checkpoint; raises `RunError`, as for a full disk.

    With a process `group` every rank of it calls this and writes its part.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that no process group is used
            dcp.save(state, checkpoint_id=folder, process_group=group, no_dist=group is None)
    except CheckpointException as err:  # a BaseException around whatever went wrong
        name = final_name(folder)
        where = "" if group is None else f"rank {min(err.failures)}: "
        raise RunError(f"could not save checkpoint {name}: {where}{_reason(err)}") from None


def _reason(err: CheckpointException) -> str:
    """The operating system's words when they are in the chain of causes, else torch's."""
    last: BaseException = err.failures[min(err.failures)][0]
    cause: BaseException | None = last
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        last, cause = cause, cause.__cause__ or cause.__context__
    return f"{last} (is the disk full?)"
