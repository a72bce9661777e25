from __future__ import annotations

import pytest
import torch

from ling.config.sft import LoRAConfig
from ling.model.ling import from_config
from ling.presets import preset
from ling.train.forward import LingForTraining
from ling.train.lora.rule import add_adapters, start_adapters

LORA = LoRAConfig(rank=4, expert_rank=2, alpha=8.0)


@pytest.fixture
def made():
    """A function that makes a small network with adapters, of which nothing is zero if asked."""

    def make(lora=LORA, *, grown=False, dtype=None, seed=0):
        ling = from_config(preset("ling-tiny"), seed=seed)
        ling.compute_dtype = dtype
        add_adapters(ling, lora)
        start_adapters(ling, seed)
        if grown:
            grow(ling)
        return LingForTraining(ling)

    return make


@torch.no_grad()
def grow(ling, seed=1):
    """Values that training could have given to B."""
    made = torch.Generator().manual_seed(seed)
    for name, p in ling.named_parameters():
        if name.endswith("lora_B"):
            p.copy_(torch.randn(p.shape, generator=made) * 0.05)
