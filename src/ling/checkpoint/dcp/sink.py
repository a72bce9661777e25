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
from .names import dcp_slices
from .writer import DCPWriter


class DCPSink:
    """Our DCP layout, an expert per chunk; torch's own loader reads it too."""

    def __init__(self, folder: Path, cfg: ModelConfig, options: SinkOptions) -> None:
        dtype = options.dtype or DTYPES[cfg.dtype]
        self.folder = folder
        specs = tensor_specs(cfg)
        self.names = list(specs)
        self._slices = dcp_slices(cfg)
        tensors = {
            place.key: Stored(torch.float32 if specs[n].float32 else dtype, place.whole)
            for n, place in self._slices.items()
        }
        self._writer = DCPWriter(folder, tensors, [s.box for s in self._slices.values()])
        named = cfg.replace(dtype=str(dtype).removeprefix("torch."))
        self._config = json.dumps(named.to_dict(), indent=2) + "\n"
        self.files = {**self._writer.files, "config.json": len(self._config.encode())}

    def put(self, name: str, tensor: Tensor) -> None:
        place = self._slices[name]
        value = cast(name, tensor, self._writer.tensors[place.key].dtype)
        self._writer.put(place.key, place.start, value.reshape(place.shape))

    def finish(self) -> None:
        self._writer.finish()
        (self.folder / "config.json").write_text(self._config, "utf-8")
