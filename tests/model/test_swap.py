from __future__ import annotations

import pytest
import torch

from ling.model.ling import from_config
from ling.model.moe import Experts
from ling.model.swap import row_blocks, swap
from ling.presets import preset


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_has_the_same_bits_whoever_shares_the_batch(dtype):
    model = swap(from_config(preset("ling-tiny"), seed=0, dtype=dtype).eval(), row_blocks)
    block = model.model.layers[1]
    x = torch.randn(40, 64, dtype=dtype)
    with torch.no_grad():
        together = block.mlp(x, 1, None)
        for rows in (1, 2, 3, 17):
            assert torch.equal(block.mlp(x[:rows], 1, None), together[:rows])
            want = block.attention.query_key_value(x)[:rows]
            assert torch.equal(block.attention.query_key_value(x[:rows]), want)


def test_a_rule_replaces_the_products_alone():
    class Halved(Experts):
        def products(self, x_RD, offsets):
            return super().products(x_RD, offsets) / 2

    def halve(name, module):
        if isinstance(module, Experts):
            module.__class__ = Halved
        return module

    model = from_config(preset("ling-tiny"), seed=0)
    layer = model.model.layers[1].mlp.experts
    x, ids, w = torch.randn(6, 64), torch.rand(6, 8).topk(2).indices, torch.rand(6, 2)
    before = layer(x, ids, w)
    swap(model, halve)
    assert torch.equal(layer(x, ids, w), before / 2)
