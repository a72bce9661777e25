"""Hugging Face folders: shards, index, config.json; read and written tensor by tensor."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..config import ModelConfig
from ..model.folder import INDEX, SafetensorsFolder
from ..model.names import TensorSpec, tensor_specs
from ..model.shards import ShardFile, Stored
from ..model.weights import SCALE, check_names, float_tensor, read_config
from .sink import SinkOptions

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.*)")


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
        value = float_tensor(self._held, name)
        fp8 = self._held.dtype(name) == torch.float8_e4m3fn
        return value.to(torch.bfloat16) if fp8 else value

    def stored_bytes(self, name: str) -> int:
        parts = (name, name + SCALE)
        return sum(self._held.nbytes(part) for part in parts if part in self._held)

    def close(self) -> None:
        """Nothing stays open between readings."""


class Layout(Protocol):
    """How one format stores a tensor: names, dtypes and shapes first, the values later."""

    def stored(self, name: str, spec: TensorSpec) -> dict[str, Stored]:
        """What lies on disk for the tensor `name`."""
        ...

    def encode(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        """The values for what `stored` announced."""
        ...

    def config_json(self, cfg: ModelConfig) -> dict[str, Any]:
        """The object for config.json."""
        ...


class PlainLayout:
    """One floating-point dtype; what the spec keeps in float32 stays float32."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def stored(self, name: str, spec: TensorSpec) -> dict[str, Stored]:
        return {name: Stored(torch.float32 if spec.float32 else self.dtype, spec.shape)}

    def encode(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        float32 = name.endswith("expert_bias")
        return {name: tensor.to(torch.float32 if float32 else self.dtype)}

    def config_json(self, cfg: ModelConfig) -> dict[str, Any]:
        return cfg.replace(dtype=str(self.dtype).removeprefix("torch.")).to_dict()


class SafetensorsSink:
    """Shards `model-00001-of-000NN.safetensors` in layer order, their index and config.json."""

    any_order = True

    def __init__(
        self, folder: Path, cfg: ModelConfig, layout: Layout, options: SinkOptions
    ) -> None:
        self.folder, self.config, self.layout = folder, cfg, layout
        specs = tensor_specs(cfg)
        self.names = list(specs)
        stored = {name: layout.stored(name, spec) for name, spec in specs.items()}
        shards = plan_shards(stored, options.max_shard_bytes)
        self._shards: list[ShardFile] = []
        self._shard_of: dict[str, ShardFile] = {}
        for i, names in enumerate(shards, 1):
            file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
            tensors = {k: v for name in names for k, v in stored[name].items()}
            shard = ShardFile(folder / file, tensors)
            self._shards.append(shard)
            self._shard_of.update(dict.fromkeys(names, shard))
        self._texts = {
            "config.json": _json(layout.config_json(cfg)),
            INDEX: _json(self._index(stored)),
        }
        self.files = {s.path.name: s.nbytes for s in self._shards}
        self.files |= {name: len(text.encode()) for name, text in self._texts.items()}

    def _index(self, stored: dict[str, dict[str, Stored]]) -> dict[str, Any]:
        parts = [
            (k, v, self._shard_of[name].path.name)
            for name in stored
            for k, v in stored[name].items()
        ]
        return {
            "metadata": {"total_size": sum(v.nbytes for _, v, _ in parts)},
            "weight_map": {k: file for k, _, file in parts},
        }

    def put(self, name: str, tensor: Tensor) -> None:
        for key, value in self.layout.encode(name, tensor).items():
            self._shard_of[name].put(key, value)

    def finish(self) -> None:
        for shard in self._shards:
            shard.close()
        for name, text in self._texts.items():
            (self.folder / name).write_text(text, "utf-8")


def plan_shards(stored: dict[str, dict[str, Stored]], max_bytes: int) -> list[list[str]]:
    """Names in order, cut into shards of at most `max_bytes` (one tensor may be larger)."""
    shards: list[list[str]] = [[]]
    used = 0
    for name, parts in stored.items():
        size = sum(s.nbytes for s in parts.values())
        if shards[-1] and used + size > max_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
