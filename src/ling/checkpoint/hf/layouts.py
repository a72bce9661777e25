"""How a safetensors folder stores a tensor: in one dtype, or in FP8 blocks with scales."""

from __future__ import annotations

import re
from typing import Any, Protocol

import torch
from torch import Tensor

from ...config.model import ModelConfig
from ...model.names import TensorSpec
from ...ops.formats import FP8_BLOCK
from ...ops.fp8 import quantise_fp8_block
from ..raw.shards import Stored
from ..sink import cast, check_finite
from .names import SCALE

_FP8 = re.compile(
    r".*\.(attention\.(query_key_value|dense)|mlp\.(|shared_experts\.|experts\.\d+\.)"
    r"(gate|up|down)_proj)\.weight"
)
_POWER_OF_TWO = re.compile(r".*\.(attention\.dense|mlp\.experts\.\d+\.(gate|up)_proj)\.weight")
FP8_CONFIG = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
}


class Layout(Protocol):
    """What is stored for a tensor: names, dtypes and shapes first, the values later."""

    def stored(self, name: str, spec: TensorSpec) -> dict[str, Stored]:
        """What is written for the tensor `name`, by name on disk."""
        ...

    def encode(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        """The values for what `stored` announced."""
        ...

    def config_json(self, cfg: ModelConfig) -> dict[str, Any]:
        """The object for config.json."""
        ...


class PlainLayout:
    """One floating-point dtype; what never leaves float32 (`TensorSpec.float32`) stays."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def stored(self, name: str, spec: TensorSpec) -> dict[str, Stored]:
        return {name: Stored(torch.float32 if spec.float32 else self.dtype, spec.shape)}

    def encode(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        keep = name.endswith(".expert_bias")
        return {name: cast(name, tensor, torch.float32 if keep else self.dtype)}

    def config_json(self, cfg: ModelConfig) -> dict[str, Any]:
        return cfg.replace(dtype=str(self.dtype).removeprefix("torch.")).to_dict()


class FP8Layout(PlainLayout):
    """Attention and MLP matrices in FP8 blocks, the rest in one dtype (docs/concepts/model.md#fp8).

    `expert gate` and `up` and `attention.dense` have power-of-two scales, as released.
    """

    def stored(self, name: str, spec: TensorSpec) -> dict[str, Stored]:
        if not _FP8.fullmatch(name):
            return super().stored(name, spec)
        blocks = tuple(-(-n // FP8_BLOCK) for n in spec.shape)
        return {
            name: Stored(torch.float8_e4m3fn, spec.shape),
            name + SCALE: Stored(torch.float32, blocks),
        }

    def encode(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        if not _FP8.fullmatch(name):
            return super().encode(name, tensor)
        power_of_two = _POWER_OF_TWO.fullmatch(name) is not None
        values, scales = quantise_fp8_block(tensor, power_of_two=power_of_two)
        check_finite(name, scales, "FP8")
        return {name: values, name + SCALE: scales}

    def config_json(self, cfg: ModelConfig) -> dict[str, Any]:
        return {**super().config_json(cfg), "quantization_config": FP8_CONFIG}
