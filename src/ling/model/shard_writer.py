"""Safetensors shards written as a stream: the header first, then each tensor as it comes.

Nothing is held but the tensor at hand. Data starts at a multiple of 64 bytes, so that a mapped file
can be read by vector instructions as it lies.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from .weights import INDEX

ALIGN = 64
_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int8: "I8",
    torch.uint8: "U8",
}

Entry = tuple[tuple[int, ...], torch.dtype]


def entry_bytes(entry: Entry) -> int:
    """Size of a tensor on disk."""
    shape, dtype = entry
    return int(torch.Size(shape).numel()) * dtype.itemsize


class ShardWriter:
    """Writes the tensors of `plan` (name → shape and dtype), in its order, into `folder`.

    A shard ends before it would exceed `max_shard_bytes`. `finish` writes the index.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Entry], max_shard_bytes: int) -> None:
        self.folder, self.plan = folder, dict(plan)
        self.shards = plan_shards(self.plan, max_shard_bytes)
        self.order = [name for shard in self.shards for name in shard]
        self._next, self._file, self._left = 0, None, 0
        self._file: BinaryIO | None

    def file_name(self, shard: int) -> str:
        """`model-00001-of-000NN.safetensors`."""
        return f"model-{shard + 1:05d}-of-{len(self.shards):05d}.safetensors"

    def put(self, name: str, tensor: Tensor) -> None:
        """Append the next tensor of the plan."""
        assert name == self.order[self._next], f"{name} out of order"
        shape, dtype = self.plan[name]
        assert tuple(tensor.shape) == tuple(shape) and tensor.dtype == dtype, name
        file = self._open()
        flat = tensor.detach().contiguous().view(-1)
        file.write(memoryview(flat.view(torch.uint8).numpy()))
        self._next += 1
        self._left -= 1
        if not self._left:
            file.close()
            self._file = None

    def _open(self) -> BinaryIO:
        if self._file is None:
            start = 0
            for number, names in enumerate(self.shards):
                if start == self._next:
                    break
                start += len(names)
            self._file = (self.folder / self.file_name(number)).open("wb")
            self._file.write(header({n: self.plan[n] for n in names}))
            self._left = len(names)
        return self._file

    def finish(self) -> None:
        """Write `model.safetensors.index.json`; every tensor must be there."""
        assert self._next == len(self.order), f"{self.order[self._next]} was never written"
        weight_map = {n: self.file_name(i) for i, names in enumerate(self.shards) for n in names}
        total = sum(entry_bytes(e) for e in self.plan.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (self.folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def plan_shards(plan: Mapping[str, Entry], max_shard_bytes: int) -> list[list[str]]:
    """Names by shard, in order."""
    shards: list[list[str]] = [[]]
    used = 0
    for name, entry in plan.items():
        size = entry_bytes(entry)
        if shards[-1] and used + size > max_shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def header(entries: Mapping[str, Entry]) -> bytes:
    """Length and JSON header of a file that holds these tensors back to back."""
    described: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (shape, dtype) in entries.items():
        size = entry_bytes((shape, dtype))
        described[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGN)
    return struct.pack("<Q", len(text)) + text
