"""Writing Hugging Face folders: shards, index and config.json, tensor by tensor."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ...config.model import ModelConfig
from ...model.names import tensor_specs
from ..raw.shards import Extent, ShardFile
from ..sink import SinkOptions
from ..source import Rows, pieces
from .auto_map import config_files
from .folder import INDEX
from .layouts import Layout
from .names import LAYER
from .shard_folder import ShardFolder, as_text, text_sizes, write_texts

MTP_FILE = "mtp_layers_parameters.safetensors"


class SafetensorsSink:
    """Shards `model-00001-of-000NN.safetensors` in layer order, their index and config.json.

    Of several ranks each writes every `world_size`-th shard.
    """

    def __init__(
        self, folder: Path, cfg: ModelConfig, layout: Layout, options: SinkOptions
    ) -> None:
        self._layout = layout
        self._shapes = {n: spec.shape for n, spec in tensor_specs(cfg).items()}
        self._stored = {n: layout.stored(n, spec) for n, spec in tensor_specs(cfg).items()}
        texts = config_files(layout.config_json(cfg))
        self._out = ShardFolder(folder, self._stored, texts, options.max_shard_bytes)
        mine = self._out.shards[options.rank :: options.world_size]
        self.names = [name for name in self._stored if self._out.shard_of[name] in mine]
        self.files = self._out.files

    def put(self, name: str, tensor: Tensor) -> None:
        for key, value in self._layout.encode(name, tensor).items():
            self._out.put(key, value)

    def takes_rows(self, name: str) -> bool:
        """Every matrix."""
        return len(self._shapes[name]) == 2

    def put_rows(self, name: str, rows: Rows) -> None:
        """`put` for a matrix."""
        at: dict[str, int] = {}
        for first, count in pieces(*self._shapes[name]):
            for key, value in self._layout.encode(name, rows.read(first, count)).items():
                self._out.put_piece(key, at.setdefault(key, 0), value)
                at[key] += value.nbytes

    def put_extent(self, name: str, extent: Extent) -> bool:
        same = self._stored[name] == {name: extent.stored}
        return same and self._out.put_extent(name, extent)

    def finish(self) -> None:
        self._out.finish()


class SeparateMTPSink:
    """The MTP layers as a model of their own: one file, layers counted from 0
    (docs/concepts/model.md).
    """

    def __init__(self, folder: Path, cfg: ModelConfig, layout: Layout) -> None:
        self.folder, self._layout = folder, layout
        self.names = [n for n in tensor_specs(cfg) if _is_mtp(n, cfg)]
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
            INDEX: as_text({"weight_map": dict.fromkeys(tensors, MTP_FILE)}),
        }
        self.files = {MTP_FILE: self._shard.nbytes} | text_sizes(self._texts)

    def put(self, name: str, tensor: Tensor) -> None:
        for key, value in self._layout.encode(name, tensor).items():
            self._shard.put(self._renamed[key], value)

    def finish(self) -> None:
        self._shard.close()
        write_texts(self.folder, self._texts)


def _is_mtp(name: str, cfg: ModelConfig) -> bool:
    match = LAYER.fullmatch(name)
    return match is not None and int(match[1]) >= cfg.num_hidden_layers
