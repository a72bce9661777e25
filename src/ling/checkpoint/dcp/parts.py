"""Writing the tensors that ranks hold as one torch distributed checkpoint, each rank its part.

`held` → `share` of what all ranks hold → `write_part` on each; one of them adds `.metadata`.
"""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...files.stream import Stream
from ..raw.shards import Stored, raw_bytes
from ..raw.torch_zip import StreamedArchive
from .layout import FileLayout, metadata_bytes
from .local import Deferred, local_box, local_part

# Bytes hashed and then written at a time: what a core's own cache holds.
_PIECE_BYTES = 1 << 18


class Held(NamedTuple):
    """What one rank has of a tensor."""

    whole: Stored
    start: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return Stored(self.whole.dtype, self.shape).nbytes


def held(tensors: Mapping[str, Tensor | Deferred]) -> dict[str, Held]:
    """What this process has of each tensor."""
    return {
        key: Held(Stored(t.dtype, tuple(t.shape)), *local_box(_like(t)))
        for key, t in tensors.items()
    }


def _like(tensor: Tensor | Deferred) -> Tensor:
    return tensor.like if isinstance(tensor, Deferred) else tensor


def local_parts(tensors: Mapping[str, Tensor | Deferred]) -> dict[str, Tensor | Deferred]:
    """The values of `held`, deferred ones as they are."""
    return {
        key: t if isinstance(t, Deferred) else local_part(t).detach() for key, t in tensors.items()
    }


def share(ranks: Sequence[Mapping[str, Held]]) -> list[FileLayout]:
    """The file of each rank: a box that several ranks hold is written once, by the one of them
    that has least to write so far.
    """
    tensors = {key: h.whole for rank in ranks for key, h in rank.items()}
    holders: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for rank, parts in enumerate(ranks):
        for key, h in parts.items():
            if 0 not in h.shape or 0 in h.whole.shape:
                holders.setdefault((key, h.start), []).append(rank)
    boxes: list[list[tuple[str, tuple[int, ...], tuple[int, ...]]]] = [[] for _ in ranks]
    loads = [0] * len(ranks)
    for (key, start), owners in holders.items():
        rank = min(owners, key=loads.__getitem__)
        h = ranks[rank][key]
        boxes[rank].append((key, start, h.shape))
        loads[rank] += h.nbytes
    return [FileLayout(f"__{r}_0.distcp", tensors, b, _length) for r, b in enumerate(boxes)]


def write_part(
    layout: FileLayout, folder: Path, parts: Mapping[str, Tensor | Deferred]
) -> Iterator[dict[str, str]]:
    """Write one rank's file from what it holds; yields SHA-256 by file name, empty until the end.

    Memory is read once, piece by piece, for hash, checksum and file: steps that go on meanwhile
    need its bandwidth. Whoever iterates may stop after any piece, or go on in another thread. At
    the end the file is on the disk; a rank without boxes writes none.
    """
    if not layout.boxes:
        return
    digest, file = hashlib.sha256(), Stream(folder / layout.file)
    with contextlib.closing(file):
        for key, start, _ in layout.boxes:
            part = parts[key]
            whole = part.make(*part.sources) if isinstance(part, Deferred) else part
            for _, values in layout.pieces(key, start, whole):
                archive, checksum = StreamedArchive(values.dtype, tuple(values.shape)), 0
                digest.update(archive.head)
                file.write(memoryview(archive.head))
                for piece in _pieces(raw_bytes(values.cpu())):
                    digest.update(piece)
                    checksum = zlib.crc32(piece, checksum)
                    file.write(piece)
                    yield {}
                tail = archive.tail(checksum)
                digest.update(tail)
                file.write(memoryview(tail))
        file.finish()
    yield {layout.file: digest.hexdigest()}


def _length(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    return StreamedArchive(dtype, shape).nbytes


def _pieces(data: memoryview) -> list[memoryview]:
    return [data[i : i + _PIECE_BYTES] for i in range(0, len(data), _PIECE_BYTES)]


def write_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write whole tensors of one process as a checkpoint; `OSError` as for a full disk."""
    files = share([held(tensors)])
    for _ in write_part(files[0], folder, local_parts(tensors)):
        pass
    (folder / ".metadata").write_bytes(metadata_bytes(files[0].tensors, files))
