"""Weights and a text for the GGUF tests."""

from __future__ import annotations

import torch
from torch import Tensor

from ling.config.model import ModelConfig
from ling.model.ling import from_config
from ling.model.names import module_tensor, tensor_specs

WORDS = "def add(first, second):\n    return first + second\n\n\nprint(add(12, 30))  # 中文\n"


def named_tensors(cfg: ModelConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random weights under Hugging Face names; the expert bias is not zero."""
    torch.manual_seed(0)
    state = from_config(cfg, seed=0).state_dict()
    found = {}
    for name, spec in tensor_specs(cfg).items():
        tensor, keep = module_tensor(state, name), spec.float32
        found[name] = torch.randn_like(tensor) if keep else tensor.to(dtype)
    return found
