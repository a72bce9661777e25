"""The files of a model folder, laid out before anything is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..raw.shards import Extent, ShardFile, Stored, plan_shards, shard_name
from .folder import INDEX


class ShardFolder:
    """Safetensors shards, their index and texts such as config.json.

    `groups` are the tensors on disk by the name of what they stand for; a group is never split.
    """

    def __init__(
        self,
        folder: Path,
        groups: Mapping[str, Mapping[str, Stored]],
        texts: Mapping[str, str],
        max_bytes: int,
        align: int = 8,
    ) -> None:
        self.folder = folder
        self.stored = {key: s for parts in groups.values() for key, s in parts.items()}
        sizes = {n: sum(s.nbytes for s in parts.values()) for n, parts in groups.items()}
        plan = plan_shards(sizes, max_bytes)
        self.shards: list[ShardFile] = []
        self.shard_of: dict[str, ShardFile] = {}
        for i, names in enumerate(plan, 1):
            tensors = {key: s for name in names for key, s in groups[name].items()}
            self.shards.append(ShardFile(folder / shard_name(i, len(plan)), tensors, align))
            self.shard_of |= dict.fromkeys(tensors, self.shards[-1])
        index = {
            "metadata": {"total_size": sum(s.nbytes for s in self.stored.values())},
            "weight_map": {key: self.shard_of[key].path.name for key in self.stored},
        }
        self._texts = {**texts, INDEX: as_text(index)}
        self.files = {s.path.name: s.nbytes for s in self.shards} | text_sizes(self._texts)

    def put(self, key: str, tensor: Tensor) -> None:
        """Write a whole tensor."""
        self.shard_of[key].put(key, tensor)

    def put_piece(self, key: str, at: int, tensor: Tensor) -> None:
        """Write contiguous values of a tensor, from byte `at` of it."""
        self.shard_of[key].put_piece(key, at, tensor)

    def put_extent(self, key: str, extent: Extent) -> bool:
        """Let the kernel copy a tensor from another file; False where it cannot."""
        return self.shard_of[key].put_extent(key, extent)

    def finish(self) -> None:
        """Close the shards, write the texts."""
        for shard in self.shards:
            shard.close()
        write_texts(self.folder, self._texts)


def as_text(value: Any) -> str:
    """A JSON file that a person can read."""
    return json.dumps(value, indent=2) + "\n"


def text_sizes(texts: Mapping[str, str]) -> dict[str, int]:
    """Bytes of text files, by name."""
    return {name: len(text.encode()) for name, text in texts.items()}


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Write text files into a folder."""
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8")
