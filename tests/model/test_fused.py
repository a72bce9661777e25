from __future__ import annotations

import pytest
import torch

from ling.config.model import ModelConfig
from ling.model import fused
from ling.model.rope import inverse_frequencies, rotary_tables
from ling.ops import reference
from ling.presets import preset


def tables(positions, dtype):
    cfg: ModelConfig = preset("ling-tiny")
    freq, _ = inverse_frequencies(cfg)
    # A factor other than 1, as under YaRN: the rotated part then also grows.
    return rotary_tables(freq, 1.1, torch.arange(positions), dtype)


CASES = {
    "rms_norm": lambda ops, x, w: ops.rms_norm(x, w, 1e-6),
    "rotate": lambda ops, x, w: ops.rotate(x, *tables(x.shape[0], x.dtype)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_forward_is_the_reference_bit_for_bit(name, dtype):
    # A slice of a wider tensor, as the query heads are of the fused projection.
    x = torch.randn(9, 5, 32, generator=torch.Generator().manual_seed(0)).to(dtype)[:, 1:4]
    w = torch.rand(32, generator=torch.Generator().manual_seed(1)) + 0.5
    want = CASES[name](reference, x, w)
    assert torch.equal(CASES[name](fused, x, w), want)
    got = CASES[name](fused, x.requires_grad_(), w.requires_grad_())
    assert got.requires_grad
    assert torch.equal(got, want)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_autograd_in_float32(name, dtype, tolerance):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(9, 3, 32, generator=generator).to(dtype)
    w = torch.rand(32, generator=generator) + 0.5
    dy = torch.randn(9, 3, 32, generator=generator).to(dtype)
    grads = []
    for ops, given, d in ((fused, x, dy), (reference, x.float(), dy.float())):
        leaves = [given.clone().requires_grad_(), w.clone().requires_grad_()]
        CASES[name](ops, *leaves).backward(d)
        grads.append([leaf.grad for leaf in leaves if leaf.grad is not None])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a.float(), b, atol=tolerance, rtol=tolerance)
