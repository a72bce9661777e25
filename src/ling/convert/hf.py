"""Hugging Face folders: shards, index and config.json, read and written tensor by tensor."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import ModelConfig
from ..model.door import config_files
from ..model.folder import INDEX, SafetensorsFolder
from ..model.names import tensor_specs
from ..model.shards import Extent, ShardFile, Stored, plan_shards, shard_name
from ..model.weights import (
    FP8_BLOCK,
    SCALE,
    check_names,
    fp8_scales,
    read_config,
)
from ..ops import native
from ..ops.formats import dequantise_fp8_block
from .layouts import Layout
from .sink import SinkOptions
from .source import Rows

MTP_FILE = "mtp_layers_parameters.safetensors"
_LAYER = re.compile(r"model\.layers\.([0-9]{1,9})\.(.*)")


class HFSource:
    """A folder with config.json and safetensors: bf16, float32 or FP8 (which comes as bf16)."""

    kind = "Hugging Face folder"

    def __init__(self, folder: Path) -> None:
        config = read_config(folder)
        self._held = SafetensorsFolder(folder)
        layers = {int(m[1]) for n in self._held.weight_map if (m := _LAYER.fullmatch(n))}
        # Not every release holds the MTP layers that its config announces.
        held = max(max(layers, default=0) + 1 - config.num_hidden_layers, 0)
        self.config = config.replace(num_nextn_predict_layers=held)
        check_names(self.config, self._held)
        self.tokenizer_folder = folder if (folder / "tokenizer.json").is_file() else None

    def tensor(self, name: str) -> Tensor:
        value = self._held.tensor(name)
        fp8 = value.dtype == torch.float8_e4m3fn
        return _fp8_as_bfloat16(value, fp8_scales(self._held, name)) if fp8 else value

    def rows(self, name: str) -> Rows:
        return _HFRows(self._held, name)

    def stored_bytes(self, name: str) -> int:
        parts = (name, name + SCALE)
        return sum(self._held.nbytes(part) for part in parts if part in self._held)

    def stored_as(self, name: str) -> str:
        """Each tensor by its own dtype."""
        return "fp8" if self._held.dtype(name) == torch.float8_e4m3fn else "float"

    def close(self) -> None:
        """Nothing stays open between readings."""


class _HFRows:
    """Rows as stored, FP8 as bfloat16; each reading into the same memory."""

    def __init__(self, held: SafetensorsFolder, name: str) -> None:
        self._held, self._name, self._dtype = held, name, held.dtype(name)
        self._scales = fp8_scales(held, name) if self._dtype == torch.float8_e4m3fn else None
        self._memory: Tensor | None = None

    def read(self, first: int, count: int) -> Tensor:
        if self._memory is None or len(self._memory) < count:
            self._memory = torch.empty(count, self._held.shape(self._name)[1], dtype=self._dtype)
        values = self._held.rows(self._name, first, self._memory[:count])
        if self._scales is None:
            return values
        scales = self._scales[first // FP8_BLOCK : -(-(first + count) // FP8_BLOCK)]
        return _fp8_as_bfloat16(values, scales)


def _fp8_as_bfloat16(values_MN: Tensor, scales: Tensor) -> Tensor:
    if native.library() is None:
        return dequantise_fp8_block(values_MN, scales, FP8_BLOCK).to(torch.bfloat16)
    return native.widen_fp8(values_MN, scales, FP8_BLOCK)


class SafetensorsSink:
    """Shards `model-00001-of-000NN.safetensors` in layer order, their index and config.json.

    Of several ranks each writes every `world_size`-th shard; `finish` closes a rank's shards,
    `describe` writes index and config.json.
    """

    def __init__(
        self, folder: Path, cfg: ModelConfig, layout: Layout, options: SinkOptions
    ) -> None:
        self.folder, self._layout = folder, layout
        stored = {n: layout.stored(n, spec) for n, spec in tensor_specs(cfg).items()}
        sizes = {n: sum(s.nbytes for s in parts.values()) for n, parts in stored.items()}
        plan = plan_shards(sizes, options.max_shard_bytes)
        self._shards: list[ShardFile] = []
        self._shard_of: dict[str, ShardFile] = {}
        for i, names in enumerate(plan, 1):
            tensors = {key: value for name in names for key, value in stored[name].items()}
            self._shards.append(ShardFile(folder / shard_name(i, len(plan)), tensors))
            self._shard_of |= dict.fromkeys(names, self._shards[-1])
        self._stored = stored
        mine = self._shards[options.rank :: options.world_size]
        self.names = [name for name in stored if self._shard_of[name] in mine]
        index = _index({n: (self._shard_of[n].path.name, parts) for n, parts in stored.items()})
        self._texts = {**config_files(layout.config_json(cfg)), INDEX: _json(index)}
        self.files = {s.path.name: s.nbytes for s in self._shards}
        self.files |= {name: len(text.encode()) for name, text in self._texts.items()}

    def put(self, name: str, tensor: Tensor) -> None:
        for key, value in self._layout.encode(name, tensor).items():
            self._shard_of[name].put(key, value)

    def put_extent(self, name: str, extent: Extent) -> bool:
        return self._stored[name] == {name: extent.stored} and self._shard_of[name].put_extent(
            name, extent
        )

    def finish(self) -> None:
        for shard in self._shards:
            shard.close()
        for name, text in self._texts.items():
            (self.folder / name).write_text(text, "utf-8")


class SeparateMTPSink:
    """The MTP layers as a model of their own: one file, layers counted from 0 (spec: §2)."""

    def __init__(self, folder: Path, cfg: ModelConfig, layout: Layout) -> None:
        self.folder, self._layout = folder, layout
        self.names = [n for n in tensor_specs(cfg) if _mtp_layer(n, cfg) is not None]
        stored = {n: layout.stored(n, tensor_specs(cfg)[n]) for n in self.names}
        first = cfg.num_hidden_layers

        def counted_from_zero(key: str) -> str:
            match = _LAYER.fullmatch(key)
            assert match is not None
            return f"model.layers.{int(match[1]) - first}.{match[2]}"

        self._renamed = {key: counted_from_zero(key) for parts in stored.values() for key in parts}
        tensors = {self._renamed[k]: v for parts in stored.values() for k, v in parts.items()}
        self._shard = ShardFile(folder / MTP_FILE, tensors)
        own = cfg.replace(num_hidden_layers=1, first_k_dense_replace=0)
        self._texts = {
            **config_files(layout.config_json(own)),
            INDEX: _json({"weight_map": dict.fromkeys(tensors, MTP_FILE)}),
        }
        self.files = {MTP_FILE: self._shard.nbytes}
        self.files |= {name: len(text.encode()) for name, text in self._texts.items()}

    def put(self, name: str, tensor: Tensor) -> None:
        for key, value in self._layout.encode(name, tensor).items():
            self._shard.put(self._renamed[key], value)

    def finish(self) -> None:
        self._shard.close()
        for name, text in self._texts.items():
            (self.folder / name).write_text(text, "utf-8")


def _mtp_layer(name: str, cfg: ModelConfig) -> int | None:
    match = _LAYER.fullmatch(name)
    layer = int(match[1]) if match else -1
    return layer - cfg.num_hidden_layers if layer >= cfg.num_hidden_layers else None


def _index(places: dict[str, tuple[str, dict[str, Stored]]]) -> dict[str, Any]:
    total = sum(s.nbytes for _, parts in places.values() for s in parts.values())
    weight_map = {key: file for file, parts in places.values() for key in parts}
    return {"metadata": {"total_size": total}, "weight_map": weight_map}


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
