"""Reading folders in our integer formats as Hugging Face tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ...model.names import tensor_specs
from ...ops.formats import TILE
from ...ops.packing import Packed
from ..hf.config import read_quantization
from ..hf.folder import SafetensorsFolder
from ..source import Rows, TensorRows, pieces
from .folder import PackedFolder
from .matrices import unpack_embedding, unpack_matrix
from .names import EMBEDDING, PackedSpec, packed_specs


class PackedSource:
    """A folder in an integer format, as bfloat16 tensors under Hugging Face names."""

    kind = "packed folder"

    def __init__(self, folder: Path) -> None:
        self._folder = PackedFolder(folder)
        self.config = self._folder.config
        self.tokenizer_folder = folder if (folder / "tokenizer.json").is_file() else None
        self._shapes = {name: spec.shape for name, spec in tensor_specs(self.config).items()}
        self._where = {
            name: (spec, e, i)
            for spec in packed_specs(self.config).values()
            for e in range(max(spec.experts, 1))
            for i, name in enumerate(spec.parts(e))
        }

    def tensor(self, name: str) -> Tensor:
        """The values that the codes stand for, rounded to bfloat16."""
        if name != f"{EMBEDDING}.weight" and name not in self._where:
            return self._folder.plain(name)
        rows, out = self.rows(name), torch.empty(self._shapes[name], dtype=torch.bfloat16)
        for first, count in pieces(*out.shape):
            out[first : first + count] = rows.read(first, count)
        return out

    def rows(self, name: str) -> Rows:
        if name == f"{EMBEDDING}.weight":
            return _EmbeddingRows(self._folder)
        if name not in self._where:
            return TensorRows(self._folder.plain(name))
        return _PackedRows(self._folder, *self._where[name])

    def stored_bytes(self, name: str) -> int:
        """Bytes on disk: this tensor's share of its matrix."""
        values = torch.Size(self._shapes[name]).numel()
        if name == f"{EMBEDDING}.weight":
            return values + values // 16
        bits = 16.0
        if name in self._where:
            bits = self._folder.format.of_matrix(self._where[name][0].name).bits
        return int(values * bits / 8)

    def stored_as(self, name: str) -> str:
        """The folder's format for matrices; the embedding always has 8 bits."""
        if name == f"{EMBEDDING}.weight":
            return "int8"
        return self._folder.format.name if name in self._where else "float"

    def close(self) -> None:
        """Nothing stays open between readings."""


class _EmbeddingRows:
    def __init__(self, folder: PackedFolder) -> None:
        self._held = folder.source

    def read(self, first: int, count: int) -> Tensor:
        q, scales = (
            _rows(self._held, f"{EMBEDDING}.{part}", first, count) for part in ("qweight", "scales")
        )
        return unpack_embedding(q, scales).to(torch.bfloat16)


class _PackedRows:
    """Rows of one of the tensors that a packed matrix was made of."""

    def __init__(self, folder: PackedFolder, spec: PackedSpec, expert: int, part: int) -> None:
        self._held, self._format = folder.source, folder.format.of_matrix(spec.name)
        self._spec, self._part = spec, part
        keys = [f"{spec.name}.{suffix}" for suffix in ("qweight", "scales")]
        # One of a stack is small; of others only the tiles in question are read.
        self._keys = keys
        self._whole = [self._held.part(k, expert) for k in keys] if spec.experts else None

    def read(self, first: int, count: int) -> Tensor:
        parts = len(self._spec.sources)
        at, tiles = first * parts // TILE, -(-count * parts // TILE)
        if self._whole is not None:
            data, scales = (x[at : at + tiles] for x in self._whole)
        else:
            data, scales = (_rows(self._held, key, at, tiles) for key in self._keys)
        piece = replace(self._spec, rows=count * parts, experts=0)
        packed = Packed(self._format, piece.rows, piece.cols, data, scales)
        return unpack_matrix(piece, packed)[self._part].to(torch.bfloat16)


def _rows(held: SafetensorsFolder, key: str, first: int, count: int) -> Tensor:
    into = torch.empty(count, *held.shape(key)[1:], dtype=held.dtype(key))
    return held.rows(key, first, into)


def is_packed(folder: Path) -> bool:
    """Whether a folder's config.json says that it is in one of our integer formats."""
    if not (folder / "config.json").is_file():
        return False
    stored = read_quantization(folder)
    return stored is not None and stored["quant_method"] == "ling"
