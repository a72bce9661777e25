"""Folders in our integer formats: written expert by expert, and read back as Hugging Face
tensors.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import ModelConfig
from ..model.folder import INDEX, SafetensorsFolder
from ..model.names import tensor_specs
from ..model.packed import (
    EMBEDDING,
    PackedSpec,
    empty,
    fill,
    format_in,
    pack_embedding,
    packed_specs,
    quantization_config,
    unpack_embedding,
    unpack_matrix,
)
from ..model.packed_folder import PackedFolder, packed_plan
from ..model.shards import ShardFile, Stored, plan_shards, shard_name
from ..model.weights import read_quantization
from ..ops.formats import TILE, Format, Packed
from .sink import SinkOptions, check_finite
from .source import Rows, TensorRows, pieces

# Packed weights are read by vector instructions as they lie in the file.
CACHE_LINE = 64


class PackedShards:
    """The files of a packed folder, laid out before anything is written."""

    def __init__(self, folder: Path, cfg: ModelConfig, fmt: Format, max_shard_bytes: int) -> None:
        self.folder = folder
        self.plan = {n: Stored(d, s) for n, (s, d) in packed_plan(cfg, fmt).items()}
        groups = plan_shards({n: s.nbytes for n, s in self.plan.items()}, max_shard_bytes)
        self._of: dict[str, ShardFile] = {}
        self.shards: list[ShardFile] = []
        for i, group in enumerate(groups, 1):
            path = folder / shard_name(i, len(groups))
            held = {name: self.plan[name] for name in group}
            self.shards.append(ShardFile(path, held, align=CACHE_LINE))
            self._of.update(dict.fromkeys(group, self.shards[-1]))
        raw = cfg.replace(dtype="bfloat16").to_dict()
        index = {
            "metadata": {"total_size": sum(s.nbytes for s in self.plan.values())},
            "weight_map": {n: self._of[n].path.name for n in self.plan},
        }
        self._texts = {
            "config.json": raw | {"quantization_config": quantization_config(fmt)},
            INDEX: index,
        }
        self.files = {s.path.name: s.nbytes for s in self.shards}
        self.files |= {n: len(_text(v).encode()) for n, v in self._texts.items()}

    def put(self, name: str, tensor: Tensor) -> None:
        """Write a whole tensor of the plan."""
        self._of[name].put(name, tensor)

    def put_piece(self, name: str, at: int, tensor: Tensor) -> None:
        """Write contiguous values of a tensor, from byte `at` of it."""
        self._of[name].put_piece(name, at, tensor)

    def finish(self) -> None:
        """Close the files, and write the index and config.json."""
        for shard in self.shards:
            shard.close()
        for name, value in self._texts.items():
            (self.folder / name).write_text(_text(value), "utf-8")


class PackedSink:
    """Packs Hugging Face tensors as they come, some rows at a time; a matrix waits until both of
    its halves are there.
    """

    def __init__(
        self,
        folder: Path,
        cfg: ModelConfig,
        options: SinkOptions,
        fmt: Format,
    ) -> None:
        self.format, self.importance = fmt, options.importance or {}
        self.names = list(tensor_specs(cfg))
        self._shards = PackedShards(folder, cfg, fmt, options.max_shard_bytes)
        self.files = self._shards.files
        self._vocab_size, self._hidden_size = cfg.vocab_size, cfg.hidden_size
        self._where: dict[str, list[tuple[PackedSpec, int]]] = {}
        for spec in packed_specs(cfg).values():
            for e in range(max(spec.experts, 1)):
                for name in spec.parts(e):
                    self._where.setdefault(name, []).append((spec, e))
        self._waiting: dict[tuple[str, int], dict[str, Rows]] = {}
        self._lock = threading.Lock()

    def takes_rows(self, name: str) -> bool:
        """Every matrix."""
        return name in self._where or name == f"{EMBEDDING}.weight"

    def put(self, name: str, tensor: Tensor) -> None:
        """Take one tensor; its matrix is packed and written when all its parts are there."""
        if self.takes_rows(name):
            return self.put_rows(name, TensorRows(tensor))
        check_finite(name, tensor, self.format.name)
        if name in self._shards.plan:
            self._shards.put(name, tensor.to(self._shards.plan[name].dtype))

    def put_rows(self, name: str, rows: Rows) -> None:
        """`put` for a matrix."""
        if name == f"{EMBEDDING}.weight":
            self._pack_embedding(rows)
        for spec, e in self._where.get(name, []):
            with self._lock:
                parts = self._waiting.setdefault((spec.name, e), {})
                parts[name] = rows
                complete = len(parts) == len(spec.sources)
                if complete:
                    del self._waiting[spec.name, e]
            if complete:
                self._pack(spec, e, [parts[n] for n in spec.parts(e)])

    def _pack_embedding(self, rows: Rows) -> None:
        name = f"{EMBEDDING}.weight"
        for first, count in pieces(self._vocab_size, self._hidden_size):
            values = rows.read(first, count)
            q, scales = pack_embedding(values)
            self._check(scales, [(name, values)])
            for suffix, value in ((".qweight", q), (".scales", scales)):
                at = first * value[0].nbytes
                self._shards.put_piece(EMBEDDING + suffix, at, value)

    def _pack(self, spec: PackedSpec, expert: int, parts: list[Rows]) -> None:
        """A matrix in pieces that stay in the cache from reading to writing."""
        rows, names = spec.rows // len(parts), spec.parts(expert)
        key = f"{spec.name}.{expert}" if spec.experts else spec.name
        at = {".qweight": 0, ".scales": 0}
        out = None
        for first, count in pieces(rows, spec.cols * len(parts)):
            values = [part.read(first, count) for part in parts]
            if out is None or out.rows != count * len(parts):
                piece = replace(spec, rows=count * len(parts), experts=0)
                out = empty(piece, format_in(self.format, spec))
            fill(out, values, self.importance.get(key))
            assert out.scales is not None
            self._check(out.scales, zip(names, values, strict=True))
            for suffix, value in ((".qweight", out.data), (".scales", out.scales)):
                name = spec.name + suffix
                start = expert * (self._shards.plan[name].nbytes // max(spec.experts, 1))
                self._shards.put_piece(name, start + at[suffix], value)
                at[suffix] += value.nbytes

    def _check(self, scales: Tensor, parts: Iterable[tuple[str, Tensor]]) -> None:
        """A scale is NaN where a weight is not finite; then say which tensor holds it."""
        if math.isnan(scales.sum()):
            for name, part in parts:
                check_finite(name, part, self.format.name)

    def finish(self) -> None:
        """Write what describes the files."""
        assert not self._waiting, sorted(self._waiting)[0]
        self._shards.finish()


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
            bits = format_in(self._folder.format, self._where[name][0]).bits
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
        self._held, self._format = folder.source, format_in(folder.format, spec)
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


def _text(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
