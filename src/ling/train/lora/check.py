"""After the first step: whether every adapter learns.

B is zero at first, so A has no gradient yet; B has one wherever a trained token came through.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...checkpoint.dcp.local import mesh_of
from ...model.ling import Ling

_SHOWN = 4


@torch.no_grad()
def silent_adapters(ling: Ling, counts: Mapping[int, Tensor]) -> tuple[list[str], int]:
    """(names of adapters whose B has no gradient, experts that no token of the step chose).

    Of a stack an expert counts, as `<stack>[expert]`, if it had tokens: `counts` are those of each
    expert by layer, of the whole step. All ranks call this, before gradients are cleared.
    """
    silent, idle = [], 0
    for name, p in ling.named_parameters():
        if not name.endswith("lora_B"):
            continue
        if p.ndim == 2:
            silent += [] if _moves(p.grad)[0] else [name[: -len(".lora_B")]]
            continue
        used_E = counts[int(name.split(".")[2])].cpu() > 0
        moves_E = torch.tensor(_moves(p.grad)) if p.grad is not None else torch.zeros(len(used_E))
        stack = name[: -len("_lora_B")]
        silent += [f"{stack}[{e}]" for e in (used_E & ~moves_E.bool()).nonzero().flatten().tolist()]
        idle += int((~used_E).sum()) if stack.endswith("gate_proj") else 0
    return silent, idle


def _moves(grad: Any) -> list[bool]:
    """Whether a gradient is not zero; of a stack's for each expert. Ranks add up their parts."""
    if grad is None:
        return [False]
    whole: Tensor = grad if mesh_of(grad) is None else grad.full_tensor()
    per_matrix = whole if whole.ndim == 3 else whole[None]
    found: list[bool] = per_matrix.flatten(1).any(1).tolist()
    return found


def lines(silent: list[str], idle: int) -> list[str]:
    """What to tell of it."""
    found = []
    if silent:
        names = ", ".join(silent[:_SHOWN]) + (", …" if len(silent) > _SHOWN else "")
        found.append(
            f"warning: {len(silent)} adapters have no gradient after the first step and will stay "
            f"as they are: {names}"
        )
    if idle:
        found.append(f"{idle} experts had no token in the first step (that is no fault)")
    return found
