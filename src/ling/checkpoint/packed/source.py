"""Reading folders in our integer formats as Hugging Face tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ...errors import ConfigError
from ...model.names import tensor_specs
from ...ops.formats import BF16, EMBEDDING_INT8, INT8, TILE
from ...ops.packing import Packed
from ..hf.config import read_quantization
from ..hf.folder import SafetensorsFolder
from ..source import Rows, TensorRows, pieces, tokenizer_in
from .folder import PackedFolder
from .matrices import unpack_embedding, unpack_matrix
from .names import EMBEDDING, PackedSpec, packed_specs


class PackedSource:
    """A folder in an integer format, as bfloat16 tensors under Hugging Face names."""

    kind = "packed folder"

    def __init__(self, folder: Path) -> None:
        self.folder = PackedFolder(folder)
        self.config = self.folder.config
        self.tokenizer_folder = tokenizer_in(folder)
        self._shapes = {name: spec.shape for name, spec in tensor_specs(self.config).items()}
        self._where = {
            name: (spec, e, i)
            for spec in packed_specs(self.config).values()
            for e in range(max(spec.experts, 1))
            for i, name in enumerate(spec.parts(e))
        }

    def tensor(self, name: str) -> Tensor:
        """The values that the codes stand for, rounded to bfloat16."""
        return self._read(name, torch.bfloat16)

    def values(self, name: str) -> Tensor:
        return self._read(name, torch.float32)

    def _read(self, name: str, dtype: torch.dtype) -> Tensor:
        if not self._is_packed(name):
            return self.folder.plain(name)
        rows, out = self._rows(name, dtype), torch.empty(self._shapes[name], dtype=dtype)
        for first, count in pieces(*out.shape):
            out[first : first + count] = rows.read(first, count)
        return out

    def rows(self, name: str) -> Rows:
        return self._rows(name, torch.bfloat16)

    def _rows(self, name: str, dtype: torch.dtype) -> Rows:
        if not self._is_packed(name):
            return TensorRows(self.folder.plain(name))
        if name == f"{EMBEDDING}.weight":
            return _EmbeddingRows(self.folder, dtype)
        return _PackedRows(self.folder, *self._where[name], dtype)

    def _is_packed(self, name: str) -> bool:
        return name == f"{EMBEDDING}.weight" or name in self._where

    def stored_bytes(self, name: str) -> int:
        """Bytes on disk: this tensor's share of its matrix."""
        values = torch.Size(self._shapes[name]).numel()
        if name == f"{EMBEDDING}.weight":
            return int(values * EMBEDDING_INT8.stored_bytes)
        fmt = BF16
        if name in self._where:
            fmt = self.folder.format.of_matrix(self._where[name][0].name)
        return int(values * fmt.stored_bytes)

    def stored_as(self, name: str) -> str:
        """The folder's format for matrices; the embedding always has 8 bits."""
        if name == f"{EMBEDDING}.weight":
            return INT8.name
        return self.folder.format.name if name in self._where else "float"

    def close(self) -> None:
        """Nothing stays open between readings."""


class _EmbeddingRows:
    def __init__(self, folder: PackedFolder, dtype: torch.dtype) -> None:
        self._held, self._dtype = folder.source, dtype

    def read(self, first: int, count: int) -> Tensor:
        q, scales = (
            _rows(self._held, f"{EMBEDDING}.{part}", first, count) for part in ("qweight", "scales")
        )
        return unpack_embedding(q, scales).to(self._dtype)


class _PackedRows:
    """Rows of one of the tensors that a packed matrix was made of."""

    def __init__(
        self,
        folder: PackedFolder,
        spec: PackedSpec,
        expert: int,
        part: int,
        dtype: torch.dtype,
    ) -> None:
        self._held, self._format = folder.source, folder.format.of_matrix(spec.name)
        self._spec, self._part, self._dtype = spec, part, dtype
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
        return unpack_matrix(piece, packed)[self._part].to(self._dtype)


def _rows(held: SafetensorsFolder, key: str, first: int, count: int) -> Tensor:
    into = torch.empty(count, *held.shape(key)[1:], dtype=held.dtype(key))
    return held.rows(key, first, into)


def find_folder(path: Path) -> Path | None:
    """The folder, if its config.json says that it is in one of our integer formats."""
    try:
        stored = read_quantization(path) if (path / "config.json").is_file() else None
    except ConfigError:
        return None  # the reader of Hugging Face folders says what is wrong
    return path if stored is not None and stored["quant_method"] == "ling" else None
