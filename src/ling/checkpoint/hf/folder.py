"""The tensors of a model folder by name, over all its safetensors files."""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError, SafetensorsError, ShardIndexError
from ...files.guarded import inside, loads, read_regular
from ...text import shown
from ..raw.safetensors import Entry, SafetensorsFile
from ..run_folder import refuse_checkpoint
from ..stored import unwrapped
from .config import refuse_adapter

INDEX = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
SHARD_NAME = re.compile(r"[\w.-]+\.safetensors", re.ASCII)
# Twice what a trillion-parameter FP8 checkpoint has.
MAX_INDEX_BYTES = 32 << 20
log = logging.getLogger("ling")
# Code in pickles would run on reading; these are never opened, only named in the refusal.
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class SafetensorsFolder:
    """A model folder's tensors by name. Headers are read and checked here, data when asked for.

    Nothing stays open between readings and several threads may read at once. Only regular files
    of the folder are touched (`files.inside` on links). Raises `ShardIndexError` for an index that
    is damaged or points elsewhere, `SafetensorsError` for a damaged file, `CheckpointError` when
    there are no safetensors at all.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._files: dict[str, SafetensorsFile] = {}
        has_index = (self.folder / INDEX).exists() or (self.folder / INDEX).is_symlink()
        self.weight_map = self._from_index() if has_index else self._from_single_file()
        self._entries: dict[str, Entry] = {
            name: self._files[file].entries[name] for name, file in self.weight_map.items()
        }
        self.metadata: dict[str, str] = {}
        """`__metadata__` of all files; where they differ, the first file's."""
        for file in self._files.values():
            self.metadata = {**file.metadata, **self.metadata}

    def _from_index(self) -> dict[str, str]:
        path = self.folder / INDEX
        try:
            index = loads(read_regular(inside(self.folder, INDEX), MAX_INDEX_BYTES))
        except (OSError, ValueError) as err:
            raise ShardIndexError(f"{path}: {getattr(err, 'strerror', None) or err}") from None
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(weight_map, dict) or not weight_map:
            raise ShardIndexError(f"{path}: no `weight_map`, expected an object of names and files")
        weight_map = unwrapped(weight_map)
        by_file = defaultdict(list)
        for name, file in weight_map.items():
            if not isinstance(file, str) or not SHARD_NAME.fullmatch(file):
                raise ShardIndexError(f"{path}: `weight_map` sends {shown(name)} to {shown(file)}")
            by_file[file].append(name)
        if self._is_stale(by_file):
            return self._from_single_file()
        for file in sorted(by_file):
            self._open(file)
            held = self._files[file].entries
            missing = next((name for name in by_file[file] if name not in held), None)
            if missing is not None:
                raise ShardIndexError(f"{path}: {shown(missing)} is not in {file}")
        return weight_map

    def _is_stale(self, by_file: Mapping[str, list[str]]) -> bool:
        """Whether the index belongs to shards that `model.safetensors` has replaced."""
        single = self.folder / SINGLE_FILE
        if not single.is_file():
            return False
        gone = next((f for f in sorted(by_file) if not os.path.lexists(self.folder / f)), None)
        if gone is not None:
            log.warning(
                "%s: names %s, which is not here; it is left aside and %s is read as it is",
                self.folder / INDEX,
                gone,
                SINGLE_FILE,
            )
            return True
        if SINGLE_FILE not in by_file:
            log.warning("%s: is not in %s and is left aside; the shards are read", single, INDEX)
        return False

    def _from_single_file(self) -> dict[str, str]:
        path = self.folder / SINGLE_FILE
        if not path.exists() and not path.is_symlink():
            refuse_checkpoint(self.folder)
            refuse_adapter(self.folder)
            raise CheckpointError(
                f"{self.folder}: neither {INDEX} nor {SINGLE_FILE} is here{self._hint()}"
            )
        self._open(SINGLE_FILE)
        return dict.fromkeys(self._files[SINGLE_FILE].entries, SINGLE_FILE)

    def _hint(self) -> str:
        """What is there in place of the weights."""
        shards = sorted(p.name for p in self.folder.glob("*.safetensors"))
        if shards:
            return f"; {shown(shards[0])} alone does not say which tensors there should be"
        pickles = [p.name for pattern in _PICKLES for p in self.folder.glob(pattern)]
        return f"; pickles such as {shown(pickles[0])} are never opened" if pickles else ""

    def _open(self, file: str) -> None:
        try:
            opened = SafetensorsFile(inside(self.folder, file))
        except OSError as err:
            raise SafetensorsError(f"{self.folder / file}: {err.strerror}") from None
        opened.entries = unwrapped(opened.entries)
        self._files[file] = opened

    def __contains__(self, name: str) -> bool:
        return name in self.weight_map

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the header alone."""
        return self._entries[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """Type of a tensor, from the header alone."""
        return self._entries[name].dtype

    def nbytes(self, name: str) -> int:
        """Bytes a tensor takes in its file."""
        return self._entries[name].nbytes

    def raw(self, name: str) -> tuple[Path, int, int]:
        """File, first byte and number of bytes, for readers of our own layouts."""
        entry = self._entries[name]
        return self.path(name), entry.offset, entry.nbytes

    def path(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self.folder / self.weight_map[name]

    def tensor(self, name: str, into: Tensor | None = None) -> Tensor:
        """One tensor, as stored, copied into memory of its own or `into`; safe whatever happens
        to the file meanwhile."""
        return self._files[self.weight_map[name]].read(name, into)

    def rows(self, name: str, first: int, into: Tensor) -> Tensor:
        """Rows of one matrix from `first` on, as many as `into` has, copied there."""
        return self._files[self.weight_map[name]].rows(name, first, into)

    def part(self, name: str, index: int) -> Tensor:
        """Slice `index` of one tensor that is a stack, copied as by `tensor`."""
        return self._files[self.weight_map[name]].part(name, index)

    def view(self, name: str) -> Tensor:
        """One tensor, as stored, over the mapped file: no bytes are read before they are used.

        For weights that are used where they lie. If another program shortens the file afterwards,
        touching the lost bytes ends the process; where that can happen, use `tensor`.
        """
        return self._files[self.weight_map[name]].view(name)


def has_weights(folder: Path) -> bool:
    """Whether a folder has any file of weights, of formats that are refused as well."""
    patterns = ("*.safetensors", INDEX, *_PICKLES)
    return any(True for pattern in patterns for _ in folder.glob(pattern))
