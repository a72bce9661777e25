"""Writing our own checkpoints: torch DCP with the module's names, config.json beside it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from ...config.model import ModelConfig
from ...model.names import tensor_specs
from ..dtypes import DTYPES
from ..raw.shards import Stored
from ..sink import SinkOptions, cast
from .names import dcp_places
from .writer import DCPWriter


class DCPSink:
    """Our DCP layout, an expert per chunk; torch's own loader reads it too."""

    def __init__(self, folder: Path, cfg: ModelConfig, options: SinkOptions) -> None:
        dtype = options.dtype or DTYPES[cfg.dtype]
        self.folder = folder
        specs = tensor_specs(cfg)
        self.names = list(specs)
        self.dcp_places = dcp_places(cfg)
        tensors = {
            key: Stored(torch.float32 if specs[n].float32 else dtype, shape)
            for n, (key, _, shape) in self.dcp_places.items()
        }
        self._writer = DCPWriter(folder, tensors, [self._box(n) for n in specs])
        named = cfg.replace(dtype=str(dtype).removeprefix("torch."))
        self._config = json.dumps(named.to_dict(), indent=2) + "\n"
        self.files = {**self._writer.files, "config.json": len(self._config.encode())}

    def _box(self, name: str) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
        key, expert, shape = self.dcp_places[name]
        if expert is None:
            return key, (0,) * len(shape), shape
        return key, (expert, *(0 for _ in shape[1:])), (1, *shape[1:])

    def put(self, name: str, tensor: Tensor) -> None:
        key, start, shape = self._box(name)
        value = cast(name, tensor, self._writer.tensors[key].dtype)
        self._writer.put(key, start, value.reshape(shape))

    def finish(self) -> None:
        self._writer.finish()
        (self.folder / "config.json").write_text(self._config, "utf-8")
