"""A module written as a Hugging Face folder, one tensor at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ...config.model import ModelConfig
from ...model.ling import Ling
from ...model.names import module_tensor
from ..dtypes import DTYPES
from ..sink import SinkOptions
from .layouts import PlainLayout
from .sink import SafetensorsSink


def save_model(
    model: Ling | Mapping[str, Tensor],
    cfg: ModelConfig,
    folder: str | Path,
    *,
    dtype: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write config.json (with its `auto_map` files), shards and index into `folder`, which must
    exist and have none of them.

    `dtype` None keeps the one of `cfg`; float32 tensors of the spec stay float32.
    """
    state = model.state_dict() if isinstance(model, Ling) else model
    layout = PlainLayout(DTYPES[dtype or cfg.dtype])
    options = SinkOptions(max_shard_bytes=max_shard_bytes)
    sink = SafetensorsSink(Path(folder), cfg, layout, options)
    for name in sink.names:
        sink.put(name, module_tensor(state, name).cpu())
    sink.finish()
