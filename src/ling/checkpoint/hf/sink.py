"""Writing Hugging Face folders: shards, index and config.json, tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ...config.model import ModelConfig
from ...model.names import tensor_specs
from ..raw.shards import Extent, ShardFile, Stored, plan_shards, shard_name
from ..sink import SinkOptions
from ..source import Rows, pieces
from .auto_map import config_files
from .folder import INDEX
from .layouts import Layout
from .names import LAYER

MTP_FILE = "mtp_layers_parameters.safetensors"


class SafetensorsSink:
    """Shards `model-00001-of-000NN.safetensors` in layer order, their index and config.json.

    Of several ranks each writes every `world_size`-th shard; `finish` closes a rank's shards,
    `describe` writes index and config.json.
    """

    def __init__(
        self, folder: Path, cfg: ModelConfig, layout: Layout, options: SinkOptions
    ) -> None:
        self.folder, self._layout = folder, layout
        self._shapes = {n: spec.shape for n, spec in tensor_specs(cfg).items()}
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

    def takes_rows(self, name: str) -> bool:
        """Every matrix."""
        return len(self._shapes[name]) == 2

    def put_rows(self, name: str, rows: Rows) -> None:
        """`put` for a matrix."""
        at: dict[str, int] = {}
        for first, count in pieces(*self._shapes[name]):
            for key, value in self._layout.encode(name, rows.read(first, count)).items():
                self._shard_of[name].put_piece(key, at.setdefault(key, 0), value)
                at[key] += value.nbytes

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
            match = LAYER.fullmatch(key)
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
    match = LAYER.fullmatch(name)
    layer = int(match[1]) if match else -1
    return layer - cfg.num_hidden_layers if layer >= cfg.num_hidden_layers else None


def _index(places: dict[str, tuple[str, dict[str, Stored]]]) -> dict[str, Any]:
    total = sum(s.nbytes for _, parts in places.values() for s in parts.values())
    weight_map = {key: file for file, parts in places.values() for key in parts}
    return {"metadata": {"total_size": total}, "weight_map": weight_map}


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
