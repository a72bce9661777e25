"""Writing torch distributed checkpoints box by box as a conversion brings them, so that no whole
tensor is in memory. A training saves with `parts.py`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..raw.shards import Stored, raw_bytes, write_all
from ..raw.torch_zip import archive_around
from .layout import FileLayout, TensorBox, metadata_bytes


class DCPWriter:
    """Writes `__0_0.distcp` and `.metadata`; the boxes come in any order, by several threads.

    `boxes` are what `put` will bring (key, start, shape).
    """

    FILE = "__0_0.distcp"

    def __init__(
        self, folder: Path, tensors: Mapping[str, Stored], boxes: Iterable[TensorBox]
    ) -> None:
        self.folder, self.tensors = folder, dict(tensors)
        self._layout = FileLayout(self.FILE, self.tensors, boxes, _length)
        self._metadata = metadata_bytes(self.tensors, [self._layout])
        self.files = {self.FILE: self._layout.nbytes, ".metadata": len(self._metadata)}
        self._fd: int | None = None
        self._lock = threading.Lock()

    def put(self, key: str, start: tuple[int, ...], tensor: Tensor) -> None:
        """Write one of the announced boxes, cast to its tensor's dtype."""
        dtype = self.tensors[key].dtype
        for chunk, values in self._layout.pieces(key, start, tensor):
            data = raw_bytes(values.to(dtype))
            head, tail = archive_around(dtype, chunk.sizes, data)
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


def _length(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    return sum(map(len, archive_around(dtype, shape, None))) + Stored(dtype, shape).nbytes
