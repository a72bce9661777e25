"""Modules of a network over frozen packed weights, in place of those with parameters.

They differentiate their input only, and have no weights until `load_packed`. What they hold is no
parameter: it is in no checkpoint of a run, is not spread over ranks, and may lie in a mapped file.
Legend: T tokens · D hidden · V
vocabulary · K inputs and N outputs.
"""

from __future__ import annotations

from torch import Tensor, nn

from ...model.layers import Linear
from ...model.moe import Experts
from ...ops import packed_products
from ...ops.experts import Groups
from ...ops.formats import EMBEDDING_INT8
from ...ops.grouped_lora import FrozenExperts, swiglu
from ...ops.packing import Packed

ROW_BLOCK = 16


class PackedLinear(nn.Module):
    """A `Linear` over a packed matrix; a bias stays a parameter under its name."""

    w: Packed

    def __init__(self, base: Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.bias = base.bias

    def forward(self, x_TK: Tensor) -> Tensor:
        y_TN = packed_products.linear(x_TK, self.w)
        return y_TN if self.bias is None else y_TN + self.bias.to(y_TN.dtype)

    @property
    def products(self) -> packed_products.PackedHead:
        """For the loss, where this is the head."""
        return packed_products.PackedHead(self.w)

    def frozen_matrices(self) -> list[tuple[str, int, int]]:
        """For the table of what is trained."""
        return [("weight", 1, self.in_features * self.out_features)]


class PackedExperts(Experts):
    """A layer's `Experts` over two packed stacks."""

    weights: packed_products.PackedExperts
    # Products of integers take any number of rows; what rows of 64 save others in compiled kernels
    # is less than what the padding costs here.
    row_block = staticmethod(lambda num_rows, num_experts: ROW_BLOCK)

    def __init__(self, base: Experts) -> None:
        nn.Module.__init__(self)
        self.shape, self.pad_routing = base.down_proj.shape, base.pad_routing
        # Functions that find the weights when they are called.
        self.multiply, self.frozen = self._multiply, self._frozen

    @property
    def num_own(self) -> int:
        """All: they are not spread over ranks."""
        return self.shape[0]

    def _frozen(self) -> FrozenExperts:
        return self.weights

    def _multiply(self, x_RD: Tensor, groups: Groups) -> Tensor:
        return swiglu(x_RD, groups, self.weights, None)

    def frozen_matrices(self) -> list[tuple[str, int, int]]:
        """For the table of what is trained."""
        size = self.shape.numel()
        return [(name, self.num_own, size) for name in ("gate_proj", "up_proj", "down_proj")]


class PackedEmbedding(nn.Module):
    """Rows of a frozen embedding: bfloat16 [V, D], or int8 [V, D] with scales by groups."""

    q_VD: Tensor
    scales: Tensor | None

    def __init__(self, base: nn.Embedding) -> None:
        super().__init__()
        self.size = base.weight.numel()

    def forward(self, tokens_T: Tensor) -> Tensor:
        """float32, as the native engine has them."""
        rows = self.q_VD[tokens_T].float()
        if self.scales is None:
            return rows
        scales = self.scales[tokens_T].float()[..., None]
        return (rows.unflatten(-1, (-1, EMBEDDING_INT8.group)) * scales).flatten(-2)

    def frozen_matrices(self) -> list[tuple[str, int, int]]:
        """For the table of what is trained."""
        return [("weight", 1, self.size)]
