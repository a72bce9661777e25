"""Linear layers and experts whose products are FP8, over the parameters of those they replace."""

from __future__ import annotations

from torch import Tensor, nn

from ...model.layers import Linear
from ...ops.experts import Groups
from . import products as fp8
from .products import Products
from .weights import KeptWeight


class Fp8Linear(Linear):
    """`Linear` with an FP8 product; a bias is added in the activations' dtype."""

    def __init__(self, base: Linear, products: Products) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.products = products
        self.kept_weights = (KeptWeight(products.scales),)

    def forward(self, input: Tensor) -> Tensor:  # the name is torch's
        rows_MK, (kept,) = input.flatten(0, -2), self.kept_weights
        y_MN = fp8.Linear.apply(rows_MK, self.weight, kept.of(self.weight), self.products)
        y = y_MN.unflatten(0, input.shape[:-1])
        return y if self.bias is None else y + self.bias.to(y.dtype)


class Fp8SwiGLU(nn.Module):
    """What `Experts.multiply` is replaced by; it has no parameters of its own."""

    def __init__(self, products: Products) -> None:
        super().__init__()
        self.products = products
        self.kept_weights = (KeptWeight(products.scales), KeptWeight(products.scales))

    def forward(
        self, x_RD: Tensor, groups: Groups, gate_EFD: Tensor, up_EFD: Tensor, down_EDF: Tensor
    ) -> Tensor:
        gate_up, down = self.kept_weights
        weights = gate_up.of(gate_EFD, up_EFD), down.of(down_EDF)
        return fp8.SwiGLU.apply(x_RD, groups, gate_EFD, up_EFD, down_EDF, *weights, self.products)
