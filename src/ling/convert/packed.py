"""Folders in our integer formats: written expert by expert, and read back as Hugging Face
tensors.
"""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import ModelConfig
from ..model.folder import INDEX
from ..model.names import tensor_specs
from ..model.packed import (
    EMBEDDING,
    EMBEDDING_ROWS,
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
from ..ops.formats import Format, Packed
from .sink import SinkOptions, check_finite

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

    def put_part(self, name: str, index: int, tensor: Tensor) -> None:
        """Write one slice of a stack."""
        self._of[name].put_part(name, index, tensor)

    def finish(self) -> None:
        """Close the files, and write the index and config.json."""
        for shard in self.shards:
            shard.close()
        for name, value in self._texts.items():
            (self.folder / name).write_text(_text(value), "utf-8")


class PackedSink:
    """Packs Hugging Face tensors as they come; holds one matrix whose other half is not there
    yet.
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
        self._where: dict[str, list[tuple[PackedSpec, int]]] = {}
        for spec in packed_specs(cfg).values():
            for e in range(max(spec.experts, 1)):
                for name in spec.parts(e):
                    self._where.setdefault(name, []).append((spec, e))
        self._waiting: dict[tuple[str, int], dict[str, Tensor]] = {}
        self._lock = threading.Lock()

    def put(self, name: str, tensor: Tensor) -> None:
        """Take one tensor; its matrix is packed and written when all its parts are there."""
        if name not in self._where:  # of a matrix, the scales tell
            check_finite(name, tensor, self.format.name)
        if name == f"{EMBEDDING}.weight":
            q, scales = pack_embedding(tensor)
            self._shards.put(f"{EMBEDDING}.qweight", q)
            self._shards.put(f"{EMBEDDING}.scales", scales)
        for spec, e in self._where.get(name, []):
            with self._lock:
                parts = self._waiting.setdefault((spec.name, e), {})
                parts[name] = tensor
                complete = len(parts) == len(spec.sources)
                if complete:
                    del self._waiting[spec.name, e]
            if complete:
                self._pack(spec, e, [parts[n] for n in spec.parts(e)])
        if name not in self._where and name in self._shards.plan:
            self._shards.put(name, tensor.to(self._shards.plan[name].dtype))

    def _pack(self, spec: PackedSpec, expert: int, parts: list[Tensor]) -> None:
        out = empty(replace(spec, experts=0), format_in(self.format, spec))
        key = f"{spec.name}.{expert}" if spec.experts else spec.name
        fill(out, parts, self.importance.get(key))
        if out.scales is None or bool(out.scales.isnan().any()):
            # A scale is NaN where a weight is not finite; say which tensor holds it.
            for name, part in zip(spec.parts(expert), parts, strict=True):
                check_finite(name, part, self.format.name)
        for suffix, value in ((".qweight", out.data), (".scales", out.scales)):
            if value is None:
                continue
            if spec.experts:
                self._shards.put_part(spec.name + suffix, expert, value)
            else:
                self._shards.put(spec.name + suffix, value)

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
        self._where = {
            name: (spec, e, i)
            for spec in packed_specs(self.config).values()
            for e in range(max(spec.experts, 1))
            for i, name in enumerate(spec.parts(e))
        }

    def tensor(self, name: str) -> Tensor:
        """The values that the codes stand for, rounded to bfloat16."""
        held = self._folder.source
        if name == f"{EMBEDDING}.weight":
            q, scales = (held.tensor(f"{EMBEDDING}.{part}") for part in ("qweight", "scales"))
            parts = zip(q.split(EMBEDDING_ROWS), scales.split(EMBEDDING_ROWS), strict=True)
            return torch.cat([unpack_embedding(*part).to(torch.bfloat16) for part in parts])
        if name not in self._where:
            return self._folder.plain(name)
        spec, e, i = self._where[name]
        keys = (f"{spec.name}.qweight", f"{spec.name}.scales")
        data, scales = (held.part(k, e) if spec.experts else held.tensor(k) for k in keys)
        packed = Packed(format_in(self._folder.format, spec), spec.rows, spec.cols, data, scales)
        return unpack_matrix(replace(spec, experts=0), packed)[i].to(torch.bfloat16)

    def stored_bytes(self, name: str) -> int:
        """Bytes on disk: this tensor's share of its matrix."""
        values = torch.Size(tensor_specs(self.config)[name].shape).numel()
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


def is_packed(folder: Path) -> bool:
    """Whether a folder's config.json says that it is in one of our integer formats."""
    if not (folder / "config.json").is_file():
        return False
    stored = read_quantization(folder)
    return stored is not None and stored["quant_method"] == "ling"


def _text(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
