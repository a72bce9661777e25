"""Products with packed weights and their gradients, against those of the unpacked ones."""

from __future__ import annotations

import pytest
import torch

from ling.ops import kernels, packed_products, packing
from ling.ops.formats import FORMATS
from ling.ops.grouped_lora import FloatExperts
from ling.ops.packed_products import PackedExperts, PackedHead
from ling.ops.packing import Packed, interleave

ALL = pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
# An expert without rows first, in the middle and last.
GROUPS = [0, 0, 3, 20, 20, 21, 21]
E, D, F = 6, 128, 32


def close(got, want, dtype):
    assert got.dtype == dtype
    error = (got.float() - want.float()).norm() / want.float().norm()
    assert error < (1e-5 if dtype == torch.float32 else 0.01)


@ALL
@DTYPES
def test_a_product_is_that_of_inference_and_its_gradient_that_of_the_unpacked_matrix(fmt, dtype):
    w = kernels.packed(torch.randn(48, 96), fmt)
    x = torch.randn(5, 96).to(dtype).requires_grad_()
    y = packed_products.linear(x, w)
    assert torch.equal(y, kernels.matmul(w, x.detach().float()).to(dtype))
    dy = torch.randn(5, 48).to(dtype)
    (dx,) = torch.autograd.grad(y, x, dy)
    close(dx, dy.float() @ packing.unpack(w), dtype)


@DTYPES
def test_a_large_matrix_is_unpacked_in_parts(monkeypatch, dtype):
    w, dy = kernels.packed(torch.randn(100, 64), FORMATS["int4"]), torch.randn(3, 100).to(dtype)
    want = dy.float() @ packing.unpack(w)
    monkeypatch.setattr(packed_products, "ROWS_AT_A_TIME", 48)
    sizes, real = [], packed_products.unpacked

    def record(part, dtype):
        sizes.append(part.rows)
        return real(part, dtype)

    monkeypatch.setattr(packed_products, "unpacked", record)
    close(PackedHead(w).dx(dy), want, dtype)
    assert sizes == [48, 48, 4]


def stack(w_ENK, fmt):
    out = packing.empty(fmt, *w_ENK.shape[1:], len(w_ENK))
    for e, w_NK in enumerate(w_ENK):
        kernels.pack([w_NK], out[e])
    return out


def unpacked_stack(p: Packed):
    return torch.stack([packing.unpack(p[e]) for e in range(len(p.data))])


@ALL
@DTYPES
def test_experts_are_those_of_the_unpacked_stacks(monkeypatch, fmt, dtype):
    gate, up = torch.randn(E, F, D), torch.randn(E, F, D)
    both = stack(torch.stack([interleave(*pair) for pair in zip(gate, up, strict=True)]), fmt)
    packed = PackedExperts(both, stack(torch.randn(E, D, F), fmt))
    parts = [packing.separate(w) for w in unpacked_stack(both)]
    gate, up = (torch.stack(side) for side in zip(*parts, strict=True))
    plain = FloatExperts(gate, up, unpacked_stack(packed.down_DF))
    for name, width in (("gate_up", D), ("gate_up_dx", 2 * F), ("down", F), ("down_dx", D)):
        rows = torch.randn(21, width).to(dtype)
        got, want = (getattr(p, name)(rows, GROUPS) for p in (packed, plain))
        if name.endswith("dx"):
            close(got, want, dtype)
        else:  # activations have 8 bits there
            assert (got - want).norm() < 0.02 * want.norm()
            assert got.dtype == dtype


def test_rows_of_experts_are_those_of_inference():
    fmt = FORMATS["int4"]
    packed = PackedExperts(stack(torch.randn(E, 2 * F, D), fmt), stack(torch.randn(E, D, F), fmt))
    h = torch.randn(21, F)
    y = packed.down(h, GROUPS)
    for e, rows in ((1, slice(0, 3)), (2, slice(3, 20)), (4, slice(20, 21))):
        assert torch.equal(y[rows], kernels.matmul(packed.down_DF[e], h[rows]))
