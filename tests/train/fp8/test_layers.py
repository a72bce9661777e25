"""FP8 layers take the place of those they are made from."""

from __future__ import annotations

import torch

from ling.model.layers import Linear
from ling.ops import fp8_tiles
from ling.train.fp8.backend import choose
from ling.train.fp8.layers import Fp8Linear


def test_a_linear_layer_has_the_parameters_and_the_bias_of_its_base(normal):
    base = Linear(48, 32)
    layer = Fp8Linear(base, choose("power-of-two"))
    assert layer.weight is base.weight
    assert (layer.in_features, layer.out_features) == (48, 32)
    x = normal(2, 5, 48)
    w = fp8_tiles.widened_blocks(*fp8_tiles.quantise_blocks(base.weight.detach()))
    y = fp8_tiles.rounded_rows(x.flatten(0, 1)) @ w.t() + base.bias.bfloat16()
    assert torch.equal(layer(x), y.view(2, 5, 32))
    layer(x).sum().backward()
    assert base.bias.grad.shape == (32,)
