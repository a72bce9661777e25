"""From a checkpoint to a module with its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError, UsageError
from ..hub import resolve_model
from ..model.ling import Ling, to_dtype
from ..model.names import in_module, tensor_specs
from ..text import shown
from .dtypes import DTYPES
from .hf.config import read_config, read_quantization
from .hf.folder import SafetensorsFolder
from .hf.names import (
    check_names,
    float_tensor,
)
from .packed.folder import PackedFolder
from .packed.matrices import unpack_embedding, unpack_matrix
from .packed.names import EMBEDDING, packed_specs


def load_model(model: str | Path, dtype: str | None = None) -> Ling:
    """Load a Hugging Face folder, bf16, float32 or FP8, or download a named model first.

    `dtype` None or "auto" keeps the one of config.json. Names, shapes and types are checked before
    anything is allocated. `expert_bias` is float32 always.
    """
    folder = resolve_model(model)
    cfg = read_config(folder)
    _check_float_storage(folder)
    source = SafetensorsFolder(folder)
    check_names(cfg, source)
    name = cfg.dtype if dtype in (None, "auto") else dtype
    if name not in DTYPES:
        raise UsageError(f"`dtype` is `{dtype}`, expected auto, bfloat16 or float32")
    with torch.device("meta"):
        network = Ling(cfg)
    network = to_dtype(network, DTYPES[name]).to_empty(device="cpu")
    load_tensors(network, source)
    return network.eval()


def _check_float_storage(folder: Path) -> None:
    stored = read_quantization(folder)
    if stored is not None and stored["quant_method"] == "ling":
        raise CheckpointError(
            f"{folder}: holds {shown(stored.get('format'))} weights, which cannot be loaded as "
            "floats; convert the bf16 checkpoint instead"
        )


@torch.no_grad()
def load_tensors(model: Ling, source: SafetensorsFolder) -> None:
    """Fill the module from a folder that `check_names` let pass, casting to the module's dtypes."""
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name in tensor_specs(model.config):
        key, expert = in_module(name)
        target = own[key] if expert is None else own[key][expert]
        if source.dtype(name) == target.dtype:
            source.tensor(name, into=target)
        else:
            target.copy_(float_tensor(source, name))


@torch.no_grad()
def fill_tensors(model: Ling, tensor: Callable[[str], Tensor]) -> None:
    """Fill the module from `tensor(hf_name)`, casting to the module's dtypes."""
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name in tensor_specs(model.config):
        key, expert = in_module(name)
        (own[key] if expert is None else own[key][expert]).copy_(tensor(name))


def unpacked_model(packed: PackedFolder, dtype: torch.dtype | None = None) -> Ling:
    """The module with the values that a packed folder stands for (float32 products of codes)."""
    cfg = packed.config
    values: dict[str, torch.Tensor] = {}
    table, scales = packed.embedding()
    assert scales is not None
    values[f"{EMBEDDING}.weight"] = unpack_embedding(table, scales)
    for spec in packed_specs(cfg).values():
        matrix = packed.matrix(spec)
        for e in range(max(spec.experts, 1)):
            values.update(zip(spec.parts(e), unpack_matrix(spec, matrix, e), strict=True))
    model = Ling(cfg).to(dtype or torch.bfloat16)
    for name, buffer in model.named_buffers():
        if name.endswith("expert_bias"):
            buffer.data = buffer.data.float()
    fill_tensors(model, lambda n: values[n] if n in values else packed.plain(n))
    return model.eval()
