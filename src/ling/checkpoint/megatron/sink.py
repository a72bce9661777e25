"""Writing a Megatron-Core `torch_dist` checkpoint, so that training continues there."""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch
from torch import Tensor

from ...config.model import ModelConfig
from ...model.names import tensor_specs
from ..dcp.writer import DCPWriter
from ..dtypes import DTYPES
from ..raw.shards import Stored
from ..run_folder import MEGATRON_ARGS, MEGATRON_LATEST
from ..sink import SinkOptions, cast
from .args import common_state
from .names import interleave, is_qkv, megatron_slices

ITERATION = 1
_METADATA = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}


class MegatronSink:
    """`iter_0000001/` with data, metadata and arguments, and the file that names it newest.

    An expert's gate, up and down are a chunk each; Megatron loads them for any parallelism.
    """

    def __init__(self, folder: Path, cfg: ModelConfig, options: SinkOptions) -> None:
        dtype = options.dtype or DTYPES[cfg.dtype]
        self._cfg = cfg.replace(dtype=str(dtype).removeprefix("torch."))
        self._slices = megatron_slices(cfg)
        self.names = list(self._slices)
        specs = tensor_specs(cfg)
        tensors = {
            p.key: Stored(torch.float32 if specs[n].float32 else dtype, p.whole)
            for n, p in self._slices.items()
        }
        self._root, self._folder = folder, folder / f"iter_{ITERATION:07d}"
        boxes = [s.box for s in self._slices.values()]
        self._writer = DCPWriter(self._folder, tensors, boxes)
        self._small = {
            folder / MEGATRON_LATEST: f"{ITERATION}".encode(),
            self._folder / "metadata.json": json.dumps(_METADATA).encode(),
            self._folder / MEGATRON_ARGS: _saved(common_state(self._cfg, ITERATION)),
        }
        self.files = {f"{self._folder.name}/{n}": size for n, size in self._writer.files.items()}
        self.files |= {str(p.relative_to(folder)): len(b) for p, b in self._small.items()}

    def put(self, name: str, tensor: Tensor) -> None:
        place = self._slices[name]
        self._folder.mkdir(exist_ok=True)
        value = cast(name, tensor, self._writer.tensors[place.key].dtype)
        value = interleave(value, self._cfg) if is_qkv(place) else value
        self._writer.put(place.key, place.start, value.reshape(place.shape))

    def finish(self) -> None:
        self._writer.finish()
        for path, data in self._small.items():
            path.write_bytes(data)


def _saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
