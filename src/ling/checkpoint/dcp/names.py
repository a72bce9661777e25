"""Keys of our own checkpoints: the module's names under `model.`."""

from __future__ import annotations

from ...config.model import ModelConfig
from ...model.names import in_module, tensor_specs
from ..slices import Slice, of_stack

MODEL_PREFIX = "model."


def dcp_slices(cfg: ModelConfig) -> dict[str, Slice]:
    """Where every tensor of `tensor_specs(cfg)` is, by Hugging Face name."""
    slices = {}
    for name, spec in tensor_specs(cfg).items():
        key, expert = in_module(name)
        slices[name] = of_stack(MODEL_PREFIX + key, expert, cfg.num_experts, spec.shape)
    return slices
