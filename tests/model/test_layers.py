from __future__ import annotations

import torch

from ling.model.layers import Linear, RMSNorm


def test_linear_computes_in_the_dtype_of_its_input():
    layer = Linear(8, 4)
    x = torch.randn(3, 8)
    want = x.double() @ layer.weight.double().T + layer.bias.double()
    torch.testing.assert_close(layer(x).double(), want, atol=1e-6, rtol=1e-5)
    half = layer(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), want, atol=0.05, rtol=0.02)
    half.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32


def test_norm_has_unit_mean_square_times_its_weight():
    norm = RMSNorm(16, 1e-6)
    x = 100 * torch.randn(5, 16)
    torch.testing.assert_close(norm(x).square().mean(-1), torch.ones(5))
    with torch.no_grad():
        norm.weight.copy_(torch.arange(16.0))
    want = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(norm(x).double(), want * torch.arange(16), atol=1e-5, rtol=1e-5)
    assert (norm(torch.zeros(1, 16)) == 0).all()
    assert norm(x.bfloat16()).dtype == torch.bfloat16
