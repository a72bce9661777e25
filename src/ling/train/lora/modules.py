"""Linear layers and experts with low-rank adapters, over the parameters of those they replace.

y = W·x + scale · B·(A·x). A and B are float32 and cast at use; W is frozen, whatever it is stored
in. Legend: T tokens · K inputs · N outputs · r rank · E experts · R rows, sorted by expert.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...model.moe import Experts
from ...ops import grouped_lora, products
from ...ops.experts import Groups
from ...ops.grouped_lora import FrozenExperts, LowRankExperts
from ..noise import Dropout

MATRICES = ("gate_proj", "up_proj", "down_proj")
"""Of a layer's experts, in the order of `LowRankExperts`."""


class LoRALinear(nn.Module):
    """A frozen linear layer with an adapter: `base`'s parameters under their names, `lora_A` [r, K]
    and `lora_B` [N, r].

    `base` is a `Linear`, or another module with its sizes that differentiates its input only.
    """

    is_on = True

    def __init__(self, base: Any, rank: int, scale: float, dropout: Dropout | None = None) -> None:
        super().__init__()
        # The tables themselves, so that `base` computes with what sharding and loading put there;
        # as a submodule it would give its parameters other names.
        self._parameters, self._buffers = base._parameters, base._buffers
        self._base = (base,)
        self.scale, self.dropout = scale, dropout
        n, k, device = base.out_features, base.in_features, _device(base)
        self.lora_A, self.lora_B = _matrix(device, rank, k), _matrix(device, n, rank)

    @property
    def base(self) -> Any:
        """What is frozen."""
        return self._base[0]

    def forward(self, x_TK: Tensor) -> Tensor:
        y_TN: Tensor = self.base(x_TK)
        if not self.is_on:
            return y_TN
        seen_TK = x_TK if self.dropout is None else self.dropout(x_TK)
        a_Tr = products.linear(seen_TK, self.lora_A)
        b_Nr = self.lora_B.to(x_TK.dtype)
        if products.widens(x_TK):
            return y_TN.add(products.linear(a_Tr, b_Nr), alpha=self.scale)
        return torch.addmm(y_TN, a_Tr, b_Nr.t(), alpha=self.scale)


class LoRAExperts(Experts):
    """A layer's frozen experts with adapters: `base`'s parameters under their names, and of each
    matrix `<matrix>_lora_A` [E, r, K] and `<matrix>_lora_B` [E, N, r].

    `frozen` of `base` makes the products of its parameters.
    """

    def __init__(self, base: Experts, shapes: dict[str, tuple[int, int]], rank: int, scale: float):
        nn.Module.__init__(self)
        self._parameters, self._buffers = base._parameters, base._buffers
        self._base, num_experts = (base,), base.num_own
        self.pad_routing, self.row_block = base.pad_routing, base.row_block
        device = _device(base)
        for matrix in MATRICES:
            n, k = shapes[matrix]
            self.register_parameter(f"{matrix}_lora_A", _matrix(device, num_experts, rank, k))
            self.register_parameter(f"{matrix}_lora_B", _matrix(device, num_experts, n, rank))
        self.multiply = LowRankProducts(base.frozen, scale)

    @property
    def base(self) -> Experts:
        """What is frozen."""
        return self._base[0]

    @property
    def num_own(self) -> int:
        """How many experts are here."""
        return len(self.get_parameter("gate_proj_lora_A"))


class LowRankProducts:
    """What `Experts.multiply` is replaced by: the frozen parameters come first, adapters last."""

    is_on = True

    def __init__(self, frozen: Callable[..., FrozenExperts], scale: float) -> None:
        self.frozen, self.scale = frozen, scale

    def __call__(self, x_RD: Tensor, groups: Groups, *weights: Tensor) -> Tensor:
        count = len(LowRankExperts._fields)
        low_rank = LowRankExperts(*weights[-count:]) if self.is_on else None
        base = self.frozen(*weights[:-count])
        return grouped_lora.swiglu(x_RD, groups, base, low_rank, self.scale)


def _device(base: nn.Module) -> torch.device:
    """Where its tensors are: nowhere, in a network that is yet to be spread over ranks."""
    tensors = itertools.chain(base.parameters(recurse=False), base.buffers(recurse=False))
    return next((t.device for t in tensors), torch.device("cpu"))


def _matrix(device: torch.device, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, device=device))
