"""AdamW, its parameter groups, learning-rate schedules, and WSM merge weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.dcp.local import mesh_of
from ..config.recipe import OptimConfig
from ..errors import RunError, UsageError
from ..model.ling import Ling


def build_optimizer(model: Ling, cfg: OptimConfig) -> torch.optim.AdamW:
    """Fused AdamW; vectors (norms, biases) are not decayed, as in Megatron-LM.

    A call of the fused kernel takes parameters of one mesh, so each has groups of its own.
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
    return torch.optim.AdamW(
        groups, lr=cfg.lr, betas=(cfg.beta1, cfg.beta2), eps=cfg.eps, fused=True
    )


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


def learning_rate(cfg: OptimConfig, step: int, steps: int) -> float:
    """Rate of optimizer step `step` (1-based) of `steps`.

    Linear warm-up to the peak, then a cosine to `lr_min` at the last step, or constant (WSM).
    """
    if step <= cfg.warmup_steps:
        return cfg.lr * step / cfg.warmup_steps
    if cfg.schedule == "constant":
        return cfg.lr
    done = (step - cfg.warmup_steps) / max(steps - cfg.warmup_steps, 1)
    return cfg.lr_min + (cfg.lr - cfg.lr_min) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def merge_weights(k: int, schedule: str) -> list[float]:
    """Weights c_0..c_k of k + 1 checkpoints that act like a decay over the last k intervals.

    c_k = w_k, c_j = w_j - w_(j+1), c_0 = 1 - w_1 for the decay w_1 ≥ ... ≥ w_k.
    Source: WSM (arXiv 2507.17634); docs/concepts/training.md#merge.
    """
    if k < 0:
        raise UsageError(f"cannot merge {k + 1} checkpoints")
    decay = {
        "mean": lambda i: (k + 1 - i) / (k + 1),
        "linear": lambda i: 1 - (i - 1) / k,
        "cosine": lambda i: 0.5 * (1 + math.cos(math.pi * (i - 1) / k)),
        "one-minus-sqrt": lambda i: 1 - math.sqrt((i - 1) / k),
    }
    if schedule not in decay:
        raise UsageError(f"no merge schedule `{schedule}`; there are {', '.join(decay)}")
    w = [1.0, *(decay[schedule](i) for i in range(1, k + 1)), 0.0]
    return [w[j] - w[j + 1] for j in range(k + 1)]
