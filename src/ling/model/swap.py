"""Replace modules by rule: one mechanism for LoRA, low precision, sharding and inference."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import experts, products, reference
from .layers import Linear
from .moe import Experts, Router

Rule = Callable[[str, nn.Module], "nn.Module | None"]
ROW_BLOCK = 16


def swap(model: nn.Module, rule: Rule) -> nn.Module:
    """Replace, in place, every submodule for which `rule(name, module)` returns another one.

    Rules match `Linear` and `Experts`: apart from the router, attention's own products and the
    head inside the loss, these two hold every multiplication of training.
    """
    for name, module in list(model.named_modules()):
        new = rule(name, module) if name else None
        if new is not None and new is not module:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, new)
    return model


def row_blocks(name: str, module: nn.Module) -> nn.Module | None:
    """Rule for inference: every product gets rows in multiples of 16.

    PyTorch sums in another order for 1 to 3 rows than for more, so without this a request's
    bits would depend on who shares its batch (tests/model/test_swap.py checks this).
    """
    if isinstance(module, Linear):
        return RowBlockLinear(module)
    if isinstance(module, Router):
        return RowBlockRouter(module)
    if isinstance(module, Experts):
        return RowBlockExperts(module)
    return None


def in_row_blocks(x: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply `product` to `x` padded with zero rows to a multiple of 16; cut back."""
    rows = x.shape[0]
    pad = -rows % ROW_BLOCK
    return product(F.pad(x, (0, 0, 0, pad)))[:rows] if pad else product(x)


class RowBlockLinear(nn.Module):
    """A `Linear` over the same parameters, without gradient, in row blocks."""

    def __init__(self, base: Linear) -> None:
        super().__init__()
        self.weight, self.bias = base.weight, base.bias

    def forward(self, x: Tensor) -> Tensor:
        return in_row_blocks(x, lambda rows: products.linear(rows, self.weight, self.bias))


class RowBlockRouter(Router):
    """A `Router` over the same parameters, its product in row blocks."""

    def __init__(self, base: Router) -> None:
        nn.Module.__init__(self)
        self.weight, self.expert_bias, self.choice = base.weight, base.expert_bias, base.choice
        self.weight_f32 = base.weight.detach().float()

    def logits(self, x_TD: Tensor) -> Tensor:
        return F.linear(x_TD.float(), self.weight_f32)

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # The sigmoid too: what does not fill a vector register goes through another exp.
        T = x_TD.shape[0]
        logits_TE, ids_TA, weights_TA = super().forward(F.pad(x_TD, (0, 0, 0, -T % ROW_BLOCK)))
        return logits_TE[:T], ids_TA[:T], weights_TA[:T]


class RowBlockExperts(nn.Module):
    """`Experts` over the same parameters; each expert's rows in row blocks."""

    def __init__(self, base: Experts) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = base.gate_proj, base.up_proj, base.down_proj

    def forward(self, x_TD: Tensor, ids_TA: Tensor, weights_TA: Tensor) -> Tensor:
        slots = experts.sort_by_expert(ids_TA, self.gate_proj.shape[0], ROW_BLOCK)
        y_RD = self.products(experts.dispatch(x_TD, slots), slots)
        y_TAD = y_RD.index_select(0, slots.slot_N).unflatten(0, ids_TA.shape)
        return (y_TAD.float() * weights_TA[..., None]).sum(1).to(x_TD.dtype)

    def products(self, x_RD: Tensor, slots: experts.Slots) -> Tensor:
        """SwiGLU of each expert on its rows."""
        y_RD = torch.empty_like(x_RD)
        for e, rows in experts.experts_with_rows(slots.offsets):
            weights = (self.gate_proj[e], self.up_proj[e], self.down_proj[e])
            y_RD[rows] = reference.swiglu(x_RD[rows], *weights)
        return y_RD
