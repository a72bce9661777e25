"""After the first step: whether every adapter learns.

B is zero at first, so A has no gradient yet; B has one wherever a trained token came through.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...checkpoint.dcp.local import mesh_of
from ...model.ling import Ling

_SHOWN = 4


@dataclass
class FirstStep:
    """`silent`: adapters whose B has no gradient; `idle`: experts that no trained token came
    through, by layer.
    """

    silent: list[str] = field(default_factory=list)
    idle: dict[int, int] = field(default_factory=dict)

    @torch.no_grad()
    def look(self, ling: Ling) -> None:
        """Before gradients are cleared; all ranks call this, each for the layers that it has."""
        stacks: dict[int, dict[str, Tensor]] = {}
        for name, p in ling.named_parameters():
            if name.endswith(".lora_B"):
                self.silent += [] if bool(_moves_E(p)) else [name[: -len(".lora_B")]]
            elif name.endswith("_lora_B"):
                stack = name[: -len("_lora_B")]
                stacks.setdefault(int(name.split(".")[2]), {})[stack] = _moves_E(p)
        for layer, moves in stacks.items():
            self._look_at_experts(layer, moves)

    def _look_at_experts(self, layer: int, moves: dict[str, Tensor]) -> None:
        """A token moves all three matrices of an expert, or none: not one that is not trained
        itself and that no trained one attends to."""
        used_E = torch.stack(list(moves.values())).any(0)
        self.idle[layer] = int((~used_E).sum())
        if not used_E.any():
            self.silent += list(moves)
        for stack, moves_E in moves.items():
            still = (used_E & ~moves_E).nonzero().flatten().tolist()
            self.silent += [f"{stack}[{e}]" for e in still]


def lines(ranks: Iterable[FirstStep]) -> list[str]:
    """What to tell of it, from what all ranks have seen."""
    silent: dict[str, None] = {}
    layers: dict[int, int] = {}
    for found in ranks:
        silent |= dict.fromkeys(found.silent)
        layers |= found.idle
    text, idle = [], sum(layers.values())
    if silent:
        names = ", ".join(list(silent)[:_SHOWN]) + (", …" if len(silent) > _SHOWN else "")
        text.append(
            f"warning: {len(silent)} adapters have no gradient after the first step and stay as "
            f"they are: {names}"
        )
    if idle:
        text.append(f"{idle} experts had no trained token in the first step (that is no fault)")
    return text


def _moves_E(p: Any) -> Tensor:
    """Whether a gradient is not zero, of a stack's for each expert. Ranks add up their parts."""
    dims = tuple(range(p.ndim - 2, p.ndim))
    if p.grad is None:
        return torch.zeros(p.shape[:-2], dtype=torch.bool)
    whole: Tensor = p.grad if mesh_of(p.grad) is None else p.grad.full_tensor()
    return (whole != 0).any(dims).cpu()
