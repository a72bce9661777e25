"""The tensors of a Hugging Face folder held against a configuration, FP8 ones with their scales."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from ...config.model import ModelConfig
from ...errors import CheckpointError
from ...model.names import TensorSpec, tensor_specs
from ...ops.formats import FP8_BLOCK
from ...ops.fp8 import dequantise_fp8_block
from ...text import shown
from ..checks import check_dtype, check_shape
from ..dtypes import DTYPES
from ..stored import HEAD
from .folder import SafetensorsFolder

SCALE = "_scale_inv"
"""Suffix of an FP8 tensor's scales (docs/concepts/model.md#fp8)."""


def check_names(cfg: ModelConfig, source: SafetensorsFolder) -> None:
    """Every tensor present, none left over, all of a shape and type that the model can take.

    Reads headers only. `CheckpointError` names the first tensor that is wrong.
    """
    specs = tensor_specs(cfg)
    missing = [n for n in specs if n not in source]
    if missing:
        tied = missing == [HEAD]
        hint = "; if the head is the embedding, set `tie_word_embeddings` to true" if tied else ""
        raise CheckpointError(
            f"{source.folder}: tensor `{missing[0]}` is missing ({len(missing)} in all){hint}"
        )
    for name, spec in specs.items():
        _check_tensor(source, name, spec)
    scales = {n + SCALE for n in specs if source.dtype(n) == torch.float8_e4m3fn}
    # A head that is stored although it is tied has the embedding's values (`as_stored`).
    known = {*specs, *scales, *([HEAD] if cfg.tie_word_embeddings else [])}
    extra = sorted(n for n in source.weight_map if n not in known and not n.endswith("inv_freq"))
    if extra:
        raise CheckpointError(
            f"{source.folder}: unexpected tensor {shown(extra[0])} ({len(extra)} in all); "
            "does config.json belong to these weights?"
        )


def _check_tensor(source: SafetensorsFolder, name: str, spec: TensorSpec) -> None:
    where = source.path(name)
    check_shape(where, name, source.shape(name), spec.shape)
    dtype = source.dtype(name)
    if dtype == torch.float8_e4m3fn and len(spec.shape) == 2 and not spec.float32:
        scales = name + SCALE
        if scales not in source:
            raise CheckpointError(
                f"{where}: tensor `{name}` is FP8, but its scales `{scales}` are missing"
            )
        blocks = [-(-n // FP8_BLOCK) for n in spec.shape]
        check_shape(source.path(scales), scales, source.shape(scales), blocks)
        check_dtype(source.path(scales), scales, source.dtype(scales), {torch.float32})
    else:
        check_dtype(where, name, dtype, DTYPES.values())


def has_fp8(source: SafetensorsFolder) -> bool:
    """Whether a folder has FP8 tensors."""
    return any(source.dtype(name) == torch.float8_e4m3fn for name in source.weight_map)


def float_tensor(source: SafetensorsFolder, name: str) -> Tensor:
    """A tensor that `check_names` let pass: as stored, or float32 where FP8 is stored.

    Errors as `fp8_scales`.
    """
    if source.dtype(name) != torch.float8_e4m3fn:
        return source.tensor(name)
    return dequantise_fp8_block(*fp8_tensor(source, name), FP8_BLOCK)


def fp8_tensor(source: SafetensorsFolder, name: str) -> tuple[Tensor, Tensor]:
    """Values and block scales of a tensor stored in FP8 that `check_names` let pass.

    Errors as `fp8_scales`.
    """
    return source.tensor(name), fp8_scales(source, name)


def fp8_scales(source: SafetensorsFolder, name: str) -> Tensor:
    """Scales of an FP8 tensor; `CheckpointError` for one that is not a finite number above 0."""
    scale = source.tensor(name + SCALE)
    if not bool((scale.isfinite() & (scale > 0)).all()):
        raise CheckpointError(
            f"{source.path(name)}: tensor `{name}{SCALE}` holds a scale that is not a finite "
            "number above 0"
        )
    return scale


LAYER = re.compile(r"model\.layers\.([0-9]{1,9})\.(.*)")
