"""Random adapters."""

from __future__ import annotations

import torch
from torch import Tensor

from ling.config.model import ModelConfig
from ling.model.adapter import KINDS, Adapter, LowRank, adapter_targets
from ling.model.ling import Ling


def random_adapter(
    cfg: ModelConfig, seed: int, *, ranks: dict[str, int] | None = None, size: float = 1.0
) -> Adapter:
    """Low-rank matrices of ordinary weights' size; `ranks` of each kind, others have none."""
    generator = torch.Generator().manual_seed(seed)
    ranks = dict.fromkeys(KINDS, 4) if ranks is None else ranks
    matrices = {}
    for name, target in adapter_targets(cfg).items():
        if rank := ranks.get(target.kind, 0):
            stack = (target.experts,) if target.experts else ()
            a = _normal((*stack, rank, target.in_features), generator) / target.in_features**0.5
            b = _normal((*stack, target.out_features, rank), generator) / rank**0.5
            matrices[name] = LowRank(a, b * size, 0.5)
    return Adapter(matrices)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Values that bfloat16 has, so that no engine rounds them."""
    return torch.randn(shape, generator=generator).bfloat16().float()


@torch.no_grad()
def merge(model: Ling, adapter: Adapter) -> Ling:
    """The same model with an adapter in its weights."""
    for name, (a, b, scale) in adapter.matrices.items():
        module = model.get_submodule(name.rpartition(".")[0])
        stacked = a.ndim == 3
        weight = getattr(module, name.rpartition(".")[2])
        (weight if stacked else weight.weight).add_(scale * (b @ a))
    return model
