"""The optimizer of a recipe and its parameter groups."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.dcp.local import mesh_of
from ..config.optim import OptimConfig
from ..errors import RunError
from ..model.ling import Ling
from .adam8 import AdamW8bit


def build_optimizer(model: Ling, cfg: OptimConfig) -> torch.optim.Optimizer:
    """`optim.name`; vectors (norms, biases) are not decayed, as in Megatron-LM.

    A call of the fused kernel of `adamw` takes parameters of one mesh, so each has its own groups.
    """
    params = [p for p in model.parameters() if p.requires_grad]
    meshes = {mesh_of(p): None for p in params}
    groups = [
        {
            "params": [p for p in params if _kind(p) == (mesh, matrix)],
            "weight_decay": cfg.weight_decay if matrix else 0.0,
        }
        for mesh, matrix in itertools.product(meshes, (True, False))
    ]
    betas = (cfg.beta1, cfg.beta2)
    if cfg.name == "adamw8bit":
        return AdamW8bit(groups, lr=cfg.lr, betas=betas, eps=cfg.eps)
    return torch.optim.AdamW(groups, lr=cfg.lr, betas=betas, eps=cfg.eps, fused=True)


def _kind(p: Tensor) -> tuple[Any, bool]:
    """The mesh that a parameter is spread over, and whether it is a matrix."""
    return mesh_of(p), p.ndim > 1


def check_strides(params: Iterable[Tensor]) -> None:
    """Raise `RunError` unless every gradient lies in memory as its parameter does.

    torch's fused AdamW on CPUs reads gradients of other strides in the wrong order, silently.
    """
    for p in params:
        if p.grad is not None and p.grad.stride() != p.stride():
            raise RunError(
                f"gradient of a parameter of shape {list(p.shape)} has strides "
                f"{p.grad.stride()} instead of {p.stride()}; please report this"
            )
