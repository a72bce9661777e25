"""A module written as a Hugging Face folder, one shard in memory at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ...config.model import ModelConfig
from ...model.ling import Ling
from ...model.names import in_module, tensor_specs
from ..dtypes import DTYPES
from ..raw.shards import plan_shards, shard_name
from .auto_map import write_config
from .folder import INDEX


def model_tensors(state: Mapping[str, Tensor], cfg: ModelConfig) -> Iterable[tuple[str, Tensor]]:
    """(Hugging Face name, tensor) of a module's state, in layer order, without copies."""
    for name in tensor_specs(cfg):
        key, expert = in_module(name)
        yield name, state[key] if expert is None else state[key][expert]


def save_model(
    model: Ling | Mapping[str, Tensor],
    cfg: ModelConfig,
    folder: str | Path,
    *,
    dtype: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write config.json (with its door), shards and index into `folder`, which must exist.

    `dtype` None keeps the one of `cfg`; float32 tensors of the spec stay float32.
    """
    folder = Path(folder)
    state = model.state_dict() if isinstance(model, Ling) else model
    target = DTYPES[dtype or cfg.dtype]
    cfg = cfg.replace(dtype=dtype or cfg.dtype)
    specs = tensor_specs(cfg)
    sizes = {
        name: (4 if spec.float32 else target.itemsize) * math.prod(spec.shape)
        for name, spec in specs.items()
    }
    shards = plan_shards(sizes, max_shard_bytes)
    weight_map, total = {}, 0
    for i, names in enumerate(shards, 1):
        file = shard_name(i, len(shards))
        wanted = set(names)
        tensors = {
            # Slices of a stack share memory, which safetensors refuses: copy out.
            name: t.to(torch.float32 if specs[name].float32 else target).clone(
                memory_format=torch.contiguous_format
            )
            for name, t in model_tensors(state, cfg)
            if name in wanted
        }
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, file))
        total += sum(t.nbytes for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    write_config(cfg, folder)
