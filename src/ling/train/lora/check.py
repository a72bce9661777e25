"""After the first step: whether every adapter learns.

B is zero at first, so A has no gradient yet; B has one wherever a trained token came through.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...checkpoint.dcp.local import mesh_of
from ...model.ling import Ling

_SHOWN = 4


@dataclass
class FirstStep:
    """`silent`: adapters whose B has no gradient; `idle`: experts that no token chose, by layer."""

    silent: list[str] = field(default_factory=list)
    idle: dict[int, int] = field(default_factory=dict)

    @torch.no_grad()
    def look(self, ling: Ling, counts: Mapping[int, Tensor]) -> None:
        """Before gradients are cleared; all ranks call this, each for the layers that it has.

        Of a stack an expert is silent, as `<stack>[expert]`, if it had tokens: `counts` are those
        of each expert by layer, of the whole step.
        """
        for name, p in ling.named_parameters():
            if name.endswith(".lora_B"):
                self.silent += [] if _moves(p)[0] else [name[: -len(".lora_B")]]
            elif name.endswith("_lora_B"):
                layer, stack = int(name.split(".")[2]), name[: -len("_lora_B")]
                used_E, moves_E = counts[layer].cpu() > 0, torch.tensor(_moves(p))
                still = (used_E & ~moves_E).nonzero().flatten().tolist()
                self.silent += [f"{stack}[{e}]" for e in still]
                self.idle[layer] = int((~used_E).sum())


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
        text.append(f"{idle} experts had no token in the first step (that is no fault)")
    return text


def _moves(p: Any) -> list[bool]:
    """Whether a gradient is not zero; of a stack's for each expert. Ranks add up their parts."""
    stack = p.ndim == 3
    if p.grad is None:
        return [False] * (len(p) if stack else 1)
    whole: Tensor = p.grad if mesh_of(p.grad) is None else p.grad.full_tensor()
    found: list[bool] = (whole if stack else whole[None]).flatten(1).any(1).tolist()
    return found
